//! What comes from upstream becomes ours.

use super::driver::{Shared, blocking, cursor};
use super::number_of;
use super::push::is_full;
use crate::clock::Timestamp;
use crate::error::FsResult;
use crate::store::replicas::ConflictRow;
use crate::store::rows::{Ino, Revision};
use crate::sync::carry::{Carried, Marks, Stock, needed, take_bytes};
use crate::sync::engine::{Call, Event};
use crate::sync::entry::{ContentId, Cursor, Entry, NodeId, State};
use crate::sync::link::{Answer, BATCH_ENTRIES, LinkError, Told, Upstream};
use crate::sync::local::LocalTree;
use crate::sync::site::Sent;
use crate::sync::tree::{Conflict, Plan};
use crate::sync::{Planned, Rules, plan};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Reconciliation looks at so many nodes at once.
const AT_ONCE: usize = BATCH_ENTRIES;

/// How often more is asked for, for one batch.
const ROUNDS: usize = 64;

/// What an attempt to apply needs.
enum Attempt {
    Done {
        conflicts: u64,
    },
    Changed,
    /// Its connection is no more.
    Over,
    /// These nodes as upstream has them.
    Entries(Vec<NodeId>),
    /// These contents.
    Contents(Vec<ContentId>),
}

/// A batch that is being applied.
struct Batch {
    entries: Vec<Entry>,
    stock: Stock,
}

impl Shared {
    /// Asks for a portion, which is kept.
    pub(super) async fn pull<L: Upstream>(
        &self,
        link: Arc<L>,
        call: Call,
        after: Option<Cursor>,
        wait: Option<Duration>,
    ) -> Answer<Event> {
        let portion = link.changes(after, self.settings.ignore.patterns().to_vec(), wait).await?;
        let at = Cursor { revision: portion.now.max(portion.up_to.revision), ..portion.up_to };
        self.heard((at.life != crate::sync::Author::default()).then_some(at));
        let size = |told: &Told<Entry>| {
            let content = told.what.state.as_ref().and_then(|state| state.content);
            content.map_or(0, |content| content.size)
        };
        let event = Event::Pulled {
            call,
            up_to: portion.up_to,
            more: portion.more,
            reset: portion.reset,
            entries: portion.entries.len() as u64,
            bytes: portion.entries.iter().map(size).sum(),
        };
        let mut kept = self.portion.lock();
        // One that was replaced by another meanwhile has nothing to say.
        if kept.0 == Some(call) {
            kept.1 = portion.entries;
        }
        Ok(event)
    }

    /// Applies the portion that is kept.
    pub(super) async fn apply<L: Upstream>(
        self: Arc<Self>,
        link: Arc<L>,
        call: Call,
        cursor: Option<Cursor>,
    ) -> Answer<Event> {
        let told = self.portion.lock().1.clone();
        let ids: Vec<NodeId> = told.iter().map(|told| told.what.id).collect();
        let goes = |told: &&Told<Entry>| told.what.state.is_none();
        let gone: Vec<Told<Entry>> = told.iter().filter(goes).cloned().collect();
        let taken = self.take_in(&*link, call, told, cursor).await;
        if taken.as_ref().is_err_and(is_full) {
            // What goes makes room for what comes.
            self.take_in(&*link, call, gone, None).await?;
        }
        let event = taken?;
        if matches!(event, Event::Applied { .. }) {
            self.told.lock().extend(ids);
            self.keep_assemblies(&[]).await?;
        }
        Ok(event)
    }

    /// These nodes as upstream has them.
    async fn entries<L: Upstream>(&self, link: &L, ids: Vec<NodeId>) -> Answer<Vec<Told<Entry>>> {
        let (told, at) = link.read_entries(ids).await?;
        self.heard((!told.is_empty()).then_some(at));
        Ok(told)
    }

    /// Reads single nodes and applies them.
    pub(super) async fn read<L: Upstream>(
        self: Arc<Self>,
        link: Arc<L>,
        call: Call,
        ids: Vec<NodeId>,
    ) -> Answer<Event> {
        let told = self.entries(&*link, ids).await?;
        self.take_in(&*link, call, told, None).await
    }

    /// Finds out what became of offers that were not answered.
    pub(super) async fn recover<L: Upstream>(self: Arc<Self>, link: Arc<L>, call: Call) -> Answer<Event> {
        let ids: Vec<NodeId> = self.unanswered.lock().offers.iter().map(|offer| offer.id).collect();
        let told = self.entries(&*link, ids).await?;
        let event = self.take_in(&*link, call, told, None).await?;
        if matches!(event, Event::Applied { .. }) {
            let shared = Arc::clone(&self);
            blocking(move || shared.answered()).await?;
        }
        Ok(event)
    }

