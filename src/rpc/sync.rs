//! The workspace in step with others, as an object: a hub for replicas, and what whoever runs the daemon asks.
//!
//! What is packed is unpacked, and checked, in the threads that may wait; a vat only moves bytes. A replica has few calls
//! with much in them under way at a time, because what they hold is counted in MiB.

use super::convert::{answer, count};
use super::session::Session;
use crate::parcel::{self, Encoding, PackedPortion, Parcel, Wrong};
use crate::service::{Failure, Files, Outcome};
use crate::sync::hub::Peer;
use crate::sync::link::{Answer, BATCH_BYTES, BATCH_ENTRIES, LinkError, OBJECT_BYTES, OBJECT_MAX};
use crate::sync::status::Status;
use crate::sync::{Cursor, Hub};
use crate::wire::Reserved;
use capnp::{Error, text_list};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use wsd_schema::sync_capnp::sync;

/// Longest that a question for changes waits.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Most patterns that are left out, and bytes of them.
const PATTERNS: u32 = 1024;
const PATTERN_BYTES: usize = 64 << 10;

/// Calls of one session that have bytes of objects or nodes with them, at a time; a push counts twice.
const HEAVY: usize = 4;

/// Bytes of an answer with nodes, and of one with objects, roughly and at most.
const NODES: usize = BATCH_BYTES + BATCH_ENTRIES * 512;
const OBJECTS: usize = OBJECT_BYTES + OBJECT_MAX;

pub(super) struct SyncObject {
    session: Rc<Session>,
    /// Who said hello, and what it reads.
    replica: Cell<Option<(Peer, Encoding)>>,
    heavy: Semaphore,
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Refused(text) => Self::new("EREFUSED", text),
            LinkError::Failed(text) => Self::new("EAGAIN", text),
            LinkError::Full(text) => Self::new("ENOSPC", text),
            LinkError::Lost(text) => Self::new("ENOTCONN", text),
        }
    }
}

impl From<Wrong> for Failure {
    fn from(wrong: Wrong) -> Self {
        Self::protocol(wrong.0)
    }
}

impl SyncObject {
    pub(super) fn new(session: Rc<Session>) -> Self {
        Self { session, replica: Cell::new(None), heavy: Semaphore::new(HEAVY) }
    }

    /// Who asks.
    fn replica(&self) -> Outcome<(Peer, Encoding)> {
        self.replica.get().ok_or_else(|| Failure::protocol("say hello first"))
    }

    /// Asks the hub, in a thread that may wait.
    async fn hub<T: Send + 'static>(
        &self,
        method: &'static str,
        ask: impl FnOnce(&Hub) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let hub = Arc::clone(&self.session.host.sync.hub);
        self.session.run(method, move |_, _| ask(&hub)).await
    }

    /// The same for who has said hello.
    async fn as_replica<T: Send + 'static>(
        &self,
        method: &'static str,
        ask: impl FnOnce(&Hub, Peer, Encoding) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let (replica, encoding) = self.replica()?;
        self.hub(method, move |hub| ask(hub, replica, encoding)).await
    }

    /// Room in memory for a call.
    async fn turn(&self, weight: u32) -> Outcome<SemaphorePermit<'_>> {
        self.heavy.acquire_many(weight).await.map_err(|_| Failure::new("ESHUTDOWN", "the session is over"))
    }

    /// What changed, and room to tell it; with a wait, not nothing as long as that takes no longer.
    async fn changes(
        &self,
        mut after: Option<Cursor>,
        ignore: Vec<String>,
        wait: Duration,
    ) -> Outcome<(PackedPortion, Option<Reserved>)> {
        let (peer, encoding) = self.replica()?;
        let (deadline, ignore) = (Instant::now() + wait.min(MAX_WAIT), Arc::new(ignore));
        loop {
            let changed = self.session.host.changed().notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (room, turn) = (self.session.ledger.reserve(NODES).await, self.turn(1).await?);
            let (hub, ignore) = (Arc::clone(&self.session.host.sync.hub), Arc::clone(&ignore));
            let look = move |_: &_, _: &dyn Fn() -> bool| {
                Ok(PackedPortion::pack(&hub.changes(peer, after, &ignore)?, encoding)?)
            };
            let found = self.session.part(look).await?;
            drop(turn);
            if found.is_news() {
                return Ok((found, Some(room)));
            }
            drop(room);
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Ok((found, None));
            }
            after = Some(found.up_to);
        }
    }

    /// Waits for something that the local half of sync does.
    async fn control<T>(&self, method: &'static str, work: impl Future<Output = Answer<T>>) -> Outcome<T> {
        let begun = self.session.begin(method);
        begun.end(work.await.map_err(Failure::from))
    }
}

/// The patterns of what is left out.
fn patterns(list: text_list::Reader<'_>) -> Result<Outcome<Vec<String>>, Error> {
    let mut bytes = 0;
    let mut patterns = Vec::new();
    for pattern in list.iter().take(PATTERNS as usize) {
        let pattern = pattern?;
        bytes += pattern.len();
        match pattern.to_string() {
            Ok(pattern) if bytes <= PATTERN_BYTES => patterns.push(pattern),
            _ => break,
        }
    }
    if patterns.len() < list.len() as usize {
        let text = format!("patterns are UTF-8, at most {PATTERNS}, and {PATTERN_BYTES} bytes in all");
        return Ok(Err(Failure::protocol(text)));
    }
    Ok(Ok(patterns))
}

