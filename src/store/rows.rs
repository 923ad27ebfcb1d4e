//! The nouns of the store: identities, kinds and rows. Everything above speaks in these.

use crate::clock::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A node's identity: stable for its life, through renames and restarts, never used again.
pub type Ino = u64;

/// The root directory's inode number.
pub const ROOT: Ino = 1;

/// Position of a change in the order of all changes of one workspace; 0 is before the first.
pub type Revision = u64;

/// Which workspace of a store a row belongs to.
pub type WorkspaceId = i64;

/// Identity of a content chunk within one store: it stands for the same bytes for ever. Never used again while the daemon
/// lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkId {
    /// What extents name.
    pub row: i64,
    /// How often it was changed in place.
    pub version: u32,
}

/// Bytes of a chunk of file content. Files are cut at multiples of it; only the last chunk may be shorter, and
/// a chunk without trailing bytes stands for zeros up to the next multiple.
pub const CHUNK: usize = 64 * 1024;

/// Files of at most this many bytes (and all symlink targets) live in one row instead of in chunks.
pub const INLINE_MAX: usize = 16 * 1024;

/// Longest name of a directory entry, bytes.
pub const NAME_MAX: usize = 255;

/// Longest symlink target, bytes.
pub const TARGET_MAX: usize = 4095;

/// Largest size of a file, bytes.
pub const MAX_FILE_SIZE: u64 = 16 << 40;

/// Largest revision, and largest number of a node. Some room above is left to whoever counts.
pub const NUMBER_MAX: u64 = 1 << 62;

/// One component of a path, as bytes: 1 to 255 of them, no NUL, no slash, neither `.` nor `..`.
pub type Name = Arc<[u8]>;

/// Whether these bytes can be a name.
pub(super) fn is_name(bytes: &[u8]) -> bool {
    let can_be = !matches!(bytes, b"" | b"." | b"..") && bytes.len() <= NAME_MAX;
    can_be && !bytes.iter().any(|byte| matches!(byte, 0 | b'/'))
}

/// What a node is. The values are those of the store's `kind` column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Kind {
    File = 1,
    Dir = 2,
    Symlink = 3,
    Fifo = 4,
    Socket = 5,
    CharDevice = 6,
    BlockDevice = 7,
}

impl Kind {
    /// From the store's column; `None` for a value no version of wsd has written.
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::File,
            2 => Self::Dir,
            3 => Self::Symlink,
            4 => Self::Fifo,
            5 => Self::Socket,
            6 => Self::CharDevice,
            7 => Self::BlockDevice,
            _ => return None,
        })
    }
}

/// A node's attributes as they stand in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InodeRow {
    /// The node's identity.
    pub ino: Ino,
    /// What it is; never changes.
    pub kind: Kind,
    /// The revision of its last change.
    pub revision: Revision,
    /// Permission bits with setuid, setgid and sticky: `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node in the kernel's 32-bit encoding, else 0.
    pub rdev: u32,
    /// Links to it: names of a file; for a directory 2 and one per child directory; 0 for an orphan, which has
    /// no name but was open when this row was written.
    pub nlink: u32,
    /// Bytes of content; of the target for a symlink; 0 for everything else.
    pub size: u64,
    /// Bytes allocated to content: inline bytes, or whole chunks. Never counts holes.
    pub allocated: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of attributes or content.
    pub ctime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
    /// Directory that holds a directory (the root holds itself); 0 for everything else.
    pub parent: Ino,
    /// For a directory: the cookie that its next new entry gets; 0 for everything else.
    pub next_cookie: u64,
    /// Where the content is.
    pub storage: Storage,
    /// Whether the node has any extended attribute.
    pub has_xattrs: bool,
    /// The revision of the last change of its content; 0: older than this is kept.
    pub content_revision: Revision,
}

/// Where a node's content is. The values are those of the store's `storage` column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Storage {
    /// No content row at all: an empty file, all hole, or a node without content.
    Empty = 0,
    /// One row in `content`: a small file or a symlink's target.
    Inline = 1,
    /// Rows in `extent` that point at chunks.
    Chunks = 2,
}

impl Storage {
    /// From the store's column; `None` for a value no version of wsd has written.
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Empty,
            1 => Self::Inline,
            2 => Self::Chunks,
            _ => return None,
        })
    }
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirent {
    /// The name.
    pub name: Name,
    /// The node it leads to.
    pub ino: Ino,
    /// That node's kind, which never changes.
    pub kind: Kind,
    /// Position in listings: unique in its directory, at least [`FIRST_COOKIE`], given in order of creation.
    pub cookie: u64,
}

/// Cookies 1 and 2 are `.` and `..`.
pub const FIRST_COOKIE: u64 = 3;
