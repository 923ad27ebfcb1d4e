//! One connection: what its objects share, and how their calls are run.

use super::workspace::{About, WorkspaceObject};
use crate::exec::Execs;
use crate::metrics;
use crate::replica::Control;
use crate::service::{Failure, Files, Outcome, Stopped};
use crate::sync::Hub;
use crate::wire::{Ledger, Limits, Network, Side};
use bytes::Bytes;
use capnp::Error;
use capnp_rpc::RpcSystem;
use futures::Stream;
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, Semaphore, mpsc};
use wsd_schema::workspace_capnp::workspace;

/// Threads that one session may have waiting at a time.
const WAITING: usize = 16;

/// Threads that one session may have searching at a time, and all sessions together.
const SEARCHING: usize = 4;
const SEARCHERS: usize = 64;

/// How much the searching threads stand back: whoever has to answer, in the mount or here, comes first.
const NICE: i32 = 10;

/// Capabilities that one session may have open, beside the workspace and its files.
const OPEN: usize = 4096;

/// What a search counts as among them: it holds a compiled pattern and lines that were found.
const SEARCH: usize = 16;

/// Edits at a time, of all sessions together: each holds a file and what becomes of it in memory.
const EDITS: usize = 2;

/// Batches at a time whose answers take much room, of all together.
const LARGE_BATCHES: usize = 2;

/// The workspace in step with others: below it its replicas, above it its upstream.
#[derive(Clone)]
#[allow(missing_docs, reason = "each field is what its name says")]
pub struct Syncing {
    pub hub: Arc<Hub>,
    pub control: Arc<Control>,
}

/// What all sessions serve.
pub struct Host {
    /// The files.
    pub files: Files,
    /// The commands; none where programs cannot reach the workspace.
    pub execs: Option<Arc<Execs>>,
    /// The workspace in step with others.
    pub sync: Syncing,
    /// What is told of the daemon.
    pub about: About,
    changed: Arc<Notify>,
    edits: Arc<Semaphore>,
    pub(super) large_batches: Semaphore,
    searchers: Searchers,
    next_session: AtomicU64,
}

/// Threads for what keeps the processor busy.
struct Searchers(Option<Runtime>);

impl Searchers {
    fn start() -> io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).max_blocking_threads(SEARCHERS).thread_name("wsd-search");
        // A thread that cannot stand back works all the same.
        builder.on_thread_start(|| {
            let _ = rustix::process::setpriority_process(None, NICE);
        });
        Ok(Self(Some(builder.build()?)))
    }
}

impl Drop for Searchers {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Where a call runs.
#[derive(Clone, Copy)]
enum Where {
    Waiting,
    Searching,
}

impl Host {
    /// Serves a workspace.
    pub fn new(files: Files, execs: Option<Arc<Execs>>, sync: Syncing, about: About) -> io::Result<Self> {
        let changed = Arc::new(Notify::new());
        let notify = Arc::clone(&changed);
        files.vfs().on_change(move || notify.notify_waiters());
        Ok(Self {
            files,
            execs,
            sync,
            about,
            changed,
            edits: Arc::new(Semaphore::new(EDITS)),
            large_batches: Semaphore::new(LARGE_BATCHES),
            searchers: Searchers::start()?,
            next_session: AtomicU64::new(1),
        })
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
    searching: Arc<Semaphore>,
    ended: Arc<AtomicBool>,
    open: Cell<usize>,
    /// One edit at a time, so that no session is more than once in the queue of all.
    edit: Arc<Semaphore>,
    /// For the log.
    pub(super) id: u64,
    calls: Cell<u64>,
}

/// A capability that is open, and what it counts as.
pub(super) struct Opened(Rc<Session>, usize);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - self.1);
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

/// How long a vat may take to let go of everything.
const WIND_UP: Duration = Duration::from_secs(2);

/// Ends a vat whose connection is over. One that is only dropped is kept by what it holds itself.
pub(super) async fn wind_up(vat: Pin<&mut RpcSystem<Side>>) {
    let disconnector = vat.get_disconnector();
    let _ = tokio::time::timeout(WIND_UP, futures::future::select(disconnector, vat)).await;
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
            searching: Arc::new(Semaphore::new(SEARCHING)),
            ended: Arc::default(),
            open: Cell::new(0),
            edit: Arc::new(Semaphore::new(1)),
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
        self.run_in(Where::Waiting, method, work).await
    }

