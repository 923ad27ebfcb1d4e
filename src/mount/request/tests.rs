//! Requests as the kernel lays them out, and bytes that are none.

use super::{Moment, Operation, Request, Set, forgotten};
use crate::clock::Timestamp;
use proptest::prelude::*;

/// A request with a body, as the kernel sends it.
fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    [40 + body.len() as u32, opcode].into_iter().for_each(|value| bytes.extend(value.to_ne_bytes()));
    [77_u64, 5].into_iter().for_each(|value| bytes.extend(value.to_ne_bytes()));
    [1000_u32, 100, 4242, 0].into_iter().for_each(|value| bytes.extend(value.to_ne_bytes()));
    bytes.extend(body);
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_ne_bytes()).collect()
}

#[test]
fn the_header_says_who_asks_and_of_what() {
    let bytes = request(3, &[0; 16]);
    let request = Request::parse(&bytes).unwrap();
    assert_eq!((request.unique, request.node), (77, 5));
    assert_eq!((request.uid, request.gid, request.pid), (1000, 100, 4242));
    assert_eq!(request.operation, Operation::GetAttr);
}

#[test]
fn names_are_bytes_and_end_with_a_zero() {
    let rename = [longs(&[9]), words(&[1, 0]), b"a\xff\0b c\0".to_vec()].concat();
    let bytes = request(45, &rename);
    let expected = Operation::Rename { name: b"a\xff", new_parent: 9, new_name: b"b c", flags: 1 };
    assert_eq!(Request::parse(&bytes).unwrap().operation, expected);
    let bytes = request(45, &rename[..rename.len() - 1]);
    assert_eq!(Request::parse(&bytes).unwrap().operation, Operation::Malformed(45));
    let bytes = request(6, b"name\0target\0");
    assert_eq!(
        Request::parse(&bytes).unwrap().operation,
        Operation::Symlink { name: b"name", target: b"target" }
    );
}

#[test]
fn a_file_without_a_name_is_asked_for_with_its_mode() {
    let bytes = request(51, &[words(&[0o20_200_002, 0o100_640, 0o22, 0]), b"#1\0".to_vec()].concat());
    assert_eq!(
        Request::parse(&bytes).unwrap().operation,
        Operation::TmpFile { mode: 0o100_640, umask: 0o22 }
    );
}

#[test]
fn only_what_is_valid_is_set() {
    let fields = |valid: u32| {
        let times = [longs(&[-2_i64 as u64, 20, 30]), words(&[500_000_000, 2, 3])].concat();
        [words(&[valid, 0]), longs(&[0, 4096, 0]), times, words(&[0o644, 0, 7, 8, 0])].concat()
    };
    let parse = |valid: u32| match Request::parse(&request(4, &fields(valid))).unwrap().operation {
        Operation::SetAttr(set) => set,
        other => panic!("{other:?}"),
    };
    assert_eq!(parse(0), Set::default());
    assert_eq!(parse(1), Set { mode: Some(0o644), ..Set::default() });
    assert_eq!(parse(2 | 4 | 8), Set { uid: Some(7), gid: Some(8), size: Some(4096), ..Set::default() });
    let before = Moment::At(Timestamp::from_parts(-2, 500_000_000));
    assert_eq!(parse(1 << 4).atime, Some(before), "nanoseconds count from the second before");
    assert_eq!(parse(1 << 5 | 1 << 8).mtime, Some(Moment::Now));
    assert_eq!(parse(8 | 1 << 11), Set { size: Some(4096), is_unprivileged: true, ..Set::default() });
    assert_eq!(parse(1 << 10).ctime, Some(Timestamp::from_parts(30, 3)));
}

#[test]
fn the_content_of_a_write_is_as_long_as_it_says() {
    let body = |size: u32| {
        let head = [longs(&[0, 8192]), words(&[size, 1 | 4]), longs(&[0]), words(&[0, 0])].concat();
        request(16, &[head, b"content".to_vec()].concat())
    };
    let expected =
        Operation::Write { offset: 8192, data: b"content", is_cached: true, is_unprivileged: true };
    assert_eq!(Request::parse(&body(7)).unwrap().operation, expected);
    assert_eq!(Request::parse(&body(8)).unwrap().operation, Operation::Malformed(16));
}

#[test]
fn nodes_are_forgotten_by_the_dozen() {
    let bytes = request(42, &[words(&[2, 0]), longs(&[7, 1, 8, 3])].concat());
    let Operation::ForgetMany { these } = Request::parse(&bytes).unwrap().operation else { panic!() };
    assert_eq!(forgotten(these).collect::<Vec<_>>(), [(7, 1), (8, 3)]);
    let bytes = request(42, &[words(&[u32::MAX, 0]), longs(&[7, 1])].concat());
    assert_eq!(Request::parse(&bytes).unwrap().operation, Operation::Malformed(42));
}

#[test]
fn what_is_not_known_keeps_its_number() {
    let bytes = request(4711, b"whatever");
    assert_eq!(Request::parse(&bytes).unwrap().operation, Operation::Unknown(4711));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(opcode in 0_u32..60, body in prop::collection::vec(any::<u8>(), 0..120), cut in 0_usize..160) {
        let mut bytes = request(opcode, &body);
        bytes.truncate(cut);
        if let Some(Request { operation: Operation::ForgetMany { these }, .. }) = Request::parse(&bytes) {
            forgotten(these).for_each(drop);
        }
    }
}

#[test]
fn a_reader_may_ask_that_the_time_of_access_stays() {
    let body =
        |flags: i32| [longs(&[0, 8192]), words(&[4096, 0]), longs(&[0]), words(&[flags as u32, 0])].concat();
    for flags in [libc::O_RDWR, libc::O_NOATIME, libc::O_DIRECT] {
        let (is_quiet, is_direct) = (flags == libc::O_NOATIME, flags == libc::O_DIRECT);
        let expected = Operation::Read { offset: 8192, size: 4096, is_quiet, is_direct };
        assert_eq!(Request::parse(&request(15, &body(flags))).unwrap().operation, expected);
    }
    assert_eq!(
        Request::parse(&request(28, &body(0))).unwrap().operation,
        Operation::ReadDir { offset: 8192, size: 4096 }
    );
}
