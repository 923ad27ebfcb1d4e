//! The daemon is killed at any moment, and started again.
//!
//! One writer keeps, outside the mount, a journal of what `fsync` acknowledged: all of that must be there, byte
//! for byte. Another one makes changes in a known order and syncs none of them: what is left of those must be a
//! state they really went through.

use crate::support::{Daemon, Place, WSD, eventually, has_fuse, noise};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Links that the unsynced writer keeps at a time.
const WINDOW: u64 = 10;

/// A file's bytes as they were acknowledged, and as they may be if the last step took effect too.
#[derive(Default)]
struct Journal {
    acknowledged: BTreeMap<String, Vec<u8>>,
    under_way: Option<(String, Option<Vec<u8>>)>,
}

impl Journal {
    /// One step: a new file, an overwrite, a replacement by rename, or a removal; then fsync.
    fn step(&mut self, root: &Path, number: u64) -> io::Result<()> {
        let dice = noise(number, 4);
        let name = format!("f{}", dice[0] % 12);
        let path = root.join(&name);
        // Now and then one that is too large for one transaction.
        let large = if dice[1].is_multiple_of(16) { 9 << 20 } else { 0 };
        let len = large + usize::from(dice[1]) * usize::from(dice[2]) * 5;
        let present = self.acknowledged.get(&name).cloned();
        match (dice[3] % 4, present) {
            (0, Some(_)) => {
                self.under_way = Some((name.clone(), None));
                fs::remove_file(&path)?;
                File::open(root)?.sync_all()?;
                self.acknowledged.remove(&name);
            }
            (1, Some(mut bytes)) => {
                // Appended in one piece, so that there is no state in between.
                let more = noise(number, len % 4096 + 1);
                let at = bytes.len() as u64;
                bytes.extend(&more);
                self.under_way = Some((name.clone(), Some(bytes.clone())));
                let file = File::options().write(true).open(&path)?;
                file.write_all_at(&more, at)?;
                file.sync_data()?;
                self.acknowledged.insert(name.clone(), bytes);
            }
            _ => {
                let bytes = noise(number, len);
                self.under_way = Some((name.clone(), Some(bytes.clone())));
                let temporary = root.join(format!(".{name}.tmp"));
                let file = File::create(&temporary)?;
                file.write_all_at(&bytes, 0)?;
                file.sync_all()?;
                fs::rename(&temporary, &path)?;
                File::open(root)?.sync_all()?;
                self.acknowledged.insert(name.clone(), bytes);
            }
        }
        self.under_way = None;
        Ok(())
    }

    fn compare(&mut self, root: &Path) {
        let under_way = self.under_way.take();
        let names = (0..12).map(|number| format!("f{number}"));
        for name in names {
            let found = fs::read(root.join(&name)).ok();
            let acknowledged = self.acknowledged.get(&name).cloned();
            if found == acknowledged {
                continue;
            }
            let maybe =
                under_way.as_ref().filter(|(which, _)| *which == name).map(|(_, bytes)| bytes.clone());
            // An append that was not acknowledged may be there in part.
            let partial = match (&maybe, &found, &acknowledged) {
                (Some(Some(whole)), Some(found), Some(before)) => {
                    whole.starts_with(found) && found.starts_with(before)
                }
                _ => false,
            };
            assert!(
                maybe == Some(found.clone()) || partial,
                "{name}: {:?} bytes found",
                found.as_ref().map(Vec::len)
            );
            match found {
                Some(bytes) => self.acknowledged.insert(name, bytes),
                None => self.acknowledged.remove(&name),
            };
        }
    }
}

/// Links `s0`, `s1`, ... in order, each removed again when `WINDOW` newer ones are there.
fn unsynced(root: &Path, from: u64, stop: &AtomicBool) {
    for number in from.. {
        if stop.load(Ordering::Relaxed)
            || symlink(number.to_string(), root.join(format!("s{number}"))).is_err()
        {
            return;
        }
        if number >= WINDOW && fs::remove_file(root.join(format!("s{}", number - WINDOW))).is_err() {
            return;
        }
    }
}

/// The links are such as there were at one moment; returns the next number.
fn compare_unsynced(root: &Path) -> u64 {
    let mut numbers: Vec<u64> = fs::read_dir(root)
        .unwrap()
        .filter_map(|entry| {
            entry.unwrap().file_name().to_str().unwrap().strip_prefix('s').map(|n| n.parse().unwrap())
        })
        .collect();
    numbers.sort_unstable();
    let (Some(first), Some(last)) = (numbers.first().copied(), numbers.last().copied()) else { return 0 };
    assert!(last - first == numbers.len() as u64 - 1, "a gap: {numbers:?}");
    let expected = if first == 0 { 1..=WINDOW + 1 } else { WINDOW..=WINDOW + 1 };
    assert!(expected.contains(&(numbers.len() as u64)), "no such moment: {numbers:?}");
    for number in numbers {
        assert_eq!(
            fs::read_link(root.join(format!("s{number}"))).unwrap().to_str(),
            Some(&*number.to_string())
        );
    }
    // Removing one more may have been under way.
    if last - first == WINDOW {
        let _ = fs::remove_file(root.join(format!("s{first}")));
    }
    last + 1
}

