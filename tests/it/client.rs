//! The client against the real daemon: every method, large transfers, connections that are cut.

use crate::support::{Daemon, Place, eventually, noise};
use bytes::Bytes;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wsd::client::{
    Applied, AttachedEvents, ChangeKind, Client, ClientError, ClientOptions, Command, CommandEvent,
    FindOptions, GrepOptions, IfExists, Kind, RenameMode, SetTime, Stdin, WriteOptions, XattrMode,
};

const NO_MOUNT: &[(&str, &str)] = &[("FUSE_MOUNT", "none")];

pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

async fn connect(daemon: &Daemon) -> Client {
    Client::connect(ClientOptions::new(format!("ws://127.0.0.1:{}/ws", daemon.port))).await.unwrap()
}

fn code<T: std::fmt::Debug>(result: Result<T, ClientError>) -> String {
    result.unwrap_err().code().to_owned()
}

async fn write_file(client: &Client, path: &str, bytes: &[u8]) {
    let mut writer = client.write_file(path, WriteOptions::default()).await.unwrap();
    writer.write(Bytes::copy_from_slice(bytes)).await.unwrap();
    writer.finish(false).await.unwrap();
}

async fn read_all(client: &Client, path: &str) -> Vec<u8> {
    let mut stream = client.read_file(path, 0, None).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(portion) = stream.next().await {
        bytes.extend_from_slice(&portion.unwrap());
    }
    bytes
}

#[test]
fn files_are_made_changed_and_removed() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    run(async {
        let client = connect(&daemon).await;
        assert_eq!(client.info().await.unwrap().mount_point, place.point.as_os_str().as_encoded_bytes());
        assert_eq!(client.mkdir("a/b", 0o700, true).await.unwrap().kind, Kind::Dir);
        assert_eq!(code(client.mkdir("a/b", 0o700, false).await), "EEXIST");
        assert_eq!(client.append("a/f", "hello", Some(0o640)).await.unwrap().mode, 0o640);
        assert_eq!(code(client.append("a/none", "x", None).await), "ENOENT");
        assert_eq!(client.append("a/f", " world", None).await.unwrap().size, 11);
        assert_eq!(client.write("a/f", 0, "J").await.unwrap().size, 11);
        let (bytes, attr) = client.read("a/f", 0, 100).await.unwrap();
        assert_eq!((&bytes[..], attr.size), (&b"Jello world"[..], 11));
        assert_eq!(client.edit("a/f", "world", "there", false).await.unwrap().0, 1);
        assert_eq!(code(client.edit("a/f", "e", "E", false).await), "EMATCHES");
        assert_eq!(client.truncate("a/f", 5).await.unwrap().size, 5);
        assert_eq!(client.chmod("a/f", 0o600).await.unwrap().mode, 0o600);
        assert_eq!(client.chown("a/f", Some(7), None, true).await.unwrap().uid, 7);
        let attr = client.utimes("a/f", SetTime::Keep, SetTime::At(-5), true).await.unwrap();
        assert_eq!(attr.mtime, -5);
        client.setxattr("a/f", "user.x", "value", XattrMode::Create, true).await.unwrap();
        assert_eq!(client.getxattr("a/f", "user.x", true).await.unwrap(), b"value");
        assert_eq!(client.listxattr("a/f", true).await.unwrap(), [b"user.x".to_vec()]);
        client.removexattr("a/f", "user.x", true).await.unwrap();
        assert_eq!(code(client.getxattr("a/f", "user.x", true).await), "ENODATA");
        assert_eq!(client.link("a/f", "a/g").await.unwrap().nlink, 2);
        client.symlink(b"f\xff", b"a/l\xff").await.unwrap();
        assert_eq!(client.readlink(b"a/l\xff").await.unwrap(), b"f\xff");
        assert_eq!(client.lstat(b"a/l\xff").await.unwrap().kind, Kind::Symlink);
        assert_eq!(code(client.stat(b"a/l\xff").await), "ENOENT");
        client.rename("a/g", "a/h", RenameMode::NoReplace).await.unwrap();
        assert_eq!(code(client.rename("a/f", "a/h", RenameMode::NoReplace).await), "EEXIST");
        let copied = client.copy("a", "c", true, true).await.unwrap();
        assert!(copied.files >= 3, "{copied:?}");
        assert_eq!(&client.read("c/f", 0, 9).await.unwrap().0[..], b"Jello");
        let mut names: Vec<_> =
            client.readdir("a").await.unwrap().into_iter().map(|entry| entry.name).collect();
        names.sort();
        assert_eq!(names, [&b"b"[..], b"f", b"h", b"l\xff"]);
        assert!(client.statfs().await.unwrap().nodes > 5);
        assert!(client.sync().await.unwrap() > 0);
        assert_eq!(code(client.rm("a", false, false).await), "EISDIR");
        assert!(client.rm("a", true, false).await.unwrap() >= 5);
        assert_eq!(client.rm("a", true, true).await.unwrap(), 0);
        let error = client.stat("a").await.unwrap_err();
        assert_eq!((error.code(), error.path(), error.applied()), ("ENOENT", &b"a"[..], Applied::No));
    });
    daemon.stop();
    place.check();
}

