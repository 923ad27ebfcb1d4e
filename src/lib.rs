//! wsd: the workspace daemon. One page to find your way:
//!
//! ```text
//!  programs            whoever runs the daemon
//!     |                         |
//!  kernel FUSE                 http
//!     |                         |
//!   mount  ---->  vfs  <--------+
//!                  |
//!                store (one SQLite file)
//! ```
//!
//! - [`error`], [`clock`]: what everything is told in: errors, times.
//! - [`store`]: the workspace on disk. The only user of SQLite.
//! - [`vfs`]: the workspace in memory: a POSIX tree, live, written behind to the store.
//! - [`mount`]: the tree as a directory. The only user of FUSE.
//! - [`service`]: the workspace for callers from outside: paths in, data and errors out.
//! - [`exec`]: commands in the workspace.
//! - [`wire`]: Cap'n Proto over messages, for both ends of a connection.
//! - [`rpc`]: the service as Cap'n Proto objects. [`metrics`]: what is measured, and its names.
//! - [`workspace`]: the three together, in service.
//! - [`http`]: health, information, statistics. The only user of the HTTP server.
//! - [`client`]: a daemon, from elsewhere.
//! - [`config`], [`telemetry`], [`daemon`], [`cli`]: settings, the log, the life of the process, the commands.
//!
//! Dependencies point one way, from the bottom of this list of rooms to its top:
//! `error, clock <- store <- vfs <- mount <- config <- workspace <- http <- daemon <- cli` and
//! `wire <- client <- cli`. A test reads the imports.

/// The commit this was built from; `unknown` where that cannot be told.
pub const COMMIT: &str = env!("WSD_COMMIT");

pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod error;
pub mod exec;
pub mod http;
pub mod metrics;
pub mod mount;
pub mod rpc;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod vfs;
pub mod wire;
pub mod workspace;
