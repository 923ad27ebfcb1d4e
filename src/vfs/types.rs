//! What callers of the filesystem say and are told.

use crate::clock::Timestamp;
use crate::store::rows::{Ino, InodeRow, Kind, Name, Revision};

/// On whose behalf an operation is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Owner of what the operation creates.
    pub uid: u32,
    /// Group of what the operation creates, unless the directory's setgid bit says otherwise.
    pub gid: u32,
    /// Where the operation came from.
    pub origin: Origin,
    /// Whose it is.
    pub by: Author,
    /// The process or thread that asks, by which its further groups are known; 0 if there is none.
    pub process: u32,
}

/// Whose a change is, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// Of a program that nothing names: pages that the kernel writes back carry no process, and neither does what a
    /// directory without FUSE brings in.
    Unknown,
    /// Of a caller from outside, or of the daemon itself.
    Direct,
    /// Of a program that belongs to no command.
    Program,
    /// Of a command, by the number of its first process.
    Command(u32),
}

/// Where an operation came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Through the mount. The kernel has checked permissions and keeps its own caches right; every node it is
    /// told about by `lookup`, `create` and the like is pinned once for it, until [`forget`](super::Vfs::forget).
    Kernel,
    /// From anywhere else. The kernel is told through the [`Invalidator`](super::Invalidator).
    Direct,
}

impl Caller {
    /// The daemon itself, as root.
    pub const DAEMON: Self = Self { uid: 0, gid: 0, origin: Origin::Direct, by: Author::Direct, process: 0 };
}

/// A node's attributes, as `stat(2)` has them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in stat(2) and InodeRow")]
pub struct Attr {
    pub ino: Ino,
    pub kind: Kind,
    pub revision: Revision,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub size: u64,
    /// Allocated bytes, in units of 512.
    pub blocks: u64,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub btime: Timestamp,
}

impl Attr {
    /// Blocks of 512 bytes, of so many bytes allocated.
    pub(super) fn blocks_of(allocated: u64) -> u64 {
        allocated.div_ceil(512)
    }
}

impl From<&InodeRow> for Attr {
    fn from(row: &InodeRow) -> Self {
        Self {
            ino: row.ino,
            kind: row.kind,
            revision: row.revision,
            mode: row.mode,
            nlink: row.nlink,
            uid: row.uid,
            gid: row.gid,
            rdev: row.rdev,
            size: row.size,
            blocks: Self::blocks_of(row.allocated),
            atime: row.atime,
            mtime: row.mtime,
            ctime: row.ctime,
            btime: row.btime,
        }
    }
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "as in Attr")]
pub struct SetAttr {
    /// Permission bits; type bits are ignored.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    pub ctime: Option<Timestamp>,
    /// Whether a new size takes setuid and setgid away; `None`: unless root sets it.
    pub unprivileged: Option<bool>,
}

/// A time to set.
#[derive(Clone, Copy, Debug)]
pub enum SetTime {
    /// The time of the operation.
    Now,
    /// This time.
    At(Timestamp),
}

/// What to create.
#[derive(Clone, Copy, Debug)]
pub struct NewNode {
    /// `File`, `Dir`, `Fifo`, `Socket`, `CharDevice` or `BlockDevice`.
    pub kind: Kind,
    /// Permission bits before the umask; type bits are ignored.
    pub mode: u32,
    /// The caller's umask; not applied where the directory has a default ACL.
    pub umask: u32,
    /// Device number of a device node.
    pub rdev: u32,
}

/// What a rename does with a name that exists already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces it.
    Replace,
    /// Fails with `EEXIST`.
    NoReplace,
    /// Exchanges the two; both must exist.
    Exchange,
    /// Replaces it, or with `replace` false fails with `EEXIST`, and leaves a whiteout at the old name: a character device 0:0, by
    /// which a union of filesystems knows that the name is gone.
    Whiteout {
        /// As [`RenameMode::Replace`] does.
        replace: bool,
    },
}

/// What `fallocate(2)` does with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallocate {
    /// Makes sure the file is at least as long; the range reads as before.
    Allocate,
    /// Like `Allocate`, but leaves the size.
    AllocateKeepSize,
    /// Makes the range a hole; leaves the size.
    PunchHole,
    /// Makes the range zeros, and the file at least as long.
    ZeroRange,
    /// Makes the range zeros; leaves the size.
    ZeroRangeKeepSize,
}

/// What `lseek(2)` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next data at or after the offset.
    Data,
    /// The next hole at or after the offset; the end of the file counts as one.
    Hole,
}

/// Whether an extended attribute may or must exist already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetXattr {
    /// Either.
    Any,
    /// Must not (`XATTR_CREATE`, `EEXIST`).
    Create,
    /// Must (`XATTR_REPLACE`, `ENODATA`).
    Replace,
}

/// One entry of a listing.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// `.` and `..` included.
    pub name: Name,
    /// The node.
    pub ino: Ino,
    /// Its kind.
    pub kind: Kind,
    /// Where the listing resumes after this entry.
    pub cookie: u64,
}

/// What `statvfs(3)` shows. Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct StatFs {
    /// Size of the workspace: its quota, or what it uses and the store's disk has free.
    pub total: u64,
    /// What can still be written.
    pub free: u64,
    /// Nodes in the workspace.
    pub nodes: u64,
}
