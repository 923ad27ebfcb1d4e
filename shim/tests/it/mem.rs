//! A workspace in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use wsd_shim::tree::Outcome;
use wsd_shim::{Attributes, Change, Changes, Facts, Fault, Kind, Stage, Tree};

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) facts: Facts,
    /// Bytes of a file, target of a symlink.
    pub(crate) bytes: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) names: BTreeMap<Vec<u8>, u64>,
    pub(crate) nodes: HashMap<u64, Node>,
    feed: Vec<(Vec<u8>, Option<u64>)>,
    lost: bool,
    next: u64,
    revision: u64,
    /// Of the host, on a disk that keeps times in whole seconds.
    pub(crate) is_coarse: bool,
}

/// What somebody does.
type Deed = Box<dyn FnOnce(&mut State) + Send>;

/// The tree; clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Mem {
    state: Arc<Mutex<State>>,
    /// Done right before the next call of this name.
    before: Arc<Mutex<Option<(&'static str, Deed)>>>,
}

pub(crate) fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |slash| &path[..slash])
}

fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64
}

impl State {
    fn now(&self) -> i64 {
        let now = now();
        if self.is_coarse { now - now % 1_000_000_000 } else { now }
    }

    fn get(&self, path: &[u8]) -> Option<&Node> {
        self.names.get(path).map(|id| &self.nodes[id])
    }

    fn is_dir(&self, path: &[u8]) -> bool {
        path.is_empty() || self.get(path).is_some_and(|node| node.facts.kind == Kind::Dir)
    }

    fn touch(&mut self, path: &[u8]) {
        self.revision += 1;
        let revision = if self.is_coarse { self.now().cast_unsigned() } else { self.revision };
        self.feed.push((path.to_vec(), self.names.get(path).copied()));
        if let Some(id) = self.names.get(path) {
            self.nodes.get_mut(id).unwrap().facts.change = revision;
        }
    }

    fn below(&self, dir: &[u8]) -> Vec<Vec<u8>> {
        let prefix = [dir, b"/"].concat();
        self.names.keys().filter(|path| dir.is_empty() || path.starts_with(&prefix)).cloned().collect()
    }

    pub(crate) fn make(&mut self, path: &[u8], kind: Kind, mode: u32, bytes: &[u8]) -> Outcome<()> {
        if !self.is_dir(parent(path)) {
            return Err(Fault::NotFound);
        }
        if self.names.contains_key(path) {
            return Err(Fault::Exists);
        }
        self.next += 1;
        let facts = Facts {
            id: self.next,
            kind,
            mode,
            uid: 0,
            gid: 0,
            size: bytes.len() as u64,
            mtime: self.now(),
            change: 1,
        };
        self.nodes.insert(self.next, Node { facts, bytes: bytes.to_vec() });
        self.names.insert(path.to_vec(), self.next);
        self.touch(path);
        Ok(())
    }

    /// As a program does: the node stays.
    pub(crate) fn rewrite(&mut self, path: &[u8], bytes: &[u8]) {
        let id = self.names[path];
        let now = self.now();
        let node = self.nodes.get_mut(&id).unwrap();
        node.bytes = bytes.to_vec();
        (node.facts.size, node.facts.mtime) = (bytes.len() as u64, now);
        self.touch(path);
    }

    pub(crate) fn remove_all(&mut self, path: &[u8]) {
        for below in self.below(path).into_iter().rev().chain([path.to_vec()]) {
            let id = self.names.remove(&below);
            self.touch(&below);
            // It may have other names, and is a changed node there.
            if let Some(node) = id.and_then(|id| self.nodes.get_mut(&id)) {
                node.facts.change = self.revision;
            }
        }
    }

