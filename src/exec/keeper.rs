//! All commands: those that run, and those that are remembered, in memory and in the store.

use super::cgroup::Groups;
use super::command::{Parts, Reader, Running, State};
use super::log::{Event, Exit, How, Log, Said};
use super::process::Family;
use super::spawn::{self, Input};
use super::spec::{Spec, Stdin};
use super::{ExecError, Settings, process};
use crate::clock::Timestamp;
use crate::store::Store;
use crate::store::error::StoreResult;
use crate::store::execs::{ExecEventRow, ExecRow};
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::process::Signal;
use std::collections::{BTreeMap, HashSet};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// Commands that have ended and are remembered, and for how long.
const REMEMBERED: usize = 1000;
const AGE: i64 = 24 * 3600 * 1_000_000_000;

/// How long new events wait for others before they go to the store.
const GATHER: Duration = Duration::from_millis(200);

/// How often children that nobody waits for are looked for.
const BURIAL: Duration = Duration::from_secs(1);

/// How events are told apart in the store.
const STDOUT: i64 = 1;
const STDERR: i64 = 2;
const EXIT: i64 = 3;

/// A change that happened while a command ran.
pub type Changed = crate::store::execs::ExecChangeRow;

/// Who knows what changed in the workspace; implemented by what serves the filesystem.
pub trait Touched: Send + Sync {
    /// Returns when the directory that commands run in has what the workspace has.
    fn settle_out(&self);
    /// Returns when the workspace has what is in the directory that commands run in.
    fn settle_in(&self);
    /// The last revision.
    fn revision(&self) -> u64;
    /// The changes after one revision up to another, and whether that is all of them.
    fn changes(&self, after: u64, up_to: u64) -> (Vec<Changed>, bool);
}

/// All commands of a workspace.
pub struct Execs {
    settings: Settings,
    store: Arc<Store>,
    touched: Arc<dyn Touched>,
    runtime: Handle,
    groups: Option<Groups>,
    commands: Mutex<BTreeMap<String, Arc<Running>>>,
    /// Ids of commands that are being started.
    starting: Mutex<HashSet<String>>,
    news: Notify,
    closing: AtomicBool,
    counter: AtomicU64,
}

/// An id that is taken for a command that is being started.
struct Starting<'a> {
    execs: &'a Execs,
    id: String,
}

