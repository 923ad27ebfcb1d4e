//! A hub that was stopped, and one that is an old copy of itself.

use super::bytes::pause;
use super::*;
use crate::store::fault::{Fault, Point};

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

/// Waits for a push that is taken without our hearing of it.
async fn unheard(way: &Way) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !way.cut.load(Ordering::Relaxed) {
        assert!(Instant::now() < deadline, "nothing was pushed");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_was_restarted_knows_what_it_has_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.db");
    let (hub, a) = (hub_at(&path), site(&Location::Memory));
    let way = Way::to(&hub);
    let ra = replica(&a, &way);
    in_step(&[&hub, &a], &[&ra.control()]).await;
    way.deaf.store(true, Ordering::Relaxed);
    Tree(&a).write("file", b"x");
    unheard(&way).await;
    pause(&ra.control()).await;
    ra.stop(Duration::from_secs(5)).await;
    Tree(&hub).remove("file");
    hub.vfs.shutdown().unwrap();
    drop((way, hub));
    let hub = hub_at(&path);
    let ra = replica(&a, &Way::to(&hub));
    in_step(&[&hub, &a], &[&ra.control()]).await;
    assert!(!Tree(&hub).has("file") && !Tree(&a).has("file"), "it is back");
}

/// The store fails when the push is in the tree already: it is written a little later, and the replica hears that it failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_hub_has_taken_that_could_not_write_it_is_no_conflict() {
    let (hub, a) = (site(&Location::Memory), site(&Location::Memory));
    let way = Way::to(&hub);
    let patient = Duration::from_secs(2);
    let timing = crate::sync::engine::Timing { backoff_min: patient, ..Default::default() };
    let ra = replica_with(&a, &way, Settings { timing, ..Settings::default() });
    Tree(&a).write("edited", b"first");
    in_step(&[&hub, &a], &[&ra.control()]).await;
    hub.commit().unwrap();
    hub.store.faults.plant(Point::CommitBegin, Fault::Io, usize::MAX);
    Tree(&a).write("edited", b"second");
    let deadline = Instant::now() + Duration::from_secs(5);
    while ra.control().status().last_error.is_none() {
        assert!(Instant::now() < deadline, "nothing fails");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(Tree(&hub).read("edited"), b"second");
    hub.store.faults.plant(Point::CommitBegin, Fault::Io, 0);
    hub.commit().unwrap();
    Tree(&hub).write("edited", b"third");
    in_step(&[&hub, &a], &[&ra.control()]).await;
    assert_eq!(Tree(&a).dump().keys().collect::<Vec<_>>(), ["/edited"]);
    assert_eq!(Tree(&a).read("edited"), b"third");
    assert_eq!(a.state().unwrap().conflicts, 0);
}

/// The store has no room left for what it knows of the bytes, when they are in the tree already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_has_taken_something_does_not_say_that_it_has_no_room() {
    let (hub, a) = (site(&Location::Memory), site(&Location::Memory));
    let way = Way::to(&hub);
    let patient = Duration::from_secs(2);
    let timing = crate::sync::engine::Timing { backoff_min: patient, ..Default::default() };
    let ra = replica_with(&a, &way, Settings { timing, ..Settings::default() });
    let bytes = |number: u8| vec![number; 100_000];
    Tree(&a).write("edited", &bytes(1));
    Tree(&a).write("gone", b"x");
    in_step(&[&hub, &a], &[&ra.control()]).await;
    pause(&ra.control()).await;
    hub.store.faults.plant(Point::Pieces, Fault::Full, 1);
    Tree(&a).write("edited", &bytes(2));
    Tree(&a).remove("gone");
    ra.control().resume();
    let deadline = Instant::now() + Duration::from_secs(5);
    while ra.control().status().last_error.is_none() {
        assert!(Instant::now() < deadline, "nothing fails");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(Tree(&hub).read("edited"), bytes(2));
    Tree(&hub).write("edited", &bytes(3));
    in_step(&[&hub, &a], &[&ra.control()]).await;
    assert_eq!(Tree(&a).dump().keys().collect::<Vec<_>>(), ["/edited"]);
    assert_eq!(Tree(&a).read("edited"), bytes(3));
}

/// The mode is what it was before, twice: the second push looks like the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_was_lost_is_not_taken_for_one_that_offered_the_same() {
    let (hub, a) = (site(&Location::Memory), site(&Location::Memory));
    let way = Way::to(&hub);
    let ra = replica(&a, &way);
    Tree(&a).write("script", b"x");
    in_step(&[&hub, &a], &[&ra.control()]).await;
    let chmod = |site: &Arc<Site>, mode| {
        let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
        site.vfs.setattr(Caller::DAEMON, Tree(site).ino("script"), &set).unwrap();
    };
    chmod(&a, 0o755);
    in_step(&[&hub, &a], &[&ra.control()]).await;
    chmod(&hub, 0o644);
    in_step(&[&hub, &a], &[&ra.control()]).await;
    // The next push does not arrive.
    way.lose.store(true, Ordering::Relaxed);
    chmod(&a, 0o755);
    unheard(&way).await;
    way.cut.store(false, Ordering::Relaxed);
    in_step(&[&hub, &a], &[&ra.control()]).await;
    let row = hub.vfs.getattr(Tree(&hub).ino("script")).unwrap();
    assert_eq!(row.mode & 0o777, 0o755);
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
