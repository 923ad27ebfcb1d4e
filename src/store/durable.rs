//! What the disk has of the store, where SQLite's own calls do not settle it.
//!
//! - Without a change there is no frame, and SQLite then waits for nothing, though earlier commits did not wait either.
//! - A disk that failed may be well again. The kernel tells of pages that could not be written once, and takes them for
//!   written from then on: the next `fdatasync` succeeds without them, and the kernel forgets them when it needs their memory. A
//!   WAL ends where it has a hole when it is read after a loss of power; and one that has got a hole is folded as it is, which
//!   damages the file. So after any error of the disk, nothing is committed before all of the WAL has been looked at, written to
//!   the disk again, and read back ([`Store::settle`]); and it is cut only when the same has been done with every page of the
//!   file that is in it ([`Store::fold_surely`]).
//!
//! Who had the store before may have had such an error, and not have lived to mend it. So a WAL that is found is doubted.
//!
//! Source: <https://wiki.postgresql.org/wiki/Fsync_Errors>.

mod files;

use super::error::{StoreError, StoreResult};
use super::write::Writer;
use super::{Checkpoint, Store, wal};
pub(super) use files::{Files, PIECE};
use rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
use rusqlite::{Connection, Row, Transaction, TransactionBehavior};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the disk may lack a part of what it was given.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubt(Arc<Doubts>);

#[derive(Debug, Default)]
struct Doubts {
    /// A part of the WAL.
    wal: AtomicBool,
    /// A part of the file that the WAL was folded into.
    file: AtomicBool,
    /// It does, and the kernel does so too.
    lost: AtomicBool,
}

impl Doubt {
    /// The disk has failed, or may have.
    pub(super) fn raise(&self) {
        self.0.wal.store(true, Ordering::Release);
        self.0.file.store(true, Ordering::Release);
    }

    /// Whether it has, and what it lacks is not known to have been mended.
    pub(super) fn is_raised(&self) -> bool {
        self.0.wal.load(Ordering::Acquire) || self.is_of_file()
    }

    /// Whether the WAL has to be folded [surely](Store::fold_surely).
    pub(super) fn is_of_file(&self) -> bool {
        self.0.file.load(Ordering::Acquire)
    }

    /// Fails if there is no way out but a new start.
    fn check(&self) -> StoreResult<()> {
        if self.0.lost.load(Ordering::Acquire) { Err(StoreError::Lost) } else { Ok(()) }
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

    /// Does away with one doubt. An error, or another one of the disk meanwhile, and it is there again.
    fn settle<T>(&self, one: &AtomicBool, settle: impl FnOnce() -> StoreResult<T>) -> StoreResult<T> {
        // Lowered first: an error meanwhile raises it again.
        one.store(false, Ordering::Release);
        let settled = settle();
        if let Err(error) = &settled {
            if matches!(error, StoreError::Lost) && !self.0.lost.swap(true, Ordering::AcqRel) {
                tracing::error!(%error, "the store takes nothing any more");
            }
            self.raise();
        }
        settled
    }
}

impl Store {
    /// Returns when the disk has what was committed.
    pub(super) fn sync_wal(&self) -> StoreResult<()> {
        let synced = self.files.as_deref().map_or(Ok(()), Files::sync_wal);
        self.doubt.heed(synced.map_err(StoreError::Disk))
    }

    /// If the disk may lack a part of the WAL: has it take all that was committed.
    pub(super) fn settle(&self, writer: &mut Writer) -> StoreResult<()> {
        self.doubt.check()?;
        let doubt = &self.doubt.0.wal;
        let (true, Some(files)) = (doubt.load(Ordering::Acquire), &self.files) else { return Ok(()) };
        self.doubt.settle(doubt, || {
            let alone = writer.alone()?;
            let (frames, _) = self.frames()?;
            let bytes = files.write_wal_again(frames)?;
            wal::tell(&alone);
            tracing::info!(bytes, "all that is in the WAL was written to the disk once more");
            Ok(())
        })
    }

    /// Folds the WAL into the file, and sees to it that the disk has every page of it before the WAL is cut.
    pub(super) fn fold_surely(&self, how: Checkpoint) -> StoreResult<i64> {
        self.settle(&mut self.writer.lock())?;
        // Beside the writer, so that it is held up for less. If it fails, so does what follows.
        let _ = self.fold_once("PRAGMA wal_checkpoint(PASSIVE)");
        let mut writer = self.writer.lock();
        self.settle(&mut writer)?;
        let Some(files) = &self.files else { return Ok(0) };
        self.doubt.settle(&self.doubt.0.file, || {
            // Each descriptor tells of an error once, and SQLite's may not have told yet.
            let fold = || self.fold_once("PRAGMA wal_checkpoint(FULL)");
            fold().or_else(|_| fold())?;
            let alone = writer.alone()?;
            let (frames, folded) = self.frames()?;
            if folded < frames {
                return Err(StoreError::Busy);
            }
            let pages = files.mend_file(frames)?;
            drop(alone);
            if how == Checkpoint::Truncate {
                self.fold_once("PRAGMA wal_checkpoint(TRUNCATE)")?;
            }
            tracing::info!(pages, "the disk has what was in the WAL in the file too");
            Ok(frames as i64)
        })
    }

    /// How many frames are in the WAL, and how many of them have been folded.
    fn frames(&self) -> StoreResult<(u64, u64)> {
        let folder = self.folder.lock();
        let Some(folder) = &*folder else { return Ok((0, 0)) };
        let frames = |at, row: &Row<'_>| row.get::<_, i64>(at).map(|frames| frames.max(0) as u64);
        Ok(folder
            .query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| Ok((frames(1, row)?, frames(2, row)?)))?)
    }
}

impl Writer {
    /// Keeps other programs from writing for as long as this is held.
    fn alone(&mut self) -> StoreResult<Transaction<'_>> {
        let alone = self.connection.transaction_with_behavior(TransactionBehavior::Immediate);
        alone.map_err(|error| match StoreError::from(error) {
            // SQLite has come across the hole before.
            StoreError::Damaged { .. } => StoreError::Lost,
            other => other,
        })
    }
}

impl Drop for Store {
    /// SQLite folds the WAL when its last connection is closed, as it is.
    fn drop(&mut self) {
        if !self.doubt.is_raised() || self.checkpoint(Checkpoint::Truncate).is_ok() {
            return;
        }
        let leave_wal = |connection: &Connection| {
            if let Err(error) = connection.set_db_config(SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
                tracing::error!(%error, "the WAL is folded though the disk has failed");
            }
        };
        leave_wal(&self.writer.get_mut().connection);
        self.readers.get_mut().iter().for_each(leave_wal);
        self.folder.get_mut().iter().for_each(leave_wal);
    }
}
