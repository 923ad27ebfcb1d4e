//! Peers that want more than their share: of memory, of capabilities, of threads.

use crate::peer::{
    EDIT, FILES, Peer, READ, READ_FILE, STAT, Target, WATCH, WORKSPACE_FS, WRITE_FILE, call, caps, code,
    finish, finish_keeping, sink_write, stat, watch_next,
};
use crate::siege::Siege;
use crate::support::eventually;
use std::time::{Duration, Instant};
use wsd_schema::fs_capnp::fs;

fn read_file(question: u32, path: &[u8]) -> Vec<u8> {
    call(question, FILES, READ_FILE, |params| {
        params.init_as::<fs::read_file_params::Builder<'_>>().set_path(path);
    })
}

fn watch(question: u32, path: &[u8]) -> Vec<u8> {
    call(question, FILES, WATCH, |params| params.init_as::<fs::watch_params::Builder<'_>>().set_path(path))
}

/// Sends until the daemon takes no more; how many it took.
fn flood(peer: &mut Peer, most: u32, mut frame: impl FnMut(u32) -> Vec<u8>) -> u32 {
    (0..most).find(|at| !peer.try_send(frame(*at))).unwrap_or(most)
}

#[test]
fn a_flood_of_small_calls_whose_answers_nobody_takes() {
    let siege = Siege::begin();
    let mut peer = siege.peer();
    let root = siege.root();
    let taken = flood(&mut peer, 400_000, |at| stat(2 + at, &root));
    assert!(taken < 400_000, "all were taken");
    siege.end();
}

#[test]
fn answers_that_are_never_finished() {
    let siege = Siege::begin();
    let mut peer = siege.peer();
    // Small ones that hold capabilities: the session is ended when there are too many.
    let (mut asked, fs) = (0, |question| call(question, Target::Whole(0), WORKSPACE_FS, |_| {}));
    while asked < 30_000 && (0..100).all(|at| peer.try_send(fs(2 + asked + at))) {
        asked += 100;
        if (0..100).any(|_| peer.receive().is_none()) {
            break;
        }
    }
    assert!((10_000..20_000).contains(&asked), "{asked} answers were kept");
    // Errors that repeat what was asked.
    let (mut peer, long) = (siege.peer(), vec![b'x'; 8_000_000]);
    for question in 2..66 {
        peer.send(stat(question, &long));
        let answer = peer.answers(1).remove(0);
        assert_eq!(code(&answer), "ENAMETOOLONG");
        assert!(answer.size_in_words() < 1000, "an error of {} words", answer.size_in_words());
    }
    siege.end();
}

#[test]
fn large_reads_that_are_never_finished() {
    let siege = Siege::begin();
    siege.fill("large", &vec![b'x'; 16 << 20]);
    let mut greedy = siege.peer();
    let large = siege.path("large");
    let read = |question| {
        call(question, FILES, READ, |params| {
            let mut read = params.init_as::<fs::read_params::Builder<'_>>();
            read.set_path(&large);
            read.set_count(4 << 20);
        })
    };
    (2..202).for_each(|question| greedy.send(read(question)));
    greedy.answers(3);
    // The others come as those before are done with.
    siege.holds();
    (2..5).for_each(|question| greedy.send(finish(question)));
    greedy.answers(3);
    siege.end();
}

#[test]
fn capabilities_without_end() {
    let siege = Siege::begin();
    siege.fill("file", b"x");
    let (mut peer, path) = (siege.peer(), siege.path("file"));
    let mut open = Vec::new();
    let mut codes = Vec::new();
    for question in 2..4200 {
        peer.send(read_file(question, &path));
        let answer = peer.answers(1).remove(0);
        codes.push(code(&answer));
        open.extend(caps(&answer));
        peer.send(finish_keeping(question));
    }
    assert_eq!(codes.iter().filter(|code| code.is_empty()).count(), 4096);
    assert!(codes[4096..].iter().all(|code| code == "EMFILE"), "{:?}", &codes[4090..]);
    // What is dropped makes room.
    peer.send(crate::peer::frame(|message| {
        let mut release = message.init_release();
        release.set_id(open[0]);
        release.set_reference_count(1);
    }));
    peer.send(read_file(2, &path));
    assert_eq!(code(&peer.answers(1)[0]), "");
    siege.end();
}

#[test]
fn thousands_of_watches_and_of_calls_that_wait() {
    let siege = Siege::begin();
    let (mut peer, root) = (siege.peer(), siege.root());
    peer.send(watch(2, &root));
    let first = caps(&peer.answers(1)[0])[0];
    for question in 3..4000 {
        peer.send(watch(question, &root));
    }
    let mut watches: Vec<_> = peer.answers(3997).iter().map(|answer| caps(answer)[0]).collect();
    watches.push(first);
    for (question, cap) in (10_000..).zip(&watches) {
        peer.send(watch_next(question, Target::Cap(*cap), 60_000));
    }
    // More calls than may run: those beyond wait in the connection.
    let more = flood(&mut peer, 1000, |at| watch_next(20_000 + at, Target::Cap(first), 60_000));
    assert_eq!(more, 1000);
    siege.holds();
    siege.fill("wakes everybody", b"x");
    peer.answers(watches.len());
    siege.end();
}

#[test]
fn changes_with_long_paths_for_thousands_of_watches() {
    let siege = Siege::begin();
    let mut deep = siege.root();
    for _ in 0..14 {
        deep.push(b'/');
        deep.extend_from_slice(&[b'd'; 250]);
    }
    let (mut peer, root) = (siege.peer(), siege.root());
    peer.send(call(2, FILES, (STAT.0, 7), |params| {
        let mut mkdir = params.init_as::<fs::mkdir_params::Builder<'_>>();
        mkdir.set_path(&deep);
        mkdir.set_recursive(true);
    }));
    assert_eq!(code(&peer.answers(1)[0]), "");
    let mut watcher = siege.peer();
    for question in 2..1002 {
        watcher.send(call(question, FILES, WATCH, |params| {
            let mut watch = params.init_as::<fs::watch_params::Builder<'_>>();
            watch.set_path(&root);
            watch.set_after(1);
        }));
    }
    let watches: Vec<_> = watcher.answers(1000).iter().map(|answer| caps(answer)[0]).collect();
    for question in 3..1503 {
        let path = [&deep[..], format!("/{question}").as_bytes()].concat();
        peer.send(call(question, FILES, (STAT.0, 5), |params| {
            params.init_as::<fs::append_params::Builder<'_>>().set_path(&path);
        }));
        assert_eq!(code(&peer.answers(1)[0]), "");
        peer.send(finish(question));
    }
    for (question, cap) in (10_000..).zip(&watches) {
        watcher.send(call(question, Target::Cap(*cap), crate::peer::WATCH_NEXT, |params| {
            let mut next = params.init_as::<wsd_schema::fs_capnp::watch::next_params::Builder<'_>>();
            next.set_limit(10_000);
        }));
    }
    watcher.answers(1);
    siege.end();
}

#[test]
fn writes_that_are_sent_faster_than_they_are_taken() {
    let siege = Siege::begin();
    let mut peer = siege.peer();
    peer.send(call(2, FILES, WRITE_FILE, |params| {
        params.init_as::<fs::write_file_params::Builder<'_>>().set_path(&siege.path("given up"));
    }));
    let frame = sink_write(3, Target::Answer(2, 1), &vec![b'x'; 4 << 20]);
    // The question is at a fixed place in the frame, which is too large to be made each time.
    let at = frame.windows(4).position(|four| four == 3u32.to_le_bytes()).unwrap();
    flood(&mut peer, 250, |number| {
        let mut frame = frame.clone();
        frame[at..at + 4].copy_from_slice(&(3 + number).to_le_bytes());
        frame
    });
    drop(peer);
    siege.end();
}

fn edit(question: u32, path: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    call(question, FILES, EDIT, |params| {
        let mut edit = params.init_as::<fs::edit_params::Builder<'_>>();
        edit.set_path(path);
        edit.set_old(old);
        edit.set_new(new);
        edit.set_all(true);
    })
}

#[test]
fn edits_that_would_make_a_file_explode() {
    let siege = Siege::begin();
    siege.fill("file", &vec![b'a'; 8 << 20]);
    let (mut peer, path) = (siege.peer(), siege.path("file"));
    peer.send(edit(2, &path, b"a", &vec![b'b'; 4 << 20]));
    assert_eq!(code(&peer.answers(1)[0]), "EFBIG");
    // Those that are large, but fit, come one after the other.
    siege.fill("large", &vec![b'a'; 60 << 20]);
    let large = siege.path("large");
    (3..19).for_each(|question| peer.send(edit(question, &large, b"aa", b"aa")));
    for answer in peer.answers(16) {
        assert!(matches!(code(&answer).as_str(), "" | "EAGAIN"));
    }
    siege.end_within(crate::siege::BOUND + (256 << 20));
}

#[test]
fn nobody_is_held_up_by_a_session_that_is_stuck() {
    let siege = Siege::begin();
    siege.fill("large", &vec![b'x'; 4 << 20]);
    let large = siege.path("large");
    let mut stuck: Vec<_> = (0..20).map(|_| siege.peer()).collect();
    for peer in &mut stuck {
        flood(peer, 200, |at| {
            call(2 + at, FILES, READ, |params| {
                let mut read = params.init_as::<fs::read_params::Builder<'_>>();
                read.set_path(&large);
                read.set_count(4 << 20);
            })
        });
    }
    let (mut peer, root, begun) = (siege.peer(), siege.root(), Instant::now());
    for question in 2..202 {
        peer.send(stat(question, &root));
        peer.answers(1);
        peer.send(finish(question));
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?} for 200 calls", begun.elapsed());
    drop((stuck, peer));
    eventually("the sessions to end", || siege.daemon.stat("/sessions") == 0);
    // Each of them may keep 16 MiB of answers, and as much again waits for its socket.
    siege.end_within(crate::siege::BOUND + 20 * (40 << 20));
}
