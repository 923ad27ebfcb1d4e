//! Messages that are none, or make no sense.

use crate::peer::{
    FILES, FIND, GREP, Peer, READ_FILE, SOURCE_NEXT, STAT, Target, WATCH, WORKSPACE_FS, bootstrap, call,
    caps, code, deep, finish, finish_keeping, frame, look, stat, watch_next,
};
use crate::siege::Siege;
use crate::support::{Place, noise};
use capnp_rpc::rpc_capnp::{cap_descriptor, message};
use wsd_schema::fs_capnp::fs;

fn header(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[test]
fn frames_that_are_none_end_their_session_only() {
    let siege = Siege::begin();
    let mut evil = vec![
        Vec::new(),
        vec![0],
        header(&[u32::MAX]),
        header(&[u32::MAX, u32::MAX]),
        header(&[0, u32::MAX]),
        header(&[0, 1 << 20]),
        header(&[&[63][..], &[u32::MAX; 64], &[0]].concat()),
        header(&[64]),
        header(&[0, 0]),
        [bootstrap(0), vec![0; 8]].concat(),
        bootstrap(0)[..8].to_vec(),
        vec![0; 9 << 20],
    ];
    evil.extend((0..200).map(|seed| noise(seed, 8 * (1 + seed as usize))));
    // Random words behind a header that fits.
    evil.extend((200..600).map(|seed| [header(&[0, 16]), noise(seed, 128)].concat()));
    for bytes in evil {
        let mut peer = siege.peer();
        if peer.try_send(bytes) {
            // Where it was a message after all the session goes on; the next one says.
            peer.try_send(vec![1; 3]);
            peer.drained();
        }
    }
    let mut peer = siege.peer();
    peer.send_text("{\"jsonrpc\": \"2.0\"}");
    peer.drained();
    siege.end();
}

/// It was only cut off, and whoever had dialled it dialled again.
#[test]
fn a_session_that_makes_no_sense_is_closed_with_a_code() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    for bytes in [vec![0], header(&[64]), header(&[0, 1 << 20])] {
        let mut peer = Peer::silent(&daemon);
        peer.send(bytes);
        assert_eq!(peer.close_code(), Some(1008));
    }
    let mut peer = Peer::silent(&daemon);
    peer.send_text("{}");
    assert_eq!(peer.close_code(), Some(1008));
    let mut peer = Peer::connect(&daemon);
    daemon.stop();
    assert_eq!(peer.close_code(), Some(1001));
}

#[test]
fn deep_pointers_and_lists_of_nothing() {
    let siege = Siege::begin();
    let mut peer = Peer::silent(&siege.daemon);
    peer.try_send(deep(1 << 19));
    peer.drained();
    // A list of 2^29 - 1 elements that take no room, where a few are expected that do.
    let mut peer = siege.peer();
    let mut claim = call(2, FILES, FIND, |params| {
        let mut options = params.init_as::<fs::find_params::Builder<'_>>().init_options();
        options.set_path(&siege.root());
        options.reborrow().init_globs(5);
        options.init_kinds(5);
    });
    let mut claims = 0;
    for word in claim.chunks_exact_mut(8) {
        let (low, high) = word.split_at_mut(4);
        let is_list = low[0] & 3 == 1;
        if is_list && matches!(u32::from_le_bytes(high.try_into().unwrap()), 0x2b | 0x2e) {
            high.copy_from_slice(&0xffff_fff8_u32.to_le_bytes());
            claims += 1;
        }
    }
    assert_eq!(claims, 2);
    peer.send(claim);
    look(&peer.answers(1)[0], |_, results| assert!(results.is_err()));
    siege.end();
}

