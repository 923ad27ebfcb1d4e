//! Somebody who ends the mount when the daemon cannot.
//!
//! A daemon that is killed while one of its threads waits for its own mount (the kernel is being told of a change, or
//! asked for what it holds) does not quite end: the thread waits for an answer that nobody gives any more, so the
//! connection to the kernel stays open, and every program in the mount waits with it. A thread cannot help itself
//! there. So a small process of our own stands by: the kernel tells it when the daemon's main thread ends, and it aborts
//! the connection. Whoever waited, and whoever comes later, is told that nobody is connected. The mount itself stays,
//! dead, until the next start: without it programs would go on in the bare directory below, and not know.

use rustix::fs::{AtFlags, Mode, OFlags, Statx, StatxFlags, inotify};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, getppid};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The command that starts a guard.
pub const COMMAND: &str = "__guard";

/// `STATX_MNT_ID_UNIQUE` of statx(2), Linux 6.8: a number of the mount that no other mount ever gets.
const UNIQUE_ID: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// What a guard knows its mount by: it must never take away the mount of another daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The unique number of the mount.
    Mount(u64),
    /// The number of its device, on older kernels. The next mount may get it again once this one is gone.
    Device(u64),
}

/// A guard that stands by. Dropping it sends it away.
pub struct Guard {
    child: Child,
}

impl Guard {
    /// Starts a guard over what is mounted at `point`. To be called by the main thread, whose end it waits for.
    /// `program` must know [`COMMAND`], and take a [`Post`] with it.
    pub fn start(program: &Path, point: &Path) -> io::Result<Self> {
        let point = point.canonicalize()?;
        let mut command = Command::new(program);
        command.arg(COMMAND).arg(std::process::id().to_string()).arg(&point);
        command.stdin(Stdio::null()).stdout(Stdio::null()).current_dir("/");
        match Mark::of(&stat(&open(&point)?)?) {
            Mark::Mount(number) => command.arg(number.to_string()),
            Mark::Device(number) => command.arg(number.to_string()).arg("--device").stdout(Stdio::piped()),
        };
        let mut guard = Self { child: command.spawn()? };
        // Until it watches it looks at the mount, which must not be unmounted meanwhile.
        if let Some(mut said) = guard.child.stdout.take() {
            said.read_exact(&mut [0]).map_err(|_| io::Error::other("it could not watch the mount"))?;
        }
        Ok(guard)
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

/// What the kernel knows of it, without asking whoever serves it.
fn stat(root: &OwnedFd) -> io::Result<Statx> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    Ok(rustix::fs::statx(root, "", flags, UNIQUE_ID)?)
}

fn device(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

impl Mark {
    /// What is mounted there.
    pub(super) fn at(point: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self::in_which(&rustix::fs::open(point, flags, Mode::empty())?)
    }

    /// The mount in which a file is that was opened.
    pub(super) fn in_which(file: &OwnedFd) -> io::Result<Self> {
        Ok(Self::of(&stat(file)?))
    }

    fn of(root: &Statx) -> Self {
        if root.stx_mask & UNIQUE_ID.bits() == 0 {
            Self::Device(device(root))
        } else {
            Self::Mount(root.stx_mnt_id)
        }
    }

    fn is_of(self, root: &Statx) -> bool {
        match self {
            Self::Mount(_) => Self::of(root) == self,
            Self::Device(number) => device(root) == number,
        }
    }
}

/// Told when a filesystem is unmounted, before its device's number can be used again.
struct Watch(OwnedFd);

impl Watch {
    fn over(root: &OwnedFd) -> io::Result<Self> {
        let events = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        // A root is never removed: all that can be told is the unmount, which comes unasked.
        inotify::add_watch(&events, path_of(root), inotify::WatchFlags::DELETE_SELF)?;
        Ok(Self(events))
    }

    fn is_mounted(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 64]) == Err(rustix::io::Errno::AGAIN)
    }
}

fn path_of(root: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", root.as_raw_fd())
}

/// What a guard watches.
#[derive(Clone, Debug)]
pub struct Post {
    /// The daemon.
    pub daemon: u32,
    /// Its mount point.
    pub point: PathBuf,
    /// Its mount.
    pub mark: Mark,
}

/// A post that is taken.
pub struct Watchman {
    post: Post,
    watch: Option<Watch>,
}

impl Post {
    /// Has the kernel send `signal` when the daemon's main thread ends; `None` when it has ended already, too early for a
    /// mount to be known by its device.
    pub fn take(self, signal: i32) -> io::Result<Option<Watchman>> {
        // A terminal's interrupt is for the daemon, which then sends the guard away.
        let _ = rustix::process::setsid();
        rustix::process::set_parent_process_death_signal(Signal::from_named_raw(signal))?;
        let Mark::Device(_) = self.mark else { return Ok(Some(Watchman { post: self, watch: None })) };
        let root = open(&self.point)?;
        let watch = Watch::over(&root)?;
        let is_ours = self.mark.is_of(&stat(&root)?) && self.daemon_lives();
        Ok(is_ours.then_some(Watchman { post: self, watch: Some(watch) }))
    }

    /// Whether the daemon's main thread is there. Its process is as long as any thread of it, and our parent.
    fn daemon_lives(&self) -> bool {
        let is_parent = |pid: Pid| pid.as_raw_nonzero().get().unsigned_abs() == self.daemon;
        let status = || std::fs::read(format!("/proc/{}/status", self.daemon)).unwrap_or_default();
        let is_ended = |line: &[u8]| line.starts_with(b"State:\tZ") || line.starts_with(b"State:\tX");
        getppid().is_some_and(is_parent) && !status().split(|byte| *byte == b'\n').any(is_ended)
    }
}

impl Watchman {
    /// Whether the daemon's main thread is still there. The kernel signals its end a moment before that shows here.
    pub fn daemon_lives(&self) -> bool {
        self.post.daemon_lives()
    }

    /// Aborts the connection of the daemon's mount, if the mount is still there.
    pub fn relieve(&self) -> io::Result<()> {
        let root = open(&self.post.point)?;
        let stat = stat(&root)?;
        // In this order: what is open here keeps its device's number, so a mount that is not gone yet is this one.
        if !self.post.mark.is_of(&stat) || self.watch.as_ref().is_some_and(|watch| !watch.is_mounted()) {
            return Ok(());
        }
        // By the descriptor, so that it is this mount and no other, whatever has happened to the path meanwhile. The
        // force aborts the connection first; the unmount that would follow fails, because the descriptor is in its way.
        match rustix::mount::unmount(path_of(&root), UnmountFlags::FORCE) {
            Err(rustix::io::Errno::BUSY) => Ok(()),
            // An ordinary user may do that with the file that is there for it, where it is. Devices of no disk have major 0,
            // and the kernel names connections by the minor.
            Err(rustix::io::Errno::PERM) => {
                std::fs::write(format!("/sys/fs/fuse/connections/{}/abort", stat.stx_dev_minor), "1")
            }
            result => Ok(result?),
        }
    }
}