#[test]
fn a_directory_comes_in_pages_and_a_search_in_portions() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    run(async {
        let client = connect(&daemon).await;
        let made = (0..2500).map(|number| {
            let client = client.clone();
            async move { client.append(format!("f{number}"), format!("line {number}\n"), Some(0o644)).await }
        });
        for result in futures::future::join_all(made).await {
            result.unwrap();
        }
        assert_eq!(client.readdir(".").await.unwrap().len(), 2500);
        let page = client.readdir_page(".", 0, 10).await.unwrap();
        assert_eq!((page.entries.len(), page.next.is_some()), (10, true));
        let mut cursor = client.find(FindOptions::below(".")).await.unwrap();
        let mut found = 0;
        while let Some(entry) = cursor.next().await {
            entry.unwrap();
            found += 1;
        }
        assert_eq!(found, 2501);
        let options = GrepOptions { word: true, ..GrepOptions::new("line 1[0-9]", ".") };
        let mut cursor = client.grep(options).await.unwrap();
        let mut lines = Vec::new();
        while let Some(found) = cursor.next().await {
            lines.push(String::from_utf8(found.unwrap().text).unwrap());
        }
        lines.sort();
        assert_eq!(lines, (10..20).map(|number| format!("line {number}\n")).collect::<Vec<_>>());
        let error = client.grep(GrepOptions::new("(", ".")).await.map(drop).unwrap_err();
        assert_eq!(error.code(), "EPROTOCOL", "{error}");
    });
    daemon.stop();
}

#[test]
fn large_files_go_both_ways() {
    const PORTION: usize = 4 << 20;
    const PORTIONS: usize = 50;
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    run(async {
        let client = connect(&daemon).await;
        let mut sent = blake3::Hasher::new();
        let mut writer = client.write_file("big", WriteOptions::default()).await.unwrap();
        for number in 0..PORTIONS {
            let bytes = noise(number as u64, PORTION);
            sent.update(&bytes);
            writer.write(Bytes::from(bytes)).await.unwrap();
        }
        assert_eq!(code(client.stat("big").await), "ENOENT", "it appears when it is complete");
        let attr = writer.finish(true).await.unwrap();
        assert_eq!(attr.size, (PORTION * PORTIONS) as u64);
        let mut read = blake3::Hasher::new();
        let mut stream = client.read_file("big", 0, None).await.unwrap();
        while let Some(portion) = stream.next().await {
            read.update(&portion.unwrap());
        }
        assert_eq!(sent.finalize(), read.finalize());
        let mut stream = client.read_file("big", 5, Some(3)).await.unwrap();
        assert_eq!(&stream.next().await.unwrap().unwrap()[..], &noise(0, 8)[5..]);
        assert!(stream.next().await.is_none());
        let writer = client.write_file("big", WriteOptions::default()).await.unwrap();
        drop(writer);
        let fail = WriteOptions { if_exists: IfExists::Fail, ..WriteOptions::default() };
        let refused = match client.write_file("big", fail).await {
            Ok(writer) => code(writer.finish(false).await),
            Err(error) => error.code().to_owned(),
        };
        assert_eq!(refused, "EEXIST");
        assert_eq!(client.stat("big").await.unwrap().size, attr.size);
    });
    daemon.stop();
    place.check();
}

