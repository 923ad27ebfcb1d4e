//! Taking names away, and nodes that have none.

use super::Vfs;
use super::feed::ChangeKind;
use super::journal::Op;
use super::lookup::{check_dir, names_in};
use super::node::{Dir, Meta, Node};
use super::types::{Author, Caller};
use crate::error::{FsError, FsResult};
use crate::store::rows::{Ino, Kind};
use std::sync::Arc;

impl Vfs {
    /// Removes a name of anything but a directory.
    pub fn unlink(&self, caller: Caller, parent: Ino, name: &[u8]) -> FsResult<()> {
        super::names::check(name)?;
        let dir = self.dir(parent)?;
        let node = loop {
            let (entry, node) = self.child(&dir, name)?;
            if node.kind == Kind::Dir {
                return Err(FsError::IsDir);
            }
            let op = self.begin(caller.by);
            let mut entries = names_in(&dir)?.write();
            if entries.get(name) != Some(entry) {
                continue;
            }
            self.leave(&op, &dir, &mut entries, name, &node);
            self.unname(&op, &node);
            op.note_at(ChangeKind::Removed, &node, &dir, &name.into());
            break node;
        };
        self.reap(&node);
        self.tell(caller, |kernel| {
            kernel.entry(parent, name);
            kernel.attributes(node.ino);
        });
        Ok(())
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, caller: Caller, parent: Ino, name: &[u8]) -> FsResult<()> {
        super::names::check(name)?;
        let dir = self.dir(parent)?;
        let node = loop {
            let (entry, node) = self.child(&dir, name)?;
            check_dir(&node)?;
            self.load_dir(&node)?;
            let op = self.begin(caller.by);
            let mut entries = names_in(&dir)?.write();
            if entries.get(name) != Some(entry) {
                continue;
            }
            {
                let inside = names_in(&node)?.write();
                if inside.len() > 0 {
                    return Err(FsError::NotEmpty);
                }
                self.leave(&op, &dir, &mut entries, name, &node);
                self.unname(&op, &node);
                op.note_at(ChangeKind::Removed, &node, &dir, &name.into());
            }
            break node;
        };
        self.reap(&node);
        self.tell(caller, |kernel| {
            kernel.entry(parent, name);
            kernel.attributes(node.ino);
        });
        Ok(())
    }

    /// Takes a name out of its directory.
    pub(super) fn leave(&self, op: &Op<'_>, dir: &Arc<Node>, entries: &mut Dir, name: &[u8], node: &Node) {
        entries.remove(name);
        remember(node, dir, name);
        op.change(dir, |meta| {
            meta.row.mtime = op.now;
            meta.row.ctime = op.now;
            if node.kind == Kind::Dir {
                meta.lost_dir();
            }
        });
    }

    /// Takes a link from a node that has lost a name. A directory has only one, and must be empty.
    pub(super) fn unname(&self, op: &Op<'_>, node: &Arc<Node>) {
        op.change(node, |meta| {
            meta.row.ctime = op.now;
            meta.row.nlink = if node.kind == Kind::Dir { 0 } else { meta.row.nlink.saturating_sub(1) };
        });
    }

    /// Ends a node that has no name, unless somebody holds it. Called with no lock held.
    pub(super) fn reap(&self, node: &Arc<Node>) {
        if !node.meta.read().is_orphan() || self.nodes.is_pinned(node.ino) {
            return;
        }
        // What is not known of it cannot be taken off the total.
        if let Err(error) = self.load_xattrs(node) {
            tracing::warn!(%error, ino = node.ino, "the attributes of a removed node count until the next start");
        }
        let op = self.begin(Author::Unknown);
        let mut meta = node.meta.write();
        if !meta.is_orphan() || self.nodes.is_pinned(node.ino) {
            return;
        }
        self.end(&op, node, &mut meta);
    }

    fn end(&self, op: &Op<'_>, node: &Arc<Node>, meta: &mut Meta) {
        let allocated = std::mem::take(&mut meta.row.allocated);
        self.space.grew(node.ino, allocated, 0);
        self.space.node_removed();
        meta.removed = true;
        meta.content.clear();
        meta.clear_xattrs();
        op.changed(node, meta);
        self.space.unstage(node.ino);
    }

    /// Keeps a node alive without its names, until [`Vfs::release`].
    pub fn hold(&self, ino: Ino) -> FsResult<()> {
        self.nodes.hold(ino);
        self.getattr(ino).map(drop).inspect_err(|_| self.release(ino))
    }

    /// Takes back one [`Vfs::hold`].
    pub fn release(&self, ino: Ino) {
        if self.nodes.release(ino)
            && let Some(node) = self.nodes.get(ino)
        {
            self.reap(&node);
        }
    }

    /// The kernel dropped `count` of its pins on the node.
    pub fn forget(&self, ino: Ino, count: u64) {
        if !self.nodes.unpin(ino, count) {
            return;
        }
        if let Some(node) = self.nodes.get(ino) {
            self.reap(&node);
        }
    }
}

/// A node that has lost a name had one, even if nobody has asked for it since the start.
pub(super) fn remember(node: &Node, dir: &Node, name: &[u8]) {
    node.place.lock().get_or_insert_with(|| (dir.ino, name.into()));
}
