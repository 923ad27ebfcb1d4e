//! Telling the kernel of changes that did not come through it.
//!
//! Names, attributes and cached pages are dropped by notification, and the kernel asks again. Under writeback
//! that is not enough for regular files: their size, mtime and ctime belong to the kernel as long as it knows
//! the file, and it will not take them from an answer. It does take them from a change of its own. So we make
//! one: we open the file through the mount and set the size and times that it has already; the request that
//! this causes is recognised and answered, and changes nothing.
//!
//! A program may be writing at that moment, and what it has written, the kernel may hold and wsd not know of. So the kernel
//! is given no more than has changed: a size is set only if the file has other content, and only raised if it was written to.
//!
//! The kernel lets nobody change the size of a program that runs. That is done when it no longer runs; until then the kernel's
//! size is not believed.

use super::guard::Mark;
use crate::clock::Timestamp;
use crate::store::rows::{Ino, Kind};
use crate::vfs::{Attr, Invalidator, Seen, Vfs};
use fuser::{INodeNo, Notifier};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How often it is looked whether a program still runs.
const RETRY: Duration = Duration::from_millis(50);

/// How long a file is looked for that a program is about to give another name: wsd has done that, and the kernel not yet.
const PATIENCE: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_micros(50);

/// `S_IWUSR`.
const OWNER_WRITES: u32 = 0o200;

/// What we do to nodes through our own mount, and the number of the thread that does it.
#[derive(Default)]
pub(super) struct Reflected {
    under_way: Mutex<HashSet<(Ino, Act, u32)>>,
    /// Why bytes that programs had written could not be written back, where the kernel has told us. It then holds that for known to
    /// all who open the file later.
    untold: Mutex<HashMap<Ino, i32>>,
}

/// What we do to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Act {
    /// Setting size and times to what they are.
    Reflect,
    /// Setting the time of access to what it is, for the kernel to take note of a change. It sends the times of what it has
    /// written back with that, and these count.
    Stamp,
    /// Having the kernel write back, which needs no more than that.
    Flush,
}

/// What the kernel does not know of a file yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum New {
    /// Only that something has changed.
    Change,
    /// Its time of modification.
    Times,
    /// That, and bytes; it may be longer.
    Bytes,
    /// All of its content, and so its size.
    Size,
}

impl Reflected {
    /// Whether a request is part of such an act. Requests carry the number of the thread that made them, as it is where the
    /// filesystem was mounted; one that no other thread can have meanwhile.
    pub(super) fn is_ours(&self, pid: u32, ino: Ino, act: Act) -> bool {
        self.under_way.lock().contains(&(ino, act, pid))
    }

    /// Why bytes of a file are lost, of which no program may have been told: once.
    pub(super) fn take_untold(&self, ino: Ino) -> Option<i32> {
        self.untold.lock().remove(&ino)
    }

    /// The kernel knows less of a file, or no longer knows it. Nearly always there is nothing to tell of any.
    pub(super) fn forget(&self, ino: Ino, is_known: impl FnOnce() -> bool) {
        if self.untold.lock().contains_key(&ino) && !is_known() {
            self.take_untold(ino);
        }
    }

    fn guard(self: &Arc<Self>, ino: Ino, act: Act) -> Guard {
        let of = (ino, act, rustix::thread::gettid().as_raw_nonzero().get() as u32);
        self.under_way.lock().insert(of);
        Guard { reflected: Arc::clone(self), of }
    }
}

struct Guard {
    reflected: Arc<Reflected>,
    of: (Ino, Act, u32),
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.reflected.under_way.lock().remove(&self.of);
    }
}

/// The kernel's side of a mount, as the filesystem sees it.
pub(super) struct Kernel {
    vfs: Weak<Vfs>,
    notifier: Notifier,
    point: PathBuf,
    /// The number of the mount's device, and which mount it is: a directory of ours may be mounted over another one.
    device: u64,
    mark: Mark,
    reflected: Arc<Reflected>,
    /// Held while the kernel is given what is new of a file, by its number: who comes last, gives the latest.
    turns: [Mutex<()>; 64],
    /// Programs that run, whose size the kernel could not be given.
    owed: Mutex<HashSet<Ino>>,
    owes: Sender<()>,
}

impl Kernel {
    /// The thread that gives the kernel what it is owed ends with it.
    pub(super) fn start(
        vfs: &Arc<Vfs>,
        notifier: Notifier,
        point: PathBuf,
        reflected: Arc<Reflected>,
    ) -> std::io::Result<Arc<Self>> {
        let (device, mark) = (rustix::fs::stat(&point)?.st_dev, Mark::at(&point)?);
        let (owes, wake) = channel();
        let (vfs, owed) = (Arc::downgrade(vfs), Mutex::default());
        let turns = std::array::from_fn(|_| Mutex::default());
        let kernel = Arc::new(Self { vfs, notifier, point, device, mark, reflected, turns, owed, owes });
        let weak = Arc::downgrade(&kernel);
        std::thread::Builder::new().name("wsd-owed".into()).spawn(move || pay(&weak, &wake))?;
        Ok(kernel)
    }