fn round(daemon: Daemon, journal: &mut Journal, round: u64, next: u64, steps: &mut u64) {
    let (root, stop) = (daemon.path(""), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| unsynced(&root, next, &stop));
        let writer = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) && journal.step(&root, *steps).is_ok() {
                *steps += 1;
            }
            *steps += 1;
        });
        let dice = noise(1_000_000 + round, 1)[0];
        std::thread::sleep(Duration::from_millis(5 + u64::from(dice)));
        daemon.kill();
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    });
}

#[test]
fn what_was_synced_survives_any_kill() {
    if !has_fuse() {
        return;
    }
    let rounds = std::env::var("WSD_CRASH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(30);
    let place = Place::new();
    let (mut journal, mut next, mut steps) = (Journal::default(), 0, 0);
    for number in 0..rounds {
        let daemon = place.serve();
        round(daemon, &mut journal, number, next, &mut steps);
        place.check();
        let daemon = place.serve();
        journal.compare(&daemon.path(""));
        next = compare_unsynced(&daemon.path(""));
        daemon.stop();
        place.check();
    }
    println!("{rounds} kills, {steps} synced steps, {next} unsynced ones");
    assert!(steps > rounds, "the writer hardly got to work: {steps} steps");
}

/// Nobody is connected to the mount, and it is still there.
fn refused(place: &Place) {
    let error = fs::write(place.point.join("astray"), b"x").unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)), "{error}");
}

/// A daemon that was killed while a thread of it waited for its own mount used to stay behind as a process that cannot
/// end, and every program in the mount waited with it. Its guard ends the connection.
#[test]
fn a_killed_daemon_is_told_of_and_its_guard_spares_the_next_one() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    for round in 0..5 {
        let daemon = place.serve();
        let inside = daemon.path("inside");
        fs::create_dir_all(&inside).unwrap();
        let mut sleeper = Command::new("sleep").arg("60").current_dir(&inside).spawn().unwrap();
        daemon.kill();
        // Programs must not go on in the bare directory below.
        refused(&place);
        if round % 2 == 0 {
            eventually("the end of the guard", || place.guards().is_empty());
            refused(&place);
        }
        // At once: the old guard may still be there, and must not touch the new mount.
        let next = place.serve();
        fs::write(next.path("file"), b"x").unwrap();
        eventually("the end of the old guard", || place.guards().len() == 1);
        assert_eq!(fs::read(next.path("file")).unwrap(), b"x");
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        next.stop();
        assert!(place.guards().is_empty());
    }
}

/// A guard as older kernels have it, of a daemon that is a shell.
fn guard_by_device(place: &Place) -> Child {
    let device = fs::metadata(&place.point).unwrap().dev().to_string();
    let mut shell = Command::new("sh");
    shell.args(["-c", "$WSD __guard $$ \"$POINT\" $DEVICE --device & wait"]);
    shell.env("WSD", WSD).env("POINT", &place.point).env("DEVICE", device);
    let mut shell = shell.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    // It says so when it watches.
    shell.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    shell
}

/// Kills the guard's daemon, and waits for the end of the guard, which is that of what it says.
fn end(mut shell: Child) {
    shell.kill().unwrap();
    shell.wait().unwrap();
    assert_eq!(shell.stdout.unwrap().read_to_end(&mut Vec::new()).unwrap(), 0);
}

/// A thread of the daemon that waits for the mount keeps its process, whose child the guard then still is. The guard believed that it
/// lived, and so neither ended.
#[test]
fn a_guard_is_not_misled_by_a_thread_that_is_left() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    let device = fs::metadata(&place.point).unwrap().dev().to_string();
    let script = "import ctypes, os, platform, subprocess, sys, threading, time\n\
                  subprocess.Popen([sys.argv[1], '__guard', str(os.getpid()), *sys.argv[2:], '--device'])\n\
                  threading.Thread(target=time.sleep, args=(60,)).start()\nsys.stdin.readline()\n\
                  ctypes.CDLL(None).syscall(93 if platform.machine() == 'aarch64' else 60, 0)";
    let mut command = Command::new("python3");
    command.args(["-c", script, WSD]).arg(&place.point).arg(device);
    let mut left = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    left.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    fs::write(daemon.path("file"), b"kept").unwrap();
    left.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    eventually("the end of the connection", || fs::write(daemon.path("astray"), b"x").is_err());
    refused(&place);
    left.kill().unwrap();
    left.wait().unwrap();
    daemon.kill();
    place.check();
}

/// The number of a device is given again to the next mount, often at once.
#[test]
fn a_guard_by_device_ends_its_own_mount_and_no_other() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let mut again = 0;
    for _ in 0..10 {
        let first = place.serve();
        let device = fs::metadata(&place.point).unwrap().dev();
        let guard = guard_by_device(&place);
        first.stop();
        assert!(!place.log().contains("in use"), "a guard does not hold the mount: {}", place.log());
        let second = place.serve();
        again += u32::from(fs::metadata(&place.point).unwrap().dev() == device);
        end(guard);
        fs::write(second.path("file"), b"spared").unwrap();
        second.stop();
    }
    assert!(again > 0, "no number of a device was given twice");
    let daemon = place.serve();
    fs::write(daemon.path("file"), b"kept").unwrap();
    end(guard_by_device(&place));
    refused(&place);
    daemon.kill();
}
