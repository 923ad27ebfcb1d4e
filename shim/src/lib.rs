//! Keeps two trees in step: a workspace, and a directory of the host, where there is no FUSE.
//!
//! Both are changed by others at any moment, and neither tells reliably what was done to it. So what both agreed on
//! last is remembered (the shadow); whatever differs from it now was changed since, on that side. What changed on one
//! side goes to the other; what changed on both is kept twice. This crate knows nothing of databases, RPC or daemons.
//!
//! - [`tree`]: what is asked of a side. [`path`]: names and paths, as bytes.
//! - [`shadow`]: what both agreed on, and its file. [`diff`]: from the shadow and two sights to steps; pure.
//! - [`disk`]: a directory of the host as a tree, out of which nothing leads. [`triggers`]: its events.
//! - [`engine`]: a pass: look, compare, act, agree. [`running`]: passes as long as the daemon lives.
//!
//! Dependencies point one way: `tree, path <- shadow <- diff <- engine <- running`, and `tree, path <- disk, triggers`.

pub mod diff;
pub mod disk;
pub mod engine;
pub mod path;
pub mod running;
pub mod shadow;
pub mod tree;
pub mod triggers;

pub use disk::Disk;
pub use engine::{Engine, Haste, Stats};
pub use running::{Error, Options, Shim};
pub use tree::{Attributes, Change, Changes, Facts, Fault, Kind, Stage, Tree};
