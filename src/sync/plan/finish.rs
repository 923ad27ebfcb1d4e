//! Writes a plan down: what is not as it was, and what is kept.

use super::work::{Node, Work};
use crate::error::FsResult;
use crate::store::rows::Kind;
use crate::sync::entry::{NodeId, State, same};
use crate::sync::plan::Planned;
use crate::sync::tree::{Bytes, ConflictKind, Ignores, KeptCopy, Plan, Step};

impl Work<'_> {
    pub(super) fn finish(mut self) -> FsResult<Planned> {
        let lost: Vec<NodeId> =
            self.nodes.iter().filter(|(_, node)| node.lost.is_some()).map(|(id, _)| *id).collect();
        for id in lost {
            self.keep(id)?;
        }
        let steps: Vec<Step> = self.nodes.iter().filter_map(|(id, node)| self.step(*id, node)).collect();
        // The bytes of what upstream has not told of just now may have changed there.
        let is_recalled = |id: &NodeId| self.nodes.get(id).is_some_and(|node| node.is_recalled);
        let recalled = |step: &&Step| {
            matches!(step.bytes, Bytes::Other(_)) && is_recalled(&step.identity.unwrap_or(step.id))
        };
        let needs: Vec<NodeId> = steps.iter().filter(recalled).map(|step| step.id).collect();
        if !needs.is_empty() {
            return Ok(Planned::Needs(needs));
        }
        Ok(Planned::Ready(Plan { steps, copies: self.copies, conflicts: self.conflicts }))
    }

    /// Keeps our version of a node beside the node.
    fn keep(&mut self, id: NodeId) -> FsResult<()> {
        let Some(node) = self.nodes.get(&id) else { return Ok(()) };
        let place = node.result.as_ref().and_then(|state| state.places.first());
        let (Some(lost), Some(place)) = (&node.lost, place) else { return Ok(()) };
        let beside = self.beside(place)?;
        let state = State { places: [beside.clone()].into(), ..lost.clone() };
        self.copies.push(KeptCopy { state, bytes: Bytes::Of(node.id_here) });
        let noted =
            self.conflicts.iter_mut().find(|note| note.id == id && note.kind == ConflictKind::Content);
        if let Some(noted) = noted {
            noted.kept = Some(beside);
        }
        Ok(())
    }

    fn step(&self, id: NodeId, node: &Node) -> Option<Step> {
        let before = node.local.as_ref().and_then(|local| local.state.as_ref());
        let renamed =
            before.map(|state| State { places: self.renamed_places(state.places.clone()), ..state.clone() });
        let after = self.whole(node, renamed.as_ref());
        // Nobody may have noticed that it is to be offered: it may have been its directory that left the view, or came into it.
        let leaves_out = self.tree.ignores() != Ignores::Nothing;
        let differs = node.is_told && !same(node.result.as_ref(), node.there.as_ref());
        let noticed = node.noticed || leaves_out && differs;
        // What is made here is noted as another node than what was here by its identity, or was not.
        let made = before.is_none() && (after.is_some() || node.parted);
        let base = node.base.clone().filter(|base| {
            let agreed = node.local.as_ref().and_then(|local| local.base.as_ref());
            agreed != base.as_ref() || made || noticed
        });
        let identity = (node.id_here != id).then_some(id);
        if after == renamed && base.is_none() && identity.is_none() {
            return None;
        }
        let seen = node.local.as_ref().filter(|local| local.state.is_some()).map(|local| local.revision);
        let bytes = node.bytes_of(after.as_ref());
        let unseen = node.result.is_none() && node.there.is_none();
        Some(Step { id: node.id_here, seen, state: after, bytes, identity, base, unseen })
    }

    /// A node after the plan, with its names that are not in view.
    fn whole(&self, node: &Node, before: Option<&State>) -> Option<State> {
        match &node.result {
            None if node.here.is_none() => before.cloned(),
            None if node.hidden.is_empty() => None,
            None => before.map(|before| State { places: node.hidden.clone(), ..before.clone() }),
            Some(state) if state.kind == Kind::Dir => Some(state.clone()),
            Some(state) => {
                let places = state.places.union(&node.hidden).cloned().collect();
                Some(State { places, ..state.clone() })
            }
        }
    }
}
