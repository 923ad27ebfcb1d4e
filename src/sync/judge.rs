//! The judge: whether the hub can take what a replica offers. It compares and sets, and decides nothing.
//!
//! An offer was made from what the replica believes the hub to have. Of each aspect (content, names, attributes, time of
//! change) the hub must have that, or already what is offered; otherwise the replica has something to pull first. And all
//! offers together must leave a tree. They are taken together or not at all, so a swap of two names is one batch. The same
//! offers again are taken, and change nothing.

use super::entry::{NodeId, Offer, Place, State, same};
use super::tree::{Bytes, Local, Plan, Refusal, Step, Tree, Verdict, Why};
use crate::error::{FsError, FsResult};
use crate::store::rows::{Kind, NAME_MAX};
use std::collections::BTreeMap;

/// What becomes of a node on the hub.
struct Case {
    local: Option<Local>,
    after: Option<State>,
}

struct Judge<'a> {
    tree: &'a dyn Tree,
    cases: BTreeMap<NodeId, Case>,
    refusals: Vec<Refusal>,
}

/// Whether these offers can be taken by this tree, which is the hub's.
pub fn judge(tree: &dyn Tree, offers: &[Offer]) -> FsResult<Verdict> {
    let mut judge = Judge { tree, cases: BTreeMap::new(), refusals: Vec::new() };
    for offer in offers {
        judge.compare(offer)?;
    }
    if judge.refusals.is_empty() {
        judge.check_structure()?;
    }
    Ok(if judge.refusals.is_empty() {
        Verdict::Accept(judge.plan())
    } else {
        Verdict::Refuse(judge.refusals)
    })
}

impl Judge<'_> {
    fn refuse(&mut self, id: NodeId, why: Why) {
        self.refusals.push(Refusal { id, why });
    }

    /// One node by itself.
    fn compare(&mut self, offer: &Offer) -> FsResult<()> {
        well_formed(offer)?;
        let local = self.tree.node(offer.id)?;
        let current = local.as_ref().and_then(|local| local.state.as_ref());
        let after = match (current, &offer.base, &offer.state) {
            (None, _, None) => Some(None),
            (None, None, Some(new)) => Some(Some(new.clone())),
            (None, Some(_), Some(_)) => None,
            (Some(current), base, None) => {
                (base.as_ref().is_some_and(|base| base.same(current))).then_some(None)
            }
            (Some(current), base, Some(new)) => {
                agrees(current, base.as_ref(), new).then(|| Some(taken(current, new)))
            }
        };
        match after {
            Some(after) => {
                if self.cases.insert(offer.id, Case { local, after }).is_some() {
                    return Err(FsError::Invalid("a node is offered twice at once"));
                }
            }
            None => self.refuse(offer.id, Why::Changed),
        }
        Ok(())
    }

    /// All nodes together.
    fn check_structure(&mut self) -> FsResult<()> {
        let mut claims: BTreeMap<Place, NodeId> = BTreeMap::new();
        let mut refusals = Vec::new();
        for (id, case) in &self.cases {
            for place in case.after.iter().flat_map(|state| &state.places) {
                if let Some(other) = claims.insert(place.clone(), *id) {
                    refusals.push(Refusal { id: *id, why: Why::Taken(other) });
                }
            }
        }
        for (id, case) in &self.cases {
            let why = match &case.after {
                None => self.left_in(*id, case)?.into_iter().collect(),
                Some(state) => self.obstacles(*id, case, state)?,
            };
            refusals.extend(why.into_iter().map(|why| Refusal { id: *id, why }));
        }
        self.refusals = refusals;
        Ok(())
    }

    /// What is in the way of a node that is to be so.
    fn obstacles(&self, id: NodeId, case: &Case, state: &State) -> FsResult<Vec<Why>> {
        if let Some(why) = self.check_parents(state)? {
            return Ok(vec![why]);
        }
        let before = case.local.as_ref().and_then(|local| local.state.as_ref());
        if before.is_some_and(|before| before.places == state.places) {
            return Ok(Vec::new());
        }
        for place in &state.places {
            let child = self.tree.child(place.parent, &place.name)?.filter(|child| *child != id);
            if let Some(child) = child.filter(|child| self.has_place(*child, place)) {
                return Ok(vec![Why::Taken(child)]);
            }
        }
        if state.kind == Kind::Dir { self.circle(id, state) } else { Ok(Vec::new()) }
    }

    fn check_parents(&self, state: &State) -> FsResult<Option<Why>> {
        for place in &state.places {
            let parent = self.after(place.parent)?;
            if parent.is_none_or(|parent| parent.kind != Kind::Dir) {
                return Ok(Some(Why::NoParent(place.parent)));
            }
        }
        Ok(None)
    }

    /// Whether something that has a place now keeps it.
    fn has_place(&self, id: NodeId, place: &Place) -> bool {
        match self.cases.get(&id) {
            Some(case) => case.after.as_ref().is_some_and(|state| state.places.contains(place)),
            None => true,
        }
    }

    /// What a node is after the batch.
    fn after(&self, id: NodeId) -> FsResult<Option<State>> {
        match self.cases.get(&id) {
            Some(case) => Ok(case.after.clone()),
            None => Ok(self.tree.node(id)?.and_then(|local| local.state)),
        }
    }

    /// What is still in a directory that is to go.
    fn left_in(&self, id: NodeId, case: &Case) -> FsResult<Option<Why>> {
        let before = case.local.as_ref().and_then(|local| local.state.as_ref());
        if before.is_none_or(|before| before.kind != Kind::Dir) {
            return Ok(None);
        }
        for (name, child) in self.tree.children(id)? {
            if self.has_place(child, &Place { parent: id, name }) {
                return Ok(Some(Why::NotEmpty(child)));
            }
        }
        Ok(None)
    }

    /// Whether a directory would be below itself: all that would be between.
    fn circle(&self, id: NodeId, state: &State) -> FsResult<Vec<Why>> {
        let mut above = Vec::new();
        let mut at = state.places.first().map(|place| place.parent);
        while let Some(dir) = at.filter(|dir| *dir != NodeId::ROOT) {
            if dir == id || above.contains(&dir) {
                above.push(dir);
                return Ok(above.into_iter().map(Why::Cycle).collect());
            }
            above.push(dir);
            at = self.after(dir)?.and_then(|state| state.places.first().map(|place| place.parent));
        }
        Ok(Vec::new())
    }

    fn plan(self) -> Plan {
        let mut plan = Plan::default();
        for (id, Case { local, after }) in self.cases {
            let before = local.as_ref().and_then(|local| local.state.as_ref());
            if same(before, after.as_ref())
                && before.map(|b| b.times.mtime) == after.as_ref().map(|a| a.times.mtime)
            {
                continue;
            }
            let content = after.as_ref().and_then(|state| state.content);
            let bytes = match content {
                Some(content) if before.and_then(|before| before.content) != Some(content) => {
                    Bytes::Other(content)
                }
                _ => Bytes::Keep,
            };
            let seen = local.as_ref().filter(|local| local.state.is_some()).map(|local| local.revision);
            plan.steps.push(Step {
                id,
                seen,
                state: after,
                bytes,
                identity: None,
                base: None,
                unseen: false,
            });
        }
        plan
    }
}

