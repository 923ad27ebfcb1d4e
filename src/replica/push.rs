//! What is ours becomes upstream's.

use super::driver::{Shared, blocking, lacked, refused};
use crate::clock::Timestamp;
use crate::error::{FsError, FsResult};
use crate::store::rows::{Ino, Kind, Revision};
use crate::store::sync::{SyncChange, SyncNode};
use crate::sync::engine::{Call, Event};
use crate::sync::entry::{Author, ContentId, Cursor, NodeId, Offer, State};
use crate::sync::link::{Answer, BATCH_BYTES, BATCH_ENTRIES, BATCH_MOST, LinkError, Pushed, Told, Upstream};
use crate::sync::local::{LocalTree, decode_base, encode_base};
use crate::sync::offers;
use crate::sync::site::Sent as Unanswered;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Files of at least this size, before or after a change, are offered when they have been left alone for a while: one that is
/// written anew would travel in every state between, and the old bytes that it still has would be gone at the other end.
const LARGE: u64 = 1 << 20;

/// How long that is; nanoseconds.
const QUIET: i64 = 1_000_000_000;

/// How long at most a file that is never left alone is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most offers of one parcel.
const OFFERS: usize = BATCH_MOST / 2;

/// How often objects are brought anew for one batch before it is left for later.
const TRIES: usize = 3;

/// What is to be offered next.
struct Parcel {
    /// Nodes that have to be read first.
    apart: Vec<NodeId>,
    offers: Vec<Told<Offer>>,
    /// The node of each offer here, if it is here, and the revision that was looked at.
    seen: Vec<Option<(Ino, Revision)>>,
    /// Contents that do not travel within their offers.
    contents: Vec<ContentId>,
    /// Nodes to be offered after these: what did not fit, and what nobody had noticed as changed.
    more: Vec<NodeId>,
    /// All changes up to here are upstream once these are.
    up_to: Revision,
    life: Author,
    /// There is more that has changed.
    unfinished: bool,
    /// Changes up to here are upstream once these are, though not those of files that are waited for.
    noted: Revision,
    /// The store's last revision when these were made.
    made_at: Revision,
}

/// How far a push has come.
#[derive(Clone, Copy)]
struct Reach {
    /// All changes up to here are upstream, or wait for files that are being written.
    seen: Revision,
    /// All changes up to here are upstream.
    noted: Revision,
}

impl Parcel {
    /// What of it takes something away, alone. The rest still has to be offered.
    fn removals(&self) -> Self {
        let all = self.offers.iter().zip(&self.seen);
        let (gone, rest): (Vec<_>, Vec<_>) = all.partition(|(told, _)| told.what.state.is_none());
        let (offers, seen) = gone.into_iter().map(|(told, seen)| (told.clone(), *seen)).unzip();
        let more = rest.into_iter().map(|(told, _)| told.what.id).chain(self.more.iter().copied()).collect();
        Self { apart: Vec::new(), offers, seen, contents: Vec::new(), more, ..*self }
    }
}

/// Offers without bytes.
fn bare(offers: &[Told<Offer>]) -> Vec<Told<Offer>> {
    let bare = |told: &Told<Offer>| Told { what: told.what.clone(), bytes: None, allocated: told.allocated };
    offers.iter().map(bare).collect()
}

/// Whether the other side, or this one, has no room.
pub(super) fn is_full(error: &LinkError) -> bool {
    matches!(error, LinkError::Full(_))
}

/// What upstream says, told here.
fn theirs(error: LinkError) -> LinkError {
    match error {
        LinkError::Full(why) => LinkError::Full(format!("upstream has {why}")),
        other => other,
    }
}

impl Shared {
    /// Offers all that has changed here, in batches.
    pub(super) async fn push<L: Upstream>(
        self: Arc<Self>,
        link: Arc<L>,
        call: Call,
        up_to: Revision,
        also: Vec<NodeId>,
    ) -> Answer<Event> {
        let epoch = self.epoch();
        let mut cursor = None;
        let mut also = also;
        let mut reach = Reach { seen: 0, noted: Revision::MAX };
        loop {
            let parcel = {
                let shared = Arc::clone(&self);
                let also = std::mem::take(&mut also);
                blocking(move || shared.parcel(&also, reach)).await?
            };
            also.clone_from(&parcel.more);
            if also.is_empty() {
                let is_whole = parcel.noted == parcel.up_to;
                reach.noted = if is_whole { Revision::MAX } else { parcel.noted };
                reach.seen = parcel.up_to;
            }
            let (done, finished) = (parcel.noted, !parcel.unfinished && parcel.more.is_empty());
            let (reached, removals) = (parcel.up_to, parcel.removals());
            let sent = self.send(&*link, call, parcel, epoch).await;
            if sent.as_ref().is_err_and(is_full) && !removals.offers.is_empty() {
                // What goes makes room for what comes.
                self.send(&*link, call, removals, epoch).await?;
            }
            match sent? {
                Sent::Taken(at) => cursor = at.or(cursor),
                Sent::Otherwise(event) => return Ok(event),
            }
            // Whatever came later is the business of the next push.
            if finished || (reached >= up_to && also.is_empty()) {
                return Ok(Event::Pushed { call, revision: done, cursor });
            }
        }
    }

