//! The nodes that a plan looks at, and what becomes of each by itself.

use super::Rules;
use super::merge::merge;
use crate::error::{FsError, FsResult};
use crate::store::rows::Kind;
use crate::sync::entry::{Entry, NodeId, Place, State, same};
use crate::sync::tree::{Bytes, Conflict, ConflictKind, KeptCopy, Local, OnConflict, Tree};
use crate::sync::view::{Names, Side, Views, with_names};
use std::collections::{BTreeMap, BTreeSet};

/// What an entry says.
pub(super) struct Told {
    /// Its position, from 1: of two that contradict each other, the one that came first is out of date. [`RECALLED`]: nobody has
    /// told of it just now.
    pub(super) age: usize,
    pub(super) state: Option<State>,
}

/// A node that was looked at.
pub(super) struct Node {
    /// As it is known here until now.
    pub(super) id_here: NodeId,
    /// What it is here, whole.
    pub(super) local: Option<Local>,
    /// What it is here, as far as it is in view.
    pub(super) here: Option<State>,
    /// Its names here that are not in view.
    pub(super) hidden: BTreeSet<Place>,
    /// What upstream was last known to have, whole.
    pub(super) known: Option<State>,
    /// Whether it was told of.
    pub(super) is_told: bool,
    /// Whether it was told of long ago only, and is looked at all the same.
    pub(super) is_recalled: bool,
    /// What is in view of what upstream has, of nodes that were told of.
    pub(super) there: Option<State>,
    /// The directories that it is in upstream without being in view.
    pub(super) hidden_in: BTreeSet<NodeId>,
    /// What becomes of it, as far as it is in view.
    pub(super) result: Option<State>,
    /// What both sides agree on from now on.
    pub(super) base: Option<Option<State>>,
    /// It is to be offered, though nothing becomes of it.
    pub(super) noticed: bool,
    /// What was here by this identity is another node from now on.
    pub(super) parted: bool,
    /// Our version, which has lost and is to be kept.
    pub(super) lost: Option<State>,
}

/// A plan in the making.
pub(super) struct Work<'a> {
    pub(super) tree: &'a dyn Tree,
    pub(super) rules: &'a Rules<'a>,
    pub(super) told: BTreeMap<NodeId, Told>,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// Who claims a name, of the nodes that were looked at.
    pub(super) claims: BTreeMap<Place, BTreeSet<NodeId>>,
    /// Nodes here that got another identity, and which.
    pub(super) renamed: BTreeMap<NodeId, NodeId>,
    /// Directories that upstream has out of view, and that have to stay all the same: the plan has to be made anew with that.
    pub(super) stay: BTreeSet<NodeId>,
    /// Nodes of `told` that upstream has not told of, and that have not been looked at yet.
    recalled: Vec<NodeId>,
    pub(super) needs: BTreeSet<NodeId>,
    pub(super) conflicts: Vec<Conflict>,
    pub(super) copies: Vec<KeptCopy>,
    views: Views<'a>,
}

/// The age of what upstream has not told of: older than all that it has.
const RECALLED: usize = 0;

impl Node {
    fn absent(id: NodeId) -> Self {
        Self {
            id_here: id,
            local: None,
            here: None,
            hidden: BTreeSet::new(),
            known: None,
            is_told: false,
            is_recalled: false,
            there: None,
            hidden_in: BTreeSet::new(),
            result: None,
            base: None,
            noticed: false,
            parted: false,
            lost: None,
        }
    }

    /// Whether upstream has this node at this place, in view.
    pub(super) fn is_upstream_at(&self, place: &Place) -> bool {
        let upstream = if self.is_told { &self.there } else { &self.known };
        upstream.as_ref().is_some_and(|state| state.places.contains(place))
    }

    /// Whether it has other names than before, or is, or is no more.
    pub(super) fn is_moved(&self) -> bool {
        let names = |state: &Option<State>| state.as_ref().map(|state| state.places.clone());
        names(&self.here) != names(&self.result)
    }

    pub(super) fn is_dir(&self) -> bool {
        let any = self.result.as_ref().or(self.here.as_ref()).or(self.known.as_ref());
        any.is_some_and(|state| state.kind == Kind::Dir)
    }

    /// Whether upstream was known to have it.
    fn was_known(&self) -> bool {
        self.local.as_ref().is_some_and(|local| local.base.is_some())
    }

