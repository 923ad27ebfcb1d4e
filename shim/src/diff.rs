//! What is to be done at one place, from what was agreed on and what is there now. Pure: no I/O, no clock.
//!
//! What a side did since the agreement, and what follows from both:
//!
//! | workspace \ host | nothing | attributes | bytes, or another kind | gone |
//! |---|---|---|---|---|
//! | nothing | - | set in the workspace | copy to the workspace | remove in the workspace |
//! | attributes | set on the host | set on the host | copy to the workspace | copy to the host |
//! | bytes, or another kind | copy to the host | copy to the host | equal: agree; else put aside | copy to the host |
//! | gone | remove on the host | copy to the workspace | copy to the workspace | forget |
//!
//! So a removal never wins against a change, and when both changed, the workspace's version keeps the name: the host's
//! is put aside under another one, where it is something new and goes its way to the workspace.

use crate::path;
use crate::shadow::{Entry, Shadow, Side};
use crate::tree::{Digest, Facts, Kind, Path};
use std::collections::BTreeMap;

/// What is seen at a place of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// What is known without reading.
    pub facts: Facts,
    /// What it reads as, if somebody looked that close.
    pub digest: Option<Digest>,
}

/// What is to be done at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Rest,
    /// Both sides are equal: remember them as they are.
    Agree,
    /// Neither side has it any more.
    Forget,
    /// Make the other side like this one.
    Copy(Side),
    /// Give the other side the attributes of this one.
    Set(Side),
    /// Remove it from this side.
    Remove(Side),
    /// Give the host's version another name.
    Aside,
}

/// What a side did at a place since the agreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Did {
    Nothing,
    /// It was touched, and is what it was.
    Touched,
    Attributes,
    Content,
    Gone,
}

fn did(agreed: Option<(&Facts, &Digest)>, now: Option<&Sight>) -> Did {
    match (agreed, now) {
        (None, None) => Did::Nothing,
        (None, Some(_)) => Did::Content,
        (Some(_), None) => Did::Gone,
        (Some((before, digest)), Some(sight)) => {
            let facts = &sight.facts;
            if facts.kind != before.kind {
                Did::Content
            } else if facts.still(before) {
                Did::Nothing
            } else if facts.kind != Kind::Dir && sight.digest.as_ref() != Some(digest) {
                Did::Content
            } else if !facts.has_attributes_of(before)
                || (facts.kind == Kind::File && facts.mtime != before.mtime)
            {
                Did::Attributes
            } else {
                Did::Touched
            }
        }
    }
}

/// What is to be done at a place.
pub fn decide(entry: Option<&Entry>, work: Option<&Sight>, host: Option<&Sight>) -> Step {
    use Did::{Attributes, Content, Gone, Nothing, Touched};
    let agreed = |side| entry.map(|entry| (entry.facts(side), &entry.digest));
    match (did(agreed(Side::Work), work), did(agreed(Side::Host), host)) {
        (Nothing, Nothing) => Step::Rest,
        (Nothing | Touched, Nothing | Touched) => Step::Agree,
        (Gone, Gone) => Step::Forget,
        (Gone, Nothing | Touched) => Step::Remove(Side::Host),
        (Nothing | Touched, Gone) => Step::Remove(Side::Work),
        (Gone, Attributes | Content) => Step::Copy(Side::Host),
        (Attributes | Content, Gone) | (Content, Nothing | Touched | Attributes) => Step::Copy(Side::Work),
        (Attributes, Nothing | Touched | Attributes) => Step::Set(Side::Work),
        (Nothing | Touched, Attributes) => Step::Set(Side::Host),
        (Nothing | Touched | Attributes, Content) => Step::Copy(Side::Host),
        (Content, Content) => match work.zip(host) {
            Some((work, host)) => both_changed(work, host),
            None => Step::Rest,
        },
    }
}

fn both_changed(work: &Sight, host: &Sight) -> Step {
    let same = work.facts.kind == host.facts.kind
        && match work.facts.kind {
            Kind::Dir => true,
            Kind::File | Kind::Symlink => work.digest.is_some() && work.digest == host.digest,
            Kind::Other => false,
        };
    if !same {
        return Step::Aside;
    }
    let is_file = work.facts.kind == Kind::File;
    let equal =
        work.facts.has_attributes_of(&host.facts) && (!is_file || work.facts.mtime == host.facts.mtime);
    if equal || work.facts.kind == Kind::Symlink { Step::Agree } else { Step::Set(Side::Work) }
}

