//! A workspace in service: its store, its live tree, its mount.

use crate::config::Config;
use crate::error::FsError;
use crate::mount::{Backend, Directory, Mount, MountError, ShimSettings};
use crate::store::error::StoreError;
use crate::store::{Checkpoint, Location, Store};
use crate::vfs::{Options, Vfs};
use parking_lot::RwLock;
use std::sync::Arc;

/// Why a workspace cannot be served, or was not left as it should.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what the variant means")]
pub enum WorkspaceError {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Mount(#[from] MountError),
    #[error("the workspace: {0}")]
    Workspace(#[from] FsError),
}

/// The workspace with all that stands on it.
pub struct Workspace {
    pub(crate) store: Arc<Store>,
    pub(crate) vfs: Arc<Vfs>,
    mount: RwLock<Option<Mount>>,
}

impl Workspace {
    /// Opens the store and mounts it, with a cache of so many bytes.
    pub fn open(config: &Config, cache_bytes: u64) -> Result<Self, WorkspaceError> {
        let store = Arc::new(Store::open(&config.store, &config.mount_point)?);
        let options = Options { cache_bytes, max_bytes: config.max_bytes };
        let vfs = Vfs::open(Arc::clone(&store), options)?;
        // Somebody may write before the upstream answers. A directory that is taken over is not new.
        if config.sync.upstream.is_some() && !config.shim.adopt {
            store.await_upstream(store.workspace())?;
        }
        let shim = ShimSettings {
            poll: config.shim.poll,
            events: config.shim.events,
            adopt: config.shim.adopt,
            shadow: shadow_of(store.location()),
            identity: store.created(store.workspace())?.to_string(),
        };
        let mount = match Mount::start(&vfs, &config.mount_point, config.mount, &shim) {
            Ok(mount) => mount,
            Err(error) => {
                vfs.shutdown()?;
                return Err(error.into());
            }
        };
        Ok(Self { store, vfs, mount: RwLock::new(Some(mount)) })
    }

    /// The identity of the workspace, for as long as it lives.
    pub fn id(&self) -> Result<String, WorkspaceError> {
        Ok(self.store.uuid(self.store.workspace())?)
    }

    /// How the workspace is mounted, and why so.
    pub fn mount_backend(&self) -> Option<(Backend, String)> {
        self.mount.read().as_ref().map(|mount| (mount.backend(), mount.reason().to_owned()))
    }

    /// The directory that is kept in step, if that is how the workspace is mounted.
    pub fn directory(&self) -> Option<Directory> {
        self.mount.read().as_ref().and_then(Mount::directory).cloned()
    }

    /// Whether programs can reach the workspace as the settings say.
    pub fn mount_is_ready(&self) -> bool {
        self.mount.read().as_ref().is_some_and(Mount::is_ready)
    }

    /// Why nothing can be added at present.
    pub fn failure(&self) -> Option<FsError> {
        self.vfs.failure()
    }

    /// Unmounts, writes everything to disk and folds the WAL.
    pub fn close(&self) -> Result<(), WorkspaceError> {
        if let Some(mount) = self.mount.write().take() {
            mount.stop();
        }
        self.vfs.shutdown()?;
        self.store.checkpoint(Checkpoint::Truncate)?;
        Ok(())
    }
}

/// Beside the store, because it is about this workspace.
fn shadow_of(location: &Location) -> Option<std::path::PathBuf> {
    let Location::File(file) = location else { return None };
    let mut name = file.clone().into_os_string();
    name.push(".shim");
    Some(name.into())
}
