//! What callers see when connections are lost at the worst moment.

mod fake;

use super::*;
use bytes::Bytes;
use fake::{Fake, World};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn impatient(url: &str) -> ClientOptions {
    ClientOptions { reconnect: Duration::from_secs(5), ..ClientOptions::new(url) }
}

async fn client(fake: &Fake) -> Client {
    Client::connect(impatient(&fake.url)).await.unwrap()
}

/// Bytes in which every position is told from its neighbours.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8 ^ (at >> 16) as u8).collect()
}

#[tokio::test]
async fn a_read_is_asked_again_and_a_change_is_not() {
    let fake = Fake::new(World { file: bytes(7), ..World::default() });
    let client = client(&fake).await;
    fake.world().cut = Some(("stat", 1));
    assert_eq!(client.stat("file").await.unwrap().size, 7);
    assert_eq!((fake.calls("stat"), fake.world().connections), (2, 2));
    fake.world().cut = Some(("mkdir", 1));
    let error = client.mkdir("dir", 0o755, false).await.unwrap_err();
    assert_eq!((error.code(), error.applied()), ("ECONNRESET", Applied::Unknown), "{error}");
    assert!(error.to_string().contains(&fake.url), "{error}");
    assert_eq!(fake.calls("mkdir"), 1);
    client.mkdir("dir", 0o755, false).await.unwrap();
    assert_eq!(fake.world().connections, 3);
}

#[tokio::test]
async fn a_refusal_is_told_as_it_is_and_a_method_that_is_not_there_as_nonsense() {
    let fake = Fake::new(World::default());
    let client = client(&fake).await;
    let error = client.stat("missing").await.unwrap_err();
    assert_eq!((error.code(), error.path(), error.applied()), ("ENOENT", &b"missing"[..], Applied::No));
    let error = client.statfs().await.unwrap_err();
    assert_eq!((error.code(), error.applied()), ("EPROTOCOL", Applied::No), "{error}");
    let error = client.write("file", 0, vec![0; MAX_DATA + 1]).await.unwrap_err();
    assert_eq!(error.code(), "EPROTOCOL");
    assert_eq!(fake.world().connections, 1, "none of this ends a connection");
}

#[tokio::test]
async fn a_stream_goes_on_where_it_broke() {
    let file = bytes(20 << 20);
    let fake = Fake::new(World { file: file.clone(), revision: 3, ..World::default() });
    let client = client(&fake).await;
    for (offset, length) in [(0, None), (5, Some(9 << 20)), (20 << 20, None)] {
        let seen = fake.calls("next");
        fake.world().cut = Some(("next", seen + 6));
        let mut stream = client.read_file("file", offset, length).await.unwrap();
        let mut read = Vec::new();
        while let Some(portion) = stream.next().await {
            read.extend_from_slice(&portion.unwrap());
            if length.is_some_and(|length| read.len() as u64 >= length) {
                // The fake does not know of lengths.
                read.truncate(length.unwrap_or(0) as usize);
                break;
            }
        }
        let end = length.map_or(file.len(), |length| (offset + length) as usize);
        assert!(read == file[offset as usize..end], "from {offset}");
    }
}

#[tokio::test]
async fn a_stream_does_not_go_on_in_another_file() {
    let fake = Fake::new(World { file: bytes(20 << 20), revision: 3, ..World::default() });
    let client = client(&fake).await;
    fake.world().cut = Some(("next", 6));
    let mut stream = client.read_file("file", 0, None).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    fake.world().revision = 4;
    let error = loop {
        match stream.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("it ended"),
        }
    };
    assert_eq!((error.code(), error.path()), ("ESTALE", &b"file"[..]));
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_slow_reader_keeps_a_window_in_memory_and_others_their_turn() {
    let fake = Fake::new(World { file: bytes(20 << 20), ..World::default() });
    let client = client(&fake).await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(client.read_file("file", 0, None).await.unwrap());
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while fake.calls("next") < 32 && Instant::now() < deadline {
        client.stat("file").await.unwrap();
    }
    for _ in 0..20 {
        client.stat("file").await.unwrap();
    }
    assert_eq!(fake.calls("next"), 32, "four for each of the eight");
    drop(streams);
}

#[tokio::test]
async fn a_file_that_breaks_off_is_not_there_and_one_that_was_complete_may_be() {
    let fake = Fake::new(World::default());
    let client = client(&fake).await;
    let data = Bytes::from(bytes(5 << 20));
    let mut writer = client.write_file("file", WriteOptions::default()).await.unwrap();
    writer.write(data.clone()).await.unwrap();
    assert_eq!(writer.finish(true).await.unwrap().size, 5 << 20);
    assert!(fake.world().appeared == [data.to_vec()]);

    let seen = fake.calls("write");
    fake.world().cut = Some(("write", seen + 3));
    let mut writer = client.write_file("file", WriteOptions::default()).await.unwrap();
    let error = loop {
        if let Err(error) = writer.write(data.clone()).await {
            break error;
        }
    };
    assert_eq!((error.code(), error.applied()), ("ECONNRESET", Applied::No), "{error}");

    fake.world().cut = Some(("done", 2));
    let mut writer = client.write_file("file", WriteOptions::default()).await.unwrap();
    writer.write(data.clone()).await.unwrap();
    let error = writer.finish(false).await.unwrap_err();
    assert_eq!((error.code(), error.applied()), ("ECONNRESET", Applied::Unknown), "{error}");
    assert_eq!(fake.world().appeared.len(), 1);
}

