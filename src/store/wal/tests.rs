//! What is gathered is what would have been written.

use super::{FRAME_HEADER, File, METHODS, MOST};
use crate::store::open;
use crate::store::tests::io;
use proptest::prelude::*;
use rusqlite::Connection;
use rusqlite::ffi::{SQLITE_FULL, SQLITE_OK, sqlite3_file, sqlite3_int64, sqlite3_io_methods};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::fs;
use std::path::Path;
use std::ptr;

#[test]
fn a_large_transaction_takes_few_writes() {
    let dir = tempfile::tempdir().unwrap();
    let count = |connection: &Connection| {
        connection.execute("CREATE TABLE large (data BLOB)", []).unwrap();
        let before = io("syscw");
        connection.execute("INSERT INTO large VALUES (randomblob(4 << 20))", []).unwrap();
        io("syscw") - before
    };
    let gathered = count(&open::writer(Some(&dir.path().join("ours.db"))).unwrap());
    let plain = Connection::open(dir.path().join("plain.db")).unwrap();
    plain.pragma_update(None, "page_size", 8192).unwrap();
    plain.pragma_update(None, "journal_mode", "WAL").unwrap();
    let plain = count(&plain);
    assert!(plain > 1000, "{plain}");
    assert!(gathered < 50, "{gathered} writes, {plain} without");
}

/// It would take a lock for each allocation, which all connections share.
#[test]
fn memory_is_not_counted() {
    if std::env::var_os("NEXTEST").is_none() {
        eprintln!(
            "SKIPPED: another test of this process may have used SQLite before; cargo nextest gives each its own"
        );
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let connection = open::writer(Some(&dir.path().join("ours.db"))).unwrap();
    connection.execute("CREATE TABLE large (data BLOB)", []).unwrap();
    // SAFETY: it may be asked at any time.
    assert_eq!(unsafe { rusqlite::ffi::sqlite3_memory_used() }, 0);
}

/// A disk that fails may not take what is in it, and the kernel then forgets that when it needs the memory.
#[test]
fn the_index_of_the_wal_stays_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let connection = open::writer(Some(&dir.path().join("index.db"))).unwrap();
    // Two regions of it: one has 4,096 frames.
    connection
        .execute_batch("CREATE TABLE large (data BLOB); INSERT INTO large VALUES (randomblob(40 << 20))")
        .unwrap();
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut is_index, mut locked) = (false, 0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Locked:") if is_index => locked += words.next().unwrap().parse::<u64>().unwrap(),
            Some(range) if range.contains('-') => is_index = line.ends_with("index.db-shm"),
            _ => {}
        }
    }
    assert_eq!(locked, 64, "KiB");
}

/// A file of the VFS below that notes what is written, or has no room for it.
#[repr(C)]
struct Disk {
    base: sqlite3_file,
    written: RefCell<Vec<(sqlite3_int64, usize)>>,
    full: Cell<bool>,
}

unsafe extern "C" fn note(
    file: *mut sqlite3_file,
    _: *const c_void,
    length: c_int,
    at: sqlite3_int64,
) -> c_int {
    // SAFETY: it is a `Disk` of the test below.
    let disk = unsafe { &*file.cast::<Disk>() };
    disk.written.borrow_mut().push((at, length as usize));
    if disk.full.get() { SQLITE_FULL } else { SQLITE_OK }
}

