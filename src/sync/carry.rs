//! Carrying out a plan: from identities to inode numbers, from states to a graft.

use super::entry::{ContentId, Cursor, Entry, NodeId, Offer, Place, State, same};
use super::link::{INLINE, Told};
use super::local::{LocalTree, encode_base};
use super::objects::Staged;
use super::site::Site;
use super::tree::{Bytes, Local, Plan, Step, Tree};
use crate::error::{FsError, FsResult};
use crate::store::rows::{Ino, Kind, Revision};
use crate::store::sync::{CursorRow, SyncChange, SyncNode, TakenRow};
use crate::vfs::graft::{At, Becomes, Bytes as GraftBytes, Grafted, Scion, Seen};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Contents that came, until they are in the tree.
#[derive(Default)]
pub struct Stock {
    /// Small ones, which travel within their entries.
    pub small: HashMap<ContentId, Vec<u8>>,
    /// Others, put together.
    pub files: HashMap<ContentId, Staged>,
    /// Bytes that will be allocated to contents, as the other side has said.
    allocated: HashMap<ContentId, u64>,
}

impl Stock {
    /// Bytes that will be allocated to a file of this content, as far as is known.
    fn room_of(&self, content: ContentId) -> u64 {
        let most = if content.depth == 0 { content.size } else { 0 };
        self.allocated.get(&content).copied().unwrap_or(most)
    }
}

/// What goes with a plan.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks {
    /// The number of the replica that brought it; 0: none, it comes from upstream.
    pub by_replica: i64,
    /// Upstream's changes are applied up to here with it.
    pub cursor: Option<Cursor>,
    /// Upstream was here when it told of it.
    pub heard: Option<Cursor>,
    /// It is a push of that replica.
    pub taken: Option<TakenRow>,
    /// All nodes of the plan count as changed.
    pub touch: bool,
}

/// What became of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried {
    /// It is done, as of this revision.
    Done(Revision),
    /// Something is not as the plan relied on; nothing was done.
    Changed,
    /// These contents have to come first; nothing was done.
    Lacks(Vec<ContentId>),
}

/// A plan in inode numbers.
#[derive(Default)]
struct Draft {
    /// What the nodes of the plan are here, those that are made included.
    inos: HashMap<NodeId, Ino>,
    scions: Vec<Scion>,
    notes: Vec<Note>,
    parents: Vec<Parent>,
    lacks: Vec<ContentId>,
    /// Contents that were put together, and the files that get them.
    placed: Vec<(ContentId, Ino)>,
    /// Nodes that are gone, and count as changed.
    gone: Vec<Ino>,
    /// Something has changed since the plan was made.
    is_late: bool,
}

/// What sync knows of a node afterwards.
struct Note {
    ino: Ino,
    row: SyncNode,
    /// The node is what was agreed on: since this revision, or since the graft.
    settled: Option<Settled>,
    /// The replica's change is the node's last.
    brought: bool,
}

/// A directory that is as was agreed on but for what is in it.
struct Parent {
    ino: Ino,
    row: SyncNode,
    revision: Revision,
}

enum Settled {
    At(Revision),
    Now,
}

