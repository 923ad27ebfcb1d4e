//! This workspace as a replica of an upstream: what the engine of sync wants done, done.
//!
//! - `driver`: one task that tells the engine what happens and starts what it asks for.
//! - `apply`: what comes from upstream becomes ours. `push`: what is ours becomes upstream's. `transfer`: bytes, both ways.

mod apply;
mod driver;
mod push;
#[cfg(test)]
mod tests;
mod transfer;

use crate::error::{FsError, FsResult};
use crate::sync::engine::Timing;
use crate::sync::ignore::Ignore;
use crate::sync::link::{Answer, LinkError, Upstream};
use crate::sync::site::Site;
use crate::sync::status::{ConflictNote, LinkState, Status};
use crate::sync::{ConflictKind, Cursor, OnConflict, ReplicaId};
use driver::{Command, Shared, Waiter};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Conflicts that a status shows.
const RECENT: usize = 20;

/// How this replica is to be.
#[derive(Debug, Default)]
pub struct Settings {
    /// Where the upstream is, without any secret; for people.
    pub upstream: String,
    /// What people call this replica.
    pub label: String,
    /// What is left out of sync.
    pub ignore: Ignore,
    /// Who wins where both sides changed the same.
    pub on_conflict: OnConflict,
    /// How patient it is.
    pub timing: Timing,
}

/// The way to an upstream.
pub trait Dial: Send + Sync + 'static {
    /// A connection.
    type Link: Upstream;
    /// Makes one.
    fn dial(&self) -> impl Future<Output = Answer<Self::Link>> + Send;
}

/// The replica at work.
pub struct Replica {
    control: Control,
    task: JoinHandle<()>,
}

/// What can be asked of a replica. Of a workspace without an upstream too.
#[derive(Clone)]
pub struct Control {
    site: Arc<Site>,
    to: Option<Driver>,
}

#[derive(Clone)]
struct Driver {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
}

impl Replica {
    /// Begins to keep a workspace in step with its upstream.
    pub fn start(site: Arc<Site>, dial: impl Dial, settings: Settings) -> FsResult<Self> {
        let (commands, inbox) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(Arc::clone(&site), settings)?);
        shared.site.prepare()?;
        let driver = Driver { shared: Arc::clone(&shared), commands: commands.clone() };
        let task = tokio::spawn(driver::run(shared, dial, commands, inbox));
        Ok(Self { control: Control { site, to: Some(driver) }, task })
    }

    /// What can be asked of it.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Pushes what is left, for at most that long, and ends. Says in the log what could not be pushed.
    pub async fn stop(self, grace: Duration) {
        self.control.tell(Command::Stop);
        if tokio::time::timeout(grace, self.task).await.is_ok() {
            return;
        }
        let status = self.control.status();
        let seconds = grace.as_secs();
        if status.pending_entries > 0 {
            tracing::warn!(
                entries = status.pending_entries,
                bytes = status.pending_bytes,
                error = status.last_error.as_deref().unwrap_or("none"),
                "not all changes could be pushed upstream within {seconds} seconds; the rest is pushed after the next start"
            );
        }
    }
}

impl Control {
    /// Of a workspace without an upstream.
    pub fn without_upstream(site: Arc<Site>) -> Self {
        Self { site, to: None }
    }

    fn tell(&self, command: Command) {
        if let Some(driver) = &self.to {
            // It fails only when the replica has ended, and then there is nobody to tell.
            let _ = driver.commands.send(command);
        }
    }

    /// Where it is. May wait for the store; if that does not answer, its error is the last one.
    pub fn status(&self) -> Status {
        let known = match &self.to {
            Some(driver) => driver.shared.status(),
            None => Status { link: LinkState::Off, ..Status::default() },
        };
        let failed = |error: FsError| Status { last_error: Some(error.to_string()), ..known.clone() };
        self.read_status(known.clone()).unwrap_or_else(failed)
    }

    fn read_status(&self, known: Status) -> FsResult<Status> {
        let site = &self.site;
        let state = site.state()?;
        let mut status = known;
        status.replica = ReplicaId(state.replica).to_string();
        status.revision = site.revision();
        status.pushed = status.pushed.max(state.pushed);
        status.pulled = state.cursor.map_or(0, |cursor| cursor.revision);
        if self.to.is_some() {
            (status.pending_entries, status.pending_bytes) = site.pending(state.pushed)?;
        }
        status.conflicts = state.conflicts;
        status.recent = site.conflicts(RECENT)?.into_iter().map(conflict_note).collect();
        Ok(status)
    }