/// Whether the bytes of what is seen have to be read for [`decide`] to be right: work, host.
pub fn needs_digest(entry: Option<&Entry>, work: Option<&Facts>, host: Option<&Facts>) -> (bool, bool) {
    let moved = |side: Side, now: Option<&Facts>| match (entry, now) {
        (Some(entry), Some(now)) => now.kind == entry.facts(side).kind && !now.still(entry.facts(side)),
        _ => false,
    };
    // A file of another size has other bytes.
    let unsure = |side: Side, now: Option<&Facts>| {
        let fits = |now: &Facts| match (now.kind, entry) {
            (Kind::File, Some(entry)) => now.size == entry.facts(side).size,
            (Kind::Symlink, _) => true,
            _ => false,
        };
        moved(side, now) && now.is_some_and(fits)
    };
    let (work_unsure, host_unsure) = (unsure(Side::Work, work), unsure(Side::Host, host));
    let differs = |side: Side, now: Option<&Facts>| {
        now.is_some_and(|now| entry.is_none_or(|entry| !now.still(entry.facts(side))))
    };
    let (Some(w), Some(h)) = (work, host) else { return (work_unsure, host_unsure) };
    let comparable =
        w.kind == h.kind && (w.kind == Kind::Symlink || (w.kind == Kind::File && w.size == h.size));
    if comparable && differs(Side::Work, work) && differs(Side::Host, host) {
        return (true, true);
    }
    (work_unsure, host_unsure)
}

/// What is now at the places that were looked at; those that were not are as agreed.
pub type Sights = BTreeMap<Path, Option<Facts>>;

/// A node that has another name on one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Where it was renamed; the other side is to follow.
    pub by: Side,
    /// The name that was agreed on.
    pub from: Path,
    /// The name it has now.
    pub to: Path,
}

/// The renames that one side made and the other can follow. No two of them meet.
pub fn moves(shadow: &Shadow, work: &Sights, host: &Sights) -> Vec<Move> {
    let mut found: Vec<Move> = Vec::new();
    for by in [Side::Work, Side::Host] {
        let (here, there) = match by {
            Side::Work => (work, host),
            Side::Host => (host, work),
        };
        for (to, facts) in here {
            let Some(facts) = facts else { continue };
            if shadow.get(to).is_some() || facts.kind == Kind::Other {
                continue;
            }
            let is_free = there.get(to).is_some_and(Option::is_none);
            let left = |from: &&Path| is_left(shadow, (by, here, there), from, facts);
            if let (true, Some(from)) = (is_free, shadow.by_id(by, facts.id).find(left)) {
                found.push(Move { by, from: from.clone(), to: to.clone() });
            }
        }
    }
    found.sort_by_key(|one| (path::depth(&one.from), path::depth(&one.to)));
    let mut apart: Vec<Move> = Vec::new();
    for one in found {
        if !path::is_below(&one.to, &one.from) && apart.iter().all(|other| !meet(&one, other)) {
            apart.push(one);
        }
    }
    apart
}

/// Whether the node has left the name `from`, and the other side still has there what was agreed on.
fn is_left(shadow: &Shadow, (by, here, there): (Side, &Sights, &Sights), from: &Path, facts: &Facts) -> bool {
    let Some(entry) = shadow.get(from) else { return false };
    let now = |sights: &Sights, side: Side| sights.get(from).copied().unwrap_or(Some(*entry.facts(side)));
    let has_left = now(here, by).is_none_or(|now| now.id != facts.id);
    let other = by.other();
    let stays = now(there, other).is_some_and(|now| now.has_bytes_of(entry.facts(other)));
    has_left && stays && facts.has_bytes_of(entry.facts(by))
}

