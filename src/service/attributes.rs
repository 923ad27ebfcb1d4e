//! Modes, owners, times and extended attributes.

use super::failure::About;
use super::path::Last;
use super::{Files, Outcome};
use crate::vfs::{Attr, SetAttr, SetTime, SetXattr};

fn last(follow: bool) -> Last {
    if follow { Last::Follow } else { Last::Keep }
}

impl Files {
    fn set(&self, path: &[u8], follow: bool, set: &SetAttr) -> Outcome<Attr> {
        let node = self.node_at(path, last(follow))?;
        self.vfs.pull(node.ino);
        self.vfs.setattr(self.caller, node.ino, set).about(path)
    }

    /// Sets permission bits.
    pub fn chmod(&self, path: &[u8], mode: u32) -> Outcome<Attr> {
        self.set(path, true, &SetAttr { mode: Some(mode & 0o7777), ..SetAttr::default() })
    }

    /// Sets owner and group; `None` leaves one as it is.
    pub fn chown(&self, path: &[u8], uid: Option<u32>, gid: Option<u32>, follow: bool) -> Outcome<Attr> {
        self.set(path, follow, &SetAttr { uid, gid, ..SetAttr::default() })
    }

    /// Sets times; `None` leaves one as it is.
    pub fn utimes(
        &self,
        path: &[u8],
        atime: Option<SetTime>,
        mtime: Option<SetTime>,
        follow: bool,
    ) -> Outcome<Attr> {
        self.set(path, follow, &SetAttr { atime, mtime, ..SetAttr::default() })
    }

    /// The value of an extended attribute.
    pub fn getxattr(&self, path: &[u8], name: &[u8], follow: bool) -> Outcome<Vec<u8>> {
        let node = self.node_at(path, last(follow))?;
        self.vfs.getxattr(node.ino, name).about(path)
    }

    /// Sets an extended attribute.
    pub fn setxattr(
        &self,
        path: &[u8],
        name: &[u8],
        value: &[u8],
        mode: SetXattr,
        follow: bool,
    ) -> Outcome<()> {
        let node = self.node_at(path, last(follow))?;
        self.vfs.setxattr(self.caller, node.ino, name, value, mode).about(path)
    }

    /// The names of the extended attributes.
    pub fn listxattr(&self, path: &[u8], follow: bool) -> Outcome<Vec<Vec<u8>>> {
        let node = self.node_at(path, last(follow))?;
        self.vfs.listxattr(node.ino).about(path)
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, path: &[u8], name: &[u8], follow: bool) -> Outcome<()> {
        let node = self.node_at(path, last(follow))?;
        self.vfs.removexattr(self.caller, node.ino, name).about(path)
    }
}
