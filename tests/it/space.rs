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