impl Site {
    /// Carries out a plan, all of it or nothing. Where the store has no room for what is in the tree already, that is no
    /// error that says so: it is tried again, and will be written.
    pub fn carry(&self, tree: LocalTree<'_>, plan: &Plan, stock: &Stock, marks: Marks) -> FsResult<Carried> {
        let mut draft = Draft::default();
        self.draft_plan(&mut draft, &tree, plan, stock, marks.touch)?;
        let present = tree.snapshot().revision();
        tree.end()?;
        if draft.is_late {
            return Ok(Carried::Changed);
        }
        if !draft.lacks.is_empty() {
            return Ok(Carried::Lacks(draft.lacks));
        }
        let Draft { scions, notes, parents, placed, gone, .. } = draft;
        let cursor = marks.cursor.map(|cursor| CursorRow {
            life: cursor.life.0,
            revision: cursor.revision,
            listed: cursor.listed,
        });
        let heard = marks.heard.map(|heard| (heard.life.0, heard.revision));
        let nothing = scions.is_empty() && gone.is_empty();
        let note = |revision: Revision, before: &dyn Fn(Ino) -> Option<Revision>| {
            let gone = gone.into_iter().map(|ino| (ino, revision)).collect();
            let unchanged = parents.into_iter().filter(|parent| before(parent.ino) == Some(parent.revision));
            let parents = unchanged.map(|parent| (parent.ino, SyncNode { settled: revision, ..parent.row }));
            let nodes = notes.into_iter().map(|note| (note.ino, note.at(revision, marks.by_replica)));
            let taken = marks.taken.map(|row| (marks.by_replica, row)).into_iter().collect();
            SyncChange { nodes: parents.chain(nodes).collect(), gone, cursor, heard, taken }
        };
        if nothing {
            let change = note(present, &|_| None);
            if !change.is_empty() {
                self.vfs.note_sync(change);
            }
            return Ok(Carried::Done(present));
        }
        let revision = match self.vfs.graft(&scions, note)? {
            Grafted::Done(revision) => revision,
            Grafted::Changed(_) => return Ok(Carried::Changed),
        };
        self.vfs.commit_now().map_err(unwritten)?;
        for (content, ino) in placed {
            if let Some(staged) = stock.files.get(&content) {
                self.objects.placed(staged, ino).map_err(unnoted)?;
                let known = [(ino, revision, content.into())];
                self.store.put_contents(self.ws, &known, &[]).map_err(|error| unnoted(error.into()))?;
            }
        }
        Ok(Carried::Done(revision))
    }

    /// Has these nodes count as changed, though they are as they were. False: one of them changes meanwhile, and nothing
    /// was done.
    pub fn touch(&self, tree: LocalTree<'_>, ids: &[NodeId]) -> FsResult<bool> {
        let mut plan = Plan::default();
        for id in ids {
            let (state, seen) = match tree.node(*id)? {
                Some(Local { state: Some(state), revision, .. }) => (Some(state), Some(revision)),
                Some(Local { state: None, .. }) => (None, None),
                None => continue,
            };
            plan.steps.push(Step {
                id: *id,
                seen,
                state,
                bytes: Bytes::Keep,
                identity: None,
                base: None,
                unseen: false,
            });
        }
        let marks = Marks { touch: true, ..Marks::default() };
        Ok(matches!(self.carry(tree, &plan, &Stock::default(), marks)?, Carried::Done(_)))
    }

    /// Fails when the quota has no room for what a plan brings, which need not be here yet, beside what stays.
    pub fn check_room(&self, tree: &LocalTree<'_>, plan: &Plan, stock: &Stock) -> FsResult<()> {
        if !self.vfs.is_limited() {
            return Ok(());
        }
        let here = |id: NodeId| -> FsResult<u64> {
            let row = tree.ino(id)?.map(|ino| tree.snapshot().inode(ino)).transpose()?.flatten();
            Ok(row.filter(|row| row.nlink > 0).map_or(0, |row| row.allocated))
        };
        let coming = |bytes: Bytes| match bytes {
            Bytes::Keep => Ok(0),
            Bytes::Of(id) => here(id),
            Bytes::Other(content) => Ok(stock.room_of(content)),
        };
        let (mut before, mut after) = (0u64, 0u64);
        for step in &plan.steps {
            if step.state.is_none() || step.bytes != Bytes::Keep {
                before += if step.seen.is_some() { here(step.id)? } else { 0 };
                after = after.saturating_add(coming(step.bytes)?);
            }
        }
        for copy in &plan.copies {
            after = after.saturating_add(coming(copy.bytes)?);
        }
        self.vfs.check_growth(before, after)
    }

    fn draft_plan(
        &self,
        draft: &mut Draft,
        tree: &LocalTree<'_>,
        plan: &Plan,
        stock: &Stock,
        touch: bool,
    ) -> FsResult<()> {
        self.number_nodes(draft, tree, plan)?;
        for step in &plan.steps {
            self.draft_step(draft, tree, step, stock, touch)?;
        }
        for copy in &plan.copies {
            let ino = self.vfs.new_ino();
            let becomes = draft.becomes(tree, &copy.state, copy.bytes, stock, ino)?;
            draft.scions.push(Scion { ino, seen: None, becomes: Some(becomes) });
        }
        draft.find_parents(tree)
    }

