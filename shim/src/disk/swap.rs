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
        let swapped =
            self.open_up(dir, || match renameat_with(dir, own, dir, name, RenameFlags::EXCHANGE) {
                Err(Errno::INVAL | Errno::NOSYS) => renameat(dir, own, dir, name).map(|()| false),
                done => done.map(|()| true),
            })?;
        if !swapped {
            return Ok(());
        }
        match self.stat(dir, own)? {
            Some(old) if !old.has_bytes_of(expected) => self.keep_beside(dir, own, at),
            Some(_) => self.open_up(dir, || rustix::fs::unlinkat(dir, own, AtFlags::empty())),
            None => Ok(()),
        }
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
