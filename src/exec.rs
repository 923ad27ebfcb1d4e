//! Commands: started in the workspace, followed, told of, ended.
//!
//! A command sees the workspace as any program does, through the mount; nothing here knows the filesystem. It belongs to
//! the daemon: whoever started it may go and come back.
//!
//! - `spec`: what is to be run. `spawn`: its first process; `limit`: with limits. `process`, `cgroup`: all of its
//!   processes. `lineage`: whose a process is.
//! - `log`: what it said. `input`: what it is given. `command`: its life, and its readers. `keeper`: all commands. `storing`: what is
//!   kept of them.

mod cgroup;
mod command;
mod input;
mod keeper;
#[cfg(test)]
mod kept_tests;
mod limit;
mod lineage;
mod log;
mod process;
mod spawn;
mod spec;
mod start;
mod storing;
#[cfg(test)]
mod tests;

pub use command::{Reader, Running};
pub use keeper::{Changed, Execs, Surroundings};
pub use limit::{LIMIT, become_limited};
pub use lineage::{Lineage, Whose};
pub use log::{Event, Exit, How, Said, Truncated};
pub use process::{name_of, signal_of};
pub use spec::{Limits, Spec, Stdin, Words};

use crate::store::error::StoreError;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What holds for all commands.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the workspace is mounted, and commands run.
    pub mount_point: PathBuf,
    /// What commands have of the daemon's environment.
    pub env: Vec<(OsString, OsString)>,
    /// Bytes of output that are kept of each.
    pub log_bytes: usize,
    /// Commands that have ended and are remembered.
    pub remembered: usize,
    /// For how long.
    pub age: Duration,
    /// The program that sets limits and becomes another: called with [`LIMIT`], the limits, `--`, and the command.
    pub limiter: PathBuf,
}

/// Commands that have ended and are remembered.
pub const REMEMBERED: usize = 1000;

/// For how long.
pub const AGE: Duration = Duration::from_secs(24 * 3600);

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what the variant means")]
pub enum ExecError {
    #[error("{0}")]
    Spec(String),
    #[error("{source}")]
    Start { path: Vec<u8>, source: std::io::Error },
    #[error("no command has the id {0:?}")]
    Unknown(String),
    #[error("the command {0:?} is there already")]
    Taken(String),
    #[error("the command {0:?} runs: end it first")]
    Runs(String),
    #[error("{0:?} is no signal: give a name as TERM or a number")]
    Signal(String),
    #[error("the command {0:?} has no pseudo-terminal")]
    NoTerminal(String),
    #[error("the command {0:?} has no standard input that is open")]
    NoInput(String),
    #[error("it was not started, because not all that upstream has is here: {0}")]
    Behind(String),
    #[error("it was not started, because the workspace is not mounted at {0:?} any more: start wsd again")]
    Unmounted(PathBuf),
    #[error("the daemon is stopping")]
    Closing,
    #[error("{0}")]
    Store(#[from] StoreError),
}
