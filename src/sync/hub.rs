//! The side that is asked: an upstream for any number of replicas.
//!
//! A hub is any wsd; it needs no setting to be one. It tells what changed, takes what is offered if it was made from what
//! it has, and remembers of each replica how far it is. All calls may wait for memory, the store or the kernel.

#[cfg(test)]
mod tests;

use super::carry::{Carried, Marks, Stock, needed, take_bytes, unwritten};
use super::entry::{Author, Cursor, Entry, Hash, NodeId, Offer, ReplicaId, State};
use super::ignore::Ignore;
use super::judge::judge;
use super::link::{
    Answer, BATCH_BYTES, BATCH_ENTRIES, Hello, LinkError, Object, Portion, Pushed, Told, Watermark, Welcome,
    digest,
};
use super::local::LocalTree;
use super::objects::{Assembly, Pile};
use super::site::Site;
use super::tree::{Plan, Verdict};
use crate::clock::Timestamp;
use crate::error::{FsError, FsResult};
use crate::store::replicas::ReplicaRow;
use crate::store::rows::Revision;
use crate::store::snapshot::Changed;
use crate::store::sync::TakenRow;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// How often a push is judged anew when programs on the hub change what it touches meanwhile.
const TRIES: usize = 16;

/// How much may be brought before it is pushed, unless a push has been found to need more. What is beyond it has to be
/// brought again.
const PILE_MAX: u64 = if cfg!(test) { 16 << 20 } else { 1 << 30 };

/// An upstream.
pub struct Hub {
    site: Arc<Site>,
    /// What replicas have brought and not pushed yet.
    piles: Mutex<HashMap<ReplicaId, Arc<Mutex<Pile>>>>,
    /// One push at a time: what one offers is judged against what the others left.
    pushing: Mutex<()>,
    /// The latest connection of each replica.
    visits: Mutex<HashMap<ReplicaId, u64>>,
}

/// A replica that has introduced itself, on one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub id: ReplicaId,
    visit: u64,
}

impl From<FsError> for LinkError {
    fn from(error: FsError) -> Self {
        if is_full(&error) { Self::Full(error.to_string()) } else { Self::Failed(error.to_string()) }
    }
}

impl Hub {
    /// The workspace as an upstream.
    pub fn new(site: Arc<Site>) -> Self {
        let (piles, pushing, visits) = Default::default();
        Self { site, piles, pushing, visits }
    }

    /// A replica introduces itself.
    /// From then on no push is taken that it sent on an earlier connection.
    pub fn hello(&self, hello: &Hello) -> Answer<(Welcome, Peer)> {
        let site = &self.site;
        site.prepare()?;
        let own = site.store.uuid(site.ws).map_err(FsError::from)?;
        let hub = site.replica()?;
        if hub == hello.replica {
            return Err(LinkError::Refused(
                "the upstream is this very workspace: set UPSTREAM_URL to another wsd".to_owned(),
            ));
        }
        if hello.workspace != own && !hello.empty && !hello.merge && !site.is_empty()? {
            return Err(LinkError::Refused(format!(
                "the upstream has workspace {own}, this is workspace {}, and neither is empty: to merge the two, run `wsd sync join --merge`",
                hello.workspace
            )));
        }
        // What is known of it counts with the push that may be under way.
        let visit = self.visit(hello.replica);
        site.commit()?;
        let known = self.known(hello.replica)?;
        let stale = known.as_ref().is_some_and(|row| !knows_of(hello, row));
        let (now, _) = site.store.position(site.ws).map_err(FsError::from)?;
        // What was agreed on with another hub is nothing that this one has removed.
        let never =
            |seen: &Cursor| hello.workspace != own || !site.lives.was_at(seen.life, seen.revision, now);
        let restored = hello.cursor.iter().chain(&hello.heard).any(never);
        let resumes = match hello.cursor {
            _ if hello.workspace != own || restored => false,
            None => false,
            Some(cursor) => self.can_resume(cursor)?,
        };
        let row = ReplicaRow {
            replica: hello.replica.0,
            label: hello.label.clone(),
            applied: hello.cursor.filter(|_| resumes).map_or(0, |cursor| cursor.revision),
            seen: Timestamp::now().0,
            ..known.unwrap_or_default()
        };
        if !stale {
            site.store.put_replica(site.ws, &row).map_err(FsError::from)?;
        }
        let ReplicaRow { taken, pushed, .. } = row;
        let current = self.cursor()?;
        let welcome = Welcome { workspace: own, hub, current, resumes, stale, restored, taken, pushed };
        Ok((welcome, Peer { id: hello.replica, visit }))
    }

