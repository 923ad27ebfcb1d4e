//! wsd: the workspace daemon.
//!
//! Dependencies point one way:
//! `error, clock, config <- store <- vfs <- mount <- daemon -> http`, and `cli` on top.

pub mod clock;
pub mod error;
pub mod store;
pub mod vfs;
