//! A file of this machine that is not complete yet.
//!
//! Where the filesystem can, it has no name until it is complete: a transfer that is killed leaves nothing. Elsewhere, and for
//! the moment in which it takes the place of another, it has a name beside its place, and is locked: what has such a name and
//! is not locked belongs to nobody any more. Locks are seen by all programs of this machine, not by those of others that may
//! have the directory too, so the name tells since when the machine runs.

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const PREFIX: &str = ".wsd-getting-";

/// An incomplete file, gone if it stays one.
pub(super) struct Part {
    pub(super) file: File,
    name: Option<PathBuf>,
    /// A device or a pipe, which is written to in its place.
    is_special: bool,
}

impl Part {
    pub(super) fn create(local: &Path) -> io::Result<Self> {
        if fs::metadata(local).is_ok_and(|there| !there.is_file()) {
            let file = File::options().write(true).open(local)?;
            return Ok(Self { file, name: None, is_special: true });
        }
        match nameless(directory_of(local)) {
            Some(file) => Ok(Self { file, name: None, is_special: false }),
            None => Self::named(local),
        }
    }

    /// One with a name. The name of what it is to be is not in it: that may be as long as a name can be.
    fn named(local: &Path) -> io::Result<Self> {
        loop {
            let place = local.with_file_name(next_name());
            match File::options().write(true).create_new(true).mode(0o600).open(&place) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => {
                    let part = Self { file: made?, name: Some(place), is_special: false };
                    // Before it was locked, another one may have taken it for a dead one's.
                    let is_in_use = matches!(part.file.try_lock(), Err(TryLockError::WouldBlock));
                    if !is_in_use && part.has_its_name()? {
                        return Ok(part);
                    }
                }
            }
        }
    }

    fn has_its_name(&self) -> io::Result<bool> {
        let there = self.name.as_ref().and_then(|name| fs::symlink_metadata(name).ok());
        let own = self.file.metadata()?;
        Ok(there.is_some_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino())))
    }

    /// It is complete, and takes its place, with these permissions.
    pub(super) fn keep(mut self, local: &Path, mode: u32) -> io::Result<()> {
        if self.is_special {
            return Ok(());
        }
        self.file.set_permissions(Permissions::from_mode(mode & 0o777))?;
        if self.name.is_none() {
            match self.link(local) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.take_name(local)?,
                linked => return linked,
            }
        }
        if let Some(name) = &self.name {
            fs::rename(name, local)?;
        }
        self.name = None;
        Ok(())
    }

    fn take_name(&mut self, local: &Path) -> io::Result<()> {
        // Where nothing can be locked, nobody takes it for a dead one's.
        let _ = self.file.try_lock();
        loop {
            let place = local.with_file_name(next_name());
            match self.link(&place) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                linked => {
                    self.name = Some(place);
                    return linked;
                }
            }
        }
    }

    fn link(&self, place: &Path) -> io::Result<()> {
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(rustix::fs::linkat(CWD, own, CWD, place, AtFlags::SYMLINK_FOLLOW)?)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.name.is_some() && self.has_its_name().unwrap_or(false) {
            let _ = self.name.take().map(fs::remove_file);
        }
    }
}

/// Removes what those that were killed have left in a directory.
pub(super) fn sweep(directory: &Path) {
    let Some(prefix) = prefix() else { return };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_name().as_bytes().starts_with(prefix.as_bytes()) {
            continue;
        }
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let opened = File::options().read(true).custom_flags(flags).open(entry.path());
        // What is ours to remove is locked until it is.
        if opened.is_ok_and(|file| file.try_lock().is_ok() && fs::remove_file(entry.path()).is_ok()) {
            tracing::debug!(path = %entry.path().display(), "removed what another one had left");
        }
    }
}

pub(super) fn directory_of(local: &Path) -> &Path {
    local.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file without a name, if it can be given one later.
fn nameless(directory: &Path) -> Option<File> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(directory, flags, Mode::from_raw_mode(0o600)).ok()?);
    Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())).exists().then_some(file)
}

/// What such names of this machine begin with, while it runs.
fn prefix() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{PREFIX}{}-", boot.trim()))
}

fn next_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let prefix = prefix().unwrap_or_else(|| PREFIX.to_owned());
    format!("{prefix}{}-{next}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_part_takes_its_place_or_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let local = dir.path().join("file");
        for make in [Part::create, Part::named] {
            for text in ["new", "replaced"] {
                let mut part = make(&local).unwrap();
                part.file.write_all(text.as_bytes()).unwrap();
                part.keep(&local, 0o640).unwrap();
                assert_eq!(fs::metadata(&local).unwrap().mode() & 0o7777, 0o640);
                assert_eq!(fs::read_to_string(&local).unwrap(), text);
            }
            drop(make(&local).unwrap());
            assert_eq!(names(dir.path()), ["file"]);
            fs::remove_file(&local).unwrap();
        }
        fs::create_dir(&local).unwrap();
        assert!(Part::create(&local).is_err());
        assert!(Part::named(&local).unwrap().keep(&local, 0o600).is_err());
        assert_eq!(names(dir.path()), ["file"]);
    }

    /// They stayed for ever.
    #[test]
    fn what_was_left_is_removed_and_what_is_being_got_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let local = dir.path().join("file");
        let living = Part::named(&local).unwrap();
        let mut dead = Part::named(&local).unwrap();
        let left = dead.name.take().unwrap();
        drop(dead);
        let elsewhere = dir.path().join(format!("{PREFIX}of-another-machine-1-1"));
        fs::write(&elsewhere, "").unwrap();
        sweep(dir.path());
        assert!(!left.exists() && elsewhere.exists() && living.has_its_name().unwrap());
    }

    /// Both wrote into one file when two machines, or containers, had given them the same number.
    #[test]
    fn what_another_process_is_getting_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let local = dir.path().join("file");
        let others = |at: u64| dir.path().join(format!("{}{}-{at}", prefix().unwrap(), std::process::id()));
        (0..64).for_each(|at| fs::write(others(at), "another's").unwrap());
        let mut part = Part::named(&local).unwrap();
        part.file.write_all(b"ours").unwrap();
        drop(part);
        (0..64).for_each(|at| assert_eq!(fs::read_to_string(others(at)).unwrap(), "another's"));
    }
}
