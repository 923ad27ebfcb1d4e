//! A disk that is full or fails: the program is told, the store is whole, and it goes on when the disk does.

use crate::support::{Place, eventually, has, has_fuse, is_root, noise, sh};
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use wsd::error::FsError;
use wsd::store::fault::{Fault, Point};
use wsd::store::rows::{Kind, ROOT};
use wsd::store::{Checkpoint, Location, Store};
use wsd::vfs::{Caller, Fallocate, NewNode, Options, SetAttr, Vfs};

const ME: Caller = Caller::DAEMON;
const FILE: NewNode = NewNode { kind: Kind::File, mode: 0o644, umask: 0, rdev: 0 };

#[test]
fn a_failing_disk_is_reported_and_outlived() {
    for point in [Point::CommitBegin, Point::Ahead, Point::CommitEnd] {
        for (fault, expected) in [(Fault::Full, "ENOSPC"), (Fault::Io, "EIO")] {
            let dir = tempfile::tempdir().unwrap();
            let location = Location::File(dir.path().join("store.db"));
            let store = Arc::new(Store::open(&location, "/nowhere".as_ref()).unwrap());
            let vfs = Vfs::open(Arc::clone(&store), Options::default()).unwrap();
            let kept = vfs.create(ME, ROOT, b"kept", FILE).unwrap().ino;
            vfs.write(ME, kept, 0, &noise(1, 200_000), false).unwrap();
            vfs.sync().unwrap();
            store.faults.plant(point, fault, usize::MAX);
            // More than one transaction takes.
            vfs.write(ME, kept, 200_000, &noise(2, 12 << 20), false).unwrap();
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
            assert!(vfs.read(kept, 200_000, 12 << 20).unwrap() == noise(2, 12 << 20));
            assert!(matches!(vfs.resolve(b"refused"), Err(FsError::NotFound)));
            vfs.shutdown().unwrap();
        }
    }
}

/// The group that was being written is lost. Nothing may be written as if it were not, and nobody wait for ever.
#[test]
fn a_defect_in_the_committer_is_an_error_from_then_on_and_not_a_hole() {
    let dir = tempfile::tempdir().unwrap();
    let location = Location::File(dir.path().join("store.db"));
    let store = Arc::new(Store::open(&location, "/nowhere".as_ref()).unwrap());
    let vfs = Vfs::open(Arc::clone(&store), Options::default()).unwrap();
    vfs.create(ME, ROOT, b"before", FILE).unwrap();
    vfs.sync().unwrap();
    store.faults.plant(Point::CommitEnd, Fault::Panic, 1);
    vfs.create(ME, ROOT, b"lost", FILE).unwrap();
    eventually("a word of it", || vfs.failure().is_some());
    assert_eq!(vfs.sync().unwrap_err().code(), "EIO");
    assert_eq!(vfs.create(ME, ROOT, b"after", FILE).unwrap_err().code(), "EIO");
    assert!(vfs.shutdown().is_err());
    drop((vfs, store));
    let store = Arc::new(Store::open(&location, "/nowhere".as_ref()).unwrap());
    let vfs = Vfs::open(Arc::clone(&store), Options::default()).unwrap();
    assert!(vfs.resolve(b"before").is_ok());
    assert!(matches!(vfs.resolve(b"lost"), Err(FsError::NotFound)));
    vfs.shutdown().unwrap();
    assert!(store.check(true).unwrap().is_empty());
}

