//! Load on a running daemon: `rpc_load PORT MOUNT_POINT PID WHAT`, where WHAT is `calls`, `streams`, `latency` or
//! `commands`. Used by
//! `scripts/bench-rpc.sh`, which says what the figures mean.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a measurement that fails is no measurement"
)]

use bytes::Bytes;
use capnp_rpc::RpcSystem;
use futures::stream::FuturesUnordered;
use futures::{SinkExt, StreamExt};
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use wsd::client::{Client, ClientOptions, Command, Words};
use wsd::wire::{Ledger, Limits, Network, Side};
use wsd_schema::fs_capnp::{byte_sink, byte_source, fs};
use wsd_schema::workspace_capnp::workspace;

const MIB: usize = 1 << 20;

/// How long each kind of call is measured.
const SPAN: Duration = Duration::from_secs(5);

/// The files, over a connection of their own.
async fn connect(port: u16) -> fs::Client {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let url = format!("ws://127.0.0.1:{port}/ws");
    let mut config = WebSocketConfig::default();
    config.write_buffer_size = 128 << 10;
    let connected = tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await;
    let (mut sink, stream) = connected.unwrap().0.split();
    let frames = stream.filter_map(|message| async {
        match message {
            Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
            Ok(_) => None,
            Err(error) => Some(Err(capnp::Error::disconnected(error.to_string()))),
        }
    });
    let (outgoing, mut queue) = mpsc::unbounded_channel::<Bytes>();
    let limits = Limits { incoming_bytes: 256 * MIB, answer_bytes: 256 * MIB, ..Limits::default() };
    let ledger = Ledger::new(limits);
    let network = Network::new(frames, outgoing, Rc::clone(&ledger), Side::Client);
    tokio::task::spawn_local(async move {
        while let Some(first) = queue.recv().await {
            let (mut next, mut bytes) = (Some(first), 0);
            while let Some(frame) = next {
                bytes += frame.len();
                if sink.feed(Message::Binary(frame)).await.is_err() {
                    return;
                }
                next = queue.try_recv().ok();
            }
            if sink.flush().await.is_err() {
                return;
            }
            ledger.sent(bytes);
        }
    });
    let mut system = RpcSystem::new(Box::new(network), None);
    let workspace: workspace::Client = system.bootstrap(Side::Server);
    tokio::task::spawn_local(system);
    workspace.fs_request().send().promise.await.unwrap().get().unwrap().get_fs().unwrap()
}

async fn stat(fs: &fs::Client, path: &[u8]) {
    let mut request = fs.stat_request();
    request.get().set_path(path);
    let answer = request.send().promise.await.unwrap();
    let answer = answer.get().unwrap();
    assert!(!answer.has_error() && answer.get_attr().unwrap().get_ino() > 0);
}

/// Calls a second with so many of them under way on each of the connections.
async fn calls(port: u16, path: &[u8], connections: usize, under_way: usize) -> f64 {
    let mut files = Vec::new();
    for _ in 0..connections {
        files.push(connect(port).await);
    }
    let (begun, done) = (Instant::now(), Cell::new(0_u64));
    let workers = files.iter().flat_map(|fs| std::iter::repeat_n(fs, under_way)).map(|fs| async {
        while begun.elapsed() < SPAN {
            stat(fs, path).await;
            done.set(done.get() + 1);
        }
    });
    workers.collect::<FuturesUnordered<_>>().collect::<()>().await;
    done.get() as f64 / begun.elapsed().as_secs_f64()
}

/// Messages of 64 bytes there and back in a second between two threads that do nothing else, over a connection: what the
/// machine gives at most to whoever sleeps until the next one comes.
fn echoes() -> f64 {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut far = listener.accept().unwrap().0;
    let echo = std::thread::spawn(move || {
        let mut message = [0; 64];
        far.set_nodelay(true).unwrap();
        while far.read_exact(&mut message).is_ok() {
            far.write_all(&message).unwrap();
        }
    });
    near.set_nodelay(true).unwrap();
    let (begun, mut done, mut message) = (Instant::now(), 0_u64, [0; 64]);
    while begun.elapsed() < SPAN {
        near.write_all(&message).unwrap();
        near.read_exact(&mut message).unwrap();
        done += 1;
    }
    let rate = done as f64 / begun.elapsed().as_secs_f64();
    drop(near);
    echo.join().unwrap();
    rate
}

