//! How much the workspace holds, and how much it may.

use super::Vfs;
use super::types::StatFs;
use crate::error::{FsError, FsResult};
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

    /// Fails when the quota leaves no room for so many more bytes.
    pub(super) fn check(&self, more: u64) -> FsResult<()> {
        match self.quota {
            Some(quota) if more > 0 && self.allocated().saturating_add(more) > quota => Err(FsError::NoSpace),
            _ => Ok(()),
        }
    }
}

impl Vfs {
    /// What `statvfs(3)` shows.
    pub fn statfs(&self) -> FsResult<StatFs> {
        let used = self.space.allocated();
        let disk = self.disk_free()?;
        let free = self.space.quota.map_or(disk, |quota| quota.saturating_sub(used).min(disk));
        let total = self.space.quota.unwrap_or_else(|| used.saturating_add(disk));
        Ok(StatFs { total, free, nodes: self.space.nodes.load(Ordering::Relaxed) })
    }
}
