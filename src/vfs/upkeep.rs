//! The threads behind the filesystem, and its memory.
//!
//! The committer writes groups. The housekeeper has the WAL folded, and collects garbage a little at a time.

use super::Vfs;
use crate::error::{FsError, FsResult};
use crate::memory;
use crate::store::Checkpoint;
use crate::store::error::StoreError;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the housekeeper looks.
const ROUND: Duration = Duration::from_millis(500);

/// How often it looks where nothing has happened for long, unless something does: a processor that is not woken saves a laptop's battery.
const DOZE: Duration = Duration::from_secs(30);

/// Rounds without a change after which freed memory is given back, half a minute: who writes again has to ask for it again, and
/// writing 256 MiB then takes 0.21 s instead of 0.17 s.
const ROUNDS_UNTIL_TRIM: u32 = 60;

/// Rows that one step of garbage collection may touch: a few milliseconds.
const GC_STEP: usize = 200;

/// The same where the disk has no room for such a step, which goes through the WAL.
const GC_LEAST: usize = 8;

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
    /// Held by who counts.
    counting: Mutex<()>,
}

impl Memory {
    pub(super) fn new(budget: usize) -> Self {
        Self { budget, grown: AtomicUsize::new(0), counted: AtomicUsize::new(0), counting: Mutex::default() }
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
}

/// Wakes the housekeeper before it looks by itself.
#[derive(Default)]
pub(super) struct Bell {
    calls: Mutex<Calls>,
    called: Condvar,
    /// Whether it looks seldom.
    dozes: AtomicBool,
}

#[derive(Default)]
struct Calls {
    stop: bool,
    rung: bool,
}

impl Bell {
    pub(super) fn ring(&self) {
        self.calls.lock().rung = true;
        self.called.notify_all();
    }

    /// Something happens: has it look as often as it does then.
    pub(super) fn stir(&self) {
        if self.dozes.load(Ordering::Relaxed) && self.dozes.swap(false, Ordering::Relaxed) {
            self.ring();
        }
    }

    fn stop(&self) {
        self.calls.lock().stop = true;
        self.called.notify_all();
    }

    /// Sleeps for long, unless something happens; false when it is over.
    fn doze(&self) -> bool {
        self.dozes.store(true, Ordering::Relaxed);
        let goes_on = self.sleep(DOZE);
        self.dozes.store(false, Ordering::Relaxed);
        goes_on
    }

    /// Sleeps, unless it is rung; false when it is over.
    fn sleep(&self, time: Duration) -> bool {
        let mut calls = self.calls.lock();
        if !calls.stop && !calls.rung {
            self.called.wait_for(&mut calls, time);
        }
        calls.rung = false;
        !calls.stop
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
        let vfs = Arc::clone(self);
        let keeper =
            std::thread::Builder::new().name("wsd-keeper".into()).spawn(move || vfs.run_housekeeper());
        upkeep.threads.push(keeper.map_err(failed)?);
        Ok(())
    }

    /// After each group: memory may be let go of now.
    pub(super) fn after_commit(&self) {
        let _alone = self.memory.counting.lock();
        if !self.memory.is_over() {
            return;
        }
        // Before nodes are looked at: what is added meanwhile may count twice, and not never.
        self.memory.grown.store(0, Ordering::Relaxed);
        let counted = self.nodes.footprint();
        // To three quarters, so that not every group ends here.
        let keep = self.memory.budget / 4 * 3;
        let too_much = counted.saturating_sub(keep);
        // What is in use or on its way to the store stays.
        let left = if too_much > 0 { self.nodes.evict(too_much) } else { 0 };
        self.memory.counted.store(counted - too_much + left, Ordering::Relaxed);
    }

    /// Nodes or names have come into memory.
    pub(super) fn grew(&self, bytes: usize) {
        self.memory.grew(bytes);
        self.bell.stir();
    }

    fn run_housekeeper(&self) {
        let (mut before, mut quiet_rounds) = ((self.journal.revision(), self.memory.bytes()), 0);
        let mut is_still = false;
        while if is_still { self.bell.doze() } else { self.bell.sleep(ROUND) } {
            self.show_what_has_grown();
            let now = (self.journal.revision(), self.memory.bytes());
            let quiet = before.0 == now.0;
            if quiet {
                self.gauge.give_back();
                self.cached.give_back();
            }
            quiet_rounds = if quiet { quiet_rounds + 1 } else { 0 };
            if quiet_rounds == ROUNDS_UNTIL_TRIM {
                memory::trim();
            }
            let kept = self.keep_house(quiet);
            // While the disk is full it is looked at, so that who writes need not wait for long when it is not.
            let has_room = self.disk.most() == u64::MAX;
            is_still = before == now && quiet_rounds > ROUNDS_UNTIL_TRIM && kept.is_ok() && has_room;
            before = now;
            if let Err(error) = kept
                && self.journal.failure().is_none()
            {
                tracing::warn!(%error, "housekeeping of the store failed; it is tried again");
            }
            if self.memory.is_over() {
                self.after_commit();
            }
        }
    }

    pub(super) fn keep_house(&self, quiet: bool) -> FsResult<()> {
        // What cannot be folded because the disk is full can be afterwards.
        let mut folded = self.tend_wal(quiet);
        let (mut step, mut budget, mut collected) = (GC_STEP, GC_STEP, false);
        loop {
            let progress = match self.store.gc_step(budget, quiet) {
                Err(StoreError::Full) if budget > GC_LEAST => {
                    self.store.give_room();
                    (step, budget) = (GC_LEAST, GC_LEAST);
                    folded = self.tend_wal(false);
                    continue;
                }
                progress => progress?,
            };
            if progress.done && quiet && collected {
                // The file is cut when what was cut off it is folded.
                self.store.checkpoint(Checkpoint::Passive)?;
                self.store.keep_room();
            }
            let quiet_still = !quiet || self.journal.committed() == self.journal.revision();
            if progress.done || !quiet_still || !self.bell.sleep(Duration::from_millis(2)) {
                return folded;
            }
            collected = true;
            // Whoever overwrites a lot makes garbage in groups, between two of which there is one step.
            let shares = progress.waited.as_micros() / GC_SHARE.as_micros();
            budget = step * (1 + shares.min(GC_MOST) as usize);
            folded = self.tend_wal(false);
        }
    }

    /// Commits everything, and ends the work behind the filesystem. Changes after it are lost; there are none,
    /// because the mount and the servers stop before it.
    pub fn shutdown(&self) -> FsResult<()> {
        let threads = std::mem::take(&mut self.upkeep.lock().threads);
        self.bell.stop();
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
