//! Moving names: the hardest verb.
//!
//! What is there, and what becomes of it (`S` the source, `T` what the target name leads to):
//!
//! | T | replace | no-replace | exchange |
//! |---|---|---|---|
//! | nothing | S moves | S moves | `ENOENT` |
//! | S itself, by another name | nothing happens | `EEXIST` | nothing happens |
//! | a file, S a file | T loses the name | `EEXIST` | they swap |
//! | an empty directory, S a directory | T goes | `EEXIST` | they swap |
//! | a directory with names in it, S a directory | `ENOTEMPTY` | `EEXIST` | they swap |
//! | a directory, S a file | `EISDIR` | `EEXIST` | they swap |
//! | a file, S a directory | `ENOTDIR` | `EEXIST` | they swap |
//!
//! A whiteout may be left at the old name, in the same moment; else it is as with replace or no-replace.
//!
//! A directory never moves below itself (`EINVAL`). Moves between directories are one at a time, so that the
//! tree above them holds still while that is being checked.

use super::feed::ChangeKind;
use super::journal::Op;
use super::lookup::{check_alive, is_ancestor, names_in};
use super::node::{Dir, Entry, Node};
use super::remove::remember;
use super::types::{Caller, NewNode, RenameMode};
use super::{Vfs, names};
use crate::error::{FsError, FsResult};
use crate::store::group::Xattrs;
use crate::store::rows::{Ino, Kind, Name};
use parking_lot::RwLockWriteGuard;
use std::sync::Arc;

/// What overlayfs takes for the absence of a name: a character device 0:0.
/// Source: <https://docs.kernel.org/filesystems/overlayfs.html#whiteouts-and-opaque-directories>.
const WHITEOUT: NewNode = NewNode { kind: Kind::CharDevice, mode: 0, umask: 0, rdev: 0 };

/// A place in the tree: a directory, a name in it, and what that leads to.
struct Place {
    dir: Arc<Node>,
    name: Name,
    found: Option<(Entry, Arc<Node>)>,
}

/// The names of two directories, or of one that is both.
struct Names<'a> {
    source: RwLockWriteGuard<'a, Dir>,
    target: Option<RwLockWriteGuard<'a, Dir>>,
}

impl Names<'_> {
    fn target(&mut self) -> &mut Dir {
        self.target.as_mut().unwrap_or(&mut self.source)
    }
}

impl Place {
    fn entry(&self) -> Option<Entry> {
        self.found.as_ref().map(|(entry, _)| *entry)
    }
}

impl Vfs {
    /// Gives what is at `from` the name `to`.
    pub fn rename(
        &self,
        caller: Caller,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
    ) -> FsResult<()> {
        let (source_name, target_name) = (names::own(from.1)?, names::own(to.1)?);
        let (source_dir, target_dir) = (self.dir(from.0)?, self.dir(to.0)?);
        if matches!(mode, RenameMode::Whiteout { .. }) {
            self.admit_name()?;
        }
        let still = (from.0 != to.0).then(|| self.moves.lock());
        let source_first = self.comes_first(&source_dir, &target_dir)?;
        let (source, target) = loop {
            let source = self.place(&source_dir, &source_name)?;
            let target = self.place(&target_dir, &target_name)?;
            let Some((_, moved)) = &source.found else { return Err(FsError::NotFound) };
            let Some(there) = self.judge(&source, moved, &target, mode)? else { return Ok(()) };
            let op = self.begin(caller.by);
            let mut names = lock(&source.dir, &target.dir, source_first)?;
            if names.source.get(&source.name) != source.entry()
                || names.target().get(&target.name) != target.entry()
            {
                continue;
            }
            check_alive(&target.dir)?;
            match (there, mode) {
                (Some(there), RenameMode::Exchange) => {
                    exchange(&op, &mut names, &source, moved, &target, &there)
                }
                (victim, _) => self.replace(&op, &mut names, &source, moved, &target, victim)?,
            }
            if matches!(mode, RenameMode::Whiteout { .. }) {
                let whiteout = self.make(&op, caller, &source.dir, WHITEOUT, &Xattrs::new());
                self.enter(&op, &source.dir, &mut names.source, Arc::clone(&source.name), &whiteout);
                op.note_at(ChangeKind::Created, &whiteout, &source.dir, &source.name);
            }
            drop(names);
            drop(op);
            break (source, target);
        };
        // The kernel takes what it is told only when programs' own moves have been answered.
        drop(still);
        if let (Some((_, victim)), true) = (&target.found, mode != RenameMode::Exchange) {
            self.reap(victim);
        }
        self.tell(caller, |kernel| {
            kernel.entry(source.dir.ino, &source.name);
            kernel.entry(target.dir.ino, &target.name);
            for (_, node) in source.found.iter().chain(&target.found) {
                kernel.attributes(node.ino);
                if node.kind == Kind::Dir {
                    kernel.moved(node.ino);
                }
            }
        });
        Ok(())
    }

    fn place(&self, dir: &Arc<Node>, name: &Name) -> FsResult<Place> {
        let found = match self.child(dir, name) {
            Ok(found) => Some(found),
            Err(FsError::NotFound) => None,
            Err(error) => return Err(error),
        };
        Ok(Place { dir: Arc::clone(dir), name: Arc::clone(name), found })
    }

