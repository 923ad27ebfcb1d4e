//! One node, changed here and upstream: each aspect by itself, against what both sides agreed on last.

use crate::clock::Timestamp;
use crate::store::group::Xattrs;
use crate::store::rows::Kind;
use crate::sync::entry::{Attributes, ContentId, Place, State, Times};
use crate::sync::tree::{ConflictKind, OnConflict};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The extended attribute that is a node's access control list.
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

/// The extended attribute that is a program's capabilities.
const CAPABILITY: &[u8] = b"security.capability";

/// `S_ISUID` and `S_ISGID`.
const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;

/// What comes of a node.
pub(super) struct Merged {
    pub(super) state: State,
    /// What both sides had changed.
    pub(super) conflicts: Vec<ConflictKind>,
}

/// The two sides of a node. All states have only those names that are in view.
struct Sides<'a> {
    base: Option<&'a State>,
    here: &'a State,
    there: &'a State,
    /// Where both changed the same thing, what is here stays.
    ours: bool,
}

/// Merges what is here with what is there. Without a base, whatever differs was changed on both sides.
pub(super) fn merge(base: Option<&State>, here: &State, there: &State, on: OnConflict) -> Merged {
    let sides = Sides { base, here, there, ours: on == OnConflict::Local };
    let mut conflicts = Vec::new();
    let mut note = |conflict: bool, kind| {
        if conflict {
            conflicts.push(kind);
        }
    };
    let (content, conflict) = sides.pick(|state| state.content);
    note(conflict, ConflictKind::Content);
    let (places, conflict) = sides.places();
    note(conflict, ConflictKind::Move);
    let (mut attributes, conflict) = sides.attributes();
    sides.take_privileges(&mut attributes, content);
    note(conflict, ConflictKind::Attributes);
    let times = Times {
        atime: here.times.atime,
        mtime: sides.mtime(content == here.content),
        btime: there.times.btime,
    };
    Merged { state: State { kind: there.kind, places, attributes, times, content }, conflicts }
}

impl Sides<'_> {
    /// What an aspect becomes, and whether both sides changed it.
    fn pick<T: PartialEq>(&self, of: impl Fn(&State) -> T) -> (T, bool) {
        three(self.base.map(&of), of(self.here), of(self.there), self.ours)
    }

    fn places(&self) -> (BTreeSet<Place>, bool) {
        let several =
            [Some(self.here), Some(self.there), self.base].into_iter().flatten().any(|s| s.places.len() > 1);
        if self.here.kind == Kind::Dir || !several {
            return self.pick(|state| state.places.clone());
        }
        let (here, there) = (&self.here.places, &self.there.places);
        let none = BTreeSet::new();
        let base = self.base.map_or(&none, |base| &base.places);
        let kept = there.iter().filter(|place| here.contains(*place) || !base.contains(*place));
        let added = here.iter().filter(|place| !base.contains(*place));
        let merged: BTreeSet<Place> = kept.chain(added).cloned().collect();
        // Each side removed the names that the other one kept.
        if merged.is_empty() { (there.clone(), true) } else { (merged, false) }
    }

    fn attributes(&self) -> (Attributes, bool) {
        // Both say who may do what: one of one side would make a lie of the other one's.
        let list = |state: &State| state.attributes.xattrs.get(ACCESS_ACL).cloned();
        let ((mode, list), mode_conflict) = self.pick(|state| (state.attributes.mode, list(state)));
        let (uid, uid_conflict) = self.pick(|state| state.attributes.uid);
        let (gid, gid_conflict) = self.pick(|state| state.attributes.gid);
        let (xattrs, xattrs_conflict) = self.xattrs(list);
        let attributes = Attributes { mode, uid, gid, rdev: self.there.attributes.rdev, xattrs };
        (attributes, mode_conflict | uid_conflict | gid_conflict | xattrs_conflict)
    }

    /// A program runs with privileges that somebody gave to other bytes, or to those of another owner, on neither side: it does
    /// not here.
    fn take_privileges(&self, merged: &mut Attributes, content: Option<ContentId>) {
        if self.there.kind != Kind::File {
            return;
        }
        let sides = || [self.here, self.there].into_iter().filter(|side| side.content == content);
        let has = |held: &dyn Fn(&Attributes) -> bool| sides().any(|side| held(&side.attributes));
        let Attributes { uid, gid, .. } = *merged;
        if !has(&|side| side.mode & SETUID != 0 && side.uid == uid) {
            merged.mode &= !SETUID;
        }
        if !has(&|side| side.mode & SETGID != 0 && side.gid == gid) {
            merged.mode &= !SETGID;
        }
        if let Some(given) = merged.xattrs.get(CAPABILITY).cloned()
            && !has(&|side| side.xattrs.get(CAPABILITY) == Some(&given))
        {
            Arc::make_mut(&mut merged.xattrs).remove(CAPABILITY);
        }
    }

    /// `list`: what the access control list becomes.
    fn xattrs(&self, list: Option<Vec<u8>>) -> (Arc<Xattrs>, bool) {
        let of = |state: &State| Arc::clone(&state.attributes.xattrs);
        let (here, there) = (of(self.here), of(self.there));
        if here == there {
            return (there, false);
        }
        let base = self.base.map(of);
        let mut merged = BTreeMap::new();
        let mut conflict = false;
        merged.extend(list.map(|list| (ACCESS_ACL.to_vec(), list)));
        for name in here.keys().chain(there.keys()).filter(|name| *name != ACCESS_ACL) {
            let before = base.as_ref().map(|base| base.get(name));
            let (value, both) = three(before, here.get(name), there.get(name), self.ours);
            conflict |= both;
            if let Some(value) = value {
                merged.insert(name.clone(), value.clone());
            }
        }
        (Arc::new(merged), conflict)
    }

    /// It goes with the content where that differs, else with the side that changed it.
    fn mtime(&self, content_is_ours: bool) -> Timestamp {
        let (here, there) = (self.here.times.mtime, self.there.times.mtime);
        let latest = here.max(there);
        if self.here.kind == Kind::Dir {
            return latest;
        }
        if self.here.content != self.there.content {
            return if content_is_ours { here } else { there };
        }
        match self.base.map(|base| base.times.mtime) {
            Some(base) if base == here => there,
            Some(base) if base == there => here,
            _ => latest,
        }
    }
}

