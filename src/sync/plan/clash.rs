//! A name that upstream gave to one node, and we to another.
//!
//! | What | Becomes |
//! |---|---|
//! | two directories, of which upstream does not know ours | one: ours gets the identity of upstream's |
//! | the same file twice, of which upstream does not know ours | the same |
//! | else | the loser by the rules gets a name beside |
//!
//! With the rule that upstream wins, a file of ours is given up, or goes back to where upstream has it. A directory is
//! never given up: it gets a name beside.

use super::work::{Node, Work};
use crate::error::FsResult;
use crate::store::rows::Kind;
use crate::sync::entry::{NodeId, Place, State, same};
use crate::sync::tree::{ConflictKind, Ignores, OnConflict, conflict_name};
use std::collections::BTreeSet;

impl Work<'_> {
    /// Settles who has a name: upstream's node, or ours.
    pub(super) fn clash(&mut self, theirs: NodeId, ours: NodeId, place: &Place) -> FsResult<bool> {
        let unsure = self.rules.unanswered.iter().any(|offer| offer.id == ours);
        if unsure && !self.told.contains_key(&ours) {
            self.needs.insert(ours);
            return Ok(false);
        }
        if self.are_one(theirs, ours) {
            self.adopt(theirs, ours, place);
            self.notice_contents(theirs)?;
            return Ok(true);
        }
        let is_dir = self.nodes.get(&ours).is_some_and(Node::is_dir);
        match self.rules.on_conflict {
            OnConflict::Local => self.set_aside(theirs, place),
            OnConflict::Upstream if !is_dir => Ok(self.give_up(ours, place)),
            OnConflict::KeepBoth | OnConflict::Upstream => self.set_aside(ours, place),
        }
    }

    fn set_aside(&mut self, id: NodeId, place: &Place) -> FsResult<bool> {
        self.note(id, ConflictKind::Name);
        self.step_aside(id, place)?;
        Ok(true)
    }

    /// Whether the same thing was made on both sides.
    fn are_one(&self, theirs: NodeId, ours: NodeId) -> bool {
        let (Some(theirs), Some(ours)) = (self.nodes.get(&theirs), self.nodes.get(&ours)) else {
            return false;
        };
        let (Some(new), Some(old)) = (&theirs.result, &ours.result) else { return false };
        let alike = old.kind == Kind::Dir || (old.content, &old.attributes) == (new.content, &new.attributes);
        !theirs.is_here() && ours.known.is_none() && old.kind == new.kind && alike
    }

    /// Makes our node the one that upstream has.
    fn adopt(&mut self, theirs: NodeId, ours: NodeId, place: &Place) {
        let (Some(mut new), Some(old)) = (self.nodes.remove(&theirs), self.nodes.remove(&ours)) else {
            return;
        };
        if let (Some(state), Some(before)) = (&mut new.result, old.result) {
            if state.kind == Kind::Dir {
                state.times.mtime = state.times.mtime.max(before.times.mtime);
            } else {
                state.places.extend(before.places.into_iter().filter(|other| other != place));
            }
            state.times.atime = before.times.atime;
        }
        new.id_here = old.id_here;
        new.local = old.local;
        new.here = old.here;
        new.hidden = old.hidden;
        new.parted = false;
        new.noticed = false;
        new.base = Some(new.known.clone());
        self.nodes.insert(theirs, new);
        self.rename_parent(ours, theirs);
    }

    /// What is in a directory that came into view here may be nothing that changed since, and upstream knows of the directory
    /// now: it is to be offered.
    pub(super) fn notice_contents(&mut self, id: NodeId) -> FsResult<()> {
        let Some(id_here) = self.id_here(id).filter(|_| self.tree.ignores() != Ignores::Nothing) else {
            return Ok(());
        };
        for (_, child) in self.tree.children(id_here)? {
            let child = self.identity(child);
            self.load(child)?;
            let Some(node) = self.nodes.get_mut(&child) else { continue };
            if !same(node.known.as_ref(), node.result.as_ref()) {
                node.noticed = true;
                node.base = Some(node.known.clone());
            }
        }
        Ok(())
    }

    /// What is in one directory is in this one from now on.
    fn rename_parent(&mut self, from: NodeId, to: NodeId) {
        self.renamed.insert(from, to);
        let moved = |places: &BTreeSet<Place>| -> BTreeSet<Place> {
            let parent = |place: &Place| if place.parent == from { to } else { place.parent };
            places.iter().map(|place| Place { parent: parent(place), name: place.name.clone() }).collect()
        };
        self.claims.clear();
        for (id, node) in &mut self.nodes {
            node.hidden = moved(&node.hidden);
            for state in node.here.iter_mut().chain(node.result.iter_mut()) {
                state.places = moved(&state.places);
            }
            for place in node.result.iter().flat_map(|state| &state.places) {
                self.claims.entry(place.clone()).or_default().insert(*id);
            }
        }
    }

    /// Gives up our claim on a name.
    fn give_up(&mut self, id: NodeId, place: &Place) -> bool {
        let Some(node) = self.nodes.get(&id) else { return false };
        let Some(result) = &node.result else { return false };
        let mut places = result.places.clone();
        places.remove(place);
        if places.is_empty() && node.known.is_some() {
            if !node.is_told {
                self.needs.insert(id);
                return false;
            }
            places = node.there.as_ref().map(|there| there.places.clone()).unwrap_or_default();
        }
        let state = State { places, ..result.clone() };
        self.note(id, ConflictKind::Name);
        self.put(id, Some(state).filter(|state| !state.places.is_empty()));
        true
    }

    /// Gives a node a name beside the one that it claims.
    pub(super) fn step_aside(&mut self, id: NodeId, place: &Place) -> FsResult<()> {
        let beside = self.beside(place)?;
        let Some(node) = self.nodes.get(&id) else { return Ok(()) };
        let Some(result) = &node.result else { return Ok(()) };
        let mut places: BTreeSet<Place> = result.places.clone();
        places.remove(place);
        places.insert(beside.clone());
        let state = State { places, ..result.clone() };
        for conflict in self.conflicts.iter_mut().rev().filter(|conflict| conflict.id == id) {
            if conflict.kind == ConflictKind::Name {
                conflict.kept = Some(beside);
                break;
            }
        }
        self.put(id, Some(state));
        Ok(())
    }

    /// A vacant name for what loses this one.
    pub(super) fn beside(&self, place: &Place) -> FsResult<Place> {
        let mut attempt = 0;
        loop {
            let name = conflict_name(&place.name, self.rules.replica, self.rules.now, attempt);
            let beside = Place { parent: place.parent, name };
            let claimed = self.claims.get(&beside).is_some_and(|all| !all.is_empty());
            let copied = self.copies.iter().any(|copy| copy.state.places.contains(&beside));
            if !claimed && !copied && self.child_here(&beside)?.is_none() {
                return Ok(beside);
            }
            attempt += 1;
        }
    }
}
