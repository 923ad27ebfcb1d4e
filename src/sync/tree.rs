//! A tree as planner and judge see it, and what they decide.

use super::entry::{ContentId, NodeId, Place, State};
use crate::clock::Timestamp;
use crate::error::FsResult;
use crate::store::rows::{Name, Revision};

/// A tree to be looked at. What is told may be out of date by the time a plan is carried out; a plan says what it
/// relied on, and is made anew if that no longer holds.
pub trait Tree {
    /// The node. `None`: it was never here, or nobody remembers.
    fn node(&self, id: NodeId) -> FsResult<Option<Local>>;
    /// What a name in a directory leads to.
    fn child(&self, parent: NodeId, name: &[u8]) -> FsResult<Option<NodeId>>;
    /// All names in a directory.
    fn children(&self, parent: NodeId) -> FsResult<Vec<(Name, NodeId)>>;
    /// The nodes that upstream has in a directory, as far as was agreed on last ([`Local::base`]), in view or not.
    fn known_in(&self, parent: NodeId) -> FsResult<Vec<NodeId>>;
    /// An identity that no node has, and none will be given again.
    fn fresh(&self) -> NodeId;
    /// Whether what has this path, or something above it, is left out of sync (`SYNC_IGNORE`). The path is from the
    /// root, without a slash at either end, and need not be here.
    fn is_ignored(&self, path: &[u8]) -> bool;
    /// What that depends on.
    fn ignores(&self) -> Ignores;
}

/// What it depends on whether something is left out of sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignores {
    /// Nothing is.
    Nothing,
    /// On its name, and on those of the directories that it is in.
    Names,
    /// On where it is.
    Paths,
}

/// A node here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// What it is now; `None`: it is gone, and upstream may not know yet.
    pub state: Option<State>,
    /// What this replica and its upstream agreed on last, with all names that it has there, in view or not; `None`:
    /// upstream does not know of it, or there is no upstream.
    pub base: Option<State>,
    /// The revision of its last change here.
    pub revision: Revision,
}

/// Where the bytes of a step come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// It keeps its own.
    Keep,
    /// From the other side, by this id.
    Other(ContentId),
    /// Those that this node had before the plan.
    Of(NodeId),
}

/// What becomes of one node.
///
/// Two steps may be about the same `id`: what is here and known by it gets another identity, and the identity is that of what
/// upstream has from then on.
///
/// Whoever carries it out makes sure of three things besides `seen`, and has the plan made anew otherwise: that names
/// are vacant when all steps are done, that what they are in is a directory then, and that directories that go are empty.
///
/// A node with a step counts as changed by the plan, even if only its base is another: what is not as its base says is to be
/// offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The node, as it is known here until now; not known here: it is made.
    pub id: NodeId,
    /// The revision that the plan relied on; `None`: that there is no such node here (it may have been).
    pub seen: Option<Revision>,
    /// What it is after the plan; `None`: it is gone. A parent that gets another identity is named by that.
    pub state: Option<State>,
    /// Where its bytes come from, if it has any.
    pub bytes: Bytes,
    /// It is known under this identity from now on: the same thing was made on both sides. What is remembered of a
    /// node that had the identity and is gone is forgotten.
    pub identity: Option<NodeId>,
    /// What both sides agree on from now on: `Some(None)`: that there is no such node; `None`: as before.
    pub base: Option<Option<State>>,
    /// Neither side has it in view, so there is nothing to offer, whatever the base is.
    pub unseen: bool,
}

/// A copy that is made to keep what has lost a conflict. It is a new node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptCopy {
    /// What it is. Its place is vacant.
    pub state: State,
    /// Where its bytes come from.
    pub bytes: Bytes,
}

/// What is to become of a tree, all at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The nodes, each at most once, in no particular order: what they become holds when all is done.
    pub steps: Vec<Step>,
    /// What is made besides.
    pub copies: Vec<KeptCopy>,
    /// What was in conflict.
    pub conflicts: Vec<Conflict>,
}

