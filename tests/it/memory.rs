//! Memory stays bounded, however large the file or the tree.

use crate::support::{Daemon, Place, WSD, eventually, has_fuse, sh};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// What a daemon takes beyond its cache: the threads' request buffers (16 MiB each, touched as far as requests
/// go), SQLite's page caches, what the allocator holds back, the program itself.
const BESIDES: u64 = 112 << 20;

/// The most memory the daemon had resident, bytes.
fn peak(daemon: &Daemon) -> u64 {
    memory(daemon, "VmHWM:")
}

/// A line of proc_pid_status(5), bytes.
fn memory(daemon: &Daemon, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|known| known.strip_prefix(line)).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

fn scale() -> u64 {
    std::env::var("WSD_MEMORY_SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1)
}

#[test]
fn a_file_larger_than_the_cache_goes_through_it() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve_with(&[("WSD_CACHE_BYTES", "64M")]);
    let mib = 256 * scale();
    let script = format!(
        "head -c {mib}M /dev/zero | openssl enc -aes-128-ctr -nosalt -k x 2>/dev/null | tee big | cksum > sum
         sync big; echo 3 > /proc/sys/vm/drop_caches || true; cksum < big | cmp - sum"
    );
    sh(&daemon.path(""), &script);
    let peak = peak(&daemon);
    assert!(peak < (64 << 20) + BESIDES, "{} MiB were resident", peak >> 20);
    println!("{mib} MiB written and read with at most {} MiB resident", peak >> 20);
    daemon.stop();
    place.check();
}

#[test]
fn a_tree_larger_than_the_cache_goes_through_it() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve_with(&[("WSD_CACHE_BYTES", "32M")]);
    let hundreds = 150 * scale();
    let script = format!(
        "for d in $(seq {hundreds}); do mkdir d$d; (cd d$d; printf '%s\\n' $(seq 100) | xargs touch); done
         test $(find . -type f | wc -l) = $(({hundreds} * 100)); ls -lR > /dev/null
         rm -rf d*; test -z \"$(ls)\""
    );
    sh(&daemon.path(""), &script);
    let peak = peak(&daemon);
    assert!(peak < (32 << 20) + BESIDES, "{} MiB were resident", peak >> 20);
    println!(
        "{} files made, listed, walked and deleted with at most {} MiB resident",
        hundreds * 100,
        peak >> 20
    );
    daemon.stop();
    place.check();
}

#[test]
fn attributes_larger_than_the_cache_go_through_it() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve_with(&[("WSD_CACHE_BYTES", "16M")]);
    let files: Vec<PathBuf> = (0..4000 * scale()).map(|number| daemon.path(&format!("f{number}"))).collect();
    for file in &files {
        fs::File::create(file).unwrap();
        setxattr(file, "user.a", &[b'v'; 65_000], XattrFlags::empty()).unwrap();
    }
    let mut value = vec![0; 65_536];
    for file in &files {
        assert_eq!(getxattr(file, "user.a", &mut value), Ok(65_000));
    }
    let peak = peak(&daemon);
    assert!(peak < (16 << 20) + BESIDES, "{} MiB were resident", peak >> 20);
    println!("{} MiB of attributes with at most {} MiB resident", (files.len() * 65_000) >> 20, peak >> 20);
    daemon.stop();
    place.check();
}

/// Both ways: written on the host, and copied in the workspace.
#[test]
fn a_large_file_goes_through_a_plain_directory() {
    let place = Place::new();
    let daemon = place.serve_with(&[("WSD_CACHE_BYTES", "32M"), ("FUSE_MOUNT", "shim")]);
    let bytes = (256 * scale()) << 20;
    let script = format!(
        "head -c {bytes} /dev/zero | openssl enc -aes-128-ctr -nosalt -k x 2>/dev/null | tee big | cksum > sum"
    );
    sh(&daemon.path(""), &script);
    // It begins when the workspace has what the directory has, and what it did is in the directory when it has ended.
    let mut client = Command::new(WSD);
    client.env_clear().env("PORT", daemon.port.to_string());
    assert!(client.args(["exec", "--", "test", "-s", "sum"]).status().unwrap().success());
    let mut client = Command::new(WSD);
    client.env_clear().env("PORT", daemon.port.to_string());
    assert!(client.args(["cp", "big", "copy"]).status().unwrap().success());
    eventually("the copy", || fs::metadata(daemon.path("copy")).is_ok_and(|copy| copy.len() == bytes));
    sh(&daemon.path(""), "cksum < copy | cmp - sum");
    let peak = peak(&daemon);
    assert!(peak < (32 << 20) + BESIDES, "{} MiB were resident", peak >> 20);
    daemon.stop();
    place.check();
}

/// The allocator kept most of what was freed.
#[test]
fn a_daemon_that_has_nothing_to_do_gives_memory_back() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve_with(&[("WSD_CACHE_BYTES", "256M")]);
    let script = "
import os, random
file = os.open('big', os.O_RDWR | os.O_CREAT)
piece = os.urandom(1 << 20)
for number in range(512): os.write(file, piece[:-8] + number.to_bytes(8, 'little'))
os.fsync(file)
draw = random.Random(1)
for number in range(30000): os.pwrite(file, piece[number % 256 * 4096:][:4096], draw.randrange(1 << 17) * 4096)
os.fsync(file)
";
    sh(&daemon.path(""), &format!("python3 -c \"{script}\""));
    // It keeps it for half a minute.
    std::thread::sleep(Duration::from_secs(20));
    eventually("memory that is given back", || memory(&daemon, "VmRSS:") < 160 << 20);
    daemon.stop();
    place.check();
}
