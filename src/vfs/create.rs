//! Making nodes and names.

use super::content::allocated_to;
use super::feed::ChangeKind;
use super::journal::Op;
use super::lookup::{check_alive, names_in};
use super::node::{Dir, Node, blank};
use super::types::{Attr, Caller, NewNode, Origin};
use super::{Vfs, acl, names};
use crate::error::{FsError, FsResult};
use crate::store::buf::Buf;
use crate::store::group::Xattrs;
use crate::store::rows::{Ino, InodeRow, Kind, Name, TARGET_MAX};
use parking_lot::RwLockWriteGuard;
use std::sync::Arc;

/// `S_ISGID`.
const SETGID: u32 = 0o2000;

/// Most links that one node can have, as in ext4.
const LINKS_MAX: u32 = 65_000;

impl Vfs {
    /// Makes a file, directory, fifo, socket or device node.
    pub fn create(&self, caller: Caller, parent: Ino, name: &[u8], new: NewNode) -> FsResult<Attr> {
        if new.kind == Kind::Symlink {
            return Err(FsError::Invalid("a symlink needs a target"));
        }
        let name = names::own(name)?;
        let dir = self.dir(parent)?;
        self.admit_name()?;
        let defaults = self.load_xattrs(&dir)?;
        let op = self.begin(caller.by);
        let mut entries = self.vacant(&dir, &name)?;
        let node = self.make(&op, caller, &dir, new, &defaults);
        self.enter(&op, &dir, &mut entries, name.clone(), &node);
        op.note_at(ChangeKind::Created, &node, &dir, &name);
        self.made(caller, op, (&dir, entries), &name, &node)
    }

    /// Makes a file without a name, for as long as somebody holds it: the kernel, until it forgets it, or the caller,
    /// until [`Vfs::release`].
    pub fn tmpfile(&self, caller: Caller, parent: Ino, new: NewNode) -> FsResult<Attr> {
        let dir = self.dir(parent)?;
        self.admit_name()?;
        let defaults = self.load_xattrs(&dir)?;
        let op = self.begin(caller.by);
        let node = self.make(&op, caller, &dir, NewNode { kind: Kind::File, ..new }, &defaults);
        match caller.origin {
            Origin::Kernel => self.nodes.pin(node.ino),
            Origin::Direct => self.nodes.hold(node.ino),
        }
        op.change(&node, |meta| meta.row.nlink = 0);
        let attr = Attr::from(&node.meta.read().row);
        Ok(attr)
    }

    /// Makes a symlink.
    pub fn symlink(&self, caller: Caller, parent: Ino, name: &[u8], target: &[u8]) -> FsResult<Attr> {
        if target.len() > TARGET_MAX {
            return Err(FsError::NameTooLong);
        }
        if target.is_empty() {
            return Err(FsError::NotFound);
        }
        let name = names::own(name)?;
        let dir = self.dir(parent)?;
        self.admit_name()?;
        self.space.check(0, allocated_to(1, target.len() as u64))?;
        let op = self.begin(caller.by);
        let mut entries = self.vacant(&dir, &name)?;
        let new = NewNode { kind: Kind::Symlink, mode: 0o777, umask: 0, rdev: 0 };
        let node = self.make(&op, caller, &dir, new, &Xattrs::new());
        op.change(&node, |meta| {
            meta.row.size = target.len() as u64;
            let slot = super::content::Slot::Data(Arc::new(Buf::new(target.to_vec(), &self.gauge)));
            meta.content.share(0, Some(slot));
        });
        self.enter(&op, &dir, &mut entries, name.clone(), &node);
        op.note_at(ChangeKind::Created, &node, &dir, &name);
        self.made(caller, op, (&dir, entries), &name, &node)
    }