    /// Whether the move may be made, by the table above: `None` when there is nothing to do, else what is at
    /// the target.
    fn judge(
        &self,
        source: &Place,
        moved: &Arc<Node>,
        target: &Place,
        mode: RenameMode,
    ) -> FsResult<Option<Option<Arc<Node>>>> {
        let there = target.found.as_ref().map(|(_, node)| Arc::clone(node));
        if matches!(mode, RenameMode::NoReplace | RenameMode::Whiteout { replace: false }) && there.is_some()
        {
            return Err(FsError::Exists);
        }
        let below = |dir: &Node, node: &Node| -> FsResult<bool> {
            Ok(dir.kind == Kind::Dir && is_ancestor(self, dir.ino, node.ino)?)
        };
        if below(moved, &target.dir)? {
            return Err(FsError::Invalid("a directory cannot move below itself"));
        }
        let Some(there) = there else {
            return if mode == RenameMode::Exchange { Err(FsError::NotFound) } else { Ok(Some(None)) };
        };
        if there.ino == moved.ino {
            return Ok(None);
        }
        let holds_source = below(&there, &source.dir)?;
        match (mode, moved.kind == Kind::Dir, there.kind == Kind::Dir) {
            (RenameMode::Exchange, ..) if holds_source => {
                return Err(FsError::Invalid("a directory cannot move below itself"));
            }
            (RenameMode::Exchange, ..) => {}
            (_, _, true) if holds_source => return Err(FsError::NotEmpty),
            (_, true, true) => self.load_dir(&there)?,
            (_, false, true) => return Err(FsError::IsDir),
            (_, true, false) => return Err(FsError::NotDir),
            (_, false, false) => {}
        }
        Ok(Some(Some(there)))
    }

    /// Whether the source's names are to be locked first, in the order that everybody keeps to.
    fn comes_first(&self, source: &Node, target: &Node) -> FsResult<bool> {
        if is_ancestor(self, source.ino, target.ino)? {
            return Ok(true);
        }
        Ok(!is_ancestor(self, target.ino, source.ino)? && source.ino < target.ino)
    }

    fn replace(
        &self,
        op: &Op<'_>,
        names: &mut Names<'_>,
        source: &Place,
        moved: &Arc<Node>,
        target: &Place,
        victim: Option<Arc<Node>>,
    ) -> FsResult<()> {
        if let Some(victim) = &victim {
            if victim.kind == Kind::Dir && names_in(victim)?.write().len() > 0 {
                return Err(FsError::NotEmpty);
            }
            remember(victim, &target.dir, &target.name);
            if victim.kind == Kind::Dir {
                op.change(&target.dir, |meta| meta.lost_dir());
            }
            self.unname(op, victim);
        }
        self.leave(op, &source.dir, &mut names.source, &source.name, moved);
        self.enter(op, &target.dir, names.target(), Arc::clone(&target.name), moved);
        adopt(op, moved, &target.dir);
        op.note_move(moved, (&source.dir, &source.name), (&target.dir, &target.name));
        Ok(())
    }
}

/// Locks the names of both directories.
fn lock<'a>(source: &'a Node, target: &'a Node, source_first: bool) -> FsResult<Names<'a>> {
    let (source_names, target_names) = (names_in(source)?, names_in(target)?);
    if source.ino == target.ino {
        return Ok(Names { source: source_names.write(), target: None });
    }
    if source_first {
        let source = source_names.write();
        return Ok(Names { source, target: Some(target_names.write()) });
    }
    let target = Some(target_names.write());
    Ok(Names { source: source_names.write(), target })
}

fn exchange(
    op: &Op<'_>,
    names: &mut Names<'_>,
    source: &Place,
    moved: &Arc<Node>,
    target: &Place,
    there: &Arc<Node>,
) {
    names.source.set(Arc::clone(&source.name), there.ino, there.kind);
    names.target().set(Arc::clone(&target.name), moved.ino, moved.kind);
    for (dir, gains, loses) in [(&source.dir, there, moved), (&target.dir, moved, there)] {
        op.change(dir, |meta| {
            match (gains.kind == Kind::Dir, loses.kind == Kind::Dir) {
                (true, false) => meta.gained_dir(),
                (false, true) => meta.lost_dir(),
                _ => {}
            }
            meta.row.mtime = op.now;
            meta.row.ctime = op.now;
        });
    }
    let (from, to) = ((&source.dir, &source.name), (&target.dir, &target.name));
    for (node, (dir, name), came_from) in [(moved, to, from), (there, from, to)] {
        *node.place.lock() = Some((dir.ino, Arc::clone(name)));
        adopt(op, node, dir);
        op.note_move(node, came_from, (dir, name));
    }
}

/// The node is in that directory now.
fn adopt(op: &Op<'_>, node: &Arc<Node>, dir: &Node) {
    op.change(node, |meta| {
        meta.row.ctime = op.now;
        if node.kind == Kind::Dir {
            meta.row.parent = dir.ino;
        }
    });
}
