//! From a path to an opened directory, with no symlink on the way, and none that is put there meanwhile.

use super::{Disk, Fault, Outcome, fault, path};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How often the kernel may say that something moved while it looked.
const TRIES: usize = 8;

/// Longest path that the kernel takes in one piece.
const PATH_MAX: usize = 4095;

impl Disk {
    /// A directory, to list it.
    pub(super) fn dir(&self, path: &[u8]) -> Outcome<OwnedFd> {
        self.open_dir(path, OFlags::RDONLY)
    }

    /// A directory, to do something in it by name.
    pub(super) fn place(&self, path: &[u8]) -> Outcome<OwnedFd> {
        self.open_dir(path, OFlags::PATH)
    }

    fn open_dir(&self, path: &[u8], access: OFlags) -> Outcome<OwnedFd> {
        if !path::is_sound(path) {
            return Err(Fault::Unfit("the path is not made of names".into()));
        }
        let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if path.is_empty() {
            if rustix::fs::fstat(&self.root).map_err(fault)?.st_nlink == 0 {
                // What was in it is not to be taken for removed.
                return Err(Fault::Io("the directory itself was removed".into()));
            }
            return rustix::fs::openat(&self.root, ".", flags, Mode::empty()).map_err(fault);
        }
        if path.len() <= PATH_MAX {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            for _ in 0..TRIES {
                match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                    Ok(dir) => return Ok(dir),
                    Err(Errno::AGAIN) => {}
                    // An older kernel, or a filter that does not know the call.
                    Err(Errno::NOSYS | Errno::PERM) => break,
                    Err(error) => return Err(fault(error)),
                }
            }
        }
        self.walk(path, flags)
    }

    /// The same, name by name.
    pub(super) fn walk(&self, path: &[u8], flags: OFlags) -> Outcome<OwnedFd> {
        let way = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut names = path.split(|byte| *byte == b'/').peekable();
        let mut at = rustix::fs::openat(&self.root, ".", way, Mode::empty()).map_err(fault)?;
        while let Some(name) = names.next() {
            let flags = if names.peek().is_some() { way } else { flags };
            at = rustix::fs::openat(&at, name, flags, Mode::empty()).map_err(fault)?;
        }
        Ok(at)
    }

    /// Does something in the directory that holds a path, by the last name.
    pub(super) fn in_parent<T>(
        &self,
        path: &[u8],
        act: impl Fn(&OwnedFd, &[u8]) -> Result<T, Errno>,
    ) -> Outcome<T> {
        let (parent, name) = path::split(path);
        if !path::is_name(name) {
            return Err(Fault::Unfit("the path does not end in a name".into()));
        }
        let dir = self.place(parent)?;
        self.open_up(&dir, || act(&dir, name))
    }

    /// Does something in a directory, which is opened to its owner for that time if it has to be.
    pub(super) fn open_up<T>(&self, dir: &OwnedFd, act: impl Fn() -> Result<T, Errno>) -> Outcome<T> {
        self.opened(dir, act).map_err(fault)
    }

    /// The same, with the kernel's own error.
    pub(super) fn opened<T>(&self, dir: &OwnedFd, act: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        match act() {
            Err(Errno::ACCESS) if !self.gives_owners => {}
            done => return done,
        }
        let mode = Mode::from_raw_mode(rustix::fs::fstat(dir)?.st_mode & 0o7777);
        let this = format!("/proc/self/fd/{}", dir.as_raw_fd());
        rustix::fs::chmod(&this, mode | Mode::RWXU)?;
        let done = act();
        rustix::fs::chmod(&this, mode)?;
        done
    }
}