    fn drop_cached(&self, ino: Ino, offset: i64) {
        if let Err(error) = self.notifier.inval_inode(INodeNo(ino), offset, 0) {
            tracing::warn!(ino, %error, "the kernel could not be told of a change");
        }
    }

    /// Gives the kernel what is new of a regular file it may know.
    fn reflect(&self, ino: Ino, new: New) {
        let new = if self.is_owed(ino) { New::Size } else { new };
        let Err(error) = self.try_to_reflect(ino, new) else {
            self.owed.lock().remove(&ino);
            return;
        };
        if error.kind() == std::io::ErrorKind::ExecutableFileBusy {
            if self.owed.lock().insert(ino) {
                let _ = self.owes.send(());
            }
        } else {
            self.owed.lock().remove(&ino);
            tracing::warn!(ino, %error, "the kernel could not be given the new size or times of a file");
        }
    }

    fn try_to_reflect(&self, ino: Ino, new: New) -> std::io::Result<()> {
        let Some(vfs) = self.vfs.upgrade().filter(|vfs| vfs.is_known_to_kernel(ino)) else { return Ok(()) };
        let _turn = self.turns[ino as usize % self.turns.len()].lock();
        match vfs.getattr(ino) {
            Ok(attr) if attr.kind == Kind::File => self.set_to_what_it_is(&attr, new),
            _ => Ok(()),
        }
    }

    fn is_owed(&self, ino: Ino) -> bool {
        self.owed.lock().contains(&ino)
    }

    /// Tries once to give the kernel what it is owed; whether that is nothing any more.
    fn pay(&self) -> bool {
        let owed: Vec<Ino> = self.owed.lock().iter().copied().collect();
        for ino in owed {
            self.reflect(ino, New::Size);
        }
        self.owed.lock().is_empty()
    }

    /// The node as the mount has it, with what the kernel says of it, wherever it is moved to meanwhile; `None` when it has no
    /// name any more, or something else is mounted over it.
    fn open(&self, ino: Ino, flags: OFlags) -> std::io::Result<Option<(OwnedFd, Stat)>> {
        let Some(vfs) = self.vfs.upgrade() else { return Ok(None) };
        let deadline = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < deadline {
            let path = vfs.path_of(ino).map_err(std::io::Error::other)?;
            match &path {
                Some(path) => match self.open_at(path, flags)? {
                    Some((file, stat)) if (stat.st_dev, stat.st_ino) == (self.device, ino) => {
                        return Ok(Some((file, stat)));
                    }
                    Some((file, _)) if !self.is_in_mount(&file)? => break,
                    _ if last.as_ref() == Some(path) && self.is_hidden(path) => break,
                    _ => {}
                },
                None if vfs.getattr(ino).is_ok_and(|attr| attr.nlink > 0) => {}
                None => break,
            }
            last = path;
            std::thread::sleep(LOOK);
        }
        Ok(None)
    }

    fn open_at(&self, path: &[u8], flags: OFlags) -> std::io::Result<Option<(OwnedFd, Stat)>> {
        let path = self.point.join(OsStr::from_bytes(path));
        match rustix::fs::open(&path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => {
                let stat = rustix::fs::fstat(&file)?;
                Ok(Some((file, stat)))
            }
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether something else is mounted over the directory of what has this path.
    fn is_hidden(&self, path: &[u8]) -> bool {
        let path = self.point.join(OsStr::from_bytes(path));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = path.parent().and_then(|above| rustix::fs::open(above, flags, Mode::empty()).ok());
        above.is_none_or(|above| !self.is_in_mount(&above).unwrap_or(false))
    }

    fn is_in_mount(&self, file: &OwnedFd) -> std::io::Result<bool> {
        Ok(Mark::in_which(file)? == self.mark)
    }

    fn set_to_what_it_is(&self, attr: &Attr, new: New) -> std::io::Result<()> {
        let Some((file, stat)) = self.open(attr.ino, OFlags::PATH)? else { return Ok(()) };
        let _ours =
            self.reflected.guard(attr.ino, if new == New::Change { Act::Stamp } else { Act::Reflect });
        match new {
            New::Size => writable(&file, attr)?.set_len(attr.size)?,
            New::Bytes if attr.size > stat.st_size as u64 => raise_size(&writable(&file, attr)?, attr.size)?,
            New::Bytes | New::Times | New::Change => {}
        }
        let time = |time: Timestamp| Timespec { tv_sec: time.sec(), tv_nsec: time.nsec().into() };
        let same = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps {
            last_access: time(attr.atime),
            last_modification: if new == New::Change { same } else { time(attr.mtime) },
        };
        rustix::fs::utimensat(&file, "", &times, AtFlags::EMPTY_PATH)?;
        Ok(())
    }
}

/// Makes the kernel's file so long, and never shorter, whatever a program has added meanwhile; nothing if wsd's is not so long
/// any more.
fn raise_size(file: &std::fs::File, size: u64) -> std::io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), size - 1, 1) {
        Err(rustix::io::Errno::AGAIN) => Ok(()),
        raised => Ok(raised?),
    }
}

