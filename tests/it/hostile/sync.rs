//! Replicas that mean harm: what they claim, and what they have the daemon unpack.

use crate::peer::{
    Peer, SYNC_BRING, SYNC_CHANGES, SYNC_FETCH, SYNC_HELLO, SYNC_PUSH, Target, WORKSPACE_SYNC, call, code,
    finish, look,
};
use crate::siege::Siege;
use crate::support::noise;
use wsd::clock::Timestamp;
use wsd::parcel;
use wsd::store::rows::Kind;
use wsd::sync::link::Told;
use wsd::sync::{Attributes, Author, NodeId, Offer, Place, State, Times};
use wsd_schema::sync_capnp::{Encoding, sync};

/// The hub, in every session of [`replica`].
const HUB: Target = Target::Answer(2, 0);

/// A session in which a replica has said hello.
fn replica(siege: &Siege) -> Peer {
    let mut peer = siege.peer();
    peer.send(call(2, Target::Whole(0), WORKSPACE_SYNC, |_| {}));
    peer.send(hello(3));
    let answers = peer.answers(2);
    assert_eq!(code(&answers[1]), "");
    peer
}

fn hello(question: u32) -> Vec<u8> {
    call(question, HUB, SYNC_HELLO, |params| {
        let mut hello = params.init_as::<sync::hello_params::Builder<'_>>().init_hello();
        hello.set_replica(&[9; 16]);
        hello.set_empty(true);
        hello.set_zstd(true);
    })
}

fn push(question: u32, size: u32, encoding: Encoding, data: &[u8]) -> Vec<u8> {
    call(question, HUB, SYNC_PUSH, |params| {
        let mut params = params.init_as::<sync::push_params::Builder<'_>>();
        params.set_life(&[9; 16]);
        let mut parcel = params.init_offers();
        parcel.set_size(size);
        parcel.set_encoding(encoding);
        parcel.set_data(data);
    })
}

fn bring(question: u32, objects: u32, size: u32, data: &[u8]) -> Vec<u8> {
    call(question, HUB, SYNC_BRING, |params| {
        let mut list = params.init_as::<sync::push_objects_params::Builder<'_>>().init_objects(objects);
        for at in 0..objects {
            let mut object = list.reborrow().get(at);
            object.set_hash(&[1; 32]);
            object.set_size(size);
            object.set_encoding(Encoding::Zstd);
            object.set_data(data);
        }
    })
}

#[test]
fn what_explodes_when_it_is_unpacked() {
    let siege = Siege::begin();
    let mut peer = replica(&siege);
    let bomb = |bytes: usize| zstd::bulk::compress(&vec![0xff; bytes], 1).unwrap();
    // As much as may be claimed, many times; more than that; and claims that are not kept.
    let (large, larger, piece) = (bomb(16 << 20), bomb(64 << 20), bomb(256 << 10));
    let (mut sent, first) = (0, 10);
    for _ in 0..50 {
        for frame in [
            push(first + sent, 16 << 20, Encoding::Zstd, &large),
            push(first + sent + 1, 64 << 20, Encoding::Zstd, &larger),
            push(first + sent + 2, 1000, Encoding::Zstd, &larger),
            bring(first + sent + 3, 16, 256 << 10, &piece),
            bring(first + sent + 4, 1024, 256 << 10, &piece),
            bring(first + sent + 5, 3, u32::MAX, &piece),
        ] {
            peer.send(frame);
            sent += 1;
        }
    }
    for answer in peer.answers(sent as usize) {
        assert_eq!(code(&answer), "EPROTOCOL");
    }
    siege.end();
}

/// A directory in the root, as a push of one offer.
fn push_dir(question: u32, name: &str) -> Vec<u8> {
    let place = Place { parent: NodeId::ROOT, name: name.as_bytes().into() };
    let at = Timestamp(1);
    let state = State {
        kind: Kind::Dir,
        places: [place].into(),
        attributes: Attributes { mode: 0o755, ..Attributes::default() },
        times: Times { atime: at, mtime: at, btime: at },
        content: None,
    };
    let id = NodeId { author: Author([9; 16]), ino: 7 };
    let offer = Told { what: Offer { id, base: None, state: Some(state) }, bytes: None, allocated: 0 };
    let parcel = parcel::pack_offers(&[offer], parcel::Encoding::Plain).unwrap();
    call(question, HUB, SYNC_PUSH, |params| {
        let mut params = params.init_as::<sync::push_params::Builder<'_>>();
        params.set_life(&[9; 16]);
        params.set_up_to(5);
        parcel.write(params.init_offers());
    })
}