fn meet(one: &Move, other: &Move) -> bool {
    [&one.from, &one.to].into_iter().any(|a| {
        [&other.from, &other.to].into_iter().any(|b| a == b || path::is_below(a, b) || path::is_below(b, a))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(id: u64, kind: Kind, change: u64) -> Facts {
        Facts { id, kind, mode: 0o644, uid: 0, gid: 0, size: 1, mtime: 5, change }
    }

    fn sight(id: u64, change: u64, digest: u8) -> Sight {
        Sight { facts: facts(id, Kind::File, change), digest: Some([digest; 32]) }
    }

    fn entry() -> Entry {
        Entry { work: facts(1, Kind::File, 1), host: facts(2, Kind::File, 1), digest: [1; 32] }
    }

    /// The table at the head of this file, for files.
    #[test]
    fn the_table_holds() {
        let (work, host) = (sight(1, 1, 1), sight(2, 1, 1));
        let with = |sight: Sight, change, digest, mode| {
            Some(Sight { facts: Facts { change, mode, ..sight.facts }, digest: Some([digest; 32]) })
        };
        let states = |sight: Sight, digest| {
            [Some(sight), with(sight, 2, 1, 0o600), with(sight, 2, digest, 0o644), None]
        };
        let expected = [
            [Step::Rest, Step::Set(Side::Host), Step::Copy(Side::Host), Step::Remove(Side::Work)],
            [Step::Set(Side::Work), Step::Set(Side::Work), Step::Copy(Side::Host), Step::Copy(Side::Work)],
            [Step::Copy(Side::Work), Step::Copy(Side::Work), Step::Aside, Step::Copy(Side::Work)],
            [Step::Remove(Side::Host), Step::Copy(Side::Host), Step::Copy(Side::Host), Step::Forget],
        ];
        for (row, work) in states(work, 7).iter().enumerate() {
            for (column, host) in states(host, 8).iter().enumerate() {
                let step = decide(Some(&entry()), work.as_ref(), host.as_ref());
                assert_eq!(step, expected[row][column], "row {row}, column {column}");
            }
        }
    }

    #[test]
    fn what_was_touched_and_is_the_same_is_agreed_on() {
        let (work, host) = (sight(1, 9, 1), sight(2, 1, 1));
        assert_eq!(decide(Some(&entry()), Some(&work), Some(&host)), Step::Agree);
        let (work, host) = (sight(1, 9, 4), sight(2, 9, 4));
        assert_eq!(decide(Some(&entry()), Some(&work), Some(&host)), Step::Agree);
        assert_eq!(decide(None, Some(&work), Some(&host)), Step::Agree);
        assert_eq!(decide(None, Some(&work), None), Step::Copy(Side::Work));
        assert_eq!(decide(None, None, Some(&host)), Step::Copy(Side::Host));
        assert_eq!(decide(None, None, None), Step::Rest);
    }

    #[test]
    fn other_kinds_are_kept_both() {
        let dir = Sight { facts: facts(3, Kind::Dir, 1), digest: None };
        let file = sight(2, 9, 4);
        assert_eq!(decide(None, Some(&dir), Some(&file)), Step::Aside);
        assert_eq!(decide(None, Some(&file), Some(&dir)), Step::Aside);
        assert_eq!(decide(None, Some(&dir), Some(&dir)), Step::Agree);
    }

    #[test]
    fn bytes_are_read_only_where_something_moved_and_could_be_the_same() {
        let (work, host) = (facts(1, Kind::File, 1), facts(2, Kind::File, 1));
        let moved = Facts { change: 2, ..host };
        let longer = Facts { size: 2, ..moved };
        let needs = |entry: Option<&Entry>, w: &Facts, h: &Facts| needs_digest(entry, Some(w), Some(h));
        assert_eq!(needs(Some(&entry()), &work, &host), (false, false));
        assert_eq!(needs(Some(&entry()), &work, &moved), (false, true));
        assert_eq!(needs(Some(&entry()), &work, &longer), (false, false));
        assert_eq!(needs(None, &work, &host), (true, true));
        assert_eq!(needs(None, &work, &longer), (false, false));
        let untrusted = Facts { change: 0, ..host };
        assert_eq!(needs(Some(&entry()), &work, &untrusted), (false, true));
    }

    #[test]
    fn a_rename_is_followed_and_a_hard_link_is_none() {
        let mut shadow = Shadow::default();
        shadow.put(b"a".to_vec(), entry());
        let new = Some(facts(2, Kind::File, 7));
        let at = |path: &str, facts| (path.as_bytes().to_vec(), facts);
        let host = Sights::from([at("a", None), at("b", new)]);
        let work = Sights::from([at("b", None)]);
        let expected = Move { by: Side::Host, from: b"a".to_vec(), to: b"b".to_vec() };
        assert_eq!(moves(&shadow, &work, &host), [expected]);
        let linked = Sights::from([at("b", new)]);
        assert!(moves(&shadow, &work, &linked).is_empty(), "the old name is still there");
        let taken = Sights::from([at("b", Some(facts(9, Kind::File, 1)))]);
        assert!(moves(&shadow, &taken, &host).is_empty(), "the other side has something there");
        let rewritten =
            Sights::from([at("a", None), at("b", Some(Facts { size: 9, ..facts(2, Kind::File, 7) }))]);
        assert!(moves(&shadow, &work, &rewritten).is_empty(), "a number that is used again is no rename");
    }
}