#[test]
fn whatever_ends_a_transaction_is_written_before_the_call_returns() {
    let methods = sqlite3_io_methods { xWrite: Some(note), ..METHODS };
    let base = sqlite3_file { pMethods: &raw const methods };
    let disk = Disk { base, written: RefCell::default(), full: Cell::new(false) };
    let (below, other) = ((&raw const disk).cast_mut().cast(), ptr::null_mut());
    let (base, held) = (sqlite3_file { pMethods: ptr::null() }, Vec::new());
    let mut wal = File { base, methods: METHODS, below, other, is_wal: true, held, at: 0, ends: false };
    let written = || disk.written.take();
    let (page, frame) = (vec![1; 8192], 8192 + FRAME_HEADER as i64);
    let (mut goes_on, ends) = ([7; FRAME_HEADER], [7; FRAME_HEADER]);
    goes_on[4..8].fill(0);
    let put = |wal: &mut File, bytes: &[u8], at: i64| wal.gather(bytes, at);
    assert_eq!(put(&mut wal, &goes_on, 32), SQLITE_OK);
    assert_eq!(put(&mut wal, &page, 32 + 24), SQLITE_OK);
    assert_eq!(put(&mut wal, &ends, 32 + frame), SQLITE_OK);
    assert_eq!(written(), []);
    assert_eq!(put(&mut wal, &page, 32 + frame + 24), SQLITE_OK);
    assert_eq!(written(), [(32, 2 * frame as usize)]);
    // A transaction of one frame; a corrected header alone.
    assert_eq!(put(&mut wal, &ends, 32 + 2 * frame), SQLITE_OK);
    assert_eq!(written(), [(32 + 2 * frame, FRAME_HEADER)]);
    assert_eq!(put(&mut wal, &page, 32 + 2 * frame + 24), SQLITE_OK);
    assert_eq!(written(), [(32 + 2 * frame + 24, 8192)]);
    // Somewhere else, and more than can be kept.
    assert_eq!(put(&mut wal, &goes_on, 32 + 3 * frame), SQLITE_OK);
    assert_eq!(put(&mut wal, &page, 32 + 24), SQLITE_OK);
    assert_eq!(written(), [(32 + 3 * frame, FRAME_HEADER)]);
    for number in 1..=MOST as i64 / 8192 {
        assert_eq!(put(&mut wal, &page, 32 + 24 + number * 8192), SQLITE_OK);
    }
    assert_eq!(written(), [(32 + 24, MOST / 8192 * 8192)]);
    assert_eq!(wal.flush(), SQLITE_OK);
    written();
    // No room: the call that ends the transaction says so, and nothing of it is tried again.
    disk.full.set(true);
    assert_eq!(put(&mut wal, &goes_on, 32), SQLITE_OK);
    assert_eq!(put(&mut wal, &page, 32 + 24), SQLITE_OK);
    assert_eq!(put(&mut wal, &ends, 32 + frame), SQLITE_OK);
    assert_eq!(put(&mut wal, &page, 32 + frame + 24), SQLITE_FULL);
    assert_eq!((written().len(), wal.flush()), (1, SQLITE_OK));
}

#[derive(Clone, Debug)]
enum Step {
    Put(i64, usize, u8),
    Change(i64, u8),
    Remove(i64),
    Savepoint,
    RollBackTo,
    Commit,
    RollBack,
    Checkpoint(bool),
    Durable(bool),
    /// Somebody else writes, between two transactions.
    Other(i64, usize, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let put = || (0..12i64, prop_oneof![1..500usize, 30_000..300_000usize], any::<u8>());
    prop_oneof![
        6 => put().prop_map(|(id, length, byte)| Step::Put(id, length, byte)),
        4 => (0..12i64, any::<u8>()).prop_map(|(id, byte)| Step::Change(id, byte)),
        2 => (0..12i64).prop_map(Step::Remove),
        2 => Just(Step::Savepoint),
        1 => Just(Step::RollBackTo),
        4 => Just(Step::Commit),
        2 => Just(Step::RollBack),
        1 => any::<bool>().prop_map(Step::Checkpoint),
        1 => any::<bool>().prop_map(Step::Durable),
        2 => put().prop_map(|(id, length, byte)| Step::Other(id, length, byte)),
    ]
}

type Rows = BTreeMap<i64, Vec<u8>>;

fn blob(length: usize, byte: u8) -> Vec<u8> {
    (0..length).map(|at| byte ^ (at / 509) as u8).collect()
}

fn rows(connection: &Connection) -> Rows {
    let mut statement = connection.prepare("SELECT id, data FROM thing").unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap()
}

/// What would be there if the machine lost its processes now.
fn after_a_crash(path: &Path, scratch: &Path) -> Rows {
    for end in ["", "-wal"] {
        let name = |path: &Path| format!("{}{end}", path.display());
        fs::copy(name(path), name(scratch)).unwrap();
    }
    let _ = fs::remove_file(format!("{}-shm", scratch.display()));
    let connection = Connection::open(scratch).unwrap();
    let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    rows(&connection)
}

struct Twin {
    connection: Connection,
    other: Connection,
    committed: Rows,
    now: Rows,
    savepoint: Option<Rows>,
}

impl Twin {
    fn new(path: &Path) -> Self {
        let connection = open::writer(Some(path)).unwrap();
        // So few pages that transactions are written before they end, and pages of them again.
        connection.pragma_update(None, "cache_size", 8).unwrap();
        connection.execute("CREATE TABLE thing (id INTEGER PRIMARY KEY, data BLOB)", []).unwrap();
        let other = Connection::open(path).unwrap();
        other.pragma_update(None, "synchronous", "NORMAL").unwrap();
        connection.execute_batch("BEGIN").unwrap();
        let (committed, now) = Default::default();
        Self { connection, other, committed, now, savepoint: None }
    }