    async fn send<L: Upstream>(
        self: &Arc<Self>,
        link: &L,
        call: Call,
        parcel: Parcel,
        epoch: u64,
    ) -> Answer<Sent> {
        if !parcel.apart.is_empty() {
            return Ok(Sent::Otherwise(refused(call, parcel.apart)));
        }
        if parcel.offers.is_empty() {
            let shared = Arc::clone(self);
            blocking(move || shared.pushed(&parcel)).await?;
            return Ok(Sent::Taken(None));
        }
        // There may be no room upstream for what is large: that is asked first.
        let size = parcel.contents.iter().fold(0u64, |sum, content| sum.saturating_add(content.size));
        let mut asks = size >= LARGE;
        if !asks && !parcel.contents.is_empty() {
            self.bring_contents(link, parcel.contents.clone()).await.map_err(theirs)?;
        }
        for _ in 0..TRIES + usize::from(asks) {
            self.note_unanswered(&parcel).await?;
            let offers = if asks { bare(&parcel.offers) } else { parcel.offers.clone() };
            let answer = link.push(offers, parcel.made_at, parcel.life).await.map_err(theirs)?;
            match answer {
                Pushed::Taken(cursor) => {
                    self.heard(Some(cursor));
                    let shared = Arc::clone(self);
                    blocking(move || shared.agreed(&parcel, epoch)).await?;
                    return Ok(Sent::Taken(Some(cursor)));
                }
                Pushed::Refused(refusals) => {
                    let shared = Arc::clone(self);
                    blocking(move || shared.answered()).await?;
                    let mut known = HashSet::new();
                    let ids = refusals.iter().flat_map(crate::sync::Refusal::ids);
                    return Ok(Sent::Otherwise(refused(call, ids.filter(|id| known.insert(*id)).collect())));
                }
                Pushed::Lacks(hashes) => {
                    let shared = Arc::clone(self);
                    blocking(move || shared.answered()).await?;
                    let brought = if std::mem::take(&mut asks) {
                        self.bring_contents(link, parcel.contents.clone()).await
                    } else {
                        self.bring(link, hashes).await
                    };
                    brought.map_err(theirs)?;
                }
            }
        }
        Ok(Sent::Otherwise(lacked(call)))
    }

    /// Notes what is offered, before it is.
    async fn note_unanswered(self: &Arc<Self>, parcel: &Parcel) -> Answer<()> {
        let offers = parcel.offers.iter().map(|told| told.what.clone()).collect();
        let sent = Unanswered { offers, made_at: parcel.made_at };
        let shared = Arc::clone(self);
        blocking(move || {
            shared.site.note_offers(&sent)?;
            *shared.unanswered.lock() = sent;
            shared.taken.store(false, Ordering::Relaxed);
            shared.unsure.store(true, Ordering::Relaxed);
            Ok(())
        })
        .await
    }

    /// Looks for what has changed here: those nodes, or, if there are none, the next ones.
    fn parcel(&self, also: &[NodeId], reach: Reach) -> FsResult<Parcel> {
        let site = &self.site;
        site.commit()?;
        let pushed = site.state()?.pushed.max(reach.seen);
        let tree = site.look(&self.settings.ignore)?;
        let (changed, up_to) = tree.snapshot().changed_after(pushed, BATCH_ENTRIES)?;
        // First what was asked for by name: it is what a push was refused for, and belongs into one batch.
        let mut ids = also.to_vec();
        let mut noted = up_to.min(reach.noted);
        for change in &changed {
            let row = tree.snapshot().sync_node(change.ino)?;
            let settled = match &row {
                Some(row) if change.gone => row.base.is_none(),
                Some(row) => row.base.is_some() && row.settled == change.revision,
                None => change.gone,
            };
            if settled {
                continue;
            }
            if !change.gone && self.is_being_written(&tree, change.ino, row.as_ref())? {
                noted = noted.min(change.revision - 1);
                continue;
            }
            ids.push(tree.id(change.ino)?);
        }
        let offering = offers(&tree, &ids)?;
        let mut parcel = Parcel {
            apart: offering.apart,
            offers: Vec::with_capacity(offering.offers.len()),
            seen: Vec::new(),
            contents: Vec::new(),
            more: offering.more,
            up_to,
            life: site.life(),
            unfinished: up_to < tree.snapshot().revision(),
            noted,
            made_at: tree.snapshot().revision(),
        };
        let unnoticed = std::mem::take(&mut parcel.more);
        let mut bytes = 0;
        for (number, offer) in offering.offers.into_iter().enumerate() {
            if number < OFFERS && bytes < BATCH_BYTES {
                bytes += self.pack(&tree, offer, &mut parcel)?;
            } else {
                parcel.more.push(offer.id);
            }
        }
        let settled = self.settled(&tree, &ids, &parcel)?;
        if unnoticed.is_empty() {
            tree.end()?;
        } else if !site.touch(tree, &unnoticed)? {
            // They have to count as changed before the others are sent, so that they are offered though this is cut off.
            return Err(FsError::Io(
                "what is to be offered changes at this moment: it is offered a little later".into(),
            ));
        }
        parcel.more.extend(unnoticed);
        if !settled.is_empty() {
            site.note(settled);
        }
        Ok(parcel)
    }

