//! A simulation of sync: a hub and replicas, people who edit on all of them, and a network and a power supply that fail.
//!
//! Everything is decided by a seed, so a run that goes wrong can be run again. The pure parts (planner, judge, offers,
//! engine) are the real ones; around them:
//!
//! - [`model`]: a tree in memory, which carries plans out and checks everything that a plan promises.
//! - [`edits`]: what people do to a tree.
//! - [`hub`]: a hub: a tree, the order of its changes, what it remembers of replicas.
//! - [`replica`]: a driver of the engine, with what is on its disk, and what is only in memory.
//! - [`world`]: who does what next, and what fails. In the end all is left alone, and must come to rest, with the same tree
//!   everywhere and nothing lost.

mod edits;
mod hub;
mod model;
mod replica;
mod tests;
mod world;

/// Numbers that look like chance (splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `n`.
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// True once in `n` times.
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { of.get(self.below(of.len())) }
    }
}
