//! From names to nodes, and from the store to memory.

use super::content::{Fetched, Source};
use super::node::{Dir, Entry, Meta, Node};
use super::types::{Attr, Caller, Origin};
use super::xattr::footprint_of;
use super::{Vfs, names};
use crate::error::{FsError, FsResult};
use crate::store::buf::Buf;
use crate::store::error::StoreError;
use crate::store::group::Xattrs;
use crate::store::rows::{ChunkId, Ino, Kind, ROOT};
use parking_lot::{RwLock, RwLockReadGuard};
use std::sync::Arc;

impl Vfs {
    /// The node, from memory or the store. `Stale` when there is none.
    pub(super) fn node(&self, ino: Ino) -> FsResult<Arc<Node>> {
        loop {
            if let Some(node) = self.nodes.get(ino) {
                let removed = node.meta.read().removed;
                return if removed { Err(FsError::Stale) } else { Ok(node) };
            }
            let evictions = self.nodes.evictions(ino);
            let Some(row) = self.store.inode(self.workspace, ino)? else { return Err(FsError::Stale) };
            if row.nlink == 0 {
                // Who has no name stays in memory for as long as it lives, and does not outlive the daemon.
                if self.nodes.get(ino).is_some() || self.nodes.evictions(ino) != evictions {
                    continue;
                }
                return Err(StoreError::Corrupt(format!("node {ino}: 0 links")).into());
            }
            self.grew(size_of::<Node>() + 64);
            if let Some(node) = self.nodes.insert_stored(Node::stored(row), evictions) {
                return Ok(node);
            }
        }
    }

    /// A directory with its names in memory.
    pub(super) fn dir(&self, ino: Ino) -> FsResult<Arc<Node>> {
        let node = self.node(ino)?;
        self.load_dir(&node)?;
        Ok(node)
    }

    pub(super) fn load_dir(&self, node: &Arc<Node>) -> FsResult<()> {
        let dir = names_in(node)?;
        if dir.read().is_loaded() {
            return Ok(());
        }
        let next_cookie = node.meta.read().row.next_cookie;
        let dirents = self.store.dirents(self.workspace, node.ino)?;
        self.grew(dirents.len() * 140);
        dir.write().load(dirents, next_cookie);
        Ok(())
    }

    /// Brings the map of a file's chunks into memory.
    pub(super) fn load_content(&self, node: &Arc<Node>) -> FsResult<()> {
        if node.meta.read().content.is_loaded() {
            return Ok(());
        }
        let extents = self.store.extents(self.workspace, node.ino)?;
        self.grew(extents.len() * 48);
        node.meta.write().content.load(extents);
        Ok(())
    }

    /// The node's extended attributes.
    pub(super) fn load_xattrs(&self, node: &Arc<Node>) -> FsResult<Arc<Xattrs>> {
        if let Some(xattrs) = &node.meta.read().xattrs {
            return Ok(Arc::clone(xattrs));
        }
        let stored = Arc::new(self.store.xattrs(self.workspace, node.ino)?);
        self.grew(footprint_of(&stored));
        let xattrs = node.meta.write().take_stored_xattrs(stored);
        // Long ones fill memory before the housekeeper looks.
        self.after_commit();
        Ok(xattrs)
    }

    /// Bytes of the store that an operation needs; `None` when they are no longer there, because the file has
    /// changed meanwhile.
    pub(super) fn fetch(&self, ino: Ino, source: Source) -> FsResult<Option<Fetched>> {
        let buf = match source {
            Source::Chunk(id) => match self.chunks.get(&id) {
                Some(cached) => return Ok(Some((source, cached))),
                None => self.store.chunk(id, |bytes| Buf::copied(bytes, &self.cached))?,
            },
            Source::Below(id, index) => {
                return Ok(self.below(ino, id, index)?.map(|buf| (source, buf)));
            }
            Source::Inline(_) => {
                self.store.inline(self.workspace, ino)?.map(|bytes| Buf::new(bytes, &self.cached))
            }
        };
        Ok(buf.map(|buf| (source, Arc::new(buf))))
    }

