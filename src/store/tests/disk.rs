//! A disk that failed: what the kernel has lost meanwhile is noticed, and what it still has is on the disk afterwards.

use super::*;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Barrier;

/// A store in a file.
struct Disk {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Disk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { path: dir.path().join("s.db"), _dir: dir }
    }

    fn open(&self) -> Store {
        Store::open(&Location::File(self.path.clone()), Path::new("/nowhere")).unwrap()
    }

    fn wal(&self) -> File {
        File::options().read(true).write(true).open(open::beside(&self.path, "-wal")).unwrap()
    }
}

fn put(store: &Store, ino: Ino, durable: bool) -> StoreResult<Committed> {
    let data = bytes(ino as u8, 50_000);
    store.commit(WS, &file(ino, ino, 50_000, ExtentChange::Data(data)), durable)
}

fn has(store: &Store, ino: Ino) -> bool {
    store.inode(WS, ino).unwrap().is_some()
}

/// Both doubts at once, as after an error; and what was noticed by the end of a commit and of a fold.
#[test]
fn what_the_disk_may_lack_is_written_again() {
    let disk = Disk::new();
    let store = disk.open();
    put(&store, 10, true).unwrap();
    put(&store, 11, false).unwrap();
    let before = std::fs::read(open::beside(&disk.path, "-wal")).unwrap();
    store.doubt.raise();
    put(&store, 12, true).unwrap();
    let after = std::fs::read(open::beside(&disk.path, "-wal")).unwrap();
    assert!(after.starts_with(&before) && after.len() > before.len());
    assert!(store.doubt.is_of_file(), "that is for the next fold");
    assert!(store.checkpoint(Checkpoint::Truncate).unwrap().wal_frames > 0);
    assert!(!store.doubt.is_of_file() && store.wal_bytes() == 0);
    sound(&store);
    put(&store, 13, true).unwrap();
    store.doubt.raise();
    store.checkpoint(Checkpoint::Passive).unwrap();
    assert!(!store.doubt.is_of_file() && store.wal_bytes() > 0);
    sound(&store);
    assert!((10..=13).all(|ino| has(&store, ino)));
}

/// SQLite did so by itself where the WAL was large, before it was known what of it the disk has; and with the room that a disk which
/// others have filled had left for the start.
#[test]
fn a_start_folds_nothing_of_what_another_daemon_has_left() {
    let (disk, copy) = (Disk::new(), Disk::new());
    let store = disk.open();
    store.commit(WS, &large(2, 10, 200), true).unwrap();
    for what in ["", "-wal"] {
        std::fs::copy(open::beside(&disk.path, what), open::beside(&copy.path, what)).unwrap();
    }
    let before = copy.path.metadata().unwrap().len();
    let store = copy.open();
    assert_eq!(store.file_bytes(), before);
    assert!(store.doubt.is_of_file());
    assert!(store.checkpoint(Checkpoint::Truncate).unwrap().wal_frames > 1000);
    assert!(!store.doubt.is_of_file() && has(&store, 10));
    sound(&store);
}

/// SQLite alone folds the hole, and the file is damaged.
#[test]
fn a_wal_that_the_kernel_has_lost_a_page_of_is_not_folded() {
    for place in [0, 1, 2] {
        let disk = Disk::new();
        let store = disk.open();
        put(&store, 10, true).unwrap();
        let synced = store.wal_bytes();
        put(&store, 11, false).unwrap();
        let at = [synced, synced + 4096, store.wal_bytes() - 4096][place];
        disk.wal().write_all_at(&[0; 4096], at).unwrap();
        store.doubt.raise();
        for durable in [true, false] {
            assert!(matches!(put(&store, 12, durable), Err(StoreError::Lost)));
        }
        for how in [Checkpoint::Passive, Checkpoint::Truncate] {
            assert!(matches!(store.checkpoint(how), Err(StoreError::Lost)));
        }
        drop(store);
        assert!(open::beside(&disk.path, "-wal").metadata().unwrap().len() > 0, "it is left as it is");
        let store = disk.open();
        sound(&store);
        assert_eq!((has(&store, 10), has(&store, 11)), (true, false));
        put(&store, 12, true).unwrap();
        store.checkpoint(Checkpoint::Truncate).unwrap();
        sound(&store);
    }
}

/// The kernel took a page of the file, could not write it, and has forgotten that.
#[test]
fn a_page_of_the_file_that_the_disk_lacks_is_written_again() {
    let disk = Disk::new();
    let store = disk.open();
    for ino in 10..20 {
        put(&store, ino, true).unwrap();
    }
    store.checkpoint(Checkpoint::Passive).unwrap();
    let file = File::options().write(true).open(&disk.path).unwrap();
    for page in [3, 7, 20] {
        file.write_all_at(&[0; 8192], page * 8192).unwrap();
    }
    store.doubt.raise();
    store.checkpoint(Checkpoint::Truncate).unwrap();
    assert_eq!(store.wal_bytes(), 0);
    drop(store);
    let store = disk.open();
    sound(&store);
    assert!((10..20).all(|ino| has(&store, ino)));
}

/// The daemon before may have seen an error that it did not live to mend.
#[test]
fn a_wal_that_was_found_is_doubted() {
    let disk = Disk::new();
    let store = disk.open();
    put(&store, 10, false).unwrap();
    assert!(!store.doubt.is_of_file());
    let copy = Disk::new();
    for end in ["", "-wal"] {
        std::fs::copy(open::beside(&disk.path, end), open::beside(&copy.path, end)).unwrap();
    }
    let found = copy.open();
    assert!(found.doubt.is_of_file());
    found.checkpoint(Checkpoint::Passive).unwrap();
    assert!(!found.doubt.is_of_file() && has(&found, 10));
    drop(found);
    assert!(!open::beside(&copy.path, "-wal").exists());
    drop(store);
    assert!(!disk.open().doubt.is_of_file());
}

/// It may take long, and whoever reads may wait for the writer.
#[test]
fn a_snapshot_that_is_held_does_not_stop_the_store_for_good() {
    let disk = Disk::new();
    let store = disk.open();
    put(&store, 10, true).unwrap();
    let snapshot = store.snapshot(WS).unwrap();
    store.doubt.raise();
    assert!(matches!(put(&store, 11, true), Err(StoreError::Busy)));
    assert!(snapshot.inode(10).unwrap().is_some() && has(&store, 10));
    drop(snapshot);
    put(&store, 11, true).unwrap();
    sound(&store);
}

/// Whether SQLite has a lock on the store's file, which keeps other programs from taking the WAL for one that nobody uses. The
/// list comes a page at a time, and of what moves up meanwhile, because others unlock something, a lock is left out: one that
/// is lost is not in any of many.
fn is_locked(path: &Path) -> bool {
    let (pid, file) = (std::process::id().to_string(), format!(":{} ", path.metadata().unwrap().ino()));
    let is_listed = || {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|lock| lock.contains("POSIX") && lock.contains(&pid) && lock.contains(&file))
    };
    (0..100).any(|_| is_listed())
}

/// SQLite's locks end when any descriptor of the file is closed: several threads that open it at once must not have one too many.
#[test]
fn whoever_opens_the_files_first_keeps_sqlites_locks() {
    for _ in 0..50 {
        let disk = Disk::new();
        let store = disk.open();
        assert!(is_locked(&disk.path));
        let (files, all) = (store.files.as_deref().unwrap(), Barrier::new(8));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    all.wait();
                    files.forget(0).unwrap();
                });
            }
        });
        assert!(is_locked(&disk.path));
    }
}
