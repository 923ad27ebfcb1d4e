//! The workspace on disk: one SQLite file and its WAL.
//!
//! A store holds workspaces and the content they share. Rows of a workspace are keyed so that a snapshot costs
//! one row (see `migrations/0001_init.sql`); content is cut into chunks that are addressed by their BLAKE3 hash.
//!
//! - `open`: what may be opened, and how. [`error`]: why not. [`fault`]: where tests let the disk fail.
//! - [`rows`], [`group`], [`buf`]: the nouns: rows, a group of changes, bytes in memory.
//! - `write`, `chunks`: a group becomes a transaction. `ahead`: the bytes of a large one come first. `wal`: how SQLite writes
//!   that. `durable`: what the disk has of it. `frames`: what is in a WAL.
//! - `read`, `usage`: rows as they are now. [`snapshot`]: rows of one moment.
//! - [`execs`], [`sync`], [`replicas`]: what commands said; what sync remembers, of itself and of others.
//! - `passed`: pages of it that the kernel will need, or need not keep.
//! - [`gc`]: space is given back. [`check`]: what must be true of every store.

mod ahead;
pub mod blocks;
pub mod buf;
pub mod check;
mod chunks;
pub mod contents;
mod durable;
pub mod error;
pub mod execs;
pub mod fault;
mod frames;
pub mod gc;
pub mod group;
mod open;
mod passed;
mod read;
pub mod replicas;
pub mod rows;
pub mod snapshot;
pub mod sync;
#[cfg(test)]
mod tests;
mod usage;
mod wal;
mod write;

use ahead::Flusher;
use durable::{Doubt, Files};
use error::{StoreError, StoreResult};
use fault::{Faults, Point};
use parking_lot::Mutex;
use passed::Passing;
use rows::{NUMBER_MAX, WorkspaceId};
use rusqlite::Connection;
use serde::Serialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use write::Writer;

pub use gc::GcProgress;

/// The only workspace, until there can be several.
const WORKSPACE: WorkspaceId = 1;

/// How long a fold waits for readers before it leaves the rest in the WAL.
const READERS: Duration = Duration::from_millis(500);

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// In this file, and beside it its WAL and its lock.
    File(PathBuf),
    /// Nowhere: it ends with the daemon.
    Memory,
}

impl Location {
    /// The file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Memory => None,
        }
    }

    /// The WAL of that file.
    fn wal(&self) -> Option<PathBuf> {
        self.path().map(|path| open::beside(path, "-wal"))
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Memory => f.write_str("memory"),
        }
    }
}

/// An open store. One daemon has it; its threads share it: one writes at a time, any number read.
#[derive(Debug)]
pub struct Store {
    location: Location,
    writer: Mutex<Writer>,
    /// Connections that nobody reads with at the moment.
    readers: Mutex<Vec<Connection>>,
    /// Folds the WAL, so that no commit has to.
    folder: Mutex<Option<Connection>>,
    /// The next new chunk's number.
    next_chunk: AtomicI64,
    /// Small groups since the WAL was folded, or a large one was written, that were on the disk when they were committed.
    small_commits: AtomicU64,
    gc: Mutex<gc::Agenda>,
    /// Files whose objects are being noted a few at a time, and the latest time of each.
    passes: Mutex<HashMap<rows::Ino, contents::Pass>>,
    next_pass: AtomicU64,
    /// Of a store that is in a file.
    passing: Option<Arc<Passing>>,
    /// Whether the disk may lack a part of the WAL, or of what it was folded into.
    doubt: Doubt,
    /// Where tests let the disk fail.
    pub faults: Faults,
    /// Of a store that is in a file. After the connections.
    files: Option<Arc<Files>>,
    lock: Option<open::Lock>,
}

/// Room on the disk of the store, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    /// Free on the disk.
    pub free: u64,
    /// Of the disk.
    pub total: u64,
    /// By which the store's file grows when the WAL is folded.
    pub unfolded: u64,
    /// Of pages of the store that nothing is on.
    pub unused: u64,
}

/// How the WAL is folded into the store's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// As far as readers allow, without anybody waiting.
    Passive,
    /// Wholly, and the WAL is cut to nothing.
    Truncate,
}