async fn upload(fs: &fs::Client, path: &[u8], total: usize) {
    let portion = vec![0x5a; MIB];
    let mut request = fs.write_file_request();
    request.get().set_path(path);
    let sink: byte_sink::Client = request.send().pipeline.get_sink();
    let mut ahead = FuturesUnordered::new();
    for _ in 0..total / MIB {
        let mut write = sink.write_request();
        write.get().set_bytes(&portion);
        ahead.push(write.send());
        if ahead.len() >= 8 {
            ahead.next().await.unwrap().unwrap();
        }
    }
    while let Some(written) = ahead.next().await {
        written.unwrap();
    }
    let done = sink.done_request().send().promise.await.unwrap();
    assert_eq!(done.get().unwrap().get_attr().unwrap().get_size() as usize, total);
}

async fn download(fs: &fs::Client, path: &[u8], total: usize) {
    let mut request = fs.read_file_request();
    request.get().set_path(path);
    let source: byte_source::Client = request.send().pipeline.get_source();
    let ask = || source.next_request().send().promise;
    let mut ahead = (0..8).map(|_| ask()).collect::<futures::stream::FuturesOrdered<_>>();
    let mut got = 0;
    loop {
        let answer = ahead.next().await.unwrap().unwrap();
        let answer = answer.get().unwrap();
        assert!(!answer.has_error());
        got += answer.get_data().unwrap().len();
        if answer.get_end() {
            break;
        }
        ahead.push_back(ask());
    }
    assert_eq!(got, total);
}

/// A server that does nothing but take a body, or give one of a file: what HTTP alone costs here.
async fn plain_server(file: PathBuf) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let file = file.clone();
            let answer = hyper::service::service_fn(move |request| plain(request, file.clone()));
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, answer));
        }
    });
    port
}

type Request = hyper::Request<hyper::body::Incoming>;

async fn plain(
    request: Request,
    file: PathBuf,
) -> Result<hyper::Response<axum::body::Body>, std::convert::Infallible> {
    let body = if request.method() == hyper::Method::PUT {
        let (into, mut parts) =
            (file.with_extension("put"), axum::body::Body::new(request.into_body()).into_data_stream());
        let mut into = std::fs::File::create(into).unwrap();
        while let Some(part) = parts.next().await {
            std::io::Write::write_all(&mut into, &part.unwrap()).unwrap();
        }
        axum::body::Body::empty()
    } else {
        let from = std::fs::File::open(file).unwrap();
        let parts = futures::stream::unfold(from, |mut from| async move {
            let mut part = vec![0; MIB];
            let count = std::io::Read::read(&mut from, &mut part).unwrap();
            part.truncate(count);
            (count > 0).then(|| (Ok::<_, std::io::Error>(Bytes::from(part)), from))
        });
        axum::body::Body::from_stream(parts)
    };
    Ok(hyper::Response::new(body))
}

async fn plain_upload(port: u16, total: usize) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let head = format!("PUT / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {total}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let portion = vec![0x5a; MIB];
    for _ in 0..total / MIB {
        stream.write_all(&portion).await.unwrap();
    }
    stream.read_to_end(&mut Vec::new()).await.unwrap();
}

async fn plain_download(port: u16, total: usize) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let (mut portion, mut got) = (vec![0; MIB], 0);
    while let Ok(count @ 1..) = stream.read(&mut portion).await {
        got += count;
    }
    assert!(got >= total);
}

fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() >> 10
}

/// MiB a second of something, the middle one of three.
async fn speed(total: usize, run: impl AsyncFn()) -> f64 {
    let mut speeds = Vec::new();
    for _ in 0..3 {
        let begun = Instant::now();
        run().await;
        speeds.push((total / MIB) as f64 / begun.elapsed().as_secs_f64());
    }
    speeds.sort_by(f64::total_cmp);
    speeds[1]
}

