//! What the fuzzers do (`tests/fuzz/`), for a bounded time. 2,048 cases each;
//! `PROPTEST_CASES=N` makes it 8 N.

#[path = "../fuzz/harness.rs"]
mod harness;

use harness::House;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

fn runner() -> TestRunner {
    let config = ProptestConfig::default();
    TestRunner::new(ProptestConfig { failure_persistence: None, cases: 8 * config.cases, ..config })
}

#[test]
fn any_bytes_as_frames() {
    let words = vec(prop_oneof![any::<u32>(), 0..70u32], 0..200);
    let run = runner().run(&words, |words| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        harness::frames(&bytes);
        Ok(())
    });
    run.unwrap();
}

#[test]
fn any_bytes_as_a_batch() {
    let house = House::new();
    let words = vec(prop_oneof![any::<u64>(), 0..70u64, (0..16u64).prop_map(|size| size << 48)], 1..64);
    let run = runner().run(&words, |words| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        house.batch(&bytes);
        // Behind a header that fits.
        let header = (words.len() as u64) << 32;
        house.batch(&[&header.to_le_bytes()[..], &bytes].concat());
        Ok(())
    });
    run.unwrap();
}

#[test]
fn any_calls() {
    let house = House::new();
    let run = runner().run(&vec(any::<u8>(), 0..600), |dice| {
        house.calls(&dice);
        Ok(())
    });
    run.unwrap();
}

#[test]
fn any_paths() {
    let house = House::new();
    let part = prop_oneof![
        Just(b"..".to_vec()),
        Just(b".".to_vec()),
        Just(b"dir".to_vec()),
        Just(b"link".to_vec()),
        Just(b"x.link".to_vec()),
        Just(b"\n/workspace".to_vec()),
        vec(any::<u8>(), 0..6),
    ];
    let run = runner().run(&vec(part, 0..12), |parts| {
        house.paths(&parts.join(&b'/'));
        Ok(())
    });
    run.unwrap();
}
