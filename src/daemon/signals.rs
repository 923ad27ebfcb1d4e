//! SIGTERM and SIGINT: the first one asks, the second one ends.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code after a second signal: as after SIGTERM.
const ENDED: i32 = 128 + 15;

pub(super) struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Waits for one; returns whether it was SIGTERM.
    pub(super) async fn wait(&mut self) -> bool {
        tokio::select! {
            _ = self.term.recv() => true,
            _ = self.int.recv() => false,
        }
    }

    /// From now on a signal ends the process. The store takes no harm: it is whole at every moment.
    pub(super) async fn end_at_once_on_the_next(mut self) {
        self.wait().await;
        std::process::exit(ENDED);
    }
}