#[tokio::test]
async fn a_search_finds_each_thing_once() {
    let names: Vec<Vec<u8>> = (0..3500).map(|number| format!("/w/{number}").into_bytes()).collect();
    let fake = Fake::new(World { names: names.clone(), ..World::default() });
    let client = client(&fake).await;
    fake.world().cut = Some(("entries", 3));
    let mut cursor = client.find(FindOptions::below("/w")).await.unwrap();
    let mut found = Vec::new();
    while let Some(entry) = cursor.next().await {
        found.push(entry.unwrap().path);
    }
    assert!(found == names, "{} found", found.len());
    assert_eq!(fake.world().connections, 2);
}

#[tokio::test]
async fn a_watch_loses_nothing_and_repeats_nothing() {
    let fake = Fake::new(World { changes: vec![1, 2, 3], ..World::default() });
    let client = client(&fake).await;
    let mut watcher = client.watch("/w", true, None).await.unwrap();
    assert_eq!(watcher.revision(), 3);
    fake.world().changes.extend(4..=20);
    fake.world().cut = Some(("changes", 4));
    let mut seen = Vec::new();
    while seen.last() != Some(&20) {
        let batch = watcher.next().await.unwrap().unwrap();
        seen.extend(batch.changes.iter().map(|change| change.revision));
        assert_eq!(seen.last(), Some(&batch.up_to));
    }
    assert_eq!(seen, (4..=20).collect::<Vec<_>>());
    assert_eq!(fake.world().connections, 2);
}

#[tokio::test]
async fn silence_is_a_lost_connection() {
    let fake = Fake::new(World::default());
    let upstream = fake.url.trim_start_matches("ws://").trim_end_matches("/ws").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    let (freeze, frozen) = tokio::sync::oneshot::channel::<()>();
    let relay = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = tokio::net::TcpStream::connect(upstream).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            _ = frozen => {}
        }
        drop(listener);
        std::future::pending::<()>().await;
    });
    let silence = Duration::from_millis(300);
    let options = ClientOptions { silence, reconnect: Duration::from_millis(300), ..ClientOptions::new(url) };
    let client = Client::connect(options).await.unwrap();
    tokio::time::sleep(2 * silence).await;
    client.stat("file").await.unwrap();
    assert_eq!(fake.world().connections, 1, "pings are answered, so it was not silent");
    freeze.send(()).unwrap();
    let error = client.mkdir("dir", 0o755, false).await.unwrap_err();
    assert_eq!(error.applied(), Applied::Unknown);
    assert!(error.to_string().contains("nothing came for 300ms"), "{error}");
    let started = Instant::now();
    let error = client.stat("file").await.unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5), "not for longer than it was told");
    relay.abort();
}

/// A server that answers every connection with the same bytes.
async fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    url
}

#[tokio::test]
async fn what_is_no_daemon_is_told_with_what_was_tried_and_what_to_do() {
    for (answer, code, part) in [
        ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", "EAUTH", "WSD_TOKEN"),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "ENOTCONN", "404"),
        ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 6\r\n\r\nnot yet", "ENOTCONN", "503"),
        ("SSH-2.0-OpenSSH\r\n", "ENOTCONN", "is it a wsd?"),
    ] {
        let url = answering(answer).await;
        let error = Client::connect(impatient(&url)).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(&url) && error.to_string().contains(part), "{error}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws", listener.local_addr().unwrap());
    drop(listener);
    let started = Instant::now();
    let error = Client::connect(impatient(&url)).await.unwrap_err();
    assert!(error.to_string().contains("is the daemon running there?"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(2), "the first connection is not waited for");
}

#[tokio::test]
async fn pages_are_read_and_refusals_told() {
    let url = answering("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}").await;
    assert_eq!(page(&impatient(&url), "/__wsd/stats").await.unwrap()["a"], 1);
    let url = answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 10\r\n\r\nnot ready\n").await;
    let error = page(&impatient(&url), "/__wsd/stats").await.unwrap_err();
    assert!(error.to_string().contains("/__wsd/stats: 503") && error.to_string().contains("not ready"));
    let url = answering("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(page(&impatient(&url), "/__wsd/stats").await.unwrap_err().code(), "EAUTH");
}