    /// Whether there is such a node here, in view or not.
    pub(super) fn is_here(&self) -> bool {
        self.local.as_ref().is_some_and(|local| local.state.is_some())
    }
}

impl<'a> Work<'a> {
    /// `kept`: directories that are known to stay in view, though upstream has them out of view.
    pub(super) fn new(
        tree: &'a dyn Tree,
        incoming: &[Entry],
        rules: &'a Rules<'a>,
        kept: &BTreeSet<NodeId>,
    ) -> Self {
        let mut told = BTreeMap::new();
        for (at, entry) in incoming.iter().enumerate() {
            told.insert(entry.id, Told { age: at + 1, state: entry.state.clone() });
        }
        let place = |told: &Told| told.state.as_ref().and_then(|state| state.places.first().cloned());
        let places = told.iter().map(|(id, told)| (*id, (told.age, place(told)))).collect();
        Self {
            tree,
            rules,
            told,
            nodes: BTreeMap::new(),
            claims: BTreeMap::new(),
            renamed: BTreeMap::new(),
            stay: BTreeSet::new(),
            recalled: Vec::new(),
            needs: BTreeSet::new(),
            conflicts: Vec::new(),
            copies: Vec::new(),
            views: Views::new(tree, places, kept.clone()),
        }
    }

    /// Whether there is any use in going on.
    pub(super) fn is_sound(&self) -> bool {
        self.needs.is_empty() && self.stay.is_empty()
    }

    /// Decides about each node that was told of.
    pub(super) fn merge_all(&mut self) -> FsResult<()> {
        let mut ids: Vec<NodeId> = self.told.keys().copied().collect();
        while let Some(id) = ids.pop() {
            self.merge_one(id)?;
            if self.nodes.get(&id).is_some_and(Node::is_dir) && self.views.crosses(id)? {
                let children = self.tree.known_in(id)?;
                self.recall(children)?;
            }
            ids.append(&mut self.recalled);
        }
        Ok(())
    }

    /// Has nodes looked at as if upstream had told of them what was agreed on last: it has not, as they are what they were,
    /// but they come into view, or leave it.
    fn recall(&mut self, ids: Vec<NodeId>) -> FsResult<()> {
        for id in ids {
            if self.told.contains_key(&id) {
                continue;
            }
            if let Some(state) = self.tree.node(id)?.and_then(|local| local.base) {
                self.told.insert(id, Told { age: RECALLED, state: Some(state) });
                self.recalled.push(id);
            }
        }
        Ok(())
    }

    fn merge_one(&mut self, id: NodeId) -> FsResult<()> {
        self.load(id)?;
        let there = self.in_view_there(id)?;
        let base = self.in_view_base(id)?;
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if id == NodeId::ROOT && there.is_none() {
            return Err(FsError::Invalid("upstream has no root"));
        }
        (node.is_told, node.there) = (true, there.clone());
        let here = node.here.clone();
        node.base = Some(node.known.clone());
        let out_of_view = node.known.clone().filter(|_| there.is_none());
        let is_kept = out_of_view.is_some() && self.views.keeps(id)?;
        let result = match (&here, &base, &there) {
            (Some(ours), Some(base), None) if base.same(ours) && !is_kept => None,
            (Some(ours), _, None) if out_of_view.is_some() => self.keep_in_view(id, ours, out_of_view)?,
            (_, None, None) => here.clone(),
            (None, Some(base), Some(new)) if base.same(new) => None,
            (None, Some(_), None) => None,
            (None, base, Some(new)) => {
                if base.is_some() {
                    self.note(id, ConflictKind::Removal);
                }
                Some(new.clone())
            }
            (Some(_), Some(_), None) => {
                self.note(id, ConflictKind::Removal);
                here.clone()
            }
            (Some(ours), base, Some(new)) => Some(self.merge_both(id, base.as_ref(), ours, new)?),
        };
        let is_news = here.as_ref().is_some_and(|here| here.kind == Kind::Dir)
            && self.nodes.get(&id).is_some_and(|node| node.known.is_some() && !node.was_known());
        self.put(id, result);
        if is_news { self.notice_contents(id) } else { Ok(()) }
    }

    /// What is here, of a node that has left the view upstream though it was changed here: it is merged, and stays.
    fn keep_in_view(&mut self, id: NodeId, here: &State, there: Option<State>) -> FsResult<Option<State>> {
        if here.kind == Kind::Dir && !self.views.keeps(id)? {
            self.stay.insert(id);
        }
        let base = self.agreed(id).cloned();
        let places = |state: State| State { places: here.places.clone(), ..state };
        let (base, there) = (base.map(places), there.map(places));
        let Some(there) = there else { return Ok(Some(here.clone())) };
        self.merge_both(id, base.as_ref(), here, &there).map(Some)
    }

