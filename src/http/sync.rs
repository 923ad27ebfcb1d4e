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
        let status = self.sync_status()?;
        if has_caught_up(&status) {
            self.synced.store(true, Ordering::Relaxed);
            return None;
        }
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

/// Whether all that the upstream is known to have is here.
fn has_caught_up(status: &Status) -> bool {
    status.link == LinkState::Connected
        && status.last_contact.is_some()
        && status.incoming_entries == 0
        && status.pulled >= status.upstream_revision
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sync_is_done_when_all_that_is_known_is_here() {
        let done = Status {
            link: LinkState::Connected,
            last_contact: Some(1),
            pulled: 7,
            upstream_revision: 7,
            ..Status::default()
        };
        assert!(has_caught_up(&done));
        assert!(!has_caught_up(&Status { link: LinkState::Connecting, ..done.clone() }));
        assert!(!has_caught_up(&Status { upstream_revision: 8, ..done.clone() }));
        assert!(!has_caught_up(&Status { incoming_entries: 1, ..done.clone() }));
        assert!(!has_caught_up(&Status { last_contact: None, ..done }));
    }
}