impl sync::Server for SyncObject {
    async fn hello(
        self: Rc<Self>,
        params: sync::HelloParams,
        mut results: sync::HelloResults,
    ) -> Result<(), Error> {
        let told = params.get()?.get_hello()?;
        let encoding = if told.get_zstd() { Encoding::Zstd } else { Encoding::Plain };
        let outcome = match parcel::read_hello(told) {
            Err(wrong) => Err(wrong.into()),
            Ok(hello) => {
                let outcome = self.hub("sync.hello", move |hub| Ok(hub.hello(&hello)?)).await;
                self.replica.set(outcome.as_ref().ok().map(|(_, peer)| (*peer, encoding)));
                outcome.map(|(welcome, _)| welcome)
            }
        };
        answer!(results, outcome, |welcome| parcel::write_welcome(results.get().init_welcome(), &welcome));
        Ok(())
    }

    async fn fetch_changes(
        self: Rc<Self>,
        params: sync::FetchChangesParams,
        mut results: sync::FetchChangesResults,
    ) -> Result<(), Error> {
        let begun = self.session.begin("sync.fetchChanges");
        let (after, ignore, wait) = {
            let params = params.get()?;
            let after = if params.has_after() { Some(params.get_after()?) } else { None };
            let after = after.map(parcel::read_cursor).transpose();
            (after, patterns(params.get_ignore()?)?, Duration::from_millis(params.get_wait_ms().into()))
        };
        let outcome = match (after, ignore) {
            (Err(wrong), _) => Err(wrong.into()),
            (_, Err(failure)) => Err(failure),
            (Ok(after), Ok(ignore)) => self.changes(after, ignore, wait).await,
        };
        let outcome = begun.end(outcome);
        answer!(results, outcome, |(found, _room)| found.write(results.get().init_portion()));
        Ok(())
    }

    async fn read_entries(
        self: Rc<Self>,
        params: sync::ReadEntriesParams,
        mut results: sync::ReadEntriesResults,
    ) -> Result<(), Error> {
        let ids = parcel::read_ids(params.get()?.get_ids()?);
        let _room = self.session.ledger.reserve(NODES).await;
        let outcome = match (ids, self.turn(1).await) {
            (Err(wrong), _) => Err(wrong.into()),
            (_, Err(failure)) => Err(failure),
            (Ok(ids), Ok(_turn)) => {
                let ask = move |hub: &Hub, _, encoding| {
                    let (entries, at) = hub.read_entries(&ids)?;
                    Ok((parcel::pack_entries(&entries, encoding)?, at))
                };
                self.as_replica("sync.readEntries", ask).await
            }
        };
        answer!(results, outcome, |told| {
            let (entries, at) = told;
            entries.write(results.get().init_entries());
            parcel::write_cursor(results.get().init_at(), at);
        });
        Ok(())
    }

    async fn has_objects(
        self: Rc<Self>,
        params: sync::HasObjectsParams,
        mut results: sync::HasObjectsResults,
    ) -> Result<(), Error> {
        let outcome = match parcel::hashes(params.get()?.get_hashes()?) {
            Err(wrong) => Err(wrong.into()),
            Ok(hashes) => self.as_replica("sync.hasObjects", move |hub, _, _| Ok(hub.lacks(&hashes)?)).await,
        };
        answer!(results, outcome, |lacks| results.get().set_lacks(&parcel::hashes_of(&lacks)));
        Ok(())
    }

    async fn fetch_objects(
        self: Rc<Self>,
        params: sync::FetchObjectsParams,
        mut results: sync::FetchObjectsResults,
    ) -> Result<(), Error> {
        let hashes = parcel::hashes(params.get()?.get_hashes()?);
        let _room = self.session.ledger.reserve(OBJECTS).await;
        let outcome = match (hashes, self.turn(1).await) {
            (Err(wrong), _) => Err(wrong.into()),
            (_, Err(failure)) => Err(failure),
            (Ok(hashes), Ok(_turn)) => {
                let ask = move |hub: &Hub, _, encoding| {
                    let (looked, objects) = hub.fetch(&hashes)?;
                    Ok((looked, parcel::pack_objects(objects, encoding)))
                };
                self.as_replica("sync.fetchObjects", ask).await
            }
        };
        answer!(results, outcome, |(looked, objects)| {
            results.get().set_looked(looked as u32);
            parcel::write_objects(results.get().init_objects(count(&objects)), &objects);
        });
        Ok(())
    }

    async fn push_objects(
        self: Rc<Self>,
        params: sync::PushObjectsParams,
        mut results: sync::PushObjectsResults,
    ) -> Result<(), Error> {
        let turn = self.turn(1).await;
        let outcome = match (parcel::read_objects(params.get()?.get_objects()?), turn) {
            (Err(wrong), _) => Err(wrong.into()),
            (_, Err(failure)) => Err(failure),
            (Ok(packed), Ok(_turn)) => {
                let ask = move |hub: &Hub, replica: Peer, _| {
                    Ok(hub.bring(replica.id, parcel::unpack_objects(packed)?)?)
                };
                self.as_replica("sync.pushObjects", ask).await
            }
        };
        answer!(results, outcome, |()| {});
        Ok(())
    }