impl Drop for Starting<'_> {
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
        touched: Arc<dyn Touched>,
        runtime: Handle,
    ) -> StoreResult<Arc<Self>> {
        let execs = Arc::new(Self {
            settings,
            store,
            touched,
            runtime,
            groups: Groups::open(),
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
        execs.runtime.spawn(Arc::clone(&execs).bury());
        Ok(execs)
    }

    fn restore(&self, row: ExecRow) -> StoreResult<Running> {
        let rows = self.store.exec_events(self.store.workspace(), &row.id)?;
        let events = rows.into_iter().filter_map(event_of);
        let mut log = Log::restored(self.settings.log_bytes, row.first_seq, events);
        let stored = log.last();
        let is_whole = log.exit().is_some();
        if !is_whole {
            log.push(Said::Exit(Exit { how: How::Lost, timed_out: false, output_cut: false }));
        }
        let mut state = State::of(log);
        (state.stored, state.is_stored) = (stored, is_whole);
        state.ended = Some(row.ended.map_or_else(Timestamp::now, Timestamp));
        state.end_revision = row.end_revision.max(row.start_revision);
        let cwd = PathBuf::from(std::ffi::OsString::from_vec(row.cwd));
        let family = Family { leader: row.pid, id: row.id.clone(), group: None };
        Ok(Running::with(
            (row.id, row.command, cwd),
            (family, Timestamp(row.started), row.start_revision),
            Input::Pipe(None),
            state,
        ))
    }

    /// Starts a command, with somebody who reads it from its first event.
    pub async fn run(self: &Arc<Self>, spec: Spec) -> Result<(Arc<Running>, Reader), ExecError> {
        spec.check()?;
        if self.closing.load(Ordering::Relaxed) {
            return Err(ExecError::Closing);
        }
        let id = if spec.id.is_empty() { self.new_id() } else { spec.id.clone() };
        let _starting = self.reserve(&id)?;
        let (execs, wanted, its_id) = (Arc::clone(self), spec.clone(), id.clone());
        let spawned = tokio::task::spawn_blocking(move || {
            execs.touched.settle_out();
            let start_revision = execs.touched.revision();
            spawn::spawn(&wanted, &its_id, &execs.settings).map(|spawned| (spawned, start_revision))
        });
        let (spawned, start_revision) = spawned.await.map_err(|_| ExecError::Closing)??;
        let (parts, pid, input) = Parts::of(spawned);
        let cwd = spawn::directory(&spec, &self.settings.mount_point);
        let log = Log::new(self.settings.log_bytes);
        let group = self.groups.as_ref().and_then(|groups| groups.with(&id, pid));
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
        let (driven, touched, execs) = (Arc::clone(&command), Arc::clone(&self.touched), Arc::clone(self));
        self.runtime.spawn(async move {
            driven.drive(spec, parts, touched).await;
            execs.news.notify_one();
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
    fn reserve(&self, id: &str) -> Result<Starting<'_>, ExecError> {
        let taken = || ExecError::Taken(id.to_owned());
        if !self.starting.lock().insert(id.to_owned()) {
            return Err(taken());
        }
        let starting = Starting { execs: self, id: id.to_owned() };
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
        command.signal(signal).await;
        if let Some(grace) = grace {
            self.runtime.spawn(async move {
                if tokio::time::timeout(grace, command.wait()).await.is_err() {
                    command.end(Duration::ZERO).await;
                }
            });
        }
        Ok(true)
    }

    /// Forgets a command that has ended.
    pub async fn dispose(self: &Arc<Self>, id: &str) -> Result<(), ExecError> {
        if self.get(id)?.exit().is_none() {
            return Err(ExecError::Runs(id.to_owned()));
        }
        self.commands.lock().remove(id);
        let (execs, id) = (Arc::clone(self), id.to_owned());
        let removed = tokio::task::spawn_blocking(move || {
            execs.store.remove_execs(execs.store.workspace(), std::slice::from_ref(&id))
        });
        Ok(removed.await.map_err(|_| ExecError::Closing)??)
    }

    /// What changed in the workspace while a command ran, and whether that is all. May wait for the store.
    pub fn changes(&self, id: &str) -> Result<(Vec<Changed>, bool), ExecError> {
        let command = self.get(id)?;
        let (is_stored, end) = {
            let state = command.state.lock();
            (state.is_stored, state.ended.map(|_| state.end_revision))
        };
        if !is_stored {
            let up_to = end.unwrap_or_else(|| self.touched.revision());
            return Ok(self.touched.changes(command.start_revision, up_to));
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
            command.end(super::command::GRACE).await;
            // Its output ends with its processes.
            let _ = tokio::time::timeout(2 * super::command::GRACE, command.wait()).await;
        });
        futures::future::join_all(ends).await;
        self.store_news().await;
    }

    /// Stores what is new, as it comes.
    async fn keep(self: Arc<Self>) {
        while !self.closing.load(Ordering::Relaxed) {
            let runs = self.commands.lock().values().any(|command| command.exit().is_none());
            if runs {
                let _ = tokio::time::timeout(GATHER, self.news.notified()).await;
            } else {
                self.news.notified().await;
            }
            self.store_news().await;
            tokio::time::sleep(GATHER / 4).await;
        }
    }

    async fn store_news(self: &Arc<Self>) {
        let execs = Arc::clone(self);
        let stored = tokio::task::spawn_blocking(move || {
            for command in execs.list() {
                execs.store_one(&command)?;
            }
            execs.forget_old()
        });
        match stored.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "what commands said cannot be stored; it is tried again")
            }
            Err(error) => tracing::error!(%error, "what commands said was not stored"),
        }
    }

    fn store_one(&self, command: &Running) -> StoreResult<()> {
        let (events, row, last, has_ended) = {
            let state = command.state.lock();
            if state.is_stored || (state.stored == state.log.last() && state.stored > 0) {
                return Ok(());
            }
            let from = state.stored.max(state.log.first() - 1);
            let events = state.log.after(from, usize::MAX, usize::MAX).unwrap_or_default();
            let row = ExecRow {
                id: command.id.clone(),
                command: command.shown.clone(),
                cwd: command.cwd.as_os_str().as_bytes().to_vec(),
                pid: command.pid,
                started: command.started.0,
                ended: state.ended.map(|ended| ended.0),
                start_revision: command.start_revision,
                end_revision: state.end_revision,
                first_seq: state.log.first(),
                complete: false,
            };
            (events, row, state.log.last(), state.ended.is_some())
        };
        let rows: Vec<ExecEventRow> = events.iter().map(row_of).collect();
        let changes = has_ended.then(|| self.touched.changes(command.start_revision, row.end_revision));
        let complete = changes.as_ref().is_some_and(|(_, complete)| *complete);
        let row = ExecRow { complete, ..row };
        let changes = changes.as_ref().map(|(changes, _)| &changes[..]);
        self.store.put_exec(self.store.workspace(), &row, &rows, changes)?;
        let mut state = command.state.lock();
        state.stored = last;
        state.is_stored = has_ended;
        Ok(())
    }

    /// Forgets the oldest of those that have ended.
    fn forget_old(&self) -> StoreResult<()> {
        let oldest = Timestamp::now().0.saturating_sub(AGE);
        let ended: Vec<_> = self
            .list()
            .into_iter()
            .filter_map(|command| {
                let ended = command.state.lock().ended?;
                Some((ended, command.id.clone()))
            })
            .collect();
        let excess = ended.len().saturating_sub(REMEMBERED);
        let old: Vec<String> = ended
            .into_iter()
            .enumerate()
            .filter(|(at, (ended, _))| *at < excess || ended.0 < oldest)
            .map(|(_, (_, id))| id)
            .collect();
        if old.is_empty() {
            return Ok(());
        }
        self.commands.lock().retain(|id, _| !old.contains(id));
        self.store.remove_execs(self.store.workspace(), &old)
    }

    /// Waits for processes that lost their parents.
    async fn bury(self: Arc<Self>) {
        let mut suspects = HashSet::new();
        while !self.closing.load(Ordering::Relaxed) {
            tokio::time::sleep(BURIAL).await;
            let before = suspects;
            suspects = tokio::task::spawn_blocking(move || process::bury(&before)).await.unwrap_or_default();
        }
    }
}

