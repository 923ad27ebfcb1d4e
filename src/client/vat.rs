//! The thread that has the connection, and connects again.

use super::ClientOptions;
use super::dial::{Target, Unreachable};
use super::error::{Applied, ClientError, Failure};
use super::link::Link;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

/// Something to do where the connection is.
pub(super) type Job = Box<dyn FnOnce(Rc<Vat>) + Send>;

/// What a call does to the workspace, which says what a lost answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing: it can be asked again.
    Reads,
    /// Something: it is not asked again.
    Changes,
}

/// Most connections that are lost under one call, or one soon after the other under a long one that gets nowhere.
pub(super) const TRIES: usize = 8;

/// The first and the longest pause between two attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A connection that is lost sooner than this is not replaced at once.
const STEADY: Duration = Duration::from_secs(1);

/// The connection's place; there is one at a time.
pub(super) struct Vat {
    target: Target,
    options: ClientOptions,
    slot: Mutex<Option<Rc<Link>>>,
}

/// The life of the thread: from the first connection to the last handle.
pub(super) fn live(
    target: Target,
    options: ClientOptions,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    ready: oneshot::Sender<Result<(), ClientError>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(ClientError::Closed(error.to_string())))),
    };
    LocalSet::new().block_on(&runtime, async move {
        let link = match Link::connect(&target, &options).await {
            Ok(link) => Rc::new(link),
            Err(unreachable) => return drop(ready.send(Err(unreachable.error))),
        };
        let vat = Rc::new(Vat { target, options, slot: Mutex::new(Some(link)) });
        drop(ready.send(Ok(())));
        while let Some(job) = jobs.recv().await {
            job(Rc::clone(&vat));
        }
        let last = vat.slot.lock().await.take();
        if let Some(link) = last {
            link.close().await;
        }
    });
}

impl Vat {
    /// The connection; a new one if it was lost.
    pub(super) async fn link(&self) -> Result<Rc<Link>, ClientError> {
        let deadline = Instant::now() + self.options.reconnect;
        let mut slot = self.slot.lock().await;
        if let Some(link) = slot.as_ref().filter(|link| link.loss().is_none()) {
            return Ok(Rc::clone(link));
        }
        if let Some(lost) = slot.as_ref().filter(|_| !self.options.redial) {
            let reason = lost.loss().unwrap_or_default();
            return Err(ClientError::Lost { url: self.target.url.clone(), reason, applied: Applied::No });
        }
        if slot.take().is_some_and(|link| link.age() < STEADY) {
            sleep(jitter(4 * PAUSES.0)).await;
        }
        let link = Rc::new(self.connect(deadline).await?);
        *slot = Some(Rc::clone(&link));
        Ok(link)
    }

    /// Tries until the deadline, and at least once.
    async fn connect(&self, deadline: Instant) -> Result<Link, ClientError> {
        let mut pause = PAUSES.0;
        loop {
            match Link::connect(&self.target, &self.options).await {
                Ok(link) => return Ok(link),
                Err(Unreachable { error, is_temporary }) => {
                    let pause = jitter(pause);
                    if !is_temporary || Instant::now() + pause >= deadline {
                        return Err(error);
                    }
                    sleep(pause).await;
                }
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Asks; what only reads is asked again over the next connection.
    pub(super) async fn ask<T, F>(
        &self,
        effect: Effect,
        ask: impl Fn(&Rc<Link>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut tries = 1;
        loop {
            let link = self.link().await?;
            let error = match ask(&link).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => self.judge(&link, failure, effect),
            };
            let is_lost = matches!(error, ClientError::Lost { .. });
            if !is_lost || effect == Effect::Changes || tries == TRIES {
                return Err(error);
            }
            tries += 1;
        }
    }

    /// What a failure means to the caller.
    pub(super) fn judge(&self, link: &Link, failure: Failure, effect: Effect) -> ClientError {
        let error = match failure {
            Failure::Told(error) => return error,
            Failure::Broken(error) => error,
        };
        let url = self.target.url.clone();
        let applied = if effect == Effect::Reads { Applied::No } else { Applied::Unknown };
        if error.kind == capnp::ErrorKind::Disconnected {
            link.give_up(&error.extra);
        }
        if let Some(reason) = link.loss() {
            return ClientError::Lost { url, reason, applied };
        }
        match error.kind {
            capnp::ErrorKind::Overloaded => ClientError::Refused {
                code: "EBUSY".to_owned(),
                message: error.extra,
                path: Vec::new(),
                applied,
            },
            _ => ClientError::Protocol { url, reason: error.extra, applied },
        }
    }
}

/// How many losses in a row it is, when so many have been before this one.
pub(super) fn losses_with(before: usize, lost: &Link) -> usize {
    if lost.age() < STEADY { before + 1 } else { 1 }
}

/// Between half of a pause and all of it, so that clients that lost one daemon do not return as one.
pub(crate) fn jitter(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) >> 32;
    pause.mul_f64(0.5 + random as f64 / f64::from(u32::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_differ_and_stay_in_their_bounds() {
        let pauses: Vec<_> = (0..100).map(|_| jitter(PAUSES.1)).collect();
        assert!(pauses.iter().all(|pause| *pause >= PAUSES.1 / 2 && *pause <= PAUSES.1), "{pauses:?}");
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
