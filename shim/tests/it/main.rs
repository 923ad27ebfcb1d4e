//! The shim over a real directory and a workspace in memory.

mod hostile;
mod mem;
mod model;
