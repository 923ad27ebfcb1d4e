//! Connections that the daemon makes itself, and serves: for hosts that cannot reach into a container, which is dialled
//! out of instead. Whoever answers gets what a client that connects gets: the workspace.
//!
//! A connection that ends is dialled again, with longer pauses the longer it does not last, until the other side refuses
//! for good or somebody says that it is over.

use crate::client::{ClientError, ClientOptions, jitter, upgrade};
use crate::rpc::{End, Host, Pool};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Connections at a time.
const MOST: usize = 16;

/// The first and the longest pause between two attempts.
const PAUSES: (Duration, Duration) = if cfg!(test) {
    (Duration::from_millis(1), Duration::from_millis(200))
} else {
    (Duration::from_millis(250), Duration::from_secs(30))
};

/// A connection that lasted longer than this was a good one: the next one is dialled after the first pause.
const STEADY: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 10_000 });

/// Whom to dial.
#[derive(Clone, Debug)]
pub struct Order {
    /// ws:// or wss://.
    pub url: String,
    /// What it is to be shown.
    pub token: Option<String>,
    /// A file of certificates in PEM that are trusted too.
    pub ca: Option<PathBuf>,
}

/// Why nobody is dialled.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The address makes no sense.
    #[error("{0}")]
    Url(String),
    /// There are as many as there may be.
    #[error("there are {MOST} connections already: end one with DELETE /connect?id=NUMBER")]
    TooMany,
}

/// How a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallState {
    /// It is being dialled.
    Connecting,
    /// It is there, and served.
    Connected,
    /// It will be dialled again.
    Waiting,
    /// The other side does not want it.
    Refused,
}

impl CallState {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Waiting => "waiting",
            Self::Refused => "refused",
        }
    }
}

/// A connection.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its number.
    pub id: u64,
    /// To whom.
    pub url: String,
    /// How it is.
    pub state: CallState,
    /// How the last attempt ended.
    pub error: Option<String>,
    /// How often it was dialled.
    pub attempts: u64,
}

/// How a connection ended.
struct Ended {
    error: String,
    /// For good.
    is_over: bool,
    /// How long it was there.
    served: Duration,
}

impl Ended {
    fn at_once(error: String, is_over: bool) -> Self {
        Self { error, is_over, served: Duration::ZERO }
    }
}

struct Kept {
    call: Call,
    stop: CancellationToken,
}

/// All of them.
#[derive(Clone, Default)]
pub struct Outbound {
    calls: Arc<Mutex<BTreeMap<u64, Kept>>>,
    /// The last number. None comes twice: who ends one by it must not end another.
    last: Arc<AtomicU64>,
    closing: CancellationToken,
}

impl Outbound {
    /// Dials, and goes on doing so. Needs a tokio runtime around it.
    pub fn begin(&self, pool: Arc<Pool>, host: Arc<Host>, order: Order) -> Result<Call, OutboundError> {
        let options = ClientOptions { token: order.token, ca: order.ca, ..ClientOptions::new(order.url) };
        if !options.url.starts_with("ws://") && !options.url.starts_with("wss://") {
            return Err(OutboundError::Url("the address must begin with ws:// or wss://".to_owned()));
        }
        options.check().map_err(|error| OutboundError::Url(error.to_string()))?;
        let mut calls = self.calls.lock();
        if calls.values().filter(|kept| kept.call.state != CallState::Refused).count() >= MOST {
            return Err(OutboundError::TooMany);
        }
        // Those that were refused stay to be looked at, as long as there is room.
        if calls.len() >= MOST {
            calls.retain(|_, kept| kept.call.state != CallState::Refused);
        }
        let id = 1 + self.last.fetch_add(1, Ordering::Relaxed);
        let (url, stop) = (options.url.clone(), self.closing.child_token());
        let call = Call { id, url, state: CallState::Connecting, error: None, attempts: 0 };
        calls.insert(id, Kept { call: call.clone(), stop: stop.clone() });
        drop(calls);
        let all = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = all.keep(id, &options.url, || all.once(id, &pool, &host, &options, &stop)) => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(call)
    }

