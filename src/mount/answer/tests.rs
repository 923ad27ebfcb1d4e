//! Answers as the kernel reads them.

use super::{ATTR, Answer, Body, Errno, Listing, Reply, STATX};
use crate::clock::Timestamp;
use crate::store::rows::Kind;
use crate::vfs::{Attr, StatFs};
use std::io::Read;
use std::sync::Arc;

fn attr() -> Attr {
    let time = |sec| Timestamp::from_parts(sec, 5);
    Attr {
        ino: 42,
        kind: Kind::CharDevice,
        revision: 1,
        mode: 0o4755,
        nlink: 3,
        uid: 7,
        gid: 8,
        rdev: 0x4930_05e0,
        size: 1 << 40,
        blocks: 9,
        atime: time(1),
        mtime: time(2),
        ctime: time(3),
        btime: time(-4),
    }
}

fn body(answer: &Answer) -> Vec<u8> {
    let mut body = Body(Vec::new());
    body.answer(answer);
    body.0
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[test]
fn answers_are_as_long_as_the_kernel_wants_them() {
    let statfs = StatFs { total: 1 << 30, free: 1 << 20, nodes: 5 };
    let lengths = [
        (Answer::Entry(attr()), 40 + ATTR),
        (Answer::NoEntry, 40 + ATTR),
        (Answer::Opened(attr()), 40 + ATTR + 16),
        (Answer::Attributes(attr()), 16 + ATTR),
        (Answer::Statx(attr()), STATX),
        (Answer::StatFs(statfs), 80),
        (Answer::Written(1), 8),
        (Answer::Size(1), 8),
        (Answer::Offset(1), 8),
        (Answer::Done, 0),
    ];
    for (answer, length) in lengths {
        assert_eq!(body(&answer).len(), length, "{answer:?}");
    }
}

#[test]
fn attributes_are_where_the_kernel_looks_for_them() {
    let bytes = body(&Answer::Attributes(attr()));
    let attr = &bytes[16..];
    assert_eq!((u64_at(attr, 0), u64_at(attr, 8), u64_at(attr, 16)), (42, 1 << 40, 9));
    assert_eq!((u64_at(attr, 24), u64_at(attr, 32), u64_at(attr, 40), u32_at(attr, 48)), (1, 2, 3, 5));
    assert_eq!((u32_at(attr, 60), u32_at(attr, 64)), (libc::S_IFCHR | 0o4755, 3));
    assert_eq!((u32_at(attr, 68), u32_at(attr, 72), u32_at(attr, 76)), (7, 8, 0x4930_05e0));
}

#[test]
fn statx_has_the_time_of_birth() {
    let bytes = body(&Answer::Statx(attr()));
    let statx = &bytes[32..];
    assert_eq!(u32_at(statx, 0), 0xfff);
    assert_eq!(u64_at(statx, 32), 42);
    assert_eq!((u64_at(statx, 64) as i64, u64_at(statx, 80) as i64), (1, -4), "access, birth");
    assert_eq!((u64_at(statx, 96), u64_at(statx, 112)), (3, 2), "change, modification");
    assert_eq!((u32_at(statx, 128), u32_at(statx, 132)), (5, 300_000), "of a device as mknod(1) has it");
}

#[test]
fn a_listing_has_what_fits() {
    let mut listing = Listing::new(64);
    assert!(listing.add(1, 10, Kind::Dir, b"one", None));
    assert!(listing.add(2, 11, Kind::File, b"seconds", None));
    assert!(!listing.add(3, 12, Kind::File, b"third", None));
    let bytes = listing.into_bytes();
    assert_eq!((bytes.len(), u64_at(&bytes, 32), u64_at(&bytes, 40)), (64, 2, 11));
    assert_eq!(
        (u32_at(&bytes, 48), u32_at(&bytes, 52), &bytes[56..63]),
        (7, libc::S_IFREG >> 12, &b"seconds"[..])
    );
    let mut listing = Listing::plus(160);
    assert!(listing.add(42, 10, Kind::File, b"name", Some(&attr())));
    assert!(!listing.add(43, 11, Kind::File, b"", Some(&attr())));
    assert_eq!(listing.into_bytes().len(), 160);
    let mut listing = Listing::plus(160);
    assert!(listing.add(42, 10, Kind::File, b"name", None));
    let bytes = listing.into_bytes();
    assert_eq!(
        (bytes.len(), u64_at(&bytes, 0), u64_at(&bytes, 40 + ATTR)),
        (160, 0, 42),
        "asked for by name"
    );
}

#[test]
fn an_answer_goes_out_in_one_piece() {
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let device = Arc::new(theirs.into());
    Reply::new(&device, 9).send(Ok(Answer::Bytes(b"bytes".to_vec())));
    Reply::new(&device, 10).send(Err(Errno(libc::ENOENT)));
    Reply::new(&device, 11).send(Ok(Answer::None));
    drop(device);
    let mut sent = Vec::new();
    ours.read_to_end(&mut sent).unwrap();
    assert_eq!(
        (u32_at(&sent, 0), u32_at(&sent, 4), u64_at(&sent, 8), &sent[16..21]),
        (21, 0, 9, &b"bytes"[..])
    );
    let refused = &sent[21..];
    assert_eq!((refused.len(), u32_at(refused, 0), u32_at(refused, 4) as i32), (16, 16, -libc::ENOENT));
}

/// The program that had asked waited for ever.
#[test]
fn who_is_not_answered_is_told_of_an_error() {
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let device = Arc::new(theirs.into());
    drop(Reply::new(&device, 12));
    drop(device);
    let mut sent = Vec::new();
    ours.read_to_end(&mut sent).unwrap();
    assert_eq!((sent.len(), u32_at(&sent, 4) as i32, u64_at(&sent, 8)), (16, -libc::EIO, 12));
}