    /// Whether all that upstream had when it was first reached is here.
    pub fn is_ready(&self) -> bool {
        self.to.as_ref().is_none_or(|driver| driver.shared.is_caught_up())
    }

    /// Tries at once, if upstream is waited for. Returns when all that is here is upstream and durable there, and all that
    /// upstream has is here; or why that cannot be.
    pub async fn now(&self) -> Answer<Cursor> {
        self.gather(u64::MAX).await;
        self.ask(|answer| Command::Flush { revision: u64::MAX, answer, hurry: true }).await?;
        self.ask(|answer| Command::Catch { answer, hurry: true }).await
    }

    /// Returns when our changes up to this revision are upstream and durable there, and where upstream is. With `u64::MAX`:
    /// all up to now, what programs have written to files that they have open included.
    pub async fn flush(&self, revision: u64) -> Answer<Cursor> {
        self.gather(revision).await;
        self.ask(|answer| Command::Flush { revision, answer, hurry: false }).await
    }

    async fn gather(&self, revision: u64) {
        if let (Some(driver), u64::MAX) = (&self.to, revision) {
            let vfs = Arc::clone(&driver.shared.site.vfs);
            // Should that fail, what there is is pushed.
            let _ = tokio::task::spawn_blocking(move || vfs.pull_all()).await;
        }
    }

    /// Asks the engine for something that it answers when it has come about; where upstream is then.
    async fn ask(&self, command: impl FnOnce(Waiter) -> Command) -> Answer<Cursor> {
        let Some(driver) = &self.to else {
            return Err(LinkError::Refused("there is no upstream: set UPSTREAM_URL".to_owned()));
        };
        let (answer, done) = oneshot::channel();
        self.tell(command(answer));
        match done.await {
            Ok(Ok(())) => Ok(driver.shared.upstream()),
            Ok(Err(reason)) => Err(LinkError::Failed(reason)),
            Err(_) => Err(LinkError::Failed("the workspace is shutting down".to_owned())),
        }
    }

    /// Whether there is an upstream.
    pub fn has_upstream(&self) -> bool {
        self.to.is_some()
    }

    /// What went wrong last with the upstream, if nothing has gone well since.
    pub fn link_error(&self) -> Option<String> {
        self.to.as_ref().and_then(|driver| driver.shared.status().last_error)
    }

    /// Returns when all that upstream has at this moment is here.
    pub async fn catch_up(&self) -> Answer<()> {
        self.ask(|answer| Command::Catch { answer, hurry: false }).await.map(drop)
    }

    /// Leaves the upstream alone until [`Control::resume`].
    pub fn pause(&self) {
        self.tell(Command::Pause);
    }

    /// Goes on, and tries again at once if it waited.
    pub fn resume(&self) {
        self.tell(Command::Resume);
    }

    /// Joins the upstream; with `merge` though the two have nothing to do with each other.
    pub async fn join(&self, merge: bool) -> Answer<()> {
        if self.to.is_none() {
            return Err(LinkError::Refused("there is no upstream: set UPSTREAM_URL".to_owned()));
        }
        self.tell(Command::Join { merge });
        self.now().await.map(drop)
    }
}

fn conflict_note(row: crate::store::replicas::ConflictRow) -> ConflictNote {
    ConflictNote { time: row.time, kind: kind_of(row.kind), path: row.path, kept: row.kept }
}

const KINDS: [ConflictKind; 5] = [
    ConflictKind::Content,
    ConflictKind::Name,
    ConflictKind::Move,
    ConflictKind::Removal,
    ConflictKind::Attributes,
];

fn kind_of(number: i64) -> ConflictKind {
    usize::try_from(number).ok().and_then(|at| KINDS.get(at).copied()).unwrap_or(ConflictKind::Content)
}

fn number_of(kind: ConflictKind) -> i64 {
    KINDS.iter().position(|it| *it == kind).unwrap_or(0) as i64
}
