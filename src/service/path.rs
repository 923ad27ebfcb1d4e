//! From paths to nodes.
//!
//! A path on the wire carries the mount point, so that it names the same file inside and outside. It is walked as the
//! kernel walks it: by name, through symlinks, at most [`MAX_LINKS`] of them. A symlink that leads out of the
//! workspace leads to nothing here: there is no "outside" on the wire. A slash at its end says that it leads to a directory.

use super::failure::About;
use super::{Failure, Files, Outcome};
use crate::error::FsError;
use crate::store::rows::{Ino, Kind, ROOT};
use crate::vfs::Attr;
use std::collections::VecDeque;

/// Most symlinks on one path, as in Linux.
const MAX_LINKS: usize = 40;

/// Longest path, bytes, as in Linux.
pub(super) const MAX_PATH: usize = 4096;

/// Whether a symlink at the end of a path is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    Follow,
    /// Only if a slash comes after it.
    Keep,
    /// Never: it is the name that matters.
    Name,
}

impl Last {
    fn is_followed(self, is_dir: bool) -> bool {
        match self {
            Self::Follow => true,
            Self::Keep => is_dir,
            Self::Name => false,
        }
    }
}

/// Whether a path says of itself that it leads to a directory.
pub(super) fn names_dir(path: &[u8]) -> bool {
    path.ends_with(b"/") || path.ends_with(b"/.")
}

/// Where a path leads.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    /// The directory that holds the last name; the root for the root itself.
    pub(super) dir: Ino,
    /// The last name, after symlinks; empty for the root.
    pub(super) name: Vec<u8>,
    /// What is there.
    pub(super) node: Option<Attr>,
}

struct Walk<'a> {
    files: &'a Files,
    /// The directories from the root to where the walk is.
    dirs: Vec<Ino>,
    ahead: VecDeque<Vec<u8>>,
    /// A slash is at the end.
    is_dir: bool,
    links: usize,
}

impl Files {
    /// Where a path leads, though its last name may not exist; unless it is to be a directory's.
    pub(super) fn spot(&self, path: &[u8], last: Last) -> Outcome<Spot> {
        let (spot, is_dir) = self.walk(path, last)?;
        if is_dir && spot.node.is_none() { Err(FsError::NotFound).about(path) } else { Ok(spot) }
    }

    /// The same for a directory that may be yet to be made.
    pub(super) fn spot_of_dir(&self, path: &[u8], last: Last) -> Outcome<Spot> {
        Ok(self.walk(path, last)?.0)
    }

    /// Where a path leads, and whether it says that there is a directory.
    fn walk(&self, path: &[u8], last: Last) -> Outcome<(Spot, bool)> {
        if path.len() > MAX_PATH {
            return Err(FsError::NameTooLong).about(path);
        }
        if path.contains(&0) {
            return Err(FsError::Invalid("a path holds a NUL byte")).about(path);
        }
        let mut walk = Walk::new(self);
        walk.prepend(path).and_then(|()| walk.run(last)).about(path)
    }

    /// What is at a path.
    pub(super) fn node_at(&self, path: &[u8], last: Last) -> Outcome<Attr> {
        self.spot(path, last)?.node.ok_or(FsError::NotFound).about(path)
    }

    /// What is at a path, if it is a file.
    pub(super) fn file_at(&self, path: &[u8]) -> Outcome<Attr> {
        let attr = self.node_at(path, Last::Follow)?;
        match attr.kind {
            Kind::File => Ok(attr),
            Kind::Dir => Err(FsError::IsDir).about(path),
            _ => Err(FsError::Invalid("not a regular file")).about(path),
        }
    }

    /// A path below the root as it was asked for. What is after ".." is where the symlinks before it led.
    pub(super) fn asked(&self, path: &[u8]) -> Outcome<Vec<u8>> {
        let goes_up = path.split(|byte| *byte == b'/').any(|name| name == b"..");
        if goes_up { self.real(path) } else { self.lexical(path) }
    }

