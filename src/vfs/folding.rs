//! When the WAL is folded into the store's file, and who waits for that.
//!
//! Folding writes everything a second time, so it had better wait; but a start after a crash reads all of the WAL, and the
//! disk gets nothing back of it before it starts over, which it does when all of it is folded. Folding goes on beside new
//! groups, and never ends if these come faster. So whoever writes much is slowed down, to a fourth of what is folded, before the
//! WAL has all that it may; one who had to stop there instead would stop everybody for as long as that much takes to fold, because
//! the kernel's reads wait in one queue with what it writes back (3 s while 4 GiB were written).

use super::Vfs;
use super::journal::ENOUGH_BYTES;
use crate::error::FsResult;
use crate::store::Checkpoint;
use crate::store::rows::CHUNK;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of WAL at which it is folded while nobody writes.
const QUIET: u64 = 4 << 20;

/// Bytes of WAL at which it is folded, whoever writes.
const MUCH: u64 = 256 << 20;

/// Bytes of WAL, and of what is dirty, at which whoever writes is slowed down. Several hundred megabytes at once, and then as many
/// again, are not: at 384 MiB the second half of that took twice as long.
const TOO_MUCH: u64 = 768 << 20;

/// Bytes of WAL at which the next group waits until it has been folded.
const LIMIT: u64 = 1 << 30;

/// Bytes of WAL that the disk is not given back while nobody writes.
const KEPT: u64 = 64 << 20;

/// Small commits, each with its own `fdatasync`, after which the WAL is folded and starts over, whoever writes: that call takes a
/// third less time where the file has been written before. See `docs/decisions/0015-wal-again.md`.
const SMALL_COMMITS: u64 = 128;

/// Dirty bytes at which writers wait while they are slowed down, so that groups are small and each waits only a little.
pub(super) const SLOW_BYTES: u64 = 8 << 20;

/// Bytes that are folded while one is written.
const SHARE: u64 = 4;

/// Rows that one step of garbage collection may touch for each new chunk: two chunks.
const GC_ROWS: usize = 16;

/// Bytes folded in a second, until it was measured.
const RATE: u64 = 128 << 20;

/// How long a group is held up at most.
const PAUSE: Duration = Duration::from_millis(250);

/// What is known of the WAL.
#[derive(Debug)]
pub(super) struct Folding {
    is_under_way: AtomicBool,
    /// Bytes of WAL after the last group.
    wal: AtomicU64,
    /// Bytes folded in a second, last time.
    rate: AtomicU64,
}

impl Folding {
    pub(super) fn new() -> Self {
        Self { is_under_way: AtomicBool::new(false), wal: AtomicU64::new(0), rate: AtomicU64::new(RATE) }
    }

    /// Whether writers are slowed down, where so many bytes wait for the next group.
    pub(super) fn slows_down(&self, dirty: u64) -> bool {
        self.is_under_way.load(Ordering::Relaxed) && self.wal.load(Ordering::Relaxed) + dirty > TOO_MUCH
    }

    /// How long the group after one of so many bytes is held up.
    fn pause(&self, group: u64) -> Duration {
        let rate = self.rate.load(Ordering::Relaxed).max(1 << 20);
        PAUSE.min(Duration::from_secs_f64((group * SHARE) as f64 / rate as f64))
    }
}

impl Vfs {
    /// Folds the WAL when it is time to.
    pub(super) fn tend_wal(&self, quiet: bool) -> FsResult<()> {
        let wal = self.store.wal_bytes();
        let small = self.store.small_commits() >= SMALL_COMMITS;
        if self.disk.most() < u64::MAX {
            let _no_group = self.journal.no_group();
            self.look_at_disk();
        }
        if quiet && wal > KEPT {
            self.store.checkpoint(Checkpoint::Truncate)?;
        } else if wal > MUCH {
            self.fold_beside_writers(wal)?;
        } else if small || quiet && wal > QUIET {
            self.store.checkpoint(Checkpoint::Passive)?;
        }
        if small {
            self.fold_alone()?;
        }
        Ok(())
    }

    /// Folds what there is, and what was written meanwhile, until that is little.
    fn fold_beside_writers(&self, wal: u64) -> FsResult<()> {
        self.folding.is_under_way.store(true, Ordering::Relaxed);
        let folded = self.fold_until_little_is_left(wal);
        self.folding.is_under_way.store(false, Ordering::Relaxed);
        folded?;
        self.fold_alone()
    }