    /// Begins another connection of a replica, after the push that may be under way.
    fn visit(&self, replica: ReplicaId) -> u64 {
        let _none = self.pushing.lock();
        let mut visits = self.visits.lock();
        let visit = visits.entry(replica).or_default();
        *visit += 1;
        *visit
    }

    fn known(&self, replica: ReplicaId) -> FsResult<Option<ReplicaRow>> {
        Ok(self.site.store.replicas(self.site.ws)?.into_iter().find(|row| row.replica == replica.0))
    }

    fn cursor(&self) -> FsResult<Cursor> {
        let (revision, _) = self.site.store.position(self.site.ws)?;
        Ok(Cursor { life: self.site.life(), revision, listed: 0 })
    }

    /// What changed after a cursor, which the replica has applied. Does not wait.
    pub fn changes(&self, peer: Peer, after: Option<Cursor>, ignore: &[String]) -> Answer<Portion> {
        let ignore = Ignore::new(ignore)?;
        let row = self.known(peer.id)?;
        if let (Some(row), Some(cursor)) = (&row, after) {
            if !self.can_resume(cursor)? {
                return Ok(Portion { reset: true, up_to: cursor, ..Portion::default() });
            }
            self.note_applied(row, cursor.revision)?;
        }
        self.site.vfs.commit_now()?;
        let (store, lives) = (&self.site.store, &self.site.lives);
        let tree = LocalTree::now(store, lives, &ignore)?;
        let now = tree.snapshot().revision();
        let listed = after.map_or(now, |cursor| cursor.listed);
        let after = after.map_or(0, |cursor| cursor.revision);
        let (changed, up_to) = tree.snapshot().changed_after(after, BATCH_ENTRIES).map_err(FsError::from)?;
        // Where there is a later connection, what came on that may be a copy's, and is news here.
        let own = row.filter(|_| self.is_latest(peer));
        let mut teller =
            Teller { tree: &tree, replica: own.map_or(0, |row| row.id), listed, after, bytes: 0 };
        let (entries, up_to) = teller.tell(&changed, up_to)?;
        tree.end()?;
        let up_to = Cursor { life: self.site.life(), revision: up_to, listed };
        Ok(Portion { entries, up_to, more: up_to.revision < now, reset: false, now })
    }

    /// Whether its replica has not said hello on another connection since.
    fn is_latest(&self, peer: Peer) -> bool {
        self.visits.lock().get(&peer.id).is_none_or(|latest| *latest == peer.visit)
    }

    fn can_resume(&self, cursor: Cursor) -> FsResult<bool> {
        let (now, _) = self.site.store.position(self.site.ws)?;
        let floor = self.site.store.sync_state(self.site.ws)?.floor;
        let remembers = cursor.revision.max(cursor.listed) >= floor;
        Ok(remembers && self.site.lives.was_at(cursor.life, cursor.revision, now))
    }

    fn note_applied(&self, row: &ReplicaRow, applied: Revision) -> FsResult<()> {
        let now = Timestamp::now().0;
        // Once a minute is enough to know who is alive.
        if applied != row.applied || now - row.seen > 60_000_000_000 {
            let row = ReplicaRow { applied, seen: now, ..row.clone() };
            self.site.store.put_replica(self.site.ws, &row)?;
        }
        Ok(())
    }

    /// These nodes as they are now, and where the hub is.
    pub fn read_entries(&self, ids: &[NodeId]) -> Answer<(Vec<Told<Entry>>, Cursor)> {
        let ignore = Ignore::default();
        self.site.gather(ids.iter().copied(), &ignore)?;
        let tree = LocalTree::now(&self.site.store, &self.site.lives, &ignore)?;
        let mut entries = Vec::with_capacity(ids.len());
        for id in ids {
            let seen = match tree.ino(*id)? {
                Some(ino) => tree.look(ino, true)?,
                None => None,
            };
            let allocated = seen.as_ref().map_or(0, |seen| seen.row.allocated);
            let (state, bytes) = seen.map_or((None, None), |seen| (Some(seen.state), seen.bytes));
            entries.push(Told { what: Entry { id: *id, state }, bytes, allocated });
        }
        let at = Cursor { life: self.site.life(), revision: tree.snapshot().revision(), listed: 0 };
        tree.end()?;
        Ok((entries, at))
    }

    /// Which of these objects are not here.
    pub fn lacks(&self, hashes: &[Hash]) -> Answer<Vec<Hash>> {
        let mut lacks = Vec::new();
        for hash in hashes {
            if !self.site.objects.has(hash)? {
                lacks.push(*hash);
            }
        }
        Ok(lacks)
    }

