//! The virtual filesystem: a POSIX tree in memory, with the store behind it.
//!
//! Programs expect an operation to take microseconds and its result to be seen at once by everybody; a
//! transaction on disk takes a hundred times as long. So operations change nodes in memory, which all callers
//! share, and the journal writes what changed in groups. Memory is a cache over the store: what is clean may go.
//!
//! - [`types`], `names`: what callers say.
//! - `node`, `content`, `table`: the state: a node, a file's bytes, all nodes in memory and who holds them.
//! - `journal`: operations, cuts, groups. `space`: totals and the quota. `upkeep`: the threads behind it.
//! - `feed`: what changed, in order. `place`: from a node back to its names.
//! - `lookup create remove rename setattr readdir io range xattr acl`: the verbs, a family a file. `privileges`: what a
//!   change takes from a program.
//! - `replace`: other content for a file, all at once. [`graft`]: many nodes at once.
//! - `invalidate`, `kernel`, `shown`: how the kernel is told of what did not come through it, and asked for what did.

mod acl;
mod content;
mod create;
mod disk;
mod feed;
mod folding;
pub mod graft;
mod invalidate;
mod io;
mod journal;
mod kernel;
mod lookup;
mod names;
mod node;
mod place;
mod privileges;
mod range;
mod readdir;
mod remove;
mod rename;
mod replace;
mod setattr;
mod shown;
mod space;
mod table;
#[cfg(test)]
mod tests;
pub mod types;
mod upkeep;
mod xattr;

use crate::error::{FsError, FsResult};
use crate::store::Store;
use crate::store::buf::{Buf, Gauge};
use crate::store::rows::{ChunkId, WorkspaceId};
use disk::Disk;
use feed::Feed;
use folding::Folding;
use journal::Journal;
use parking_lot::{Mutex, RwLock};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use shown::Shown;
use space::Space;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use table::NodeTable;
use upkeep::{Bell, Memory, Upkeep};

pub use crate::store::rows::MAX_FILE_SIZE;
pub use feed::{Change, ChangeKind, Changes};
pub use invalidate::{Invalidator, Seen};
pub use types::*;

/// Room for chunks that is kept beside those that are kept for the next reader, bytes.
const CACHED_SPARE: u64 = 4 << 20;

/// Sizes and limits.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bound on cached and dirty data, bytes.
    pub cache_bytes: u64,
    /// Quota of the workspace, bytes.
    pub max_bytes: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 256 << 20, max_bytes: None }
    }
}

/// One workspace, live.
pub struct Vfs {
    store: Arc<Store>,
    workspace: WorkspaceId,
    nodes: NodeTable,
    journal: Journal,
    feed: Feed,
    space: Space,
    disk: Disk,
    folding: Folding,
    shown: Shown,
    memory: Memory,
    upkeep: Mutex<Upkeep>,
    bell: Bell,
    /// Counts the bytes that are in memory because they are not on disk.
    gauge: Gauge,
    /// Counts the bytes that are in memory for the next reader.
    cached: Gauge,
    /// Bytes of content that were asked for and given, since the start.
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    chunks: Cache<ChunkId, Arc<Buf>, ByLength>,
    /// Bytes of content, nodes and names that may be in memory.
    budget: u64,
    /// Held by a rename between directories.
    moves: Mutex<()>,
    invalidator: RwLock<Option<Arc<dyn Invalidator>>>,
    authors: OnceLock<Authors>,
}

/// Says whose a process is.
type Authors = Box<dyn Fn(u32) -> Author + Send + Sync>;

#[derive(Clone, Copy, Debug)]
struct ByLength;

impl Weighter<ChunkId, Arc<Buf>> for ByLength {
    fn weight(&self, _: &ChunkId, buf: &Arc<Buf>) -> u64 {
        buf.len().max(1) as u64
    }
}