async fn streams(port: u16, point: &Path, pid: u32) {
    let (fs, total) = (connect(port).await, 1024 * MIB);
    let path = point.join("stream").into_os_string().into_encoded_bytes();
    let plain = tempfile::Builder::new().tempfile_in("/dev/shm").unwrap();
    std::fs::write(plain.path(), vec![0x5a; total]).unwrap();
    let server = plain_server(plain.path().to_owned()).await;
    let up = speed(total, async || upload(&fs, &path, total).await).await;
    let plain_up = speed(total, async || plain_upload(server, total).await).await;
    println!("upload of 1 GiB: {up:.0} MiB/s, plain HTTP to tmpfs {plain_up:.0} MiB/s");
    let down = speed(total, async || download(&fs, &path, total).await).await;
    let plain_down = speed(total, async || plain_download(server, total).await).await;
    println!("download of 1 GiB: {down:.0} MiB/s, plain HTTP from tmpfs {plain_down:.0} MiB/s");
    let _ = std::fs::remove_file(plain.path().with_extension("put"));
    let before = resident(pid);
    let most = Rc::new(Cell::new(before));
    let seen = Rc::clone(&most);
    let watching = tokio::task::spawn_local(async move {
        loop {
            seen.set(seen.get().max(resident(pid)));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    for _ in 0..4 {
        upload(&fs, &path, total).await;
        download(&fs, &path, total).await;
    }
    watching.abort();
    println!("memory while 4 GiB pass each way: {before} MiB before, at most {} MiB", most.get());
}

/// The middle and the 99th of a hundred, milliseconds.
fn middle_and_tail(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort();
    let at = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1000.0;
    (at(50), at(99))
}

async fn health(port: u16) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

/// Asks every few milliseconds while the mount is written to at full speed.
async fn latency(port: u16, point: &Path) {
    let fs = connect(port).await;
    let path = point.as_os_str().as_encoded_bytes();
    for writes in [false, true] {
        let script = "while :; do dd if=/dev/zero of=load bs=1M count=512 conv=notrunc status=none; done";
        let mut dd = writes.then(|| {
            std::process::Command::new("sh")
                .args(["-c", &format!("exec 2>/dev/null; {script}")])
                .current_dir(point)
                .spawn()
                .unwrap()
        });
        let (mut stats, mut healths) = (Vec::new(), Vec::new());
        let begun = Instant::now();
        while begun.elapsed() < 2 * SPAN {
            let asked = Instant::now();
            stat(&fs, path).await;
            stats.push(asked.elapsed());
            let asked = Instant::now();
            health(port).await;
            healths.push(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if let Some(dd) = &mut dd {
            dd.kill().unwrap();
            dd.wait().unwrap();
        }
        let (stat, health) = (middle_and_tail(stats), middle_and_tail(healths));
        let state = if writes { "under a full-speed write" } else { "idle" };
        println!(
            "{state}: stat {:.2} ms, 99th {:.2} ms; /health {:.2} ms, 99th {:.2} ms",
            stat.0, stat.1, health.0, health.1
        );
    }
}

/// Commands one after the other, from the call to the exit event, next to the same program started here.
async fn commands(port: u16) {
    let client = Client::connect(ClientOptions::new(format!("ws://127.0.0.1:{port}/ws"))).await.unwrap();
    let (mut remote, mut local) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    while begun.elapsed() < 2 * SPAN {
        let asked = Instant::now();
        let mut attached = client.exec(Command::new(Words::Argv(vec![b"true".to_vec()]))).await.unwrap();
        while let Some(event) = attached.next().await {
            event.unwrap();
        }
        remote.push(asked.elapsed());
        let asked = Instant::now();
        assert!(std::process::Command::new("true").status().unwrap().success());
        local.push(asked.elapsed());
    }
    let rate = remote.len() as f64 / remote.iter().sum::<Duration>().as_secs_f64();
    let (remote, local) = (middle_and_tail(remote), middle_and_tail(local));
    println!(
        "true: {:.2} ms, 99th {:.2} ms, {rate:.0} a second; started here: {:.2} ms, 99th {:.2} ms",
        remote.0, remote.1, local.0, local.1
    );
}

async fn run(arguments: Vec<String>) {
    let [port, point, pid, what] = &arguments[..] else { panic!("rpc_load PORT MOUNT_POINT PID WHAT") };
    let (port, point, pid) = (port.parse().unwrap(), Path::new(point), pid.parse().unwrap());
    let path = point.as_os_str().as_encoded_bytes();
    match what.as_str() {
        "calls" => {
            println!("a bare echo over a connection: {:.0} a second", echoes());
            for (connections, under_way) in [(1, 1), (1, 1000), (100, 1), (100, 10)] {
                let rate = calls(port, path, connections, under_way).await;
                println!("{connections} connections, {under_way} under way on each: {rate:.0} stat a second");
            }
        }
        "streams" => streams(port, point, pid).await,
        "latency" => latency(port, point).await,
        "commands" => commands(port).await,
        other => panic!("{other}: calls, streams, latency or commands"),
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, run(std::env::args().skip(1).collect()));
}
