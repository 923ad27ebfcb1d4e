#![no_main]
#![allow(dead_code, reason = "each target uses a part of the harness")]

#[path = "../harness.rs"]
mod harness;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    harness::frames(bytes);
});
