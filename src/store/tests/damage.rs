//! Stores with rows that no wsd has written: what is wrong is said, and nothing more is lost.

use super::place::{is_patched, patch};
use super::*;
use rows::NAME_MAX;
use std::fmt::Debug;
use std::path::PathBuf;

impl Store {
    /// Changes rows as no wsd does.
    pub(crate) fn damage(&self, sql: &str) {
        self.writer.lock().connection.execute_batch(sql).unwrap();
    }

    /// What `wsd check` says of it.
    fn flaws(&self) -> Vec<String> {
        self.check(true).unwrap().iter().map(ToString::to_string).collect()
    }
}

/// A store with file 10 in the root, which has one chunk.
fn with_file() -> Store {
    let store = store();
    commit(&store, &file(2, 10, 50_000, ExtentChange::Data(bytes(1, 50_000))));
    store
}

/// The same in a file, closed and damaged.
fn closed(dir: &tempfile::TempDir, sql: &str) -> PathBuf {
    let path = dir.path().join("s.db");
    let store = Store::open(&Location::File(path.clone()), Path::new("/nowhere")).unwrap();
    commit(&store, &file(2, 10, 50_000, ExtentChange::Data(bytes(1, 50_000))));
    store.damage(sql);
    path
}

fn open(path: &Path) -> StoreResult<Store> {
    Store::open(&Location::File(path.to_path_buf()), Path::new("/nowhere"))
}

/// Refused as what no wsd has written, with words that say where.
fn refused_as<T: Debug>(result: StoreResult<T>, words: &[&str]) {
    match result {
        Err(StoreError::Corrupt(why)) => {
            assert!(words.iter().all(|word| why.contains(word)), "{why}: {words:?}");
        }
        other => panic!("{words:?}: {other:?}"),
    }
}

/// A symlink of a terabyte ended the daemon when somebody looked at it.
#[test]
fn a_size_that_nothing_has_is_refused() {
    let store = with_file();
    for (size, kind) in [("-1", 1), ("17592186044417", 1), ("1099511627776", 3), ("4096", 3)] {
        store.damage(&format!("UPDATE inode SET size = {size}, kind = {kind} WHERE ino = 10"));
        refused_as(store.inode(WS, 10), &["node 10", size]);
    }
    store.damage("UPDATE inode SET size = 17592186044416, kind = 1 WHERE ino = 10");
    assert!(store.inode(WS, 10).is_ok());
    store.damage("UPDATE inode SET next_cookie = -1 WHERE ino = 1");
    refused_as(store.inode(WS, ROOT), &["node 1", "-1"]);
}

/// Bytes beyond a chunk's size ended the thread that wanted to change it.
#[test]
fn a_chunk_of_another_length_than_it_says_is_refused() {
    let store = with_file();
    let id = count(&store, "SELECT id FROM chunk");
    for (data, len) in
        [("zeroblob(200000)", 200_000), ("zeroblob(50000)", -1), ("x'00'", 50_000), ("'text'", 4)]
    {
        store.damage(&format!("UPDATE chunk_data SET data = {data}; UPDATE chunk SET len = {len}"));
        refused_as(chunk(&store, original(id)), &[&format!("chunk {id}")]);
    }
    store.damage("INSERT INTO content (ws, ino, since, data) VALUES (1, 10, 0, zeroblob(70000))");
    refused_as(store.inline(WS, 10), &["node 10", "70000"]);
}

/// The group could not be written, and neither could any other after it.
#[test]
fn a_damaged_chunk_does_not_keep_others_from_being_written() {
    for damage in [
        "UPDATE chunk_data SET data = zeroblob(200000); UPDATE chunk SET len = 200000, room = 200000",
        "UPDATE chunk_data SET data = x'00'",
    ] {
        let store = store();
        commit(&store, &file(2, 10, CHUNK, ExtentChange::Data(bytes(1, CHUNK))));
        store.damage(damage);
        let (buf, blocks) = patch(0, 9, 7);
        let group = file(3, 10, CHUNK, ExtentChange::Patch(buf, blocks));
        let id = store.commit(WS, &group, true).unwrap().chunks[0].2;
        is_patched(&chunk(&store, id).unwrap().unwrap(), &[], 0, 9, 7);
    }
}

#[test]
fn a_chunk_number_after_which_there_is_none_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = closed(&dir, "UPDATE chunk SET id = 9223372036854775807");
    refused_as(open(&path), &["chunk 9223372036854775807"]);
}

/// A listing went on for ever at a place of -1.
#[test]
fn a_name_or_a_place_that_no_entry_has_is_refused() {
    let store = with_file();
    for cookie in ["-1", "0", "2", "9223372036854775807"] {
        store.damage(&format!("UPDATE dirent SET cookie = {cookie}"));
        refused_as(store.dirents(WS, ROOT), &["directory 1", "\"10\"", cookie]);
    }
    store.damage("UPDATE dirent SET cookie = 20");
    assert!(store.dirents(WS, ROOT).is_ok());
    let long = format!("zeroblob({})", NAME_MAX + 1);
    for name in ["'text'", "x''", "x'2e2e'", "x'612f62'", "x'6100'", &long] {
        store.damage(&format!("UPDATE dirent SET name = {name}"));
        refused_as(store.dirents(WS, ROOT), &["directory 1"]);
    }
}