    /// A path below the root, by its letters alone: what it leads to need not exist.
    fn lexical(&self, path: &[u8]) -> Outcome<Vec<u8>> {
        let mut walk = Walk::new(self);
        walk.prepend(path).about(path)?;
        let mut names: Vec<Vec<u8>> = Vec::new();
        for name in walk.ahead {
            if name != b".." {
                names.push(name);
            } else if names.pop().is_none() {
                return Err(Failure::new("ENOENT", "leads out of the workspace")).about(path);
            }
        }
        Ok(names.join(&b'/'))
    }

    /// A path below the root without symlinks on the way, as changes are told of. Where nothing is, by its letters.
    pub(super) fn real(&self, path: &[u8]) -> Outcome<Vec<u8>> {
        let spot = match self.spot_of_dir(path, Last::Keep) {
            Err(failure) if matches!(failure.code, "ENOENT" | "ENOTDIR") => return self.lexical(path),
            spot => spot?,
        };
        let dir = spot.node.as_ref().filter(|_| spot.name.is_empty()).map_or(spot.dir, |node| node.ino);
        let Some(mut real) = self.vfs.path_of(dir).about(path)? else { return self.lexical(path) };
        if !real.is_empty() && !spot.name.is_empty() {
            real.push(b'/');
        }
        real.extend_from_slice(&spot.name);
        Ok(real)
    }

    /// A path as it is on the wire, from one below the root.
    pub fn wire_path(&self, below: &[u8]) -> Vec<u8> {
        let mut path = Vec::with_capacity(below.len() + 16);
        for name in self.prefix.iter() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if !below.is_empty() || path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(below);
        path
    }
}

impl<'a> Walk<'a> {
    fn new(files: &'a Files) -> Self {
        Self { files, dirs: vec![ROOT], ahead: VecDeque::new(), is_dir: false, links: 0 }
    }

    /// Puts the names of a path in front of what is ahead; an absolute one begins anew.
    fn prepend(&mut self, path: &[u8]) -> Outcome<()> {
        let names = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
        let mut names: VecDeque<Vec<u8>> = names.map(<[u8]>::to_vec).collect();
        if path.first() == Some(&b'/') {
            for expected in self.files.prefix.iter() {
                if names.pop_front().as_ref() != Some(expected) {
                    let root = self.files.wire_path(b"");
                    let text =
                        format!("outside of the workspace, which is {}", String::from_utf8_lossy(&root));
                    return Err(Failure::new("ENOENT", text));
                }
            }
            self.dirs.truncate(1);
        }
        if self.ahead.is_empty() {
            self.is_dir |= names_dir(path);
        }
        names.append(&mut self.ahead);
        self.ahead = names;
        Ok(())
    }

    fn here(&self) -> Ino {
        self.dirs.last().copied().unwrap_or(ROOT)
    }

    fn run(mut self, last: Last) -> Outcome<(Spot, bool)> {
        let vfs = &self.files.vfs;
        loop {
            let Some(name) = self.ahead.pop_front() else {
                // The path ended in the root or in "..".
                let node = vfs.getattr(self.here())?;
                return Ok((Spot { dir: ROOT, name: Vec::new(), node: Some(node) }, true));
            };
            if name == b".." {
                if self.dirs.len() == 1 {
                    return Err(Failure::new("ENOENT", "leads out of the workspace"));
                }
                self.dirs.pop();
                continue;
            }
            let is_last = self.ahead.is_empty();
            let found = match vfs.lookup(self.files.caller, self.here(), &name) {
                Err(FsError::NotFound) if is_last => None,
                found => Some(found?),
            };
            match found {
                Some(link) if link.kind == Kind::Symlink && (!is_last || last.is_followed(self.is_dir)) => {
                    self.links += 1;
                    if self.links > MAX_LINKS {
                        return Err(FsError::Loop.into());
                    }
                    let target = vfs.readlink(link.ino)?;
                    self.prepend(&target)?;
                }
                Some(other) if is_last && self.is_dir && other.kind != Kind::Dir => {
                    return Err(FsError::NotDir.into());
                }
                found if is_last => return Ok((Spot { dir: self.here(), name, node: found }, self.is_dir)),
                Some(dir) if dir.kind == Kind::Dir => self.dirs.push(dir.ino),
                _ => return Err(FsError::NotDir.into()),
            }
        }
    }
}
