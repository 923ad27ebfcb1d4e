//! Hubs that are replicas of others.

use super::bytes::pause;
use super::*;

/// Two that have met each other meet a third one that has files of the same names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_comes_to_rest_whoever_met_whom_first() {
    let (top, mid, leaf) = (site(&Location::Memory), site(&Location::Memory), site(&Location::Memory));
    let fill = |site: &Arc<Site>, own: &str| {
        let tree = Tree(site);
        tree.mkdir("dir");
        tree.mkdir("dir/deep");
        tree.write("dir/same", b"same");
        tree.write("dir/deep/other", own.as_bytes());
        tree.write(&format!("dir/deep/{own}"), b"only here");
    };
    fill(&top, "top");
    fill(&mid, "mid");
    let (to_top, to_mid) = (Way::to(&top), Way::to(&mid));
    let leaves = replica(&leaf, &to_mid);
    in_step(&[&mid, &leaf], &[&leaves.control()]).await;
    pause(&leaves.control()).await;
    // While the leaf is away its directory becomes one with another.
    Tree(&leaf).write("dir/deep/new", b"new");
    Tree(&leaf).write("dir/same", b"changed");
    Tree(&leaf).rename("dir/deep/mid", "dir/moved");
    let middle = replica(&mid, &to_top);
    middle.control().join(true).await.unwrap();
    in_step(&[&top, &mid], &[&middle.control()]).await;
    // The middle is of the top's workspace now.
    leaves.control().join(true).await.unwrap();
    let controls = [&leaves.control(), &middle.control()];
    in_step(&[&top, &mid, &leaf], &controls).await;
    assert_eq!(Tree(&top).read("dir/deep/new"), b"new");
    Tree(&top).rename("dir/deep", "deep");
    Tree(&leaf).rename("dir", "dir2");
    Tree(&mid).write("dir/same", b"again");
    in_step(&[&top, &mid, &leaf], &controls).await;
    Tree(&leaf).remove("deep/new");
    in_step(&[&top, &mid, &leaf], &controls).await;
    let paths: Vec<String> = Tree(&top).dump().into_keys().collect();
    assert!(!paths.iter().any(|path| path.contains("new")), "{paths:?}");
}
