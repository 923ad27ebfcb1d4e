//! The store by itself: what is shared, what changes in place, what a snapshot keeps.

mod damage;
mod disk;
mod passed;
mod place;

use super::blocks::Blocks;
use super::buf::{Buf, Gauge};
use super::group::{Committed, ContentChange, ExtentChange, Group, NodeChange, NodePut};
use super::rows::{CHUNK, ChunkId, FIRST_COOKIE, Ino, InodeRow, Kind, ROOT, Storage};
use super::*;
use crate::clock::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

const WS: WorkspaceId = WORKSPACE;

fn store() -> Store {
    Store::open(&Location::Memory, Path::new("/nowhere")).unwrap()
}

/// The id of a chunk that was never changed in place.
fn original(row: i64) -> ChunkId {
    ChunkId { row, version: 0 }
}

fn chunk(store: &Store, id: ChunkId) -> StoreResult<Option<Vec<u8>>> {
    store.chunk(id, <[u8]>::to_vec)
}

fn bytes(seed: u8, len: usize) -> Arc<Buf> {
    Arc::new(Buf::new((0..len).map(|at| seed.wrapping_add((at % 251) as u8)).collect(), &Gauge::default()))
}

/// A group that makes or changes file `ino`, which is named after its number, with one extent.
fn file(revision: u64, ino: Ino, size: usize, extent: ExtentChange) -> Group {
    let mut row = root(revision);
    (row.ino, row.kind, row.mode, row.nlink, row.parent, row.next_cookie) = (ino, Kind::File, 0o644, 1, 0, 0);
    (row.size, row.storage) = (size as u64, Storage::Chunks);
    row.allocated = (CHUNK as u64).min(row.size.next_multiple_of(512));
    let content = ContentChange { extents: BTreeMap::from([(0, extent)]), ..ContentChange::default() };
    let put = NodePut { row, dirents: BTreeMap::new(), content, xattrs: None };
    let mut parent =
        NodePut { row: root(revision), dirents: BTreeMap::new(), content: Default::default(), xattrs: None };
    let name = rows::Name::from(ino.to_string().as_bytes());
    let dirent = rows::Dirent { name: Arc::clone(&name), ino, kind: Kind::File, cookie: ino + 10 };
    parent.dirents.insert(name, Some(dirent));
    let nodes =
        BTreeMap::from([(ROOT, NodeChange::Put(Box::new(parent))), (ino, NodeChange::Put(Box::new(put)))]);
    Group { revision, next_ino: 100, nodes, ..Group::default() }
}

fn root(revision: u64) -> InodeRow {
    InodeRow {
        ino: ROOT,
        kind: Kind::Dir,
        revision,
        mode: 0o755,
        uid: 0,
        gid: 0,
        rdev: 0,
        nlink: 2,
        size: 0,
        allocated: 0,
        atime: Timestamp(0),
        mtime: Timestamp(0),
        ctime: Timestamp(0),
        btime: Timestamp(0),
        parent: ROOT,
        next_cookie: FIRST_COOKIE + 1000,
        storage: Storage::Empty,
        has_xattrs: false,
        content_revision: 0,
    }
}

fn commit(store: &Store, group: &Group) -> Vec<ChunkId> {
    let committed = store.commit(WS, group, true).unwrap();
    sound(store);
    committed.chunks.into_iter().map(|(_, _, id)| id).collect()
}

fn sound(store: &Store) {
    let flaws: Vec<String> = store.check(true).unwrap().iter().map(ToString::to_string).collect();
    assert!(flaws.is_empty(), "{flaws:#?}");
}

fn count(store: &Store, sql: &str) -> i64 {
    store.writer.lock().connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// What this thread has read or written, as the kernel counts it.
pub(super) fn io(what: &str) -> u64 {
    let counts = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let mut counts = counts.lines().filter_map(|line| line.split_once(": "));
    counts.find(|(name, _)| *name == what).unwrap().1.parse().unwrap()
}

/// A group that makes file `ino` of so many chunks, each of bytes that are nowhere else.
fn large(revision: u64, ino: Ino, chunks: u64) -> Group {
    let size = chunks * CHUNK as u64;
    let mut group = file(revision, ino, size as usize, ExtentChange::Hole);
    let Some(NodeChange::Put(put)) = group.nodes.get_mut(&ino) else { unreachable!() };
    put.row.allocated = size;
    for index in 0..chunks {
        let mut noise = vec![0; CHUNK];
        blake3::Hasher::new().update(format!("{ino} {index}").as_bytes()).finalize_xof().fill(&mut noise);
        put.content.extents.insert(index, ExtentChange::Data(Arc::new(Buf::new(noise, &Gauge::default()))));
    }
    group
}

/// The group is not in the store, whatever there is of its bytes.
fn refused(store: &Store, group: &Group, point: Point) {
    store.faults.plant(point, fault::Fault::Full, 1);
    assert!(matches!(store.commit(WS, group, true), Err(StoreError::Full)), "{point:?}");
    sound(store);
    assert_eq!(count(store, "SELECT count(*) FROM inode"), 1);
}

#[test]
fn bytes_of_a_large_group_that_failed_are_found_when_it_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Location::File(dir.path().join("s.db")), Path::new("/nowhere")).unwrap();
    let group = large(2, 10, 200);
    refused(&store, &group, Point::Ahead);
    assert_eq!(count(&store, "SELECT count(*) FROM chunk"), 0);
    refused(&store, &group, Point::CommitEnd);
    let unused = "SELECT count(*) FROM chunk WHERE refs = 0";
    assert_eq!(count(&store, unused), 200);
    let last = count(&store, "SELECT max(id) FROM chunk");
    assert_eq!(commit(&store, &group).len(), 200);
    assert_eq!((count(&store, unused), count(&store, "SELECT max(id) FROM chunk")), (0, last));
    let id = count(&store, "SELECT chunk FROM extent WHERE idx = 123");
    let Some(NodeChange::Put(put)) = group.nodes.get(&10) else { unreachable!() };
    assert!(chunk(&store, original(id)).unwrap().unwrap() == put.content.extents[&123].bytes().unwrap()[..]);
}

