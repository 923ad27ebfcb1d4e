//! What people do to a tree.

use super::Dice;
use super::model::{Model, is_ignorable};
use crate::clock::Timestamp;
use crate::store::rows::{Kind, Name};
use crate::sync::entry::{Attributes, ContentId, NodeId, Place, State, Times};
use crate::sync::tree::Tree;
use std::collections::BTreeSet;
use std::sync::Arc;

const NAMES: &[&str] = &["a", "b", "c", "d", "e", "ign", "x.o"];

/// What was written, and what somebody who saw it has overwritten or removed.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    written: u64,
    pub(super) all: BTreeSet<u64>,
    pub(super) excused: BTreeSet<u64>,
}

impl Ledger {
    fn write(&mut self) -> ContentId {
        self.written += 1;
        self.all.insert(self.written);
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&self.written.to_be_bytes());
        ContentId { size: self.written, hash, depth: 0 }
    }

    fn gone(&mut self, state: &State) {
        self.excused.extend(state.content.map(|content| content.size));
    }
}

/// Somebody at a tree.
pub(super) struct Editor<'a> {
    pub(super) tree: &'a mut Model,
    pub(super) dice: &'a mut Dice,
    pub(super) ledger: &'a mut Ledger,
    pub(super) now: Timestamp,
}

