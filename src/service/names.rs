//! Making, moving and linking names.

use super::failure::{About, Applied};
use super::path::{Last, Spot, names_dir};
use super::{Failure, Files, Outcome};
use crate::error::{FsError, FsResult};
use crate::store::rows::{Ino, Kind};
use crate::vfs::{Attr, NewNode, RenameMode};

impl Files {
    /// Makes a directory; `recursive`: and what is missing on the way, and one that is there already will do.
    pub fn mkdir(&self, path: &[u8], mode: u32, recursive: bool) -> Outcome<Attr> {
        if recursive {
            return self.make_dirs(path, mode);
        }
        // Whatever has the name, the kernel says so, a slash at the end or not.
        let spot = self.spot_of_dir(trimmed(path), Last::Name)?;
        if spot.node.is_some() {
            return Err(FsError::Exists).about(path);
        }
        self.make_dir(spot.dir, &spot.name, mode).about(path)
    }

    fn make_dir(&self, dir: Ino, name: &[u8], mode: u32) -> FsResult<Attr> {
        let new = NewNode { kind: Kind::Dir, mode: mode & 0o7777, umask: 0, rdev: 0 };
        self.vfs.create(self.caller, dir, name, new)
    }

    /// Makes the directories of a path that are missing.
    pub(super) fn make_dirs(&self, path: &[u8], mode: u32) -> Outcome<Attr> {
        let trimmed = trimmed(path);
        match self.node_at(trimmed, Last::Follow) {
            Ok(dir) if dir.kind == Kind::Dir => return Ok(dir),
            Ok(_) => return Err(FsError::Exists).about(path),
            Err(failure) if failure.code != "ENOENT" => return Err(failure),
            Err(_) => {}
        }
        let mut applied = Applied::No;
        if let Some(slash) = trimmed.iter().rposition(|byte| *byte == b'/').filter(|slash| *slash > 0) {
            let parent = &trimmed[..slash];
            if self.node_at(parent, Last::Follow).is_err() {
                self.make_dirs(parent, mode)?;
                applied = Applied::Yes;
            }
        }
        let spot = self.spot_of_dir(trimmed, Last::Follow).map_err(|failure| failure.after(applied))?;
        match self.make_dir(spot.dir, &spot.name, mode) {
            Err(FsError::Exists) => self.node_at(trimmed, Last::Follow),
            made => made.map_err(|error| Failure::from(error).after(applied)).about(path),
        }
    }

    /// Gives a node another name.
    pub fn rename(&self, from: &[u8], to: &[u8], mode: RenameMode) -> Outcome<()> {
        let source = self.named(from)?;
        let target = self.spot_of_dir(to, Last::Name)?;
        let is_dir = source.node.as_ref().is_some_and(|node| node.kind == Kind::Dir);
        if target.node.is_none() && names_dir(to) && !is_dir {
            return Err(FsError::NotDir).about(to);
        }
        if target.name.is_empty() {
            return Err(busy()).about(to);
        }
        let (old, new) = ((source.dir, &source.name[..]), (target.dir, &target.name[..]));
        let about = if matches!(mode, RenameMode::Replace) { from } else { to };
        self.vfs.rename(self.caller, old, new, mode).about(about)
    }

    /// Gives a file one more name.
    pub fn link(&self, target: &[u8], path: &[u8]) -> Outcome<Attr> {
        let node = self.node_at(target, Last::Keep)?;
        let spot = self.vacant(path)?;
        self.vfs.link(self.caller, node.ino, spot.dir, &spot.name).about(path)
    }

    /// Makes a symlink.
    pub fn symlink(&self, target: &[u8], path: &[u8]) -> Outcome<Attr> {
        let spot = self.vacant(path)?;
        self.vfs.symlink(self.caller, spot.dir, &spot.name, target).about(path)
    }

    /// The bytes of a symlink.
    pub fn readlink(&self, path: &[u8]) -> Outcome<Vec<u8>> {
        let node = self.node_at(path, Last::Keep)?;
        self.vfs.readlink(node.ino).about(path)
    }

    /// A name that leads to something. The root has none.
    pub(super) fn named(&self, path: &[u8]) -> Outcome<Spot> {
        let spot = self.spot(path, Last::Name)?;
        if spot.node.is_none() {
            return Err(FsError::NotFound).about(path);
        }
        if spot.name.is_empty() { Err(busy()).about(path) } else { Ok(spot) }
    }

    fn vacant(&self, path: &[u8]) -> Outcome<Spot> {
        let spot = self.spot(path, Last::Name)?;
        if spot.node.is_some() { Err(FsError::Exists).about(path) } else { Ok(spot) }
    }
}

/// A path without the slashes at its end.
fn trimmed(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(path.len().min(1), |last| last + 1);
    &path[..end]
}

/// What cannot be done to the root, or through "..".
fn busy() -> Failure {
    Failure::new("EBUSY", "the path must end in a name that can be moved or removed")
}
