//! Looking: what is there now, at the places that may have changed.
//!
//! A view holds what differs from the agreement. What was not looked at on one side is looked at if the other one has
//! something to say there, so that every place of a view is known on both sides.
//!
//! A volume that is not mounted any more looks like a directory that was emptied, by somebody or by nobody: what both sides
//! agreed on in it is left as it is until the volume is back, or the directory is gone.

use super::{Depth, Engine, View};
use crate::path;
use crate::shadow::Side;
use crate::tree::{Facts, Fault, Kind, Path};
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

/// How often it is looked whether a volume is back.
const AWHILE: Duration = Duration::from_secs(1);

/// Why nothing is done about what is on a volume.
const AWAY: &str = "what is mounted here is away: what was in it is left as it is";

impl Engine {
    /// Looks at places, and at all of the sides that are asked for.
    pub(super) fn observe(&mut self, places: &BTreeMap<Path, Depth>, all_of: [bool; 2]) -> View {
        let mut view = View::default();
        let away: HashSet<&Path> = places.keys().filter(|path| self.is_away(&mut view, path)).collect();
        for (side, all) in [Side::Work, Side::Host].into_iter().zip(all_of) {
            if all {
                self.list(&mut view, side, Vec::new(), true);
            }
            for (path, depth) in places {
                let covered = path::above(path).any(|dir| places.get(dir) == Some(&Depth::All));
                if path::is_sound(path) && !away.contains(path) {
                    self.see(&mut view, side, path, if covered { Depth::Itself } else { *depth });
                }
            }
        }
        loop {
            let mut more = false;
            for side in [Side::Work, Side::Host] {
                let others: Vec<Path> = view
                    .of(side.other())
                    .keys()
                    .filter(|path| !view.of(side).contains_key(*path))
                    .cloned()
                    .collect();
                more |= !others.is_empty();
                for path in others {
                    self.see(&mut view, side, &path, Depth::Itself);
                }
            }
            if !more {
                return view;
            }
        }
    }

    fn see(&mut self, view: &mut View, side: Side, path: &[u8], depth: Depth) {
        if depth == Depth::Itself && view.of(side).contains_key(path) {
            return;
        }
        let facts = match self.tree(side).look(path) {
            Ok(facts) => facts,
            Err(fault) => return self.cannot_see(view, side, path, fault),
        };
        if side == Side::Host && self.is_away(view, path) {
            view.host.insert(path.to_vec(), None);
            return;
        }
        if !path.is_empty() {
            view.of_mut(side).insert(path.to_vec(), facts);
            self.see_twins(view, side, facts);
        }
        let Some(dir) = facts.filter(|facts| facts.kind == Kind::Dir) else {
            return self.nothing_below(view, side, path);
        };
        if depth == Depth::All || !self.was_this_dir(side, path, dir.id) {
            self.list(view, side, path.to_vec(), true);
        } else if depth == Depth::Names {
            self.list(view, side, path.to_vec(), false);
        }
    }

    /// Looks at the other names of a node: what is done by one name is told of by that name.
    fn see_twins(&mut self, view: &mut View, side: Side, facts: Option<Facts>) {
        let Some(facts) = facts.filter(|facts| facts.kind == Kind::File) else { return };
        let twins: Vec<Path> = self.shadow.by_id(side, facts.id).cloned().collect();
        for twin in twins {
            if !view.of(side).contains_key(&twin) {
                self.see(view, side, &twin, Depth::Itself);
            }
        }
    }

    /// Whether this very directory was agreed on. In another one of its name there may be anything.
    fn was_this_dir(&self, side: Side, path: &[u8], id: u64) -> bool {
        let is_same = |before: &Facts| before.kind == Kind::Dir && before.id == id;
        path.is_empty() || self.shadow.get(path).is_some_and(|entry| is_same(entry.facts(side)))
    }

    /// What was agreed on below a place that is no directory any more is gone.
    fn nothing_below(&self, view: &mut View, side: Side, path: &[u8]) {
        for (below, _) in self.shadow.below(path) {
            view.of_mut(side).insert(below.clone(), None);
        }
    }