/// The start took the root away, with all that was below it.
#[test]
fn what_has_names_is_not_removed_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = closed(&dir, "UPDATE inode SET nlink = 0");
    refused_as(open(&path), &["root", "0 links"]);
    let raw = rusqlite::Connection::open(&path).unwrap();
    let nodes = |raw: &Connection| raw.query_row("SELECT count(*) FROM inode", [], |row| row.get(0));
    assert_eq!(nodes(&raw), Ok(2));
    raw.execute("UPDATE inode SET nlink = 2 WHERE ino = 1", []).unwrap();
    let store = open(&path).unwrap();
    assert!(store.inode(WS, 10).unwrap().is_some(), "the root has its name");
    store.damage("DELETE FROM dirent");
    drop(store);
    assert_eq!(open(&path).unwrap().inode(WS, 10).unwrap(), None, "nobody has its name now");
}

#[test]
fn a_store_without_a_root_or_a_workspace_is_refused_at_the_start() {
    for (damage, word) in [
        ("DELETE FROM inode WHERE ino = 1", "root"),
        ("UPDATE inode SET kind = 1 WHERE ino = 1", "root"),
        ("DELETE FROM workspace", "workspace"),
        ("UPDATE workspace SET id = 2", "workspace 1"),
        ("UPDATE workspace SET revision = 9223372036854775807", "9223372036854775807"),
        ("UPDATE workspace SET revision = -1", "-1"),
        ("UPDATE workspace SET next_ino = 9223372036854775807", "9223372036854775807"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = closed(&dir, damage);
        refused_as(open(&path), &[word]);
    }
}

#[test]
fn a_new_node_gets_no_number_that_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&closed(&dir, "UPDATE workspace SET next_ino = 1")).unwrap();
    assert_eq!(store.position(WS).unwrap(), (2, 11));
    assert_eq!(count(&store, "SELECT first_ino FROM life ORDER BY id DESC LIMIT 1"), 11);
}

#[test]
fn a_check_names_each_row_that_is_wrong() {
    for (damage, words) in [
        ("UPDATE dirent SET name = 'text'", &["dirent", "name is text"][..]),
        ("UPDATE chunk SET hash = CAST(hash AS TEXT)", &["chunk", "id=1", "hash is text"]),
        ("UPDATE chunk_data SET data = 'text'", &["chunk_data", "id=1", "data is text"]),
        ("UPDATE inode SET mode = 'abc' WHERE ino = 10", &["inode", "ino=10", "mode is text"]),
        ("UPDATE workspace SET revision = 9223372036854775807", &["workspace 1", "9223372036854775807"]),
        ("UPDATE workspace SET next_ino = 9223372036854775807", &["workspace 1", "9223372036854775807"]),
        ("UPDATE workspace SET next_ino = 10", &["node 10", "not below the next one, 10"]),
        ("UPDATE workspace SET pinned = 50", &["workspace 1", "50"]),
        ("DELETE FROM sync", &["workspace 1", "sync"]),
        ("DELETE FROM life", &["workspace 1", "life"]),
        ("UPDATE life SET author = x'00'", &["life 1", "author"]),
        ("DROP INDEX dirent_by_ino", &["index dirent_by_ino", "missing"]),
        ("DROP INDEX chunk_unused", &["index chunk_unused", "missing"]),
        ("UPDATE chunk SET version = 1", &["chunk 1", "version 1", "never changed"]),
        ("UPDATE chunk SET hash = NULL, version = -1", &["chunk 1", "version -1"]),
        ("DROP TABLE chunk", &["table chunk", "missing"]),
        ("CREATE TRIGGER t AFTER INSERT ON inode BEGIN SELECT 1; END", &["trigger t"]),
    ] {
        let store = with_file();
        store.damage(damage);
        let flaws = store.flaws();
        let found = flaws.iter().any(|flaw| words.iter().all(|word| flaw.contains(word)));
        assert!(found, "{damage}: {flaws:#?}");
    }
}

#[test]
fn a_file_that_sqlite_cannot_make_sense_of_is_named_and_what_to_do_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = closed(&dir, "PRAGMA wal_checkpoint(TRUNCATE)");
    let mut file = std::fs::read(&path).unwrap();
    file[8192..].fill(0x5a);
    std::fs::write(&path, file).unwrap();
    let error = open(&path).unwrap_err().to_string();
    let name = path.to_str().unwrap();
    assert!(error.contains(name) && error.contains("damaged") && error.contains("wsd check"), "{error}");
}
