//! The shim over a real directory and a workspace in memory.

mod mem;
mod model;
