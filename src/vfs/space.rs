//! How much the workspace holds, and how much it may.

use super::Vfs;
use super::content::CHUNK_BYTES;
use super::node::Meta;
use super::types::StatFs;
use crate::error::{FsError, FsResult};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is in the workspace, counted as it changes.
#[derive(Debug)]
pub(super) struct Space {
    allocated: AtomicU64,
    nodes: AtomicU64,
    quota: Option<u64>,
}

impl Space {
    pub(super) fn new(allocated: u64, nodes: u64, quota: Option<u64>) -> Self {
        Self { allocated: AtomicU64::new(allocated), nodes: AtomicU64::new(nodes), quota }
    }

    /// A node's allocated bytes went from `before` to `after`.
    pub(super) fn grew(&self, before: u64, after: u64) {
        // Wraps back when `after` is smaller: the sum of all differences is never negative.
        self.allocated.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
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
}

impl Vfs {
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
        self.space.check(meta.row.allocated, meta.content.allocated_if(range, filled, size))
    }

    /// The same for a file that becomes so long: its last chunk takes more, if it is not a hole.
    pub(super) fn check_size_room(&self, meta: &Meta, size: u64) -> FsResult<()> {
        self.space.check(meta.row.allocated, meta.content.allocated(size))
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
