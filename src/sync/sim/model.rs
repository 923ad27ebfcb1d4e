//! A tree in memory.

use crate::clock::Timestamp;
use crate::error::FsResult;
use crate::store::rows::{Kind, Name, Revision};
use crate::sync::entry::{Attributes, Author, ContentId, NodeId, Place, State, Times};
use crate::sync::tree::{Bytes, Ignores, Local, Plan, Step, Tree};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) nodes: BTreeMap<NodeId, Local>,
    names: BTreeMap<NodeId, BTreeMap<Name, NodeId>>,
    pub(super) revision: Revision,
    pub(super) author: Author,
    next_ino: Cell<u64>,
    /// Whether what is called `ign` or ends in `.o` is left out.
    pub(super) ignores: bool,
}

impl Tree for Model {
    fn node(&self, id: NodeId) -> FsResult<Option<Local>> {
        Ok(self.nodes.get(&id).cloned())
    }

    fn child(&self, parent: NodeId, name: &[u8]) -> FsResult<Option<NodeId>> {
        Ok(self.names.get(&parent).and_then(|names| names.get(name)).copied())
    }

    fn children(&self, parent: NodeId) -> FsResult<Vec<(Name, NodeId)>> {
        let names = self.names.get(&parent);
        Ok(names.into_iter().flatten().map(|(name, id)| (name.clone(), *id)).collect())
    }

    fn known_in(&self, parent: NodeId) -> FsResult<Vec<NodeId>> {
        let base = |local: &Local| {
            local.base.as_ref().is_some_and(|base| base.places.iter().any(|place| place.parent == parent))
        };
        Ok(self.nodes.iter().filter(|(_, local)| base(local)).map(|(id, _)| *id).collect())
    }

    fn fresh(&self) -> NodeId {
        self.new_id()
    }

    fn ignores(&self) -> Ignores {
        if self.ignores { Ignores::Names } else { Ignores::Nothing }
    }

    fn is_ignored(&self, path: &[u8]) -> bool {
        self.ignores && is_ignorable(path)
    }
}

/// Whether a replica that ignores anything ignores this path.
pub(super) fn is_ignorable(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|name| name == b"ign" || name.ends_with(b".o"))
}

impl Model {
    pub(super) fn new(author: Author) -> Self {
        let root = State {
            kind: Kind::Dir,
            places: BTreeSet::new(),
            attributes: Attributes { mode: 0o755, ..Attributes::default() },
            times: Times::default(),
            content: None,
        };
        let local = Local { state: Some(root), base: None, revision: 0 };
        Self {
            nodes: BTreeMap::from([(NodeId::ROOT, local)]),
            names: BTreeMap::new(),
            revision: 0,
            author,
            next_ino: Cell::new(2),
            ignores: false,
        }
    }

    pub(super) fn new_id(&self) -> NodeId {
        self.next_ino.set(self.next_ino.get() + 1);
        NodeId { author: self.author, ino: self.next_ino.get() }
    }

    pub(super) fn state(&self, id: NodeId) -> Option<&State> {
        self.nodes.get(&id).and_then(|local| local.state.as_ref())
    }

    /// Everything that is there.
    pub(super) fn live(&self) -> impl Iterator<Item = (NodeId, &State)> {
        self.nodes.iter().filter_map(|(id, local)| Some((*id, local.state.as_ref()?)))
    }

    /// All contents that are there, by their numbers.
    pub(super) fn contents(&self) -> impl Iterator<Item = u64> {
        self.live().filter_map(|(_, state)| state.content).map(|content| content.size)
    }

