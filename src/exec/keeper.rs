//! All commands: those that run, and those that are remembered, in memory and in the store.

use super::cgroup::Groups;
use super::command::{Parts, Reader, Running, read_on};
use super::lineage::Lineage;
use super::log::Log;
use super::process::Family;
use super::spawn;
use super::spec::{Spec, Stdin};
use super::{ExecError, Settings, process};
use crate::clock::Timestamp;
use crate::store::Store;
use crate::store::error::StoreResult;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rustix::process::Signal;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::{Notify, oneshot};

/// How long a child that has ended is left to whoever may wait for it.
const BURIAL: Duration = Duration::from_secs(1);

/// A change that happened while a command ran.
pub type Changed = crate::store::execs::ExecChangeRow;

/// The workspace around commands: what they wait for before and after they run, and what changed in it meanwhile. Implemented
/// by what serves the filesystem.
pub trait Surroundings: Send + Sync {
    /// Whether the directory that commands run in is the workspace.
    fn is_there(&self) -> bool;
    /// Returns when the directory that commands run in has what the workspace has.
    fn settle_out(&self);
    /// Returns when the workspace has what is in the directory that commands run in.
    fn settle_in(&self);
    /// Ready when the workspace has all that its upstream had when this was called; without an upstream at once. After
    /// `limit`, or when that won't come to be: why not.
    fn pull(&self, limit: Option<Duration>) -> BoxFuture<'static, Result<(), String>>;
    /// Ready when the workspace is durable upstream up to this revision; without an upstream: when it is durable here.
    /// After `limit`, or when that won't come to be: why not.
    fn push(&self, revision: u64, limit: Option<Duration>) -> BoxFuture<'static, Result<(), String>>;
    /// The last revision.
    fn revision(&self) -> u64;
    /// The changes after one revision up to another that are of the command with this first process, or of nobody that is
    /// known, and whether that is all of them.
    fn changes(&self, command: u32, after: u64, up_to: u64) -> (Vec<Changed>, bool);
}

/// All commands of a workspace.
pub struct Execs {
    pub(super) settings: Settings,
    pub(super) store: Arc<Store>,
    pub(super) around: Arc<dyn Surroundings>,
    runtime: Handle,
    groups: Option<Groups>,
    lineage: Arc<Lineage>,
    pub(super) commands: Mutex<BTreeMap<String, Arc<Running>>>,
    /// Ids of commands that are being started.
    starting: Mutex<HashSet<String>>,
    pub(super) news: Notify,
    pub(super) closing: AtomicBool,
    counter: AtomicU64,
}

/// An id that is taken for a command that is being started.
struct Starting {
    execs: Arc<Execs>,
    id: String,
}

/// A command of whose processes it is known whose they are.
struct Watched {
    lineage: Arc<Lineage>,
    id: String,
}

impl Watched {
    fn begin(lineage: &Arc<Lineage>, id: &str) -> Self {
        lineage.begin();
        Self { lineage: Arc::clone(lineage), id: id.to_owned() }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.lineage.end(&self.id);
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.execs.starting.lock().remove(&self.id);
    }
}

