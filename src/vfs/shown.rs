//! How much is allocated to files, as far as the kernel knows.
//!
//! Under writeback the kernel believes what it was told of that (`st_blocks`) until the file is closed, of which wsd does not
//! hear. What it writes back before makes it wrong for as long as the file is open: a log, a database. So wsd remembers what the
//! kernel has not been told since, and has it ask anew if it has not done so by itself before long, as with a file that was
//! written and closed.

use super::Vfs;
use super::types::Attr;
use crate::store::rows::{Ino, Kind};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Files of which the kernel knows less, or more, than is allocated.
#[derive(Debug, Default)]
pub(super) struct Shown {
    is_any: AtomicBool,
    lags: Mutex<Lags>,
}

/// Blocks of 512 bytes that are allocated to each.
#[derive(Debug, Default)]
struct Lags {
    /// Since the last turn.
    young: HashMap<Ino, u64>,
    /// Since the one before.
    old: HashMap<Ino, u64>,
}

impl Shown {
    /// The kernel has written to a file, which has so many blocks now.
    fn lags(&self, ino: Ino, blocks: u64) {
        let mut lags = self.lags.lock();
        let Lags { young, old } = &mut *lags;
        // Whoever writes without end is told of too.
        *old.get_mut(&ino).unwrap_or_else(|| young.entry(ino).or_default()) = blocks;
        self.is_any.store(true, Ordering::Relaxed);
    }

    /// The kernel was told this of a file. What was written meanwhile, it was not.
    fn tell(&self, ino: Ino, blocks: u64) {
        if !self.is_any.load(Ordering::Relaxed) {
            return;
        }
        let mut lags = self.lags.lock();
        let Lags { young, old } = &mut *lags;
        for lags in [young, old] {
            if lags.get(&ino) == Some(&blocks) {
                lags.remove(&ino);
            }
        }
    }

    /// Those that have lagged for a whole turn.
    fn turn(&self) -> Vec<Ino> {
        if !self.is_any.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut lags = self.lags.lock();
        let young = std::mem::take(&mut lags.young);
        self.is_any.store(!young.is_empty(), Ordering::Relaxed);
        std::mem::replace(&mut lags.old, young).into_keys().collect()
    }
}

impl Vfs {
    /// The kernel has written back a part of a file, which has so many bytes allocated now.
    pub(super) fn has_grown_unseen(&self, ino: Ino, allocated: u64) {
        self.shown.lags(ino, Attr::blocks_of(allocated));
    }

    /// These attributes are what the kernel is told.
    pub fn shown_to_kernel(&self, attr: &Attr) {
        if attr.kind == Kind::File {
            self.shown.tell(attr.ino, attr.blocks);
        }
    }

    /// Has the kernel ask how much is allocated to what it has written back some time ago.
    pub(super) fn show_what_has_grown(&self) {
        let lagging = self.shown.turn();
        let Some(kernel) = self.invalidator() else { return };
        lagging
            .into_iter()
            .filter(|ino| self.nodes.is_known(*ino))
            .for_each(|ino| kernel.forget_attributes(ino));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_told_what_it_has_not_asked_for_in_a_whole_turn() {
        let shown = Shown::default();
        assert!(shown.turn().is_empty());
        shown.lags(1, 8);
        shown.lags(2, 8);
        assert!(shown.turn().is_empty());
        // It has asked for one of them, and for the other before that was written to again.
        shown.tell(1, 8);
        shown.lags(2, 16);
        shown.tell(2, 8);
        shown.lags(3, 8);
        assert_eq!(shown.turn(), [2]);
        assert_eq!(shown.turn(), [3]);
        assert!(shown.turn().is_empty() && !shown.is_any.load(Ordering::Relaxed));
    }
}