/// Passes bytes on to a daemon, and cuts connections when it is told to, or after some bytes.
pub(crate) struct Proxy {
    url: String,
    live: Arc<Mutex<Vec<TcpStream>>>,
    /// Bytes to the client until the cut.
    pub(crate) left: Arc<AtomicU64>,
}

impl Proxy {
    pub(crate) fn new(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}/ws", listener.local_addr().unwrap());
        let proxy = Self { url, live: Arc::default(), left: Arc::new(AtomicU64::new(u64::MAX)) };
        let (live, left) = (Arc::clone(&proxy.live), Arc::clone(&proxy.left));
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                live.lock().unwrap().extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                let ends = (near.try_clone().unwrap(), far.try_clone().unwrap());
                std::thread::spawn(move || pass(ends.0, ends.1, None));
                let left = Arc::clone(&left);
                std::thread::spawn(move || pass(far, near, Some(left)));
            }
        });
        proxy
    }

    pub(crate) fn cut(&self) {
        for end in self.live.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(ClientOptions::new(&self.url)).await.unwrap()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, left: Option<Arc<AtomicU64>>) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        let over = left.as_ref().is_some_and(|left| {
            let before = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                // Once; then never again.
                Some(left.checked_sub(read as u64).unwrap_or(u64::MAX))
            });
            before.unwrap() < read as u64
        });
        if over || to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_read_goes_on_over_cut_connections() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    let proxy = Proxy::new(daemon.port);
    run(async {
        let client = proxy.client().await;
        let bytes = noise(9, 30 << 20);
        write_file(&client, "file", &bytes).await;
        for after in [1 << 20, 7_777_777, 29 << 20] {
            proxy.left.store(after, Ordering::SeqCst);
            assert!(read_all(&client, "file").await == bytes, "cut after {after}");
        }
        proxy.cut();
        assert_eq!(client.stat("file").await.unwrap().size, 30 << 20);
        let mut writer = client.write_file("new", WriteOptions::default()).await.unwrap();
        writer.write(Bytes::from(noise(1, 1 << 20))).await.unwrap();
        proxy.cut();
        let error = loop {
            if let Err(error) = writer.write(Bytes::from(noise(1, 1 << 20))).await {
                break error;
            }
        };
        assert_eq!((error.code(), error.applied()), ("ECONNRESET", Applied::No), "{error}");
        assert_eq!(code(client.stat("new").await), "ENOENT");
    });
    daemon.stop();
    place.check();
}

/// The log keeps all of it, so wherever the cut is, nothing is missing and nothing comes twice.
#[test]
fn a_command_is_followed_over_cut_connections() {
    if !crate::support::has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve_with(&[("EXEC_LOG_MAX_BYTES", "16M")]);
    let proxy = Proxy::new(daemon.port);
    run(async {
        let client = proxy.client().await;
        for after in [100_000, 700_000, 1_200_000] {
            let line = "seq 1 200000; echo end >&2; exit 5";
            proxy.left.store(after, Ordering::SeqCst);
            let mut command = client.exec(Command::shell(line)).await.unwrap();
            let (mut said, mut end, mut exits) = (Vec::new(), Vec::new(), Vec::new());
            while let Some(event) = command.next().await {
                match event.unwrap() {
                    CommandEvent::Stdout(bytes) => said.extend_from_slice(&bytes),
                    CommandEvent::Stderr(bytes) => end.extend_from_slice(&bytes),
                    CommandEvent::Exit(exit) => exits.push(exit.code),
                    CommandEvent::Dropped(seq) => panic!("up to {seq} is gone"),
                }
            }
            let whole: String = (1..=200_000).map(|line| format!("{line}\n")).collect();
            assert!(said == whole.as_bytes(), "cut after {after}: {} bytes", said.len());
            assert_eq!((&end[..], &exits[..]), (&b"end\n"[..], &[Some(5)][..]));
            assert!(proxy.left.load(Ordering::SeqCst) > u64::MAX / 2, "it was cut");
        }
    });
    daemon.stop();
}