    async fn push(
        self: Rc<Self>,
        params: sync::PushParams,
        mut results: sync::PushResults,
    ) -> Result<(), Error> {
        // As who it was sent, however long it waits, and whoever says hello meanwhile.
        let who = self.replica();
        let turn = self.turn(2).await;
        let told = {
            let params = params.get()?;
            let life = parcel::read_life(params.get_life()?);
            Parcel::read(params.get_offers()?).and_then(|offers| Ok((offers, params.get_up_to(), life?)))
        };
        let outcome = match (told, who, turn) {
            (Err(wrong), ..) => Err(wrong.into()),
            (_, Err(failure), _) | (.., Err(failure)) => Err(failure),
            (Ok((offers, up_to, life)), Ok((peer, _)), Ok(_turn)) => {
                let ask = move |hub: &Hub| Ok(hub.push(peer, parcel::unpack_offers(offers)?, up_to, life)?);
                self.hub("sync.push", ask).await
            }
        };
        answer!(results, outcome, |pushed| parcel::write_pushed(results.get().init_pushed(), &pushed));
        Ok(())
    }

    async fn watermarks(
        self: Rc<Self>,
        _: sync::WatermarksParams,
        mut results: sync::WatermarksResults,
    ) -> Result<(), Error> {
        let outcome = self.hub("sync.watermarks", |hub| Ok(hub.watermarks()?)).await;
        answer!(results, outcome, |watermarks| {
            parcel::write_watermarks(results.get().init_watermarks(count(&watermarks)), &watermarks);
        });
        Ok(())
    }

    async fn flush(
        self: Rc<Self>,
        params: sync::FlushParams,
        mut results: sync::FlushResults,
    ) -> Result<(), Error> {
        let (revision, here) = (params.get()?.get_revision(), params.get()?.get_here());
        let revision = revision.min(self.session.host.files.vfs().revision());
        let control = &self.session.host.sync.control;
        let outcome = if here || control.status().upstream.is_none() {
            self.hub("sync.flush", move |hub| Ok(hub.flush(revision)?)).await
        } else {
            self.control("sync.flush", control.flush(revision)).await
        };
        answer!(results, outcome, |cursor| parcel::write_cursor(results.get().init_cursor(), cursor));
        Ok(())
    }

    async fn status(
        self: Rc<Self>,
        _: sync::StatusParams,
        mut results: sync::StatusResults,
    ) -> Result<(), Error> {
        let control = Arc::clone(&self.session.host.sync.control);
        let look = move |files: &Files, _: &dyn Fn() -> bool| {
            let mut status: Status = control.status();
            for note in &mut status.recent {
                note.path = files.wire_path(&note.path);
                note.kept = note.kept.as_deref().map(|kept| files.wire_path(kept));
            }
            Ok(status)
        };
        let outcome = self.session.run("sync.status", look).await;
        answer!(results, outcome, |status| parcel::write_status(results.get().init_status(), &status));
        Ok(())
    }

    async fn now(self: Rc<Self>, _: sync::NowParams, mut results: sync::NowResults) -> Result<(), Error> {
        let outcome = self.control("sync.now", self.session.host.sync.control.now()).await;
        answer!(results, outcome, |cursor| parcel::write_cursor(results.get().init_cursor(), cursor));
        Ok(())
    }

    async fn pause(
        self: Rc<Self>,
        _: sync::PauseParams,
        mut results: sync::PauseResults,
    ) -> Result<(), Error> {
        let control = Arc::clone(&self.session.host.sync.control);
        let work = move |_: &Files, _: &dyn Fn() -> bool| {
            control.pause();
            Ok(())
        };
        let outcome = self.session.run("sync.pause", work).await;
        answer!(results, outcome, |()| {});
        Ok(())
    }

    async fn resume(
        self: Rc<Self>,
        _: sync::ResumeParams,
        mut results: sync::ResumeResults,
    ) -> Result<(), Error> {
        let control = Arc::clone(&self.session.host.sync.control);
        let work = move |_: &Files, _: &dyn Fn() -> bool| {
            control.resume();
            Ok(())
        };
        let outcome = self.session.run("sync.resume", work).await;
        answer!(results, outcome, |()| {});
        Ok(())
    }

    async fn join(
        self: Rc<Self>,
        params: sync::JoinParams,
        mut results: sync::JoinResults,
    ) -> Result<(), Error> {
        let merge = params.get()?.get_merge();
        let outcome = self.control("sync.join", self.session.host.sync.control.join(merge)).await;
        answer!(results, outcome, |()| {});
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_room_has_a_code() {
        assert_eq!(Failure::from(LinkError::Full(String::new())).code, "ENOSPC");
        assert_eq!(Failure::from(LinkError::Failed(String::new())).code, "EAGAIN");
    }
}
