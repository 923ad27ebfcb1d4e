//! Room for what is new: in memory, and on the store's disk.
//!
//! New bytes go to the WAL, and once more to the file when the WAL is folded, which alone makes the WAL give its room back. So they
//! need room twice for a while; and removing something, or collecting what was removed, goes through the WAL as well. Who let
//! a disk be filled to its last byte could never empty it again. So programs are told that the disk is full while there is
//! still room for what was accepted, for folding, and for removing.

use super::Vfs;
use super::folding::SLOW_BYTES;
use super::journal::ENOUGH_BYTES;
use crate::error::{FsError, FsResult};
use crate::store::{Checkpoint, Room};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the disk that new content does not get; of a small disk an eighth of it.
const RESERVE: u64 = 16 << 20;

/// Dirty bytes that there must be room for, or the disk is full.
const LEAST: u64 = 1 << 20;

/// Changed nodes that a group may have before new names wait: some 30 MB.
const MANY_NODES: usize = 64 << 10;

/// Bytes of WAL that are worth giving back to a disk that is nearly full.
const WORTH_FOLDING: u64 = 1 << 20;

/// What there was room for when the disk was looked at last.
#[derive(Debug)]
pub(super) struct Disk {
    most: AtomicU64,
}

impl Disk {
    pub(super) fn new() -> Self {
        Self { most: AtomicU64::new(u64::MAX) }
    }

    /// Bytes that may be dirty; `u64::MAX`: as many as memory allows.
    pub(super) fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    pub(super) fn is_full(&self) -> bool {
        self.most() < LEAST
    }
}

/// Bytes of the disk that nobody needs for what is there.
fn spare(room: &Room) -> u64 {
    room.free.saturating_sub(room.unfolded + RESERVE.min(room.total / 8))
}

/// Bytes of new content that can be written to the WAL, and then to the file with its unused pages.
fn most(room: &Room) -> u64 {
    let spare = spare(room);
    // A tenth for the rows, and for what surrounds the pages.
    let in_wal = spare / 11 * 10;
    if in_wal <= room.unused { in_wal } else { (spare + room.unused) / 21 * 10 }
}

/// How a WAL of so many bytes is folded on a disk that is nearly full, if it is. A small one that can hardly grow keeps its room:
/// what is removed goes through it, and others may fill the disk to its last byte.
fn fold(room: &Room, wal: u64) -> Option<Checkpoint> {
    if wal > WORTH_FOLDING {
        (wal > spare(room) / 4).then_some(Checkpoint::Truncate)
    } else {
        (wal > room.free / 4).then_some(Checkpoint::Passive)
    }
}

impl Vfs {
    /// Before an operation that adds content: waits while too much is dirty, fails when the store does.
    pub(super) fn admit(&self) -> FsResult<()> {
        self.admit_unless(&|vfs| vfs.gauge.bytes() > vfs.dirty_limit())
    }

    /// Before an operation that adds a name, which weighs little. It has room of its own: the kernel keeps the directory locked
    /// meanwhile, so that whoever looks a name up in it would wait with it, though others write.
    pub(super) fn admit_name(&self) -> FsResult<()> {
        self.admit_unless(&|vfs| vfs.too_many_names(0))
    }

    fn admit_unless(&self, is_too_much: &dyn Fn(&Self) -> bool) -> FsResult<()> {
        if let Some(failure) = self.journal.failure() {
            return Err(failure);
        }
        self.check_disk()?;
        if self.is_calm() {
            return Ok(());
        }
        self.journal.hurry();
        while is_too_much(self) {
            self.journal.wait_for_group();
            if let Some(failure) = self.journal.failure() {
                return Err(failure);
            }
            if self.journal.is_stopped() {
                return Err(FsError::ShuttingDown);
            }
            self.check_disk()?;
            self.journal.hurry();
        }
        Ok(())
    }