    /// A place that cannot be looked at is not a place that is gone.
    fn cannot_see(&mut self, view: &mut View, side: Side, path: &[u8], fault: Fault) {
        view.of_mut(side).insert(path.to_vec(), None);
        view.unknown.insert(path.to_vec());
        let fault = match fault {
            Fault::Io(why) => Fault::Io(why),
            fault => Fault::Io(fault.to_string()),
        };
        self.failed(path, fault, None);
    }

    /// Looks at the names in a directory, and in those below it that are new, or in all.
    fn list(&mut self, view: &mut View, side: Side, dir: Path, all: bool) {
        let mut ahead = vec![dir];
        while let Some(dir) = ahead.pop() {
            let names = match self.tree(side).list(&dir) {
                Ok(names) => names,
                Err(Fault::NotFound) if side == Side::Host && self.is_away(view, &dir) => continue,
                Err(Fault::NotFound) if !dir.is_empty() => {
                    view.of_mut(side).insert(dir.clone(), None);
                    self.nothing_below(view, side, &dir);
                    continue;
                }
                Err(fault) => {
                    self.cannot_see(view, side, &dir, fault);
                    continue;
                }
            };
            let mut listed = HashSet::with_capacity(names.len());
            for (name, facts) in names {
                let path = path::join(&dir, &name);
                let entry = self.shadow.get(&path).map(|entry| *entry.facts(side));
                if entry.is_none_or(|before| !facts.still(&before)) {
                    view.of_mut(side).insert(path.clone(), Some(facts));
                }
                let was_dir = entry.is_some_and(|before| before.kind == Kind::Dir);
                if facts.kind != Kind::Dir && was_dir {
                    self.nothing_below(view, side, &path);
                }
                if facts.kind == Kind::Dir && (all || !self.was_this_dir(side, &path, facts.id)) {
                    if side == Side::Host {
                        self.scanner.lists(&path, &facts);
                    }
                    ahead.push(path.clone());
                }
                listed.insert(path);
            }
            let mut gone = self.shadow.names(&dir);
            gone.retain(|(path, _)| !listed.contains(path));
            if !gone.is_empty() && side == Side::Host && self.is_away(view, &dir) {
                continue;
            }
            for (path, _) in gone {
                self.nothing_below(view, side, &path);
                view.of_mut(side).insert(path, None);
            }
        }
    }
}

/// Volumes.
impl Engine {
    /// Whether a place is on a volume that is not mounted. It is looked at when that is back, with all there is on it.
    fn is_away(&mut self, view: &mut View, path: &[u8]) -> bool {
        if view.is_unknown(path) {
            return true;
        }
        let mut dirs = path::above(path).chain([path]);
        let Some(volume) = dirs.find(|dir| self.was_volume(dir) && self.is_bare(dir)) else { return false };
        if !self.failing.contains_key(volume) {
            tracing::warn!(path = %String::from_utf8_lossy(volume), "{AWAY}");
        }
        self.cannot_see(view, Side::Host, volume, Fault::Io(AWAY.into()));
        self.wish(volume.to_vec(), Depth::All, Some(Instant::now() + AWHILE), false);
        true
    }

    /// Whether a directory was agreed on that is on another filesystem than the one that it is in.
    fn was_volume(&self, dir: &[u8]) -> bool {
        let filesystem = |dir: &[u8]| match dir {
            b"" => Some(0),
            _ => self.shadow.get(dir).map(|entry| entry.host.filesystem()),
        };
        let is_dir = self.shadow.get(dir).is_some_and(|entry| entry.host.kind == Kind::Dir);
        is_dir && filesystem(path::split(dir).0).is_some_and(|above| filesystem(dir) != Some(above))
    }

    /// Whether a directory is on the filesystem of the one that it is in, and has nothing of what was agreed on.
    fn is_bare(&self, dir: &[u8]) -> bool {
        let now = |path: &[u8]| self.host.look(path).ok().flatten();
        let (Some(above), Some(facts)) = (now(path::split(dir).0), now(dir)) else { return false };
        let is_plain = facts.kind == Kind::Dir && facts.filesystem() == above.filesystem();
        let is_known = |name: &[u8]| self.shadow.get(&path::join(dir, name)).is_some();
        is_plain
            && self.shadow.below(dir).next().is_some()
            && self.host.list(dir).is_ok_and(|names| !names.iter().any(|(name, _)| is_known(name)))
    }
}
