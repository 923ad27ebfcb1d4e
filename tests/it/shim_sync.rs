//! Sync where a replica is a plain directory: two reconcilers in a row, and nothing is lost between them.

use crate::support::{self, Daemon, Place, WSD, eventually, has, sh, text};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// A replica whose workspace is a plain directory.
fn replica(place: &Place, hub: u16, settings: &[(&str, &str)]) -> Daemon {
    let upstream = format!("ws://127.0.0.1:{hub}");
    let own = [("UPSTREAM_URL", upstream.as_str()), ("FUSE_MOUNT", "shim")];
    place.serve_with(&[&own, settings].concat())
}

/// A hub: with a mount where there can be one.
fn hub(place: &Place) -> Daemon {
    let can_mount = fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    place.serve_with(&[("FUSE_MOUNT", if can_mount { "fuse" } else { "shim" })])
}

fn wsd(daemon: &Daemon, arguments: &[&str]) -> String {
    let mut command = Command::new(WSD);
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("WSD_URL", format!("ws://127.0.0.1:{}/ws", daemon.port));
    let output = command.output().unwrap();
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "wsd {arguments:?}: {said}");
    said
}

/// All that both directories and mounts can have: names, kinds, modes, links, bytes, times of files.
fn told(daemon: &Daemon) -> String {
    let script = r#"
        find . -mindepth 1 ! -type d -printf '%P|%y|%m|%n|%U:%G|%l|' \( -type f -printf '%s|%T@\n' -o -printf '\n' \) | LC_ALL=C sort
        find . -mindepth 1 -type d -printf '%P|%m|%U:%G\n' | LC_ALL=C sort
        find . -type f -exec sha256sum {} + | LC_ALL=C sort"#;
    // Files come and go while they are looked at.
    text(&support::sh_output(&daemon.path(""), script, &[]).stdout)
}