    /// No offer is without an answer any more.
    pub(super) fn answered(&self) -> FsResult<()> {
        self.site.note_offers(&Sent::default())?;
        *self.unanswered.lock() = Sent::default();
        Ok(())
    }

    /// Asks whether upstream took what it did not answer, if it has not said so on this connection.
    async fn make_sure<L: Upstream>(self: &Arc<Self>, link: &L) -> Answer<()> {
        if !self.unsure.load(Ordering::Relaxed) || self.unanswered.lock().offers.is_empty() {
            return Ok(());
        }
        let shared = Arc::clone(self);
        let hello = blocking(move || shared.hello(shared.site.state()?.cursor.map(cursor))).await?;
        // Who could not be heard has to say hello on another connection.
        let welcome = link.hello(hello).await.map_err(|error| match error {
            LinkError::Failed(why) | LinkError::Full(why) => LinkError::Lost(why),
            other => other,
        })?;
        if welcome.stale || welcome.restored {
            return Err(LinkError::Lost("the upstream is to be met anew".to_owned()));
        }
        self.welcomed(&welcome);
        Ok(())
    }

    /// Reads and applies all nodes here that upstream should know of, and has not told of.
    pub(super) async fn reconcile<L: Upstream>(
        self: Arc<Self>,
        link: Arc<L>,
        call: Call,
        cursor: Cursor,
    ) -> Answer<Event> {
        let (mut after, mut conflicts) = (0, 0);
        loop {
            let (ids, last) = {
                let shared = Arc::clone(&self);
                blocking(move || shared.untold(after)).await?
            };
            let done = last.is_none();
            let told = if ids.is_empty() { Vec::new() } else { self.entries(&*link, ids).await? };
            match self.take_in(&*link, call, told, done.then_some(cursor)).await? {
                Event::Applied { conflicts: more, .. } => conflicts += more,
                other => return Ok(other),
            }
            match last {
                Some(last) => after = last,
                None => break,
            }
        }
        self.told.lock().clear();
        Ok(Event::Applied { call, conflicts })
    }

    /// Some of the nodes that have a base and were not told of, and where to go on, if there are more.
    fn untold(&self, after: Ino) -> FsResult<(Vec<NodeId>, Option<Ino>)> {
        let site = &self.site;
        let tree = site.look(&self.settings.ignore)?;
        let inos = tree.snapshot().sync_nodes_after(after, AT_ONCE)?;
        let last = (inos.len() == AT_ONCE).then(|| inos.last().copied()).flatten();
        let mut ids = Vec::new();
        for ino in inos {
            if tree.snapshot().sync_node(ino)?.is_some_and(|row| row.base.is_some()) {
                ids.push(tree.id(ino)?);
            }
        }
        tree.end()?;
        let told = self.told.lock();
        ids.retain(|id| !told.contains(id));
        Ok((ids, last))
    }

    async fn take_in<L: Upstream>(
        self: &Arc<Self>,
        link: &L,
        call: Call,
        told: Vec<Told<Entry>>,
        cursor: Option<Cursor>,
    ) -> Answer<Event> {
        let epoch = self.epoch();
        self.make_sure(link).await?;
        let mut batch = Batch { entries: Vec::new(), stock: Stock::default() };
        batch.entries = take_bytes(told, &mut batch.stock);
        for _ in 0..ROUNDS {
            let shared = Arc::clone(self);
            let attempt;
            (batch, attempt) = blocking(move || {
                let attempt = shared.attempt(&batch, cursor, epoch)?;
                Ok((batch, attempt))
            })
            .await?;
            match attempt {
                Attempt::Done { conflicts } => return Ok(Event::Applied { call, conflicts }),
                Attempt::Changed => return Ok(Event::Stale { call }),
                Attempt::Over => return Err(LinkError::Lost("the connection has ended".to_owned())),
                Attempt::Entries(ids) => self.read_more(link, ids, &mut batch).await?,
                Attempt::Contents(contents) => self.get_contents(link, contents, &mut batch).await?,
            }
        }
        Err(LinkError::Failed("what upstream has does not come together: it is looked at anew".to_owned()))
    }

    async fn read_more<L: Upstream>(&self, link: &L, ids: Vec<NodeId>, batch: &mut Batch) -> Answer<()> {
        for some in ids.chunks(BATCH_ENTRIES) {
            let told = self.entries(link, some.to_vec()).await?;
            batch.entries.extend(take_bytes(told, &mut batch.stock));
        }
        Ok(())
    }

