//! What of a tree is in view: everything but what `SYNC_IGNORE` leaves out.
//!
//! Names are in view, not nodes: a file with a name in an ignored directory and another one elsewhere is synced by the
//! other one. What is ignored goes by paths, and a path is that of a certain tree: of what is here, of what upstream has.

use super::entry::{NodeId, Place, State};
use super::tree::{Ignores, Local, Tree};
use crate::error::FsResult;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Which tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// What is here.
    Here,
    /// What both sides agreed on last.
    Base,
    /// What upstream has, as far as is known.
    There,
}

/// Where a directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sight {
    /// At this path.
    Shown(Rc<[u8]>),
    /// It is ignored.
    Hidden,
    /// Nobody here knows where this node is, which is above it or is itself.
    Unknown(NodeId),
}

/// What leads up from a directory.
enum Up {
    At(Place),
    /// It is gone. What claims to be in it is looked after elsewhere.
    Gone,
    Unknown,
}

/// The names of a node, in view and not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) shown: BTreeSet<Place>,
    pub(super) hidden: BTreeSet<Place>,
    /// Of `shown`: those of which it is not known, and what to ask for.
    pub(super) unknown: BTreeMap<Place, NodeId>,
}

/// Which names are in view, on each side.
pub(super) struct Views<'a> {
    tree: &'a dyn Tree,
    /// What was told of: when, and where upstream has it; `None`: it is gone.
    told: BTreeMap<NodeId, (usize, Option<Place>)>,
    sights: BTreeMap<(Side, NodeId), Sight>,
    /// Directories that upstream has out of view, while they are in view here and stay: they are going to be moved back, so
    /// what is in them is in view.
    kept: BTreeSet<NodeId>,
}

impl<'a> Views<'a> {
    pub(super) fn new(
        tree: &'a dyn Tree,
        told: BTreeMap<NodeId, (usize, Option<Place>)>,
        kept: BTreeSet<NodeId>,
    ) -> Self {
        Self { tree, told, sights: BTreeMap::new(), kept }
    }

    /// Whether a directory comes into view upstream, or leaves it, and what is in it with it.
    pub(super) fn crosses(&mut self, id: NodeId) -> FsResult<bool> {
        if self.tree.ignores() == Ignores::Nothing {
            return Ok(false);
        }
        let (before, after) = (self.sight(Side::Base, id)?, self.sight(Side::There, id)?);
        Ok(match (&before, &after) {
            (Sight::Shown(before), Sight::Shown(after)) => {
                self.tree.ignores() == Ignores::Paths && before != after
            }
            // What it was in upstream is gone. If it is not in view here, nothing in it is.
            (Sight::Unknown(above), Sight::Shown(_)) if *above != id => !self.is_shown_here(id)?,
            (Sight::Unknown(_), _) | (_, Sight::Unknown(_)) => false,
            _ => before != after,
        })
    }

    fn is_shown_here(&mut self, id: NodeId) -> FsResult<bool> {
        let is_here = self.tree.node(id)?.is_some_and(|local| local.state.is_some());
        Ok(is_here && matches!(self.sight(Side::Here, id)?, Sight::Shown(_)))
    }

    /// Whether a directory stays in view though upstream has it out of view.
    pub(super) fn keeps(&mut self, id: NodeId) -> FsResult<bool> {
        self.sight(Side::There, id)?;
        Ok(self.kept.contains(&id))
    }

    /// Which of a node's names are in view.
    pub(super) fn names(&mut self, side: Side, state: &State) -> FsResult<Names> {
        let mut names = Names::default();
        for place in &state.places {
            let sight = self.sight(side, place.parent)?;
            match below(self.tree, sight, &place.name) {
                Sight::Shown(_) => drop(names.shown.insert(place.clone())),
                Sight::Hidden => drop(names.hidden.insert(place.clone())),
                Sight::Unknown(id) => {
                    names.shown.insert(place.clone());
                    names.unknown.insert(place.clone(), id);
                }
            }
        }
        Ok(names)
    }