    /// The first of these objects, as many as fit an answer; and how many were looked for.
    pub fn fetch(&self, hashes: &[Hash]) -> Answer<(usize, Vec<Object>)> {
        Ok(self.site.fetch(hashes)?)
    }

    /// Takes objects that a push is going to need.
    pub fn bring(&self, replica: ReplicaId, objects: Vec<Object>) -> Answer<()> {
        let own = self.pile(replica, 0)?;
        let mut pile = own.lock();
        if pile.is_full() {
            *pile = Pile::new(&self.site.objects, pile.room())?;
        }
        if !pile.add(&objects).is_err_and(|error| is_full(&error)) {
            return Ok(());
        }
        // What others have brought they can bring again.
        self.piles.lock().retain(|_, other| Arc::ptr_eq(other, &own));
        let added = pile.add(&objects);
        if added.as_ref().is_err_and(is_full) {
            self.piles.lock().remove(&replica);
        }
        Ok(added?)
    }

    /// What a replica has brought, with at least this much room.
    fn pile(&self, replica: ReplicaId, room: u64) -> FsResult<Arc<Mutex<Pile>>> {
        let mut piles = self.piles.lock();
        let pile = match piles.get(&replica) {
            Some(pile) => Arc::clone(pile),
            None => {
                let pile = Arc::new(Mutex::new(Pile::new(&self.site.objects, PILE_MAX)?));
                piles.insert(replica, Arc::clone(&pile));
                pile
            }
        };
        drop(piles);
        pile.lock().widen(room);
        Ok(pile)
    }

    /// Takes offers, all or none.
    pub fn push(
        &self,
        peer: Peer,
        offers: Vec<Told<Offer>>,
        up_to: Revision,
        life: Author,
    ) -> Answer<Pushed> {
        let replica = peer.id;
        let Some(row) = self.known(replica)? else {
            return Err(LinkError::Failed("the replica has not introduced itself".to_owned()));
        };
        let mut stock = Stock::default();
        let offers = take_bytes(offers, &mut stock);
        let _alone = self.pushing.lock();
        if !self.is_latest(peer) {
            return Err(LinkError::Lost("the replica has another connection by now".to_owned()));
        }
        let seen = Timestamp::now().0;
        let taken = TakenRow { pushed: up_to, life: life.0, taken: digest(&offers), seen };
        let marks = Marks { by_replica: row.id, taken: Some(taken), ..Marks::default() };
        for _ in 0..TRIES {
            self.site.gather(offers.iter().map(|offer| offer.id), &Ignore::default())?;
            let tried = self.try_push(replica, &offers, &mut stock, marks);
            if tried.as_ref().is_err_and(is_full) {
                self.piles.lock().remove(&replica);
            }
            match tried? {
                Some(Pushed::Taken(cursor)) => {
                    self.site.vfs.sync().map_err(unwritten)?;
                    self.piles.lock().remove(&replica);
                    return Ok(Pushed::Taken(cursor));
                }
                Some(other) => return Ok(other),
                None => {}
            }
        }
        Err(LinkError::Failed("what the push changes is being changed all the time".to_owned()))
    }

    /// `None`: something changed meanwhile.
    fn try_push(
        &self,
        replica: ReplicaId,
        offers: &[Offer],
        stock: &mut Stock,
        marks: Marks,
    ) -> FsResult<Option<Pushed>> {
        let ignore = Ignore::default();
        let look = || LocalTree::now(&self.site.store, &self.site.lives, &ignore);
        let tree = look()?;
        let plan = match judge(&tree, offers)? {
            Verdict::Accept(plan) => plan,
            Verdict::Refuse(refusals) => {
                tree.end()?;
                return Ok(Some(Pushed::Refused(refusals)));
            }
        };
        let room = self.site.check_room(&tree, &plan, stock);
        tree.end()?;
        room?;
        let lacks = self.assemble(&plan, stock)?;
        if !lacks.is_empty() {
            // All of it has to be there at once, and what is there of other states of the files beside it.
            let needs = needed(&plan).iter().fold(0u64, |sum, content| sum.saturating_add(content.size));
            self.pile(replica, needs.saturating_mul(2))?;
            return Ok(Some(Pushed::Lacks(lacks)));
        }
        // The plan says what it relied on, so it may be carried out on a later moment.
        Ok(match self.site.carry(look()?, &plan, stock, marks)? {
            Carried::Done(revision) => {
                Some(Pushed::Taken(Cursor { life: self.site.life(), revision, listed: 0 }))
            }
            Carried::Changed => None,
            Carried::Lacks(contents) => {
                Some(Pushed::Lacks(contents.into_iter().map(|content| content.hash).collect()))
            }
        })
    }

