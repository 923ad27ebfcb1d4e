//! Chunks that are changed in place, and those that are not.

use super::*;
use crate::store::blocks::BLOCK;

#[test]
fn a_part_changes_in_place_under_a_new_id() {
    let store = store();
    let before = commit(&store, &file(2, 10, 50_000, ExtentChange::Data(bytes(1, 50_000))));
    let mut changed = (*bytes(1, 50_000)).clone();
    changed.write(20_000, &[9; 3000]);
    let changed = Arc::new(changed);
    let after = commit(
        &store,
        &file(3, 10, 50_000, ExtentChange::Part(Arc::clone(&changed), Blocks::of(&(20_000..23_000)))),
    );
    assert_ne!(before, after);
    assert_eq!(chunk(&store, before[0]).unwrap(), None, "the old id stands for bytes that are gone");
    assert!(chunk(&store, after[0]).unwrap().unwrap() == changed[..]);
    assert_eq!(count(&store, "SELECT count(*) FROM chunk_data"), 1);
}

#[test]
fn a_tail_that_grows_gets_room_and_then_grows_in_place() {
    let store = store();
    commit(&store, &file(2, 10, 20_000, ExtentChange::Data(bytes(1, 20_000))));
    let mut tail = (*bytes(1, 20_000)).clone();
    let mut ids = Vec::new();
    for round in 0..10u64 {
        let at = tail.len();
        tail.write(at + 10, &[round as u8; 4000]);
        let part = ExtentChange::Part(Arc::new(tail.clone()), Blocks::of(&(at + 10..tail.len())));
        ids.extend(commit(&store, &file(3 + round, 10, tail.len(), part)));
        assert!(chunk(&store, *ids.last().unwrap()).unwrap().unwrap() == tail[..]);
    }
    store.gc().unwrap();
    assert_eq!(count(&store, "SELECT count(*) FROM chunk_data"), 1);
    sound(&store);
}

#[test]
fn a_chunk_that_others_have_is_not_changed_in_place() {
    let store = store();
    let ids = commit(&store, &file(2, 10, 50_000, ExtentChange::Data(bytes(1, 50_000))));
    let mut changed = (*bytes(1, 50_000)).clone();
    changed.write(0, b"changed");
    // The copy and the change are in one group, and the change has the smaller number.
    let mut group = file(4, 10, 50_000, ExtentChange::Part(Arc::new(changed), Blocks::of(&(0..7))));
    group.merge(file(5, 11, 50_000, ExtentChange::Chunk(ids[0])));
    let after = commit(&store, &group);
    assert!(chunk(&store, ids[0]).unwrap().unwrap() == bytes(1, 50_000)[..]);
    assert!(chunk(&store, after[0]).unwrap().unwrap().starts_with(b"changed"));
}

#[test]
fn merged_changes_of_an_extent_say_all_that_changed() {
    let store = store();
    commit(&store, &file(2, 10, 50_000, ExtentChange::Data(bytes(1, 50_000))));
    let mut buf = (*bytes(1, 50_000)).clone();
    buf.write(100, b"first");
    let mut group = file(3, 10, 50_000, ExtentChange::Part(Arc::new(buf.clone()), Blocks::of(&(100..105))));
    buf.write(9000, b"second");
    group.merge(file(4, 10, 50_000, ExtentChange::Part(Arc::new(buf.clone()), Blocks::of(&(9000..9006)))));
    let ids = commit(&store, &group);
    assert!(chunk(&store, ids[0]).unwrap().unwrap() == buf[..]);
}

/// A chunk's worth of zeros with other bytes in two of its blocks, and which those are.
pub(super) fn patch(first: usize, second: usize, byte: u8) -> (Arc<Buf>, Blocks) {
    let mut buf = Buf::blank(&Gauge::default());
    let mut blocks = Blocks::default();
    for block in [first, second] {
        let range = block * BLOCK..(block + 1) * BLOCK;
        buf.write(range.start, &[byte; BLOCK]);
        blocks = blocks.and(Blocks::of(&range));
    }
    (Arc::new(buf), blocks)
}

pub(super) fn is_patched(found: &[u8], base: &[u8], first: usize, second: usize, byte: u8) {
    for (block, found) in found.chunks(BLOCK).enumerate() {
        let kept = base.get(block * BLOCK..).unwrap_or_default();
        let kept: Vec<u8> = kept.iter().copied().chain(std::iter::repeat(0)).take(BLOCK).collect();
        let expected = if block == first || block == second { vec![byte; BLOCK] } else { kept };
        assert!(found == expected, "block {block}");
    }
}

#[test]
fn a_patch_changes_its_blocks_in_place_and_no_others() {
    let store = store();
    let whole = bytes(1, CHUNK);
    commit(&store, &file(2, 10, CHUNK, ExtentChange::Data(Arc::clone(&whole))));
    let (buf, blocks) = patch(0, 9, 7);
    let ids = commit(&store, &file(3, 10, CHUNK, ExtentChange::Patch(buf, blocks)));
    is_patched(&chunk(&store, ids[0]).unwrap().unwrap(), &whole, 0, 9, 7);
    assert_eq!(count(&store, "SELECT count(*) FROM chunk_data"), 1);
    sound(&store);
}

