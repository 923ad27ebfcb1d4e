//! The mount point: before, during, after.

use crate::support::{Place, WSD, eventually, has, has_fuse, is_root, noise, sh, text};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn a_mount_point_with_something_in_it_is_refused() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    fs::create_dir(&place.point).unwrap();
    fs::write(place.point.join("precious"), b"").unwrap();
    let output = place.command().output().unwrap();
    let said = text(&output.stderr);
    assert!(
        output.status.code() == Some(1) && said.contains("not empty") && said.contains("precious"),
        "{said}"
    );
}

#[test]
fn a_mount_left_by_a_dead_daemon_is_removed() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    fs::write(daemon.path("file"), b"kept").unwrap();
    sh(&daemon.path(""), "sync file");
    daemon.kill();
    // Of the root itself the kernel may know all that is asked.
    let dead = fs::metadata(place.point.join("never asked for")).unwrap_err();
    assert_eq!(dead.raw_os_error(), Some(libc::ENOTCONN));
    let daemon = place.serve();
    assert_eq!(fs::read(daemon.path("file")).unwrap(), b"kept");
    daemon.stop();
    place.check();
}

/// The table of mounts knows no symlinks: a dead mount behind one could not be removed, and another daemon's was mounted over.
#[test]
fn a_mount_point_behind_a_symlink_is_looked_at_as_any() {
    if !(has_fuse() && is_root()) {
        return;
    }
    let (place, other) = (Place::new(), Place::new());
    fs::create_dir(&place.point).unwrap();
    let link = other.dir.path().canonicalize().unwrap().join("link");
    std::os::unix::fs::symlink(&place.point, &link).unwrap();
    let link = [("MOUNT_POINT", link.to_str().unwrap())];
    let daemon = place.serve();
    let mut second = other.command();
    let mut second = second.envs(link).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the refusal", || second.try_wait().unwrap().is_some());
    let output = second.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("is mounted already"), "{said}");
    daemon.kill();
    let daemon = other.serve_with(&link);
    fs::write(place.point.join("file"), b"of the other").unwrap();
    daemon.stop();
    assert_eq!(fs::read_dir(&place.point).unwrap().count(), 0, "nothing is mounted");
    other.check();
}

#[test]
fn without_fuse_auto_goes_on_and_fuse_fails_with_the_reason() {
    if !(is_root() && has("unshare")) {
        return;
    }
    let place = Place::new();
    // In a mount namespace of its own, where /dev/fuse is something else.
    let without_fuse = |backend: &str| {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", "mount --bind /dev/null /dev/fuse && exec \"$0\" serve", WSD]);
        command.env("PORT", "0").env("WSD_DB", &place.store).env("MOUNT_POINT", &place.point);
        command.env("FUSE_MOUNT", backend);
        command
    };
    let output = without_fuse("fuse").output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("FUSE cannot mount at"), "{said}");
    let daemon = place.start(without_fuse("auto"));
    let info: serde_json::Value = serde_json::from_str(&daemon.ask("GET /__wsd/info", "").2).unwrap();
    assert_eq!(info["mount"]["backend"], "shim");
    assert!(info["mount"]["reason"].as_str().unwrap().contains("FUSE cannot mount at"), "{info}");
    assert_eq!(daemon.ask("GET /health?ready", "").0, 200);
    fs::write(daemon.path("file"), b"through a plain directory").unwrap();
    daemon.stop();
    place.check();
    // With the files there, and FUSE again, it goes on as it was.
    let daemon = place.serve();
    let info: serde_json::Value = serde_json::from_str(&daemon.ask("GET /__wsd/info", "").2).unwrap();
    assert_eq!(info["mount"]["backend"], "shim");
    daemon.stop();
}

#[test]
fn a_busy_mount_names_who_holds_it_and_goes_away() {
    if !(has_fuse() && is_root()) {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    fs::write(daemon.path("late"), b"written before the end").unwrap();
    let mut holder = Command::new("sleep").arg("60").current_dir(&place.point).spawn().unwrap();
    let inner = daemon.path("inner");
    fs::create_dir(&inner).unwrap();
    let status = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&inner).status().unwrap();
    assert!(status.success());
    daemon.stop();
    let log = place.log();
    assert!(log.contains(&format!("sleep ({})", holder.id())), "{log}");
    assert!(log.contains("a tmpfs mount at ") && log.contains("mnt/inner"), "{log}");
    assert_eq!(fs::read_dir(&place.point).unwrap().count(), 0);
    holder.kill().unwrap();
    holder.wait().unwrap();
    let daemon = place.serve();
    assert_eq!(fs::read(daemon.path("late")).unwrap(), b"written before the end");
    daemon.stop();
    place.check();
}

