//! A control group for each command, where one can be made: whatever its processes do, they stay in it.
//!
//! Needs cgroup v2 (cgroups(7)) mounted, and the right to make a group below the daemon's own. No controller is used:
//! a group is only the kernel's list of a command's processes. Without it they are found by session, parent and mark.

use crate::cgroup;
use std::fs;
use std::path::{Path, PathBuf};

/// The group that the groups of commands are made in.
#[derive(Debug)]
pub(super) struct Groups {
    base: PathBuf,
}

impl Groups {
    /// Makes it, if that can be done here; removes what daemons that were killed have left.
    pub(super) fn open() -> Option<Self> {
        let own = cgroup::own()?;
        for entry in fs::read_dir(&own).ok()?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_dead = |pid: &str| !Path::new("/proc").join(pid).exists();
            if name.strip_prefix("wsd-").is_some_and(is_dead) {
                remove(&entry.path());
            }
        }
        let base = own.join(format!("wsd-{}", std::process::id()));
        match fs::create_dir(&base) {
            Ok(()) => Some(Self { base }),
            Err(error) => {
                tracing::debug!(group = ?base, %error, "commands have no control groups");
                None
            }
        }
    }

    /// A group with this process in it; what the process starts from now on is in it too.
    pub(super) fn with(&self, id: &str, pid: u32) -> Option<Group> {
        let path = self.base.join(id);
        fs::create_dir(&path).ok()?;
        let group = Group { path };
        fs::write(group.path.join("cgroup.procs"), pid.to_string()).ok()?;
        Some(group)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        remove(&self.base);
    }
}

/// The group of one command; it goes with this, if no process is left in it.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
}

impl Group {
    /// The processes in it.
    pub(super) fn processes(&self) -> Vec<u32> {
        let list = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        list.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Kills all of them at once, those that are being forked included.
    pub(super) fn kill(&self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// The id of the command in whose group a process is.
pub(super) fn command_of(process: u32) -> Option<String> {
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (_, below) = path.split_once(&format!("/wsd-{}/", std::process::id()))?;
    below.split('/').next().map(str::to_owned)
}

/// Removes a group with the groups in it, as far as no process is in them.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            let _ = fs::remove_dir(entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
