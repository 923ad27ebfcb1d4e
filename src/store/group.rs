//! A group of changes: what one transaction writes.
//!
//! A group is a difference between two moments the workspace really had. It names every node that changed
//! since the group before, and holds that node's whole new row and those parts of its content, names and
//! attributes that changed. Groups are idempotent (they say what is, not what to add), so a group that could
//! not be written is merged with the one after it and tried again.

use super::blocks::Blocks;
use super::buf::{Buf, Weight};
use super::rows::{ChunkId, Dirent, Ino, InodeRow, Name, Revision};
use super::sync::SyncChange;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

/// Everything that changed between two moments.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// The last revision that the group holds.
    pub revision: Revision,
    /// The inode number that the next new node gets.
    pub next_ino: Ino,
    /// The changed nodes.
    pub nodes: BTreeMap<Ino, NodeChange>,
    /// What changed of what sync knows of them.
    pub sync: SyncChange,
}

/// What became of one node.
#[derive(Clone, Debug)]
pub enum NodeChange {
    /// The node is, and this is what is new about it.
    Put(Box<NodePut>),
    /// The node is gone, with its names, content and attributes, as of this revision.
    Removed(Revision),
    /// It is gone, and never had a name: nobody has to be told.
    Dropped,
}

/// What is new about a node.
#[derive(Clone, Debug)]
pub struct NodePut {
    /// Its whole row.
    pub row: InodeRow,
    /// Names of a directory that were set (`Some`) or removed (`None`).
    pub dirents: BTreeMap<Name, Option<Dirent>>,
    /// Content of a file or symlink.
    pub content: ContentChange,
    /// All extended attributes, when any of them changed.
    pub xattrs: Option<Unstored>,
}

/// Extended attributes by name.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Extended attributes on their way to the store. They count as file content does until they are there.
#[derive(Clone, Debug)]
pub struct Unstored {
    xattrs: Arc<Xattrs>,
    _weight: Option<Arc<Weight>>,
}

impl Unstored {
    /// Attributes and what counts them.
    pub fn new(xattrs: Arc<Xattrs>, weight: Option<Weight>) -> Self {
        Self { xattrs, _weight: weight.map(Arc::new) }
    }
}

impl Deref for Unstored {
    type Target = Xattrs;
    fn deref(&self) -> &Xattrs {
        &self.xattrs
    }
}

/// What is new about a node's content. Applied in the order of the fields.
#[derive(Clone, Debug, Default)]
pub struct ContentChange {
    /// Forget every extent whose index is at least this.
    pub cut_from: Option<u64>,
    /// Set (`Some`) or forget (`None`) the inline row.
    pub inline: Option<Option<Arc<Buf>>>,
    /// Extents by index: chunk `i` holds the bytes from `i * CHUNK` on.
    pub extents: BTreeMap<u64, ExtentChange>,
}

/// What became of one extent.
#[derive(Clone, Debug)]
pub enum ExtentChange {
    /// New bytes, 1 to [`CHUNK`](super::rows::CHUNK) of them.
    Data(Arc<Buf>),
    /// New bytes too, but they differ from what the extent was before this group only in these blocks, and are not
    /// fewer.
    Part(Arc<Buf>, Blocks),
    /// New bytes in these blocks of a whole chunk; all others are what the extent has before this group.
    Patch(Arc<Buf>, Blocks),
    /// A chunk that is in the store already.
    Chunk(ChunkId),
    /// A hole.
    Hole,
}

impl ExtentChange {
    /// New bytes, if there are any.
    pub fn bytes(&self) -> Option<&Arc<Buf>> {
        match self {
            Self::Data(buf) | Self::Part(buf, _) | Self::Patch(buf, _) => Some(buf),
            Self::Chunk(_) | Self::Hole => None,
        }
    }

    /// What two changes amount to, of which this is the earlier one.
    fn then(self, later: Self) -> Self {
        match (self, later) {
            (Self::Part(_, before), Self::Part(buf, after)) => Self::Part(buf, before.and(after)),
            (Self::Patch(_, before), Self::Part(buf, after)) => Self::Part(buf, before.and(after)),
            (_, Self::Part(buf, _)) => Self::Data(buf),
            // What was in memory stays there until a group is in the store, so this buffer has the blocks of both.
            (Self::Patch(_, before), Self::Patch(buf, after)) => Self::Patch(buf, before.and(after)),
            (Self::Part(below, before), Self::Patch(buf, after)) => {
                Self::Part(patched(&below, &buf, after), before.and(after))
            }
            (Self::Data(below), Self::Patch(buf, after)) => Self::Data(patched(&below, &buf, after)),
            // A hole and a chunk that is on its way to the extent take no patch.
            (_, later) => later,
        }
    }
}

/// Bytes with blocks of others.
fn patched(below: &Buf, above: &Buf, blocks: Blocks) -> Arc<Buf> {
    let mut bytes = below.clone();
    for range in blocks.ranges(above.len()) {
        bytes.write(range.start, &above[range]);
    }
    Arc::new(bytes)
}

/// What the store made of a group.
#[derive(Debug, Default)]
pub struct Committed {
    /// The chunk that each extent's new bytes went to.
    pub chunks: Vec<(Ino, u64, ChunkId)>,
}

impl Group {
    /// Adds a later group to this one.
    pub fn merge(&mut self, later: Group) {
        self.revision = later.revision;
        self.next_ino = later.next_ino;
        self.sync.merge(later.sync);
        for (ino, change) in later.nodes {
            match (self.nodes.get_mut(&ino), change) {
                (Some(NodeChange::Put(before)), NodeChange::Put(after)) => before.merge(*after),
                (_, change) => {
                    self.nodes.insert(ino, change);
                }
            }
        }
    }

    /// What goes to chunks of its own, unless the store has chunks with the same bytes.
    pub(super) fn data(&self) -> impl Iterator<Item = &Buf> {
        let puts = self.nodes.values().filter_map(|change| match change {
            NodeChange::Put(put) => Some(put),
            NodeChange::Removed(_) | NodeChange::Dropped => None,
        });
        puts.flat_map(|put| put.content.extents.values()).filter_map(|extent| match extent {
            ExtentChange::Data(buf) => Some(&**buf),
            _ => None,
        })
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.sync.is_empty()
    }
}

impl NodePut {
    fn merge(&mut self, later: NodePut) {
        self.row = later.row;
        self.dirents.extend(later.dirents);
        self.content.merge(later.content);
        if later.xattrs.is_some() {
            self.xattrs = later.xattrs;
        }
    }
}

impl ContentChange {
    fn merge(&mut self, later: ContentChange) {
        if let Some(cut) = later.cut_from {
            self.extents.split_off(&cut);
            self.cut_from = Some(self.cut_from.map_or(cut, |before| before.min(cut)));
        }
        if later.inline.is_some() {
            self.inline = later.inline;
        }
        for (index, later) in later.extents {
            let change = match self.extents.remove(&index) {
                Some(before) => before.then(later),
                None => later,
            };
            self.extents.insert(index, change);
        }
    }
}
