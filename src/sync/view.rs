//! What of a tree is in view: everything but what `SYNC_IGNORE` leaves out.
//!
//! Names are in view, not nodes: a file with a name in an ignored directory and another one elsewhere is synced by the
//! other one. What is ignored goes by paths, and a path is that of a certain tree: of what is here, of what upstream has.

use super::entry::{NodeId, Place, State};
use super::tree::Tree;
use crate::error::FsResult;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Where a directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// At this path.
    Shown(Rc<[u8]>),
    /// It is ignored.
    Hidden,
    /// Nobody here knows where this node is, which is above it or is itself.
    Unknown(NodeId),
}

/// What leads up from a directory.
pub(super) enum Up {
    /// It has this place.
    At(Place),
    /// It is gone. What claims to be in it is looked after elsewhere.
    Gone,
    /// Not known.
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

/// The paths of a tree's directories, as far as they were asked for.
#[derive(Default)]
pub(super) struct Paths {
    known: BTreeMap<NodeId, Sight>,
}

impl Paths {
    /// Where a directory is. `up` is what the tree is.
    fn sight(
        &mut self,
        tree: &dyn Tree,
        dir: NodeId,
        up: &dyn Fn(NodeId) -> FsResult<Up>,
    ) -> FsResult<Sight> {
        let mut chain: Vec<(NodeId, Place)> = Vec::new();
        let mut at = dir;
        let mut sight = loop {
            if at == NodeId::ROOT || chain.iter().any(|(id, _)| *id == at) {
                break Sight::Shown(Rc::default());
            }
            if let Some(sight) = self.known.get(&at) {
                break sight.clone();
            }
            match up(at)? {
                Up::At(place) => {
                    let parent = place.parent;
                    chain.push((at, place));
                    at = parent;
                }
                Up::Gone => break Sight::Shown(Rc::default()),
                Up::Unknown => break Sight::Unknown(at),
            }
        };
        for (id, place) in chain.into_iter().rev() {
            sight = below(tree, sight, &place.name);
            self.known.insert(id, sight.clone());
        }
        Ok(sight)
    }

    /// Which of a node's names are in view.
    pub(super) fn names(
        &mut self,
        tree: &dyn Tree,
        state: &State,
        up: &dyn Fn(NodeId) -> FsResult<Up>,
    ) -> FsResult<Names> {
        let mut names = Names::default();
        for place in &state.places {
            let sight = self.sight(tree, place.parent, up)?;
            match below(tree, sight, &place.name) {
                Sight::Shown(_) => {
                    names.shown.insert(place.clone());
                }
                Sight::Hidden => {
                    names.hidden.insert(place.clone());
                }
                Sight::Unknown(id) => {
                    names.shown.insert(place.clone());
                    names.unknown.insert(place.clone(), id);
                }
            }
        }
        Ok(names)
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

/// What leads up from a node that is in this state.
pub(super) fn up_of(state: Option<&State>) -> Up {
    match state.map(|state| state.places.first()) {
        Some(Some(place)) => Up::At(place.clone()),
        Some(None) | None => Up::Gone,
    }
}

/// What leads up from a node here.
pub(super) fn up_here(tree: &dyn Tree, id: NodeId) -> FsResult<Up> {
    Ok(up_of(tree.node(id)?.and_then(|local| local.state).as_ref()))
}

/// What leads up from a node, by what upstream was last known to have.
pub(super) fn up_base(tree: &dyn Tree, id: NodeId) -> FsResult<Up> {
    Ok(match tree.node(id)?.and_then(|local| local.base) {
        Some(base) => up_of(Some(&base)),
        None => Up::Unknown,
    })
}

/// A node's state with these names only; `None`: it has none of them, so it is as good as gone.
pub(super) fn with_names(id: NodeId, state: &State, places: BTreeSet<Place>) -> Option<State> {
    (id == NodeId::ROOT || !places.is_empty()).then(|| State { places, ..state.clone() })
}