#[test]
fn bytes_of_a_large_group_that_never_came_are_collected() {
    let store = store();
    refused(&store, &large(2, 10, 200), Point::CommitEnd);
    while !store.gc_step(1000, true).unwrap().done {}
    assert_eq!(count(&store, "SELECT count(*) FROM chunk_data"), 0);
    sound(&store);
}

#[test]
fn writing_a_large_group_reads_none_of_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Location::File(dir.path().join("s.db")), Path::new("/nowhere")).unwrap();
    // Free pages here and there, which the next group takes by turns.
    for ino in 10..14 {
        commit(&store, &large(ino, ino, 300));
    }
    let nodes = BTreeMap::from([10, 12].map(|ino| (ino, NodeChange::Removed(20))));
    store.commit(WS, &Group { revision: 20, next_ino: 100, nodes, ..Group::default() }, true).unwrap();
    while !store.gc_step(200, false).unwrap().done {}
    store.checkpoint(Checkpoint::Truncate).unwrap();
    let group = large(30, 30, 600);
    let before = io("rchar");
    store.commit(WS, &group, true).unwrap();
    let read = io("rchar") - before;
    assert!(read < 8 << 20, "{read} bytes");
}

/// SQLite follows the link, and has the WAL where it leads.
#[test]
fn a_store_behind_a_symlink_is_the_one_that_it_leads_to() {
    let dir = tempfile::tempdir().unwrap();
    let (path, link) = (dir.path().join("s.db"), dir.path().join("link.db"));
    let open = |path: &Path| Store::open(&Location::File(path.to_path_buf()), Path::new("/nowhere"));
    drop(open(&path).unwrap());
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let store = open(&link).unwrap();
    commit(&store, &large(2, 10, 200));
    assert!(store.wal_bytes() > 12 << 20, "{} bytes", store.wal_bytes());
    assert!(matches!(open(&path), Err(StoreError::InUse { .. })), "two daemons have one store");
}

/// Opening a fifo waits for somebody who writes into it, and no signal would end that.
#[test]
fn what_is_no_file_is_refused_before_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (fifo, socket) = (dir.path().join("fifo"), dir.path().join("socket"));
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let cases = [
        (&*fifo, "fifo"),
        (&*socket, "socket"),
        (dir.path(), "directory"),
        (Path::new("/dev/null"), "device"),
    ];
    for (path, what) in cases {
        let (said, heard) = std::sync::mpsc::channel();
        let location = Location::File(path.to_path_buf());
        std::thread::spawn(move || drop(said.send(Store::open(&location, Path::new("/nowhere")).map(drop))));
        let outcome = heard.recv_timeout(std::time::Duration::from_secs(10)).expect(what);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(&format!("is a {what}, ")), "{error}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing was made beside them");
}

/// Each name would have a lock and a WAL of its own.
#[test]
fn a_store_with_two_names_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, second) = (dir.path().join("s.db"), dir.path().join("second.db"));
    let open = |path: &Path| Store::open(&Location::File(path.to_path_buf()), Path::new("/nowhere"));
    let store = open(&path).unwrap();
    std::fs::hard_link(&path, &second).unwrap();
    let error = open(&second).unwrap_err().to_string();
    assert!(error.contains("second name") && error.contains("find -samefile"), "{error}");
    commit(&store, &large(2, 10, 3));
    drop(store);
    open(&path).expect_err("nobody knows which of them has the WAL");
    assert!(!dir.path().join("second.db.lock").exists(), "nothing was made beside it");
    std::fs::remove_file(&second).unwrap();
    sound(&open(&path).unwrap());
}

/// The lock beside a store, held by another process as far as can be seen, which writes into the lock file who it is.
fn held(path: &Path) -> std::fs::File {
    let lock = std::fs::File::create(path.with_extension("db.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    lock
}

fn soon(what: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        what();
    });
}

