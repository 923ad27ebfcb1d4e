//! Who follows a command over connections that are cut: it is the right one, and it is not let go of.

use crate::client::{Proxy, run};
use crate::support::{Place, has_fuse};
use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;
use wsd::client::{Attached, Client, Command, CommandEvent};

/// All that it says, and its exit code.
async fn said(command: &mut Attached) -> (Vec<u8>, Option<i32>) {
    let mut said = Vec::new();
    loop {
        match command.next().await.unwrap().unwrap() {
            CommandEvent::Stdout(bytes) => said.extend_from_slice(&bytes),
            CommandEvent::Exit(exit) => return (said, exit.code),
            other => panic!("{other:?}"),
        }
    }
}

async fn start(client: &Client, id: &str, line: &str) -> Result<Attached, wsd::client::ClientError> {
    client.exec(Command { id: id.to_owned(), ..Command::shell(line) }).await
}

/// When the answer was lost, an older command of the same id was taken for the new one.
#[test]
fn an_older_command_is_not_taken_for_the_one_that_was_started() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    let proxy = Proxy::new(daemon.port);
    run(async {
        let client = proxy.client().await;
        let mut old = start(&client, "mine", "echo old").await.unwrap();
        assert_eq!(said(&mut old).await, (b"old\n".to_vec(), Some(0)));
        for after in (0..1600).step_by(100) {
            proxy.left.store(after, Ordering::SeqCst);
            assert!(start(&client, "mine", "echo new").await.is_err(), "cut after {after}");
            proxy.left.store(after, Ordering::SeqCst);
            let mut new = start(&client, &format!("new{after}"), "echo new").await.unwrap();
            assert_eq!(said(&mut new).await, (b"new\n".to_vec(), Some(0)), "cut after {after}");
        }
    });
    daemon.stop();
}

/// A proxy that ends connections now and then ended what was followed, when that had nothing to say for a while.
#[test]
fn silence_over_many_connections_is_no_end() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    let proxy = Proxy::new(daemon.port);
    run(async {
        let client = proxy.client().await;
        let mut watcher = client.watch(".", true, None).await.unwrap();
        let mut command = start(&client, "", "until [ -e go ]; do sleep 0.1; done; echo done").await.unwrap();
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            proxy.cut();
        }
        fs::write(daemon.path("go"), b"").unwrap();
        assert_eq!(said(&mut command).await, (b"done\n".to_vec(), Some(0)));
        assert!(!watcher.next().await.unwrap().unwrap().changes.is_empty());
    });
    daemon.stop();
}