/// Waits until all have the same. The first one is the hub.
fn same(daemons: &[&Daemon]) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        for daemon in &daemons[1..] {
            wsd(daemon, &["sync", "now"]);
        }
        let trees: Vec<String> = daemons.iter().map(|daemon| told(daemon)).collect();
        if trees.windows(2).all(|pair| pair[0] == pair[1]) {
            return trees.into_iter().next().unwrap();
        }
        let differs = |pair: &[String]| {
            let lines = pair[0].lines().zip(pair[1].lines());
            lines.into_iter().find(|(one, other)| one != other).map(|pair| format!("{pair:?}"))
        };
        let differences: Vec<_> = trees.windows(2).map(differs).collect();
        assert!(Instant::now() < deadline, "they differ: {differences:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// One replica with the kernel's events, one that polls only.
#[test]
fn what_each_side_does_arrives_at_the_others_and_a_clone_is_complete() {
    if !has("git") {
        return;
    }
    let places = [Place::new(), Place::new(), Place::new()];
    let hub = hub(&places[0]);
    let (a, b) = (replica(&places[1], hub.port, &[]), replica(&places[2], hub.port, &[("SHIM_EVENTS", "0")]));
    let git = "git -c user.name=a -c user.email=a@b -c init.defaultBranch=main -c commit.gpgsign=false";
    sh(
        &a.path(""),
        &format!(
            "mkdir origin && cd origin && {git} init -q . && for i in $(seq 25); do mkdir -p d$((i % 4)); echo $i > d$((i % 4))/f$i; {git} add -A; {git} commit -qm $i; done
             cd .. && {git} clone -q origin clone && ln origin/d1/f1 hard && ln -s clone/d1 soft && chmod 750 clone/d2 && head -c 5000000 /dev/urandom > large"
        ),
    );
    sh(&b.path(""), "mkdir -p from/b && for i in $(seq 100); do echo b$i > from/b/f$i; done");
    sh(&hub.path(""), "mkdir -p from/hub && for i in $(seq 100); do echo hub$i > from/hub/f$i; done");
    same(&[&hub, &a, &b]);
    let script = format!(
        "{git} -C clone fsck --strict 2>&1; {git} --no-optional-locks -C clone status --porcelain; {git} --no-optional-locks -C origin status --porcelain; ls from/b from/hub | wc -l"
    );
    for daemon in [&hub, &a, &b] {
        // The index knows other inodes: git compares the bytes and finds nothing. It would write that down at all three.
        let said = sh(&daemon.path(""), &script);
        assert!(
            said.trim_end().ends_with("203") && !said.contains(" M ") && !said.contains("error"),
            "{said}"
        );
    }
    // What is done to what the other side made: renamed here, changed there, removed elsewhere.
    sh(&b.path(""), "mv clone moved && rm -r from/hub && echo more >> hard");
    sh(&hub.path(""), "mv from/b from/c && echo new > from/c/f1");
    let tree = same(&[&hub, &a, &b]);
    eventually("all of it at all", || {
        let tree = same(&[&hub, &a, &b]);
        tree.contains("moved/d1/f1")
            && !tree.contains("from/hub")
            && tree.contains("from/c/f1|")
            && !tree.contains("from/b|")
    });
    assert!(!tree.contains("conflict"), "{tree}");
    assert_eq!(sh(&a.path(""), "cat from/c/f1; tail -n 1 origin/d1/f1"), "new\nmore\n");
    for daemon in [a, b, hub] {
        daemon.stop();
    }
    places.iter().for_each(Place::check);
}

/// The file is changed at the hub, in the replica's directory while nothing runs there, and in both at once.
#[test]
fn what_both_changed_is_kept_twice_at_both() {
    let places = [Place::new(), Place::new()];
    let hub = hub(&places[0]);
    let a = replica(&places[1], hub.port, &[]);
    for name in ["one", "two"] {
        fs::write(a.path(name), "agreed").unwrap();
    }
    same(&[&hub, &a]);
    a.stop();
    fs::write(places[1].point.join("one"), "by the host").unwrap();
    fs::remove_file(places[1].point.join("two")).unwrap();
    for name in ["one", "two"] {
        fs::write(hub.path(name), "by the hub").unwrap();
    }
    sh(&hub.path(""), "sync -f .");
    let a = replica(&places[1], hub.port, &[]);
    eventually("both versions at both", || {
        same(&[&hub, &a]);
        [&hub, &a].iter().all(|daemon| {
            sh(&daemon.path(""), "cat one* two").matches("by the host").count() == 1
                && sh(&daemon.path(""), "cat one; echo; cat two") == "by the hub\nby the hub"
        })
    });
    let listed = wsd(&a, &["sync"]);
    assert!(listed.contains("one.conflict-"), "{listed}");
    for daemon in [a, hub] {
        daemon.stop();
    }
    places.iter().for_each(Place::check);
}

/// What is written to a new one before it has met its hub is another matter (`sync`).
#[test]
fn a_directory_that_is_taken_over_does_not_join_a_hub_by_itself() {
    let places = [Place::new(), Place::new()];
    let hub = hub(&places[0]);
    fs::write(hub.path("theirs"), "hub").unwrap();
    fs::create_dir_all(&places[1].point).unwrap();
    fs::write(places[1].point.join("mine"), "host").unwrap();
    let a = replica(&places[1], hub.port, &[("SHIM_ADOPT", "1")]);
    eventually("it is refused", || wsd(&a, &["sync", "status"]).contains("and neither is empty"));
    assert!(!hub.path("mine").exists() && !a.path("theirs").exists());
    wsd(&a, &["sync", "join", "--merge"]);
    same(&[&hub, &a]);
    assert_eq!(sh(&hub.path(""), "cat mine theirs"), "hosthub");
    for daemon in [a, hub] {
        daemon.stop();
    }
    places.iter().for_each(Place::check);
}

#[test]
fn a_kill_in_the_middle_of_both_ways_loses_nothing() {
    let places = [Place::new(), Place::new()];
    let hub = hub(&places[0]);
    let mut a = replica(&places[1], hub.port, &[]);
    let point = places[1].point.clone();
    for round in 0..6u64 {
        let write = |side: &str| {
            format!(
                "mkdir -p {side}{round}/x && for i in $(seq 60); do head -c $((i * 1500)) /dev/urandom > {side}{round}/x/f$i; done
                 mv {side}{round}/x {side}{round}/y && head -c 3000000 /dev/urandom > {side}{round}/large && echo {round} > {side}-last"
            )
        };
        let spawn = |script: String, at: &std::path::Path| {
            Command::new("bash").args(["-ec", &script]).current_dir(at).spawn().unwrap()
        };
        let mut writers = [spawn(write("host"), &point), spawn(write("hub"), &hub.path(""))];
        std::thread::sleep(Duration::from_millis(30 + u64::from(support::noise(round, 1)[0])));
        a.kill();
        // What is written while it is down is found at its start.
        writers.iter_mut().for_each(|writer| assert!(writer.wait().unwrap().success()));
        a = replica(&places[1], hub.port, &[]);
    }
    let expected: Vec<String> = (0..6)
        .flat_map(|round| ["host", "hub"].map(|side| (side, round)))
        .flat_map(|(side, round)| {
            let files = (1..=60).map(move |i| format!("{side}{round}/y/f{i}|f|644|1|0:0||{}|", i * 1500));
            files.chain([format!("{side}{round}/large|f|644|1|0:0||3000000|")])
        })
        .collect();
    let mut tree = String::new();
    eventually("all that was written", || {
        tree = same(&[&hub, &a]);
        expected.iter().all(|file| tree.contains(file))
    });
    // What was agreed on in the last second before a kill may not be known any more: then a removal, here that of the
    // old name, is undone, or a version is kept twice: that of the host beside the workspace's. Nothing else is there.
    let versions = sh(&hub.path(""), "cat host-last*");
    assert!(versions.lines().any(|version| version == "5"), "{versions:?} {tree}");
    assert_eq!(sh(&hub.path(""), "cat hub-last"), "5\n");
    let is_old = |line: &str| line.contains("/x/f") || line.contains(".conflict-");
    let more = tree.lines().filter(|line| line.contains("|f|") && !is_old(line)).count();
    assert_eq!(more, expected.len() + 2, "{tree}");
    for daemon in [a, hub] {
        daemon.stop();
    }
    places.iter().for_each(Place::check);
}