/// Input that came while there was no connection was lost, its end too, and the command waited for it for ever.
#[test]
fn the_input_of_a_command_goes_on_over_cut_connections_or_is_told_to_be_lost() {
    if !crate::support::has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    let proxy = Proxy::new(daemon.port);
    let soon = async |events: &mut AttachedEvents| {
        tokio::time::timeout(Duration::from_secs(20), events.next()).await.unwrap().unwrap()
    };
    run(async {
        let client = proxy.client().await;
        let echoes = Command { stdin: Stdin::Stream, ..Command::shell("cat") };
        let (input, mut events) = client.exec(echoes).await.unwrap().split();
        let line = Bytes::from_static(b"12345");
        for _ in 0..5 {
            assert!(input.write(line.clone()).await);
            assert_eq!(soon(&mut events).await.unwrap(), CommandEvent::Stdout(line.clone()));
            // Its answer is here before this one's, and the loss is known when the next one is.
            client.stat(b".").await.unwrap();
            proxy.cut();
            client.stat(b".").await.unwrap();
        }
        drop(input);
        assert!(matches!(soon(&mut events).await, Ok(CommandEvent::Exit(exit)) if exit.code == Some(0)));
        // More than it takes while it sleeps.
        let sleeps = Command { stdin: Stdin::Stream, ..Command::shell("sleep 60") };
        let (input, mut events) = client.exec(sleeps).await.unwrap().split();
        assert!(input.write(Bytes::from(noise(1, 1 << 20))).await);
        tokio::time::sleep(Duration::from_millis(200)).await;
        proxy.cut();
        let error = soon(&mut events).await.unwrap_err();
        assert_eq!((error.code(), error.applied()), ("ECONNRESET", Applied::Unknown), "{error}");
    });
    daemon.stop();
}

/// Room for what each of them may say was held while they said nothing; none was left for anybody else.
#[test]
fn whoever_waits_for_commands_can_read_meanwhile() {
    if !crate::support::has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    run(async {
        let client = connect(&daemon).await;
        write_file(&client, "file", &noise(1, 4 << 20)).await;
        let mut commands = Vec::new();
        for _ in 0..40 {
            commands.push(client.exec(Command::shell("sleep 60")).await.unwrap());
        }
        let read = tokio::time::timeout(Duration::from_secs(10), client.read("file", 0, 4 << 20)).await;
        assert_eq!(read.unwrap().unwrap().0.len(), 4 << 20);
    });
    daemon.stop();
}