/// What was changed on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The node.
    pub id: NodeId,
    /// In what way.
    pub kind: ConflictKind,
    /// What was here.
    pub here: Option<State>,
    /// What upstream had.
    pub upstream: Option<State>,
    /// Where the version that lost is now, if it is kept.
    pub kept: Option<Place>,
}

/// How two sides can be in conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConflictKind {
    /// Both changed the bytes of a file or the target of a symlink.
    Content,
    /// Both gave a name to different nodes.
    Name,
    /// Both moved a node, to different places, or into each other.
    Move,
    /// One removed what the other changed.
    Removal,
    /// Both changed mode, owner or extended attributes, differently.
    Attributes,
}

/// Who wins where both sides changed the same thing (`SYNC_ON_CONFLICT`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// Upstream's version has the name, and what was here stays beside it.
    #[default]
    KeepBoth,
    /// What is here.
    Local,
    /// What upstream has.
    Upstream,
}

/// What the hub says to offers. All are taken, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They can be taken, so.
    Accept(Plan),
    /// They cannot.
    Refuse(Vec<Refusal>),
}

/// Why an offer cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The node that was offered.
    pub id: NodeId,
    /// Why.
    pub why: Why,
}

impl Refusal {
    /// The nodes that it is about: to be offered too if they were changed here, and else to be asked for.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        let other = match self.why {
            Why::Changed => None,
            Why::Taken(id) | Why::NoParent(id) | Why::NotEmpty(id) | Why::Cycle(id) => Some(id),
        };
        [Some(self.id), other].into_iter().flatten()
    }
}

/// What is in the way of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The hub has something else than what the offer was made from.
    Changed,
    /// The name leads to this node.
    Taken(NodeId),
    /// There is no such directory.
    NoParent(NodeId),
    /// This node is still in the directory.
    NotEmpty(NodeId),
    /// The directory would be below itself, and this is one of those between. There is a refusal for each.
    Cycle(NodeId),
}

/// The name of what has lost a conflict: `name.conflict-<replica>-<time>`, cut so that it is no longer than names may be.
/// `attempt` is 0 at first, and grows while the name is taken.
pub fn conflict_name(name: &[u8], replica: &str, now: Timestamp, attempt: u32) -> Name {
    const NAME_MAX: usize = crate::store::rows::NAME_MAX;
    let seconds = now.0.div_euclid(1_000_000_000);
    let mut suffix = format!(".conflict-{replica}-{}", stamp(seconds));
    if attempt > 0 {
        suffix.push_str(&format!("-{attempt}"));
    }
    let keep = name.len().min(NAME_MAX - suffix.len().min(NAME_MAX));
    let mut whole = cut(name, keep).to_vec();
    whole.extend_from_slice(suffix.as_bytes());
    whole.into()
}

/// At most so many bytes of a name, whole characters of one that is text.
fn cut(name: &[u8], most: usize) -> &[u8] {
    match str::from_utf8(name) {
        Ok(text) => &name[..text.floor_char_boundary(most)],
        Err(_) => &name[..most],
    }
}

/// Seconds since the epoch as `20261121T094500Z`.
fn stamp(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// A day of the Gregorian calendar, from days since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_conflict_says_who_and_when_and_is_never_too_long() {
        let now = Timestamp(1_795_254_300_000_000_000);
        assert_eq!(&conflict_name(b"a.txt", "beef", now, 0)[..], b"a.txt.conflict-beef-20261121T094500Z");
        assert_eq!(&conflict_name(b"a", "beef", now, 2)[..], b"a.conflict-beef-20261121T094500Z-2");
        let long = conflict_name(&[0xff; 255], "beef", now, 1);
        assert!(long.len() == 255 && long.ends_with(b"Z-1"));
        for name in ["\u{e9}".repeat(127), "x".to_owned() + &"\u{1f980}".repeat(63), "\u{20ac}".repeat(85)] {
            let cut = conflict_name(name.as_bytes(), "beef", now, 1);
            assert!(cut.len() > 251 && str::from_utf8(&cut).is_ok(), "{cut:?}");
        }
    }
}
