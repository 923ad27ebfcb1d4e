//! Runs of the simulation.

use super::world::World;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Seeds that found something.
const REGRESSIONS: &[(u64, &str)] = &[];

fn run(seeds: impl Iterator<Item = u64>) {
    let mut wrong = Vec::new();
    for seed in seeds {
        if catch_unwind(AssertUnwindSafe(|| World::new(seed).run())).is_err() {
            eprintln!("seed {seed} went wrong");
            wrong.push(seed);
        }
        if wrong.len() >= 20 {
            break;
        }
    }
    assert!(wrong.is_empty(), "seeds that went wrong: {wrong:?}");
}

/// `WSD_SYNC_SEEDS=from..to` runs those instead.
#[test]
fn everything_comes_to_rest_with_the_same_tree_everywhere_and_nothing_lost() {
    let wanted = std::env::var("WSD_SYNC_SEEDS").unwrap_or_else(|_| "0..300".into());
    let (from, to) = wanted.split_once("..").unwrap();
    run(from.parse().unwrap()..to.parse().unwrap());
}

#[test]
fn what_was_found_once_is_not_found_again() {
    run(REGRESSIONS.iter().map(|(seed, _)| *seed));
}