    /// Answers a call here and now, if that needs nothing that may wait. A thread that may would cost more than the
    /// answer.
    pub(super) fn at_once<T>(
        &self,
        method: &'static str,
        look: impl FnOnce(&Files) -> Option<T>,
    ) -> Option<T> {
        let at = Instant::now();
        let found = look(&self.host.files)?;
        self.calls.set(self.calls.get() + 1);
        let begun = Begun { session: self.id, call: self.calls.get(), method, at };
        begun.end(Ok(found)).ok()
    }

    /// The same for what keeps the processor busy, in a thread that stands back.
    pub(super) async fn search<T: Send + 'static>(
        &self,
        method: &'static str,
        work: impl FnOnce(&Files, Stopped<'_>) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        self.run_in(Where::Searching, method, work).await
    }

    async fn run_in<T: Send + 'static>(
        &self,
        place: Where,
        method: &'static str,
        work: impl FnOnce(&Files, Stopped<'_>) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let begun = self.begin(method);
        begun.end(self.run_unmeasured(place, work).await)
    }

    /// A call begins.
    pub(super) fn begin(&self, method: &'static str) -> Begun {
        self.calls.set(self.calls.get() + 1);
        Begun { session: self.id, call: self.calls.get(), method, at: Instant::now() }
    }

    /// The same without being measured: a part of a call that was begun.
    pub(super) async fn part<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files, Stopped<'_>) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        self.run_unmeasured(Where::Waiting, work).await
    }

    async fn run_unmeasured<T: Send + 'static>(
        &self,
        place: Where,
        work: impl FnOnce(&Files, Stopped<'_>) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let closed = || Failure::new("ESHUTDOWN", "the session is over");
        let threads = match place {
            Where::Waiting => &self.waiting,
            Where::Searching => &self.searching,
        };
        let permit = Arc::clone(threads).acquire_owned().await.map_err(|_| closed())?;
        let dropped = Arc::new(AtomicBool::new(false));
        let _interest = Interest(Arc::clone(&dropped));
        let (host, ended) = (Arc::clone(&self.host), Arc::clone(&self.ended));
        let searchers = self.host.searchers.0.as_ref().map(|searchers| searchers.handle().clone());
        let work = move || {
            let _permit = permit;
            work(&host.files, &|| dropped.load(Ordering::Relaxed) || ended.load(Ordering::Relaxed))
        };
        let task = match (place, searchers) {
            (Where::Searching, Some(searchers)) => searchers.spawn_blocking(work),
            _ => tokio::task::spawn_blocking(work),
        };
        task.await.unwrap_or_else(|error| Err(Failure::new("EIO", format!("the call failed: {error}"))))
    }

    /// Room for one more capability.
    pub(super) fn open(self: &Rc<Self>) -> Outcome<Opened> {
        self.open_as(1)
    }

    /// Room for one more search.
    pub(super) fn open_search(self: &Rc<Self>) -> Outcome<Opened> {
        self.open_as(SEARCH)
    }

    fn open_as(self: &Rc<Self>, count: usize) -> Outcome<Opened> {
        if self.open.get() + count > OPEN {
            let text = format!(
                "{OPEN} capabilities are open on this connection, of which a search counts as {SEARCH}: drop some"
            );
            return Err(Failure::new("EMFILE", text));
        }
        self.open.set(self.open.get() + count);
        Ok(Opened(Rc::clone(self), count))
    }

    /// Waits until an edit may begin; it may go on until what is returned is dropped.
    pub(super) async fn turn_to_edit(&self) -> impl Send + use<> {
        (Arc::clone(&self.edit).acquire_owned().await, Arc::clone(&self.host.edits).acquire_owned().await)
    }

    /// The connection has ended: calls that still run are told so.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.waiting.close();
        self.searching.close();
    }

    /// Calls so far.
    pub(super) fn calls(&self) -> u64 {
        self.calls.get()
    }
}