/// What is wrong with one message is told, or ends the session, whatever the message is.
#[test]
fn messages_that_make_no_sense() {
    let siege = Siege::begin();
    let root = siege.root();
    let path = |params: capnp::any_pointer::Builder<'_>| {
        params.init_as::<fs::stat_params::Builder<'_>>().set_path(&root);
    };
    let with_cap = |fill: FillCap<'_>| {
        frame(|message| {
            let mut call = message.init_call();
            call.set_question_id(2);
            call.set_interface_id(WATCH.0);
            call.set_method_id(WATCH.1);
            let mut promised = call.reborrow().init_target().init_promised_answer();
            promised.set_question_id(1);
            promised.init_transform(1).get(0).set_get_pointer_field(0);
            let mut params = call.init_params();
            fill(params.reborrow().init_cap_table(1).get(0));
            params.init_content().init_as::<fs::watch_params::Builder<'_>>().set_path(&root);
        })
    };
    let wrong: Vec<Vec<Vec<u8>>> = vec![
        vec![call(2, Target::Cap(77), STAT, path)],
        vec![call(2, Target::Cap(u32::MAX), STAT, path)],
        vec![call(2, Target::Answer(77, 0), STAT, path)],
        vec![call(2, Target::Answer(1, 77), STAT, path)],
        vec![call(2, FILES, (STAT.0, 9999), path)],
        vec![call(2, FILES, (0xdead_beef_dead_beef, 0), path)],
        vec![call(2, FILES, WORKSPACE_FS, path)],
        vec![call(1, FILES, STAT, path)],
        vec![bootstrap(0)],
        vec![stat(2, &root), stat(2, &root), stat(2, &root)],
        vec![finish(77), finish(1), finish(1), stat(2, &root)],
        vec![frame(|message| {
            let mut release = message.init_release();
            release.set_id(0);
            release.set_reference_count(u32::MAX);
        })],
        vec![frame(|message| message.init_release().set_id(4711))],
        vec![frame(|message| message.init_return().set_answer_id(3))],
        vec![frame(|message| {
            message.init_resolve().init_cap().set_sender_hosted(7);
        })],
        vec![frame(|message| {
            message.init_disembargo().init_context().set_receiver_loopback(7);
        })],
        vec![frame(|message| {
            let mut disembargo = message.init_disembargo();
            disembargo.reborrow().init_target().set_imported_cap(0);
            disembargo.init_context().set_sender_loopback(7);
        })],
        vec![frame(|message| message.init_provide().set_question_id(5))],
        vec![frame(|message| message.init_accept().set_question_id(5))],
        vec![frame(|message| message.init_join().set_question_id(5))],
        vec![frame(|message| message.init_abort().set_reason("so long"))],
        vec![frame(|message| {
            message.init_unimplemented().init_call().set_question_id(5);
        })],
        vec![frame(|message| {
            message.init_unimplemented().init_resolve().init_cap().set_sender_hosted(0);
        })],
        // Capabilities of the peer, which are never asked for anything.
        vec![with_cap(&|mut cap| cap.set_sender_hosted(7)), finish(2)],
        vec![with_cap(&|mut cap| cap.set_receiver_hosted(7))],
        vec![with_cap(&|cap| cap.init_receiver_answer().set_question_id(2))],
        vec![with_cap(&|cap| cap.init_third_party_hosted().set_vine_id(2))],
        promise_that_turns(&with_cap, |mut cap| cap.set_sender_hosted(7)),
        promise_that_turns(&with_cap, |mut cap| cap.set_sender_promise(7)),
        promise_that_turns(&with_cap, |mut cap| cap.set_receiver_hosted(0)),
        promise_that_turns(&with_cap, |mut cap| cap.set_sender_promise(8)),
    ];
    for messages in wrong {
        let mut peer = siege.peer();
        for message in messages {
            if !peer.try_send(message) {
                break;
            }
        }
        until_answered_or_ended(&mut peer, &root);
        siege.holds();
    }
    siege.end();
}

