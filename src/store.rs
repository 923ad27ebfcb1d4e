//! The workspace on disk: one SQLite file (skeleton: signatures only).
#![allow(missing_docs, unused_variables, clippy::todo)]

pub mod buf;
pub mod group;
pub mod rows;

use group::{Committed, Group, Xattrs};
use rows::*;
use std::path::PathBuf;

pub enum Location { File(PathBuf), Memory }

#[derive(Debug, thiserror::Error)]
#[error("skeleton")]
pub struct StoreError;

pub struct Store {}

impl Store {
    pub fn open(location: &Location, mount_point: &std::path::Path) -> Result<Store, StoreError> { todo!() }
    /// The only workspace until there can be more.
    pub fn workspace(&self) -> WorkspaceId { todo!() }
    /// Last committed revision and next inode number.
    pub fn disk_free(&self) -> Result<u64, StoreError> { todo!() }
    pub fn usage(&self, ws: WorkspaceId) -> Result<(u64, u64), StoreError> { todo!() }
    pub fn wal_bytes(&self) -> u64 { todo!() }
    pub fn checkpoint(&self, how: Checkpoint) -> Result<(), StoreError> { todo!() }
    pub fn gc_step(&self, budget: usize) -> Result<GcProgress, StoreError> { todo!() }
    pub fn inodes(&self, ws: WorkspaceId, inos: &[Ino]) -> Result<Vec<Option<InodeRow>>, StoreError> { todo!() }
    pub fn position(&self, ws: WorkspaceId) -> Result<(Revision, Ino), StoreError> { todo!() }
    pub fn inode(&self, ws: WorkspaceId, ino: Ino) -> Result<Option<InodeRow>, StoreError> { todo!() }
    pub fn dirents(&self, ws: WorkspaceId, parent: Ino) -> Result<Vec<Dirent>, StoreError> { todo!() }
    /// Names of a node: (parent, name).
    pub fn names_of(&self, ws: WorkspaceId, ino: Ino) -> Result<Vec<(Ino, Name)>, StoreError> { todo!() }
    pub fn inline(&self, ws: WorkspaceId, ino: Ino) -> Result<Option<Vec<u8>>, StoreError> { todo!() }
    pub fn extents(&self, ws: WorkspaceId, ino: Ino) -> Result<Vec<(u64, ChunkId)>, StoreError> { todo!() }
    /// `None`: no such chunk (any more).
    pub fn chunk(&self, id: ChunkId) -> Result<Option<Vec<u8>>, StoreError> { todo!() }
    pub fn xattrs(&self, ws: WorkspaceId, ino: Ino) -> Result<Xattrs, StoreError> { todo!() }
    /// One transaction. `durable`: on the disk when this returns, with all groups before it.
    pub fn commit(&self, ws: WorkspaceId, group: &Group, durable: bool) -> Result<Committed, StoreError> { todo!() }
}

pub enum Checkpoint { Passive, Truncate }
pub struct GcProgress { pub done: bool }
impl From<StoreError> for crate::error::FsError { fn from(e: StoreError) -> Self { todo!() } }