    /// Sets what a node is, at the current revision.
    pub(super) fn set(&mut self, id: NodeId, state: Option<State>) {
        let old = self.nodes.remove(&id);
        for place in old.iter().filter_map(|old| old.state.as_ref()).flat_map(|state| &state.places) {
            let names = self.names.entry(place.parent).or_default();
            if names.get(&place.name) == Some(&id) {
                names.remove(&place.name);
            }
        }
        for place in state.iter().flat_map(|state| &state.places) {
            self.names.entry(place.parent).or_default().insert(place.name.clone(), id);
        }
        let base = old.and_then(|old| old.base);
        self.nodes.insert(id, Local { state, base, revision: self.revision });
    }

    pub(super) fn set_base(&mut self, id: NodeId, base: Option<State>) {
        if let Some(local) = self.nodes.get_mut(&id) {
            local.base = base;
            if local.base.is_none() && local.state.is_none() {
                self.nodes.remove(&id);
            }
        }
    }

    /// A path of a node, or none if it is not in the tree.
    pub(super) fn path(&self, id: NodeId) -> Option<Vec<u8>> {
        let place = self.state(id)?.places.first();
        match place {
            None => Some(Vec::new()),
            Some(place) => self.path_of(place, 0),
        }
    }

    /// Whether a node is here, and who leaves things out sees none of its names.
    pub(super) fn is_out_of_view(&self, id: NodeId) -> bool {
        let is_ignored = |place: &Place| self.path_of(place, 0).is_some_and(|path| is_ignorable(&path));
        self.state(id).is_some_and(|state| !state.places.is_empty() && state.places.iter().all(is_ignored))
    }

    pub(super) fn path_of(&self, place: &Place, depth: usize) -> Option<Vec<u8>> {
        let mut path = Vec::new();
        if place.parent != NodeId::ROOT {
            let above = self.state(place.parent)?.places.first()?;
            if depth > 1000 {
                return None;
            }
            path = self.path_of(above, depth + 1)?;
            path.push(b'/');
        }
        path.extend_from_slice(&place.name);
        Some(path)
    }

    /// Carries a plan out, or returns why that is not possible.
    pub(super) fn apply(&mut self, plan: &Plan) -> Result<(), String> {
        let mut after = self.clone();
        after.revision += 1;
        let parted: BTreeSet<NodeId> =
            plan.steps.iter().filter(|step| step.identity.is_some()).map(|step| step.id).collect();
        for step in &plan.steps {
            let is_new = step.identity.is_none() && parted.contains(&step.id);
            self.check_step(step, is_new)?;
        }
        let ids: BTreeSet<NodeId> = plan.steps.iter().map(|step| step.identity.unwrap_or(step.id)).collect();
        assert_eq!(ids.len(), plan.steps.len(), "a node has two steps");
        for step in &plan.steps {
            after.set(step.id, None);
        }
        let mut renamed: Vec<(NodeId, NodeId)> =
            plan.steps.iter().filter_map(|step| Some((step.id, step.identity?))).collect();
        // Who gives an identity away does so before another one gets it.
        while !renamed.is_empty() {
            let free = |to: NodeId| renamed.iter().all(|(from, _)| *from != to);
            let at = renamed.iter().position(|(_, to)| free(*to)).expect("identities go round in a circle");
            let (from, to) = renamed.swap_remove(at);
            after.rename(from, to);
        }
        for step in &plan.steps {
            let id = step.identity.unwrap_or(step.id);
            after.put(id, step.state.clone())?;
            if let Some(base) = &step.base {
                after.set_base(id, base.clone());
            }
        }
        for copy in &plan.copies {
            let Bytes::Of(of) = copy.bytes else { return Err("a copy of nothing".into()) };
            let content = self.state(of).and_then(|state| state.content);
            assert_eq!(content, copy.state.content, "a copy with other bytes");
            let id = after.new_id();
            after.put(id, Some(copy.state.clone()))?;
        }
        after.nodes.retain(|_, local| local.state.is_some() || local.base.is_some());
        after.check()?;
        *self = after;
        Ok(())
    }