    fn merge_both(
        &mut self,
        id: NodeId,
        base: Option<&State>,
        here: &State,
        there: &State,
    ) -> FsResult<State> {
        if here.kind != there.kind {
            return Err(FsError::Invalid("a node has become one of another kind"));
        }
        let merged = merge(base, here, there, self.rules.on_conflict);
        for kind in merged.conflicts {
            self.note(id, kind);
            let keep = kind == ConflictKind::Content && self.rules.on_conflict == OnConflict::KeepBoth;
            if let (true, Some(node)) = (keep, self.nodes.get_mut(&id)) {
                node.lost = Some(here.clone());
            }
        }
        Ok(merged.state)
    }

    /// Writes down that a node was in conflict.
    pub(super) fn note(&mut self, id: NodeId, kind: ConflictKind) {
        let Some(node) = self.nodes.get(&id) else { return };
        let (here, upstream) = (node.here.clone(), node.known.clone());
        self.conflicts.push(Conflict { id, kind, here, upstream, kept: None });
    }

    /// What is in view of what upstream has. Asks for parents that nobody here knows.
    fn in_view_there(&mut self, id: NodeId) -> FsResult<Option<State>> {
        let Some(node) = self.nodes.get(&id) else { return Ok(None) };
        let Some(state) = &node.known else { return Ok(None) };
        let mut names = self.views.names(Side::There, state)?;
        self.needs.extend(std::mem::take(&mut names.unknown).into_values());
        let hidden_in = names.hidden.iter().map(|place| place.parent).collect();
        let there = with_names(id, state, names.shown);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.hidden_in = hidden_in;
        }
        Ok(there)
    }

    /// What both sides agreed on last: what is stored as that, or what upstream has taken without our hearing of it.
    fn agreed(&self, id: NodeId) -> Option<&State> {
        let node = self.nodes.get(&id)?;
        let sent = self.rules.unanswered.iter().rfind(|offer| offer.id == id);
        let base = node.local.as_ref().and_then(|local| local.base.as_ref());
        // Nothing was agreed on since it was offered.
        let is_open = sent.is_some_and(|offer| same(offer.base.as_ref(), base));
        match (sent.map(|offer| &offer.state), &node.known) {
            (Some(Some(taken)), Some(known)) if taken.same(known) => Some(taken),
            (Some(state), _) if is_open && self.rules.taken => state.as_ref(),
            // It may have been taken away, and be what somebody else has made of an older state since.
            (Some(None), Some(known)) if is_open && node.here.is_some() => {
                base.filter(|base| base.same(known))
            }
            _ => base,
        }
    }

    /// What is in view of what both sides agreed on last.
    fn in_view_base(&mut self, id: NodeId) -> FsResult<Option<State>> {
        let Some(node) = self.nodes.get(&id) else { return Ok(None) };
        let Some(state) = self.agreed(id).cloned() else { return Ok(None) };
        let names = self.views.names(Side::Base, &state)?;
        let shown =
            names.shown.into_iter().filter(|place| !names.unknown.contains_key(place) || node.shows(place));
        let also = names.hidden.into_iter().filter(|place| node.shows(place));
        Ok(with_names(id, &state, shown.chain(also).collect()))
    }

    /// Looks at a node. Until decided otherwise it stays as it is.
    pub(super) fn load(&mut self, id: NodeId) -> FsResult<()> {
        if self.nodes.contains_key(&id) {
            return Ok(());
        }
        let mut node = Node::absent(id);
        // What was renamed is not there under its old identity.
        let mut local = if self.renamed.contains_key(&id) { None } else { self.tree.node(id)? };
        if let Some(state) = local.as_ref().and_then(|local| local.state.as_ref()) {
            let Names { shown, hidden, .. } = self.views.names(Side::Here, state)?;
            if shown.is_empty() && id != NodeId::ROOT && self.comes(id) {
                local = self.part(id, hidden)?;
                node.parted = true;
            } else {
                node.here = with_names(id, state, self.renamed_places(shown));
                node.hidden = self.renamed_places(hidden);
            }
        }
        node.known = match self.told.get(&id) {
            Some(told) => told.state.clone(),
            None => local.as_ref().and_then(|local| local.base.clone()),
        };
        node.is_recalled = self.told.get(&id).is_some_and(|told| told.age == RECALLED);
        node.result = node.here.clone();
        node.local = local;
        for place in node.result.iter().flat_map(|state| &state.places) {
            self.claims.entry(place.clone()).or_default().insert(id);
        }
        self.nodes.insert(id, node);
        Ok(())
    }

    /// Whether upstream has told of a node, and has it.
    fn comes(&self, id: NodeId) -> bool {
        self.told.get(&id).is_some_and(|told| told.state.is_some())
    }

    /// A node that is out of view here becomes another one: upstream's has come, or has left the view there too. So what is
    /// done to either is nobody's business at the other end. Returns what is left of the node here.
    fn part(&mut self, id: NodeId, hidden: BTreeSet<Place>) -> FsResult<Option<Local>> {
        let local = self.tree.node(id)?;
        let mine = self.tree.fresh();
        self.renamed.insert(id, mine);
        for node in self.nodes.values_mut() {
            let moved = std::mem::take(&mut node.hidden).into_iter().map(|place| match place.parent == id {
                true => Place { parent: mine, ..place },
                false => place,
            });
            node.hidden = moved.collect();
        }
        let mut node = Node::absent(id);
        node.local = local.clone();
        node.hidden = self.renamed_places(hidden);
        node.base = Some(None);
        self.nodes.insert(mine, node);
        let is_dir = |local: &Local| local.state.as_ref().is_some_and(|state| state.kind == Kind::Dir);
        if local.as_ref().is_some_and(is_dir) {
            let children = self.tree.children(id)?.into_iter().map(|(_, child)| child).collect();
            self.recall(children)?;
        }
        Ok(local.map(|local| Local { state: None, ..local }))
    }

    /// Decides what becomes of a node.
    pub(super) fn put(&mut self, id: NodeId, result: Option<State>) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        for place in node.result.iter().flat_map(|state| &state.places) {
            if let Some(claimants) = self.claims.get_mut(place) {
                claimants.remove(&id);
            }
        }
        for place in result.iter().flat_map(|state| &state.places) {
            self.claims.entry(place.clone()).or_default().insert(id);
        }
        node.result = result;
    }

    /// The identity that a node here has after the plan.
    pub(super) fn identity(&self, id_here: NodeId) -> NodeId {
        self.renamed.get(&id_here).copied().unwrap_or(id_here)
    }

    /// As who a node is known here, if it is here.
    pub(super) fn id_here(&self, id: NodeId) -> Option<NodeId> {
        match self.nodes.get(&id) {
            Some(node) => Some(node.id_here).filter(|_| !node.parted),
            None => Some(id).filter(|_| !self.renamed.contains_key(&id)),
        }
    }

    pub(super) fn renamed_places(&self, places: BTreeSet<Place>) -> BTreeSet<Place> {
        if self.renamed.is_empty() {
            return places;
        }
        places.into_iter().map(|place| Place { parent: self.identity(place.parent), ..place }).collect()
    }

    /// What a name here leads to, by the identity that it has after the plan.
    pub(super) fn child_here(&self, place: &Place) -> FsResult<Option<NodeId>> {
        let Some(parent) = self.id_here(place.parent) else { return Ok(None) };
        let child = self.tree.child(parent, &place.name)?;
        Ok(child.map(|child| self.identity(child)))
    }

    /// Asks for whichever of two nodes is known less recently; for both if nothing was told of either.
    pub(super) fn need_older(&mut self, one: NodeId, other: NodeId) {
        let age = |id: &NodeId| self.told.get(id).map(|told| told.age);
        let (first, second) = (age(&one), age(&other));
        if first <= second {
            self.needs.insert(one);
        }
        if second <= first {
            self.needs.insert(other);
        }
    }
}

impl Node {
    /// Whether it has this name here, in view.
    fn shows(&self, place: &Place) -> bool {
        self.here.as_ref().is_some_and(|here| here.places.contains(place))
    }

    /// Where its bytes come from, when it becomes this.
    pub(super) fn bytes_of(&self, state: Option<&State>) -> Bytes {
        let before = self.local.as_ref().and_then(|local| local.state.as_ref());
        match state.and_then(|state| state.content) {
            Some(content) if before.and_then(|before| before.content) != Some(content) => {
                Bytes::Other(content)
            }
            _ => Bytes::Keep,
        }
    }
}