/// As in an image that has nothing but wsd.
#[test]
fn what_the_kernel_holds_is_written_back_without_a_program_for_that() {
    if !(has_fuse() && is_root()) {
        return;
    }
    let place = Place::new();
    let daemon = place.serve_with(&[("PATH", "/nowhere")]);
    fs::write(daemon.path("late"), noise(1, 1 << 20)).unwrap();
    // In use, so that it is detached, and what is left in the kernel is lost.
    let mut late = fs::File::options().append(true).open(daemon.path("late")).unwrap();
    late.write_all(b"written before the end").unwrap();
    daemon.stop();
    assert!(!place.log().contains("could not be written back"), "{}", place.log());
    drop(late);
    let daemon = place.serve();
    assert!(fs::read(daemon.path("late")).unwrap().ends_with(b"written before the end"));
    daemon.stop();
    place.check();
}

#[test]
fn ready_tells_the_truth_about_the_mount() {
    if !(has_fuse() && is_root()) {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    assert_eq!(daemon.ask("GET /health?ready", "").0, 200);
    assert!(Command::new("umount").arg(&place.point).status().unwrap().success());
    eventually("the loss of the mount", || daemon.ask("GET /health?ready", "").0 == 503);
    assert_eq!(daemon.ask("GET /health?ready", "").2, "not ready: the mount is gone\n");
    assert_eq!(daemon.ask("GET /health", "").0, 200);
    daemon.stop();
}

#[test]
fn the_end_of_an_old_daemon_leaves_the_mount_of_a_new_one_alone() {
    if !(has_fuse() && is_root()) {
        return;
    }
    let (old, new) = (Place::new(), Place::new());
    let first = old.serve();
    assert!(Command::new("umount").arg(&old.point).status().unwrap().success());
    let second = new.serve_with(&[("MOUNT_POINT", old.point.to_str().unwrap())]);
    fs::write(old.point.join("file"), b"of the second").unwrap();
    first.stop();
    assert_eq!(fs::read(old.point.join("file")).unwrap(), b"of the second");
    assert_eq!(second.ask("GET /health?ready", "").0, 200);
    second.stop();
    assert!(old.log().contains("unmounted by somebody else"), "{}", old.log());
}

/// Each found the directory empty, and one mount covered the other.
#[test]
fn of_daemons_that_start_at_once_at_one_mount_point_one_mounts() {
    if !(has_fuse() && is_root()) {
        return;
    }
    for _ in 0..5 {
        one_mounts(&(0..4).map(|_| Place::new()).collect::<Vec<_>>());
    }
}

/// One removed what a dead daemon had left, and mounted; another one, which had seen the dead mount too, removed that.
#[test]
fn of_daemons_that_start_at_once_where_one_was_killed_one_mounts() {
    if !(has_fuse() && is_root()) {
        return;
    }
    let places: Vec<Place> = (0..6).map(|_| Place::new()).collect();
    for _ in 0..20 {
        places[0].serve().kill();
        one_mounts(&places);
    }
}

/// Of those that start now.
fn one_mounts(places: &[Place]) {
    let point = &places[0].point;
    let start = |place: &Place| {
        let mut command = place.command();
        command.env("MOUNT_POINT", point).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut daemons: Vec<_> = places.iter().map(start).collect();
    // The address, or nothing from one that has ended.
    let says = |daemon: &mut std::process::Child| {
        let mut line = String::new();
        BufReader::new(daemon.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        !line.is_empty()
    };
    let serving: Vec<bool> = daemons.iter_mut().map(says).collect();
    for (daemon, serves) in daemons.into_iter().zip(&serving) {
        if *serves {
            sh(places[0].dir.path(), &format!("kill {}", daemon.id()));
        }
        let output = daemon.wait_with_output().unwrap();
        let said = text(&output.stderr);
        assert!(*serves || said.contains("is mounted already"), "{said}");
    }
    assert_eq!(serving.iter().filter(|serves| **serves).count(), 1);
}

/// What is written in the mount and not synced, by a program that is still at it, is there after the stop. A mount that was
/// not where it was made was taken for one that somebody had unmounted, and what the kernel held of it was lost.
fn a_stop_after(what: &str, undo: &str, is_ready: bool) {
    if !(has_fuse() && is_root()) {
        return;
    }
    const LEN: usize = 48 << 20;
    let place = Place::new();
    let root = place.dir.path().canonicalize().unwrap();
    let point = root.join("above/mnt");
    let daemon = place.serve_with(&[("MOUNT_POINT", point.to_str().unwrap())]);
    let mut open = fs::File::create(point.join("file")).unwrap();
    open.write_all(&vec![b'x'; LEN]).unwrap();
    sh(&root, what);
    assert_eq!(daemon.ask("GET /health?ready", "").0, if is_ready { 200 } else { 503 });
    daemon.stop();
    drop(open);
    sh(&root, undo);
    assert!(!place.log().contains("by somebody else"), "{}", place.log());
    let daemon = place.serve_with(&[("MOUNT_POINT", point.to_str().unwrap())]);
    assert!(fs::read(point.join("file")).unwrap() == vec![b'x'; LEN]);
    daemon.stop();
    place.check();
}

#[test]
fn a_stop_keeps_what_the_kernel_holds_when_the_mount_was_moved() {
    a_stop_after("mv above beside", "! grep $PWD/ /proc/self/mountinfo; mv beside above", false);
}

#[test]
fn a_stop_keeps_what_the_kernel_holds_when_something_is_mounted_over_the_mount() {
    a_stop_after("mount -t tmpfs none above/mnt", "umount above/mnt; umount -l above/mnt", false);
}

#[test]
fn a_stop_keeps_what_the_kernel_holds_when_something_is_mounted_over_what_is_above() {
    a_stop_after("mount -t tmpfs none above; mkdir above/mnt", "umount above; umount -l above/mnt", false);
}

/// It is older than the mount, and so before it in the table of mounts. What was over the mount was unmounted instead.
#[test]
fn a_stop_leaves_alone_what_was_moved_over_the_mount() {
    if !(has_fuse() && is_root()) {
        return;
    }
    let place = Place::new();
    let root = place.dir.path().canonicalize().unwrap();
    sh(&root, "mkdir all && mount -t tmpfs none all && mount --make-private all && mkdir all/mnt all/other");
    sh(&root, "mount -t tmpfs none all/other && touch all/other/file");
    let point = root.join("all/mnt");
    let daemon = place.serve_with(&[("MOUNT_POINT", point.to_str().unwrap())]);
    let mut open = fs::File::create(point.join("written")).unwrap();
    open.write_all(&vec![b'x'; 8 << 20]).unwrap();
    sh(&root, "mount --move all/other all/mnt");
    assert_eq!(daemon.ask("GET /health?ready", "").0, 503);
    daemon.stop();
    drop(open);
    assert!(point.join("file").exists());
    sh(&root, "umount all/mnt; umount -l all/mnt; umount all");
    let daemon = place.serve();
    assert!(fs::read(daemon.path("written")).unwrap() == vec![b'x'; 8 << 20]);
    daemon.stop();
}

/// What its users had written, and the kernel had not, was lost.
#[test]
fn a_stop_keeps_what_the_kernel_holds_of_a_mount_that_only_its_users_have() {
    if !(has_fuse() && is_root()) {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    let mut open = fs::File::create(daemon.path("file")).unwrap();
    open.write_all(&vec![b'x'; 48 << 20]).unwrap();
    assert!(Command::new("umount").arg("-l").arg(&place.point).status().unwrap().success());
    daemon.stop();
    drop(open);
    let daemon = place.serve();
    assert!(fs::read(daemon.path("file")).unwrap() == vec![b'x'; 48 << 20]);
    daemon.stop();
    place.check();
}

#[test]
fn a_mount_beside_the_mount_disturbs_nobody() {
    let what = "mkdir above/mnt2 copy; mount -t tmpfs none above/mnt2; mount --bind above/mnt copy";
    a_stop_after(what, "umount above/mnt2 copy; ! grep $PWD/ /proc/self/mountinfo", true);
}

/// It was heard when all had started, which may take long.
#[test]
fn a_second_signal_ends_a_start_too() {
    let place = Place::new();
    place.serve_with(&[("FUSE_MOUNT", "none")]).stop();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let other = rusqlite::Connection::open(&place.store).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut command = place.command();
    let mut daemon = command.env("FUSE_MOUNT", "none").env("PORT", port.to_string()).spawn().unwrap();
    eventually("the port", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let begun = Instant::now();
    let signal = |signal: &str| sh(place.dir.path(), &format!("kill -{signal} {}", daemon.id()));
    signal("TERM");
    std::thread::sleep(Duration::from_millis(600));
    signal("INT");
    let status = daemon.wait().unwrap();
    assert!(status.code() == Some(143) && begun.elapsed() < Duration::from_secs(3), "{status}");
    drop(other);
    place.check();
}

#[test]
fn a_second_signal_ends_at_once_without_harm() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    sh(&daemon.path(""), "for i in $(seq 500); do echo $i > f$i; done");
    daemon.signal("TERM");
    daemon.signal("INT");
    drop(daemon);
    place.check();
}

#[test]
fn health_is_not_disturbed_by_a_large_write() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    let point = place.point.clone();
    let writer = std::thread::spawn(move || {
        sh(&point, "dd if=/dev/zero of=big bs=1M count=300 conv=fsync status=none")
    });
    let mut slowest = std::time::Duration::ZERO;
    while !writer.is_finished() {
        let begin = std::time::Instant::now();
        assert_eq!(daemon.ask("GET /health", "").0, 200);
        slowest = slowest.max(begin.elapsed());
    }
    writer.join().unwrap();
    assert!(slowest < std::time::Duration::from_secs(2), "{slowest:?}");
    daemon.stop();
}