    fn put(connection: &Connection, rows: &mut Rows, id: i64, bytes: Vec<u8>) {
        connection.execute("REPLACE INTO thing VALUES (?1, ?2)", (id, &bytes)).unwrap();
        rows.insert(id, bytes);
    }

    fn end(&mut self, how: &str) {
        self.connection.execute_batch(how).unwrap();
        match how {
            "COMMIT" => self.committed = self.now.clone(),
            _ => self.now = self.committed.clone(),
        }
        self.savepoint = None;
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Put(id, length, byte) => {
                Self::put(&self.connection, &mut self.now, id, blob(length, byte));
            }
            Step::Change(id, byte) => {
                if let Some(length) = self.now.get(&id).map(Vec::len) {
                    Self::put(&self.connection, &mut self.now, id, blob(length, byte));
                }
            }
            Step::Remove(id) => {
                self.connection.execute("DELETE FROM thing WHERE id = ?1", [id]).unwrap();
                self.now.remove(&id);
            }
            Step::Savepoint => {
                self.connection.execute_batch("SAVEPOINT here").unwrap();
                self.savepoint = Some(self.now.clone());
            }
            Step::RollBackTo => {
                if let Some(rows) = &self.savepoint {
                    self.connection.execute_batch("ROLLBACK TO here").unwrap();
                    self.now = rows.clone();
                }
            }
            Step::Commit | Step::RollBack => {
                self.end(if matches!(step, Step::Commit) { "COMMIT" } else { "ROLLBACK" });
                self.connection.execute_batch("BEGIN").unwrap();
            }
            Step::Checkpoint(whole) => {
                let sql = format!("PRAGMA wal_checkpoint({})", if whole { "TRUNCATE" } else { "PASSIVE" });
                self.end("COMMIT");
                self.other.query_row(&sql, [], |_| Ok(())).unwrap();
                self.connection.execute_batch("BEGIN").unwrap();
            }
            Step::Durable(full) => {
                self.end("COMMIT");
                let how = if full { "FULL" } else { "NORMAL" };
                self.connection.pragma_update(None, "synchronous", how).unwrap();
                self.connection.execute_batch("BEGIN").unwrap();
            }
            Step::Other(id, length, byte) => {
                self.end("ROLLBACK");
                Self::put(&self.other, &mut self.committed, id, blob(length, byte));
                self.now = self.committed.clone();
                self.connection.execute_batch("BEGIN").unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn nobody_can_tell_that_writes_are_gathered(steps in proptest::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let (path, scratch) = (dir.path().join("db"), dir.path().join("crashed"));
        let mut twin = Twin::new(&path);
        for step in steps {
            twin.take(step);
            prop_assert_eq!(&rows(&twin.connection), &twin.now);
            prop_assert_eq!(&rows(&twin.other), &twin.committed);
            prop_assert_eq!(&after_a_crash(&path, &scratch), &twin.committed);
        }
    }
}