#[test]
fn a_patch_of_a_chunk_that_others_have_or_that_is_too_short_makes_a_new_one() {
    let store = store();
    let whole = bytes(1, CHUNK);
    let ids = commit(&store, &file(2, 10, CHUNK, ExtentChange::Data(Arc::clone(&whole))));
    commit(&store, &file(3, 11, CHUNK, ExtentChange::Chunk(ids[0])));
    let (buf, blocks) = patch(3, 15, 8);
    let after = commit(&store, &file(4, 10, CHUNK, ExtentChange::Patch(buf, blocks)));
    is_patched(&chunk(&store, after[0]).unwrap().unwrap(), &whole, 3, 15, 8);
    assert!(chunk(&store, ids[0]).unwrap().unwrap() == whole[..], "the other file's");
    // A file that was made longer: its chunk has 20,000 bytes, all others are zeros.
    let short = bytes(2, 20_000);
    commit(&store, &file(5, 12, CHUNK, ExtentChange::Data(Arc::clone(&short))));
    let (buf, blocks) = patch(4, 5, 9);
    let after = commit(&store, &file(6, 12, CHUNK, ExtentChange::Patch(buf, blocks)));
    is_patched(&chunk(&store, after[0]).unwrap().unwrap(), &short, 4, 5, 9);
    sound(&store);
}

#[test]
fn merged_patches_have_the_blocks_of_both() {
    let store = store();
    let whole = bytes(1, CHUNK);
    commit(&store, &file(2, 10, CHUNK, ExtentChange::Data(Arc::clone(&whole))));
    let (first, blocks) = patch(1, 2, 5);
    let mut group = file(3, 10, CHUNK, ExtentChange::Patch(Arc::clone(&first), blocks));
    let mut both = (*first).clone();
    both.write(7 * BLOCK, &[6; BLOCK]);
    let later = Blocks::of(&(7 * BLOCK..8 * BLOCK));
    group.merge(file(4, 10, CHUNK, ExtentChange::Patch(Arc::new(both), later)));
    let found = commit(&store, &group);
    let found = chunk(&store, found[0]).unwrap().unwrap();
    assert!(found[7 * BLOCK..8 * BLOCK] == [6; BLOCK]);
    let mut others = found;
    others[7 * BLOCK..8 * BLOCK].copy_from_slice(&whole[7 * BLOCK..8 * BLOCK]);
    is_patched(&others, &whole, 1, 2, 5);
    // Over bytes that did not come to the store.
    let (buf, blocks) = patch(0, 6, 3);
    let mut group = file(5, 11, CHUNK, ExtentChange::Data(Arc::clone(&whole)));
    group.merge(file(6, 11, CHUNK, ExtentChange::Patch(buf, blocks)));
    let found = commit(&store, &group);
    is_patched(&chunk(&store, found[0]).unwrap().unwrap(), &whole, 0, 6, 3);
}

/// Frames of the WAL.
fn frames(store: &Store) -> i64 {
    count(store, "PRAGMA wal_checkpoint(NOOP)")
}

/// What a database in the workspace has written at each of its transactions: a block of its own, and its times.
#[test]
fn a_change_in_place_writes_no_extent_and_no_index() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Location::File(dir.path().join("s.db")), Path::new("/nowhere")).unwrap();
    commit(&store, &file(2, 10, CHUNK, ExtentChange::Data(bytes(1, CHUNK))));
    let written = [3, 4, 5].map(|revision| {
        let before = frames(&store);
        let (buf, blocks) = patch(1, 1, revision as u8);
        let mut group = file(revision, 10, CHUNK, ExtentChange::Patch(buf, blocks));
        group.nodes.remove(&ROOT);
        assert_eq!(commit(&store, &group), [ChunkId { row: 1, version: revision as u32 - 2 }]);
        frames(&store) - before
    });
    // The workspace, the node, the chunk and its bytes, which lie on one page or two. The hash goes away with the first.
    assert!(written[1] <= 5 && written[2] <= 5, "{written:?}");
}

/// Chunks had no versions, and one that was changed in place got another row.
#[test]
fn a_store_of_before_is_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Store::open(&Location::File(dir.path().join("s.db")), Path::new("/nowhere")).unwrap();
    let store = open();
    let whole = bytes(1, CHUNK);
    commit(&store, &file(2, 10, CHUNK, ExtentChange::Data(Arc::clone(&whole))));
    store.damage(
        "UPDATE chunk SET id = 7, hash = NULL; UPDATE extent SET chunk = 7; ALTER TABLE chunk DROP COLUMN version;
         ALTER TABLE replica DROP COLUMN taken;
         PRAGMA user_version = 4",
    );
    drop(store);
    let store = open();
    sound(&store);
    assert_eq!(store.extents(WS, 10).unwrap(), [(0, original(7))]);
    assert!(chunk(&store, original(7)).unwrap().unwrap() == whole[..]);
    let (buf, blocks) = patch(0, 9, 7);
    let ids = commit(&store, &file(3, 10, CHUNK, ExtentChange::Patch(buf, blocks)));
    assert_eq!(ids, [ChunkId { row: 7, version: 1 }]);
    is_patched(&chunk(&store, ids[0]).unwrap().unwrap(), &whole, 0, 9, 7);
}

#[test]
fn a_chunk_without_another_version_is_written_anew() {
    for last in [i64::from(u32::MAX), i64::MAX] {
        let store = store();
        let whole = bytes(1, CHUNK);
        commit(&store, &file(2, 10, CHUNK, ExtentChange::Data(Arc::clone(&whole))));
        store.damage(&format!("UPDATE chunk SET hash = NULL, version = {last}"));
        let (buf, blocks) = patch(0, 9, 7);
        let group = file(3, 10, CHUNK, ExtentChange::Patch(buf, blocks));
        let id = store.commit(WS, &group, true).unwrap().chunks[0].2;
        assert_eq!(id, original(2));
        is_patched(&chunk(&store, id).unwrap().unwrap(), &whole, 0, 9, 7);
        store.gc().unwrap();
        sound(&store);
    }
}