impl Running {
    /// Writes to its standard input; false when nobody reads it any more.
    pub async fn feed(&self, bytes: &[u8]) -> bool {
        let mut input = self.input.lock().await;
        match &mut *input {
            Input::Pipe(None) => false,
            Input::Pipe(Some(pipe)) => {
                let written =
                    async { pipe.write_all(bytes).await.is_ok() && pipe.flush().await.is_ok() }.await;
                if !written {
                    *input = Input::Pipe(None);
                }
                written
            }
            Input::Terminal(terminal) => terminal.write_all(bytes).await.is_ok(),
        }
    }

    /// Ends its standard input. A terminal is sent its end-of-file character.
    pub async fn close_input(&self) -> bool {
        let mut input = self.input.lock().await;
        match &mut *input {
            Input::Pipe(pipe) => pipe.take().is_some(),
            Input::Terminal(terminal) => terminal.write_all(&[4]).await.is_ok(),
        }
    }

    /// Sets the size of its terminal.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), ExecError> {
        match &*self.input.lock().await {
            Input::Terminal(terminal) => terminal
                .resize(pty_process::Size::new(rows, columns))
                .map_err(|error| ExecError::Spec(format!("the size cannot be set: {error}"))),
            Input::Pipe(_) => Err(ExecError::NoTerminal(self.id.clone())),
        }
    }

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

fn row_of(event: &Event) -> ExecEventRow {
    let (kind, data) = match &event.said {
        Said::Stdout(bytes) => (STDOUT, bytes.to_vec()),
        Said::Stderr(bytes) => (STDERR, bytes.to_vec()),
        Said::Exit(exit) => {
            let (how, value) = match exit.how {
                How::Code(code) => (1u8, code),
                How::Signal(signal) => (2, signal),
                How::Lost => (3, 0),
            };
            let mut data = vec![how, exit.timed_out.into(), exit.output_cut.into()];
            data.extend(value.to_le_bytes());
            (EXIT, data)
        }
    };
    ExecEventRow { seq: event.seq, kind, data }
}

/// `None` for what no version of wsd has written.
fn event_of(row: ExecEventRow) -> Option<Event> {
    let said = match row.kind {
        STDOUT => Said::Stdout(Bytes::from(row.data)),
        STDERR => Said::Stderr(Bytes::from(row.data)),
        EXIT => {
            let (head, value) = row.data.split_first_chunk::<3>()?;
            let value = i32::from_le_bytes(value.try_into().ok()?);
            let how = match head[0] {
                1 => How::Code(value),
                2 => How::Signal(value),
                _ => How::Lost,
            };
            Said::Exit(Exit { how, timed_out: head[1] != 0, output_cut: head[2] != 0 })
        }
        _ => return None,
    };
    Some(Event { seq: row.seq, said })
}
