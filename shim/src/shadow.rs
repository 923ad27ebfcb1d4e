//! The shadow: what both sides agreed on last, and that only.
//!
//! A place that is in the shadow and on one side has been removed from the other; a place that is on one side only has
//! never been on the other. Without the shadow the two could not be told apart. It must survive a crash, and must not
//! be ahead of the trees: what it says was agreed on has to be on the disk on both sides before it is. Being behind
//! costs work, and at worst a version that is kept twice.

pub mod file;

use crate::path;
use crate::tree::{Digest, Facts, Kind, Path};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

/// One of the two trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The workspace.
    Work,
    /// The host's directory.
    Host,
}

impl Side {
    /// The one that this is not.
    pub fn other(self) -> Self {
        match self {
            Self::Work => Self::Host,
            Self::Host => Self::Work,
        }
    }
}

/// What was agreed on at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The workspace's node then.
    pub work: Facts,
    /// The host's node then.
    pub host: Facts,
    /// What both read as; zeros for a directory.
    pub digest: Digest,
}

impl Entry {
    /// The node of a side.
    pub fn facts(&self, side: Side) -> &Facts {
        match side {
            Side::Work => &self.work,
            Side::Host => &self.host,
        }
    }

    /// Whether the two nodes belong to different users or groups.
    pub fn has_other_owners(&self) -> bool {
        (self.work.uid, self.work.gid) != (self.host.uid, self.host.gid)
    }

    /// The node of a side, to be changed.
    pub fn facts_mut(&mut self, side: Side) -> &mut Facts {
        match side {
            Side::Work => &mut self.work,
            Side::Host => &mut self.host,
        }
    }
}

type ById = HashMap<u64, BTreeSet<Path>>;

/// All that was agreed on.
#[derive(Debug, Default)]
pub struct Shadow {
    entries: BTreeMap<Path, Entry>,
    by_work: ById,
    by_host: ById,
    /// Which of the places are directories of the host.
    dirs: BTreeSet<Path>,
    /// Places whose entry is another one than in the file.
    unsaved: BTreeSet<Path>,
}

impl Shadow {
    /// What was agreed on at a place.
    pub fn get(&self, path: &[u8]) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// The same, with the place as it is kept here.
    pub fn get_key_value(&self, path: &[u8]) -> Option<(&Path, &Entry)> {
        self.entries.get_key_value(path)
    }

