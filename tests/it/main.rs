//! The daemon as its users meet it: the real binary, a real mount, real programs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod both_sides;
mod cli;
mod client;
mod coherence;
mod crash;
mod edges;
mod errors;
mod exec_changes;
mod exec_cli;
mod exec_sync;
mod faults;
mod files_cli;
mod fuzz;
mod hostile;
mod http;
mod imports;
mod interop;
mod link;
mod listings;
mod live;
mod memory;
mod mount;
mod operations;
mod outbound;
mod overlay;
mod packages;
mod peer;
mod posix;
mod power;
mod privileges;
mod programs;
mod readme;
mod semantics;
mod shim;
mod shim_programs;
mod shim_sync;
mod siege;
mod space;
mod support;
mod sync;
mod trees;
mod twin;
mod ui;
mod user;