fn three<T: PartialEq>(base: Option<T>, here: T, there: T, ours: bool) -> (T, bool) {
    if here == there || base.as_ref() == Some(&here) {
        (there, false)
    } else if base.as_ref() == Some(&there) {
        (here, false)
    } else if ours {
        (here, true)
    } else {
        (there, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::entry::NodeId;

    fn state(mode: u32, acl: &[u8]) -> State {
        let xattrs = Arc::new(Xattrs::from([(ACCESS_ACL.to_vec(), acl.to_vec())]));
        let place = Place { parent: NodeId::ROOT, name: b"file".as_slice().into() };
        State {
            kind: Kind::File,
            places: [place].into(),
            attributes: Attributes { mode, xattrs, ..Attributes::default() },
            times: Times::default(),
            content: None,
        }
    }

    /// They say the same in two ways, so those of one side would make a lie of the other's.
    #[test]
    fn a_mode_and_an_access_list_stay_together() {
        let (base, here, there) = (state(0o664, b"base"), state(0o660, b"chmod"), state(0o664, b"setfacl"));
        let acl_of = |state: &State| state.attributes.xattrs.get(ACCESS_ACL).cloned();
        for (on, expected) in [(OnConflict::KeepBoth, &there), (OnConflict::Local, &here)] {
            let Merged { state, conflicts } = merge(Some(&base), &here, &there, on);
            assert_eq!((state.attributes.mode, acl_of(&state)), (expected.attributes.mode, acl_of(expected)));
            assert_eq!(conflicts, [ConflictKind::Attributes]);
        }
        let Merged { state, conflicts } = merge(Some(&base), &here, &base, OnConflict::KeepBoth);
        assert_eq!((state.attributes.mode, acl_of(&state)), (0o660, acl_of(&here)));
        assert_eq!(conflicts, []);
    }

    /// Who could write to a file gains nothing by what somebody else gave it meanwhile, not knowing of that.
    #[test]
    fn bytes_get_no_privileges_that_were_given_to_others() {
        let content = |number: u8| Some(ContentId { size: 1, hash: [number; 32], depth: 0 });
        let capability = || Arc::new(Xattrs::from([(CAPABILITY.to_vec(), b"all".to_vec())]));
        let base = State { content: content(1), ..state(0o777, b"") };
        let mut given = base.clone();
        (given.attributes.mode, given.attributes.xattrs) = (0o6777, capability());
        let written = State { content: content(2), ..base.clone() };
        for (here, there) in [(&given, &written), (&written, &given)] {
            let Merged { state, .. } = merge(Some(&base), here, there, OnConflict::KeepBoth);
            assert_eq!((state.content, state.attributes.mode), (content(2), 0o777));
            assert_eq!(state.attributes.xattrs.get(CAPABILITY), None);
        }
        let mut owned = State { content: content(2), ..base.clone() };
        (owned.attributes.mode, owned.attributes.xattrs) = (0o6777, capability());
        let Merged { state, .. } = merge(Some(&base), &owned, &base, OnConflict::KeepBoth);
        assert_eq!(state.attributes, owned.attributes);
    }
}
