//! Runs of the simulation.

use super::world::World;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Seeds that found something.
const REGRESSIONS: &[(u64, &str)] = &[
    (
        1,
        "a file that was changed and moved out of view here, and changed upstream: our bytes were overwritten",
    ),
    (49, "a portion that was read before our push was taken undid what we had pushed"),
    (153, "a copy was restored that knew of less than it had pushed, and was not found out"),
    (
        156,
        "what left the view with its directory was never offered, because the directory was refused before",
    ),
    (287, "a file that left the view upstream stayed here, and then overwrote what upstream wrote to it"),
    (497, "a file was moved back to a directory that had got another identity"),
    (569, "what is in a directory that left the view was removed upstream when the directory came back"),
    (679, "a name in a directory that is out of view upstream, and in view here, had two owners for ever"),
    (689, "a directory that is out of view upstream had to hold something in view"),
    (924, "a circle was refused without a word of the directory that had to be moved first"),
    (1368, "what is in a directory that came into view was forgotten when the push was refused"),
    (14081, "a directory that came into view became one with another, and what is in it was overlooked"),
    (5950, "what was in a directory that had left the view was forgotten when the directory came back"),
    (3608, "what came into view with a directory was forgotten when that became one with upstream's"),
    (29610, "a directory that upstream had out of view was in a circle, and was asked for without end"),
    (12277, "a directory gave up its name, and got it back from the rule against circles, for ever"),
];

fn run(world: fn(u64) -> World, seeds: impl Iterator<Item = u64>) {
    let mut wrong = Vec::new();
    for seed in seeds {
        if catch_unwind(AssertUnwindSafe(|| world(seed).run())).is_err() {
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
fn seeds() -> std::ops::Range<u64> {
    let wanted = std::env::var("WSD_SYNC_SEEDS").unwrap_or_else(|_| "0..300".into());
    let (from, to) = wanted.split_once("..").unwrap();
    from.parse().unwrap()..to.parse().unwrap()
}

#[test]
fn everything_comes_to_rest_with_the_same_tree_everywhere_and_nothing_lost() {
    run(World::new, seeds());
}

#[test]
fn and_so_it_does_when_replicas_change_their_minds_about_what_they_leave_out() {
    run(World::fickle, seeds());
}

#[test]
fn and_so_it_does_when_the_hub_is_an_old_copy_of_itself() {
    run(World::forgetful, seeds());
}

#[test]
fn and_so_it_does_when_what_replicas_do_fails() {
    run(World::failing, seeds());
}

#[test]
fn what_was_found_once_is_not_found_again() {
    run(World::new, REGRESSIONS.iter().map(|(seed, _)| *seed));
    run(World::fickle, [8453, 42798, 60620].into_iter());
    // Written on the hub and moved out of view there, which a replica had heard before the hub was restored: lost with it.
    run(World::forgetful, [278, 200960].into_iter());
    // Removed here and upstream, which a copy of the replica had not heard, and then the directory that it was in.
    run(World::forgetful, [402332].into_iter());
    // What had left the view, which nobody had heard of, and was back: an older state of it came over it.
    run(World::failing, [4991].into_iter());
    // A directory that is out of view with another one came into view when that was gone: what is in it did not.
    run(World::failing, [609299].into_iter());
}
