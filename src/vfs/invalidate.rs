//! How the kernel is told of what did not come through it, and asked for what it has.

use crate::clock::Timestamp;
use crate::store::rows::Ino;

/// Told of changes from elsewhere, after all locks are released; implemented by the mount.
///
/// When a call returns, the next `stat`, `read`, `readdir` or access to an existing mapping sees the change.
pub trait Invalidator: Send + Sync {
    /// Attributes of the node changed, but neither its content nor its size nor the time of modification.
    fn attributes(&self, ino: Ino);
    /// The time of modification changed, and maybe other attributes, but neither content nor size.
    fn times(&self, ino: Ino);
    /// A write took setuid or setgid from the node, or more is allocated to it. The kernel may be the one who wrote, and its
    /// threads may say this: it only forgets the attributes.
    fn forget_attributes(&self, ino: Ino);
    /// Bytes of the file were written: it may be longer, and is no shorter.
    fn written(&self, ino: Ino);
    /// The file has other content, and the size of that.
    fn content(&self, ino: Ino);
    /// The name in this directory means something else now, or nothing, and the directory's attributes moved.
    fn entry(&self, parent: Ino, name: &[u8]);
    /// The directory has another name, of which the kernel was told: who is in it goes on from there.
    fn moved(&self, dir: Ino);
    /// What the kernel keeps of the directory's names is not all of them. Said by who answers the kernel.
    fn listing(&self, dir: Ino);
    /// Brings to wsd what the kernel holds of the file and has not written back yet, before a change of the file: the
    /// kernel forgets its bytes.
    fn write_back(&self, ino: Ino);
    /// Brings to wsd what the kernel holds of the file, which keeps it.
    fn flush(&self, ino: Ino);
    /// Brings to wsd what the kernel holds of all files, which it keeps. Waits, and must not be called by whoever answers the
    /// kernel.
    fn flush_all(&self);
    /// What the kernel says of a regular file; `None` when it cannot be asked.
    fn seen(&self, ino: Ino) -> Option<Seen>;
}

/// What the kernel says of a regular file while it may hold bytes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in stat(2)")]
pub struct Seen {
    pub size: u64,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
}
