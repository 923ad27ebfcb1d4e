//! One command: its life from start to exit, and who reads what it says.
//!
//! The exit event comes when all of this is so: the first process has ended; its output has ended too, or those that
//! hold it open have said nothing for the grace period; and nothing that it left behind runs any more, unless it was
//! to be left alone. Output is taken from the pipe only as fast as the slowest reader takes it from us.

use super::input::{Input, Window};
use super::keeper::Surroundings;
use super::log::{Event, Exit, How, Log, Said, Truncated};
use super::process::Family;
use super::spawn::{Spawned, Stream};
use super::spec::Spec;
use crate::clock::Timestamp;
use bytes::Bytes;
use futures::future::join_all;
use parking_lot::Mutex;
use rustix::process::Signal;
use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes that are read from a pipe at a time.
const PORTION: usize = 32 << 10;

/// Bytes that a reader may be behind before the command has to wait; at most half of what is kept.
const WINDOW: usize = 256 << 10;

/// Bytes of one portion of events.
const EVENT_BYTES: usize = 512 << 10;

/// How long processes have to end after SIGTERM.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// How long the output of killed processes may take to be read.
const DRAIN: Duration = Duration::from_secs(1);

/// Where a command says something.
type Output = Box<dyn AsyncRead + Send + Unpin>;

/// A command, running or not.
pub struct Running {
    /// Its id.
    pub id: String,
    /// As the caller gave it.
    pub shown: Vec<u8>,
    /// Where it runs.
    pub cwd: PathBuf,
    /// Its first process.
    pub pid: u32,
    family: Arc<Family>,
    /// When it was started.
    pub started: Timestamp,
    /// The workspace's revision then.
    pub start_revision: u64,
    pub(super) input: tokio::sync::Mutex<Input>,
    pub(super) window: Mutex<Window>,
    pub(super) state: Mutex<State>,
    changed: Notify,
    /// Its time is over.
    timed_out: AtomicBool,
    /// Counts what was said, to see silence.
    said: AtomicU64,
    /// A pump waits for a reader.
    held_up: AtomicBool,
    /// It has ended, and what it did is being brought upstream.
    is_pushing: AtomicBool,
    /// That is not to be waited for any longer.
    enough: Notify,
    /// Held while it is written to the store; true when it was disposed of.
    pub(super) gone: Mutex<bool>,
    /// No process is left that could say more than what is in the pipes: nothing needs to be held up.
    is_over: AtomicBool,
}

pub(super) struct State {
    pub(super) log: Log,
    /// The last event that each reader has taken.
    readers: HashMap<u64, u64>,
    next_reader: u64,
    pub(super) ended: Option<Timestamp>,
    pub(super) end_revision: u64,
    /// Events up to this one are in the store.
    pub(super) stored: u64,
    /// All of it is.
    pub(super) is_stored: bool,
}

impl Running {
    pub(super) fn new(
        id: String,
        spec: &Spec,
        cwd: PathBuf,
        (family, input): (Family, (Input, Window)),
        log: Log,
        start_revision: u64,
    ) -> Arc<Self> {
        Arc::new(Self::with(
            (id, spec.shown(), cwd),
            (family, Timestamp::now(), start_revision),
            input,
            State::of(log),
        ))
    }

    pub(super) fn with(
        (id, shown, cwd): (String, Vec<u8>, PathBuf),
        (family, started, start_revision): (Family, Timestamp, u64),
        (input, window): (Input, Window),
        state: State,
    ) -> Self {
        Self {
            id,
            shown,
            cwd,
            pid: family.leader,
            family: Arc::new(family),
            started,
            start_revision,
            input: tokio::sync::Mutex::new(input),
            window: Mutex::new(window),
            state: Mutex::new(state),
            changed: Notify::new(),
            timed_out: AtomicBool::new(false),
            said: AtomicU64::new(0),
            held_up: AtomicBool::new(false),
            is_pushing: AtomicBool::new(false),
            enough: Notify::new(),
            gone: Mutex::new(false),
            is_over: AtomicBool::new(false),
        }
    }

    /// How it ended, if it did.
    pub fn exit(&self) -> Option<Exit> {
        self.state.lock().log.exit().cloned()
    }

    /// What it said after an event, at most so many bytes of it. Whoever looks so holds nothing up.
    pub fn said_after(&self, seq: u64, max_bytes: usize) -> Result<Vec<Event>, Truncated> {
        self.state.lock().log.after(seq, usize::MAX, max_bytes)
    }

    fn say(&self, said: Said) {
        self.said.fetch_add(1, Ordering::Relaxed);
        self.state.lock().push(said);
        self.changed.notify_waiters();
    }

    /// Attaches a reader, after an event; `None`: to what is to come.
    pub(super) fn attach(self: &Arc<Self>, after: Option<u64>) -> Reader {
        let mut state = self.state.lock();
        let at = after.unwrap_or_else(|| state.log.last()).min(state.log.last());
        let key = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(key, at);
        Reader { command: Arc::clone(self), key, at }
    }