    /// Places.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing was agreed on yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All places, in the order of bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Entry)> {
        self.entries.iter()
    }

    /// The places of a node.
    pub fn by_id(&self, side: Side, id: u64) -> impl Iterator<Item = &Path> {
        let index = match side {
            Side::Work => &self.by_work,
            Side::Host => &self.by_host,
        };
        index.get(&id).into_iter().flatten()
    }

    /// Everything below a directory, in the order of bytes.
    pub fn below(&self, dir: &[u8]) -> impl Iterator<Item = (&Path, &Entry)> {
        let (from, to) = path::below(dir);
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range::<[u8], _>((Bound::Included(&from[..]), to.as_ref().map(|to| &to[..])))
    }

    /// The places from one on, that one included, in the order of bytes.
    pub fn starting_at(&self, place: &[u8]) -> impl Iterator<Item = (&Path, &Entry)> {
        self.entries.range::<[u8], _>((Bound::Included(place), Bound::Unbounded))
    }

    /// The directories of the host from a place on, that one included, in the order of bytes.
    pub fn dirs_starting_at(&self, place: &[u8]) -> impl Iterator<Item = (&Path, &Entry)> {
        let dirs = self.dirs.range::<[u8], _>((Bound::Included(place), Bound::Unbounded));
        dirs.filter_map(|dir| self.entries.get_key_value(dir))
    }

    /// The names in a directory.
    pub fn names(&self, dir: &[u8]) -> Vec<(Path, Entry)> {
        let mut found = Vec::new();
        let (mut from, end) = path::below(dir);
        let first = if dir.is_empty() { 0 } else { dir.len() + 1 };
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        loop {
            let bounds = (Bound::Included(&from[..]), end.as_ref().map(|end| &end[..]));
            let Some((place, entry)) = self.entries.range::<[u8], _>(bounds).next() else { return found };
            match place[first..].iter().position(|byte| *byte == b'/') {
                None => {
                    found.push((place.clone(), *entry));
                    from.clone_from(place);
                    from.push(0);
                }
                // Over all that is below this name.
                Some(slash) => from = [&place[..first + slash], b"0"].concat(),
            }
        }
    }

    /// Agrees on a place.
    pub fn put(&mut self, path: Path, entry: Entry) {
        self.remove(&path);
        self.by_work.entry(entry.work.id).or_default().insert(path.clone());
        self.by_host.entry(entry.host.id).or_default().insert(path.clone());
        self.unsaved.insert(path.clone());
        if entry.host.kind == Kind::Dir {
            self.dirs.insert(path.clone());
        }
        self.entries.insert(path, entry);
    }

    /// Forgets a place.
    pub fn remove(&mut self, path: &[u8]) -> Option<Entry> {
        let entry = self.entries.remove(path)?;
        self.unsaved.insert(path.to_vec());
        self.dirs.remove(path);
        for (index, id) in [(&mut self.by_work, entry.work.id), (&mut self.by_host, entry.host.id)] {
            if let Some(paths) = index.get_mut(&id) {
                paths.remove(path);
                if paths.is_empty() {
                    index.remove(&id);
                }
            }
        }
        Some(entry)
    }

    /// The places of these that were agreed on, which the file is about to forget: it has to be told of them again.
    pub fn forgetting<'a>(&mut self, places: impl IntoIterator<Item = &'a [u8]>) -> Vec<Path> {
        let known = places.into_iter().filter(|path| self.entries.contains_key(*path));
        let known: Vec<Path> = known.map(<[u8]>::to_vec).collect();
        self.unsaved.extend(known.iter().cloned());
        known
    }

    /// Moves a place and everything below it.
    pub fn rename(&mut self, from: &[u8], to: &[u8]) {
        let mut moved: Vec<Path> = self.below(from).map(|(path, _)| path.clone()).collect();
        moved.push(from.to_vec());
        for path in moved {
            if let Some(entry) = self.remove(&path) {
                self.put([to, &path[from.len()..]].concat(), entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn entry(id: u64) -> Entry {
        let facts =
            Facts { id, kind: Kind::File, mode: 0o644, uid: 1, gid: 2, size: 3, mtime: -4, change: 5 };
        Entry { work: facts, host: Facts { id: id + 100, ..facts }, digest: [id as u8; 32] }
    }

    #[test]
    fn names_are_found_without_what_is_below_them() {
        let mut shadow = Shadow::default();
        for (at, path) in ["a", "a-b", "a/x", "a/x/1", "a/x/2", "a/x-y", "a0", "b/c"].iter().enumerate() {
            shadow.put(path.as_bytes().to_vec(), entry(at as u64));
        }
        let names = |dir: &str| -> Vec<String> {
            let names = shadow.names(dir.as_bytes()).into_iter();
            names.map(|(path, _)| String::from_utf8(path).unwrap()).collect()
        };
        assert_eq!(names(""), ["a", "a-b", "a0"]);
        assert_eq!(names("a"), ["a/x", "a/x-y"]);
        assert_eq!(names("a/x"), ["a/x/1", "a/x/2"]);
        assert_eq!(shadow.below(b"a").count(), 4);
        assert_eq!(shadow.below(b"").count(), 8);
    }

    #[test]
    fn a_moved_place_takes_what_is_below_along() {
        let mut shadow = Shadow::default();
        for (at, path) in ["d", "d/x", "d/x/y", "d-other"].iter().enumerate() {
            shadow.put(path.as_bytes().to_vec(), entry(at as u64));
        }
        shadow.rename(b"d", b"e/f");
        let paths: Vec<_> =
            shadow.iter().map(|(path, _)| String::from_utf8_lossy(path).into_owned()).collect();
        assert_eq!(paths, ["d-other", "e/f", "e/f/x", "e/f/x/y"]);
        assert_eq!(shadow.by_id(Side::Work, 2).collect::<Vec<_>>(), [b"e/f/x/y"]);
        assert_eq!(shadow.by_id(Side::Host, 102).count(), 1);
        assert_eq!(shadow.by_id(Side::Host, 2).count(), 0);
    }

    #[test]
    fn directories_are_known_as_such_until_they_are_none() {
        let mut shadow = Shadow::default();
        let dir = |id| {
            let Entry { work, host, digest } = entry(id);
            Entry { work, host: Facts { kind: Kind::Dir, ..host }, digest }
        };
        for (at, path) in ["a", "b", "c"].iter().enumerate() {
            shadow.put(path.as_bytes().to_vec(), dir(at as u64));
        }
        shadow.put(b"a/file".to_vec(), entry(7));
        shadow.put(b"b".to_vec(), entry(8));
        shadow.rename(b"c", b"d");
        let dirs =
            |from: &[u8]| shadow.dirs_starting_at(from).map(|(path, _)| path.clone()).collect::<Vec<_>>();
        assert_eq!(dirs(b""), [b"a", b"d"]);
        assert_eq!(dirs(b"d"), [b"d"]);
        assert_eq!(shadow.starting_at(b"a/file").count(), 3);
    }
}