/// Of daemons that are started together, one makes the store, and the others look at what it has made of it so far.
#[test]
fn a_store_that_is_being_made_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    std::fs::write(&path, b"SQLite for").unwrap();
    let lock = held(&path);
    soon(move || {
        let _ = std::io::Write::write_all(&mut &lock, b"1\n");
        std::mem::forget(lock);
    });
    let error = Store::open(&Location::File(path), Path::new("/nowhere")).unwrap_err();
    assert!(matches!(&error, StoreError::InUse { pid, .. } if pid == "1"), "{error}");
}

/// What was there before the lock was may be something else by then.
#[test]
fn a_file_that_came_while_the_lock_was_waited_for_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    let lock = held(&path);
    let letter = path.clone();
    soon(move || {
        std::fs::write(letter, b"a letter").unwrap();
        drop(lock);
    });
    let open = || Store::open(&Location::File(path.clone()), Path::new("/nowhere")).unwrap_err();
    assert!(matches!(open(), StoreError::NotAStore(_)));
    // So is a lock of somebody else's that nobody holds.
    std::fs::write(path.with_extension("db.lock"), b"theirs").unwrap();
    assert!(matches!(open(), StoreError::NotAStore(_)));
    assert_eq!(std::fs::read(&path).unwrap(), b"a letter");
    assert_eq!(std::fs::read(path.with_extension("db.lock")).unwrap(), b"theirs");
}

#[test]
fn equal_bytes_are_stored_once() {
    let store = store();
    let first = commit(&store, &file(2, 10, 50_000, ExtentChange::Data(bytes(1, 50_000))));
    let second = commit(&store, &file(3, 11, 50_000, ExtentChange::Data(bytes(1, 50_000))));
    assert_eq!(first, second);
    assert_eq!(count(&store, "SELECT count(*) FROM chunk"), 1);
}

#[test]
fn a_pinned_revision_keeps_its_rows() {
    let store = store();
    commit(&store, &file(2, 10, 50_000, ExtentChange::Data(bytes(1, 50_000))));
    let old = count(&store, "SELECT chunk FROM extent WHERE ino = 10");
    store.writer.lock().connection.execute("UPDATE workspace SET pinned = 2", []).unwrap();
    let mut changed = (*bytes(1, 50_000)).clone();
    changed.write(0, b"changed");
    let ids =
        commit(&store, &file(3, 10, 60_000, ExtentChange::Part(Arc::new(changed), Blocks::of(&(0..7)))));
    assert_eq!(store.inode(WS, 10).unwrap().unwrap().size, 60_000);
    assert_eq!(store.extents(WS, 10).unwrap(), [(0, ids[0])]);
    assert_eq!(count(&store, "SELECT size FROM inode WHERE ino = 10 AND since = 0"), 50_000);
    assert_eq!(count(&store, "SELECT chunk FROM extent WHERE ino = 10 AND since = 0"), old);
    assert!(
        chunk(&store, original(old)).unwrap().unwrap() == bytes(1, 50_000)[..],
        "the snapshot's bytes are as they were"
    );
    let mut gone = Group { revision: 4, next_ino: 100, ..Group::default() };
    let mut parent =
        NodePut { row: root(4), dirents: BTreeMap::new(), content: Default::default(), xattrs: None };
    parent.dirents.insert(rows::Name::from(&b"10"[..]), None);
    gone.nodes.insert(ROOT, NodeChange::Put(Box::new(parent)));
    gone.nodes.insert(10, NodeChange::Removed(4));
    commit(&store, &gone);
    assert_eq!(store.inode(WS, 10).unwrap(), None);
    assert!(store.dirents(WS, ROOT).unwrap().is_empty());
    assert_eq!(count(&store, "SELECT count(*) FROM dirent WHERE since = 0 AND dead = 0"), 1);
    assert_eq!(count(&store, "SELECT count(*) FROM tombstone"), 1);
    store.gc().unwrap();
    assert!(chunk(&store, original(old)).unwrap().is_some());
}

/// Linux gives a file whose times somebody has seen since its last write a time of its own with the next one, which the disk then has
/// to take. It else gives it the time of the last tick, or a later one that another file was given meanwhile.
#[test]
fn asking_for_the_size_of_the_wal_leaves_its_times_alone() {
    use rustix::time::{ClockId, clock_gettime};
    use std::os::unix::fs::{FileExt, MetadataExt};
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Location::File(dir.path().join("s.db")), Path::new("/nowhere")).unwrap();
    let wal = std::fs::File::options().write(true).open(store.location.wal().unwrap()).unwrap();
    let has_no_time_of_its_own = (0..20).any(|_| {
        wal.write_all_at(&[0], 1 << 20).unwrap();
        let between = clock_gettime(ClockId::Realtime);
        assert!(store.wal_bytes() > 1 << 20);
        wal.write_all_at(&[0], 1 << 20).unwrap();
        let written = wal.metadata().unwrap();
        (written.mtime(), written.mtime_nsec()) <= (between.tv_sec, between.tv_nsec)
    });
    assert!(has_no_time_of_its_own);
}