    /// Which nodes of the plan are which here.
    fn number_nodes(&self, draft: &mut Draft, tree: &LocalTree<'_>, plan: &Plan) -> FsResult<()> {
        let (parted, others): (Vec<&Step>, Vec<&Step>) =
            plan.steps.iter().partition(|step| step.identity.is_some());
        let mut identities = Vec::new();
        for step in &parted {
            let Some(ino) = tree.ino(step.id)? else { return Err(FsError::Stale) };
            draft.inos.insert(step.id, ino);
            identities.extend(step.identity.map(|identity| (identity, ino)));
        }
        draft.inos.extend(identities);
        let parted: HashSet<NodeId> = parted.iter().map(|step| step.id).collect();
        for step in others {
            let known = if parted.contains(&step.id) { None } else { tree.ino(step.id)? };
            let ino = match known.filter(|_| step.seen.is_some() || step.state.is_none()) {
                Some(ino) => ino,
                // Of what is not here it has to be remembered what upstream has.
                None if step.state.is_some() || matches!(step.base, Some(Some(_))) => self.vfs.new_ino(),
                None => continue,
            };
            draft.inos.insert(step.id, ino);
        }
        Ok(())
    }

    fn draft_step(
        &self,
        draft: &mut Draft,
        tree: &LocalTree<'_>,
        step: &Step,
        stock: &Stock,
        touch: bool,
    ) -> FsResult<()> {
        let Some(ino) = draft.inos.get(&step.identity.unwrap_or(step.id)).copied() else { return Ok(()) };
        let there = if step.seen.is_some() { tree.look(ino, false)? } else { None };
        let row = tree.snapshot().sync_node(ino)?;
        let unchanged = match (&there, &step.state) {
            (Some(there), Some(state)) => there.state == *state && matches!(step.bytes, Bytes::Keep),
            (None, None) => true,
            _ => false,
        };
        let revision = there.as_ref().map(|there| there.row.revision);
        draft.is_late |= step.seen.is_some() && step.seen != revision;
        // What is not as its base says is to be offered, so it has to count as changed.
        let differs = touch
            || !step.unseen
                && step.base.as_ref().is_some_and(|base| !same(base.as_ref(), step.state.as_ref()));
        let unchanged = unchanged && (!differs || there.is_none());
        if differs && there.is_none() && step.state.is_none() {
            draft.gone.push(ino);
        }
        if !unchanged {
            let becomes = match &step.state {
                Some(state) => Some(draft.becomes(tree, state, step.bytes, stock, ino)?),
                None => None,
            };
            let seen = match &there {
                Some(there) => Some(Seen {
                    revision: step.seen.unwrap_or(there.row.revision),
                    access: (there.row.mode, there.row.uid, there.row.gid),
                    xattrs: Arc::clone(&there.state.attributes.xattrs),
                    places: tree.snapshot().names_of(ino)?.into_iter().collect(),
                }),
                None => None,
            };
            draft.scions.push(Scion { ino, seen, becomes });
        }
        let id = step.identity.unwrap_or(step.id);
        let mut row = row.unwrap_or_default();
        (row.life, row.origin) = self.number(id)?;
        let mut settled = None;
        if let Some(base) = &step.base {
            row.base = base.as_ref().map(encode_base).transpose()?;
            row.settled = 0;
            if same(base.as_ref(), step.state.as_ref()) {
                settled = match revision {
                    Some(revision) if unchanged => Some(Settled::At(revision)),
                    _ => Some(Settled::Now),
                };
            }
        }
        draft.notes.push(Note { ino, row, settled, brought: !unchanged });
        Ok(())
    }
}

impl Note {
    fn at(self, revision: Revision, by_replica: i64) -> SyncNode {
        let mut row = self.row;
        match self.settled {
            Some(Settled::At(settled)) => row.settled = settled,
            Some(Settled::Now) => row.settled = revision,
            None => {}
        }
        if self.brought {
            (row.by_replica, row.by_revision) = (by_replica, if by_replica == 0 { 0 } else { revision });
        }
        row
    }
}

impl Draft {
    /// Directories that change because something in them does, and are as was agreed on otherwise.
    fn find_parents(&mut self, tree: &LocalTree<'_>) -> FsResult<()> {
        let own: HashSet<Ino> = self.scions.iter().map(|scion| scion.ino).collect();
        let before = self.scions.iter().flat_map(|scion| &scion.seen).flat_map(|seen| &seen.places);
        let after = self.scions.iter().flat_map(|scion| &scion.becomes).flat_map(|becomes| &becomes.places);
        let inos: BTreeSet<Ino> = before.chain(after).map(|(parent, _)| *parent).collect();
        for ino in inos.into_iter().filter(|ino| !own.contains(ino)) {
            let (Some(row), Some(inode)) = (tree.snapshot().sync_node(ino)?, tree.snapshot().inode(ino)?)
            else {
                continue;
            };
            if row.base.is_some() && row.settled == inode.revision {
                self.parents.push(Parent { ino, row, revision: inode.revision });
            }
        }
        Ok(())
    }

