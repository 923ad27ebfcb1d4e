//! The threads behind the filesystem, and its memory.
//!
//! The committer writes groups. The housekeeper folds the WAL into the store's file when it has grown, and
//! collects garbage a little at a time.

use super::Vfs;
use crate::error::{FsError, FsResult};
use crate::store::Checkpoint;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes of WAL at which it is folded into the file while nobody writes.
const WAL_QUIET: u64 = 4 << 20;

/// Bytes of WAL at which it is folded into the file, whoever writes. Folding writes everything a second time, so
/// it had better wait; but a start after a crash reads all of the WAL.
const WAL_BYTES: u64 = 256 << 20;

/// Bytes of WAL at which new groups wait until it has been folded.
const WAL_LIMIT: u64 = 512 << 20;

/// Bytes of WAL that the disk is not given back while nobody writes.
const WAL_KEPT: u64 = 64 << 20;

/// Small commits, each with its own `fdatasync`, after which the WAL is folded and starts over, whoever writes: that call takes a
/// third less time where the file has been written before. See `docs/decisions/0015-wal-again.md`.
const SMALL_COMMITS: u64 = 128;

/// How often the housekeeper looks.
const ROUND: Duration = Duration::from_millis(500);

/// Rows that one step of garbage collection may touch: a few milliseconds.
const GC_STEP: usize = 200;

/// A step has as many rows more as it had to wait so long for the writer: half of the time then is for collecting.
const GC_SHARE: Duration = Duration::from_millis(5);

/// By how many times at most, besides the first.
const GC_MOST: u128 = 50;

/// Bytes of nodes and names in memory, approximately.
#[derive(Debug)]
pub(super) struct Memory {
    budget: usize,
    /// What has been added since the nodes were last counted.
    grown: AtomicUsize,
    /// What was there when they were last counted.
    counted: AtomicUsize,
}

impl Memory {
    pub(super) fn new(budget: usize) -> Self {
        Self { budget, grown: AtomicUsize::new(0), counted: AtomicUsize::new(0) }
    }

    pub(super) fn grew(&self, bytes: usize) {
        self.grown.fetch_add(bytes, Ordering::Relaxed);
    }

    /// About how many there are.
    pub(super) fn bytes(&self) -> u64 {
        (self.counted.load(Ordering::Relaxed) + self.grown.load(Ordering::Relaxed)) as u64
    }

    fn is_over(&self) -> bool {
        self.bytes() > self.budget as u64
    }
}

#[derive(Default)]
pub(super) struct Upkeep {
    threads: Vec<JoinHandle<()>>,
    bell: Arc<Bell>,
}

#[derive(Default)]
struct Bell {
    stop: Mutex<bool>,
    rung: Condvar,
}

impl Bell {
    /// Sleeps; false when it is over.
    fn sleep(&self, time: Duration) -> bool {
        let mut stop = self.stop.lock();
        if !*stop {
            self.rung.wait_for(&mut stop, time);
        }
        !*stop
    }
}

impl Vfs {
    pub(super) fn start_upkeep(self: &Arc<Self>) -> FsResult<()> {
        let mut upkeep = self.upkeep.lock();
        let failed = |error: std::io::Error| FsError::Io(format!("cannot start a thread: {error}").into());
        let vfs = Arc::clone(self);
        let committer =
            std::thread::Builder::new().name("wsd-commit".into()).spawn(move || vfs.run_committer());
        upkeep.threads.push(committer.map_err(failed)?);
        let (vfs, bell) = (Arc::clone(self), Arc::clone(&upkeep.bell));
        let keeper =
            std::thread::Builder::new().name("wsd-keeper".into()).spawn(move || vfs.run_housekeeper(&bell));
        upkeep.threads.push(keeper.map_err(failed)?);
        Ok(())
    }

    /// After each group: memory may be let go of now.
    pub(super) fn after_commit(&self) {
        if !self.memory.is_over() {
            return;
        }
        let counted = self.nodes.footprint();
        self.memory.grown.store(0, Ordering::Relaxed);
        // To three quarters, so that not every group ends here.
        let keep = self.memory.budget / 4 * 3;
        if counted > keep {
            self.nodes.evict(counted - keep);
        }
        self.memory.counted.store(counted.min(keep), Ordering::Relaxed);
    }