impl Execs {
    /// Remembers what the store knows: what ran when the daemon was killed is lost. Starts to look after the processes
    /// that lose their parents.
    pub fn open(
        settings: Settings,
        store: Arc<Store>,
        around: Arc<dyn Surroundings>,
        runtime: Handle,
    ) -> StoreResult<Arc<Self>> {
        let execs = Arc::new(Self {
            settings,
            store,
            around,
            runtime,
            groups: Groups::open(),
            lineage: Arc::default(),
            commands: Mutex::default(),
            starting: Mutex::default(),
            news: Notify::new(),
            closing: AtomicBool::new(false),
            counter: AtomicU64::new(0),
        });
        for row in execs.store.execs(execs.store.workspace())? {
            let command = execs.restore(row)?;
            execs.commands.lock().insert(command.id.clone(), Arc::new(command));
        }
        if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
            tracing::warn!(%error, "processes that lose their parent cannot be looked after");
        }
        execs.runtime.spawn(Arc::clone(&execs).keep());
        let in_runtime = execs.runtime.enter();
        match unix::signal(SignalKind::child()) {
            Ok(ends) => drop(execs.runtime.spawn(bury(ends))),
            Err(error) => tracing::warn!(%error, "processes that lose their parent are not waited for"),
        }
        drop(in_runtime);
        Ok(execs)
    }

    /// Starts a command, with somebody who reads it from its first event.
    pub async fn run(self: &Arc<Self>, spec: Spec) -> Result<(Arc<Running>, Reader), ExecError> {
        spec.check()?;
        if self.closing.load(Ordering::Relaxed) {
            return Err(ExecError::Closing);
        }
        let id = if spec.id.is_empty() { self.new_id() } else { spec.id.clone() };
        let starting = self.reserve(&id)?;
        if spec.pull {
            self.around.pull(spec.sync_timeout).await.map_err(ExecError::Behind)?;
        }
        // Who leaves now does not call it off halfway: its process would be no command's.
        let execs = Arc::clone(self);
        let started = self.runtime.spawn(async move { execs.start(spec, &starting).await });
        started.await.map_err(|_| ExecError::Closing)?
    }

    async fn start(
        self: Arc<Self>,
        spec: Spec,
        starting: &Starting,
    ) -> Result<(Arc<Running>, Reader), ExecError> {
        let id = starting.id.clone();
        let watched = Watched::begin(&self.lineage, &id);
        let (execs, wanted, its_id) = (Arc::clone(&self), spec.clone(), id.clone());
        let spawned = tokio::task::spawn_blocking(move || {
            if !execs.around.is_there() {
                return Err(ExecError::Unmounted(execs.settings.mount_point.clone()));
            }
            execs.around.settle_out();
            let start_revision = execs.around.revision();
            spawn::spawn(&wanted, &its_id, &execs.settings).map(|spawned| (spawned, start_revision))
        });
        let (spawned, start_revision) = spawned.await.map_err(|_| ExecError::Closing)??;
        let (parts, pid, input) = Parts::of(spawned);
        let cwd = spawn::directory(&spec, &self.settings.mount_point);
        let log = Log::new(self.settings.log_bytes);
        let group = self.groups.as_ref().and_then(|groups| groups.with(&id, pid));
        if group.is_some() {
            self.lineage.grouped(&id, pid);
        }
        let family = Family { leader: pid, id: id.clone(), group };
        let command = Running::new(id.clone(), &spec, cwd, (family, input), log, start_revision);
        self.commands.lock().insert(id.clone(), Arc::clone(&command));
        let reader = command.attach(Some(0));
        if let Stdin::Bytes(bytes) = spec.stdin.clone() {
            let command = Arc::clone(&command);
            self.runtime.spawn(async move {
                command.feed(&bytes).await;
                command.close_input().await;
            });
        }
        let (driven, around, execs) = (Arc::clone(&command), Arc::clone(&self.around), Arc::clone(&self));
        self.runtime.spawn(async move {
            let left = driven.drive(spec, parts, around).await;
            drop(watched);
            execs.news.notify_one();
            drop(execs);
            read_on(left).await;
        });
        if self.closing.load(Ordering::Relaxed) {
            // The daemon began to stop meanwhile, and may not have seen this one.
            command.end(Duration::ZERO).await;
            return Err(ExecError::Closing);
        }
        tracing::info!(id, pid, command = %String::from_utf8_lossy(&command.shown), "a command begins");
        self.news.notify_one();
        Ok((command, reader))
    }

    /// Takes an id, before a process is marked with it: its processes are told from others' by nothing else.
    fn reserve(self: &Arc<Self>, id: &str) -> Result<Starting, ExecError> {
        let taken = || ExecError::Taken(id.to_owned());
        if !self.starting.lock().insert(id.to_owned()) {
            return Err(taken());
        }
        let starting = Starting { execs: Arc::clone(self), id: id.to_owned() };
        if self.commands.lock().contains_key(id) { Err(taken()) } else { Ok(starting) }
    }

    fn new_id(&self) -> String {
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        format!("{:x}-{count:x}", Timestamp::now().0 / 1_000_000)
    }

    /// A command by its id.
    pub fn get(&self, id: &str) -> Result<Arc<Running>, ExecError> {
        self.commands.lock().get(id).cloned().ok_or_else(|| ExecError::Unknown(id.to_owned()))
    }

    /// Attaches a reader after an event; `None`: to what is to come.
    pub fn attach(&self, id: &str, after: Option<u64>) -> Result<(Arc<Running>, Reader), ExecError> {
        let command = self.get(id)?;
        let reader = command.attach(after);
        Ok((command, reader))
    }

    /// All commands, oldest first.
    pub fn list(&self) -> Vec<Arc<Running>> {
        let mut all: Vec<_> = self.commands.lock().values().cloned().collect();
        all.sort_by_key(|command| command.started);
        all
    }

    /// How many commands are known, and how many of them run.
    pub fn count(&self) -> (usize, usize) {
        let commands = self.commands.lock();
        (commands.len(), commands.values().filter(|command| command.exit().is_none()).count())
    }

    /// Sends a signal to all processes of a command, and ends them after `grace` if one is given. False when it had
    /// ended already.
    pub async fn kill(&self, id: &str, signal: Signal, grace: Option<Duration>) -> Result<bool, ExecError> {
        let command = self.get(id)?;
        if command.exit().is_some() {
            return Ok(false);
        }
        command.give_up();
        let (sent, signalled) = oneshot::channel();
        // Who leaves meanwhile has it ended all the same.
        self.runtime.spawn(async move {
            command.signal(signal).await;
            let _ = sent.send(());
            if let Some(grace) = grace {
                command.see_off(grace).await;
            }
        });
        let _ = signalled.await;
        Ok(true)
    }

    /// Forgets a command that has ended.
    pub async fn dispose(self: &Arc<Self>, id: &str) -> Result<(), ExecError> {
        let command = self.get(id)?;
        if command.exit().is_none() {
            return Err(ExecError::Runs(id.to_owned()));
        }
        let execs = Arc::clone(self);
        let forgotten = tokio::task::spawn_blocking(move || execs.forget(&command));
        if forgotten.await.map_err(|_| ExecError::Closing)?? {
            return Ok(());
        }
        Err(ExecError::Unknown(id.to_owned()))
    }

    /// Says whose a process is, as long as commands run.
    pub fn lineage(&self) -> Arc<Lineage> {
        Arc::clone(&self.lineage)
    }

    /// What a command changed in the workspace, and whether that is all. May wait for the store.
    pub fn changes(&self, id: &str) -> Result<(Vec<Changed>, bool), ExecError> {
        let command = self.get(id)?;
        let (is_stored, end) = {
            let state = command.state.lock();
            (state.is_stored, state.ended.map(|_| state.end_revision))
        };
        if !is_stored {
            let up_to = end.unwrap_or_else(|| self.around.revision());
            return Ok(self.around.changes(command.pid, command.start_revision, up_to));
        }
        let rows = self.store.execs(self.store.workspace())?;
        let complete = rows.iter().any(|row| row.id == id && row.complete);
        Ok((self.store.exec_changes(self.store.workspace(), id)?, complete))
    }

    /// Ends all commands, and keeps what they said. No more are started.
    pub async fn close(self: &Arc<Self>) {
        self.closing.store(true, Ordering::Relaxed);
        let running: Vec<_> = self.list().into_iter().filter(|command| command.exit().is_none()).collect();
        let ends = running.iter().map(|command| async {
            command.give_up();
            command.end(super::command::GRACE).await;
            // Its output ends with its processes.
            let _ = tokio::time::timeout(2 * super::command::GRACE, command.wait()).await;
        });
        futures::future::join_all(ends).await;
        self.store_news().await;
    }
}

impl Running {
    /// When it ended, and the revision then.
    pub fn ended(&self) -> Option<(Timestamp, u64)> {
        let state = self.state.lock();
        state.ended.map(|ended| (ended, state.end_revision))
    }

    /// The first and the last event that can be read.
    pub fn kept(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.log.first(), state.log.last())
    }
}

/// Waits for processes that lost their parents, when the kernel says that one has ended.
async fn bury(mut ends: unix::Signal) {
    let mut suspects = HashSet::new();
    loop {
        // Those that end meanwhile are looked for together: a look costs a file for each of our threads.
        tokio::time::sleep(BURIAL).await;
        let before = std::mem::take(&mut suspects);
        suspects = tokio::task::spawn_blocking(move || process::bury(&before)).await.unwrap_or_default();
        if suspects.is_empty() && ends.recv().await.is_none() {
            return;
        }
    }
}
