//! What a replica offers its hub: whatever is not as both sides agreed on last.
//!
//! Only what is in view is offered. What leaves the view is gone, for the hub; what comes into view is new. Both concern
//! all that is below a directory too, which nobody has noticed as changed: it is handed back to be offered as well.

use super::entry::{NodeId, Offer, Place, State, same};
use super::tree::{Local, Tree};
use super::view::{Names, Side, Views, with_names};
use crate::error::FsResult;
use crate::store::rows::Kind;
use std::collections::{BTreeMap, BTreeSet};

/// What there is to offer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offering {
    /// In an order in which they can be taken one by one, as far as the order of what changed allows it. Directories that
    /// upstream does not know of come before what is in them; what is in a directory that has left the view comes before it.
    pub offers: Vec<Offer>,
    /// Nodes that have to be offered after these, in this order, though nobody has said that they changed. They have to be
    /// remembered as changed, durably, before the offers are sent.
    pub more: Vec<NodeId>,
    /// Nodes that are out of view at both ends, and were in view here: they have to be read, so that planning makes two
    /// nodes of each. The offers can wait for that.
    pub apart: Vec<NodeId>,
}

struct Offers<'a> {
    tree: &'a dyn Tree,
    views: Views<'a>,
    done: BTreeSet<NodeId>,
    offering: Offering,
}

/// Makes offers of those of these nodes that are not as upstream has them.
///
/// When they are refused, pull; then try again, with what the refusals name added ([`Refusal::ids`](super::Refusal::ids)).
pub fn offers(tree: &dyn Tree, changed: &[NodeId]) -> FsResult<Offering> {
    let mut offers = Offers {
        tree,
        views: Views::new(tree, BTreeMap::new(), BTreeSet::new()),
        done: BTreeSet::new(),
        offering: Offering::default(),
    };
    for id in changed {
        offers.offer(*id)?;
    }
    let Offers { done, mut offering, .. } = offers;
    offering.more.retain(|id| !done.contains(id));
    Ok(offering)
}

impl Offers<'_> {
    /// Offers a node, after the directories that it is in.
    fn offer(&mut self, id: NodeId) -> FsResult<()> {
        if !self.done.insert(id) {
            return Ok(());
        }
        let Some(local) = self.tree.node(id)? else { return Ok(()) };
        let state = self.state(id, &local)?;
        if same(local.base.as_ref(), state.as_ref()) {
            return Ok(());
        }
        match &state {
            Some(state) => self.offer_parents(state)?,
            None => self.offer_contents(id, &local)?,
        }
        if state.as_ref().is_some_and(|state| state.kind == Kind::Dir) && local.base.is_none() {
            self.follow(id)?;
        }
        self.offering.offers.push(Offer { id, base: local.base, state });
        Ok(())
    }

    fn offer_parents(&mut self, state: &State) -> FsResult<()> {
        for place in &state.places {
            let parent = self.tree.node(place.parent)?;
            if place.parent != NodeId::ROOT && parent.is_some_and(|parent| parent.base.is_none()) {
                self.offer(place.parent)?;
            }
        }
        Ok(())
    }

    /// What a node is for upstream: its names in view here, and those that upstream has for it out of view.
    fn state(&mut self, id: NodeId, local: &Local) -> FsResult<Option<State>> {
        let mut places = BTreeSet::new();
        if let Some(state) = &local.state {
            places = self.views.names(Side::Here, state)?.shown;
        }
        let is_dir =
            local.state.as_ref().or(local.base.as_ref()).is_some_and(|state| state.kind == Kind::Dir);
        if let (Some(base), true) = (&local.base, places.is_empty() || !is_dir) {
            let Names { shown, hidden, unknown } = self.views.names(Side::Base, base)?;
            if local.state.is_some() && places.is_empty() && shown.is_empty() && id != NodeId::ROOT {
                self.offering.apart.push(id);
            }
            let shown_here = |place: &Place| places.contains(place);
            // What is gone here, with the directory that upstream had it in, may be gone there too: upstream says so.
            let unknown = unknown.into_keys().filter(|_| local.state.is_some());
            let out: Vec<Place> =
                hidden.into_iter().chain(unknown).filter(|place| !shown_here(place)).collect();
            places.extend(out);
        }
        Ok(local.state.as_ref().or(local.base.as_ref()).and_then(|state| with_names(id, state, places)))
    }

    /// What is in a directory that has left the view has left it too, and goes before it does.
    fn offer_contents(&mut self, id: NodeId, local: &Local) -> FsResult<()> {
        if local.state.as_ref().is_none_or(|state| state.kind != Kind::Dir) {
            return Ok(());
        }
        for (_, child) in self.tree.children(id)? {
            if self.tree.node(child)?.is_some_and(|child| child.base.is_some()) {
                self.offer(child)?;
            }
        }
        Ok(())
    }

    /// Notes what is in a directory that is new to upstream.
    fn follow(&mut self, id: NodeId) -> FsResult<()> {
        for (_, child) in self.tree.children(id)? {
            if !self.done.contains(&child) {
                self.offering.more.push(child);
            }
        }
        Ok(())
    }
}