/// Counters and gauges of a running filesystem.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// The last change.
    pub revision: u64,
    /// The last change in the store.
    pub committed_revision: u64,
    /// The last change known to be on the disk.
    pub durable_revision: u64,
    /// Bytes of content and attributes that are not in the store yet.
    pub dirty_bytes: u64,
    /// Bytes of content cached for reading.
    pub cached_bytes: u64,
    /// Nodes in memory.
    pub cached_nodes: u64,
    /// Nodes that the kernel knows.
    pub pinned_nodes: u64,
    /// Bytes allocated in the workspace, its attributes included.
    pub allocated_bytes: u64,
    /// Bytes that were read since the start; what the kernel had cached is not among them.
    pub bytes_read: u64,
    /// Bytes that were written since the start.
    pub bytes_written: u64,
}

impl Vfs {
    /// Opens the store's workspace and starts writing behind it.
    pub fn open(store: Arc<Store>, options: Options) -> FsResult<Arc<Self>> {
        let workspace = store.workspace();
        let (revision, next_ino) = store.position(workspace)?;
        let (nodes, allocated) = store.usage(workspace)?;
        let allocated = allocated + store.attribute_bytes(workspace)?;
        let quarter = options.cache_bytes / 4;
        let vfs = Arc::new(Self {
            store,
            workspace,
            nodes: NodeTable::new(),
            journal: Journal::new(revision, next_ino),
            feed: Feed::new(revision),
            space: Space::new(allocated, nodes, options.max_bytes),
            disk: Disk::new(),
            folding: Folding::new(),
            shown: Shown::default(),
            memory: Memory::new(quarter as usize),
            upkeep: Mutex::default(),
            bell: Bell::default(),
            gauge: Gauge::keeping(quarter * 2),
            cached: Gauge::keeping(quarter + CACHED_SPARE),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            chunks: Cache::with_weighter((quarter / 65_536).max(16) as usize, quarter, ByLength),
            budget: options.cache_bytes,
            moves: Mutex::new(()),
            invalidator: RwLock::new(None),
            authors: OnceLock::new(),
        });
        // Before anything is accepted that there may be no room for.
        vfs.look_at_disk();
        vfs.start_upkeep()?;
        Ok(vfs)
    }

    /// Bound on cached and dirty data, bytes.
    pub fn cache_bytes(&self) -> u64 {
        self.budget
    }

    /// From now on the kernel is told of what does not come through it; `None`: no longer.
    pub fn set_invalidator(&self, invalidator: Option<Arc<dyn Invalidator>>) {
        *self.invalidator.write() = invalidator;
    }

    /// From now on `authors` says whose a process or thread is that the mount names. Holds up who asks, and must not wait
    /// for what a program does in the mount.
    pub fn set_authors(&self, authors: impl Fn(u32) -> Author + Send + Sync + 'static) {
        let _ = self.authors.set(Box::new(authors));
    }

    /// Whose a process or thread is.
    pub fn author(&self, process: u32) -> Author {
        self.authors.get().map_or(Author::Program, |authors| authors(process))
    }

    /// Tells the kernel, unless the change came from it. Called with no lock held.
    fn tell(&self, caller: Caller, what: impl FnOnce(&dyn Invalidator)) {
        if caller.origin == Origin::Kernel {
            return;
        }
        if let Some(invalidator) = self.invalidator() {
            what(&*invalidator);
        }
    }

    fn invalidator(&self) -> Option<Arc<dyn Invalidator>> {
        self.invalidator.read().clone()
    }

    /// Returns when everything up to now is in the store, though a loss of power may still take it.
    pub fn commit_now(&self) -> FsResult<()> {
        self.commit(false)
    }

    /// Returns when everything up to now is on the disk.
    pub fn sync(&self) -> FsResult<()> {
        self.commit(true)
    }

    /// Why nothing can be added at present: the store could not take what was written last, or its disk has no more room.
    pub fn failure(&self) -> Option<FsError> {
        self.journal.failure().or_else(|| self.disk.is_full().then_some(FsError::NoSpace))
    }

    /// What there is to see.
    pub fn stats(&self) -> Stats {
        Stats {
            revision: self.journal.revision(),
            committed_revision: self.journal.committed(),
            durable_revision: self.journal.durable(),
            dirty_bytes: self.gauge.bytes(),
            cached_bytes: self.cached.bytes(),
            cached_nodes: self.nodes.len() as u64,
            pinned_nodes: self.nodes.pinned() as u64,
            allocated_bytes: self.space.allocated(),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
        }
    }
}
