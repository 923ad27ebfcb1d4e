#![no_main]
#![allow(dead_code, reason = "each target uses a part of the harness")]

#[path = "../harness.rs"]
mod harness;

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static HOUSE: LazyLock<harness::House> = LazyLock::new(harness::House::new);

fuzz_target!(|bytes: &[u8]| {
    HOUSE.calls(bytes);
});
