//! The virtual filesystem (skeleton: signatures only).
#![allow(missing_docs, unused_variables, clippy::todo)]

pub mod invalidate;
pub mod types;

use crate::error::FsResult;
use crate::store::rows::{Ino, Name};
pub use invalidate::Invalidator;
use std::sync::Arc;
pub use types::*;

pub struct Vfs {}

/// Sizes and limits.
pub struct Options {
    /// Bound on cached and dirty data, bytes.
    pub cache_bytes: u64,
    /// Quota of the workspace, bytes.
    pub max_bytes: Option<u64>,
}

impl Vfs {
    pub fn open(store: Arc<crate::store::Store>, options: Options) -> FsResult<Arc<Vfs>> { todo!() }
    /// From then on the kernel is told; there is at most one.
    pub fn set_invalidator(&self, invalidator: Arc<dyn Invalidator>) { todo!() }
    pub fn lookup(&self, caller: Caller, parent: Ino, name: &[u8]) -> FsResult<Attr> { todo!() }
    /// The kernel dropped `count` of its pins on the node.
    pub fn forget(&self, ino: Ino, count: u64) { todo!() }
    pub fn getattr(&self, ino: Ino) -> FsResult<Attr> { todo!() }
    pub fn setattr(&self, caller: Caller, ino: Ino, set: &SetAttr) -> FsResult<Attr> { todo!() }
    pub fn readlink(&self, ino: Ino) -> FsResult<Vec<u8>> { todo!() }
    /// Files, directories, fifos, sockets, device nodes.
    pub fn create(&self, caller: Caller, parent: Ino, name: &[u8], new: NewNode) -> FsResult<Attr> { todo!() }
    pub fn tmpfile(&self, caller: Caller, parent: Ino, new: NewNode) -> FsResult<Attr> { todo!() }
    pub fn symlink(&self, caller: Caller, parent: Ino, name: &[u8], target: &[u8]) -> FsResult<Attr> { todo!() }
    pub fn link(&self, caller: Caller, ino: Ino, parent: Ino, name: &[u8]) -> FsResult<Attr> { todo!() }
    pub fn unlink(&self, caller: Caller, parent: Ino, name: &[u8]) -> FsResult<()> { todo!() }
    pub fn rmdir(&self, caller: Caller, parent: Ino, name: &[u8]) -> FsResult<()> { todo!() }
    pub fn rename(&self, caller: Caller, from: (Ino, &[u8]), to: (Ino, &[u8]), mode: RenameMode) -> FsResult<()> { todo!() }
    /// Calls `each` with the entries after `cookie` (0: from the start, `.` and `..` first) until it returns false.
    pub fn readdir(&self, parent: Ino, cookie: u64, each: &mut dyn FnMut(&DirEntry) -> bool) -> FsResult<()> { todo!() }
    /// Like `readdir`, with attributes. An accepted entry (`true`) other than `.` and `..` is pinned for the kernel.
    pub fn readdir_plus(&self, caller: Caller, parent: Ino, cookie: u64, each: &mut dyn FnMut(&DirEntry, &Attr) -> bool) -> FsResult<()> { todo!() }
    /// At most `size` bytes; fewer only at the end of the file.
    pub fn read(&self, ino: Ino, offset: u64, size: usize) -> FsResult<Vec<u8>> { todo!() }
    /// All of it or an error. `drop_privileges`: clear setuid and setgid as a write by an unprivileged process does.
    pub fn write(&self, caller: Caller, ino: Ino, offset: u64, data: &[u8], drop_privileges: bool) -> FsResult<()> { todo!() }
    pub fn fallocate(&self, caller: Caller, ino: Ino, what: Fallocate, offset: u64, len: u64) -> FsResult<()> { todo!() }
    pub fn seek(&self, ino: Ino, offset: u64, what: Seek) -> FsResult<u64> { todo!() }
    /// Bytes copied: `len`, or fewer at the end of the source.
    pub fn copy_range(&self, caller: Caller, from: (Ino, u64), to: (Ino, u64), len: u64) -> FsResult<u64> { todo!() }
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> FsResult<Vec<u8>> { todo!() }
    pub fn setxattr(&self, caller: Caller, ino: Ino, name: &[u8], value: &[u8], how: SetXattr) -> FsResult<()> { todo!() }
    pub fn listxattr(&self, ino: Ino) -> FsResult<Vec<Vec<u8>>> { todo!() }
    pub fn removexattr(&self, caller: Caller, ino: Ino, name: &[u8]) -> FsResult<()> { todo!() }
    pub fn statfs(&self) -> FsResult<StatFs> { todo!() }
    /// Returns when everything up to now is on disk durably.
    pub fn sync(&self) -> FsResult<()> { todo!() }
    /// Bytes of dirty content that writers have to wait for.
    pub fn dirty_bytes(&self) -> u64 { todo!() }
    /// Commits everything and stops the background work. Later calls fail with `ShuttingDown`.
    pub fn shutdown(&self) -> FsResult<()> { todo!() }
    /// The path of a node from the root, without a leading slash; `None` for an orphan.
    pub fn path_of(&self, ino: Ino) -> FsResult<Option<Vec<u8>>> { todo!() }
    /// The node at a path of names; symlinks are not followed.
    pub fn resolve(&self, path: &[u8]) -> FsResult<Attr> { todo!() }
    pub fn stats(&self) -> Stats { todo!() }
    #[doc(hidden)]
    pub fn names(&self) -> Vec<Name> { vec![] }
}

/// Counters and gauges of a running filesystem.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub revision: u64,
    pub committed_revision: u64,
    pub durable_revision: u64,
    pub dirty_bytes: u64,
    pub cached_nodes: u64,
    pub pinned_nodes: u64,
    pub orphans: u64,
    pub logical_bytes: u64,
}