/// What folding the WAL did.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointReport {
    /// Pages that were in the WAL.
    pub wal_frames: i64,
    /// Bytes of the store's file afterwards.
    pub size_bytes: u64,
    /// Milliseconds it took.
    pub duration_ms: u64,
}

impl Store {
    /// Opens a store, and makes it if there is none. A store inside the mount point is refused, and so is what
    /// is not a store, was written by a newer wsd, or is in use; nothing of those is touched.
    pub fn open(location: &Location, mount_point: &Path) -> StoreResult<Self> {
        let open = || {
            let store = Self::open_at(location, Some(mount_point))?;
            store.check_root(WORKSPACE)?;
            store.remove_orphans(WORKSPACE)?;
            sync::begin_life(&mut store.writer.lock().connection, WORKSPACE)?;
            store.keep_room();
            Ok(store)
        };
        open().map_err(|error: StoreError| error.on_opening(location.path(), free_for(location.path())))
    }

    /// Opens a store that is there already, for work on it without a mount.
    pub fn open_existing(path: &Path) -> StoreResult<Self> {
        let found =
            path.metadata().map_err(|source| StoreError::Open { path: path.to_path_buf(), source })?;
        // One would be made in it.
        if found.is_file() && found.len() == 0 {
            return Err(StoreError::NotAStore(path.to_path_buf()));
        }
        let opened = Self::open_at(&Location::File(path.to_path_buf()), None);
        opened.map_err(|error| error.on_opening(Some(path), free_for(Some(path))))
    }