    fn check_step(&self, step: &Step, is_new: bool) -> Result<(), String> {
        let local = self.nodes.get(&step.id).filter(|local| local.state.is_some() && !is_new);
        if local.map(|local| local.revision) != step.seen {
            return Err(format!("{:?} has changed", step.id));
        }
        let before = local.and_then(|local| local.state.as_ref()).and_then(|state| state.content);
        let wanted: Option<ContentId> = step.state.as_ref().and_then(|state| state.content);
        match step.bytes {
            Bytes::Keep if step.state.is_some() => assert_eq!(before, wanted, "other bytes are kept"),
            Bytes::Keep => {}
            Bytes::Other(id) => assert_eq!(Some(id), wanted),
            Bytes::Of(_) => panic!("a step takes the bytes of another node"),
        }
        Ok(())
    }

    fn rename(&mut self, from: NodeId, to: NodeId) {
        let gone = self.nodes.remove(&to);
        assert!(gone.is_none_or(|gone| gone.state.is_none()), "two nodes become one");
        let local = self.nodes.remove(&from).unwrap();
        self.nodes.insert(to, local);
        for (_, child) in self.children(from).unwrap() {
            let mut state = self.nodes[&child].state.clone().unwrap();
            let moved =
                |place: Place| if place.parent == from { Place { parent: to, ..place } } else { place };
            state.places = state.places.into_iter().map(moved).collect();
            let revision = self.nodes[&child].revision;
            self.set(child, Some(state));
            self.nodes.get_mut(&child).unwrap().revision = revision;
        }
    }

    fn put(&mut self, id: NodeId, state: Option<State>) -> Result<(), String> {
        for place in state.iter().flat_map(|state| &state.places) {
            if let Some(other) = self.child(place.parent, &place.name).unwrap() {
                return Err(format!("{place:?} of {id:?} is taken by {other:?}"));
            }
        }
        self.set(id, state);
        Ok(())
    }

    /// Whether it is a tree.
    pub(super) fn check(&self) -> Result<(), String> {
        for (id, state) in self.live() {
            let names = state.places.len();
            let right = match state.kind {
                _ if id == NodeId::ROOT => names == 0,
                Kind::Dir => names == 1,
                _ => names > 0,
            };
            if !right {
                return Err(format!("{id:?} has {names} names"));
            }
            for place in &state.places {
                if self.state(place.parent).is_none_or(|parent| parent.kind != Kind::Dir) {
                    return Err(format!("{id:?} is at {place:?}, which is no directory"));
                }
                if self.child(place.parent, &place.name).unwrap() != Some(id) {
                    return Err(format!("{place:?} does not lead to {id:?}"));
                }
                if self.path_of(place, 0).is_none() {
                    return Err(format!("{id:?} is below itself"));
                }
            }
        }
        if self.state(NodeId::ROOT).is_none() { Err("no root".into()) } else { Ok(()) }
    }

    /// All paths in view, as they are to be compared.
    pub(super) fn picture(&self, ignores: bool) -> BTreeMap<String, String> {
        let mut picture = BTreeMap::new();
        for (id, state) in self.live() {
            let about = describe(id, state);
            if id == NodeId::ROOT {
                picture.insert(String::new(), about);
                continue;
            }
            for place in &state.places {
                let path = self.path_of(place, 0).unwrap();
                if !(ignores && is_ignorable(&path)) {
                    picture.insert(String::from_utf8(path).unwrap(), about.clone());
                }
            }
        }
        picture
    }
}

fn describe(id: NodeId, state: &State) -> String {
    let time = if state.kind == Kind::Dir { Timestamp(0) } else { state.times.mtime };
    let content = state.content.map_or(0, |content| content.size);
    let attributes = &state.attributes;
    format!(
        "{}.{}:{:?} {:o} {}:{} {:?} c{content} t{}",
        id.author.0[0],
        u64::from(id.author.0[1]) * 1000 + id.ino,
        state.kind,
        attributes.mode,
        attributes.uid,
        attributes.gid,
        attributes.xattrs,
        time.0
    )
}