/// Blocks that were written over chunks while groups could not be written lie over what is there when they can.
#[test]
fn blocks_that_were_written_while_the_disk_failed_are_there_when_it_does_not() {
    const BLOCK: usize = 4096;
    let dir = tempfile::tempdir().unwrap();
    let location = Location::File(dir.path().join("store.db"));
    let store = Arc::new(Store::open(&location, "/nowhere".as_ref()).unwrap());
    let vfs = Vfs::open(Arc::clone(&store), Options::default()).unwrap();
    let file = vfs.create(ME, ROOT, b"f", FILE).unwrap().ino;
    let mut bytes = noise(1, 1 << 20);
    vfs.write(ME, file, 0, &bytes, false).unwrap();
    vfs.sync().unwrap();
    let mut write = |round: usize| {
        for number in 0..40 {
            let at = (number * 37 + round * 11) % 256 * BLOCK;
            let block = noise((round * 100 + number) as u64, BLOCK);
            if vfs.write(ME, file, at as u64, &block, false).is_ok() {
                bytes[at..at + BLOCK].copy_from_slice(&block);
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        assert!(vfs.read(file, 0, 1 << 20).unwrap() == bytes, "round {round}");
        bytes.clone()
    };
    for round in 0..6 {
        for point in [Point::CommitBegin, Point::CommitEnd] {
            // The group fails in the middle of it, and one of a later one takes it along.
            store.faults.plant(point, Fault::Full, 1);
            write(round);
            eventually("recovery", || vfs.failure().is_none());
            write(round + 50);
        }
    }
    vfs.sync().unwrap();
    let expected = write(99);
    vfs.shutdown().unwrap();
    assert!(store.check(true).unwrap().is_empty());
    drop((vfs, store));
    let vfs = Vfs::open(Arc::new(Store::open(&location, "/nowhere".as_ref()).unwrap()), Options::default())
        .unwrap();
    assert!(vfs.read(file, 0, 1 << 20).unwrap() == expected);
    vfs.shutdown().unwrap();
}

/// It was tried again for ever.
#[test]
fn what_the_store_has_lost_is_an_error_of_whoever_needs_it() {
    if !has("sqlite3") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let open = || {
        let store = Store::open(&Location::File(path.clone()), "/nowhere".as_ref()).unwrap();
        Vfs::open(Arc::new(store), Options::default()).unwrap()
    };
    let vfs = open();
    let file = vfs.create(ME, ROOT, b"f", FILE).unwrap().ino;
    vfs.write(ME, file, 0, &noise(1, 300_000), false).unwrap();
    vfs.shutdown().unwrap();
    drop(vfs);
    let status = Command::new("sqlite3").arg(&path).arg("DELETE FROM chunk_data").status();
    assert!(status.unwrap().success());
    let vfs = open();
    let short = SetAttr { size: Some(1000), ..SetAttr::default() };
    let results = [
        vfs.read(file, 10, 10).map(drop),
        vfs.write(ME, file, 10, b"unaligned", false),
        vfs.setattr(ME, file, &short).map(drop),
        vfs.fallocate(ME, file, Fallocate::PunchHole, 10, 20),
    ];
    for result in results {
        assert!(matches!(&result, Err(FsError::Io(why)) if why.contains("missing")), "{result:?}");
    }
    // What needs none of it works, and is not lost.
    vfs.write(ME, file, 65_536, &[7; 65_536], false).unwrap();
    vfs.write(ME, file, 131_072, &[8; 4096], false).unwrap();
    vfs.sync().unwrap();
    assert_eq!(vfs.read(file, 65_536 + 70, 2).unwrap(), [7; 2]);
    assert_eq!(vfs.read(file, 131_072 + 4090, 8).unwrap(), [8, 8, 8, 8, 8, 8, 0, 0]);
    vfs.shutdown().unwrap();
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
    let (place, disk) = Place::on_disk_of("110m");
    fs::write(disk.join("ballast"), noise(3, 90 << 20)).unwrap();
    let daemon = place.serve();
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
    place.check();
}

/// What was removed could not be given back, and so nothing could be written any more: folding the WAL had no room.
#[test]
fn a_disk_that_was_filled_through_the_workspace_can_be_emptied_through_it() {
    if !has_fuse() || !is_root() {
        return;
    }
    let (place, _disk) = Place::on_disk_of("150m");
    let daemon = place.serve();
    sh(&daemon.path(""), "mkdir many; for i in $(seq 300); do echo $i > many/$i; done; sync -f .");
    let filled = sh(
        &daemon.path(""),
        "for i in $(seq 300); do head -c 1M /dev/urandom > f$i && sync f$i || break; done 2> /dev/null; ls f* | wc -l",
    );
    let filled: u64 = filled.trim().parse().unwrap();
    assert!((60..150).contains(&filled), "{filled} MiB fitted on a disk of 150");
    sh(&daemon.path(""), "rm -r many f*; sync -f .");
    eventually("room", || {
        fs::metadata(&place.store).unwrap().len() < 12 << 20 && daemon.stat("/walBytes") < 12 << 20
    });
    sh(&daemon.path(""), "head -c 50M /dev/urandom > again; sync again");
    daemon.stop();
    place.check();
}

/// Others may fill a disk to its last byte. Then no daemon could start to make room, and what was removed in one that ran was neither
/// stored nor given back; and with a megabyte, which was said to be enough, the WAL had that soon, and neither was it folded, nor
/// did a step of collection fit into it.
#[test]
fn a_disk_that_others_have_filled_can_be_emptied_through_the_workspace() {
    if !has_fuse() || !is_root() {
        return;
    }
    for (is_running, is_room_kept) in [(false, true), (false, false), (true, true)] {
        let (place, disk) = Place::on_disk_of("64m");
        let free = || {
            let stat = rustix::fs::statvfs(&disk).unwrap();
            stat.f_bavail * stat.f_frsize
        };
        let daemon = place.serve();
        sh(&daemon.path(""), "for i in $(seq 20); do head -c 1M /dev/urandom > f$i; done; sync -f .");
        daemon.stop();
        let daemon = is_running.then(|| place.serve());
        let others = fs::File::create(disk.join("others")).unwrap();
        if !is_room_kept {
            fs::remove_file(place.store.with_extension("db.lock")).unwrap();
        }
        let full = std::io::copy(&mut std::io::repeat(1), &mut &others).unwrap_err();
        assert_eq!((full.kind(), free()), (std::io::ErrorKind::StorageFull, 0));
        if !is_room_kept {
            others.set_len(others.metadata().unwrap().len() - (1 << 20)).unwrap();
        }
        drop(others);
        let daemon = daemon.unwrap_or_else(|| place.serve());
        assert_eq!(fs::read(daemon.path("f20")).unwrap().len(), 1 << 20);
        if !is_running {
            let more = fs::write(daemon.path("more"), b"more").unwrap_err();
            assert_eq!(more.raw_os_error(), Some(libc::ENOSPC));
        }
        sh(&daemon.path(""), "rm f? f1?");
        eventually("room", || free() > 12 << 20);
        eventually("a file that is taken", || {
            fs::File::create(daemon.path("again")).is_ok_and(|mut file| {
                std::io::Write::write_all(&mut file, b"again").is_ok() && file.sync_all().is_ok()
            })
        });
        daemon.stop();
        place.check();
    }
}

/// A writer failed after five seconds, and what the kernel held was lost with it.
#[test]
fn a_store_that_others_look_into_or_lock_for_a_while_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = Arc::new(Store::open(&Location::File(path.clone()), "/nowhere".as_ref()).unwrap());
    let vfs = Vfs::open(Arc::clone(&store), Options::default()).unwrap();
    let file = vfs.create(ME, ROOT, b"f", FILE).unwrap().ino;
    vfs.write(ME, file, 0, &noise(1, 300_000), false).unwrap();
    vfs.sync().unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN; SELECT count(*) FROM inode").unwrap();
    std::thread::scope(|scope| {
        vfs.write(ME, file, 0, &noise(2, 300_000), false).unwrap();
        vfs.sync().unwrap();
        let folding = scope.spawn(|| store.checkpoint(Checkpoint::Truncate).map(drop));
        std::thread::sleep(Duration::from_millis(100));
        vfs.write(ME, file, 0, &noise(3, 300_000), false).unwrap();
        vfs.sync().unwrap();
        folding.join().unwrap().unwrap();
    });
    other.execute_batch("COMMIT; BEGIN IMMEDIATE").unwrap();
    std::thread::scope(|scope| {
        vfs.write(ME, file, 0, &noise(4, 300_000), false).unwrap();
        let syncing = scope.spawn(|| vfs.sync());
        std::thread::sleep(Duration::from_secs(6));
        assert!(vfs.failure().is_none());
        vfs.create(ME, ROOT, b"meanwhile", FILE).unwrap();
        other.execute_batch("COMMIT").unwrap();
        syncing.join().unwrap().unwrap();
    });
    vfs.shutdown().unwrap();
    drop((vfs, store));
    let vfs = Vfs::open(
        Arc::new(Store::open(&Location::File(path), "/nowhere".as_ref()).unwrap()),
        Options::default(),
    );
    let vfs = vfs.unwrap();
    assert!(vfs.read(file, 0, 300_000).unwrap() == noise(4, 300_000));
    vfs.shutdown().unwrap();
}

/// One node of which the row makes no sense does not hide the others.
#[test]
fn a_listing_has_the_names_of_what_cannot_be_read_too() {
    if !(has_fuse() && has("sqlite3")) {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    sh(&daemon.path(""), "echo one > one; ln -s one link; echo two > two");
    daemon.stop();
    let damage = "UPDATE inode SET size = 1 << 40 WHERE kind = 3";
    assert!(Command::new("sqlite3").arg(&place.store).arg(damage).status().unwrap().success());
    let daemon = place.serve();
    assert_eq!(sh(&daemon.path(""), "ls; cat one two"), "link\none\ntwo\none\ntwo\n");
    let refused = fs::read_link(daemon.path("link")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EIO));
    daemon.stop();
}