    /// All of them, and how they are.
    pub fn list(&self) -> Vec<Call> {
        self.calls.lock().values().map(|kept| kept.call.clone()).collect()
    }

    /// Ends one, or all; how many.
    pub fn end(&self, id: Option<u64>) -> usize {
        let mut calls = self.calls.lock();
        let ended = match id {
            None => std::mem::take(&mut *calls),
            Some(id) => calls.remove(&id).map(|kept| (id, kept)).into_iter().collect(),
        };
        ended.values().for_each(|kept| kept.stop.cancel());
        ended.len()
    }

    /// Dials nobody any more.
    pub fn close(&self) {
        self.closing.cancel();
    }

    fn note(&self, id: u64, change: impl FnOnce(&mut Call)) {
        if let Some(kept) = self.calls.lock().get_mut(&id) {
            change(&mut kept.call);
        }
    }

    /// The life of one: dialled again and again.
    async fn keep<F: Future<Output = Ended>>(&self, id: u64, url: &str, once: impl Fn() -> F) {
        let mut pause = PAUSES.0;
        loop {
            self.note(id, |call| {
                call.state = CallState::Connecting;
                call.attempts += 1;
            });
            let Ended { error, is_over, served } = once().await;
            tracing::info!(connection = id, url, error, is_over, "a connection that was dialled ends");
            self.note(id, |call| {
                call.state = if is_over { CallState::Refused } else { CallState::Waiting };
                call.error = Some(error);
            });
            if is_over {
                return;
            }
            if served > STEADY {
                pause = PAUSES.0;
            }
            tokio::time::sleep(jitter(pause)).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// One connection.
    async fn once(
        &self,
        id: u64,
        pool: &Pool,
        host: &Arc<Host>,
        options: &ClientOptions,
        stop: &CancellationToken,
    ) -> Ended {
        let web = match upgrade(options).await {
            Ok(web) => web,
            Err(error) => return Ended::at_once(error.to_string(), is_final(&error)),
        };
        let since = Instant::now();
        self.note(id, |call| {
            call.state = CallState::Connected;
            call.error = None;
        });
        tracing::info!(connection = id, url = options.url, "a connection that was dialled is served");
        match pool.serve_dialled(Arc::clone(host), web, stop.clone()).await {
            Some(End { reason, refused }) => {
                Ended { error: reason, is_over: refused, served: since.elapsed() }
            }
            None => Ended::at_once("there are too many sessions".to_owned(), false),
        }
    }
}

/// Whether it makes no sense to try again.
fn is_final(error: &ClientError) -> bool {
    match error {
        ClientError::Connect { is_temporary, .. } => !is_temporary,
        ClientError::Secret { .. } | ClientError::Url { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// The first ten pauses, if each dial takes so long, and each connection lasts so long.
    async fn pauses(dial: Duration, served: Duration) -> Vec<Duration> {
        let (all, ended) = (Outbound::default(), RefCell::new(None));
        let found = RefCell::new(Vec::new());
        all.keep(1, "ws://nowhere/", || async {
            let pause = ended.borrow().map(|ended: Instant| ended.elapsed());
            found.borrow_mut().extend(pause);
            tokio::time::sleep(dial + served).await;
            *ended.borrow_mut() = Some(Instant::now());
            Ended { error: String::new(), is_over: found.borrow().len() == 10, served }
        })
        .await;
        found.into_inner()
    }

    #[tokio::test]
    async fn a_dial_that_takes_long_is_no_steady_connection() {
        let (short, long) = (Duration::from_millis(1), Duration::from_millis(60));
        let slow = pauses(long, Duration::ZERO).await;
        assert!(slow[9] >= PAUSES.1 / 2, "{slow:?}");
        let steady = pauses(short, long).await;
        assert!(steady.iter().skip(7).min() < Some(&(PAUSES.1 / 2)), "{steady:?}");
    }
}
