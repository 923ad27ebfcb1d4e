//! What is left out of sync.

use super::*;

fn leaving_out(patterns: &[&str]) -> Settings {
    let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    Settings { ignore: Ignore::new(&patterns).unwrap(), ..Settings::default() }
}

/// Returns once it is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ignored_stays_where_it_is() {
    let hub = site(&Location::Memory);
    let (a, b) = (site(&Location::Memory), site(&Location::Memory));
    let way = Way::to(&hub);
    let ta = Tree(&a);
    ta.mkdir("skip");
    ta.write("skip/x", b"x");
    ta.write("a.log", b"x");
    ta.write("a.txt", b"x");
    let (ra, rb) = (replica_with(&a, &way, leaving_out(&["*.log", "skip/"])), replica(&b, &way));
    ra.control().now().await.unwrap();
    Tree(&hub).write("hub.log", b"x");
    Tree(&hub).write("hub.txt", b"x");
    in_step(&[&hub, &b], &[&rb.control()]).await;
    ra.control().now().await.unwrap();
    until("what is in view arrives", || ta.has("hub.txt")).await;
    assert!(ta.has("skip/x") && ta.has("a.log") && !ta.has("hub.log"));
    assert!(!Tree(&hub).has("skip") && !Tree(&hub).has("a.log") && Tree(&hub).has("a.txt"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_brings_what_is_in_it_when_it_gets_a_name_that_is_not_ignored() {
    let (hub, a) = (site(&Location::Memory), site(&Location::Memory));
    let way = Way::to(&hub);
    let (th, ta) = (Tree(&hub), Tree(&a));
    th.mkdir("skip");
    th.mkdir("skip/deep");
    th.write("skip/small", b"small");
    th.write("skip/deep/large", &vec![7; 300_000]);
    let ra = replica_with(&a, &way, leaving_out(&["skip"]));
    th.write("seen", b"x");
    until("what is in view arrives", || ta.has("seen")).await;
    assert!(!ta.has("skip"));
    th.rename("skip", "shown");
    until("the content arrives", || ta.has("shown/small") && ta.has("shown/deep/large")).await;
    assert_eq!((ta.read("shown/small"), ta.read("shown/deep/large")), (b"small".to_vec(), vec![7; 300_000]));
    // And back: it is gone here, and still there.
    th.rename("shown", "skip");
    until("what is out of view goes", || !ta.has("shown")).await;
    ra.control().now().await.unwrap();
    assert!(th.has("skip/small") && th.has("skip/deep/large"));
    // What was here is forgotten; what upstream has is not.
    a.store.prune_now().unwrap();
    // What a replica moves out of view is gone upstream, and comes back as something new.
    th.rename("skip", "again");
    until("it arrives again", || ta.has("again/deep/large")).await;
    ta.rename("again", "skip");
    ra.control().now().await.unwrap();
    assert!(!th.has("again") && ta.has("skip/deep/large"));
    ta.write("skip/deep/mine", b"made while out of view");
    ta.rename("skip", "mine");
    in_step(&[&hub, &a], &[&ra.control()]).await;
    assert!(th.has("mine/deep/mine") && th.has("mine/small"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patterns_can_be_others_at_the_next_start() {
    let (hub, a) = (site(&Location::Memory), site(&Location::Memory));
    let way = Way::to(&hub);
    let (th, ta) = (Tree(&hub), Tree(&a));
    for dir in ["build", "logs"] {
        th.mkdir(dir);
        th.write(&format!("{dir}/theirs"), dir.as_bytes());
    }
    let ra = replica_with(&a, &way, leaving_out(&["build"]));
    until("what is in view arrives", || ta.has("logs/theirs")).await;
    ta.mkdir("build");
    ta.write("build/ours", b"not upstream");
    ra.control().now().await.unwrap();
    assert!(!th.has("build/ours"));
    ra.stop(Duration::from_secs(5)).await;
    let ra = replica_with(&a, &way, leaving_out(&["logs"]));
    until("what was left out arrives", || ta.has("build/theirs")).await;
    until("what was not offered is", || th.has("build/ours")).await;
    ta.write("logs/ours", b"stays here");
    th.write("logs/later", b"stays there");
    ra.control().now().await.unwrap();
    assert!(ta.has("logs/theirs") && !th.has("logs/ours") && !ta.has("logs/later"));
    ra.stop(Duration::from_secs(5)).await;
    let ra = replica(&a, &way);
    in_step(&[&hub, &a], &[&ra.control()]).await;
    assert!(th.has("logs/ours") && ta.has("logs/later") && ta.has("build/ours"));
}
