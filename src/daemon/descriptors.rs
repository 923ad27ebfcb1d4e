//! File descriptors: how many there may be, and who gets them.
//!
//! Peers must not be able to take the last ones: the store, and reading what the kernel holds of a file, need some.

use super::DaemonError;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many as are asked for, where the system allows that.
const WANTED: u64 = 8192;

/// With fewer a workspace cannot be opened, or nobody could connect.
const LEAST: u64 = 64;

/// Most connections and sessions at a time, however many descriptors there are.
const MAX_CONNECTIONS: u64 = 4096;
const MAX_SESSIONS: u64 = 1024;

/// How many connections there may be at a time, and how many sessions that connections have become.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    pub(super) connections: usize,
    pub(super) sessions: usize,
}

/// Raises the limit of the process, if need be, and shares out what there is.
pub(super) fn share_out() -> Result<Shares, DaemonError> {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(WANTED).min(WANTED);
    if limit.current.is_some_and(|current| current < most)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit })
    {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    let there = getrlimit(Resource::Nofile).current.unwrap_or(WANTED);
    if there < LEAST {
        return Err(DaemonError::Descriptors { there, least: LEAST });
    }
    let shares = Shares {
        connections: (there / 2).min(MAX_CONNECTIONS) as usize,
        sessions: (there / 4).min(MAX_SESSIONS) as usize,
    };
    tracing::debug!(there, ?shares, "file descriptors");
    Ok(shares)
}