    /// Whether who adds content now may have to wait, or soon.
    pub fn may_hold_up(&self) -> bool {
        !self.is_calm() && self.gauge.bytes() > self.dirty_limit() / 4 * 3
    }

    /// Whether who adds a name now may have to wait, or soon.
    pub fn may_hold_up_names(&self) -> bool {
        !self.is_calm() && self.too_many_names(16)
    }

    /// So little is dirty that nobody need wait.
    fn is_calm(&self) -> bool {
        let dirty = self.gauge.bytes();
        let enough = if self.folding.slows_down(dirty) { SLOW_BYTES } else { ENOUGH_BYTES };
        dirty < enough.min(self.disk.most()) && self.journal.dirty_nodes() < MANY_NODES / 2
    }

    /// Whether there are too many new names, or little is left until then, or memory is full.
    fn too_many_names(&self, left: usize) -> bool {
        let most = (self.memory_limit() / 4 * 5).min(self.disk.most());
        self.journal.dirty_nodes() + left > MANY_NODES || self.gauge.bytes() > most
    }

    /// Dirty bytes at which writers wait: what memory has and the disk has room for, and little while the WAL is behind.
    fn dirty_limit(&self) -> u64 {
        let slow = if self.folding.slows_down(self.gauge.bytes()) { SLOW_BYTES } else { u64::MAX };
        self.memory_limit().min(self.disk.most()).min(slow)
    }

    /// What readers' chunks and nodes leave of the budget, which is at least half.
    fn memory_limit(&self) -> u64 {
        let others = self.chunks.weight() + self.memory.bytes();
        self.budget - others.min(self.budget / 2)
    }

    /// Looks at the disk; where it is nearly full, has the WAL give room back first. Nobody writes a group meanwhile.
    pub(super) fn look_at_disk(&self) {
        // What there is room for twice, with what surrounds it and more.
        let plenty = self.budget.saturating_mul(3).saturating_add(RESERVE);
        if self.store.disk_free_at_least().is_ok_and(|free| free > plenty) {
            return self.disk.most.store(u64::MAX, Ordering::Relaxed);
        }
        let Ok(mut room) = self.store.room() else { return };
        if let (true, Some(how)) = (most(&room) < self.budget, fold(&room, self.store.wal_bytes())) {
            if let Err(error) = self.store.checkpoint(how) {
                tracing::warn!(%error, "the WAL cannot be folded on a disk that is nearly full");
            }
            room = self.store.room().unwrap_or(room);
        }
        let most = most(&room);
        let most = if most < self.budget { most } else { u64::MAX };
        self.disk.most.store(most, Ordering::Relaxed);
    }

    /// Fails when the disk has no room for anything new.
    pub(super) fn check_disk(&self) -> FsResult<()> {
        if self.disk.is_full() {
            // Others may have made room, or it was found out long ago.
            let _no_group = self.journal.no_group();
            self.look_at_disk();
        }
        if self.disk.is_full() { Err(FsError::NoSpace) } else { Ok(()) }
    }

    /// Bytes that new content may have.
    pub(super) fn disk_free(&self) -> FsResult<u64> {
        let room = self.store.room()?;
        Ok(spare(&room).saturating_add(room.unused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_accepted_can_be_written_folded_and_removed() {
        for (free, unfolded, unused) in [
            (0, 0, 0),
            (20, 3, 0),
            (100, 40, 0),
            (100, 0, 30),
            (100, 0, 500),
            (10_000, 2_000, 700),
            (17, 17, 90),
        ] {
            let room = Room {
                total: 20_000 * MIB,
                free: free * MIB,
                unfolded: unfolded * MIB,
                unused: unused * MIB,
            };
            let dirty = most(&room);
            let in_file = dirty.saturating_sub(room.unused);
            assert!(dirty + in_file <= spare(&room), "{room:?}: {dirty}");
            let needed = if dirty > 0 { RESERVE + room.unfolded + dirty + in_file } else { 0 };
            assert!(needed <= room.free, "{room:?}: {dirty}");
        }
    }
}
