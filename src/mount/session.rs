//! A kernel mount from its beginning to its end.

use super::MountError;
use super::adapter::Adapter;
use super::device::{Greeting, Threads};
use super::guard::Mark;
use super::point::{self, MountInfo, Whereabouts};
use super::reflect::{Kernel, Reflected};
use super::seeker::Seeker;
use crate::memory;
use crate::vfs::Vfs;
use fuser::{Config, MountOption, SessionACL};
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Threads that answer the kernel. Two cores gain nothing from more; waiting for the disk does.
const THREADS: usize = 4;

/// Bytes that the kernel reads ahead, KiB: enough to have all threads at work. A file of 256 MiB that is in no cache takes a
/// third less time than with 2 MiB. Twice as much gains little more, and what a mapped file is read around each fault too
/// (6.5 ms for the first page instead of 4 to 5, and 12 to 16).
const READ_AHEAD_KIB: u64 = 8192;

/// Bytes of dirty pages that the kernel may hold for the mount; it slows writers from three quarters of that on. With more it would send
/// them later, and whoever reads would stand behind more of them; see `docs/decisions/0018-read-once.md`. Where the cache is small it
/// is half of that: the daemon could not get memory while it is full of pages that only the daemon can take.
const KERNEL_DIRTY: u64 = 128 << 20;

/// How long the threads that answer the kernel may take to see that the mount is gone.
const FAREWELL: Duration = Duration::from_secs(2);

/// A mounted workspace.
pub(super) struct Session {
    /// Never dropped: fuser would unmount whatever is at the mount point by then, and that may be the mount of
    /// another daemon (0.18 asks the kernel whether its own is still there, but takes the answer for its
    /// opposite). What it costs is one descriptor of a dead connection.
    _fuse: Box<ManuallyDrop<fuser::Session<Greeting>>>,
    threads: Option<Threads>,
    seeker: Option<JoinHandle<()>>,
    vfs: Arc<Vfs>,
    point: PathBuf,
    /// What the mount table says of our mount, so that nobody else's is ever touched.
    ours: MountInfo,
    mark: Mark,
}

impl Session {
    /// Mounts the workspace.
    pub(super) fn start(vfs: &Arc<Vfs>, at: &Path) -> Result<Self, MountError> {
        point::make(at)?;
        // Until ours is there. Then others find it.
        let _alone = point::keep_others_away(at);
        point::prepare(at)?;
        let failed = |source| MountError::Fuse { point: at.to_path_buf(), source };
        let at = at.canonicalize().map_err(failed)?;
        let (notifier, reflected) = (Arc::new(OnceLock::new()), Arc::new(Reflected::default()));
        let (seeker, seeker_thread) =
            Seeker::start(Arc::clone(vfs), Arc::clone(&notifier)).map_err(failed)?;
        let adapter = Adapter::new(Arc::clone(vfs), seeker, Arc::clone(&reflected));
        let fuse = fuser::Session::new(Greeting, &at, &options()).map_err(failed)?;
        let fuse = Box::new(ManuallyDrop::new(fuse));
        let served = Self::serve(vfs, fuse, &at, adapter, seeker_thread, (&notifier, reflected));
        if served.is_err() {
            // Nobody answers in it: whoever looked at it would wait for ever.
            let _ = point::detach(&at);
        }
        served
    }

    /// Answers the kernel from now on.
    fn serve(
        vfs: &Arc<Vfs>,
        fuse: Box<ManuallyDrop<fuser::Session<Greeting>>>,
        at: &Path,
        adapter: Adapter,
        seeker: JoinHandle<()>,
        (notifier, reflected): (&OnceLock<fuser::Notifier>, Arc<Reflected>),
    ) -> Result<Self, MountError> {
        let failed = |source| MountError::Fuse { point: at.to_path_buf(), source };
        let device = fuse.as_fd().try_clone_to_owned().map_err(failed)?;
        let threads = Threads::start(device, adapter, THREADS).map_err(failed)?;
        let Some(ours) = point::mounted_at(at) else {
            let source = std::io::Error::other("the mount table does not show the mount");
            return Err(failed(source));
        };
        let mark = Mark::at(at).map_err(failed)?;
        let _ = notifier.set(fuse.notifier());
        let kernel = Kernel::start(vfs, fuse.notifier(), at.to_path_buf(), reflected);
        vfs.set_invalidator(Some(kernel.map_err(failed)?));
        tune(&ours.device, KERNEL_DIRTY.min(vfs.cache_bytes() / 2));
        let vfs = Arc::clone(vfs);
        let (threads, seeker) = (Some(threads), Some(seeker));
        Ok(Self { _fuse: fuse, threads, seeker, vfs, point: at.to_path_buf(), ours, mark })
    }

    /// Whether programs reach the workspace through the mount.
    pub(super) fn is_alive(&self) -> bool {
        let is_answered = self.threads.as_ref().is_some_and(Threads::are_at_work);
        is_answered && point::find(&self.ours, self.mark) == Whereabouts::At(self.point.clone())
    }

