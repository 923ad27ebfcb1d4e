//! Long answers as objects that are asked for the next portion.

use super::convert::{answer, count, set_attr, set_change};
use super::session::{Opened, Session};
use super::streams::Queue;
use crate::service::{Find, Grep, MAX_ENTRIES, Outcome, PORTION, Watch};
use crate::vfs::Changes;
use crate::wire::Reserved;
use capnp::Error;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;
use wsd_schema::fs_capnp::{entry_cursor, match_cursor, watch};

/// Most bytes of an entry, of a line with its spans, and of a change on the wire, roughly.
const ENTRY: usize = 5 << 10;
const LINE: usize = 80 << 10;
const CHANGE: usize = 10 << 10;

/// Room for a portion of so many items.
async fn room(session: &Session, limit: usize, largest: usize) -> Reserved {
    session.ledger.reserve(PORTION.min(limit.clamp(1, MAX_ENTRIES) * largest)).await
}

/// Longest that a watch waits.
const MAX_WAIT: Duration = Duration::from_secs(60);

pub(super) struct EntryCursorObject {
    session: Rc<Session>,
    queue: Queue<Find>,
}

impl EntryCursorObject {
    pub(super) fn new(session: &Rc<Session>, find: Outcome<(Find, Opened)>) -> Self {
        Self { session: Rc::clone(session), queue: Queue::new(find) }
    }
}

impl entry_cursor::Server for EntryCursorObject {
    fn next(
        self: Rc<Self>,
        params: entry_cursor::NextParams,
        mut results: entry_cursor::NextResults,
    ) -> impl Future<Output = Result<(), Error>> + 'static {
        let turn = self.queue.turn();
        async move {
            let limit = params.get()?.get_limit() as usize;
            let _room = room(&self.session, limit, ENTRY).await;
            let outcome = match turn.come().await {
                Ok(mut now) => {
                    let work = move |_: &_, stopped: &dyn Fn() -> bool| now.state.next(limit, stopped);
                    self.session.search("find.next", work).await
                }
                Err(failure) => Err(failure),
            };
            answer!(results, outcome, |(found, end)| {
                results.get().set_end(end);
                let mut entries = results.get().init_entries(count(&found));
                for (index, found) in (0..).zip(&found) {
                    let mut entry = entries.reborrow().get(index);
                    entry.set_path(&found.path);
                    set_attr(entry.init_attr(), &found.attr);
                }
            });
            Ok(())
        }
    }
}

pub(super) struct MatchCursorObject {
    session: Rc<Session>,
    queue: Queue<Grep>,
}

impl MatchCursorObject {
    pub(super) fn new(session: &Rc<Session>, grep: Outcome<(Grep, Opened)>) -> Self {
        Self { session: Rc::clone(session), queue: Queue::new(grep) }
    }
}

impl match_cursor::Server for MatchCursorObject {
    fn next(
        self: Rc<Self>,
        params: match_cursor::NextParams,
        mut results: match_cursor::NextResults,
    ) -> impl Future<Output = Result<(), Error>> + 'static {
        let turn = self.queue.turn();
        async move {
            let limit = params.get()?.get_limit() as usize;
            let _room = room(&self.session, limit, LINE).await;
            let outcome = match turn.come().await {
                Ok(mut now) => {
                    let work = move |_: &_, stopped: &dyn Fn() -> bool| {
                        let (lines, end) = now.state.next(limit, stopped)?;
                        Ok((lines, end, now.state.looked_into()))
                    };
                    self.session.search("grep.next", work).await
                }
                Err(failure) => Err(failure),
            };
            answer!(results, outcome, |(lines, end, files)| {
                results.get().set_end(end);
                results.get().set_files(files);
                let mut matches = results.get().init_matches(count(&lines));
                for (index, line) in (0..).zip(&lines) {
                    let mut to = matches.reborrow().get(index);
                    to.set_path(&line.path);
                    to.set_line(line.line);
                    to.set_offset(line.offset);
                    to.set_text(&line.text);
                    to.set_context(line.context);
                    let mut spans = to.init_spans(count(&line.spans));
                    for (index, (start, end)) in (0..).zip(&line.spans) {
                        let mut span = spans.reborrow().get(index);
                        span.set_start(*start);
                        span.set_end(*end);
                    }
                }
            });
            Ok(())
        }
    }
}

pub(super) struct WatchObject {
    session: Rc<Session>,
    queue: Queue<Watch>,
}

impl WatchObject {
    pub(super) fn new(session: &Rc<Session>, watch: Outcome<(Watch, Opened)>) -> Self {
        Self { session: Rc::clone(session), queue: Queue::new(watch) }
    }
}

impl watch::Server for WatchObject {
    fn next(
        self: Rc<Self>,
        params: watch::NextParams,
        mut results: watch::NextResults,
    ) -> impl Future<Output = Result<(), Error>> + 'static {
        let turn = self.queue.turn();
        async move {
            let (limit, wait) = (params.get()?.get_limit() as usize, params.get()?.get_wait_ms());
            let mut _room = None;
            let outcome = match turn.come().await {
                Ok(mut now) => {
                    let wait = Duration::from_millis(wait.into()).min(MAX_WAIT);
                    let (found, room) = changes(&self.session, &mut now.state, limit, wait).await;
                    _room = room;
                    Ok(found)
                }
                Err(failure) => Err(failure),
            };
            answer!(results, outcome, |found| {
                results.get().set_up_to(found.up_to);
                results.get().set_dropped(found.dropped);
                let mut changes = results.get().init_changes(count(&found.changes));
                for (index, change) in (0..).zip(&found.changes) {
                    let node = (change.ino, change.node);
                    let mut to = changes.reborrow().get(index);
                    set_change(
                        &mut to,
                        (change.revision, change.kind),
                        node,
                        (&change.path, change.from.as_deref()),
                    );
                }
            });
            Ok(())
        }
    }
}

/// Waits for changes, and for room to tell them. The feed is in memory, and looking at a portion of it takes no time
/// worth a thread.
async fn changes(
    session: &Session,
    watch: &mut Watch,
    limit: usize,
    wait: Duration,
) -> (Changes, Option<Reserved>) {
    let deadline = Instant::now() + wait;
    loop {
        let changed = session.host.changed().notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let room = room(session, limit, CHANGE).await;
        let found = watch.poll(limit);
        if found.dropped || !found.changes.is_empty() {
            return (found, Some(room));
        }
        if found.more {
            tokio::task::yield_now().await;
            continue;
        }
        drop(room);
        if tokio::time::timeout_at(deadline, changed).await.is_err() {
            return (found, None);
        }
    }
}
