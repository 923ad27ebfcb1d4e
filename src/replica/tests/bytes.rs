//! Bytes on their way, while what they are of goes on.

use super::*;
use crate::sync::ReplicaId;
use crate::sync::contents::hash;

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
    pause(&ra.control()).await;
    for ((seed, new), old) in (20..).zip(new).zip(old) {
        Tree(&a).write(new, &noise(seed, 512 << 10));
        Tree(&a).remove(old);
    }
    ra.control().resume();
    tokio::time::timeout(Duration::from_secs(20), in_step(&[&hub, &a], &[&ra.control()])).await.unwrap();
}

pub(super) async fn pause(control: &Control) {
    control.pause();
    while control.status().link != LinkState::Paused {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Why nothing goes on, once that has been said.
async fn complaint(control: &Control) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(error) = control.status().last_error {
            return error;
        }
        assert!(Instant::now() < deadline, "nothing is said");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_needs_as_much_room_upstream_as_it_has_bytes() {
    let (hub, a) = (site_of(10 << 20), site(&Location::Memory));
    let way = Way::to(&hub);
    let ra = replica(&a, &way);
    for seed in 1..3 {
        Tree(&a).write("large", &noise(seed, 8 << 20));
        tokio::time::timeout(Duration::from_secs(20), in_step(&[&hub, &a], &[&ra.control()])).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_needs_as_much_room_here_as_it_has_bytes() {
    let (hub, a) = (site(&Location::Memory), site_of(10 << 20));
    let way = Way::to(&hub);
    let ra = replica(&a, &way);
    for seed in 1..3 {
        Tree(&hub).write("large", &noise(seed, 8 << 20));
        tokio::time::timeout(Duration::from_secs(20), in_step(&[&hub, &a], &[&ra.control()])).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_room_upstream_is_not_brought() {
    let (hub, a) = (site_of(10 << 20), site(&Location::Memory));
    let way = Way::to(&hub);
    let ra = replica(&a, &way);
    Tree(&hub).write("other", &noise(7, 3 << 20));
    in_step(&[&hub, &a], &[&ra.control()]).await;
    way.bytes.store(0, Ordering::Relaxed);
    Tree(&a).write("large", &noise(1, 8 << 20));
    let error = complaint(&ra.control()).await;
    assert!(error.contains("upstream") && error.contains("8388608") && error.contains("7340032"), "{error}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(way.bytes.load(Ordering::Relaxed), 0);
    Tree(&hub).remove("other");
    tokio::time::timeout(Duration::from_secs(20), in_step(&[&hub, &a], &[&ra.control()])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_room_here_is_not_fetched() {
    let (hub, a) = (site(&Location::Memory), site_of(10 << 20));
    let way = Way::to(&hub);
    let ra = replica(&a, &way);
    Tree(&a).write("other", &noise(7, 3 << 20));
    in_step(&[&hub, &a], &[&ra.control()]).await;
    way.bytes.store(0, Ordering::Relaxed);
    Tree(&hub).write("large", &noise(1, 8 << 20));
    let error = complaint(&ra.control()).await;
    assert!(error.contains("8388608") && error.contains("7340032"), "{error}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(way.bytes.load(Ordering::Relaxed), 0);
    Tree(&hub).remove("other");
    Tree(&a).remove("other");
    tokio::time::timeout(Duration::from_secs(20), in_step(&[&hub, &a], &[&ra.control()])).await.unwrap();
}

#[test]
fn what_was_brought_is_bounded_and_makes_way_for_what_others_bring() {
    let hub = Hub::new(site_of(1 << 20));
    let object = |seed| noise(seed, 256 << 10);
    let objects = |seeds: std::ops::Range<u64>| -> Vec<Object> {
        seeds.map(object).map(|bytes| Object { hash: hash(&bytes), bytes }).collect()
    };
    let (one, other) = (ReplicaId([1; 16]), ReplicaId([2; 16]));
    hub.bring(one, objects(0..11)).unwrap();
    hub.bring(other, objects(20..31)).unwrap();
    let hashes: Vec<Hash> = objects(20..31).iter().map(|object| object.hash).collect();
    assert_eq!(hub.lacks(&hashes).unwrap(), Vec::<Hash>::new());
    assert!(hub.bring(other, objects(40..44)).unwrap_err().to_string().starts_with("no space left"));
    hub.bring(other, objects(40..44)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_need_no_room() {
    let (hub, a, b) = (site_of(10 << 20), site(&Location::Memory), site_of(10 << 20));
    let way = Way::to(&hub);
    let (ra, rb) = (replica(&a, &way), replica(&b, &way));
    Tree(&a).write("sparse", &noise(1, 2 << 20));
    let set = SetAttr { size: Some(64 << 20), ..SetAttr::default() };
    a.vfs.setattr(Caller::DAEMON, Tree(&a).ino("sparse"), &set).unwrap();
    let (ca, cb) = (ra.control(), rb.control());
    tokio::time::timeout(Duration::from_secs(20), in_step(&[&hub, &a, &b], &[&ca, &cb])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_changes_do_not_wait_for_a_file_that_is_being_written() {
    let (hub, a) = (site(&Location::Memory), site(&Location::Memory));
    let way = Way::to(&hub);
    let ra = replica(&a, &way);
    in_step(&[&hub, &a], &[&ra.control()]).await;
    pause(&ra.control()).await;
    Tree(&a).write("large", &noise(1, 1 << 20));
    for number in 0..1100 {
        Tree(&a).write(&format!("f{number}"), b"x");
    }
    ra.control().resume();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !Tree(&hub).has("f1099") {
        assert!(Instant::now() < deadline, "nothing comes");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(!Tree(&hub).has("large"), "they came after the large file");
    in_step(&[&hub, &a], &[&ra.control()]).await;
}