    fn open_at(location: &Location, mount_point: Option<&Path>) -> StoreResult<Self> {
        let path = location.path();
        if let Some(path) = path {
            open::check_path(path, mount_point)?;
        }
        // SQLite follows a symlink and has the WAL beside what it leads to. So does the lock, whatever the store is called by.
        let location = match path {
            Some(path) => Location::File(open::real(path)),
            None => Location::Memory,
        };
        let path = location.path();
        let lock = path.map(open::lock).transpose()?;
        let doubt = Doubt::default();
        if location.wal().is_some_and(|wal| wal.metadata().is_ok_and(|wal| wal.len() > 0)) {
            doubt.raise();
        }
        let mut connection = open::writer(path)?;
        open::found_workspace(&mut connection)?;
        let last_chunk: i64 =
            connection.query_row("SELECT coalesce(max(id), 0) FROM chunk", [], |row| row.get(0))?;
        if last_chunk.unsigned_abs() > NUMBER_MAX {
            return Err(StoreError::Corrupt(format!("chunk {last_chunk}: no number is left after it")));
        }
        let folder = path.map(open::folder).transpose()?;
        let flusher = Flusher::new(location.wal(), doubt.clone());
        let files = path.zip(location.wal()).map(|(path, wal)| Arc::new(Files::new(path.to_path_buf(), wal)));
        Ok(Self {
            writer: Mutex::new(Writer::new(connection, flusher)),
            location,
            readers: Mutex::default(),
            folder: Mutex::new(folder),
            next_chunk: AtomicI64::new(last_chunk + 1),
            small_commits: AtomicU64::new(0),
            gc: Mutex::default(),
            passes: Mutex::default(),
            next_pass: AtomicU64::new(0),
            passing: files.as_ref().map(|files| Arc::new(Passing::new(Arc::clone(files), doubt.clone()))),
            doubt,
            faults: Faults::default(),
            files,
            lock,
        })
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The workspace that is mounted.
    pub fn workspace(&self) -> WorkspaceId {
        WORKSPACE
    }

    /// Reads with a connection of its own, so that readers don't wait for each other or for the writer.
    fn with_reader<T>(&self, read: impl FnOnce(&Connection) -> StoreResult<T>) -> StoreResult<T> {
        let Some(path) = self.location.path() else {
            return read(&self.writer.lock().connection);
        };
        let _reading = self.files.as_deref().map(Files::reading);
        let idle = self.readers.lock().pop();
        let connection = idle.map_or_else(|| open::reader(path), Ok)?;
        let result = read(&connection);
        self.readers.lock().push(connection);
        result.map_err(|error| error.of(Some(path)))
    }

    /// Room on the disk that the store is on; for a store in memory, in memory.
    pub fn room(&self) -> StoreResult<Room> {
        let Some(path) = self.location.path() else {
            let memory = rustix::system::sysinfo();
            return Ok(Room { free: memory.freeram, total: memory.totalram, ..Room::default() });
        };
        let (free, total) = disk(path)?;
        let (pages, unused) = self.with_reader(|reader| {
            let ask = |pragma| reader.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
            Ok((ask("page_count")?.max(0) as u64, ask("freelist_count")?.max(0) as u64))
        })?;
        Ok(Room {
            free,
            total,
            unfolded: (pages * u64::from(open::PAGE_SIZE)).saturating_sub(self.file_bytes()),
            unused: unused * u64::from(open::PAGE_SIZE),
        })
    }

    /// Bytes that are certainly free on the disk when the WAL has been folded; what [`Store::room`] says exactly, but dearly.
    pub fn disk_free_at_least(&self) -> StoreResult<u64> {
        match self.location.path() {
            Some(path) => Ok(disk(path)?.0.saturating_sub(self.wal_bytes())),
            None => Ok(u64::MAX),
        }
    }

    /// Has the disk keep room for the next start, and for removing what is in the store, if it has plenty.
    pub fn keep_room(&self) {
        self.lock.iter().for_each(open::Lock::keep_room);
    }

    /// Gives that room up.
    pub fn give_room(&self) {
        self.lock.iter().for_each(open::Lock::give_room);
    }

    /// Bytes of the store's file.
    pub fn file_bytes(&self) -> u64 {
        self.location.path().map_or(0, size)
    }

    /// Bytes of the WAL's file.
    pub fn wal_bytes(&self) -> u64 {
        self.location.wal().map_or(0, |wal| size(&wal))
    }

    /// How many groups one after the other, since the WAL was folded, were small and had to be on the disk at once.
    pub fn small_commits(&self) -> u64 {
        self.small_commits.load(Ordering::Relaxed)
    }

    /// Folds the WAL into the store's file.
    pub fn checkpoint(&self, how: Checkpoint) -> StoreResult<CheckpointReport> {
        let begin = Instant::now();
        self.small_commits.store(0, Ordering::Relaxed);
        self.faults.pass(Point::Checkpoint)?;
        let wal_frames = if self.doubt.is_of_file() { self.fold_surely(how)? } else { self.fold(how)? };
        let duration_ms = begin.elapsed().as_millis() as u64;
        Ok(CheckpointReport { wal_frames, size_bytes: self.file_bytes(), duration_ms })
    }

    /// Frames that were in the WAL.
    fn fold(&self, how: Checkpoint) -> StoreResult<i64> {
        let fold = |sql| self.doubt.heed(self.fold_once(sql));
        // What is folded must be counted first: afterwards there is nothing left to count.
        let wal_frames = fold("PRAGMA wal_checkpoint(PASSIVE)")?;
        if how == Checkpoint::Passive {
            return Ok(wal_frames);
        }
        // What was written meanwhile, so that little is left to do with the writer held up. SQLite alone would let it fail.
        fold("PRAGMA wal_checkpoint(PASSIVE)")?;
        let _no_writer = self.writer.lock();
        Ok(wal_frames.max(fold("PRAGMA wal_checkpoint(TRUNCATE)")?))
    }

    fn fold_once(&self, sql: &str) -> StoreResult<i64> {
        let folder = self.folder.lock();
        let Some(folder) = &*folder else { return Ok(0) };
        let frames = folder.query_row(sql, [], |row| row.get::<_, i64>(1))?;
        Ok(frames.max(0))
    }
}

/// Bytes of a file that may be there. Asked for alone: a file whose times somebody has seen is given a new one with the next write, and
/// `fdatasync` then may have to write that too. See `docs/decisions/0015-wal-again.md`.
fn size(path: &Path) -> u64 {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    match statx(CWD, path, AtFlags::empty(), StatxFlags::SIZE) {
        Ok(is) => is.stx_size,
        // Kernels and sandboxes without that call.
        Err(_) => path.metadata().map_or(0, |is| is.len()),
    }
}

/// Bytes free on the disk of a store; of one that is nowhere, as many as it likes.
fn free_for(path: Option<&Path>) -> u64 {
    path.and_then(|path| disk(path).ok()).map_or(u64::MAX, |(free, _)| free)
}

/// Bytes free and altogether on the disk that a file is on.
fn disk(path: &Path) -> StoreResult<(u64, u64)> {
    let stat = rustix::fs::statvfs(path).map_err(std::io::Error::from)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}
