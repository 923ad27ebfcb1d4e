//! The workspace as a directory that every program can use.
//!
//! - `adapter`, `convert`: the kernel's requests become calls into the filesystem, and nothing else.
//! - `reflect`: the other way round: the kernel is told of what did not come through it.
//! - `seeker`: the one request that must not be answered in the kernel's thread.
//! - `point`, `session`: preparing the mount point, mounting, unmounting.

mod adapter;
mod convert;
pub mod guard;
mod point;
mod reflect;
mod seeker;
mod session;

use crate::error::plain;
use crate::vfs::Vfs;
use serde::Serialize;
use session::Session;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the log leaves out, as a tracing filter: an answer that the kernel does not take is one to a program that
/// was killed while it waited, and no error.
pub const LOG_EXCEPTIONS: &str = "fuser::reply=off";

/// How the workspace is to be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Whatever works.
    Auto,
    /// By the kernel's FUSE.
    Fuse,
    /// Not at all.
    None,
}

/// How the workspace is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// By the kernel's FUSE.
    Fuse,
    /// Not at all.
    None,
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fuse => "fuse",
            Self::None => "none",
        })
    }
}

/// Why the workspace is not mounted.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what the variant means")]
pub enum MountError {
    #[error("the mount point {0:?} is not a directory: give a path that is one, or that does not exist")]
    NotADirectory(PathBuf),
    #[error("the mount point {point:?} is not empty (there is {name:?}): empty it, or give another path")]
    NotEmpty { point: PathBuf, name: String },
    #[error("at {point:?} a {kind} filesystem is mounted already: stop its daemon, or give another path")]
    InUse { point: PathBuf, kind: String },
    #[error(
        "the mount point {point:?} cannot be used: {}; give another with --mount-point (MOUNT_POINT)",
        plain(source)
    )]
    Point { point: PathBuf, source: std::io::Error },
    #[error("FUSE cannot mount at {point:?}: {}; {}", plain(source), point::advice())]
    Fuse { point: PathBuf, source: std::io::Error },
}

/// The mount of a workspace, or the lack of one.
pub struct Mount {
    backend: Backend,
    reason: String,
    session: Option<Session>,
}

impl Mount {
    /// Mounts the workspace as chosen. Fails when what was asked for cannot be had; `Auto` goes on without a
    /// mount when the kernel offers none, and says why.
    pub fn start(vfs: &Arc<Vfs>, point: &Path, choice: Choice) -> Result<Self, MountError> {
        if choice == Choice::None {
            return Ok(Self::none("FUSE_MOUNT is none".into()));
        }
        match Session::start(vfs, point) {
            Ok(session) => {
                let reason = match choice {
                    Choice::Auto => "FUSE_MOUNT is auto and /dev/fuse works",
                    _ => "FUSE_MOUNT is fuse",
                };
                Ok(Self { backend: Backend::Fuse, reason: reason.into(), session: Some(session) })
            }
            Err(error @ MountError::Fuse { .. }) if choice == Choice::Auto => {
                tracing::warn!(%error, "going on without a mount");
                Ok(Self::none(error.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    fn none(reason: String) -> Self {
        Self { backend: Backend::None, reason, session: None }
    }

    /// How the workspace is mounted.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Why it is mounted so.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether what was asked for is there.
    pub fn is_ready(&self) -> bool {
        self.session.as_ref().is_none_or(Session::is_alive)
    }

    /// Unmounts.
    pub fn stop(self) {
        if let Some(session) = self.session {
            session.stop();
        }
    }
}
