//! What the disk has of the WAL, where SQLite's own calls do not settle it.
//!
//! - Without a change there is no frame, and SQLite then waits for nothing, though earlier commits did not wait either.
//! - A disk that failed may be well again. The kernel tells of pages that could not be written once, and takes them for
//!   written from then on: the next `fdatasync` succeeds without them. A WAL ends where it has a hole when it is read after a
//!   loss of power, and what was committed behind that is lost. So after any error of the disk, before anything counts as
//!   durable again, all of the WAL is written over itself (a file that is ahead of its WAL would be damaged by it), then folded
//!   into the file, and cut to nothing.
//!
//! Source: <https://wiki.postgresql.org/wiki/Fsync_Errors>.

use super::Store;
use super::error::{StoreError, StoreResult};
use super::write::Writer;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that are written over themselves at a time.
const PIECE: usize = 1 << 20;

/// Whether the disk may lack a part of the WAL that it was given.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubt(Arc<AtomicBool>);

impl Doubt {
    /// The disk has failed.
    pub(super) fn raise(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Passes a result on; an error of the disk raises the doubt.
    pub(super) fn heed<T>(&self, result: StoreResult<T>) -> StoreResult<T> {
        let failed = match &result {
            Err(StoreError::Sqlite(error)) => {
                error.sqlite_error_code() == Some(rusqlite::ErrorCode::SystemIoFailure)
            }
            Err(StoreError::Disk(_)) => true,
            _ => false,
        };
        if failed {
            self.raise();
        }
        result
    }
}

impl Store {
    /// If the disk may lack a part of the WAL: has it take all that was committed.
    pub(super) fn settle(&self, writer: &mut Writer) -> StoreResult<()> {
        // Lowered first: an error meanwhile raises it again.
        if !self.doubt.0.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let settled = writer.wal.rewrite().and_then(|bytes| {
            // Not enough for ext4, which forgets that it has not noted yet that a block is written if the first try fails.
            // Each descriptor tells of an error once, and this one may not have told yet.
            let fold = || self.fold_once("PRAGMA wal_checkpoint(TRUNCATE)");
            fold().or_else(|_| fold())?;
            if self.wal_bytes() > 0 {
                return Err(StoreError::Busy);
            }
            writer.wal.sync()?;
            Ok(bytes)
        });
        match settled {
            Ok(bytes) => {
                tracing::warn!(bytes, "the disk had failed: what was in the WAL was written to it once more");
                Ok(())
            }
            Err(error) => {
                self.doubt.raise();
                Err(error)
            }
        }
    }
}

/// The WAL as a file. Whoever uses it has the writer, so that nobody writes to it meanwhile.
#[derive(Debug)]
pub(super) struct WalFile {
    /// None of a store in memory.
    path: Option<PathBuf>,
    file: Option<File>,
    doubt: Doubt,
}

impl WalFile {
    pub(super) fn new(path: Option<PathBuf>, doubt: Doubt) -> Self {
        Self { path, file: None, doubt }
    }

    /// Returns when the disk has what was committed.
    pub(super) fn sync(&mut self) -> StoreResult<()> {
        let synced = self.file().and_then(|file| file.map_or(Ok(()), File::sync_data));
        self.doubt.heed(synced.map_err(StoreError::Disk))
    }

    /// Writes all of it once more; how many bytes.
    fn rewrite(&mut self) -> StoreResult<u64> {
        let rewritten = self.file().and_then(|file| file.map_or(Ok(0), rewrite));
        rewritten.map_err(StoreError::Disk)
    }

    fn file(&mut self) -> std::io::Result<Option<&File>> {
        if let (None, Some(path)) = (&self.file, &self.path) {
            match File::options().read(true).write(true).open(path) {
                Ok(file) => self.file = Some(file),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.file.as_ref())
    }
}

/// Writes a file over itself; how many bytes. Readers do not notice.
fn rewrite(file: &File) -> std::io::Result<u64> {
    // What it says is of before.
    let _ = file.sync_data();
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    loop {
        match file.read_at(&mut piece, at)? {
            0 => break,
            length => {
                file.write_all_at(&piece[..length], at)?;
                at += length as u64;
            }
        }
    }
    file.sync_data()?;
    Ok(at)
}
