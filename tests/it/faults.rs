//! A disk that is full or fails: the program is told, the store is whole, and it goes on when the disk does.

use crate::support::{Place, eventually, has_fuse, is_root, noise, sh};
use std::fs;
use std::process::Command;
use std::sync::Arc;
use wsd::error::FsError;
use wsd::store::fault::{Fault, Point};
use wsd::store::rows::{Kind, ROOT};
use wsd::store::{Location, Store};
use wsd::vfs::{Caller, NewNode, Options, Vfs};

const ME: Caller = Caller::DAEMON;
const FILE: NewNode = NewNode { kind: Kind::File, mode: 0o644, umask: 0, rdev: 0 };

#[test]
fn a_failing_disk_is_reported_and_outlived() {
    for point in [Point::CommitBegin, Point::CommitEnd] {
        for (fault, expected) in [(Fault::Full, "ENOSPC"), (Fault::Io, "EIO")] {
            let dir = tempfile::tempdir().unwrap();
            let location = Location::File(dir.path().join("store.db"));
            let store = Arc::new(Store::open(&location, "/nowhere".as_ref()).unwrap());
            let vfs = Vfs::open(Arc::clone(&store), Options::default()).unwrap();
            let kept = vfs.create(ME, ROOT, b"kept", FILE).unwrap().ino;
            vfs.write(ME, kept, 0, &noise(1, 200_000), false).unwrap();
            vfs.sync().unwrap();
            store.faults.plant(point, fault, usize::MAX);
            vfs.write(ME, kept, 100_000, b"changed", false).unwrap();
            assert_eq!(vfs.sync().unwrap_err().code(), expected, "{point:?}");
            let refused = vfs.create(ME, ROOT, b"refused", FILE).unwrap_err();
            assert_eq!(refused.code(), expected, "{point:?}");
            assert_eq!(vfs.read(kept, 100_000, 7).unwrap(), b"changed", "what was accepted stays visible");
            assert!(store.check(true).unwrap().is_empty());
            store.faults.plant(point, fault, 0);
            eventually("recovery", || vfs.failure().is_none());
            vfs.create(ME, ROOT, b"accepted", FILE).unwrap();
            vfs.sync().unwrap();
            assert!(store.check(true).unwrap().is_empty());
            vfs.shutdown().unwrap();
            drop((vfs, store));
            let store = Arc::new(Store::open(&location, "/nowhere".as_ref()).unwrap());
            let vfs = Vfs::open(store, Options::default()).unwrap();
            assert_eq!(vfs.read(kept, 100_000, 7).unwrap(), b"changed");
            assert!(matches!(vfs.resolve(b"refused"), Err(FsError::NotFound)));
            vfs.shutdown().unwrap();
        }
    }
}

#[test]
fn a_chunk_that_cannot_be_read_is_an_error_of_that_read_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store =
        Arc::new(Store::open(&Location::File(dir.path().join("store.db")), "/nowhere".as_ref()).unwrap());
    let vfs = Vfs::open(Arc::clone(&store), Options::default()).unwrap();
    let file = vfs.create(ME, ROOT, b"f", FILE).unwrap().ino;
    let bytes = noise(2, 1 << 20);
    vfs.write(ME, file, 0, &bytes, false).unwrap();
    vfs.sync().unwrap();
    store.faults.plant(Point::ChunkRead, Fault::Io, 1);
    assert_eq!(vfs.read(file, 0, 1 << 20).unwrap_err().code(), "EIO");
    assert!(vfs.read(file, 0, 1 << 20).unwrap() == bytes);
    vfs.shutdown().unwrap();
}

#[test]
fn a_full_disk_below_the_store_is_enospc_in_the_mount_until_there_is_room() {
    if !(has_fuse() && is_root()) {
        return;
    }
    let place = Place::new();
    let disk = place.dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=110m", "none"]).arg(&disk).status().unwrap();
    assert!(mounted.success());
    let store = disk.join("store.db");
    fs::write(disk.join("ballast"), noise(3, 90 << 20)).unwrap();
    let daemon = place.serve_with(&[("WSD_DB", store.to_str().unwrap())]);
    sh(&daemon.path(""), "echo precious > kept; sync kept");
    let full = fs::File::create(daemon.path("big")).and_then(|file| {
        std::os::unix::fs::FileExt::write_all_at(&file, &noise(4, 30 << 20), 0).and_then(|()| file.sync_all())
    });
    assert_eq!(full.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(fs::read(daemon.path("kept")).unwrap(), b"precious\n");
    assert_eq!(daemon.ask("GET /health?ready", "").0, 503);
    fs::remove_file(disk.join("ballast")).unwrap();
    eventually("recovery", || daemon.ask("GET /health?ready", "").0 == 200);
    sh(&daemon.path(""), "rm big; echo more > more; sync more");
    daemon.stop();
    let checked = Command::new(crate::support::WSD).args(["check", "--db"]).arg(&store).output().unwrap();
    assert!(checked.status.success(), "{}", crate::support::text(&checked.stdout));
    assert!(Command::new("umount").arg(&disk).status().unwrap().success());
}
