//! The nouns of sync: who a node is, what it is, what is said of it.

use crate::clock::Timestamp;
use crate::store::group::Xattrs;
use crate::store::rows::{Kind, Name, ROOT, Revision};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// One life of a store: drawn at random whenever a daemon opens it. A copy of a store that is opened has another life
/// than the original from then on, so nothing that one makes is ever taken for something that the other made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Author(pub [u8; 16]);

/// A replica, or a hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaId(pub [u8; 16]);

impl std::fmt::Display for ReplicaId {
    /// As hexadecimal digits.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A node's identity, the same on every replica: the life of the store in which it was made, and its inode number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is what its name says")]
pub struct NodeId {
    pub author: Author,
    pub ino: u64,
}

impl NodeId {
    /// The root, everywhere.
    pub const ROOT: Self = Self { author: Author([0; 16]), ino: ROOT };
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is what its name says")]
pub struct Place {
    pub parent: NodeId,
    pub name: Name,
}

/// A file's bytes, or a symlink's target, by hash.
///
/// With depth 0 the hash is that of the bytes. Otherwise it is that of a page: a list of what has depth - 1 and of holes,
/// in order. So equal bytes that are cut the same way have equal ids; all of wsd cuts the same way (see `contents`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is what its name says")]
pub struct ContentId {
    /// Bytes of the file.
    pub size: u64,
    pub hash: Hash,
    pub depth: u8,
}

/// Who may do what with a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in stat(2)")]
pub struct Attributes {
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Of a device node, which never changes.
    pub rdev: u32,
    pub xattrs: Arc<Xattrs>,
}

/// Times that travel. A node's ctime is of the replica that it is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "as in stat(2)")]
pub struct Times {
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub btime: Timestamp,
}

/// All that a replica knows of a node and tells others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is what its name says")]
pub struct State {
    pub kind: Kind,
    /// Its names: one of a directory, one or more of anything else, none of the root.
    pub places: BTreeSet<Place>,
    pub attributes: Attributes,
    pub times: Times,
    /// Of files and symlinks.
    pub content: Option<ContentId>,
}

impl State {
    /// Whether there is nothing to tell one who has the other. Access times are of no interest, and neither are the
    /// times of directories, which change with what is in them.
    pub fn same(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.places == other.places
            && self.attributes == other.attributes
            && self.content == other.content
            && (self.kind == Kind::Dir || self.times.mtime == other.times.mtime)
    }
}

/// [`State::same`] of what may not be there.
pub fn same(one: Option<&State>, other: Option<&State>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => one.same(other),
        _ => false,
    }
}

/// What a replica or hub has of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node.
    pub id: NodeId,
    /// `None`: it is gone.
    pub state: Option<State>,
}

/// What a replica wants to become of a node on the hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The node.
    pub id: NodeId,
    /// What it was when replica and hub last agreed on it; `None`: the hub had no such node.
    pub base: Option<State>,
    /// What it is now; `None`: gone.
    pub state: Option<State>,
}

/// A position in the order of a hub's changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The life of the hub's store in which it was given. A hub that has no such life, or had it end before the
    /// revision, was restored from an old copy.
    pub life: Author,
    /// All changes up to here are known.
    pub revision: Revision,
    /// Where the hub was when it began to tell everything from the beginning, which led to this cursor: what was gone by
    /// then is not told of. So a hub knows a cursor unless it has forgotten what went after both.
    pub listed: Revision,
}
