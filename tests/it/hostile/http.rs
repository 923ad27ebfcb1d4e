//! Slow, silent and half-open connections, and bodies that are no batch.

use crate::peer::{
    FILES, Peer, READ, SOURCE_NEXT, Target, WATCH, WORKSPACE_FS, bootstrap, call, stat, watch_next,
};
use crate::siege::{BOUND, Siege};
use crate::support::{Daemon, eventually};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use wsd_schema::fs_capnp::fs;

fn connect(daemon: &Daemon) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(50))).unwrap();
    stream
}

/// The beginning of a batch.
fn head(length: usize) -> String {
    format!(
        "POST /api HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-capnp-rpc\r\n\
         Connection: close\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// The status and the body of the answer to a batch.
fn post(daemon: &Daemon, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = connect(daemon);
    stream.write_all(head(body.len()).as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    read(stream)
}

fn read(mut stream: TcpStream) -> (u16, Vec<u8>) {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_else(|| panic!("no answer"));
    let status = String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
    (status, answer.split_off(end + 4))
}

/// What a batch begins with: the files are [`FILES`].
fn opening() -> Vec<u8> {
    [bootstrap(0), call(1, Target::Whole(0), WORKSPACE_FS, |_| {})].concat()
}

#[test]
fn those_who_take_their_time_are_cut_off() {
    let siege = Siege::begin();
    let begun = Instant::now();
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stream = connect(&siege.daemon);
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: local").unwrap();
        slow.push(stream);
    }
    let mut bodies = Vec::new();
    for _ in 0..100 {
        let mut stream = connect(&siege.daemon);
        stream.write_all(head(16 << 20).as_bytes()).unwrap();
        stream.write_all(&[0; 1000]).unwrap();
        bodies.push(stream);
    }
    let waits = siege.path("");
    let waiting = [
        opening(),
        call(2, FILES, WATCH, |params| params.init_as::<fs::watch_params::Builder<'_>>().set_path(&waits)),
        watch_next(3, Target::Answer(2, 1), 60_000),
    ];
    let mut late = connect(&siege.daemon);
    let body = waiting.concat();
    late.write_all(head(body.len()).as_bytes()).unwrap();
    late.write_all(&body).unwrap();
    siege.holds();
    for mut stream in slow {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
    }
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    siege.holds();
    for stream in bodies {
        assert_eq!(read(stream).0, 408);
    }
    let (status, why) = read(late);
    assert!(status == 504 && why.starts_with(b"ETIMEDOUT"), "{status}: {}", String::from_utf8_lossy(&why));
    assert!(begun.elapsed() < Duration::from_secs(45), "{:?}", begun.elapsed());
    siege.end();
}

#[test]
fn hundreds_of_idle_connections() {
    let siege = Siege::begin();
    let idle: Vec<_> = (0..200).map(|_| connect(&siege.daemon)).collect();
    let mut peers: Vec<_> = (0..200).map(|_| Peer::silent(&siege.daemon)).collect();
    eventually("200 sessions", || siege.daemon.stat("/sessions") == 200);
    siege.holds();
    // Half of them close their side only.
    for peer in peers.iter_mut().step_by(2) {
        peer.half_close();
    }
    eventually("100 sessions", || siege.daemon.stat("/sessions") == 100);
    drop((idle, peers));
    eventually("no session", || siege.daemon.stat("/sessions") == 0);
    siege.end();
}

#[test]
fn connections_never_take_the_last_descriptors() {
    let place = crate::support::Place::new();
    let mut command = std::process::Command::new("sh");
    let inner = place.command();
    command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("FUSE_MOUNT", "none");
    command.args(["-c", &format!("ulimit -n 256; exec {}", crate::support::WSD)]);
    let daemon = place.start(command);
    let siege = Siege { place, daemon };
    let many: Vec<_> = (0..400).map(|_| connect(&siege.daemon)).collect();
    let open = || std::fs::read_dir(format!("/proc/{}/fd", siege.daemon.pid())).unwrap().count();
    eventually("many connections", || open() > 100);
    assert!(open() < 200, "{} of 256 descriptors are open", open());
    drop(many);
    eventually("the connections to be gone", || open() < 60);
    assert!(!siege.place.log().contains("could not be accepted"), "{}", siege.place.log());
    siege.end();
}

#[test]
fn bodies_that_are_no_batch() {
    let siege = Siege::begin();
    let number = u32::to_le_bytes;
    for body in [
        [number(u32::MAX), number(u32::MAX)].concat(),
        [number(0), number(u32::MAX)].concat(),
        [number(63), number(u32::MAX)].concat(),
        crate::support::noise(1, 100_000),
        vec![0; 1 << 20],
        crate::peer::deep(1 << 18),
        crate::peer::finish(1),
    ] {
        assert_eq!(post(&siege.daemon, &body).0, 400);
    }
    siege.end();
}

#[test]
fn batches_of_the_largest_kinds() {
    let siege = Siege::begin();
    let root = siege.root();
    let batch = |questions: u32| {
        let mut body = opening();
        (2..questions).for_each(|question| body.extend(stat(question, &root)));
        body
    };
    let (status, answer) = post(&siege.daemon, &batch(4096));
    assert!(status == 200 && answer.len() > 4096 * 100, "{status}, {} bytes", answer.len());
    assert_eq!(post(&siege.daemon, &batch(4097)).0, 400);
    // A call of the largest size, a hundred times: only so much is kept of them.
    siege.fill("large", &vec![b'x'; 4 << 20]);
    let large = siege.path("large");
    let read = |question| {
        call(question, FILES, READ, |params| {
            let mut read = params.init_as::<fs::read_params::Builder<'_>>();
            read.set_path(&large);
            read.set_count(4 << 20);
        })
    };
    let fits = (2..14).fold(opening(), |body, question| [body, read(question)].concat());
    let (status, answer) = post(&siege.daemon, &fits);
    assert!(status == 200 && answer.len() > 48 << 20, "{status}, {} bytes", answer.len());
    let too_large = (2..102).fold(opening(), |body, question| [body, read(question)].concat());
    let (status, why) = post(&siege.daemon, &too_large);
    assert!(status == 413, "{status}: {}", String::from_utf8_lossy(&why[..why.len().min(200)]));
    // What belongs to a batch dies with it.
    let source = [opening(), call(2, Target::Cap(77), SOURCE_NEXT, |_| {})].concat();
    assert_eq!(post(&siege.daemon, &source).0, 400);
    siege.end_within(BOUND + (256 << 20));
}

#[test]
fn many_large_batches_at_once() {
    let siege = Siege::begin();
    siege.fill("large", &vec![b'x'; 4 << 20]);
    let large = siege.path("large");
    let mut body = opening();
    for question in 2..16 {
        body.extend(call(question, FILES, READ, |params| {
            let mut read = params.init_as::<fs::read_params::Builder<'_>>();
            read.set_path(&large);
            read.set_count(4 << 20);
        }));
    }
    let mut streams = Vec::new();
    for _ in 0..40 {
        let mut stream = connect(&siege.daemon);
        stream.write_all(head(body.len()).as_bytes()).unwrap();
        stream.write_all(&body).unwrap();
        streams.push(stream);
    }
    // Bodies that are large themselves, and do not come to their end.
    for _ in 0..40 {
        let mut stream = connect(&siege.daemon);
        stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        stream.write_all(head(16 << 20).as_bytes()).unwrap();
        let _ = stream.write_all(&vec![0; (16 << 20) - 1]);
        streams.push(stream);
    }
    siege.holds();
    let statuses: Vec<_> = streams.drain(..40).map(|stream| read(stream).0).collect();
    assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
    assert!(statuses.contains(&200), "{statuses:?}");
    drop(streams);
    // However many there are: 256 MiB of bodies and answers, two large ones under way, and what the allocator holds
    // back of all that.
    siege.end_within(BOUND + (1280 << 20));
}
