//! What commands wait for before and after they run: the directory that they run in, and the upstream.

use crate::exec::{Changed, Surroundings};
use crate::http::State;
use crate::mount::Directory;
use crate::replica::Control;
use crate::service::Tracker;
use crate::sync::link::Answer;
use crate::workspace::Workspace;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::{Arc, Weak};
use std::time::Duration;

pub(super) struct Around {
    /// Where the mount is, once everything has started.
    pub(super) state: Weak<State>,
    pub(super) tracker: Tracker,
    /// Where it is a plain directory that is kept in step.
    pub(super) directory: Option<Directory>,
    pub(super) control: Arc<Control>,
}

impl Around {
    /// Waits for upstream; after `limit` no longer.
    async fn wait<T>(
        control: &Control,
        work: impl Future<Output = Answer<T>>,
        limit: Option<Duration>,
    ) -> Result<(), String> {
        let Some(limit) = limit else {
            return work.await.map(drop).map_err(|error| error.to_string());
        };
        match tokio::time::timeout(limit, work).await {
            Ok(answer) => answer.map(drop).map_err(|error| error.to_string()),
            Err(_) => {
                let why = control.link_error().map(|error| format!(": {error}")).unwrap_or_default();
                Err(format!("not within {} seconds{why}", limit.as_secs_f64()))
            }
        }
    }
}

impl Surroundings for Around {
    fn is_there(&self) -> bool {
        let state = self.state.upgrade();
        state.is_some_and(|state| state.workspace.get().is_some_and(Workspace::mount_is_ready))
    }

    fn settle_out(&self) {
        if let Some(directory) = &self.directory {
            directory.settle_out();
        }
    }

    fn settle_in(&self) {
        if let Some(directory) = &self.directory {
            directory.settle_in();
        }
    }

    fn pull(&self, limit: Option<Duration>) -> BoxFuture<'static, Result<(), String>> {
        let control = Arc::clone(&self.control);
        async move {
            if !control.has_upstream() {
                return Ok(());
            }
            Self::wait(&control, control.catch_up(), limit).await
        }
        .boxed()
    }

    fn push(&self, revision: u64, limit: Option<Duration>) -> BoxFuture<'static, Result<(), String>> {
        let control = Arc::clone(&self.control);
        if control.has_upstream() {
            return async move { Self::wait(&control, control.flush(revision), limit).await }.boxed();
        }
        let vfs = Arc::clone(self.tracker.0.vfs());
        let synced = tokio::task::spawn_blocking(move || vfs.sync());
        async move {
            match synced.await {
                Ok(synced) => synced.map_err(|error| error.to_string()),
                Err(_) => Err("the work was broken off".to_owned()),
            }
        }
        .boxed()
    }

    fn revision(&self) -> u64 {
        self.tracker.revision()
    }

    fn changes(&self, command: u32, after: u64, up_to: u64) -> (Vec<Changed>, bool) {
        self.tracker.changes_of(command, after, up_to)
    }
}