    /// Puts the contents of a plan together from what is here; returns what is not.
    fn assemble(&self, plan: &Plan, stock: &mut Stock) -> FsResult<Vec<Hash>> {
        let mut lacks = Vec::new();
        for content in needed(plan) {
            if stock.small.contains_key(&content) || stock.files.contains_key(&content) {
                continue;
            }
            let mut assembly = Assembly::new(&self.site.objects, content)?;
            let missing = assembly.advance()?;
            if missing.is_empty() {
                stock.files.insert(content, assembly.done());
            } else {
                lacks.extend(missing);
            }
        }
        Ok(lacks)
    }

    /// Returns when everything up to this revision is on the disk.
    pub fn flush(&self, revision: Revision) -> Answer<Cursor> {
        let stats = self.site.vfs.stats();
        if stats.durable_revision < revision.min(stats.revision) {
            self.site.vfs.sync()?;
        }
        Ok(self.cursor()?)
    }

    /// All replicas that are known.
    pub fn watermarks(&self) -> Answer<Vec<Watermark>> {
        let rows = self.site.store.replicas(self.site.ws).map_err(FsError::from)?;
        let watermark = |row: ReplicaRow| Watermark {
            replica: ReplicaId(row.replica),
            label: row.label,
            applied: row.applied,
            pushed: row.pushed,
            last_seen: row.seen,
        };
        Ok(rows.into_iter().map(watermark).collect())
    }
}

fn is_full(error: &FsError) -> bool {
    matches!(error, FsError::NoSpace | FsError::NoRoom { .. })
}

/// Whether the replica knows of what the hub has had from it last.
fn knows_of(hello: &Hello, row: &ReplicaRow) -> bool {
    let Some(life) = row.life else { return true };
    let mut end = Revision::MAX;
    for (author, first) in &hello.lives {
        if author.0 == life {
            return row.pushed <= end;
        }
        end = *first;
    }
    false
}

/// Tells a replica of nodes that changed.
struct Teller<'a> {
    tree: &'a LocalTree<'a>,
    replica: i64,
    /// What was gone by then is not told of.
    listed: Revision,
    after: Revision,
    bytes: usize,
}

impl Teller<'_> {
    /// As many as fit a batch, of whole revisions.
    fn tell(&mut self, changed: &[Changed], up_to: Revision) -> FsResult<(Vec<Told<Entry>>, Revision)> {
        let mut told = Vec::with_capacity(changed.len());
        let mut before = self.after;
        for change in changed {
            if change.revision != before && self.bytes >= BATCH_BYTES {
                return Ok((told, before));
            }
            before = change.revision;
            told.extend(self.entry(change)?);
        }
        Ok((told, up_to))
    }

    /// Whether any of its names is not left out: the replica knows of what is left out, and has no use for its bytes.
    fn is_wanted(&self, state: &State) -> FsResult<bool> {
        for place in &state.places {
            if !self.tree.is_left_out(place)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn entry(&mut self, change: &Changed) -> FsResult<Option<Told<Entry>>> {
        self.bytes += 200;
        if change.gone {
            let id = self.tree.id(change.ino)?;
            // It may be back, under another number: then that is told of.
            let is_back = self.tree.ino(id)?.is_some_and(|ino| ino != change.ino);
            let is_news = change.revision > self.listed && !is_back;
            return Ok(is_news.then_some(Told {
                what: Entry { id, state: None },
                bytes: None,
                allocated: 0,
            }));
        }
        if let Some(row) = self.tree.snapshot().sync_node(change.ino)?
            && self.replica != 0
            && change.revision > self.listed
            && (row.by_replica, row.by_revision) == (self.replica, change.revision)
        {
            return Ok(None);
        }
        let Some(seen) = self.tree.look(change.ino, true)? else { return Ok(None) };
        let id = self.tree.id(change.ino)?;
        let is_new = self.after == 0 || seen.row.content_revision > self.after;
        let mut bytes = seen.bytes.filter(|_| is_new);
        if bytes.is_some() && !self.is_wanted(&seen.state)? {
            bytes = None;
        }
        self.bytes += bytes.as_ref().map_or(0, Vec::len);
        let allocated = seen.row.allocated;
        Ok(Some(Told { what: Entry { id, state: Some(seen.state) }, bytes, allocated }))
    }
}
