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
//! - [`error`], [`clock`]: what everything is told in: errors, times. [`cgroup`], [`memory`]: what this process may have.
//! - [`store`]: the workspace on disk. The only user of SQLite.
//! - [`vfs`]: the workspace in memory: a POSIX tree, live, written behind to the store.
//! - [`mount`]: the tree as a directory. The only user of FUSE, and of `wsd_shim`, which keeps a plain one in step.
//! - [`service`]: the workspace for callers from outside: paths in, data and errors out.
//! - [`exec`]: commands in the workspace.
//! - [`wire`]: Cap'n Proto over messages, for both ends of a connection.
//! - [`sync`]: the workspace in step with another. [`parcel`]: what the two say to each other, as it travels.
//!   [`upstream`]: the link from a replica to its hub.
//! - [`outbound`]: connections that the daemon makes itself, to be driven over them.
//! - [`rpc`]: the service as Cap'n Proto objects. [`metrics`]: what is measured, and its names.
//! - [`workspace`]: the three together, in service.
//! - [`http`]: health, information, statistics. The only user of the HTTP server.
//! - [`client`]: a daemon, from elsewhere.
//! - [`config`], [`telemetry`], [`daemon`], [`cli`]: settings, the log, the life of the process, the commands.
//!
//! Dependencies point one way, from the bottom of this list of rooms to its top:
//! `error, clock, memory <- store <- vfs <- mount <- config <- workspace <- http <- daemon <- cli` and
//! `sync <- parcel, wire <- client <- upstream, cli`. A test reads the imports.

/// The commit this was built from; `unknown` where that cannot be told.
pub const COMMIT: &str = env!("WSD_COMMIT");

pub mod cgroup;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod error;
pub mod exec;
pub mod http;
pub mod memory;
pub mod metrics;
pub mod mount;
pub mod outbound;
pub mod parcel;
pub mod replica;
pub mod rpc;
pub mod service;
pub mod store;
pub mod sync;
pub mod telemetry;
pub mod upstream;
pub mod vfs;
pub mod wire;
pub mod workspace;