    /// Over what is there.
    pub(crate) fn rename_over(&mut self, from: &[u8], to: &[u8]) {
        let mut moved = self.below(from);
        moved.push(from.to_vec());
        let moved: Vec<_> = moved.into_iter().map(|path| (self.names.remove(&path).unwrap(), path)).collect();
        if self.names.contains_key(to) {
            self.remove_all(to);
        }
        for (id, path) in moved {
            self.names.insert([to, &path[from.len()..]].concat(), id);
        }
        self.touch(from);
        self.touch(to);
    }

    pub(crate) fn link(&mut self, from: &[u8], to: &[u8]) {
        let id = self.names[from];
        self.names.insert(to.to_vec(), id);
        self.touch(to);
    }

    pub(crate) fn chmod(&mut self, path: &[u8], mode: u32) {
        let id = self.names[path];
        self.nodes.get_mut(&id).unwrap().facts.mode = mode;
        self.touch(path);
    }

    fn expect(&self, path: &[u8], expected: &Facts) -> Outcome<()> {
        let node = self.get(path).ok_or(Fault::Changed)?;
        if node.facts.still(expected) { Ok(()) } else { Err(Fault::Changed) }
    }
}

impl Mem {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Somebody does something at the last moment before the next call of this name.
    pub(crate) fn before(&self, call: &'static str, deed: impl FnOnce(&mut State) + Send + 'static) {
        *self.before.lock().unwrap() = Some((call, Box::new(deed)));
    }

    /// The state, in which something may have been done at the last moment.
    fn called(&self, call: &str) -> MutexGuard<'_, State> {
        let mut state = self.state();
        if let Some((_, deed)) = self.before.lock().unwrap().take_if(|(wanted, _)| *wanted == call) {
            deed(&mut state);
        }
        state
    }

    /// The feed has forgotten something.
    pub(crate) fn lose_feed(&self) {
        let mut state = self.state();
        state.lost = true;
        state.feed.clear();
    }
}

struct Staged(Mem, Vec<u8>, Vec<u8>);

impl Stage for Staged {
    fn write(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.2.extend_from_slice(bytes);
        Ok(())
    }

    fn place(
        self: Box<Self>,
        attributes: &Attributes,
        replaces: Option<&Facts>,
        keep_node: bool,
    ) -> Outcome<Facts> {
        let Self(mem, path, bytes) = *self;
        let mut state = mem.state();
        match replaces {
            None => state.make(&path, Kind::File, attributes.mode, &bytes)?,
            Some(expected) => {
                state.expect(&path, expected)?;
                if keep_node {
                    state.rewrite(&path, &bytes);
                } else {
                    state.names.remove(&path);
                    state.make(&path, Kind::File, attributes.mode, &bytes)?;
                }
            }
        }
        set(&mut state, &path, attributes)
    }
}

fn set(state: &mut State, path: &[u8], attributes: &Attributes) -> Outcome<Facts> {
    let id = *state.names.get(path).ok_or(Fault::NotFound)?;
    let is_coarse = state.is_coarse;
    let facts = &mut state.nodes.get_mut(&id).unwrap().facts;
    if facts.kind != Kind::Symlink {
        facts.mode = attributes.mode;
    }
    let part = if is_coarse { attributes.mtime % 1_000_000_000 } else { 0 };
    facts.mtime = attributes.mtime - part;
    state.touch(path);
    Ok(state.nodes[&id].facts)
}

impl Tree for Mem {
    fn list(&self, dir: &[u8]) -> Outcome<Vec<(Vec<u8>, Facts)>> {
        let state = self.state();
        if !state.is_dir(dir) {
            return Err(Fault::NotFound);
        }
        let first = if dir.is_empty() { 0 } else { dir.len() + 1 };
        let names = state.below(dir).into_iter().filter(|path| parent(path) == dir);
        Ok(names.map(|path| (path[first..].to_vec(), state.get(&path).unwrap().facts)).collect())
    }

    fn look(&self, path: &[u8]) -> Outcome<Option<Facts>> {
        if path.is_empty() {
            let facts =
                Facts { id: 0, kind: Kind::Dir, mode: 0o755, uid: 0, gid: 0, size: 0, mtime: 0, change: 1 };
            return Ok(Some(facts));
        }
        Ok(self.state().get(path).map(|node| node.facts))
    }