    fn becomes(
        &mut self,
        tree: &LocalTree<'_>,
        state: &State,
        bytes: Bytes,
        stock: &Stock,
        ino: Ino,
    ) -> FsResult<Becomes> {
        let bytes = match bytes {
            Bytes::Keep => GraftBytes::Keep,
            Bytes::Of(id) => GraftBytes::Of(tree.ino(id)?.ok_or(FsError::Stale)?),
            Bytes::Other(content) => self.other(content, stock, ino),
        };
        let places: BTreeSet<At> =
            state.places.iter().map(|place| self.at(tree, place)).collect::<FsResult<_>>()?;
        let (attributes, times) = (&state.attributes, &state.times);
        Ok(Becomes {
            kind: state.kind,
            places,
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            rdev: attributes.rdev,
            xattrs: Arc::clone(&attributes.xattrs),
            atime: times.atime,
            mtime: times.mtime,
            btime: times.btime,
            bytes: if matches!(state.kind, Kind::File | Kind::Symlink) { bytes } else { GraftBytes::Keep },
        })
    }

    fn other(&mut self, content: ContentId, stock: &Stock, ino: Ino) -> GraftBytes {
        if content.size == 0 {
            return GraftBytes::These(Vec::new());
        }
        if let Some(bytes) = stock.small.get(&content) {
            return GraftBytes::These(bytes.clone());
        }
        match stock.files.get(&content) {
            Some(staged) => {
                self.placed.push((content, ino));
                GraftBytes::Of(staged.ino())
            }
            None => {
                self.lacks.push(content);
                GraftBytes::Keep
            }
        }
    }

    fn at(&self, tree: &LocalTree<'_>, place: &Place) -> FsResult<At> {
        let parent = match self.inos.get(&place.parent) {
            Some(ino) => *ino,
            None => tree.ino(place.parent)?.ok_or(FsError::Stale)?,
        };
        Ok((parent, Arc::clone(&place.name)))
    }
}

/// Why what was done is not in the store yet.
pub(super) fn unwritten(error: FsError) -> FsError {
    FsError::Io(format!("what was changed is not written yet, and is tried again: {error}").into())
}

/// Why it is not known which objects are in a file that is in the tree already.
fn unnoted(error: FsError) -> FsError {
    FsError::Io(format!("what is in a file that came cannot be noted: {error}").into())
}

/// The contents that a plan needs from the other side and that do not travel within entries.
pub fn needed(plan: &Plan) -> HashSet<ContentId> {
    let steps = plan.steps.iter().map(|step| step.bytes);
    let all = steps.chain(plan.copies.iter().map(|copy| copy.bytes));
    all.filter_map(|bytes| match bytes {
        Bytes::Other(content) if content.size > 0 => Some(content),
        _ => None,
    })
    .collect()
}

/// Takes the bytes that travel with what is told, if they are what they should be.
pub fn take_bytes<T: Stateful>(told: Vec<Told<T>>, stock: &mut Stock) -> Vec<T> {
    let mut all = Vec::with_capacity(told.len());
    for Told { what, bytes, allocated } in told {
        let content = what.state().and_then(|state| state.content);
        if let Some(content) = content.filter(|_| allocated > 0) {
            stock.allocated.insert(content, allocated);
        }
        if let (Some(content), Some(bytes)) = (content, bytes)
            && is_content(content, &bytes)
        {
            stock.small.insert(content, bytes);
        }
        all.push(what);
    }
    all
}

fn is_content(content: ContentId, bytes: &[u8]) -> bool {
    content.depth == 0
        && content.size <= INLINE
        && content.size == bytes.len() as u64
        && super::contents::hash(bytes) == content.hash
}

/// What says what a node is.
pub trait Stateful {
    /// What it says.
    fn state(&self) -> Option<&State>;
}

impl Stateful for Entry {
    fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }
}

impl Stateful for Offer {
    fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }
}
