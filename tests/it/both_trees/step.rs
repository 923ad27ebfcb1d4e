//! What is done, by whom.

use super::NAMES;
use proptest::prelude::*;
use proptest::sample::Index;

#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Put { len: usize },
    Write { at: usize, len: usize },
    Append { len: usize },
    Truncate { size: usize },
    Punch { at: usize, len: usize },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Make {
        dir: Index,
        name: u8,
        is_dir: bool,
    },
    Change {
        file: Index,
        change: Change,
    },
    Copy {
        from: Index,
        to: Index,
    },
    CopyRange {
        from: Index,
        at: usize,
        to: Index,
        to_at: usize,
        len: usize,
    },
    Move {
        what: Index,
        dir: Index,
        name: u8,
        exchange: bool,
    },
    Link {
        file: Index,
        dir: Index,
        name: u8,
    },
    Remove {
        what: Index,
    },
    RemoveAll {
        dir: Index,
    },
    /// By a program that has the file open and mapped.
    Hold {
        file: Index,
    },
    Held {
        which: Index,
        change: Change,
    },
    Store {
        which: Index,
        at: Index,
        len: usize,
    },
    Sync {
        which: Index,
    },
    Drop {
        which: Index,
    },
    Enter {
        dir: Index,
    },
    Stay {
        dir: Index,
    },
    List {
        dir: Index,
    },
    Next,
    Commit,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        1 => (0..90_000usize).prop_map(|len| Change::Put { len }),
        3 => (0..90_000usize, 1..9000usize).prop_map(|(at, len)| Change::Write { at, len }),
        2 => (1..5000usize).prop_map(|len| Change::Append { len }),
        2 => (0..90_000usize).prop_map(|size| Change::Truncate { size }),
        1 => (0..90_000usize, 1..80_000usize).prop_map(|(at, len)| Change::Punch { at, len }),
    ]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let one = any::<Index>;
    let name = || 0..NAMES;
    prop_oneof![
        6 => (one(), name(), any::<bool>()).prop_map(|(dir, name, is_dir)| Step::Make { dir, name, is_dir }),
        6 => (one(), change()).prop_map(|(file, change)| Step::Change { file, change }),
        1 => (one(), one()).prop_map(|(from, to)| Step::Copy { from, to }),
        1 => (one(), 0..90_000usize, one(), 0..90_000usize, 1..90_000usize)
            .prop_map(|(from, at, to, to_at, len)| Step::CopyRange { from, at, to, to_at, len }),
        1 => (one(), 0..2usize, one(), 0..2usize, 1..90_000usize).prop_map(|(from, at, to, to_at, len)| {
            Step::CopyRange { from, at: at << 16, to, to_at: to_at << 16, len }
        }),
        4 => (one(), one(), name(), prop::bool::weighted(0.3))
            .prop_map(|(what, dir, name, exchange)| Step::Move { what, dir, name, exchange }),
        2 => (one(), one(), name()).prop_map(|(file, dir, name)| Step::Link { file, dir, name }),
        2 => one().prop_map(|what| Step::Remove { what }),
        1 => one().prop_map(|dir| Step::RemoveAll { dir }),
        4 => one().prop_map(|file| Step::Hold { file }),
        5 => (one(), change()).prop_map(|(which, change)| Step::Held { which, change }),
        4 => (one(), one(), 1..9000usize).prop_map(|(which, at, len)| Step::Store { which, at, len }),
        1 => one().prop_map(|which| Step::Sync { which }),
        1 => one().prop_map(|which| Step::Drop { which }),
        2 => one().prop_map(|dir| Step::Enter { dir }),
        2 => one().prop_map(|dir| Step::Stay { dir }),
        2 => one().prop_map(|dir| Step::List { dir }),
        3 => Just(Step::Next),
        1 => Just(Step::Commit),
    ]
}
