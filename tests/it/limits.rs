//! A container's limit of memory, which the daemon and the programs in it share.

use crate::support::{Daemon, Place, WSD, eventually, has, has_fuse, is_root, sh, skip};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A control group (cgroups(7)) with a limit, of either version.
struct Group {
    path: PathBuf,
}

impl Group {
    /// None is a reason to skip the test, which is said.
    fn limited_to(bytes: u64) -> Option<Self> {
        let (alone, unified) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let (above, limit) = if alone.join("memory.limit_in_bytes").exists() {
            (alone, "memory.limit_in_bytes")
        } else {
            // Where it is given on already, or cannot be.
            let _ = fs::write(unified.join("cgroup.subtree_control"), "+memory");
            (unified, "memory.max")
        };
        let group = Self { path: above.join(format!("wsd-test-{}-{bytes}", std::process::id())) };
        let made =
            fs::create_dir(&group.path).and_then(|()| fs::write(group.path.join(limit), bytes.to_string()));
        if let Err(error) = made {
            skip(&format!("no control group with a limit of memory can be made: {error}"));
            return None;
        }
        Some(group)
    }

    /// Said first, has a shell, and what it starts, be in the group.
    fn enter(&self) -> String {
        format!("echo $$ > {}\n", self.path.join("cgroup.procs").display())
    }

    /// Serves a place in the group.
    fn serve(&self, place: &Place, more: &[(&str, &str)]) -> Daemon {
        self.serve_by(place, WSD, more)
    }

    /// The same, by a command that runs wsd.
    fn serve_by(&self, place: &Place, wsd: &str, more: &[(&str, &str)]) -> Daemon {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{}exec {wsd} serve", self.enter())]);
        let settings = place.command();
        command.env_clear();
        command.envs(settings.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.envs(more.iter().copied());
        place.start(command)
    }

    /// How often the kernel has killed a process in it because there was no memory.
    fn killed(&self) -> u64 {
        let figures = ["memory.oom_control", "memory.events"].map(|name| self.path.join(name));
        let figures = figures.iter().find_map(|path| fs::read_to_string(path).ok()).unwrap();
        let line = figures.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What was in it ends a little later than it is waited for; a test that fails leaves it.
        if !std::thread::panicking() {
            eventually("a group that nobody is in", || fs::remove_dir(&self.path).is_ok());
        }
    }
}

/// Without a look at the limit, the daemon took 256 MiB for its cache, and the kernel had 128 MiB of dirty pages of the mount:
/// with 256 MiB for both it was killed if it was alone, and else did not end.
#[test]
fn a_daemon_and_programs_share_what_memory_a_container_has() {
    if !(has_fuse() && is_root() && has("python3") && has("openssl")) {
        return;
    }
    let Some(group) = Group::limited_to(256 << 20) else { return };
    let place = Place::on_disk();
    let daemon = group.serve(&place, &[]);
    let info: Value = serde_json::from_str(&daemon.ask("GET /__wsd/info", "").2).unwrap();
    assert_eq!(info["cacheBytes"], 32 << 20, "{info}");
    let write =
        "head -c 1G /dev/zero | openssl enc -aes-128-ctr -nosalt -k x 2>/dev/null | tee large | cksum > sum
                 sync large; cksum < large | cmp - sum; cp large copy; cmp large copy; rm large";
    let change = "
import os, random
draw, piece = random.Random(1), os.urandom(1 << 20)
file = os.open('copy', os.O_RDWR)
for number in range(2000): os.pwrite(file, piece[number % 256 * 4096:][:4096], draw.randrange(1 << 14) * 4096)
os.fsync(file)
";
    sh(&daemon.path(""), &format!("{}{write}\npython3 -c \"{change}\"", group.enter()));
    assert_eq!(group.killed(), 0, "{}", place.log());
    assert!(!place.log().contains("memory is short: "), "{}", place.log());
    daemon.stop();
    place.check();
}

/// Who asks for more than there is gets it, and is told.
#[test]
fn a_cache_that_does_not_fit_is_told() {
    if !is_root() {
        return;
    }
    let Some(group) = Group::limited_to(200 << 20) else { return };
    let place = Place::new();
    let daemon = group.serve(&place, &[("WSD_CACHE_BYTES", "150M"), ("FUSE_MOUNT", "none")]);
    let info: Value = serde_json::from_str(&daemon.ask("GET /__wsd/info", "").2).unwrap();
    assert_eq!(info["cacheBytes"], 150 << 20, "{info}");
    let log = place.log();
    assert!(log.contains("memory is short: ") && log.contains("available=209715200"), "{log}");
    daemon.stop();
}

/// As in a container that is not privileged: the kernel's own bound holds, which follows the memory of the host.
#[test]
fn that_the_kernel_cannot_be_told_is_told() {
    if !(has_fuse() && is_root() && has("unshare")) {
        return;
    }
    let machine = fs::read_to_string("/proc/meminfo").unwrap();
    let machine: u64 = machine.split_whitespace().nth(1).unwrap().parse().unwrap();
    for limit in [128 << 20, 4 << 30] {
        let Some(group) = Group::limited_to(limit) else { return };
        let place = Place::on_disk();
        let wsd = format!("unshare -m sh -c 'mount -o remount,bind,ro /sys && exec {WSD} \"$@\"' wsd");
        let daemon = group.serve_by(&place, &wsd, &[]);
        let log = place.log();
        let is_short = (machine << 10) / 500 > limit.min(machine << 10) / 8;
        assert_eq!(log.contains("memory is short for what the kernel may hold"), is_short, "{limit}: {log}");
        daemon.stop();
    }
}