impl Editor<'_> {
    /// Does one thing. Many a time nothing comes of it.
    pub(super) fn edit(&mut self) {
        self.tree.revision += 1;
        match self.dice.below(24) {
            0..5 => drop(self.create()),
            5..9 => self.write(),
            9..13 => self.rename(),
            13 => self.swap(),
            14 => self.link(),
            15 => self.chmod(),
            16 => self.touch(),
            17 => self.xattr(),
            18..20 => self.remove(),
            20 => self.change_type(),
            21 => self.rewrite_by_rename(),
            _ => self.make_tree(),
        }
    }

    fn dirs(&self) -> Vec<NodeId> {
        self.tree.live().filter(|(_, state)| state.kind == Kind::Dir).map(|(id, _)| id).collect()
    }

    fn others(&self, wanted: impl Fn(&State) -> bool) -> Vec<NodeId> {
        let ids = self.tree.live().filter(|(id, state)| *id != NodeId::ROOT && wanted(state));
        ids.map(|(id, _)| id).collect()
    }

    fn any(&mut self, wanted: impl Fn(&State) -> bool) -> Option<NodeId> {
        let ids = self.others(wanted);
        self.dice.pick(&ids).copied()
    }

    fn place(&mut self) -> Place {
        let dirs = self.dirs();
        let parent = self.dice.pick(&dirs).copied().unwrap_or(NodeId::ROOT);
        let name: Name = NAMES[self.dice.below(NAMES.len())].as_bytes().into();
        Place { parent, name }
    }

    fn some_place_of(&mut self, id: NodeId) -> Option<Place> {
        let places: Vec<Place> = self.tree.state(id)?.places.iter().cloned().collect();
        self.dice.pick(&places).cloned()
    }

    fn change(&mut self, id: NodeId, what: impl FnOnce(&mut State)) {
        if let Some(mut state) = self.tree.state(id).cloned() {
            what(&mut state);
            self.tree.set(id, Some(state));
        }
    }

    fn stamp(&mut self, dir: NodeId) {
        let now = self.now;
        self.change(dir, |state| state.times.mtime = now);
    }

    fn make(&mut self, place: Place, kind: Kind) -> NodeId {
        let content = matches!(kind, Kind::File | Kind::Symlink).then(|| self.ledger.write());
        let times = Times { atime: self.now, mtime: self.now, btime: self.now };
        let attributes = Attributes { mode: 0o644, ..Attributes::default() };
        let id = self.tree.new_id();
        let parent = place.parent;
        self.tree.set(id, Some(State { kind, places: [place].into(), attributes, times, content }));
        self.stamp(parent);
        id
    }

    fn create(&mut self) -> Option<NodeId> {
        let place = self.place();
        if self.tree.child(place.parent, &place.name).unwrap().is_some() {
            return None;
        }
        let kind =
            *self.dice.pick(&[Kind::File, Kind::File, Kind::Dir, Kind::Dir, Kind::Symlink, Kind::Fifo])?;
        Some(self.make(place, kind))
    }

    fn make_tree(&mut self) {
        let Some(mut dir) = self.create() else { return };
        for _ in 0..3 {
            if self.tree.state(dir).is_none_or(|state| state.kind != Kind::Dir) {
                return;
            }
            for name in ["a", "b"] {
                let kind = if self.dice.one_in(2) { Kind::Dir } else { Kind::File };
                let place = Place { parent: dir, name: name.as_bytes().into() };
                if self.tree.child(dir, &place.name).unwrap().is_some() {
                    return;
                }
                let id = self.make(place, kind);
                if kind == Kind::Dir && self.dice.one_in(2) {
                    dir = id;
                    break;
                }
            }
        }
    }

    fn write(&mut self) {
        let Some(id) = self.any(|state| state.kind == Kind::File) else { return };
        let (content, now) = (self.ledger.write(), self.now);
        if let Some(old) = self.tree.state(id) {
            self.ledger.gone(old);
        }
        self.change(id, |state| (state.content, state.times.mtime) = (Some(content), now));
    }

    fn chmod(&mut self) {
        let Some(id) = self.any(|_| true) else { return };
        let mode = [0o600, 0o644, 0o755][self.dice.below(3)];
        let uid = self.dice.below(2) as u32;
        self.change(id, |state| (state.attributes.mode, state.attributes.uid) = (mode, uid));
    }

    fn touch(&mut self) {
        let now = self.now;
        if let Some(id) = self.any(|_| true) {
            self.change(id, |state| (state.times.mtime, state.times.atime) = (now, now));
        }
    }

    fn xattr(&mut self) {
        let Some(id) = self.any(|_| true) else { return };
        let (name, value) = (self.dice.below(3) as u8, self.dice.below(3) as u8);
        self.change(id, |state| {
            let xattrs = Arc::make_mut(&mut state.attributes.xattrs);
            if value == 0 {
                drop(xattrs.remove(&vec![name]))
            } else {
                drop(xattrs.insert(vec![name], vec![value]))
            }
        });
    }

    /// Takes one name of a node away.
    fn unlink(&mut self, id: NodeId, place: &Place) {
        let Some(state) = self.tree.state(id).cloned() else { return };
        let mut places = state.places.clone();
        places.remove(place);
        if places.is_empty() {
            self.ledger.gone(&state);
            self.tree.set(id, None);
            self.tree.set_base(id, self.tree.nodes[&id].base.clone());
        } else {
            self.tree.set(id, Some(State { places, ..state }));
        }
        self.stamp(place.parent);
    }

    /// Removes whatever has this name, and all below.
    fn clear(&mut self, place: &Place) {
        let Some(id) = self.tree.child(place.parent, &place.name).unwrap() else { return };
        for (name, _) in self.tree.children(id).unwrap() {
            self.clear(&Place { parent: id, name });
        }
        self.unlink(id, place);
    }

    fn remove(&mut self) {
        let Some(id) = self.any(|_| true) else { return };
        if let Some(place) = self.some_place_of(id) {
            self.clear(&place);
        }
    }

    fn is_below(&self, id: NodeId, above: NodeId) -> bool {
        let mut at = id;
        while at != NodeId::ROOT {
            if at == above {
                return true;
            }
            match self.tree.state(at).and_then(|state| state.places.first()) {
                Some(place) => at = place.parent,
                None => return false,
            }
        }
        false
    }

    /// Directories that some do not see are not made visible by those who do: nobody would tell of what is in them.
    fn would_appear(&self, id: NodeId, to: &Place) -> bool {
        let ignored = |path: Option<Vec<u8>>| path.is_some_and(|path| is_ignorable(&path));
        let is_dir = self.tree.state(id).is_some_and(|state| state.kind == Kind::Dir);
        let appears = ignored(self.tree.path(id)) && !ignored(self.tree.path_of(to, 0));
        is_dir && appears && !self.tree.ignores
    }

    fn shift(&mut self, id: NodeId, from: &Place, to: Place) {
        self.change(id, |state| {
            state.places.remove(from);
            state.places.insert(to.clone());
        });
        self.stamp(from.parent);
        self.stamp(to.parent);
    }

    fn rename(&mut self) {
        let Some(id) = self.any(|_| true) else { return };
        let (Some(from), to) = (self.some_place_of(id), self.place()) else { return };
        if from == to || self.is_below(to.parent, id) || self.would_appear(id, &to) {
            return;
        }
        if let Some(other) = self.tree.child(to.parent, &to.name).unwrap() {
            let kind = |id| self.tree.state(id).map(|state| state.kind);
            let replaceable = match (kind(id), kind(other)) {
                (Some(Kind::Dir), Some(Kind::Dir)) => self.tree.children(other).unwrap().is_empty(),
                (Some(Kind::Dir), _) | (_, Some(Kind::Dir)) => false,
                _ => true,
            };
            if other == id || !replaceable {
                return;
            }
            self.unlink(other, &to);
        }
        self.shift(id, &from, to);
    }

    fn swap(&mut self) {
        let (Some(one), Some(other)) = (self.any(|_| true), self.any(|_| true)) else { return };
        let (Some(from), Some(to)) = (self.some_place_of(one), self.some_place_of(other)) else { return };
        let knotted = self.is_below(to.parent, one) || self.is_below(from.parent, other);
        if one == other || knotted || self.would_appear(one, &to) || self.would_appear(other, &from) {
            return;
        }
        let free = Place { parent: NodeId::ROOT, name: b"swap".as_slice().into() };
        self.shift(one, &from, free.clone());
        self.shift(other, &to, from);
        self.shift(one, &free, to);
    }

    fn link(&mut self) {
        let Some(id) = self.any(|state| state.kind != Kind::Dir) else { return };
        let to = self.place();
        if self.tree.child(to.parent, &to.name).unwrap().is_none() {
            self.change(id, |state| state.places.extend([to.clone()]));
            self.stamp(to.parent);
        }
    }

    fn change_type(&mut self) {
        let Some(id) = self.any(|_| true) else { return };
        let Some(place) = self.some_place_of(id) else { return };
        self.clear(&place);
        let kind = [Kind::File, Kind::Dir, Kind::Symlink][self.dice.below(3)];
        self.make(place, kind);
    }

    /// As editors save: a new file takes the name of the old one.
    fn rewrite_by_rename(&mut self) {
        let Some(id) = self.any(|state| state.kind == Kind::File) else { return };
        let Some(place) = self.some_place_of(id) else { return };
        self.unlink(id, &place);
        self.make(place, Kind::File);
    }
}
