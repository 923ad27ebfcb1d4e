//! The workspace as an object: Cap'n Proto calls on the service.
//!
//! A vat is single-threaded, so sessions live on a small pool of single-threaded runtimes, each session on one
//! ([`Pool`]). What may wait for the disk or the kernel goes to threads that may wait, a bounded number for each
//! session; so a session that is stuck holds up neither its neighbours nor anybody else.
//!
//! - `pool`: the threads. `session`: one connection, and what its calls share.
//! - `haste`: waiting for a peer that comes back at once.
//! - `batch`: a connection that is one request and one answer.
//! - `workspace`, `fs`, `streams`, `cursors`, `exec`, `sync`: the objects, each method one call into the service.
//! - `convert`: between the wire's types and the service's.

mod batch;
mod convert;
mod cursors;
mod exec;
mod fs;
mod haste;
mod pool;
mod session;
mod streams;
mod sync;
mod workspace;

pub use batch::{Answer, BatchError, MAX_ANSWER, MAX_BODY, Share};
pub use pool::{End, Pool, Socket};
pub use session::{Host, Syncing};
pub use workspace::About;