    /// Brings in what the kernel has not written back, and unmounts. A mount in use is taken away from its
    /// users, after they were named in the log. One that no path leads to stays, dead.
    pub(super) fn stop(mut self) {
        self.unmount();
    }

    fn unmount(&mut self) {
        let Some(threads) = self.threads.take() else { return };
        self.vfs.set_invalidator(None);
        // Device numbers are used again, but not as long as our connection lives.
        let found =
            if threads.are_at_work() { point::find(&self.ours, self.mark) } else { Whereabouts::Gone };
        match found {
            Whereabouts::At(point) => take_away(&point),
            Whereabouts::Covered(point) => {
                tracing::warn!(
                    ?point,
                    "something else is mounted over the workspace, which stays below it, dead"
                );
                write_back(None);
            }
            Whereabouts::Gone => {
                tracing::warn!(point = ?self.point, "the workspace was unmounted by somebody else");
                // Programs that were in it may be in it still.
                if threads.are_at_work() {
                    write_back(None);
                }
            }
        }
        // A detached mount may still have users if it was not ours to abort; it ends with them, or with us.
        let deadline = Instant::now() + FAREWELL;
        while threads.are_at_work() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        if let (false, Some(seeker)) = (threads.are_at_work(), self.seeker.take()) {
            let _ = seeker.join();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Unmounts what is ours there.
fn take_away(point: &Path) {
    write_back(Some(point));
    match point::unmount(point) {
        Ok(true) => {}
        Ok(false) => detach(point),
        Err(error) => {
            tracing::warn!(?point, %error, "the workspace could not be unmounted; detaching it");
            detach(point);
        }
    }
}

/// Has the kernel write back what it holds of the mount at this path; where no path leads to it, of everything. In a process
/// of its own: a thread of ours that waits for our own mount could not end when we are killed, and the mount could not
/// end before it.
fn write_back(point: Option<&Path>) {
    let mut sync = std::process::Command::new("sync");
    if let Some(point) = point {
        sync.arg("-f").arg(point);
    }
    let synced = match (sync.status(), point) {
        (Ok(status), _) if status.success() => Ok(()),
        (Ok(status), _) => Err(std::io::Error::other(format!("sync: {status}"))),
        // An image without even that.
        (Err(_), Some(point)) => std::fs::File::open(point).and_then(|root| Ok(rustix::fs::syncfs(root)?)),
        (Err(_), None) => {
            rustix::fs::sync();
            Ok(())
        }
    };
    if let Err(error) = synced {
        tracing::error!(?point, %error, "what the kernel held could not be written back");
    }
}

fn detach(point: &Path) {
    let holders = point::holders(point);
    tracing::warn!(?point, holders = holders.join(", "), "the mount is in use: detaching it");
    if let Err(error) = point::detach(point) {
        tracing::error!(?point, %error, "the mount could not be detached");
    }
}

fn options() -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("wsd".into()),
        MountOption::Subtype("wsd".into()),
        MountOption::DefaultPermissions,
    ];
    if rustix::process::geteuid().is_root() {
        config.acl = SessionACL::All;
        config.mount_options.extend([MountOption::Dev, MountOption::Suid]);
    }
    config
}

/// Lets the kernel treat the mount as it treats a disk: read further ahead, and hold so many bytes of dirty pages, not a hundredth of
/// what all filesystems may have, and not all of that, which may be gigabytes: the kernel queues the requests for them, and whoever reads
/// stands behind them (13 s while 2 GiB were written). Needs root.
fn tune(device: &str, dirty: u64) {
    let set = |setting: &str, value: u64| {
        let path = format!("/sys/class/bdi/{device}/{setting}");
        let done = std::fs::write(path, value.to_string());
        if let Err(error) = &done {
            tracing::debug!(setting, %error, "a setting of the kernel for this mount stays as it is");
        }
        done.is_ok()
    };
    set("read_ahead_kb", READ_AHEAD_KIB);
    set("strict_limit", 1);
    // Before Linux 6.2 there are hundredths alone.
    if !set("max_bytes", dirty) && !set("max_ratio", hundredths(dirty, memory::of_the_machine())) {
        let (most, available) = (memory::of_the_machine() / 5 / 100, memory::available());
        if most > available / 8 {
            tracing::warn!(
                most,
                available,
                "memory is short for what the kernel may hold of this mount, which cannot be set because /sys cannot be written: \
                 programs that share the memory with the daemon may have to wait long"
            );
        }
    }
}

/// What `dirty` bytes are of what all filesystems may have dirty, which is a fifth of memory unless somebody has said otherwise.
fn hundredths(dirty: u64, memory: u64) -> u64 {
    (dirty.saturating_mul(100) / (memory / 5).max(1)).clamp(1, 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_told_a_share_of_memory() {
        assert_eq!(hundredths(128 << 20, 4 << 30), 15);
        assert_eq!(hundredths(128 << 20, 256 << 30), 1);
        assert_eq!(hundredths(128 << 20, 128 << 20), 100);
        assert_eq!(hundredths(128 << 20, 0), 100);
    }
}