/// Whether each aspect is as the offer was made from, or as it is offered.
fn agrees(current: &State, base: Option<&State>, new: &State) -> bool {
    fn one_of<T: PartialEq>(
        current: &State,
        base: Option<&State>,
        new: &State,
        of: impl Fn(&State) -> &T,
    ) -> bool {
        of(current) == of(new) || base.is_some_and(|base| of(current) == of(base))
    }
    one_of(current, Some(new), new, |state| &state.kind)
        && one_of(current, base, new, |state| &state.content)
        && one_of(current, base, new, |state| &state.places)
        && one_of(current, base, new, |state| &state.attributes)
        && (current.kind == Kind::Dir || one_of(current, base, new, |state| &state.times.mtime))
}

/// What a node becomes that is taken.
fn taken(current: &State, new: &State) -> State {
    let mut state = new.clone();
    state.times.atime = current.times.atime;
    state.times.btime = current.times.btime;
    if state.kind == Kind::Dir {
        state.times.mtime = current.times.mtime.max(new.times.mtime);
    }
    state
}

/// What no replica of ours would offer.
fn well_formed(offer: &Offer) -> FsResult<()> {
    let Some(state) = &offer.state else {
        return if offer.id == NodeId::ROOT {
            Err(FsError::Invalid("the root cannot be removed"))
        } else {
            Ok(())
        };
    };
    let names = state.places.len();
    let countable = match state.kind {
        _ if offer.id == NodeId::ROOT => names == 0 && state.kind == Kind::Dir,
        Kind::Dir => names == 1,
        _ => names >= 1,
    };
    if !countable {
        return Err(FsError::Invalid("a node with too many names, or too few"));
    }
    let nameable = |name: &[u8]| {
        !name.is_empty()
            && name.len() <= NAME_MAX
            && name != b"."
            && name != b".."
            && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
    };
    if !state.places.iter().all(|place| nameable(&place.name)) {
        return Err(FsError::Invalid("a name that no file can have"));
    }
    if state.content.is_some() != matches!(state.kind, Kind::File | Kind::Symlink) {
        return Err(FsError::Invalid("only files and symlinks have content, and they have"));
    }
    if state.attributes.mode & !0o7777 != 0 {
        return Err(FsError::Invalid("a mode with more than permissions"));
    }
    Ok(())
}
