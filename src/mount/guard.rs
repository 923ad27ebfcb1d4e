//! Somebody who ends the mount when the daemon cannot.
//!
//! A daemon that is killed while one of its threads waits for its own mount (the kernel is being told of a change, or
//! asked for what it holds) does not quite end: the thread waits for an answer that nobody gives any more, so the
//! connection to the kernel stays open, and every program in the mount waits with it. A thread cannot help itself
//! there. So a small process of our own stands by: the kernel tells it when the daemon's main thread ends, and it aborts
//! the connection. Whoever waited, and whoever comes later, is told that nobody is connected. The mount itself stays,
//! dead, until the next start: without it programs would go on in the bare directory below, and not know.

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, getppid};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The command that starts a guard.
pub const COMMAND: &str = "__guard";

/// `STATX_MNT_ID_UNIQUE` of statx(2), Linux 6.8: a number of the mount that no other mount ever gets. Other numbers
/// (of the mount, of its device) are used again, and a guard must never take away the mount of another daemon.
const UNIQUE_ID: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// A guard that stands by. Dropping it sends it away.
pub struct Guard {
    child: Child,
}

impl Guard {
    /// Starts a guard over what is mounted at `point`. To be called by the main thread, whose end it waits for.
    /// `program` must know [`COMMAND`], and take a [`Post`] with it.
    pub fn start(program: &Path, point: &Path) -> io::Result<Self> {
        let point = point.canonicalize()?;
        let mount = unique_id(&open(&point)?)?;
        let mut command = Command::new(program);
        command.arg(COMMAND).arg(std::process::id().to_string()).arg(&point).arg(mount.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).current_dir("/");
        Ok(Self { child: command.spawn()? })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The root of what is mounted, without asking whoever serves it.
fn open(point: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(point, flags, Mode::empty())?)
}

fn unique_id(root: &OwnedFd) -> io::Result<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(root, "", flags, UNIQUE_ID)?;
    if stat.stx_mask & UNIQUE_ID.bits() == 0 {
        return Err(io::Error::other("this kernel has no unique numbers of mounts (Linux 6.8 does)"));
    }
    Ok(stat.stx_mnt_id)
}

/// What a guard watches.
#[derive(Clone, Debug)]
pub struct Post {
    /// The daemon.
    pub daemon: u32,
    /// Its mount point.
    pub point: PathBuf,
    /// The unique number of its mount.
    pub mount: u64,
}

impl Post {
    /// Has the kernel send `signal` when the daemon's main thread ends; false when it has ended already.
    pub fn take(&self, signal: i32) -> io::Result<bool> {
        // A terminal's interrupt is for the daemon, which then sends the guard away.
        let _ = rustix::process::setsid();
        rustix::process::set_parent_process_death_signal(Signal::from_named_raw(signal))?;
        Ok(self.daemon_lives())
    }

    /// Whether the daemon is still there.
    pub fn daemon_lives(&self) -> bool {
        getppid().map(Pid::as_raw_nonzero).is_some_and(|pid| pid.get().unsigned_abs() == self.daemon)
    }

    /// Aborts the connection of the daemon's mount, if the mount is still there.
    pub fn relieve(&self) -> io::Result<()> {
        let root = open(&self.point)?;
        if unique_id(&root)? != self.mount {
            return Ok(());
        }
        // By the descriptor, so that it is this mount and no other, whatever has happened to the path meanwhile. The
        // force aborts the connection first; the unmount that would follow fails, because the descriptor is in its way.
        let path = format!("/proc/self/fd/{}", root.as_raw_fd());
        match rustix::mount::unmount(&path, UnmountFlags::FORCE) {
            Err(rustix::io::Errno::BUSY) => Ok(()),
            // An ordinary user may do that with the file that is there for it, where it is.
            Err(rustix::io::Errno::PERM) => {
                let device = rustix::fs::fstat(&root)?.st_dev;
                std::fs::write(format!("/sys/fs/fuse/connections/{device}/abort"), "1")
            }
            result => Ok(result?),
        }
    }
}
