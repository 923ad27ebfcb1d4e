//! Who nodes are: from inode numbers to identities and back.
//!
//! A node that was made here needs no row to have an identity: it is the last life of this store that began before it,
//! and its inode number. Only nodes from elsewhere, and those that turned out to be the same as one from elsewhere, have
//! one written down.

use super::entry::{Author, NodeId};
use crate::error::FsResult;
use crate::store::Store;
use crate::store::rows::{Ino, ROOT, Revision, WorkspaceId};
use crate::store::snapshot::Snapshot;
use crate::store::sync::{Life, LifeId, SyncNode};
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The lives that a store knows of.
pub struct Lives {
    store: Arc<Store>,
    ws: WorkspaceId,
    all: RwLock<Vec<Life>>,
}

impl Lives {
    /// Those in the store.
    pub fn open(store: Arc<Store>, ws: WorkspaceId) -> FsResult<Self> {
        let all = RwLock::new(store.lives(ws)?);
        Ok(Self { store, ws, all })
    }

    /// The present life of this store.
    pub fn current(&self) -> Author {
        self.all
            .read()
            .iter()
            .rev()
            .find(|life| life.own)
            .map_or(Author::default(), |life| Author(life.author))
    }

    /// An identity that no node has, nor will have: no node is ever numbered so high, and a life ends with the process.
    pub fn fresh(&self) -> NodeId {
        static NEXT: AtomicU64 = AtomicU64::new(1 << 62);
        NodeId { author: self.current(), ino: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// The latest lives of this store, newest first, each with the last revision before it.
    pub fn own(&self, limit: usize) -> Vec<(Author, Revision)> {
        let all = self.all.read();
        let own = all.iter().rev().filter(|life| life.own).take(limit);
        own.map(|life| (Author(life.author), life.first_revision)).collect()
    }

    /// Whether this store was at a revision in a life of its own, or before it: what is told from the beginning is told in
    /// portions that end at revisions of earlier lives.
    pub fn was_at(&self, life: Author, revision: Revision, now: Revision) -> bool {
        let all = self.all.read();
        let mut own = all.iter().filter(|life| life.own).skip_while(|own| own.author != life.0);
        if own.next().is_none() {
            return false;
        }
        revision <= own.next().map_or(now, |next| next.first_revision)
    }

    /// The number of a life, which is noted if it is not known.
    pub fn number(&self, author: Author) -> FsResult<LifeId> {
        let known = self.find(author);
        if let Some(life) = known {
            return Ok(life.id);
        }
        let life = self.store.add_life(self.ws, author.0)?;
        let mut all = self.all.write();
        if !all.iter().any(|known| known.id == life.id) {
            all.push(life);
        }
        Ok(life.id)
    }

    fn find(&self, author: Author) -> Option<Life> {
        self.all.read().iter().find(|life| life.author == author.0).copied()
    }

    /// The identity that a node has by itself.
    fn implied(&self, ino: Ino) -> NodeId {
        let all = self.all.read();
        let life = all.iter().rev().find(|life| life.own && life.first_ino <= ino);
        // Nodes that are older than all lives were made before there were any: the first stands for that time.
        let life = life.or_else(|| all.iter().find(|life| life.own));
        NodeId { author: life.map_or(Author::default(), |life| Author(life.author)), ino }
    }

    /// Who a node is, given its row.
    pub fn id(&self, ino: Ino, row: Option<&SyncNode>) -> NodeId {
        if ino == ROOT {
            return NodeId::ROOT;
        }
        let noted = row.and_then(|row| {
            let all = self.all.read();
            let life = all.iter().find(|life| life.id == row.life)?;
            Some(NodeId { author: Author(life.author), ino: row.origin })
        });
        noted.unwrap_or_else(|| self.implied(ino))
    }

    /// Which node that is here, if it is or was here.
    pub fn ino(&self, snapshot: &Snapshot<'_>, id: NodeId) -> FsResult<Option<Ino>> {
        if id == NodeId::ROOT {
            return Ok(Some(ROOT));
        }
        let Some(life) = self.find(id.author) else { return Ok(None) };
        if let Some(ino) = snapshot.node_of(life.id, id.ino)? {
            return Ok(Some(ino));
        }
        // By itself, unless it is known as something else.
        let by_itself = life.own && self.implied(id.ino) == id && snapshot.sync_node(id.ino)?.is_none();
        Ok(by_itself.then_some(id.ino))
    }
}
