//! What is told of sync, without RPC.

use super::State;
use crate::sync::status::{LinkState, Status};
use std::sync::atomic::Ordering;

impl State {
    /// How this workspace is in step with its upstream, once it is served.
    pub(super) fn sync_status(&self) -> Option<Status> {
        self.host.get().map(|host| host.sync.control.status())
    }

    /// Why the first sync since the start has not been done; none when it has, or when there is no upstream.
    pub(super) fn not_synced(&self) -> Option<String> {
        if self.config.sync.upstream.is_none() || self.synced.load(Ordering::Relaxed) {
            return None;
        }
        if self.host.get()?.sync.control.is_ready() {
            self.synced.store(true, Ordering::Relaxed);
            return None;
        }
        let status = self.sync_status()?;
        let why = match (status.link, status.last_error) {
            (LinkState::Connected, None) => {
                format!("{} nodes are still to come", status.incoming_entries)
            }
            (_, Some(error)) => error,
            (link, None) => format!("the upstream is {}", link.word()),
        };
        Some(format!("the first sync is not done: {why}"))
    }
}
