//! A hub that was stopped, and one that is an old copy of itself.

use super::*;

/// The hub of a store's file.
fn hub_at(path: &Path) -> Arc<Site> {
    site(&Location::File(path.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_of_several_portions_is_told_by_a_hub_that_was_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.db");
    let hub = hub_at(&path);
    let many = crate::sync::link::BATCH_ENTRIES * 2 + 10;
    for number in 0..many {
        Tree(&hub).write(&format!("f{number}"), b"x");
    }
    hub.vfs.shutdown().unwrap();
    drop(hub);
    let (hub, a) = (hub_at(&path), site(&Location::Memory));
    let ra = replica(&a, &Way::to(&hub));
    in_step(&[&hub, &a], &[&ra.control()]).await;
    assert!(Tree(&a).has(&format!("f{}", many - 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_hub_lost_that_was_restored_is_brought_back_by_its_replicas() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("hub.db"), dir.path().join("copy.db"));
    let (a, b) = (site(&Location::Memory), site(&Location::Memory));
    let hub = hub_at(&path);
    let way = Way::to(&hub);
    let (ra, rb) = (replica(&a, &way), replica(&b, &way));
    Tree(&a).write("old", b"as it was");
    Tree(&a).write("same", b"never changed");
    in_step(&[&hub, &a, &b], &[&ra.control(), &rb.control()]).await;
    hub.commit().unwrap();
    for suffix in ["", "-wal"] {
        std::fs::copy(
            dir.path().join(format!("hub.db{suffix}")),
            dir.path().join(format!("copy.db{suffix}")),
        )
        .unwrap();
    }
    Tree(&a).write("new", b"made after the copy");
    Tree(&a).write("old", b"changed after the copy");
    in_step(&[&hub, &a, &b], &[&ra.control(), &rb.control()]).await;
    ra.stop(Duration::from_secs(5)).await;
    rb.stop(Duration::from_secs(5)).await;
    drop((way, hub));

    let hub = hub_at(&copy);
    assert!(!Tree(&hub).has("new"));
    let way = Way::to(&hub);
    let (ra, rb) = (replica(&a, &way), replica(&b, &way));
    in_step(&[&hub, &a, &b], &[&ra.control(), &rb.control()]).await;
    let th = Tree(&hub);
    assert_eq!(th.read("new"), b"made after the copy");
    let contents: Vec<Vec<u8>> =
        th.dump().keys().filter(|path| path.starts_with("/old")).map(|path| th.read(&path[1..])).collect();
    assert!(contents.contains(&b"changed after the copy".to_vec()), "{contents:?}");
    let conflicts = th.dump().keys().filter(|path| path.contains("same.conflict")).count();
    assert_eq!(conflicts, 0, "what is the same on both sides is no conflict");
}

/// What was agreed on with one hub is nothing that another one has removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_hub_takes_nothing_away() {
    for is_empty in [true, false] {
        let (first, second, a) = (site(&Location::Memory), site(&Location::Memory), site(&Location::Memory));
        let ta = Tree(&a);
        ta.mkdir("dir");
        ta.write("dir/mine", b"agreed on with the first");
        let way = Way::to(&first);
        let ra = replica(&a, &way);
        in_step(&[&first, &a], &[&ra.control()]).await;
        ra.stop(Duration::from_secs(5)).await;
        if !is_empty {
            Tree(&second).write("theirs", b"of the second");
        }
        let way = Way::to(&second);
        let ra = replica(&a, &way);
        if !is_empty {
            ra.control().join(true).await.unwrap();
        }
        in_step(&[&second, &a], &[&ra.control()]).await;
        assert!(ta.has("dir/mine") && Tree(&second).has("dir/mine"));
        assert_eq!(ta.has("theirs"), !is_empty);
    }
}

/// How many removals are remembered.
fn tombstones(site: &Site) -> usize {
    site.commit().unwrap();
    let snapshot = site.store.snapshot(site.ws).unwrap();
    let (changed, _) = snapshot.changed_after(0, 10_000).unwrap();
    changed.iter().filter(|change| change.gone).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removals_are_remembered_as_long_as_somebody_has_to_hear_of_them() {
    let (hub, a) = (site(&Location::Memory), site(&Location::Memory));
    let way = Way::to(&hub);
    let ra = replica(&a, &way);
    for number in 0..20 {
        Tree(&hub).write(&format!("f{number}"), b"x");
    }
    in_step(&[&hub, &a], &[&ra.control()]).await;
    ra.stop(Duration::from_secs(5)).await;
    for number in 0..10 {
        Tree(&hub).remove(&format!("f{number}"));
    }
    assert_eq!(tombstones(&hub), 10);
    hub.store.gc().unwrap();
    assert_eq!(tombstones(&hub), 10, "the replica has not heard of them");
    let ra = replica(&a, &way);
    in_step(&[&hub, &a], &[&ra.control()]).await;
    assert!(!Tree(&a).has("f0") && Tree(&a).has("f19"));
    // The next question says that all that was told of is applied. Removals are looked for again after so many.
    Tree(&hub).write("last", b"x");
    in_step(&[&hub, &a], &[&ra.control()]).await;
    hub.store.prune_now().unwrap();
    assert_eq!(tombstones(&hub), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_replica_that_only_reads_hears_of_what_the_other_pushes() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("a.db"), dir.path().join("copy.db"));
    let (hub, a) = (site(&Location::Memory), hub_at(&path));
    let way = Way::to(&hub);
    Tree(&a).write("old", b"x");
    let ra = replica(&a, &way);
    in_step(&[&hub, &a], &[&ra.control()]).await;
    ra.stop(Duration::from_secs(5)).await;
    a.vfs.shutdown().unwrap();
    drop(a);
    std::fs::copy(&path, &copy).unwrap();
    let (a, b) = (hub_at(&path), hub_at(&copy));
    let rb = replica(&b, &way);
    in_step(&[&hub, &b], &[&rb.control()]).await;
    let ra = replica(&a, &way);
    Tree(&a).write("new", b"y");
    in_step(&[&hub, &a], &[&ra.control()]).await;
    in_step(&[&hub, &a, &b], &[&rb.control()]).await;
}
