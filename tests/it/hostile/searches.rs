//! Searches that are large, slow, many, or left alone.

use crate::peer::{
    FILES, FIND, FIND_NEXT, GREP, GREP_NEXT, Peer, Target, call, caps, code, finish, finish_keeping, look,
};
use crate::siege::{BOUND, Siege};
use crate::support::eventually;
use std::fs::read_to_string;
use std::time::Duration;
use wsd_schema::fs_capnp::{fs, match_cursor};

fn grep(question: u32, path: &[u8], pattern: &str) -> Vec<u8> {
    call(question, FILES, GREP, |params| {
        let mut options = params.init_as::<fs::grep_params::Builder<'_>>().init_options();
        options.set_pattern(pattern);
        options.init_in().set_path(path);
    })
}

fn grep_next(question: u32, cursor: Target, limit: u32) -> Vec<u8> {
    call(question, cursor, GREP_NEXT, |params| {
        params.init_as::<match_cursor::next_params::Builder<'_>>().set_limit(limit);
    })
}

/// Processor time of the daemon so far, in hundredths of a second.
fn ticks(siege: &Siege) -> u64 {
    let stat = read_to_string(format!("/proc/{}/stat", siege.daemon.pid())).unwrap();
    let after = stat.rsplit_once(") ").unwrap().1;
    after.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[test]
fn searches_that_are_left_alone_stop() {
    let siege = Siege::begin();
    siege
        .fill("large", &b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n".repeat(1 << 20));
    let root = siege.root();
    let mut peers: Vec<Peer> = (0..20).map(|_| siege.peer()).collect();
    for peer in &mut peers {
        for number in 0..16 {
            peer.send(grep(10 + number, &root, "(a|b|ab)*c"));
            peer.send(grep_next(100 + number, Target::Answer(10 + number, 1), 1000));
        }
    }
    siege.holds();
    // Some say that they do not want it any more, the others are gone.
    for peer in peers.iter_mut().take(10) {
        for number in 0..16 {
            peer.send(finish(100 + number));
            peer.send(finish(10 + number));
        }
    }
    drop(peers);
    eventually("the searches to stop", || {
        let before = ticks(&siege);
        std::thread::sleep(Duration::from_millis(200));
        ticks(&siege) - before <= 2
    });
    siege.end_within(BOUND + (256 << 20));
}

#[test]
fn lines_and_paths_and_spans_without_end() {
    let siege = Siege::begin();
    // Lines of 60 KB with thousands of matches, in files with long paths.
    let line = [&b"ab".repeat(30_000)[..], b"\n"].concat();
    siege.fill("long", &line.repeat(500));
    siege.fill("short", &b"a\n".repeat(100_000));
    let (mut peer, root) = (siege.peer(), siege.root());
    for question in 0..40 {
        peer.send(grep(2 + question, &root, "a"));
        peer.send(grep_next(100 + question, Target::Answer(2 + question, 1), 10_000));
    }
    let mut brought = 0;
    for answer in peer.answers(80) {
        if look(&answer, |question, _| question) >= 100 {
            assert_eq!(code(&answer), "");
            brought += answer.size_in_words() * 8;
            peer.send(finish(look(&answer, |question, _| question)));
        }
    }
    assert!(brought > 40 << 20, "{brought} bytes");
    siege.end_within(BOUND + (128 << 20));
}

#[test]
fn patterns_that_are_made_to_be_large() {
    let siege = Siege::begin();
    let (mut peer, root) = (siege.peer(), siege.root());
    for pattern in
        [r"\w{1000}{1000}", r"(((\pL{50}){50}){50}){50}", &"(".repeat(100_000), &"a|".repeat(1 << 20)]
    {
        peer.send(grep(2, &root, pattern));
        assert_eq!(code(&peer.answers(1)[0]), "EPROTOCOL", "{:.40}", pattern);
        peer.send(finish(2));
    }
    for glob in ["{a,b}".repeat(10_000), "*".repeat(1 << 20), "[".repeat(1000), "{".repeat(100_000)] {
        peer.send(call(2, FILES, FIND, |params| {
            let mut options = params.init_as::<fs::find_params::Builder<'_>>().init_options();
            options.set_path(&root);
            options.reborrow().init_globs(1).set(0, &glob);
            options.init_excludes(1).set(0, &glob);
        }));
        // Whether it is refused or not, it comes to an end.
        peer.answers(1);
        peer.send(finish(2));
    }
    siege.end();
}

#[test]
fn searches_that_are_opened_without_end() {
    let siege = Siege::begin();
    let (mut peer, root) = (siege.peer(), siege.root());
    let mut refused = None;
    for question in 2..1002 {
        peer.send(grep(question, &root, &format!(r"\w{{20}}{question}")));
        let answer = peer.answers(1).remove(0);
        if code(&answer) == "EMFILE" {
            refused = Some(question);
            break;
        }
        assert_eq!((code(&answer), caps(&answer).len()), (String::new(), 1));
        peer.send(finish_keeping(question));
    }
    assert!(refused.is_some_and(|at| at > 100), "{refused:?}");
    siege.end_within(BOUND + (256 << 20));
}

#[test]
fn names_without_end() {
    let siege = Siege::begin();
    let mut deep = siege.root();
    for _ in 0..15 {
        deep.push(b'/');
        deep.extend_from_slice(&[b'd'; 250]);
    }
    let mut peer = siege.peer();
    peer.send(call(2, FILES, (FIND.0, 7), |params| {
        let mut mkdir = params.init_as::<fs::mkdir_params::Builder<'_>>();
        mkdir.set_path(&deep);
        mkdir.set_recursive(true);
    }));
    assert_eq!(code(&peer.answers(1)[0]), "");
    for question in 3..3003 {
        let path = [&deep[..], format!("/{question}").as_bytes()].concat();
        peer.send(call(question, FILES, (FIND.0, 5), |params| {
            params.init_as::<fs::append_params::Builder<'_>>().set_path(&path);
        }));
        assert_eq!(code(&peer.answers(1)[0]), "");
        peer.send(finish(question));
    }
    let root = siege.root();
    for question in 0..20 {
        peer.send(call(4000 + question, FILES, FIND, |params| {
            params.init_as::<fs::find_params::Builder<'_>>().init_options().set_path(&root);
        }));
        peer.send(call(5000 + question, Target::Answer(4000 + question, 1), FIND_NEXT, |params| {
            let mut next = params.init_as::<wsd_schema::fs_capnp::entry_cursor::next_params::Builder<'_>>();
            next.set_limit(10_000);
        }));
    }
    peer.answers(40);
    siege.end();
}
