//! Changing attributes, the size included.

use super::content::Fetched;
use super::feed::ChangeKind;
use super::node::{Meta, Node};
use super::privileges::{Taken, take};
use super::types::{Attr, Caller, Origin, SetAttr, SetTime};
use super::{MAX_FILE_SIZE, Vfs, acl};
use crate::clock::Timestamp;
use crate::error::{FsError, FsResult};
use crate::store::rows::{Ino, Kind};
use std::sync::Arc;

impl Vfs {
    /// Changes attributes of a node; returns what they are then.
    pub fn setattr(&self, caller: Caller, ino: Ino, set: &SetAttr) -> FsResult<Attr> {
        let node = self.node(ino)?;
        if let Some(size) = set.size {
            self.check_size(&node, size)?;
            self.pull_for(caller, ino);
        }
        self.load_xattrs(&node)?;
        let unprivileged = set.unprivileged.or(Some(caller.uid != 0));
        let taken = match set {
            SetAttr { size: Some(_), .. } => self.taken(&node, caller, unprivileged),
            SetAttr { uid: None, gid: None, .. } => Taken::Capabilities,
            _ => self.taken_by_chown(&node, caller),
        };
        let attr = loop {
            let fetched = self.fetch_for_cut(&node, set.size)?;
            let op = self.begin(caller.by);
            let mut meta = node.meta.write();
            if meta.removed {
                return Err(FsError::Stale);
            }
            let mut now = op.now;
            if let Some(size) = set.size {
                self.check_size_room(&meta, size)?;
                // The kernel moves no times when a size stays, unless it says so, and believes in those that it has.
                let stays = caller.origin == Origin::Kernel && size == meta.row.size && set.mtime.is_none();
                if stays {
                    now = meta.row.ctime;
                }
                if !self.resize(&mut meta, size, &fetched) {
                    continue;
                }
                if !stays {
                    meta.row.mtime = now;
                }
                take(&mut meta, taken);
            }
            apply(&mut meta, set, taken, now);
            op.changed(&node, &mut meta);
            let kind = if set.size.is_some() { ChangeKind::Modified } else { ChangeKind::Attributes };
            op.note(kind, &node);
            break Attr::from(&meta.row);
        };
        self.tell(caller, |kernel| match set {
            SetAttr { size: Some(_), .. } => kernel.content(ino),
            SetAttr { mtime: Some(_), .. } => kernel.times(ino),
            _ => kernel.attributes(ino),
        });
        Ok(attr)
    }

    fn check_size(&self, node: &Arc<Node>, size: u64) -> FsResult<()> {
        match node.kind {
            Kind::File => {}
            Kind::Dir => return Err(FsError::IsDir),
            _ => return Err(FsError::Invalid("only a regular file has a size to set")),
        }
        if size > MAX_FILE_SIZE {
            return Err(FsError::FileTooBig);
        }
        self.load_content(node)
    }

    fn fetch_for_cut(&self, node: &Node, size: Option<u64>) -> FsResult<Vec<Fetched>> {
        self.fetch_all(node, |meta| {
            let cut = size.filter(|size| *size < meta.row.size);
            cut.and_then(|size| meta.content.base_of_cut(size)).into_iter().collect()
        })
    }

    /// Cuts or extends; false when something has to be fetched first.
    fn resize(&self, meta: &mut Meta, size: u64, fetched: &[Fetched]) -> bool {
        if size < meta.row.size && !meta.content.cut(size, fetched, &self.gauge) {
            return false;
        }
        meta.row.size = size;
        true
    }
}

/// Sets what is to be set, but the size. `taken`: what a change of owner takes.
pub(super) fn apply(meta: &mut Meta, set: &SetAttr, taken: Taken, now: Timestamp) {
    let time = |set: SetTime| match set {
        SetTime::Now => now,
        SetTime::At(time) => time,
    };
    if set.uid.is_some() || set.gid.is_some() {
        meta.row.uid = set.uid.unwrap_or(meta.row.uid);
        meta.row.gid = set.gid.unwrap_or(meta.row.gid);
        if meta.row.kind != Kind::Dir {
            take(meta, taken);
        }
    }
    if let Some(mode) = set.mode {
        meta.row.mode = mode & 0o7777;
        acl::follow_mode(meta);
    }
    if let Some(atime) = set.atime {
        meta.row.atime = time(atime);
    }
    if let Some(mtime) = set.mtime {
        meta.row.mtime = time(mtime);
    }
    meta.row.ctime = set.ctime.unwrap_or(now);
}
