//! Bytes that no file refers to are given back.

use crate::support::{eventually, noise};
use std::sync::Arc;
use wsd::store::rows::{Kind, ROOT};
use wsd::store::{Checkpoint, Location, Store};
use wsd::vfs::{Caller, NewNode, Options, Vfs};

const ME: Caller = Caller::DAEMON;

#[test]
fn a_file_overwritten_a_hundred_times_and_deleted_leaves_the_store_as_small_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let store =
        Arc::new(Store::open(&Location::File(dir.path().join("store.db")), "/nowhere".as_ref()).unwrap());
    let vfs = Vfs::open(Arc::clone(&store), Options::default()).unwrap();
    let before = store.checkpoint(Checkpoint::Truncate).unwrap().size_bytes;
    let new = NewNode { kind: Kind::File, mode: 0o644, umask: 0, rdev: 0 };
    let file = vfs.create(ME, ROOT, b"file", new).unwrap().ino;
    for round in 0..100 {
        vfs.write(ME, file, 0, &noise(round, 8 << 20), false).unwrap();
        vfs.sync().unwrap();
    }
    vfs.unlink(ME, ROOT, b"file").unwrap();
    vfs.sync().unwrap();
    eventually("a small file", || {
        let counts = store.counts().unwrap();
        counts.chunks == 0 && store.checkpoint(Checkpoint::Passive).unwrap().size_bytes < before + (6 << 20)
    });
    vfs.shutdown().unwrap();
    assert!(store.check(true).unwrap().is_empty());
}

/// Garbage was collected more slowly than it was made, and the WAL not folded before there was none.
#[test]
fn the_store_does_not_grow_while_a_file_is_overwritten_all_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let store =
        Arc::new(Store::open(&Location::File(dir.path().join("store.db")), "/nowhere".as_ref()).unwrap());
    let vfs = Vfs::open(Arc::clone(&store), Options::default()).unwrap();
    let new = NewNode { kind: Kind::File, mode: 0o644, umask: 0, rdev: 0 };
    let file = vfs.create(ME, ROOT, b"file", new).unwrap().ino;
    let (mut most, mut most_wal) = (0, 0);
    for round in 0..80u64 {
        for piece in 0..16 {
            vfs.write(ME, file, piece << 21, &noise(round * 16 + piece, 2 << 20), false).unwrap();
            most = most.max(store.file_bytes());
            most_wal = most_wal.max(store.wal_bytes());
        }
    }
    // 2,560 MiB were written, of which 32 are left. Who writes waits for the WAL to be folded when it has 1,024 MiB, and a group has
    // 256 at most.
    assert!(most_wal <= 1300 << 20, "the WAL had {} MiB", most_wal >> 20);
    assert!(most <= 1000 << 20, "the file had {} MiB", most >> 20);
    eventually("a small WAL", || store.wal_bytes() <= 64 << 20);
    vfs.shutdown().unwrap();
}