    fn run_housekeeper(&self, bell: &Bell) {
        let mut before = self.journal.revision();
        while bell.sleep(ROUND) {
            let revision = self.journal.revision();
            let quiet = std::mem::replace(&mut before, revision) == revision;
            if quiet {
                self.gauge.give_back();
                self.cached.give_back();
            }
            if let Err(error) = self.keep_house(bell, quiet)
                && self.journal.failure().is_none()
            {
                tracing::warn!(%error, "housekeeping of the store failed; it is tried again");
            }
            if self.memory.is_over() {
                self.after_commit();
            }
        }
    }

    fn keep_house(&self, bell: &Bell, quiet: bool) -> FsResult<()> {
        // What cannot be folded because the disk is full can be afterwards.
        let mut folded = self.tend_wal(quiet);
        let (mut budget, mut collected) = (GC_STEP, false);
        loop {
            let progress = self.store.gc_step(budget, quiet)?;
            if progress.done && quiet && collected {
                // The file is cut when what was cut off it is folded.
                self.store.checkpoint(Checkpoint::Passive)?;
            }
            let quiet_still = !quiet || self.journal.committed() == self.journal.revision();
            if progress.done || !quiet_still || !bell.sleep(Duration::from_millis(2)) {
                return folded;
            }
            collected = true;
            // Whoever overwrites a lot makes garbage in groups, between two of which there is one step.
            let shares = progress.waited.as_micros() / GC_SHARE.as_micros();
            budget = GC_STEP * (1 + shares.min(GC_MOST) as usize);
            folded = self.tend_wal(false);
        }
    }

    /// Folds the WAL when it is time to.
    fn tend_wal(&self, quiet: bool) -> FsResult<()> {
        let wal = self.store.wal_bytes();
        let small = self.store.small_commits() >= SMALL_COMMITS;
        if self.disk.most() < u64::MAX {
            let _no_group = self.journal.no_group();
            self.look_at_disk();
        }
        if quiet && wal > WAL_KEPT {
            self.store.checkpoint(Checkpoint::Truncate)?;
        } else if small || wal > if quiet { WAL_QUIET } else { WAL_BYTES } {
            self.store.checkpoint(Checkpoint::Passive)?;
        }
        if small || wal > WAL_LIMIT {
            self.fold_wal()?;
        }
        Ok(())
    }

    /// Commits everything, and ends the work behind the filesystem. Changes after it are lost; there are none,
    /// because the mount and the servers stop before it.
    pub fn shutdown(&self) -> FsResult<()> {
        let threads = {
            let mut upkeep = self.upkeep.lock();
            *upkeep.bell.stop.lock() = true;
            upkeep.bell.rung.notify_all();
            std::mem::take(&mut upkeep.threads)
        };
        self.journal.stop();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the filesystem panicked");
            }
        }
        self.set_invalidator(None);
        self.commit(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::ME;
    use super::*;
    use crate::store::rows::{Kind, ROOT};
    use crate::store::{Location, Store};
    use crate::vfs::{NewNode, Options};

    /// As a database does it in the workspace, for as long as it likes, and nobody is ever quiet.
    #[test]
    fn the_wal_starts_over_under_small_durable_writes() {
        let dir = tempfile::tempdir().unwrap();
        let location = Location::File(dir.path().join("store.db"));
        let store = Arc::new(Store::open(&location, std::path::Path::new("/nowhere")).unwrap());
        let vfs = Vfs::open(Arc::clone(&store), Options::default()).unwrap();
        let node = NewNode { kind: Kind::File, mode: 0o644, umask: 0, rdev: 0 };
        let ino = vfs.create(ME, ROOT, b"database", node).unwrap().ino;
        let bell = Bell::default();
        let sizes = [(); 5].map(|()| {
            for number in 0..SMALL_COMMITS + 32 {
                vfs.write(ME, ino, number % 64 * 4096, &[number as u8; 4096], false).unwrap();
                vfs.sync().unwrap();
            }
            vfs.keep_house(&bell, false).unwrap();
            store.wal_bytes()
        });
        assert!(sizes[4] < sizes[0] * 2, "{sizes:?}");
        vfs.shutdown().unwrap();
    }
}
