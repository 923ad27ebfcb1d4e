//! Names that change what they lead to, without anything being lost in between.
//!
//! Between looking at a file and replacing it somebody may write to it. So what is replaced is exchanged with its
//! successor in one step and looked at then; what is removed gets a name of ours first. If it is not what it was
//! believed to be, it stays: under its old name, or beside it as a conflict.

use super::{Disk, Fault, Outcome, fault, path};
use crate::tree::Facts;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, RenameFlags, renameat, renameat_with};
use rustix::io::Errno;
use std::time::SystemTime;

/// How many conflicts of one name there can be in one second.
const TRIES: u32 = 1000;

/// Renames, if the new name is free.
pub(super) fn move_to(from: &OwnedFd, name: &[u8], to: &OwnedFd, new: &[u8]) -> Result<(), Errno> {
    match renameat_with(from, name, to, new, RenameFlags::NOREPLACE) {
        // The filesystem has no such rename. A link does not replace anything either; directories have none.
        Err(Errno::INVAL | Errno::NOSYS) => {}
        done => return done,
    }
    match rustix::fs::linkat(from, name, to, new, AtFlags::empty()) {
        Ok(()) => return rustix::fs::unlinkat(from, name, AtFlags::empty()),
        Err(Errno::EXIST) => return Err(Errno::EXIST),
        Err(_) => {}
    }
    match rustix::fs::statat(to, new, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Err(Errno::EXIST),
        Err(Errno::NOENT) => renameat(from, name, to, new),
        Err(error) => Err(error),
    }
}

impl Disk {
    /// Gives what is under a name of ours in `dir` its place, and says what it is then.
    pub(super) fn enter(
        &self,
        dir: &OwnedFd,
        own: &[u8],
        at: &[u8],
        replaces: Option<&Facts>,
    ) -> Outcome<Facts> {
        let placed = self.try_enter(dir, own, at, replaces);
        if placed.is_err() {
            let _ = rustix::fs::unlinkat(dir, own, AtFlags::empty());
        }
        placed
    }

    fn try_enter(&self, dir: &OwnedFd, own: &[u8], at: &[u8], replaces: Option<&Facts>) -> Outcome<Facts> {
        let (parent, name) = path::split(at);
        self.check_place(dir, parent)?;
        let before = self.stat(dir, own)?.ok_or(Fault::Changed)?;
        match replaces {
            None => self.open_up(dir, || move_to(dir, own, dir, name))?,
            Some(expected) => {
                self.expect(dir, name, expected)?;
                self.exchange(dir, own, at, expected)?;
            }
        }
        let after = self.stat(dir, name)?.ok_or(Fault::Changed)?;
        // Somebody was fast enough to write to it: then that has not been seen.
        let untouched = after.has_bytes_of(&before);
        Ok(if untouched { after } else { Facts { change: crate::tree::UNTRUSTED, ..before } })
    }

    /// The directory may have been moved, out of the tree even, since it was opened.
    fn check_place(&self, dir: &OwnedFd, parent: &[u8]) -> Outcome<()> {
        let stat =
            |dir: &OwnedFd| rustix::fs::fstat(dir).map(|stat| (stat.st_dev, stat.st_ino)).map_err(fault);
        if stat(&self.place(parent)?)? == stat(dir)? { Ok(()) } else { Err(Fault::Changed) }
    }

    fn exchange(&self, dir: &OwnedFd, own: &[u8], at: &[u8], expected: &Facts) -> Outcome<()> {
        let name = path::split(at).1;
        let swap = || renameat_with(dir, own, dir, name, RenameFlags::EXCHANGE);
        self.exchange_by(swap, dir, own, at, expected)
    }

    fn exchange_by(
        &self,
        swap: impl Fn() -> Result<(), Errno>,
        dir: &OwnedFd,
        own: &[u8],
        at: &[u8],
        expected: &Facts,
    ) -> Outcome<()> {
        let swapped = self.open_up(dir, || match swap() {
            Err(Errno::INVAL | Errno::NOSYS) => Ok(false),
            done => done.map(|()| true),
        })?;
        let old = if swapped { own.to_vec() } else { self.replace(dir, own, path::split(at).1)? };
        match self.stat(dir, &old)? {
            Some(facts) if !facts.has_bytes_of(expected) => self.keep_beside(dir, &old, at),
            Some(_) => self.open_up(dir, || rustix::fs::unlinkat(dir, &old[..], AtFlags::empty())),
            None => Ok(()),
        }
    }

    /// Replaces a file where names cannot be exchanged. It keeps a name of ours, which is returned, unless the filesystem has
    /// no links either: then an edit of this very moment is lost.
    fn replace(&self, dir: &OwnedFd, own: &[u8], name: &[u8]) -> Outcome<Vec<u8>> {
        let old = self.own_name();
        self.open_up(dir, || match rustix::fs::linkat(dir, name, dir, &old[..], AtFlags::empty()) {
            Err(Errno::PERM | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::MLINK) => Ok(()),
            done => done,
        })?;
        let replaced = self.open_up(dir, || renameat(dir, own, dir, name));
        if replaced.is_err() {
            let _ = rustix::fs::unlinkat(dir, &old[..], AtFlags::empty());
        }
        replaced.map(|()| old)
    }

    /// Removes a file or symlink that is what it is believed to be.
    pub(super) fn take_away(&self, dir: &OwnedFd, at: &[u8], expected: &Facts) -> Outcome<()> {
        let (name, own) = (path::split(at).1, self.own_name());
        self.open_up(dir, || move_to(dir, name, dir, &own))?;
        match self.stat(dir, &own)? {
            Some(old) if !old.has_bytes_of(expected) => {
                if self.open_up(dir, || move_to(dir, &own, dir, name)).is_err() {
                    self.keep_beside(dir, &own, at)?;
                }
                Err(Fault::Changed)
            }
            Some(_) => self.open_up(dir, || rustix::fs::unlinkat(dir, &own[..], AtFlags::empty())),
            None => Ok(()),
        }
    }

    /// Shows what is under a name of ours as a conflict of `at`.
    pub(super) fn keep_beside(&self, dir: &OwnedFd, own: &[u8], at: &[u8]) -> Outcome<()> {
        let now = SystemTime::now();
        for number in 1..TRIES {
            let beside = path::conflict(path::split(at).1, now, number);
            match self.open_up(dir, || move_to(dir, own, dir, &beside)) {
                Err(Fault::Exists) => {}
                done => return done,
            }
        }
        Err(Fault::Exists)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_edit_of_the_last_moment_is_kept_where_names_cannot_be_exchanged() {
        let home = tempfile::tempdir().unwrap();
        let (file, own) = (home.path().join("file"), b".wsd-shim.new");
        fs::write(&file, "old").unwrap();
        let disk = Disk::open(home.path(), false).unwrap();
        let dir = disk.place(b"").unwrap();
        let expected = disk.stat(&dir, b"file").unwrap().unwrap();
        for (content, kept) in [("edited", Some("edited")), ("as expected", None)] {
            fs::write(home.path().join(".wsd-shim.new"), "new").unwrap();
            fs::write(&file, content).unwrap();
            let now = disk.stat(&dir, b"file").unwrap().unwrap();
            let expected = if kept.is_some() { expected } else { now };
            disk.exchange_by(|| Err(Errno::INVAL), &dir, own, b"file", &expected).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), "new");
            let mut others = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path());
            let other = others.find(|path| *path != file);
            assert_eq!(other.as_ref().map(|path| fs::read_to_string(path).unwrap()).as_deref(), kept);
            other.into_iter().for_each(|path| fs::remove_file(path).unwrap());
        }
    }
}
