//! A daemon, from elsewhere: everything its RPC plane offers, as Rust.
//!
//! Cap'n Proto's objects live in one thread, and connections come and go; callers want neither to matter. So each
//! client has a thread with the vat in it, and the handle sends it what is to be done. A call that only reads is
//! asked again over the next connection when it was lost with this one; a call that changes something is not, and
//! says that nobody can tell ([`Applied::Unknown`]). What is long goes on where it was: a file that is read at the
//! offset, a watch at the revision, a search with what it has not found yet.
//!
//! - `dial`: addresses, TCP, TLS. `link`: one connection. `vat`: the thread, and connecting again.
//! - `reads`, `changes`, `sync`: one call, one answer. `source`, `sink`, `cursor`, `watch`, `commands`: the
//!   long ones.
//! - `error`, `types`, `convert`: what callers see, and how the wire has it. `http`: what is asked without RPC.

mod changes;
mod commands;
mod convert;
mod cursor;
mod dial;
mod error;
mod http;
mod link;
mod reads;
mod sink;
mod source;
mod sync;
#[cfg(test)]
mod tests;
mod types;
mod vat;
mod watch;

pub use commands::{Attached, AttachedEvents, CommandEvent, CommandInput};
pub use cursor::Cursor;
pub use dial::Duplex;
pub use error::{Applied, ClientError};
pub use http::page;
pub use link::upgrade;
pub use sink::Writer;
pub use source::ByteStream;
pub use types::*;
pub(crate) use vat::jitter;
pub use watch::Watcher;

use dial::Target;
use error::Failure;
use link::Link;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use vat::{Effect, Job, Vat};

/// Most bytes of one call; what is larger is streamed.
pub const MAX_DATA: usize = 4 << 20;

/// Whom to talk to, and how patiently.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// ws:// or wss://, such as `ws://127.0.0.1:45678/ws`.
    pub url: String,
    /// The daemon's secret.
    pub token: Option<String>,
    /// How long to try to connect again after a connection was lost.
    pub reconnect: Duration,
    /// How long a connection may be silent before it counts as lost; pings go out three times as often.
    pub silence: Duration,
    /// Whether to connect again at all. Otherwise every call fails once the first connection is lost.
    pub redial: bool,
    /// A file of certificates in PEM that are trusted beside those that this machine trusts.
    pub ca: Option<PathBuf>,
}

impl ClientOptions {
    /// The usual patience: 30 seconds to connect again, 60 of silence.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: None,
            reconnect: Duration::from_secs(30),
            silence: Duration::from_secs(60),
            redial: true,
            ca: None,
        }
    }
}

impl ClientOptions {
    /// Whether address and secret make sense; nobody is asked.
    pub fn check(&self) -> Result<(), ClientError> {
        Target::new(self).map(drop)
    }
}

/// A daemon. Clones are the same one; the connection is closed with the last of them and of what they opened.
#[derive(Clone, Debug)]
pub struct Client {
    jobs: mpsc::UnboundedSender<Job>,
}

impl Client {
    /// Connects. A daemon that cannot be reached now is an error; one that goes away later is waited for.
    pub async fn connect(options: ClientOptions) -> Result<Self, ClientError> {
        let target = Target::new(&options)?;
        let (jobs, queue) = mpsc::unbounded_channel();
        let (ready, connected) = oneshot::channel();
        let thread = std::thread::Builder::new().name("wsd-client".to_owned());
        let started = thread.spawn(move || vat::live(target, options, queue, ready));
        started.map_err(|error| ClientError::Closed(error.to_string()))?;
        connected.await.map_err(|_| ended())??;
        Ok(Self { jobs })
    }

    /// Does something in the vat. It is dropped when the caller does not wait for it any more.
    async fn run<T, W, F>(&self, work: W) -> Result<T, ClientError>
    where
        T: Send + 'static,
        W: FnOnce(Rc<Vat>) -> F + Send + 'static,
        F: Future<Output = Result<T, ClientError>> + 'static,
    {
        let (mut reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |vat| {
            tokio::task::spawn_local(async move {
                tokio::select! {
                    result = work(vat) => drop(reply.send(result)),
                    () = reply.closed() => {}
                }
            });
        });
        self.jobs.send(job).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// One call, one answer.
    async fn ask<T, A, F>(&self, effect: Effect, ask: A) -> Result<T, ClientError>
    where
        T: Send + 'static,
        A: Fn(&Rc<Link>) -> F + Send + 'static,
        F: Future<Output = Result<T, Failure>> + 'static,
    {
        self.run(move |vat| async move { vat.ask(effect, ask).await }).await
    }
}

fn ended() -> ClientError {
    ClientError::Closed("its thread is gone".to_owned())
}
