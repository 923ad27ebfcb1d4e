//! Makes a tree of what was decided about each node.
//!
//! What can break it, seen from a node whose names are not what they were: its parent is not there; its name has another
//! claimant; it is below itself; it is gone, and something is still in it.

use super::work::{Node, Work};
use crate::error::{FsError, FsResult};
use crate::store::rows::Kind;
use crate::sync::entry::{NodeId, Place, State};
use crate::sync::tree::ConflictKind;
use std::collections::BTreeSet;

impl Work<'_> {
    /// Goes over all nodes once. Returns whether anything was mended, so that another look is due.
    pub(super) fn settle(&mut self) -> FsResult<bool> {
        let mut mended = false;
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            let Some(node) = self.nodes.get(&id) else { continue };
            for dir in node.hidden_in.clone() {
                mended |= self.bring_back(dir)?;
            }
            let Some(node) = self.nodes.get(&id) else { continue };
            if !node.is_moved() {
                continue;
            }
            let places = node.result.as_ref().map(|state| state.places.clone());
            let m = match places {
                None => self.empty(id)?,
                Some(places) => self.hold(id, places)?,
            };
            mended |= m;
        }
        Ok(mended)
    }

    /// Sees to it that a node which is there can be where it is.
    fn hold(&mut self, id: NodeId, places: BTreeSet<Place>) -> FsResult<bool> {
        for place in places {
            if self.has_parent(id, &place)? || self.contested(id, &place)? {
                return Ok(true);
            }
        }
        self.circle(id)
    }

    /// Sees to it that there is a directory for a name to be in.
    fn has_parent(&mut self, id: NodeId, place: &Place) -> FsResult<bool> {
        self.load(place.parent)?;
        let Some(parent) = self.nodes.get(&place.parent) else { return Ok(false) };
        match &parent.result {
            Some(state) if state.kind == Kind::Dir => return Ok(false),
            Some(_) => return Err(FsError::Invalid("upstream has something in what is no directory")),
            None => {}
        }
        let is_upstream = self.nodes.get(&id).is_some_and(|node| node.is_upstream_at(place));
        let back = match self.told.get(&place.parent) {
            // It was removed here, while upstream has something new in it.
            Some(_) if parent.there.is_some() => parent.there.clone(),
            // It was removed upstream, or went out of view, while something new is in it here.
            Some(_) if !is_upstream => {
                let back = parent.here.clone();
                self.stays(place.parent);
                back
            }
            Some(_) => {
                self.need_older(id, place.parent);
                return Ok(false);
            }
            None => {
                self.needs.insert(place.parent);
                return Ok(false);
            }
        };
        if back.is_none() {
            return Err(FsError::Invalid("something is in a directory that is nowhere"));
        }
        self.put(place.parent, back);
        Ok(true)
    }

    /// A directory in which upstream has something that is not in view here cannot be removed.
    fn bring_back(&mut self, dir: NodeId) -> FsResult<bool> {
        self.load(dir)?;
        let Some(node) = self.nodes.get(&dir) else { return Ok(false) };
        if node.result.is_some() || node.known.is_none() {
            return Ok(false);
        }
        if !self.told.contains_key(&dir) {
            self.needs.insert(dir);
            return Ok(false);
        }
        let there = node.there.clone();
        let mended = there.is_some();
        self.put(dir, there);
        Ok(mended)
    }

    /// Sees to it that nobody else has the name.
    fn contested(&mut self, id: NodeId, place: &Place) -> FsResult<bool> {
        if let Some(child) = self.child_here(place)? {
            self.load(child)?;
        }
        let rival = self.claims.get(place).and_then(|all| all.iter().find(|other| **other != id)).copied();
        let Some(rival) = rival else { return Ok(false) };
        let is_upstream = |id: NodeId| self.nodes.get(&id).is_some_and(|node| node.is_upstream_at(place));
        match (is_upstream(id), is_upstream(rival)) {
            (true, true) => {
                self.need_older(id, rival);
                Ok(false)
            }
            (true, false) => self.clash(id, rival, place),
            (false, true) => self.clash(rival, id, place),
            (false, false) => self.step_aside(id, place).map(|()| true),
        }
    }

    /// Sees to it that a directory is not below itself: what upstream has is no circle, so it goes by that.
    fn circle(&mut self, id: NodeId) -> FsResult<bool> {
        let Some(circle) = self.find_circle(id)? else { return Ok(false) };
        let mut mended = false;
        for id in &circle {
            let Some(node) = self.nodes.get(id) else { continue };
            let upstream = if node.is_told { &node.there } else { &node.known };
            let (Some(result), Some(known)) = (&node.result, upstream) else { continue };
            let parent = |state: &State| state.places.first().map(|place| place.parent);
            if parent(result) != parent(known) {
                if !self.told.contains_key(id) {
                    self.needs.insert(*id);
                    continue;
                }
                let state = State { places: known.places.clone(), ..result.clone() };
                self.note(*id, ConflictKind::Move);
                self.put(*id, Some(state));
                mended = true;
            }
        }
        if !mended && self.needs.is_empty() {
            mended = self.break_circle(&circle)?;
        }
        if !mended && self.needs.is_empty() {
            let age = |id: &NodeId| self.told.get(id).map(|told| told.age);
            let oldest = circle.iter().map(age).min().flatten();
            let stale: Vec<NodeId> = circle.into_iter().filter(|id| age(id) == oldest).collect();
            self.needs.extend(stale);
        }
        Ok(mended)
    }

    /// One of a circle that upstream has out of view is kept somewhere else.
    fn break_circle(&mut self, circle: &[NodeId]) -> FsResult<bool> {
        let is_out = |node: &&Node| node.is_told && node.known.is_some() && node.there.is_none();
        for id in circle {
            let Some(state) = self.nodes.get(id).filter(is_out).and_then(|node| node.result.clone()) else {
                continue;
            };
            let Some(place) = state.places.first() else { continue };
            let beside = self.beside(&Place { parent: NodeId::ROOT, name: place.name.clone() })?;
            self.note(*id, ConflictKind::Move);
            self.put(*id, Some(State { places: [beside].into(), ..state }));
            return Ok(true);
        }
        Ok(false)
    }

    /// The directories from here up to here again, if it is so.
    fn find_circle(&mut self, id: NodeId) -> FsResult<Option<Vec<NodeId>>> {
        let mut circle = vec![id];
        let mut at = id;
        while at != NodeId::ROOT {
            self.load(at)?;
            let state = self.nodes.get(&at).and_then(|node| node.result.as_ref());
            let Some(state) = state.filter(|state| state.kind == Kind::Dir) else { return Ok(None) };
            let Some(place) = state.places.first() else { return Ok(None) };
            at = place.parent;
            if at == id {
                return Ok(Some(circle));
            }
            if circle.contains(&at) {
                return Ok(None);
            }
            circle.push(at);
        }
        Ok(None)
    }

    /// Sees to it that a directory which goes has nothing in it.
    fn empty(&mut self, id: NodeId) -> FsResult<bool> {
        let Some(node) = self.nodes.get(&id) else { return Ok(false) };
        if node.here.as_ref().is_none_or(|here| here.kind != Kind::Dir) {
            return Ok(false);
        }
        let back = node.here.clone();
        let Some(id_here) = self.id_here(id) else { return Ok(false) };
        for (name, child) in self.tree.children(id_here)? {
            let child = self.identity(child);
            self.load(child)?;
            let place = Place { parent: id, name };
            let Some(node) = self.nodes.get(&child) else { continue };
            let stays = node.result.as_ref().is_some_and(|state| state.places.contains(&place));
            if stays && node.is_upstream_at(&place) {
                self.need_older(id, child);
            } else if stays || node.hidden.contains(&place) {
                // Something here is new in it, or was changed, or is nobody's business: it stays.
                self.put(id, back);
                self.stays(id);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A directory stays that upstream has removed, or has out of view.
    fn stays(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(&id) else { return };
        if node.is_told && node.known.is_some() && node.there.is_none() {
            self.stay.insert(id);
        }
    }
}
