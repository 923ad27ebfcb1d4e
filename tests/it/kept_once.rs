//! Bytes that the kernel has as a part of a file in the mount need not be in its memory as a part of the store too.

use crate::support::{Place, has_fuse, is_root, noise, skip};
use rustix::fs::{Advice, OFlags, fadvise};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const MIB: usize = 1 << 20;

/// MiB of a file that are in the kernel's memory, looking at one page of each 64 KiB.
fn in_memory(path: &Path) -> usize {
    let file = File::open(path).unwrap();
    let length = file.metadata().unwrap().len();
    let is_there = |place: &u64| {
        let mut byte = [0];
        match preadv2(&file, &mut [IoSliceMut::new(&mut byte)], *place, ReadWriteFlags::NOWAIT) {
            Ok(read) => read == 1,
            Err(Errno::AGAIN) => false,
            Err(error) => panic!("{path:?}: {error}"),
        }
    };
    (0..length).step_by(64 << 10).filter(is_there).count() / 16
}

/// Has the kernel forget what it can of a file.
fn forget(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
}

/// Reads a file from one end to the other.
fn read(path: &Path, flags: OFlags) -> Vec<u8> {
    let mut file = File::options().read(true).custom_flags(flags.bits() as i32).open(path).unwrap();
    let (mut whole, mut portion) = (Vec::new(), vec![0; MIB]);
    while let length @ 1.. = file.read(&mut portion).unwrap() {
        whole.extend_from_slice(&portion[..length]);
    }
    whole
}

#[test]
fn what_the_mount_passed_on_is_forgotten() {
    // Others than root have the kernel read too little at a time.
    if !has_fuse() || !is_root() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    let (big, bytes) = (daemon.path("big"), noise(1, 64 * MIB));
    std::fs::write(&big, &bytes).unwrap();
    File::open(&big).unwrap().sync_all().unwrap();
    assert_eq!(daemon.ask("POST /__wsd/checkpoint", "").0, 200);
    forget(&place.store);
    if in_memory(&place.store) > 8 {
        return skip("the disk of the tests is memory");
    }
    // The kernel does not keep what it is asked for in this way, so the store's pages stay.
    assert!(read(&big, OFlags::DIRECT) == bytes);
    assert!(in_memory(&place.store) >= 60, "{} MiB", in_memory(&place.store));
    forget(&big);
    assert!(read(&big, OFlags::empty()) == bytes);
    assert!(in_memory(&place.store) <= 32, "{} MiB", in_memory(&place.store));
    forget(&big);
    assert!(read(&big, OFlags::empty()) == bytes);
    daemon.stop();
    place.check();
}
