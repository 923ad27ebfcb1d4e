//! How the kernel is told of what did not come through it.

use crate::store::rows::Ino;

/// Told of changes from elsewhere, after all locks are released; implemented by the mount.
///
/// When a call returns, the next `stat`, `read`, `readdir` or access to an existing mapping sees the change.
pub trait Invalidator: Send + Sync {
    /// Attributes of the node changed, but neither its content nor its size.
    fn attributes(&self, ino: Ino);
    /// Content, size or times of the node changed; `size` is the new size of a file.
    fn content(&self, ino: Ino, size: u64);
    /// The name in this directory means something else now, or nothing, and the directory's attributes moved.
    fn entry(&self, parent: Ino, name: &[u8]);
    /// Brings to wsd what the kernel holds of the file and has not written back yet.
    fn write_back(&self, ino: Ino);
}