    /// Waits until the slowest reader has room.
    async fn room(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let has_room = self.is_over.load(Ordering::Relaxed) || {
                let state = self.state.lock();
                let window = WINDOW.min(state.log.limit() / 2);
                state.readers.values().all(|seq| state.log.unread(*seq) <= window)
            };
            if has_room {
                self.held_up.store(false, Ordering::Relaxed);
                return;
            }
            self.held_up.store(true, Ordering::Relaxed);
            changed.await;
        }
    }

    /// Takes what it says until that has ended. What is open when the command has ended is given back.
    async fn pump(&self, stream: Stream, mut output: Output) -> Option<Output> {
        let mut buffer = vec![0; PORTION];
        loop {
            let read = async {
                self.room().await;
                output.read(&mut buffer).await
            };
            let read =
                tokio::select! { biased; () = self.wait() => return Some(output), read = read => read };
            match read {
                // A pseudo-terminal that nobody has open any more reads as an error.
                Ok(0) | Err(_) => return None,
                Ok(count) => {
                    let bytes = Bytes::copy_from_slice(&buffer[..count]);
                    self.say(match stream {
                        Stream::Stdout => Said::Stdout(bytes),
                        Stream::Stderr => Said::Stderr(bytes),
                    });
                }
            }
        }
    }

    /// Sends a signal to all its processes.
    pub(super) async fn signal(&self, signal: Signal) -> usize {
        let family = Arc::clone(&self.family);
        tokio::task::spawn_blocking(move || family.signal(signal)).await.unwrap_or(0)
    }

    /// Ends all its processes: politely, and after `grace` not so.
    pub(super) async fn end(&self, grace: Duration) {
        self.signal(Signal::TERM).await;
        self.see_off(grace).await;
    }

    /// Ends it when its time is over, if there is an end to that.
    async fn end_after(&self, time: Option<Duration>) {
        match time {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
        self.timed_out.store(true, Ordering::Relaxed);
        self.end(GRACE).await;
    }

    /// Returns when none of its processes are left; after `grace` they are killed. Or when it was disposed of: another may have
    /// its id then, by which its processes are known.
    pub(super) async fn see_off(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        let mut pause = Duration::from_millis(2);
        // Whoever holds the lock for long is storing it.
        let is_gone = || self.gone.try_lock().is_some_and(|gone| *gone);
        while self.any_left().await && !is_gone() {
            if Instant::now() >= deadline {
                self.signal(Signal::KILL).await;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    async fn any_left(&self) -> bool {
        let family = Arc::clone(&self.family);
        tokio::task::spawn_blocking(move || family.any()).await.unwrap_or(false)
    }

    /// Sees the command through to its exit event. What it has left running may say more to what is returned.
    pub(super) async fn drive(
        self: Arc<Self>,
        spec: Spec,
        spawned: Parts,
        around: Arc<dyn Surroundings>,
    ) -> Vec<Output> {
        let Parts { mut ended, outputs } = spawned;
        let pumps = join_all(outputs.into_iter().map(|(stream, output)| self.pump(stream, output)));
        tokio::pin!(pumps);
        let time_is_over = self.end_after(spec.timeout);
        tokio::pin!(time_is_over);
        let (mut pumps_run, mut has_time) = (true, true);
        let status = loop {
            tokio::select! {
                status = &mut ended => break status,
                _ = &mut pumps, if pumps_run => pumps_run = false,
                () = &mut time_is_over, if has_time => has_time = false,
            }
        };
        let mut cut = false;
        while pumps_run && !cut {
            self.see_whether_over().await;
            let before = self.said.load(Ordering::Relaxed);
            tokio::select! {
                _ = &mut pumps => pumps_run = false,
                () = &mut time_is_over, if has_time => has_time = false,
                () = tokio::time::sleep(spec.output_grace) => {
                    let silent = self.said.load(Ordering::Relaxed) == before;
                    cut = silent && !self.held_up.load(Ordering::Relaxed);
                }
            }
        }
        let leaves = spec.detach && !self.timed_out.load(Ordering::Relaxed);
        if !leaves && self.any_left().await {
            self.end(GRACE).await;
            self.see_whether_over().await;
        }
        if cut && !leaves {
            // What was in the pipe when its last holder ended.
            let _ = tokio::time::timeout(DRAIN, &mut pumps).await;
        }
        let revision = self.settle(Arc::clone(&around)).await;
        let mut not_upstream = None;
        if spec.push {
            not_upstream = self.push(&*around, revision, spec.sync_timeout).await.err();
        }
        self.finish(status, (cut, not_upstream), revision);
        if !leaves {
            self.let_go_of_input().await;
            return Vec::new();
        }
        if pumps_run { pumps.await.into_iter().flatten().collect() } else { Vec::new() }
    }

    /// Has the workspace have all that the command did; the revision that it has then.
    async fn settle(&self, around: Arc<dyn Surroundings>) -> u64 {
        let settled = tokio::task::spawn_blocking(move || {
            around.settle_in();
            around.revision()
        });
        settled.await.unwrap_or(self.start_revision)
    }

    /// Returns when the workspace is upstream up to this revision, or why that was not waited for any longer.
    async fn push(
        &self,
        around: &dyn Surroundings,
        revision: u64,
        limit: Option<Duration>,
    ) -> Result<(), String> {
        self.is_pushing.store(true, Ordering::Relaxed);
        let pushed = tokio::select! {
            pushed = around.push(revision, limit) => pushed,
            () = self.enough.notified() => Err("it was ended while it waited for its upstream".to_owned()),
        };
        self.is_pushing.store(false, Ordering::Relaxed);
        pushed
    }

    /// If it only waits for its upstream: has it wait no longer.
    pub(super) fn give_up(&self) {
        if self.is_pushing.load(Ordering::Relaxed) {
            self.enough.notify_one();
        }
    }

    async fn see_whether_over(&self) {
        if !self.any_left().await {
            self.is_over.store(true, Ordering::Relaxed);
            self.changed.notify_waiters();
        }
    }

    fn finish(
        &self,
        status: std::io::Result<ExitStatus>,
        (output_cut, not_upstream): (bool, Option<String>),
        revision: u64,
    ) {
        let how = match status {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => How::Code(code),
                (None, Some(signal)) => How::Signal(signal),
                (None, None) => How::Lost,
            },
            Err(error) => {
                tracing::error!(id = self.id, %error, "nobody knows how a command ended");
                How::Lost
            }
        };
        let timed_out = self.timed_out.load(Ordering::Relaxed);
        {
            let mut state = self.state.lock();
            state.end_revision = revision;
            state.ended = Some(Timestamp::now());
            state.push(Said::Exit(Exit { how, timed_out, output_cut, not_upstream }));
        }
        self.changed.notify_waiters();
        tracing::debug!(id = self.id, ?how, timed_out, output_cut, "a command has ended");
    }

    /// Returns when it has ended.
    pub(super) async fn wait(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.exit().is_some() {
                return;
            }
            changed.await;
        }
    }
}

impl State {
    fn push(&mut self, said: Said) {
        self.log.push_for(said, self.slowest());
    }

    /// The last event that all readers have taken.
    fn slowest(&self) -> u64 {
        self.readers.values().min().copied().unwrap_or(u64::MAX)
    }

    /// A reader has taken something, or has gone: what was kept for it need not be.
    fn trim(&mut self) {
        self.log.trim(self.slowest());
    }

    pub(super) fn of(log: Log) -> Self {
        Self {
            log,
            readers: HashMap::new(),
            next_reader: 0,
            ended: None,
            end_revision: 0,
            stored: 0,
            is_stored: false,
        }
    }
}

/// Reads what is said to nobody: whoever writes to a pipe that nobody reads is ended by that.
pub(super) async fn read_on(outputs: Vec<Output>) {
    let ends = outputs.into_iter().map(|mut output| async move {
        let _ = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
    });
    join_all(ends).await;
}

/// What is left of a started command when its input has been taken.
pub(super) struct Parts {
    ended: futures::future::BoxFuture<'static, std::io::Result<ExitStatus>>,
    outputs: Vec<(Stream, Output)>,
}

impl Parts {
    /// Takes a started command apart.
    pub(super) fn of(spawned: Spawned) -> (Self, u32, (Input, Window)) {
        let Spawned { pid, ended, outputs, input, window } = spawned;
        (Self { ended, outputs }, pid, (input, window))
    }
}

/// Somebody who reads what a command says. While it is there the command does not get far ahead of it.
pub struct Reader {
    command: Arc<Running>,
    key: u64,
    at: u64,
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.command.state.lock();
        state.readers.remove(&self.key);
        state.trim();
        drop(state);
        self.command.changed.notify_waiters();
    }
}

