//! One connection: what its objects share, and how their calls are run.

use super::workspace::{About, WorkspaceObject};
use crate::exec::Execs;
use crate::metrics;
use crate::service::{Failure, Files, Outcome, Stopped};
use crate::wire::{Ledger, Limits, Network, Side};
use bytes::Bytes;
use capnp::Error;
use capnp_rpc::RpcSystem;
use futures::Stream;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::{Notify, Semaphore, mpsc};
use wsd_schema::workspace_capnp::workspace;

/// Threads that one session may have waiting at a time.
const WAITING: usize = 16;

/// Capabilities that one session may have open, beside the workspace and its files.
const OPEN: usize = 4096;

/// What all sessions serve.
pub struct Host {
    /// The files.
    pub files: Files,
    /// The commands; none where programs cannot reach the workspace.
    pub execs: Option<Arc<Execs>>,
    /// What is told of the daemon.
    pub about: About,
    changed: Arc<Notify>,
    next_session: AtomicU64,
}

impl Host {
    /// Serves a workspace.
    pub fn new(files: Files, execs: Option<Arc<Execs>>, about: About) -> Self {
        let changed = Arc::new(Notify::new());
        let notify = Arc::clone(&changed);
        files.vfs().on_change(move || notify.notify_waiters());
        Self { files, execs, about, changed, next_session: AtomicU64::new(1) }
    }

    /// Notified when the feed has grown.
    pub(super) fn changed(&self) -> &Notify {
        &self.changed
    }
}

/// What the objects of a connection share.
pub(super) struct Session {
    pub(super) host: Arc<Host>,
    pub(super) ledger: Rc<Ledger>,
    waiting: Arc<Semaphore>,
    ended: Arc<AtomicBool>,
    open: Cell<usize>,
    /// For the log.
    pub(super) id: u64,
    calls: Cell<u64>,
}

/// A capability that is open.
pub(super) struct Opened(Rc<Session>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// A call that is being answered.
pub(super) struct Begun {
    session: u64,
    call: u64,
    method: &'static str,
    at: Instant,
}

impl Begun {
    /// The call has its answer.
    pub(super) fn end<T>(self, outcome: Outcome<T>) -> Outcome<T> {
        let Self { session, call, method, at } = self;
        let code = outcome.as_ref().err().map(|failure| failure.code);
        metrics::call(method, code, at.elapsed());
        tracing::debug!(session, call, method, code, micros = at.elapsed().as_micros() as u64, "answered");
        outcome
    }
}

/// Says that nobody waits for a call any more, when it is dropped.
struct Interest(Arc<AtomicBool>);

impl Drop for Interest {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Session {
    pub(super) fn new(host: Arc<Host>, limits: Limits) -> Rc<Self> {
        let id = host.next_session.fetch_add(1, Ordering::Relaxed);
        Rc::new(Self {
            host,
            ledger: Ledger::new(limits),
            waiting: Arc::new(Semaphore::new(WAITING)),
            ended: Arc::default(),
            open: Cell::new(0),
            id,
            calls: Cell::new(0),
        })
    }

    /// The vat of this session: to be driven until the connection ends.
    pub(super) fn vat(
        self: &Rc<Self>,
        frames: impl Stream<Item = Result<Bytes, Error>> + 'static,
        outgoing: mpsc::UnboundedSender<Bytes>,
    ) -> RpcSystem<Side> {
        let network = Network::new(frames, outgoing, Rc::clone(&self.ledger), Side::Server);
        let object = WorkspaceObject::new(Rc::clone(self));
        let bootstrap: workspace::Client = capnp_rpc::new_client(object);
        RpcSystem::new(Box::new(network), Some(bootstrap.client))
    }

    /// Runs a call in a thread that may wait. `stopped` tells it when nobody waits for it any more.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        method: &'static str,
        work: impl FnOnce(&Files, Stopped<'_>) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let begun = self.begin(method);
        begun.end(self.run_unmeasured(work).await)
    }

    /// A call begins.
    pub(super) fn begin(&self, method: &'static str) -> Begun {
        self.calls.set(self.calls.get() + 1);
        Begun { session: self.id, call: self.calls.get(), method, at: Instant::now() }
    }

    async fn run_unmeasured<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files, Stopped<'_>) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let closed = || Failure::new("ESHUTDOWN", "the session is over");
        let permit = Arc::clone(&self.waiting).acquire_owned().await.map_err(|_| closed())?;
        let dropped = Arc::new(AtomicBool::new(false));
        let _interest = Interest(Arc::clone(&dropped));
        let (host, ended) = (Arc::clone(&self.host), Arc::clone(&self.ended));
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&host.files, &|| dropped.load(Ordering::Relaxed) || ended.load(Ordering::Relaxed))
        });
        task.await.unwrap_or_else(|error| Err(Failure::new("EIO", format!("the call failed: {error}"))))
    }

    /// Room for one more capability.
    pub(super) fn open(self: &Rc<Self>) -> Outcome<Opened> {
        if self.open.get() >= OPEN {
            let text = format!("{OPEN} capabilities are open on this connection: drop some");
            return Err(Failure::new("EMFILE", text));
        }
        self.open.set(self.open.get() + 1);
        Ok(Opened(Rc::clone(self)))
    }

    /// The connection has ended: calls that still run are told so.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.waiting.close();
    }

    /// Calls so far.
    pub(super) fn calls(&self) -> u64 {
        self.calls.get()
    }
}