/// The push waited for its turn, and was taken as if it had been sent after a hello whose answer had said that it was not.
#[test]
fn a_push_that_a_later_hello_has_not_told_of_is_not_taken() {
    let siege = Siege::begin();
    let mut peer = replica(&siege);
    // What it waits for.
    let bomb = zstd::bulk::compress(&vec![0xff; 16 << 20], 1).unwrap();
    for question in 10..60 {
        peer.send(push(question, 16 << 20, Encoding::Zstd, &bomb));
    }
    peer.send(push_dir(100, "made"));
    peer.send(hello(101));
    let (mut pushed, mut welcomed) = (None, None);
    for answer in peer.answers(52) {
        match look(&answer, |question, _| question) {
            100 => pushed = Some(code(&answer)),
            101 => {
                welcomed = Some(look(&answer, |_, results| {
                    let results: sync::hello_results::Reader<'_> = results.unwrap().get_as().unwrap();
                    results.get_welcome().unwrap().get_pushed()
                }))
            }
            _ => {}
        }
    }
    let known = welcomed.unwrap() == 5;
    assert_eq!(pushed.unwrap(), if known { "" } else { "ENOTCONN" }, "the hello knew of it: {known}");
    // It can be sent again.
    peer.send(push_dir(102, "made"));
    assert_eq!(code(&peer.answers(1)[0]), "");
    siege.end();
}

#[test]
fn messages_within_messages_that_make_no_sense() {
    let siege = Siege::begin();
    let mut peer = replica(&siege);
    let header =
        |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
    let mut evil = vec![
        Vec::new(),
        header(&[u32::MAX, u32::MAX]),
        header(&[0, u32::MAX]),
        crate::peer::deep(1 << 16),
        // A list of 2^29 - 1 elements that take no room.
        [header(&[0, 3]), header(&[0, 1 << 16, 1, 0xffff_ffff, 0, 0])].concat(),
    ];
    evil.extend((0..200).map(|seed| [header(&[0, 15]), noise(seed, 120)].concat()));
    let mut count = 0;
    for (question, data) in (10..).zip(&evil) {
        peer.send(push(question, data.len() as u32, Encoding::Plain, data));
        count += 1;
    }
    let answers = peer.answers(count);
    let refused = answers.iter().filter(|answer| code(answer) == "EPROTOCOL").count();
    assert!(refused > count / 2, "{refused} of {count}");
    siege.end();
}

#[test]
fn thousands_of_questions_that_wait_and_answers_that_nobody_takes() {
    let siege = Siege::begin();
    let mut waiting = replica(&siege);
    let changes = |question, life: &[u8]| {
        call(question, HUB, SYNC_CHANGES, |params| {
            let mut params = params.init_as::<sync::fetch_changes_params::Builder<'_>>();
            params.set_wait_ms(60_000);
            params.init_after().set_life(life);
        })
    };
    waiting.send(changes(9, &[1; 3]));
    assert_eq!(code(&waiting.answers(1)[0]), "EPROTOCOL");
    for question in 10..4000 {
        if !waiting.try_send(changes(question, &[0x68; 16])) {
            break;
        }
    }
    siege.holds();
    // Objects that are asked for again and again.
    let mut peer = replica(&siege);
    for question in 10..2000 {
        let frame = call(question, HUB, SYNC_FETCH, |params| {
            params.init_as::<sync::fetch_objects_params::Builder<'_>>().set_hashes(&noise(1, 32 * 1024));
        });
        if !peer.try_send(frame) || !peer.try_send(finish(question)) {
            break;
        }
    }
    siege.holds();
    drop((waiting, peer));
    siege.end();
}