    /// Whether a large file has been written to just now.
    fn is_being_written(&self, tree: &LocalTree<'_>, ino: Ino, row: Option<&SyncNode>) -> FsResult<bool> {
        let Some(inode) = tree.snapshot().inode(ino)?.filter(|inode| inode.kind == Kind::File) else {
            return Ok(false);
        };
        let base = row.and_then(|row| row.base.as_deref()).map(decode_base).transpose()?;
        let before = base.and_then(|base| base.content).map_or(0, |content| content.size);
        let is_large = inode.size.max(before) >= LARGE;
        let is_new = Timestamp::now().0.saturating_sub(inode.ctime.0) < QUIET;
        let mut waited_for = self.waited_for.lock();
        if !(is_large && is_new) {
            waited_for.remove(&ino);
            return Ok(false);
        }
        let since = *waited_for.entry(ino).or_insert_with(Instant::now);
        Ok(since.elapsed() < PATIENCE)
    }

    /// Adds an offer; returns about how many bytes it has.
    fn pack(&self, tree: &LocalTree<'_>, offer: Offer, parcel: &mut Parcel) -> FsResult<usize> {
        let content = |state: &Option<State>| state.as_ref().and_then(|state| state.content);
        let (before, now) = (content(&offer.base), content(&offer.state));
        let moved = now.filter(|now| before != Some(*now) && now.size > 0);
        let here = tree.ino(offer.id)?;
        let seen = match (here, &offer.state) {
            (Some(ino), Some(_)) => tree.look(ino, moved.is_some())?,
            _ => None,
        };
        let revision = seen.as_ref().map_or(0, |seen| seen.row.revision);
        let allocated = seen.as_ref().map_or(0, |seen| seen.row.allocated);
        let bytes = seen.and_then(|seen| seen.bytes).filter(|_| moved.is_some());
        if let (Some(content), None) = (moved, &bytes) {
            parcel.contents.push(content);
        }
        let size = 200 + bytes.as_ref().map_or(0, Vec::len);
        parcel.seen.push(here.map(|ino| (ino, revision)));
        parcel.offers.push(Told { what: offer, bytes, allocated });
        Ok(size)
    }

    /// Nodes that have changed and are still what was agreed on: they need not be looked at again.
    fn settled(&self, tree: &LocalTree<'_>, ids: &[NodeId], parcel: &Parcel) -> FsResult<SyncChange> {
        let offered = parcel.offers.iter().map(|told| told.what.id);
        let offered: HashSet<NodeId> = offered.chain(parcel.more.iter().copied()).collect();
        let mut change = SyncChange::default();
        for id in ids.iter().filter(|id| !offered.contains(id)) {
            let Some(ino) = tree.ino(*id)? else { continue };
            let (Some(row), Some(inode)) = (tree.snapshot().sync_node(ino)?, tree.snapshot().inode(ino)?)
            else {
                continue;
            };
            if row.base.is_some() {
                change.nodes.insert(ino, SyncNode { settled: inode.revision, ..row });
            }
        }
        Ok(change)
    }

    /// What was offered is what both sides agree on.
    fn agreed(&self, parcel: &Parcel, epoch: u64) -> FsResult<()> {
        let _tree = self.tree.lock();
        if self.epoch() != epoch {
            // The offers are still noted as unanswered, and are asked after on the next connection.
            return Err(FsError::Io("the connection has ended".into()));
        }
        let site = &self.site;
        let tree = site.look(&self.settings.ignore)?;
        let mut change =
            SyncChange { heard: self.latest().map(|at| (at.life.0, at.revision)), ..SyncChange::default() };
        for (told, seen) in parcel.offers.iter().zip(&parcel.seen) {
            let Some((ino, revision)) = seen else { continue };
            let mut row = tree.snapshot().sync_node(*ino)?.unwrap_or_default();
            (row.life, row.origin) = site.number(told.what.id)?;
            row.base = told.what.state.as_ref().map(encode_base).transpose()?;
            row.settled = *revision;
            change.nodes.insert(*ino, row);
        }
        tree.end()?;
        site.note(change);
        site.commit()?;
        self.pushed(parcel)?;
        self.answered()
    }

    /// All up to here is upstream, if nothing is left to be offered with it.
    fn pushed(&self, parcel: &Parcel) -> FsResult<()> {
        if parcel.more.is_empty() { self.site.note_pushed(parcel.noted) } else { Ok(()) }
    }
}

enum Sent {
    Taken(Option<Cursor>),
    Otherwise(Event),
}