/// The same file through the path of its descriptor, to be changed. Where the owner may not, the kernel takes its mode for one with
/// which they may, until the next answer tells it the mode.
fn writable(file: &OwnedFd, attr: &Attr) -> std::io::Result<std::fs::File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let open = || std::fs::OpenOptions::new().write(true).open(&path);
    match open() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            rustix::fs::chmod(&path, Mode::from_raw_mode(attr.mode | OWNER_WRITES))?;
            open()
        }
        opened => opened,
    }
}

/// Gives the kernel what it is owed, until there is nobody who owes.
fn pay(kernel: &Weak<Kernel>, wake: &Receiver<()>) {
    while wake.recv().is_ok() {
        loop {
            std::thread::sleep(RETRY);
            let Some(kernel) = kernel.upgrade() else { return };
            if kernel.pay() {
                break;
            }
        }
    }
}

impl Invalidator for Kernel {
    fn attributes(&self, ino: Ino) {
        self.drop_cached(ino, -1);
        self.reflect(ino, New::Change);
    }

    fn times(&self, ino: Ino) {
        self.drop_cached(ino, -1);
        self.reflect(ino, New::Times);
    }

    fn forget_attributes(&self, ino: Ino) {
        self.drop_cached(ino, -1);
    }

    fn written(&self, ino: Ino) {
        self.reflect(ino, New::Bytes);
        self.drop_cached(ino, 0);
    }

    fn content(&self, ino: Ino) {
        self.reflect(ino, New::Size);
        self.drop_cached(ino, 0);
    }

    fn entry(&self, parent: Ino, name: &[u8]) {
        if let Err(error) = self.notifier.inval_entry(INodeNo(parent), OsStr::from_bytes(name)) {
            tracing::warn!(parent, %error, "the kernel could not be told of a name");
        }
        self.drop_cached(parent, 0);
    }

    fn moved(&self, dir: Ino) {
        // The kernel takes what it has of a directory to the name that it is found by.
        let is_known = self.vfs.upgrade().is_some_and(|vfs| vfs.is_known_to_kernel(dir));
        if let (true, Err(error)) = (is_known, self.open(dir, OFlags::PATH)) {
            tracing::warn!(dir, %error, "the kernel could not be shown where a directory is now");
        }
    }

    fn listing(&self, dir: Ino) {
        self.drop_cached(dir, 0);
    }

    fn write_back(&self, ino: Ino) {
        self.drop_cached(ino, 0);
    }

    fn flush(&self, ino: Ino) {
        // The one call that writes back and waits. The request to make it durable, which follows, is ours.
        let flushed = self.open(ino, OFlags::RDONLY | OFlags::NONBLOCK).and_then(|file| {
            let Some((file, _)) = file else { return Ok(()) };
            let _ours = self.reflected.guard(ino, Act::Flush);
            let flushed = rustix::fs::fdatasync(&file);
            if let Err(error) = flushed {
                self.reflected.untold.lock().insert(ino, error.raw_os_error());
            }
            Ok(flushed?)
        });
        if let Err(error) = flushed {
            tracing::debug!(ino, %error, "the kernel cannot write back what it holds of a file; dropping that");
            self.drop_cached(ino, 0);
        }
    }

    fn flush_all(&self) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let flushed = rustix::fs::open(&self.point, flags, Mode::empty()).and_then(rustix::fs::syncfs);
        if let Err(error) = flushed {
            tracing::warn!(%error, "the kernel could not be told to write back what it holds of the mount's files");
        }
    }

    fn seen(&self, ino: Ino) -> Option<Seen> {
        if self.is_owed(ino) {
            return None;
        }
        let (_, stat) = self.open(ino, OFlags::PATH).ok()??;
        let time = |sec: i64, nsec: u64| Timestamp::from_parts(sec, nsec as u32);
        Some(Seen {
            size: stat.st_size as u64,
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        })
    }
}
