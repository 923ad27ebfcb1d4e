//! SIGTERM, SIGINT and SIGHUP: the first one asks, the second one ends.

use std::io;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};

/// Exit code after a second signal: as after SIGTERM.
const ENDED: i32 = 128 + 15;

/// Signals so soon after the first are the same one, as whoever signals a process and then its group sends it.
pub const ECHO: Duration = Duration::from_millis(250);

pub(super) struct Signals {
    /// One that came while the daemon started, and nobody has waited for yet.
    came: Option<bool>,
    term: Signal,
    int: Signal,
    hangup: Hangup,
    /// Whoever started this may ignore the end of its children; ours are waited for.
    _child: Signal,
    /// A file beyond `ulimit -f` is an error to who writes it (EFBIG), and not the end of the daemon.
    _too_large: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let too_large = signal(SignalKind::from_raw(libc::SIGXFSZ))?;
        Ok(Self {
            came: None,
            _child: signal(SignalKind::child())?,
            _too_large: too_large,
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hangup: hangup()?,
        })
    }

    /// Waits for one; returns whether it was one that the terminal does not send to every process in it.
    pub(super) async fn wait(&mut self) -> bool {
        if let Some(came) = self.came.take() {
            return came;
        }
        tokio::select! {
            _ = self.term.recv() => true,
            _ = self.int.recv() => false,
            () = self.hangup.come() => true,
        }
    }

    /// While something is done that is not broken off: the first signal is kept for later, the second one ends the process.
    pub(super) fn attend(mut self, runtime: &Runtime) -> Attended {
        let (done, mut is_done) = oneshot::channel::<()>();
        let signals = runtime.spawn(async move {
            let came = tokio::select! {
                came = self.wait() => came,
                _ = &mut is_done => return self,
            };
            tokio::select! {
                () = self.second() => std::process::exit(ENDED),
                _ = is_done => {}
            }
            self.came = Some(came);
            self
        });
        Attended { _done: done, signals }
    }

    /// From now on a signal ends the process. The store takes no harm: it is whole at every moment.
    pub(super) async fn end_at_once_on_the_next(mut self) {
        self.second().await;
        std::process::exit(ENDED);
    }

    /// Waits for one that is not the first one over again.
    async fn second(&mut self) {
        tokio::time::sleep(ECHO).await;
        while tokio::time::timeout(Duration::ZERO, self.wait()).await.is_ok() {}
        self.wait().await;
    }
}

/// Signals that are attended to meanwhile; dropped, no longer.
pub(super) struct Attended {
    _done: oneshot::Sender<()>,
    signals: JoinHandle<Signals>,
}

impl Attended {
    /// It is done.
    pub(super) fn end(self, runtime: &Runtime) -> Result<Signals, JoinError> {
        let Self { _done: done, signals } = self;
        drop(done);
        runtime.block_on(signals)
    }
}

/// SIGHUP. `None`: whoever started this wants it to outlive the terminal, as nohup(1) does.
pub struct Hangup(Option<Signal>);

/// Waits for SIGHUP from now on, unless it is ignored.
pub fn hangup() -> io::Result<Hangup> {
    Ok(Hangup(if is_hangup_ignored() { None } else { Some(signal(SignalKind::hangup())?) }))
}

impl Hangup {
    /// Returns when it comes.
    pub async fn come(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}

/// From `SigIgn` of `/proc/self/status`, proc_pid_status(5): signal 1 is the lowest bit.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
