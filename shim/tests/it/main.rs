//! The shim over a real directory and a workspace in memory.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod folding;
mod hostile;
mod links;
mod mem;
mod model;
mod mounts;
mod moves;
mod quiet;
mod ticks;
