//! Files that come together under a name of our own.

use super::{Attributes, Disk, Facts, Outcome, Stage, fault, io, times};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write;

pub(super) struct Staged<'a> {
    disk: &'a Disk,
    dir: OwnedFd,
    file: File,
    own: Vec<u8>,
    path: Vec<u8>,
    is_placed: bool,
}

/// The owner that attributes say.
pub(super) fn owner(attributes: &Attributes) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))
}

/// What came of giving something an owner. Root may lack that right, a container may not know the owner, a disk may have
/// none: then the owner stays on the other side.
pub(super) fn if_possible(given: Result<(), Errno>) -> Outcome<()> {
    match given {
        Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        given => given.map_err(fault),
    }
}

impl<'a> Staged<'a> {
    pub(super) fn new(disk: &'a Disk, path: &[u8]) -> Outcome<Self> {
        let own = disk.own_name();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (dir, file) = disk.in_parent(path, |dir, _| {
            let file = rustix::fs::openat(dir, &own[..], flags, Mode::RUSR | Mode::WUSR)?;
            Ok((rustix::io::fcntl_dupfd_cloexec(dir, 0)?, file))
        })?;
        Ok(Self { disk, dir, file: file.into(), own, path: path.to_vec(), is_placed: false })
    }
}

impl Stage for Staged<'_> {
    fn write(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.file.write_all(bytes).map_err(io)
    }

    fn place(
        mut self: Box<Self>,
        attributes: &Attributes,
        replaces: Option<&Facts>,
        _keep_node: bool,
    ) -> Outcome<Facts> {
        if self.disk.gives_owners {
            let (uid, gid) = owner(attributes);
            if_possible(rustix::fs::fchown(&self.file, uid, gid))?;
        }
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(attributes.mode)).map_err(fault)?;
        rustix::fs::futimens(&self.file, &times(attributes.mtime)).map_err(fault)?;
        self.is_placed = true;
        self.disk.enter(&self.dir, &self.own, &self.path, replaces)
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.is_placed {
            let _ = self
                .disk
                .open_up(&self.dir, || rustix::fs::unlinkat(&self.dir, &self.own[..], AtFlags::empty()));
        }
    }
}