    /// Fetches what a change needs. Something that the store has lost is an error, unless it is needed no more.
    pub(super) fn fetch_all(
        &self,
        node: &Node,
        needs: impl Fn(&Meta) -> Vec<Source>,
    ) -> FsResult<Vec<Fetched>> {
        let needed = || needs(&node.meta.read());
        let mut fetched: Vec<Fetched> = Vec::new();
        for source in needed() {
            if fetched.iter().any(|(have, _)| *have == source) {
                continue;
            }
            match self.fetch(node.ino, source)? {
                Some(base) => fetched.push(base),
                None if needed().contains(&source) => return Err(missing(node.ino, source)),
                None => {}
            }
        }
        Ok(fetched)
    }

    /// A chunk, kept for whoever reads or changes another part of it.
    pub(super) fn chunk(&self, id: ChunkId) -> FsResult<Option<Arc<Buf>>> {
        if let Some(cached) = self.chunks.get(&id) {
            return Ok(Some(cached));
        }
        let buf = self.store.chunk(id, |bytes| Arc::new(Buf::copied(bytes, &self.cached)))?;
        if let Some(buf) = &buf {
            self.chunks.insert(id, Arc::clone(buf));
        }
        Ok(buf)
    }

    fn below(&self, ino: Ino, id: ChunkId, index: u64) -> FsResult<Option<Arc<Buf>>> {
        if let Some(buf) = self.chunk(id)? {
            return Ok(Some(buf));
        }
        let copy = |bytes: &[u8]| Arc::new(Buf::copied(bytes, &self.cached));
        Ok(self.store.extent_chunk(self.workspace, ino, index, copy)?)
    }

    /// Where a name leads.
    pub(super) fn entry(&self, dir: &Node, name: &[u8]) -> FsResult<Entry> {
        names_in(dir)?.read().get(name).ok_or(FsError::NotFound)
    }