/// Says what a capability is.
type FillCap<'a> = &'a dyn Fn(cap_descriptor::Builder<'_>);

/// A call with a promise in it, then what the promise became, twice.
fn promise_that_turns(
    with_cap: &dyn Fn(FillCap<'_>) -> Vec<u8>,
    into: impl Fn(cap_descriptor::Builder<'_>),
) -> Vec<Vec<u8>> {
    let resolve = || {
        frame(|message| {
            let mut resolve = message.init_resolve();
            resolve.set_promise_id(7);
            into(resolve.init_cap());
        })
    };
    // The call that holds the promise is one that waits.
    let waits = watch_next(3, Target::Answer(2, 1), 500);
    vec![with_cap(&|mut cap| cap.set_sender_promise(7)), waits, resolve(), resolve(), finish(2), finish(3)]
}

/// Either the session has ended, or it answers.
fn until_answered_or_ended(peer: &mut Peer, root: &[u8]) {
    if peer.try_send(stat(9999, root)) {
        while peer.receive().is_some_and(|message| !is_answer_to(&message, 9999)) {}
    }
}

fn is_answer_to(message: &crate::peer::Received, question: u32) -> bool {
    let Ok(message::Return(answer)) = message.get_root::<message::Reader<'_>>().unwrap().which() else {
        return false;
    };
    answer.unwrap().get_answer_id() == question
}

/// Every kind of message with numbers that hit and miss, in every order.
#[test]
fn random_messages() {
    let siege = Siege::begin();
    let root = siege.root();
    for seed in 0..300 {
        let mut peer = siege.peer();
        let mut dice = noise(seed, 4096).into_iter();
        let mut small = move || u32::from(dice.next().unwrap() % 6);
        for _ in 0..60 {
            if !peer.try_send(random(&mut small, &root)) {
                break;
            }
        }
        peer.try_send(vec![1; 3]);
        peer.drained();
    }
    siege.end();
}

fn random(small: &mut impl FnMut() -> u32, root: &[u8]) -> Vec<u8> {
    let (one, two, three) = (small(), small(), small());
    let target =
        if one.is_multiple_of(2) { Target::Cap(two) } else { Target::Answer(two, (three % 3) as u16) };
    match small() * 6 + small() {
        0..8 => call(small(), target, STAT, |params| {
            params.init_as::<fs::stat_params::Builder<'_>>().set_path(root);
        }),
        8..12 => call(small(), target, READ_FILE, |params| {
            params.init_as::<fs::read_file_params::Builder<'_>>().set_path(root);
        }),
        12..14 => call(small(), target, SOURCE_NEXT, |_| {}),
        14..16 => watch_next(small(), target, 1),
        16..18 => call(small(), target, if one > 2 { FIND } else { GREP }, |_| {}),
        18..20 => finish(small()),
        20..22 => finish_keeping(small()),
        22 => bootstrap(small()),
        23..25 => frame(|message| {
            let mut release = message.init_release();
            release.set_id(one);
            release.set_reference_count(two);
        }),
        25..28 => frame(|message| {
            let mut resolve = message.init_resolve();
            resolve.set_promise_id(one);
            match three {
                0 => resolve.init_cap().set_sender_promise(two),
                1 => resolve.init_cap().set_receiver_hosted(two),
                2 => resolve.init_cap().init_receiver_answer().set_question_id(two),
                _ => resolve.init_cap().set_sender_hosted(two),
            }
        }),
        28..35 => frame(|message| {
            let mut call = message.init_call();
            call.set_question_id(small());
            call.set_interface_id(WATCH.0);
            call.set_method_id(WATCH.1);
            call.reborrow().init_target().init_promised_answer().set_question_id(one);
            match three {
                0 | 1 => call.reborrow().get_send_results_to().set_yourself(()),
                _ => call.reborrow().get_send_results_to().set_caller(()),
            }
            let mut params = call.init_params();
            let mut cap = params.reborrow().init_cap_table(1).get(0);
            match small() {
                0 | 1 => cap.set_sender_promise(two),
                2 => cap.set_receiver_hosted(two),
                3 => cap.init_receiver_answer().set_question_id(two),
                _ => cap.set_sender_hosted(two),
            }
            params.init_content().init_as::<fs::watch_params::Builder<'_>>().set_path(root);
        }),
        _ => frame(|message| {
            let mut disembargo = message.init_disembargo();
            disembargo.reborrow().init_target().init_promised_answer().set_question_id(one);
            disembargo.init_context().set_sender_loopback(two);
        }),
    }
}

/// The vat resolves what is asked of an answer by recursion: a chain of thousands, as here, was the end of the stack
/// and of the daemon.
#[test]
fn long_chains_of_calls_on_answers() {
    let siege = Siege::begin();
    let watch = |params: capnp::any_pointer::Builder<'_>| {
        params.init_as::<fs::watch_params::Builder<'_>>().set_path(&siege.root());
    };
    for waits in [false, true] {
        let mut peer = siege.peer();
        peer.try_send(call(2, FILES, WATCH, watch));
        if waits {
            peer.try_send(watch_next(3, Target::Answer(2, 1), 300));
        }
        let first = if waits { 3 } else { 2 };
        for number in first..4000 {
            let target = Target::Answer(number, 0);
            if !peer.try_send(call(number + 1, target, WORKSPACE_FS, |_| {})) {
                break;
            }
        }
        until_answered_or_ended(&mut peer, &siege.root());
        siege.holds();
    }
    // One as long as anybody needs.
    let mut peer = siege.peer();
    peer.send(call(2, FILES, WATCH, watch));
    peer.send(watch_next(3, Target::Answer(2, 1), 300));
    (3..60).for_each(|number| peer.send(call(number + 1, Target::Answer(number, 0), WORKSPACE_FS, |_| {})));
    peer.answers(59);
    siege.end();
}

/// As with calls: what a promise became was taken apart by recursion.
#[test]
fn long_chains_of_promises() {
    let siege = Siege::begin();
    let mut peer = siege.peer();
    peer.send(frame(|message| {
        let mut call = message.init_call();
        call.set_question_id(2);
        call.set_interface_id(WATCH.0);
        call.set_method_id(WATCH.1);
        call.reborrow().init_target().set_imported_cap(1);
        let mut params = call.init_params();
        params.reborrow().init_cap_table(1).get(0).set_sender_promise(0);
        params.init_content().init_as::<fs::watch_params::Builder<'_>>().set_path(&siege.root());
    }));
    for number in 0..100_000 {
        let resolve = frame(|message| {
            let mut resolve = message.init_resolve();
            resolve.set_promise_id(number);
            resolve.init_cap().set_sender_promise(number + 1);
        });
        if !peer.try_send(resolve) {
            break;
        }
    }
    peer.drained();
    siege.end();
}

#[test]
fn capabilities_of_another_session_are_out_of_reach() {
    let siege = Siege::begin();
    let mut rich = siege.peer();
    rich.send(call(2, FILES, WATCH, |params| {
        params.init_as::<fs::watch_params::Builder<'_>>().set_path(&siege.root());
    }));
    let cap = caps(&rich.answers(1)[0])[0];
    let mut poor = siege.peer();
    poor.send(watch_next(2, Target::Cap(cap), 1));
    poor.drained();
    rich.send(watch_next(3, Target::Cap(cap), 1));
    assert_eq!(code(&rich.answers(1)[0]), "");
    siege.end();
}
