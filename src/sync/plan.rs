//! The planner: what becomes of a replica's tree when it is told what upstream has.
//!
//! The problem: entries come one by one, in the order of the last change of each node, so in the middle of a stream they
//! do not make a tree together with what is here: a parent may come after its child, and a name may still be held by what
//! has left it upstream. And both sides may have changed the same thing. Still the result has to be a tree, no byte may be
//! lost, and every replica has to arrive at the same tree in the end.
//!
//! - `merge`: one node. Content, names, attributes and times are merged by themselves, against what both
//!   sides agreed on last. This decides everything that is not about the tree as a whole.
//! - `work`: the nodes that are looked at, what they are here, upstream, and after the plan.
//! - `settle`: makes a tree of them. Looks for what breaks one and mends it, until nothing does. A claim on a name is
//!   upstream's if upstream has it, else ours. Two of upstream's claims that contradict each other mean that one of them
//!   is out of date: what is known of it has to be read again ([`Planned::Needs`]). A claim of ours against one of
//!   upstream's is a conflict.
//! - `clash`: settles such a conflict about a name.
//! - `finish`: writes the plan down.
//!
//! Every mending takes a node one way only: from gone to there, from our place to upstream's, from a name to a new one. So
//! it comes to an end. The same entries again make an empty plan.

mod clash;
mod finish;
mod merge;
mod settle;
mod work;

use super::entry::{Entry, NodeId, Offer};
use super::tree::{OnConflict, Plan, Tree};
use crate::clock::Timestamp;
use crate::error::{FsError, FsResult};
use std::collections::BTreeSet;
use work::Work;

/// What a plan is made by.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Who wins.
    pub on_conflict: OnConflict,
    /// A few hexadecimal digits of the replica's identity, for names of what is kept.
    pub replica: &'a str,
    /// The time of day, for the same.
    pub now: Timestamp,
    /// Offers that were sent and not answered: upstream may have taken them. What came of them is no conflict.
    pub unanswered: &'a [Offer],
    /// It did take them.
    pub taken: bool,
}

/// What the planner has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Planned {
    /// So it is to be.
    Ready(Plan),
    /// It has to be known how these nodes are upstream now: read them, put them at the end of the entries, and plan again.
    Needs(Vec<NodeId>),
}

/// Decides what becomes of the tree.
///
/// `incoming`: what upstream has; of entries about the same node the last one counts, and later entries are never older
/// than earlier ones.
pub fn plan(tree: &dyn Tree, incoming: &[Entry], rules: &Rules) -> FsResult<Planned> {
    let mut kept = BTreeSet::new();
    loop {
        let mut work = Work::new(tree, incoming, rules, &kept);
        work.merge_all()?;
        let mut passes = 0;
        while work.is_sound() && work.settle()? {
            passes += 1;
            if passes > work.nodes.len() * 4 + 16 {
                return Err(FsError::Invalid("a plan that does not come to an end"));
            }
        }
        if !work.needs.is_empty() {
            return Ok(Planned::Needs(work.needs.into_iter().collect()));
        }
        if work.stay.is_empty() {
            return work.finish();
        }
        let known = kept.len();
        kept.append(&mut work.stay);
        if kept.len() == known {
            return Err(FsError::Invalid("a plan that does not come to an end"));
        }
    }
}
