//! The workspace as a directory that every program can use.
//!
//! - `device`: the kernel is greeted, and its requests taken. `request`, `answer`: as bytes, both ways.
//! - `adapter`, `convert`: requests become calls into the filesystem, and nothing else.
//! - `reflect`: the other way round: the kernel is told of what did not come through it.
//! - `seeker`: the one request that must not be answered in the kernel's thread.
//! - `point`, `session`: preparing the mount point, mounting, unmounting.
//! - `shim`: where there is no FUSE, a plain directory that is kept in step.

mod adapter;
mod answer;
mod convert;
mod device;
pub mod guard;
mod point;
mod reflect;
mod request;
mod seeker;
mod session;
mod shim;
mod waiting;

use crate::error::plain;
use crate::vfs::Vfs;
use serde::Serialize;
use session::Session;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use shim::{Directory, ShimSettings, ShimStats};

/// How the workspace is to be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Whatever works.
    Auto,
    /// By the kernel's FUSE.
    Fuse,
    /// As a plain directory that is kept in step.
    Shim,
    /// Not at all.
    None,
}

/// How the workspace is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// By the kernel's FUSE.
    Fuse,
    /// As a plain directory that is kept in step.
    Shim,
    /// Not at all.
    None,
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fuse => "fuse",
            Self::Shim => "shim",
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
    #[error(
        "the directory {point:?} has files already (there is {name:?}): empty it, give another path, or have it \
         taken over with --adopt (SHIM_ADOPT=1)"
    )]
    Adopt { point: PathBuf, name: String },
    #[error(
        "the directory {point:?} cannot be kept in step: {reason}; give another with --mount-point (MOUNT_POINT)"
    )]
    Shim { point: PathBuf, reason: String },
    #[error("FUSE cannot mount at {point:?}: {}; {}", plain(source), point::advice())]
    Fuse { point: PathBuf, source: std::io::Error },
}

/// The mount of a workspace, or the lack of one.
pub struct Mount {
    held: Held,
    reason: String,
}

enum Held {
    Fuse(Session),
    Shim(Directory),
    None,
}

impl Mount {
    /// Mounts the workspace as chosen. Fails when what was asked for cannot be had; `Auto` keeps a plain directory in
    /// step when the kernel offers no mount, and says why.
    pub fn start(
        vfs: &Arc<Vfs>,
        point: &Path,
        choice: Choice,
        shim: &ShimSettings,
    ) -> Result<Self, MountError> {
        let shim_for = |reason: String| {
            Directory::start(vfs, point, shim).map(|directory| Self { held: Held::Shim(directory), reason })
        };
        match choice {
            Choice::None => return Ok(Self { held: Held::None, reason: "FUSE_MOUNT is none".into() }),
            Choice::Shim => return shim_for("FUSE_MOUNT is shim".into()),
            Choice::Auto | Choice::Fuse => {}
        }
        match Session::start(vfs, point) {
            Ok(session) => {
                let reason = match choice {
                    Choice::Auto => "FUSE_MOUNT is auto and /dev/fuse works",
                    _ => "FUSE_MOUNT is fuse",
                };
                Ok(Self { held: Held::Fuse(session), reason: reason.into() })
            }
            Err(error @ MountError::Fuse { .. }) if choice == Choice::Auto => {
                tracing::warn!(%error, "going on without FUSE");
                shim_for(error.to_string())
            }
            // What an earlier daemon kept in step here.
            Err(MountError::NotEmpty { .. }) if choice == Choice::Auto && shim.was_here() => {
                shim_for("FUSE_MOUNT is auto and the directory was kept in step before".into())
            }
            Err(error) => Err(error),
        }
    }

    /// How the workspace is mounted.
    pub fn backend(&self) -> Backend {
        match self.held {
            Held::Fuse(_) => Backend::Fuse,
            Held::Shim(_) => Backend::Shim,
            Held::None => Backend::None,
        }
    }

    /// Why it is mounted so.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The directory that is kept in step, if that is how it is mounted.
    pub fn directory(&self) -> Option<&Directory> {
        match &self.held {
            Held::Shim(directory) => Some(directory),
            Held::Fuse(_) | Held::None => None,
        }
    }

    /// Whether what was asked for is there.
    pub fn is_ready(&self) -> bool {
        match &self.held {
            Held::Fuse(session) => session.is_alive(),
            Held::Shim(directory) => directory.is_alive(),
            Held::None => true,
        }
    }

    /// Unmounts.
    pub fn stop(self) {
        match self.held {
            Held::Fuse(session) => session.stop(),
            Held::Shim(directory) => directory.stop(),
            Held::None => {}
        }
    }
}
