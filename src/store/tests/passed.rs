//! What is read to be passed on to the kernel.

use super::*;

/// Reads all chunks of a file, a MiB at a time.
fn pass_on(store: &Store, ino: Ino) -> Vec<Vec<u8>> {
    let extents = store.extents(WS, ino).unwrap();
    let read = |some: &[(u64, ChunkId)]| -> Vec<Vec<u8>> {
        some.iter().map(|(_, id)| chunk(store, *id).unwrap().unwrap()).collect()
    };
    extents.chunks(16).flat_map(|some| store.passing_on(|| read(some))).collect()
}

fn collect(store: &Store) {
    store.checkpoint(Checkpoint::Passive).unwrap();
    while !store.gc_step(500, true).unwrap().done {}
    store.checkpoint(Checkpoint::Truncate).unwrap();
}

/// SQLite moves what is at the end of the file to where something was removed, and turns it round.
#[test]
fn what_lies_backward_is_fetched_before_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Location::File(dir.path().join("s.db")), Path::new("/nowhere")).unwrap();
    let passing = store.passing.as_ref().unwrap();
    let last = large(3, 11, 512);
    commit(&store, &large(2, 10, 512));
    commit(&store, &last);
    store.checkpoint(Checkpoint::Truncate).unwrap();
    pass_on(&store, 11);
    assert!(!passing.looks_scattered() && passing.asked_for() == 0);
    let mut removal = file(4, 10, 0, ExtentChange::Hole);
    removal.nodes.insert(10, NodeChange::Removed(4));
    let Some(NodeChange::Put(root)) = removal.nodes.get_mut(&ROOT) else { unreachable!() };
    root.dirents.values_mut().for_each(|dirent| *dirent = None);
    commit(&store, &removal);
    collect(&store);
    let Some(NodeChange::Put(put)) = last.nodes.get(&11) else { unreachable!() };
    let wanted: Vec<Vec<u8>> =
        put.content.extents.values().map(|data| data.bytes().unwrap().to_vec()).collect();
    assert!(pass_on(&store, 11) == wanted);
    assert!(passing.looks_scattered() && passing.asked_for() > 16, "{} windows", passing.asked_for());
    sound(&store);
}