#[test]
fn a_watch_goes_on_over_cut_connections_and_a_new_daemon() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    let proxy = Proxy::new(daemon.port);
    let daemon = run(async {
        let client = proxy.client().await;
        let mut watcher = client.watch(".", true, None).await.unwrap();
        let mut seen = Vec::new();
        for number in 0..30 {
            let direct = connect(&daemon).await;
            direct.mkdir(format!("d{number}"), 0o755, false).await.unwrap();
            if number % 7 == 0 {
                proxy.cut();
            }
        }
        while seen.len() < 30 {
            let batch = watcher.next().await.unwrap().unwrap();
            assert!(!batch.dropped);
            let made = batch.changes.iter().filter(|change| change.kind == ChangeKind::Created);
            seen.extend(made.map(|change| String::from_utf8_lossy(&change.path).into_owned()));
        }
        let expected: Vec<_> =
            (0..30).map(|number| place.point.join(format!("d{number}")).display().to_string()).collect();
        assert_eq!(seen, expected);
        client.sync().await.unwrap();

        let port = daemon.port.to_string();
        daemon.stop();
        let daemon = place.serve_with(&[("FUSE_MOUNT", "none"), ("PORT", &port)]);
        let direct = connect(&daemon).await;
        direct.mkdir("after", 0o755, false).await.unwrap();
        let batch = tokio::time::timeout(Duration::from_secs(20), watcher.next()).await.unwrap();
        let batch = batch.unwrap().unwrap();
        let is_there = batch.changes.iter().any(|change| change.path.ends_with(b"/after"));
        assert!(batch.dropped || is_there, "{batch:?}");
        assert_eq!(client.stat("after").await.unwrap().kind, Kind::Dir);
        daemon
    });
    daemon.stop();
}

#[test]
fn a_daemon_that_is_gone_is_waited_for_and_then_told() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    let port = daemon.port.to_string();
    run(async {
        let url = format!("ws://127.0.0.1:{port}/ws");
        let options = ClientOptions { reconnect: Duration::from_secs(20), ..ClientOptions::new(&url) };
        let client = Client::connect(options).await.unwrap();
        let short = ClientOptions { reconnect: Duration::from_millis(200), ..ClientOptions::new(&url) };
        let hasty = Client::connect(short).await.unwrap();
        client.mkdir("dir", 0o755, false).await.unwrap();
        client.sync().await.unwrap();
        daemon.kill();
        let error = hasty.stat("dir").await.unwrap_err();
        assert!(matches!(error, ClientError::Connect { .. }) && error.to_string().contains(&url), "{error}");
        let waiting = client.stat("dir");
        let restarted = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            place.serve_with(&[("FUSE_MOUNT", "none"), ("PORT", &port)])
        };
        let (attr, daemon) = tokio::join!(waiting, restarted);
        assert_eq!(attr.unwrap().kind, Kind::Dir);
        daemon.stop();
    });
}

#[test]
fn the_secret_is_needed_and_enough() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none"), ("WSD_TOKEN", "s3cret")]);
    let with = |token: Option<&str>| ClientOptions {
        token: token.map(str::to_owned),
        ..ClientOptions::new(format!("ws://localhost:{}/ws", daemon.port))
    };
    run(async {
        for token in [None, Some("wrong")] {
            assert_eq!(code(Client::connect(with(token)).await), "EAUTH");
            assert_eq!(code(wsd::client::page(&with(token), "/__wsd/stats").await), "EAUTH");
        }
        let client = Client::connect(with(Some("s3cret"))).await.unwrap();
        assert!(client.stat(".").await.is_ok());
        let stats = wsd::client::page(&with(Some("s3cret")), "/__wsd/stats").await.unwrap();
        assert!(stats["revision"].is_u64(), "{stats}");
    });
    daemon.stop();
}

#[test]
fn what_is_dropped_is_let_go() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    // Connections that the daemon has: local address, established.
    let local = format!("0100007F:{:04X} ", daemon.port);
    let connections = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let is_ours = |line: &&str| line.split(": ").nth(1).is_some_and(|rest| rest.starts_with(&local));
        table.lines().filter(is_ours).filter(|line| line.split_whitespace().nth(3) == Some("01")).count()
    };
    run(async {
        let client = connect(&daemon).await;
        write_file(&client, "file", &noise(1, 8 << 20)).await;
        for _ in 0..20 {
            let other = connect(&daemon).await;
            let mut stream = other.read_file("file", 0, None).await.unwrap();
            stream.next().await.unwrap().unwrap();
            let _watcher = other.watch(".", true, None).await.unwrap();
        }
        eventually("only ours is left", || connections() == 1);
    });
    daemon.stop();
}