impl Reader {
    /// The next events, and whether the last of them is the exit. Waits at most `wait` for one.
    pub async fn next(&mut self, limit: usize, wait: Duration) -> Result<(Vec<Event>, bool), Truncated> {
        self.wait(wait).await;
        self.take(limit)
    }

    /// Returns when there is something to take; after `limit` all the same.
    pub async fn wait(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let changed = self.command.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let has_news = {
                let state = self.command.state.lock();
                state.log.last() > self.at || state.log.exit().is_some()
            };
            if has_news || tokio::time::timeout_at(deadline, changed).await.is_err() {
                return;
            }
        }
    }

    /// The events that are there, and whether the last of them is the exit.
    pub fn take(&mut self, limit: usize) -> Result<(Vec<Event>, bool), Truncated> {
        let mut state = self.command.state.lock();
        let events = state.log.after(self.at, limit, EVENT_BYTES)?;
        let has_exit = |event: &Event| matches!(event.said, Said::Exit(_));
        let end = match events.last() {
            Some(last) => {
                self.at = last.seq;
                has_exit(last)
            }
            // Whoever has read the exit is told again.
            None => state.log.exit().is_some(),
        };
        state.readers.insert(self.key, self.at);
        state.trim();
        drop(state);
        self.command.changed.notify_waiters();
        Ok((events, end))
    }
}
