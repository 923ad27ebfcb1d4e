//! What the kernel knows and wsd does not yet.
//!
//! Under writeback a program's bytes stay with the kernel for a while, and size and times of the file with them. Who
//! comes to the tree by another way than the mount asks the kernel first; that costs a few system calls, and only
//! for files that the kernel was told of.

use super::Vfs;
use super::types::{Attr, Caller, Origin};
use crate::clock::Timestamp;
use crate::error::FsResult;
use crate::store::rows::{Ino, Kind};

/// A file whose time of modification is younger may have been written to again without the time having moved: the
/// kernel's clock ticks every few milliseconds.
const TICK: i64 = 100_000_000;

impl Vfs {
    /// The node's attributes as a program in the mount would see them.
    pub fn attr_now(&self, ino: Ino) -> FsResult<Attr> {
        let mut attr = self.getattr(ino)?;
        if attr.kind == Kind::File
            && self.nodes.is_known(ino)
            && let Some(kernel) = self.invalidator()
            && let Some(seen) = kernel.seen(ino)
        {
            (attr.size, attr.mtime, attr.ctime) = (seen.size, seen.mtime, seen.ctime);
        }
        Ok(attr)
    }

    /// Whether [`Vfs::attr_now`] has to ask the kernel, which may take a while.
    pub fn asks_kernel(&self, attr: &Attr) -> bool {
        attr.kind == Kind::File && self.nodes.is_known(attr.ino)
    }

    /// Brings in what the kernel holds of a file and has not written back. For whoever reads past the kernel.
    pub fn pull(&self, ino: Ino) {
        if !self.nodes.is_known(ino) {
            return;
        }
        let (Some(kernel), Ok(attr)) = (self.invalidator(), self.getattr(ino)) else { return };
        if attr.kind != Kind::File {
            return;
        }
        let is_same = kernel.seen(ino).is_some_and(|seen| {
            let same = seen.size == attr.size && seen.mtime == attr.mtime && seen.ctime == attr.ctime;
            same && Timestamp::now().0.saturating_sub(seen.mtime.0) > TICK
        });
        if !is_same {
            kernel.flush(ino);
        }
    }

    /// Brings in what the kernel holds of all files and has not written back, those that are open included.
    pub fn pull_all(&self) {
        if let Some(kernel) = self.invalidator() {
            kernel.flush_all();
        }
    }

    /// Before a change that does not come through the kernel: what the kernel holds is older, and must not be
    /// written over it later.
    pub(super) fn pull_for(&self, caller: Caller, ino: Ino) {
        if caller.origin != Origin::Kernel && self.nodes.is_known(ino) {
            self.tell(caller, |kernel| kernel.write_back(ino));
        }
    }

    /// Whether the kernel was told of the node and has not forgotten it.
    pub fn is_known_to_kernel(&self, ino: Ino) -> bool {
        self.nodes.is_known(ino)
    }
}
