//! Where nodes are: from a node back to its names.
//!
//! Names lead to nodes, and the store can tell which names lead to one. That is a query, and it does not see what is
//! newer than the last group. So each node remembers the name it got last; it is believed only while that name still
//! leads to the node. A directory has one name, so its last is believed even when it is gone: it is where the directory
//! was.

use super::Vfs;
use super::lookup::{Climb, names_in};
use super::node::Node;
use crate::error::FsResult;
use crate::store::rows::{Ino, Kind, Name, ROOT};
use std::sync::Arc;

impl Vfs {
    /// A directory and a name in it that leads to the node; `None` when neither memory nor the store knows one.
    pub(super) fn place_of(&self, node: &Node) -> FsResult<Option<(Ino, Name)>> {
        let remembered = node.place.lock().clone();
        let is_dir = node.kind == Kind::Dir;
        if let Some((parent, name)) = remembered
            && (is_dir || self.leads_to(parent, &name, node.ino)?)
        {
            return Ok(Some((parent, name)));
        }
        for (parent, name) in self.store.names_of(self.workspace, node.ino)? {
            if is_dir || self.leads_to(parent, &name, node.ino)? {
                *node.place.lock() = Some((parent, Arc::clone(&name)));
                return Ok(Some((parent, name)));
            }
        }
        Ok(None)
    }

    fn leads_to(&self, parent: Ino, name: &[u8], ino: Ino) -> FsResult<bool> {
        let Some(dir) = self.nodes.get(parent).map_or_else(|| self.node(parent).ok(), Some) else {
            return Ok(false);
        };
        if dir.dir.is_none() {
            return Ok(false);
        }
        self.load_dir(&dir)?;
        let entry = names_in(&dir)?.read().get(name);
        Ok(entry.is_some_and(|entry| entry.ino == ino))
    }

    /// A path of the node from the root, without a leading slash; `None` for a node without a name. A node with
    /// several names has as many paths; this is one of them.
    pub fn path_of(&self, ino: Ino) -> FsResult<Option<Vec<u8>>> {
        let mut components: Vec<Name> = Vec::new();
        let mut at = ino;
        let mut committed = false;
        let mut climb = Climb::new(ino);
        while at != ROOT {
            climb.step()?;
            let node = self.node(at)?;
            match self.place_of(&node)? {
                Some((parent, name)) => {
                    components.push(name);
                    at = parent;
                }
                None if committed => return Ok(None),
                None => {
                    // It has lost the name it got last, and others may be in memory only.
                    self.commit(false)?;
                    committed = true;
                }
            }
        }
        components.reverse();
        Ok(Some(components.join(&b'/')))
    }
}