    /// Gives a node another name.
    pub fn link(&self, caller: Caller, ino: Ino, parent: Ino, name: &[u8]) -> FsResult<Attr> {
        let name = names::own(name)?;
        let dir = self.dir(parent)?;
        let node = self.node(ino)?;
        if node.kind == Kind::Dir {
            return Err(FsError::NotPermitted);
        }
        self.admit_name()?;
        let op = self.begin(caller.by);
        let mut entries = self.vacant(&dir, &name)?;
        {
            let mut meta = node.meta.write();
            if meta.removed {
                return Err(FsError::NotFound);
            }
            if meta.row.nlink >= LINKS_MAX {
                return Err(FsError::TooManyLinks);
            }
            meta.row.nlink += 1;
            meta.row.ctime = op.now;
            op.changed(&node, &mut meta);
        }
        self.enter(&op, &dir, &mut entries, name.clone(), &node);
        op.note_at(ChangeKind::Created, &node, &dir, &name);
        let result = self.made(caller, op, (&dir, entries), &name, &node);
        self.tell(caller, |kernel| kernel.attributes(ino));
        result
    }

    /// The directory's names, locked, when it is alive and the name is free.
    fn vacant<'a>(&self, dir: &'a Node, name: &[u8]) -> FsResult<RwLockWriteGuard<'a, Dir>> {
        let entries = names_in(dir)?.write();
        check_alive(dir)?;
        if entries.get(name).is_some() { Err(FsError::Exists) } else { Ok(entries) }
    }

    /// A new node, for a name in a directory.
    pub(super) fn make(
        &self,
        op: &Op<'_>,
        caller: Caller,
        dir: &Node,
        new: NewNode,
        defaults: &Xattrs,
    ) -> Arc<Node> {
        let (parent_mode, parent_gid) = {
            let parent = dir.meta.read();
            (parent.row.mode, parent.row.gid)
        };
        let inherits_group = parent_mode & SETGID != 0;
        let mut row = InodeRow {
            uid: caller.uid,
            gid: if inherits_group { parent_gid } else { caller.gid },
            rdev: if matches!(new.kind, Kind::CharDevice | Kind::BlockDevice) { new.rdev } else { 0 },
            parent: if new.kind == Kind::Dir { dir.ino } else { 0 },
            atime: op.now,
            mtime: op.now,
            ctime: op.now,
            btime: op.now,
            ..blank(op.new_ino(), new.kind)
        };
        let inherited = acl::inherit(defaults, &new);
        row.mode = inherited.mode & 0o7777;
        if inherits_group && new.kind == Kind::Dir {
            row.mode |= SETGID;
        }
        row.has_xattrs = !inherited.xattrs.is_empty();
        let mut node = Node::new(row);
        if !inherited.xattrs.is_empty() {
            let meta = node.meta.get_mut();
            meta.xattrs = Some(Arc::new(inherited.xattrs));
            meta.xattrs_changed = true;
        }
        self.grew(size_of::<Node>() + 256);
        self.space.node_added();
        let node = self.nodes.insert_new(node);
        op.change(&node, |_| ());
        node
    }

    /// Enters a node under a name that is free, or leads to what is about to go.
    pub(super) fn enter(&self, op: &Op<'_>, dir: &Arc<Node>, entries: &mut Dir, name: Name, node: &Node) {
        *node.place.lock() = Some((dir.ino, Arc::clone(&name)));
        entries.set(name, node.ino, node.kind);
        op.change(dir, |meta| {
            meta.row.mtime = op.now;
            meta.row.ctime = op.now;
            if node.kind == Kind::Dir {
                meta.gained_dir();
            }
        });
    }

    /// The node has its name, in a directory that is still locked: nobody takes that away before the kernel has a pin.
    fn made(
        &self,
        caller: Caller,
        op: Op<'_>,
        (dir, entries): (&Node, RwLockWriteGuard<'_, Dir>),
        name: &[u8],
        node: &Node,
    ) -> FsResult<Attr> {
        self.pin_for(caller, node.ino);
        drop(entries);
        let attr = Attr::from(&node.meta.read().row);
        drop(op);
        if caller.origin != Origin::Kernel {
            self.tell(caller, |kernel| kernel.entry(dir.ino, name));
        }
        Ok(attr)
    }
}
