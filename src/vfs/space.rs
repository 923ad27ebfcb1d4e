//! How much the workspace holds, and how much it may.

use super::Vfs;
use super::content::CHUNK_BYTES;
use super::node::Meta;
use super::types::{Attr, Caller, NewNode, StatFs};
use crate::error::{FsError, FsResult};
use crate::store::rows::{Ino, Kind, ROOT};
use parking_lot::RwLock;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much may be staged, in quotas: what is brought for a file, as much again of earlier states of it, and the file.
const STAGED: u64 = 3;

/// What is in the workspace, counted as it changes.
#[derive(Debug)]
pub(super) struct Space {
    allocated: AtomicU64,
    nodes: AtomicU64,
    quota: Option<u64>,
    /// Files that come together for others ([`Vfs::stage`]), if there is a quota, and the bytes allocated to them.
    staged: RwLock<HashSet<Ino>>,
    staged_bytes: AtomicU64,
}

impl Space {
    pub(super) fn new(allocated: u64, nodes: u64, quota: Option<u64>) -> Self {
        Self {
            allocated: AtomicU64::new(allocated),
            nodes: AtomicU64::new(nodes),
            quota,
            staged: RwLock::default(),
            staged_bytes: AtomicU64::new(0),
        }
    }

    /// A node's allocated bytes went from `before` to `after`.
    pub(super) fn grew(&self, ino: Ino, before: u64, after: u64) {
        let total = if self.is_staged(ino) { &self.staged_bytes } else { &self.allocated };
        // Wraps back when `after` is smaller: the sum of all differences is never negative.
        total.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    fn is_staged(&self, ino: Ino) -> bool {
        self.is_limited() && self.staged.read().contains(&ino)
    }

    /// The node counts by itself from now on, with the bytes that were counted for it before.
    fn stage(&self, ino: Ino, counted: u64) {
        self.staged.write().insert(ino);
        self.allocated.fetch_sub(counted, Ordering::Relaxed);
        self.staged_bytes.fetch_add(counted, Ordering::Relaxed);
    }

    /// The node is no more.
    pub(super) fn unstage(&self, ino: Ino) {
        if self.is_staged(ino) {
            self.staged.write().remove(&ino);
        }
    }

    pub(super) fn node_added(&self) {
        self.nodes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn node_removed(&self) {
        self.nodes.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn allocated(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed)
    }

    pub(super) fn is_limited(&self) -> bool {
        self.quota.is_some()
    }

    /// Fails when the quota leaves no room for a node's allocated bytes to go from `before` to `after`.
    pub(super) fn check(&self, before: u64, after: u64) -> FsResult<()> {
        let more = after.saturating_sub(before);
        match self.quota {
            Some(quota) if more > 0 && self.allocated().saturating_add(more) > quota => Err(FsError::NoSpace),
            _ => Ok(()),
        }
    }

    /// The same for one node, which may be a staged one.
    fn check_node(&self, meta: &Meta, after: u64) -> FsResult<()> {
        let before = meta.row.allocated;
        let Some(quota) = self.quota.filter(|_| self.is_staged(meta.row.ino)) else {
            return self.check(before, after);
        };
        let staged = self.staged_bytes.load(Ordering::Relaxed).saturating_add(after.saturating_sub(before));
        if after > before && staged > quota.saturating_mul(STAGED) { Err(FsError::NoSpace) } else { Ok(()) }
    }
}

impl Vfs {
    /// Makes a file without a name, as [`Vfs::tmpfile`] does, that does not count as content: what gets its bytes does.
    pub fn stage(&self, caller: Caller) -> FsResult<Attr> {
        let new = NewNode { kind: Kind::File, mode: 0o600, umask: 0, rdev: 0 };
        let attr = self.tmpfile(caller, ROOT, new)?;
        if self.space.is_limited()
            && let Some(node) = self.nodes.get(attr.ino)
        {
            // It may have inherited an access control list.
            let counted = node.meta.read().xattr_bytes;
            self.space.stage(attr.ino, counted);
        }
        Ok(attr)
    }

    /// Fails when the quota leaves no room for the allocated bytes of some nodes to go from `before` to `after`, and says
    /// how much it leaves.
    pub fn check_growth(&self, before: u64, after: u64) -> FsResult<()> {
        let free = self.space.quota.map_or(u64::MAX, |quota| quota.saturating_sub(self.space.allocated()));
        let more = after.saturating_sub(before);
        if more > free { Err(FsError::NoRoom { more, free }) } else { Ok(()) }
    }

    /// Whether there is a quota.
    pub fn is_limited(&self) -> bool {
        self.space.is_limited()
    }

    /// Fails when the quota has no room for a file in which all of a range is written.
    pub(super) fn check_room(&self, meta: &Meta, range: &Range<u64>) -> FsResult<()> {
        let filled = range.end.div_ceil(CHUNK_BYTES) - range.start / CHUNK_BYTES;
        self.check_filled(meta, range, filled as usize)
    }

    /// The same where that many of the chunks that the range touches are filled, and no others.
    pub(super) fn check_filled(&self, meta: &Meta, range: &Range<u64>, filled: usize) -> FsResult<()> {
        if range.is_empty() || !self.space.is_limited() {
            return Ok(());
        }
        let size = meta.row.size.max(range.end);
        self.space.check_node(meta, meta.content.allocated_if(range, filled, size))
    }

    /// The same for a file that becomes so long: its last chunk takes more, if it is not a hole.
    pub(super) fn check_size_room(&self, meta: &Meta, size: u64) -> FsResult<()> {
        self.space.check_node(meta, meta.content.allocated(size))
    }

    /// What `statvfs(3)` shows.
    pub fn statfs(&self) -> FsResult<StatFs> {
        let used = self.space.allocated();
        let disk = self.disk_free()?;
        let free = self.space.quota.map_or(disk, |quota| quota.saturating_sub(used).min(disk));
        let total = self.space.quota.unwrap_or_else(|| used.saturating_add(disk));
        Ok(StatFs { total, free, nodes: self.space.nodes.load(Ordering::Relaxed) })
    }
}