    fn sight(&mut self, side: Side, dir: NodeId) -> FsResult<Sight> {
        let mut chain: Vec<(NodeId, Place)> = Vec::new();
        let mut at = dir;
        let mut sight = loop {
            if at == NodeId::ROOT {
                break Sight::Shown(Rc::default());
            }
            if let Some(begin) = chain.iter().position(|(id, _)| *id == at) {
                break self.circle(side, chain.drain(begin..).map(|(id, _)| id));
            }
            if let Some(sight) = self.sights.get(&(side, at)) {
                break sight.clone();
            }
            match self.up(side, at)? {
                Up::At(place) => {
                    let parent = place.parent;
                    chain.push((at, place));
                    at = parent;
                }
                Up::Gone => break Sight::Shown(Rc::default()),
                Up::Unknown => break self.kept(side, at)?.unwrap_or(Sight::Unknown(at)),
            }
        };
        for (id, place) in chain.into_iter().rev() {
            sight = below(self.tree, sight, &place.name);
            if !matches!(sight, Sight::Shown(_)) {
                sight = self.kept(side, id)?.unwrap_or(sight);
            }
            self.sights.insert((side, id), sight.clone());
        }
        Ok(sight)
    }

    /// What is known of directories that are in each other: where one of them is was told of too long ago.
    fn circle(&self, side: Side, ids: impl Iterator<Item = NodeId>) -> Sight {
        let age = |id: &NodeId| self.told.get(id).map(|(age, _)| *age);
        match ids.min_by_key(age) {
            Some(oldest) if side == Side::There => Sight::Unknown(oldest),
            _ => Sight::Shown(Rc::default()),
        }
    }

    /// Where a directory is here that upstream has out of view.
    fn kept(&mut self, side: Side, id: NodeId) -> FsResult<Option<Sight>> {
        match side {
            Side::Here => return Ok(None),
            Side::There => drop(self.sight(Side::Base, id)?),
            Side::Base => {
                if self.is_shown_here(id)? {
                    self.kept.insert(id);
                }
            }
        }
        if self.kept.contains(&id) { self.sight(Side::Here, id).map(Some) } else { Ok(None) }
    }

    fn up(&self, side: Side, id: NodeId) -> FsResult<Up> {
        if let (Side::There, Some((_, place))) = (side, self.told.get(&id)) {
            return Ok(place.clone().map_or(Up::Gone, Up::At));
        }
        let Some(local) = self.tree.node(id)? else {
            return Ok(if side == Side::Here { Up::Gone } else { Up::Unknown });
        };
        let (state, otherwise) = match side {
            Side::Here => (local.state, Up::Gone),
            Side::Base | Side::There => (local.base, Up::Unknown),
        };
        Ok(match state {
            Some(state) => state.places.into_iter().next().map_or(Up::Gone, Up::At),
            None => otherwise,
        })
    }
}

fn below(tree: &dyn Tree, sight: Sight, name: &[u8]) -> Sight {
    let Sight::Shown(parent) = sight else { return sight };
    let mut path = parent.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    if tree.is_ignored(&path) { Sight::Hidden } else { Sight::Shown(path.into()) }
}

/// Those of these nodes that are not here, and that upstream has out of view.
pub(super) fn unseen(tree: &dyn Tree, ids: impl IntoIterator<Item = NodeId>) -> FsResult<Vec<NodeId>> {
    let mut views = Views::new(tree, BTreeMap::new(), BTreeSet::new());
    let mut unseen = Vec::new();
    for id in ids {
        let Some(Local { state: None, base: Some(base), .. }) = tree.node(id)? else { continue };
        if views.names(Side::Base, &base)?.shown.is_empty() {
            unseen.push(id);
        }
    }
    Ok(unseen)
}

/// A node's state with these names only; `None`: it has none of them, so it is as good as gone.
pub(super) fn with_names(id: NodeId, state: &State, places: BTreeSet<Place>) -> Option<State> {
    (id == NodeId::ROOT || !places.is_empty()).then(|| State { places, ..state.clone() })
}
