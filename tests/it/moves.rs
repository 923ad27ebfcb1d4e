//! Names that programs and callers move between the same directories.

use crate::client::run;
use crate::support::{Place, has_fuse};
use std::process::Command;
use std::time::Duration;
use wsd::client::{Client, ClientOptions, RenameMode};

/// The daemon moved nothing else while it told the kernel of a move, and the kernel did not listen before a program's own
/// move was answered: whoever moved something, or came to these directories, waited for ever.
#[test]
fn programs_and_callers_do_not_wait_for_each_other() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    let line = "mkdir -p a b; touch a/1 b/2; while [ ! -e end ]; do mv a/1 b/1; mv b/1 a/1; mv b/2 a/2; mv a/2 b/2; done";
    let mut program = Command::new("bash").args(["-c", line]).current_dir(daemon.path("")).spawn().unwrap();
    run(async {
        let client =
            Client::connect(ClientOptions::new(format!("ws://127.0.0.1:{}/ws", daemon.port))).await.unwrap();
        client.mkdir("a", 0o755, true).await.unwrap();
        client.mkdir("b", 0o755, true).await.unwrap();
        client.append("a/3", b"3", Some(0o644)).await.unwrap();
        for round in 0..400 {
            for (from, to) in [("a/3", "b/3"), ("b/3", "a/3")] {
                let moved = client.rename(from, to, RenameMode::Replace);
                let moved = tokio::time::timeout(Duration::from_secs(60), moved).await;
                moved.unwrap_or_else(|_| panic!("round {round}: it waits")).unwrap();
            }
        }
        client.append("end", b"", Some(0o644)).await.unwrap();
    });
    assert!(program.wait().unwrap().success());
    daemon.stop();
    place.check();
}
