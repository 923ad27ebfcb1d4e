//! Bytes on their way, while what they are of goes on.

use super::*;

/// Bytes that are like no others.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Returns once the replica has got some bytes of objects.
async fn some_came(way: &Way) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while way.bytes.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < deadline, "nothing came");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changes_upstream_while_it_is_fetched_arrives_as_it_is_then() {
    let (hub, a) = (site(&Location::Memory), site(&Location::Memory));
    let way = Way::to(&hub);
    Tree(&hub).write("large", &noise(1, 24 << 20));
    let ra = replica(&a, &way);
    for seed in 2..4 {
        some_came(&way).await;
        Tree(&hub).write("large", &noise(seed, 24 << 20));
        way.bytes.store(0, Ordering::Relaxed);
    }
    tokio::time::timeout(Duration::from_secs(20), in_step(&[&hub, &a], &[&ra.control()])).await.unwrap();
    assert_eq!(ra.control().status().last_error, None);
    let held = a.vfs.stats().allocated_bytes;
    assert!(held < 32 << 20, "{held} bytes are held for 24 MiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_larger_than_what_is_kept_for_a_push_goes_upstream() {
    let (hub, a) = (site(&Location::Memory), site(&Location::Memory));
    let way = Way::to(&hub);
    let ra = replica(&a, &way);
    Tree(&a).write("large", &noise(1, 40 << 20));
    tokio::time::timeout(Duration::from_secs(60), in_step(&[&hub, &a], &[&ra.control()])).await.unwrap();
    let held = hub.vfs.stats().allocated_bytes;
    assert!(held < 48 << 20, "{held} bytes are held for 40 MiB");
}

/// A workspace that may hold so many bytes.
fn site_of(most: u64) -> Arc<Site> {
    let store = Arc::new(Store::open(&Location::Memory, Path::new("/nowhere")).unwrap());
    let options = Options { max_bytes: Some(most), ..Options::default() };
    let vfs = Vfs::open(Arc::clone(&store), options).unwrap();
    Arc::new(Site::open(vfs, store).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_removed_upstream_makes_room_for_what_comes_with_it() {
    let (hub, a) = (site(&Location::Memory), site_of(10 << 20));
    let way = Way::to(&hub);
    Tree(&hub).write("one", &noise(1, 6 << 20));
    let ra = replica(&a, &way);
    in_step(&[&hub, &a], &[&ra.control()]).await;
    way.cut.store(true, Ordering::Relaxed);
    Tree(&hub).write("two", &noise(2, 6 << 20));
    Tree(&hub).remove("one");
    way.cut.store(false, Ordering::Relaxed);
    tokio::time::timeout(Duration::from_secs(20), in_step(&[&hub, &a], &[&ra.control()])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_removed_here_makes_room_upstream_for_what_comes_with_it() {
    let (hub, a) = (site_of(12 << 20), site(&Location::Memory));
    let way = Way::to(&hub);
    let names: Vec<String> = (0..18).map(|number| format!("f{number}")).collect();
    Tree(&a).write("one", &noise(100, 512 << 10));
    let (old, new) = names.split_at(9);
    for (seed, name) in (0..).zip(old) {
        Tree(&a).write(name, &noise(seed, 512 << 10));
    }
    let ra = replica(&a, &way);
    in_step(&[&hub, &a], &[&ra.control()]).await;
    ra.control().pause();
    while ra.control().status().link != LinkState::Paused {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for ((seed, new), old) in (20..).zip(new).zip(old) {
        Tree(&a).write(new, &noise(seed, 512 << 10));
        Tree(&a).remove(old);
    }
    ra.control().resume();
    tokio::time::timeout(Duration::from_secs(20), in_step(&[&hub, &a], &[&ra.control()])).await.unwrap();
}
