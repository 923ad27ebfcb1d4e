//! Whole trees: removal and copies.
//!
//! Both go from name to name and look now and then whether somebody still waits for them; what was done until then is
//! done, and the error says so.

use super::failure::{About, Applied};
use super::files::after_change;
use super::path::{Last, Spot};
use super::{Failure, Files, Outcome};
use crate::error::{FsError, FsResult};
use crate::store::rows::{Ino, Kind};
use crate::vfs::{Attr, NewNode, SetAttr, SetTime, SetXattr};
use std::collections::VecDeque;

/// Names that are read from a directory at a time.
const PORTION: usize = 512;

/// How often a copy looks anew at a place where others make and remove things.
const TRIES: usize = 16;

/// What a copy made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files, symlinks and other nodes that are not directories.
    pub files: u64,
    /// Their sizes together.
    pub bytes: u64,
}

/// Why a copy has no end.
const BELOW_ITSELF: FsError = FsError::Invalid("a directory cannot be copied below itself");

/// A name and what it leads to.
pub(super) type Named = (Vec<u8>, Ino, Kind);

/// Whether nobody waits for the result any more.
pub type Stopped<'a> = &'a (dyn Fn() -> bool + 'a);

fn cancelled() -> Failure {
    Failure::new("ECANCELED", "nobody waits for this any more")
}

impl Files {
    /// Removes a name, with all that is below it if `recursive`; how many names. A failure says in `applied` whether
    /// some are gone.
    pub fn rm(&self, path: &[u8], recursive: bool, force: bool, stopped: Stopped<'_>) -> Outcome<u64> {
        let spot = match self.named(path) {
            Err(failure) if force && failure.code == "ENOENT" => return Ok(0),
            spot => spot?,
        };
        let Some(node) = &spot.node else { return Ok(0) };
        if node.kind != Kind::Dir {
            let gone = self.vfs.unlink(self.caller, spot.dir, &spot.name);
            return if force { counted(gone) } else { gone.map(|()| 1) }.about(path);
        }
        if !recursive {
            return Err(FsError::IsDir).about(path);
        }
        let mut removed = 0;
        let emptied = self.empty(node.ino, &mut removed, stopped);
        let gone = emptied.and_then(|()| {
            let gone = self.vfs.rmdir(self.caller, spot.dir, &spot.name);
            Ok(if force { counted(gone) } else { gone.map(|()| 1) }?)
        });
        match gone {
            Ok(last) => Ok(removed + last),
            Err(failure) if removed > 0 => Err(failure.after(Applied::Yes).at(path)),
            Err(failure) => Err(failure.at(path)),
        }
    }

    /// Removes all that is in a directory.
    fn empty(&self, dir: Ino, removed: &mut u64, stopped: Stopped<'_>) -> Outcome<()> {
        // Directories on the way down, each with its name in the one before.
        let mut way: Vec<(Ino, Vec<u8>)> = vec![(dir, Vec::new())];
        while let Some((here, _)) = way.last() {
            let here = *here;
            let mut deeper = None;
            for (name, ino, kind) in self.names(here, 0)?.0 {
                if stopped() {
                    return Err(cancelled());
                }
                if kind == Kind::Dir {
                    deeper = Some((ino, name));
                    break;
                }
                *removed += counted(self.vfs.unlink(self.caller, here, &name))?;
            }
            if let Some(deeper) = deeper {
                way.push(deeper);
                continue;
            }
            if !self.names(here, 0)?.0.is_empty() {
                continue;
            }
            let Some((_, name)) = way.pop() else { break };
            if let Some((parent, _)) = way.last() {
                match self.vfs.rmdir(self.caller, *parent, &name) {
                    // Somebody added to it: go down again.
                    Err(FsError::NotEmpty) => way.push((here, name)),
                    result => *removed += counted(result)?,
                }
            }
        }
        Ok(())
    }

    /// A portion of a directory's names, without `.` and `..`, and where the next one begins.
    pub(super) fn names(&self, dir: Ino, after: u64) -> FsResult<(Vec<Named>, u64)> {
        let (mut names, mut next) = (Vec::new(), after);
        let result = self.vfs.readdir(dir, after, &mut |entry| {
            next = entry.cookie;
            if !matches!(&*entry.name, b"." | b"..") {
                names.push((entry.name.to_vec(), entry.ino, entry.kind));
            }
            names.len() < PORTION
        });
        match result {
            // The directory has gone meanwhile, and its names with it.
            Ok(()) | Err(FsError::Stale) => Ok((names, next)),
            Err(error) => Err(error),
        }
    }

    /// Copies a node, or with `recursive` a tree. `to` is the new name; a directory there is filled.
    pub fn copy(
        &self,
        from: &[u8],
        to: &[u8],
        recursive: bool,
        replace: bool,
        stopped: Stopped<'_>,
    ) -> Outcome<Copied> {
        let source = self.node_at(from, Last::Keep)?;
        if source.kind == Kind::Dir && !recursive {
            return Err(FsError::IsDir).about(from);
        }
        let is_dir = source.kind == Kind::Dir;
        let target = if is_dir { self.spot_of_dir(to, Last::Keep) } else { self.spot(to, Last::Keep) }?;
        let (mut copied, mut changed) = (Copied::default(), false);
        // After ".." it is the directory itself.
        let into = target.node.as_ref().filter(|_| target.name.is_empty());
        let into = into.map_or(target.dir, |node| node.ino);
        if source.kind == Kind::Dir && self.vfs.holds(source.ino, into).about(to)? {
            return Err(BELOW_ITSELF).about(to);
        }
        self.copy_tree(&source, target, replace, (&mut copied, &mut changed), stopped)
            .map_err(|failure| if changed { failure.after(Applied::Yes) } else { failure })
            .about(to)?;
        Ok(copied)
    }

    fn copy_tree(
        &self,
        source: &Attr,
        target: Spot,
        replace: bool,
        (copied, changed): (&mut Copied, &mut bool),
        stopped: Stopped<'_>,
    ) -> Outcome<()> {
        let mut ahead: VecDeque<(Ino, Spot)> = VecDeque::from([(source.ino, target)]);
        let mut top = None;
        while let Some((ino, mut target)) = ahead.pop_back() {
            if stopped() {
                return Err(cancelled());
            }
            let source = match self.vfs.attr_now(ino) {
                Err(FsError::Stale) => continue,
                attr => attr?,
            };
            // Somebody has moved it there: it would have no end.
            if top == Some(ino) {
                return Err(BELOW_ITSELF.into());
            }
            let made = self.copy_to(&source, &mut target, replace)?;
            top.get_or_insert(made);
            *changed |= source.kind != Kind::Dir || target.node.is_none();
            if source.kind != Kind::Dir {
                copied.files += 1;
                copied.bytes += source.size;
                continue;
            }
            let mut after = 0;
            loop {
                let (names, next) = self.names(ino, after)?;
                if names.is_empty() {
                    break;
                }
                after = next;
                for (name, child, _) in names {
                    let node = self.there(made, &name)?;
                    ahead.push_back((child, Spot { dir: made, name, node }));
                }
            }
        }
        Ok(())
    }

    /// What is at a name.
    fn there(&self, dir: Ino, name: &[u8]) -> FsResult<Option<Attr>> {
        match self.vfs.lookup(self.caller, dir, name) {
            Err(FsError::NotFound) => Ok(None),
            found => found.map(Some),
        }
    }

    /// Copies one node to a place where others may make and remove something meanwhile.
    fn copy_to(&self, source: &Attr, target: &mut Spot, replace: bool) -> Outcome<Ino> {
        let mut tries = 1;
        loop {
            let failure = match self.copy_node(source, target, replace) {
                Err(failure) if matches!(failure.code, "EEXIST" | "ENOENT" | "ESTALE") => failure,
                done => return done,
            };
            let was = target.node.as_ref().map(|node| node.ino);
            if tries == TRIES || target.name.is_empty() || failure.applied != Applied::No {
                return Err(failure);
            }
            target.node = self.there(target.dir, &target.name)?;
            if target.node.as_ref().map(|node| node.ino) == was {
                return Err(failure);
            }
            tries += 1;
        }
    }

    /// Copies one node without what is in it; the node that is there then.
    fn copy_node(&self, source: &Attr, target: &Spot, replace: bool) -> Outcome<Ino> {
        let (vfs, caller) = (&self.vfs, self.caller);
        match &target.node {
            Some(there) if there.ino == source.ino => {
                return Err(FsError::Invalid("a file cannot be copied onto itself").into());
            }
            Some(there) if there.kind == Kind::Dir && source.kind == Kind::Dir => return Ok(there.ino),
            Some(there) if there.kind == Kind::Dir => return Err(FsError::IsDir.into()),
            Some(_) if !replace => return Err(FsError::Exists.into()),
            Some(_) if source.kind == Kind::Dir => return Err(FsError::NotDir.into()),
            Some(there) if source.kind == Kind::File && there.kind == Kind::File => {
                vfs.pull(source.ino);
                vfs.replace_content(caller, there.ino, source.ino, None)?;
                self.copy_attributes(source, there.ino).map_err(after_change)?;
                return Ok(there.ino);
            }
            Some(_) => {
                vfs.unlink(caller, target.dir, &target.name)?;
                let made = self.copy_new(source, target);
                return made.map_err(|failure| failure.after(Applied::Yes));
            }
            None => {}
        }
        self.copy_new(source, target)
    }

    /// The same where nothing is.
    fn copy_new(&self, source: &Attr, target: &Spot) -> Outcome<Ino> {
        let (vfs, caller) = (&self.vfs, self.caller);
        let made = match source.kind {
            Kind::Symlink => vfs.symlink(caller, target.dir, &target.name, &vfs.readlink(source.ino)?)?,
            Kind::File => {
                let staged = self.stage(target.dir, source.mode)?;
                vfs.replace_content(caller, staged.ino, source.ino, None)?;
                self.copy_attributes(source, staged.ino)?;
                return Ok(vfs.link(caller, staged.ino, target.dir, &target.name)?.ino);
            }
            kind => {
                let new = NewNode { kind, mode: source.mode, umask: 0, rdev: source.rdev };
                vfs.create(caller, target.dir, &target.name, new)?
            }
        };
        self.copy_attributes(source, made.ino).map_err(after_change)?;
        Ok(made.ino)
    }

    /// Owners, mode, times and extended attributes.
    fn copy_attributes(&self, source: &Attr, target: Ino) -> FsResult<()> {
        for name in self.vfs.listxattr(source.ino)? {
            let value = match self.vfs.getxattr(source.ino, &name) {
                Err(FsError::NoAttribute) => continue,
                value => value?,
            };
            self.vfs.setxattr(self.caller, target, &name, &value, SetXattr::Any)?;
        }
        let set = SetAttr {
            mode: (source.kind != Kind::Symlink).then_some(source.mode),
            uid: Some(source.uid),
            gid: Some(source.gid),
            atime: Some(SetTime::At(source.atime)),
            mtime: Some(SetTime::At(source.mtime)),
            ..SetAttr::default()
        };
        self.vfs.setattr(self.caller, target, &set).map(drop)
    }
}

/// How many names a removal took away. What is gone already need not be removed.
fn counted(result: FsResult<()>) -> FsResult<u64> {
    match result {
        Err(FsError::NotFound | FsError::Stale) => Ok(0),
        result => result.map(|()| 1),
    }
}
