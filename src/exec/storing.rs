//! Commands in the store: what is new about them goes there a few times a second, and what is old is forgotten.
//!
//! A command is written by one thread at a time (`Running::storing`), and never again once it was disposed of: its rows
//! would come back.

use super::command::{Running, State};
use super::input::{Input, Window};
use super::keeper::Execs;
use super::log::{Event, Exit, How, Log, Said};
use super::process::Family;
use super::spec::shortened;
use crate::clock::Timestamp;
use crate::store::error::StoreResult;
use crate::store::execs::{ExecEventRow, ExecRow};
use bytes::Bytes;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long new events wait for others before they go to the store.
const GATHER: Duration = Duration::from_millis(200);

/// How long what is old may stay when nothing happens.
const REST: Duration = Duration::from_secs(60);

/// How events are told apart in the store.
const STDOUT: i64 = 1;
const STDERR: i64 = 2;
const EXIT: i64 = 3;

impl Execs {
    /// A command as the store has it.
    pub(super) fn restore(&self, row: ExecRow) -> StoreResult<Running> {
        let rows = self.store.exec_events(self.store.workspace(), &row.id)?;
        let events = rows.into_iter().filter_map(event_of);
        let mut log = Log::restored(self.settings.log_bytes, row.first_seq, events);
        let stored = log.last();
        let is_whole = log.exit().is_some();
        if !is_whole {
            log.push(Said::Exit(Exit::of(How::Lost)));
        }
        let mut state = State::of(log);
        (state.stored, state.is_stored) = (stored, is_whole);
        state.ended = Some(row.ended.map_or_else(Timestamp::now, Timestamp));
        state.end_revision = row.end_revision.max(row.start_revision);
        let cwd = PathBuf::from(std::ffi::OsString::from_vec(row.cwd));
        let family = Family { leader: row.pid, id: row.id.clone(), group: None };
        Ok(Running::with(
            (row.id, shortened(row.command), cwd),
            (family, Timestamp(row.started), row.start_revision),
            (Input::Pipe(None), Window::None),
            state,
        ))
    }

    /// Stores what is new, as it comes.
    pub(super) async fn keep(self: Arc<Self>) {
        while !self.closing.load(Ordering::Relaxed) {
            let runs = self.commands.lock().values().any(|command| command.exit().is_none());
            if runs {
                let _ = tokio::time::timeout(GATHER, self.news.notified()).await;
            } else {
                // What is old enough is forgotten even if nothing happens.
                let _ = tokio::time::timeout(self.settings.age.min(REST), self.news.notified()).await;
            }
            self.store_news().await;
            tokio::time::sleep(GATHER / 4).await;
        }
    }

    pub(super) async fn store_news(self: &Arc<Self>) {
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
        let gone = command.gone.lock();
        if *gone {
            return Ok(());
        }
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
        let changes =
            has_ended.then(|| self.around.changes(command.pid, command.start_revision, row.end_revision));
        let complete = changes.as_ref().is_some_and(|(_, complete)| *complete);
        let row = ExecRow { complete, ..row };
        let changes = changes.as_ref().map(|(changes, _)| &changes[..]);
        self.store.put_exec(self.store.workspace(), &row, &rows, changes)?;
        let mut state = command.state.lock();
        state.stored = last;
        state.is_stored = has_ended;
        Ok(())
    }

    /// Forgets a command that has ended; false when that was done before.
    pub(super) fn forget(&self, command: &Running) -> StoreResult<bool> {
        let mut gone = command.gone.lock();
        if *gone {
            return Ok(false);
        }
        self.store.remove_execs(self.store.workspace(), std::slice::from_ref(&command.id))?;
        *gone = true;
        // Now the id is free.
        self.commands.lock().remove(&command.id);
        Ok(true)
    }

    /// Forgets the oldest of those that have ended.
    fn forget_old(&self) -> StoreResult<()> {
        let age = i64::try_from(self.settings.age.as_nanos()).unwrap_or(i64::MAX);
        let oldest = Timestamp::now().0.saturating_sub(age);
        let ended: Vec<_> = self
            .list()
            .into_iter()
            .filter_map(|command| {
                let ended = command.state.lock().ended?;
                Some((ended, command))
            })
            .collect();
        let excess = ended.len().saturating_sub(self.settings.remembered);
        for (at, (ended, command)) in ended.into_iter().enumerate() {
            if at < excess || ended.0 < oldest {
                self.forget(&command)?;
            }
        }
        Ok(())
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
            data.extend(exit.not_upstream.iter().flat_map(|reason| reason.bytes()));
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
            let (head, rest) = row.data.split_first_chunk::<3>()?;
            let (value, reason) = rest.split_first_chunk::<4>()?;
            let value = i32::from_le_bytes(*value);
            let reason = String::from_utf8_lossy(reason).into_owned();
            let how = match head[0] {
                1 => How::Code(value),
                2 => How::Signal(value),
                _ => How::Lost,
            };
            let not_upstream = (!reason.is_empty()).then_some(reason);
            Said::Exit(Exit { how, timed_out: head[1] != 0, output_cut: head[2] != 0, not_upstream })
        }
        _ => return None,
    };
    Some(Event { seq: row.seq, said })
}
