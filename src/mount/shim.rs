//! The workspace as a plain directory of the host, where there is no FUSE: the two are kept in step from user space.
//!
//! The reconciler knows nothing of us (`wsd_shim`); here the filesystem becomes one of its two trees (`tree`), and its
//! settings, errors and figures become ours.

mod tree;

use super::{MountError, point};
use crate::error::plain_words;
use crate::vfs::Vfs;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tree::Workspace;
use wsd_shim::{Options, Shim, Stats};

/// How a directory is kept in step.
#[derive(Clone, Debug)]
pub struct ShimSettings {
    /// How often the directory is looked at where the kernel does not tell of changes.
    pub poll: Duration,
    /// Whether the kernel is asked to tell.
    pub events: bool,
    /// Whether a directory that has files already is taken over.
    pub adopt: bool,
    /// Where what both sides agreed on is kept; `None`: nowhere.
    pub shadow: Option<PathBuf>,
    /// Which store it is: what was agreed on is about its nodes.
    pub identity: String,
}

impl Default for ShimSettings {
    fn default() -> Self {
        let poll = Duration::from_millis(250);
        Self { poll, events: true, adopt: false, shadow: None, identity: String::new() }
    }
}

impl ShimSettings {
    /// Whether this workspace was kept in step with a directory before.
    pub(super) fn was_here(&self) -> bool {
        self.shadow.as_ref().is_some_and(|shadow| shadow.exists())
    }
}

/// A directory that is kept in step with the workspace.
#[derive(Clone)]
pub struct Directory(Arc<Shim>);

/// A place that is not in step, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Astray {
    /// From the root.
    pub path: String,
    /// In words.
    pub why: String,
}

/// What there is to see of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "as in wsd_shim::Stats")]
pub struct ShimStats {
    pub events: bool,
    pub agreed: usize,
    pub waiting: usize,
    pub to_host: u64,
    pub to_workspace: u64,
    pub conflicts: u64,
    pub other_owners: usize,
    pub left_out: usize,
    pub left_out_paths: Vec<Astray>,
    pub failing: usize,
    pub failing_paths: Vec<Astray>,
}

impl Directory {
    /// Writes the workspace out to the directory, and keeps both in step.
    pub(super) fn start(vfs: &Arc<Vfs>, at: &Path, settings: &ShimSettings) -> Result<Self, MountError> {
        point::make(at)?;
        let options = Options {
            poll: settings.poll,
            events: settings.events,
            adopt: settings.adopt,
            shadow: settings.shadow.clone(),
            identity: settings.identity.clone().into_bytes(),
            newest: vfs.revision(),
        };
        let tree = Arc::new(Workspace::new(Arc::clone(vfs)));
        let shim = Shim::start(tree, at, &options, |wake| vfs.on_change(wake));
        let shim = shim.map_err(|error| match error {
            wsd_shim::Error::NotEmpty(name) => MountError::Adopt { point: at.to_path_buf(), name },
            error => MountError::Shim { point: at.to_path_buf(), reason: plain_words(&error.to_string()) },
        })?;
        Ok(Self(Arc::new(shim)))
    }

    /// Waits until the directory has what the workspace has now.
    pub fn settle_out(&self) {
        if !self.0.settle_out() {
            tracing::warn!("the directory does not have all that the workspace has yet");
        }
    }

    /// Waits until the workspace has what the directory has now.
    pub fn settle_in(&self) {
        if !self.0.settle_in() {
            tracing::warn!("the workspace does not have all that the directory has yet");
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.0.is_alive()
    }

    pub(super) fn stop(&self) {
        self.0.stop();
    }

    /// What there is to see.
    pub fn stats(&self) -> ShimStats {
        let stats: Stats = self.0.stats();
        let list = |places: Vec<(Vec<u8>, String)>| -> Vec<Astray> {
            let astray =
                |(path, why): (Vec<u8>, String)| Astray { path: String::from_utf8_lossy(&path).into(), why };
            places.into_iter().map(astray).collect()
        };
        ShimStats {
            events: self.0.has_events(),
            agreed: stats.agreed,
            waiting: stats.waiting,
            to_host: stats.to_host,
            to_workspace: stats.to_work,
            conflicts: stats.conflicts,
            other_owners: stats.other_owners,
            left_out: stats.left_out,
            left_out_paths: list(stats.left_out_list),
            failing: stats.failing,
            failing_paths: list(stats.failing_list),
        }
    }
}