    fn fold_until_little_is_left(&self, wal: u64) -> FsResult<()> {
        let (mut folded, mut wal) = (0, wal);
        while wal > folded + ENOUGH_BYTES && wal <= LIMIT {
            let begin = Instant::now();
            self.store.checkpoint(Checkpoint::Passive)?;
            let rate = (wal - folded) as f64 / begin.elapsed().as_secs_f64();
            self.folding.rate.store(rate as u64, Ordering::Relaxed);
            (folded, wal) = (wal, self.store.wal_bytes());
        }
        Ok(())
    }

    /// Folds all of it with no new group meanwhile, so that it starts over.
    fn fold_alone(&self) -> FsResult<()> {
        let _no_group = self.journal.no_group();
        self.store.checkpoint(Checkpoint::Passive)?;
        Ok(())
    }

    /// A group was written: notes what the WAL has now.
    pub(super) fn note_wal(&self) {
        let wal = self.store.wal_bytes();
        self.folding.wal.store(wal, Ordering::Relaxed);
        if wal > TOO_MUCH && !self.folding.is_under_way.load(Ordering::Relaxed) {
            self.bell.ring();
        }
    }

    /// Writes a group. While the housekeeper folds, collects as much garbage as that may have made, or the file would grow
    /// meanwhile; and if folding is behind, waits as long as it takes to fold more than the group.
    pub(super) fn commit_in_pace(&self) -> FsResult<()> {
        let wal = || self.folding.wal.load(Ordering::Relaxed);
        let (before, chunks) = (wal(), self.gauge.bytes() as usize / CHUNK);
        self.commit(false)?;
        if chunks > 0 && self.folding.is_under_way.load(Ordering::Relaxed) {
            self.store.gc_step(GC_ROWS * chunks, false)?;
        }
        if self.folding.slows_down(self.gauge.bytes()) {
            std::thread::sleep(self.folding.pause(wal().saturating_sub(before)));
        }
        Ok(())
    }

    /// Before a group is written: whoever writes faster than the WAL is folded waits for it. Nobody else writes a group.
    pub(super) fn bound_wal(&self) {
        if self.store.wal_bytes() <= LIMIT {
            return;
        }
        if let Err(error) = self.store.checkpoint(Checkpoint::Passive) {
            tracing::warn!(%error, "a large WAL could not be folded; it grows on");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::ME;
    use super::*;
    use crate::store::rows::{Kind, ROOT};
    use crate::store::{Location, Store};
    use crate::vfs::{NewNode, Options};
    use std::sync::Arc;

    #[test]
    fn who_writes_much_is_slowed_down_only_while_folding_is_behind() {
        let folding = Folding::new();
        folding.wal.store(TOO_MUCH, Ordering::Relaxed);
        assert!(!folding.slows_down(1));
        folding.is_under_way.store(true, Ordering::Relaxed);
        assert!(folding.slows_down(1) && !folding.slows_down(0));
        folding.rate.store(64 << 20, Ordering::Relaxed);
        assert_eq!(folding.pause(1 << 20), Duration::from_secs_f64(SHARE as f64 / 64.0));
        folding.rate.store(0, Ordering::Relaxed);
        assert_eq!((folding.pause(u64::MAX / SHARE), folding.pause(0)), (PAUSE, Duration::ZERO));
    }

    /// As a database does it in the workspace, for as long as it likes, and nobody is ever quiet.
    #[test]
    fn the_wal_starts_over_under_small_durable_writes() {
        let dir = tempfile::tempdir().unwrap();
        let location = Location::File(dir.path().join("store.db"));
        let store = Arc::new(Store::open(&location, std::path::Path::new("/nowhere")).unwrap());
        let vfs = Vfs::open(Arc::clone(&store), Options::default()).unwrap();
        let node = NewNode { kind: Kind::File, mode: 0o644, umask: 0, rdev: 0 };
        let ino = vfs.create(ME, ROOT, b"database", node).unwrap().ino;
        let sizes = [(); 5].map(|()| {
            for number in 0..SMALL_COMMITS + 32 {
                vfs.write(ME, ino, number % 64 * 4096, &[number as u8; 4096], false).unwrap();
                vfs.sync().unwrap();
            }
            vfs.keep_house(false).unwrap();
            store.wal_bytes()
        });
        assert!(sizes[4] < sizes[0] * 2, "{sizes:?}");
        vfs.shutdown().unwrap();
    }
}