    fn read(
        &self,
        path: &[u8],
        expected: &Facts,
        each: &mut dyn FnMut(&[u8]) -> Outcome<()>,
    ) -> Outcome<Facts> {
        let node = self.state().get(path).cloned().ok_or(Fault::NotFound)?;
        if node.facts.id != expected.id || node.facts.kind != Kind::File {
            return Err(Fault::Changed);
        }
        node.bytes.chunks(1000).try_for_each(each)?;
        Ok(node.facts)
    }

    fn target(&self, path: &[u8]) -> Outcome<Vec<u8>> {
        let state = self.state();
        let node = state.get(path).ok_or(Fault::NotFound)?;
        if node.facts.kind == Kind::Symlink { Ok(node.bytes.clone()) } else { Err(Fault::Changed) }
    }

    fn stage<'a>(&'a self, path: &[u8]) -> Outcome<Box<dyn Stage + 'a>> {
        if !self.state().is_dir(parent(path)) {
            return Err(Fault::NotFound);
        }
        Ok(Box::new(Staged(self.clone(), path.to_vec(), Vec::new())))
    }

    fn make_dir(&self, path: &[u8], attributes: &Attributes) -> Outcome<Facts> {
        let mut state = self.called("make_dir");
        state.make(path, Kind::Dir, attributes.mode, b"")?;
        Ok(state.get(path).unwrap().facts)
    }

    fn make_symlink(
        &self,
        path: &[u8],
        target: &[u8],
        _: &Attributes,
        replaces: Option<&Facts>,
    ) -> Outcome<Facts> {
        let mut state = self.state();
        if let Some(expected) = replaces {
            state.expect(path, expected)?;
            state.names.remove(path);
        }
        state.make(path, Kind::Symlink, 0o777, target)?;
        Ok(state.get(path).unwrap().facts)
    }

    fn link(&self, existing: &[u8], path: &[u8], replaces: Option<&Facts>) -> Outcome<Facts> {
        let mut state = self.called("link");
        match replaces {
            Some(expected) => state.expect(path, expected)?,
            None if state.names.contains_key(path) => return Err(Fault::Exists),
            None => {}
        }
        if !state.is_dir(parent(path)) || !state.names.contains_key(existing) {
            return Err(Fault::NotFound);
        }
        state.link(existing, path);
        Ok(state.get(path).unwrap().facts)
    }

    fn rename(&self, from: &[u8], to: &[u8], expected: &Facts) -> Outcome<Facts> {
        let mut state = self.state();
        state.expect(from, expected)?;
        if !state.is_dir(parent(to)) {
            return Err(Fault::NotFound);
        }
        if state.names.contains_key(to) {
            return Err(Fault::Exists);
        }
        state.rename_over(from, to);
        Ok(state.get(to).unwrap().facts)
    }

    fn remove(&self, path: &[u8], expected: &Facts) -> Outcome<()> {
        let mut state = self.state();
        state.expect(path, expected)?;
        if !state.below(path).is_empty() {
            return Err(Fault::NotEmpty);
        }
        state.remove_all(path);
        Ok(())
    }

    fn set(&self, path: &[u8], attributes: &Attributes, expected: &Facts) -> Outcome<Facts> {
        let mut state = self.state();
        state.expect(path, expected)?;
        set(&mut state, path, attributes)
    }

    fn changes(&self) -> Changes {
        let mut state = self.state();
        let places = std::mem::take(&mut state.feed);
        let places = places.into_iter().map(|(path, node)| Change { path, node, settled: true }).collect();
        Changes { places, lost: std::mem::take(&mut state.lost) }
    }

    fn sync(&self) -> Outcome<()> {
        Ok(())
    }

    fn unfit(&self, _: &[u8], facts: &Facts) -> Option<String> {
        (facts.kind == Kind::Other).then(|| "no such kind here".into())
    }
}