    /// Brings contents: small ones by reading their nodes, others by their objects.
    async fn get_contents<L: Upstream>(
        self: &Arc<Self>,
        link: &L,
        contents: Vec<ContentId>,
        batch: &mut Batch,
    ) -> Answer<()> {
        let has = |entry: &Entry, content: ContentId| {
            entry.state.as_ref().is_some_and(|state| state.content == Some(content))
        };
        self.keep_assemblies(&contents).await?;
        let mut small = Vec::new();
        for content in contents {
            if content.depth > 0 || content.size > crate::sync::link::INLINE {
                let staged = self.assemble(link, content).await?;
                batch.stock.files.insert(content, staged);
            } else {
                small.extend(
                    batch.entries.iter().rev().find(|entry| has(entry, content)).map(|entry| entry.id),
                );
            }
        }
        self.read_more(link, small, batch).await
    }

    /// Plans, and carries the plan out if nothing is missing.
    fn attempt(&self, batch: &Batch, cursor: Option<Cursor>, epoch: u64) -> FsResult<Attempt> {
        let _tree = self.tree.lock();
        if self.epoch() != epoch {
            return Ok(Attempt::Over);
        }
        let site = &self.site;
        site.gather(batch.entries.iter().map(|entry| entry.id), &self.settings.ignore)?;
        let replica = self.short_name()?;
        let tree = site.look(&self.settings.ignore)?;
        let unanswered = self.unanswered.lock().clone();
        let rules = Rules {
            on_conflict: self.settings.on_conflict,
            replica: &replica,
            now: Timestamp::now(),
            unanswered: &unanswered.offers,
            taken: self.taken.load(Ordering::Relaxed),
        };
        let plan = match plan(&tree, &batch.entries, &rules)? {
            Planned::Needs(ids) => {
                tree.end()?;
                return Ok(Attempt::Entries(ids));
            }
            Planned::Ready(plan) => plan,
        };
        let stock = &batch.stock;
        let missing: Vec<ContentId> = needed(&plan)
            .into_iter()
            .filter(|content| !stock.small.contains_key(content) && !stock.files.contains_key(content))
            .collect();
        if !missing.is_empty() {
            let room = site.check_room(&tree, &plan, stock);
            tree.end()?;
            return room.map(|()| Attempt::Contents(missing));
        }
        let conflicts = describe(&tree, &plan)?;
        let marks = Marks { cursor, heard: self.latest(), ..Marks::default() };
        match site.carry(tree, &plan, stock, marks)? {
            Carried::Done(revision) => {
                self.note_conflicts(&conflicts, revision)?;
                Ok(Attempt::Done { conflicts: conflicts.len() as u64 })
            }
            Carried::Changed => Ok(Attempt::Changed),
            Carried::Lacks(contents) => Ok(Attempt::Contents(contents)),
        }
    }

    fn note_conflicts(&self, conflicts: &[ConflictRow], revision: Revision) -> FsResult<()> {
        if conflicts.is_empty() {
            return Ok(());
        }
        for row in conflicts {
            let path = String::from_utf8_lossy(&row.path);
            let kept = row.kept.as_ref().map(|kept| String::from_utf8_lossy(kept).into_owned());
            let kind = super::kind_of(row.kind);
            tracing::warn!(%path, kept = kept.as_deref().unwrap_or("-"), ?kind, revision, "both sides had changed this");
        }
        self.site.put_conflicts(conflicts)
    }
}

/// What was in conflict, in paths.
fn describe(tree: &LocalTree<'_>, plan: &Plan) -> FsResult<Vec<ConflictRow>> {
    let now = Timestamp::now().0;
    let path_of = |conflict: &Conflict| {
        let place = |state: &Option<State>| state.as_ref().and_then(|state| state.places.first().cloned());
        let place = place(&conflict.here).or_else(|| place(&conflict.upstream));
        place.map_or(Ok(None), |place| tree.path(&place))
    };
    let mut rows = Vec::with_capacity(plan.conflicts.len());
    for conflict in &plan.conflicts {
        let path = path_of(conflict)?.unwrap_or_default();
        let kept = match &conflict.kept {
            // Beside what it was in conflict with, unless its directory is new.
            Some(place) => Some(tree.path(place)?.unwrap_or_else(|| place.name.to_vec())),
            None => None,
        };
        rows.push(ConflictRow { time: now, kind: number_of(conflict.kind), path, kept });
    }
    Ok(rows)
}
