//! A daemon that nobody uses lets the processor sleep, and wakes when somebody does.

use crate::support::{Daemon, Place, has_fuse, noise};
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a thread of the daemon has gone to sleep, all threads together.
fn sleeps(daemon: &Daemon) -> u64 {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    // One may end meanwhile.
    let statuses =
        threads.filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).ok());
    let sleeps = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    statuses.map(sleeps).sum()
}

/// It woke 75 times in ten seconds: a thread looked after the store twice a second, and another one for children that had
/// ended once a second, in a file for each thread. What is left is the figures that are kept every five seconds.
#[test]
fn a_daemon_that_nobody_uses_rests() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    fs::write(daemon.path("file"), "content").unwrap();
    sleep(Duration::from_secs(35));
    let before = sleeps(&daemon);
    sleep(Duration::from_secs(10));
    let woke = sleeps(&daemon) - before;
    assert!(woke < 25, "it woke {woke} times in ten seconds");
    // It is awake again when something changes: the WAL of 8 MiB is folded as soon as nobody writes.
    fs::write(daemon.path("large"), noise(1, 8 << 20)).unwrap();
    let begin = Instant::now();
    let size = || fs::metadata(&place.store).unwrap().len();
    while size() < 8 << 20 {
        assert!(begin.elapsed() < Duration::from_secs(10), "nothing has been folded, {} bytes", size());
        sleep(Duration::from_millis(50));
    }
    daemon.stop();
    place.check();
}