    /// Where a name leads, when the operation may have to look twice.
    pub(super) fn child(&self, dir: &Node, name: &[u8]) -> FsResult<(Entry, Arc<Node>)> {
        loop {
            let entry = self.entry(dir, name)?;
            match self.node(entry.ino) {
                Ok(node) => return Ok((entry, node)),
                Err(FsError::Stale) if self.entry(dir, name).ok() != Some(entry) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Finds a name in a directory.
    pub fn lookup(&self, caller: Caller, parent: Ino, name: &[u8]) -> FsResult<Attr> {
        names::check(name)?;
        let dir = self.dir(parent)?;
        loop {
            let entry = self.entry(&dir, name)?;
            match self.attr_pinned(caller, entry.ino) {
                Err(FsError::Stale) if self.entry(&dir, name).ok() != Some(entry) => {}
                result => return result,
            }
        }
    }

    /// The node itself, for whoever has kept no more than its number (`open_by_handle_at`).
    pub fn lookup_itself(&self, caller: Caller, ino: Ino) -> FsResult<Attr> {
        self.attr_pinned(caller, ino)
    }

    /// The directory that a directory is in, for whoever has kept no more than its number; the root's is itself.
    pub fn lookup_parent(&self, caller: Caller, ino: Ino) -> FsResult<Attr> {
        let node = self.node(ino)?;
        check_dir(&node)?;
        check_alive(&node)?;
        let parent = node.meta.read().row.parent;
        self.attr_pinned(caller, parent)
    }

    /// The node's attributes, with a pin for the kernel when it asks.
    ///
    /// The pin comes first: who takes the node away looks at the pins and then says so in the node, so that
    /// either it sees our pin or we see that the node is gone.
    pub(super) fn attr_pinned(&self, caller: Caller, ino: Ino) -> FsResult<Attr> {
        self.pin_for(caller, ino);
        self.getattr(ino).inspect_err(|_| {
            if caller.origin == Origin::Kernel {
                self.nodes.unpin(ino, 1);
            }
        })
    }

    pub(super) fn pin_for(&self, caller: Caller, ino: Ino) {
        if caller.origin == Origin::Kernel {
            self.nodes.pin(ino);
        }
    }

    /// The node's attributes.
    pub fn getattr(&self, ino: Ino) -> FsResult<Attr> {
        let node = self.node(ino)?;
        let meta = node.meta.read();
        if meta.removed { Err(FsError::Stale) } else { Ok(Attr::from(&meta.row)) }
    }

    /// The attributes of what is at a path of names from the root, if memory alone can tell and there is nobody to
    /// wait for. What is not told here may be there all the same.
    pub fn attr_at_once<'a>(&self, names: impl IntoIterator<Item = &'a [u8]>) -> Option<Attr> {
        let mut node = self.nodes.get(ROOT)?;
        for name in names {
            let entry = {
                let dir = node.dir.as_deref()?.try_read()?;
                if !dir.is_loaded() {
                    return None;
                }
                dir.get(name)?
            };
            node = self.nodes.get(entry.ino)?;
        }
        let meta = node.meta.try_read()?;
        let attr = Attr::from(&meta.row);
        (!meta.removed && !self.asks_kernel(&attr)).then_some(attr)
    }

    /// The node at a path of names from the root, with or without a leading slash; symlinks are not followed.
    pub fn resolve(&self, path: &[u8]) -> FsResult<Attr> {
        let mut ino = ROOT;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            names::check(name)?;
            let dir = self.dir(ino)?;
            ino = self.entry(&dir, name)?.ino;
        }
        self.getattr(ino)
    }
}

/// The names in a node, which must be a directory.
pub(super) fn names_in(node: &Node) -> FsResult<&RwLock<Dir>> {
    node.dir.as_deref().ok_or(FsError::NotDir)
}

/// Whether the directory still has a place in the tree. To be asked with its names locked.
pub(super) fn check_alive(node: &Node) -> FsResult<()> {
    let meta: RwLockReadGuard<'_, _> = node.meta.read();
    if meta.row.nlink == 0 { Err(FsError::NotFound) } else { Ok(()) }
}

/// Directories between a node and the root: more of them are a circle.
const DEPTH_MAX: usize = 100_000;

/// The way up from a node, which ends in a sound store.
pub(super) struct Climb {
    from: Ino,
    steps: usize,
}

impl Climb {
    pub(super) fn new(from: Ino) -> Self {
        Self { from, steps: 0 }
    }

    /// Fails where no way of a sound store leads.
    pub(super) fn step(&mut self) -> FsResult<()> {
        self.steps += 1;
        if self.steps <= DEPTH_MAX {
            return Ok(());
        }
        Err(StoreError::Corrupt(format!("node {}: the directories above it are a circle", self.from)).into())
    }
}

impl Vfs {
    /// Whether a directory holds another one, at whatever depth, or is it.
    pub fn holds(&self, dir: Ino, other: Ino) -> FsResult<bool> {
        is_ancestor(self, dir, other)
    }
}

/// Whether a directory holds another one, at whatever depth, or is it.
pub(super) fn is_ancestor(vfs: &Vfs, ancestor: Ino, mut of: Ino) -> FsResult<bool> {
    let mut climb = Climb::new(of);
    while of != ROOT {
        if of == ancestor {
            return Ok(true);
        }
        climb.step()?;
        of = vfs.node(of)?.meta.read().row.parent;
    }
    Ok(ancestor == ROOT)
}

/// The kind of a node that names may lead to from here.
pub(super) fn check_dir(node: &Node) -> FsResult<()> {
    if node.kind == Kind::Dir { Ok(()) } else { Err(FsError::NotDir) }
}

/// The store has lost something.
pub(super) fn missing(ino: Ino, source: Source) -> FsError {
    FsError::Io(format!("content of node {ino} is missing: {source:?}").into())
}
