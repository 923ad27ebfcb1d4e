//! The bytes of a large group, ahead of the group.
//!
//! One transaction for all of a large group would be dear. What does not fit SQLite's page cache goes to the WAL while the
//! transaction is under way; and when a page that went there is changed once more, SQLite reads all that follows it in the
//! WAL again, to correct the checksums. Also the disk has nothing to do until the transaction is over, and everything then.
//!
//! So the new bytes come first, in transactions that fit the cache, as chunks that nothing refers to; and a thread has the disk
//! take them while the next ones are written. The group's own transaction finds them by their hashes. If it never comes, they
//! are collected like all others that nothing refers to. Figures: `docs/decisions/0014-ahead.md`.

use super::Store;
use super::durable::Doubt;
use super::error::StoreResult;
use super::fault::Point;
use super::group::Group;
use super::rows::WorkspaceId;
use super::write::Writer;
use rusqlite::TransactionBehavior;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Bytes of one transaction, a quarter of SQLite's page cache.
const PORTION: usize = 4 << 20;

/// New bytes up to which a group is one transaction: half of the page cache, in which names and attributes have to fit too.
pub(super) const LARGE: usize = 8 << 20;

/// Bytes that are written before the disk is to take them.
const FLUSH: usize = 8 << 20;

impl Store {
    /// Writes a large group's new bytes. After an error they are partly there, which does no harm: the group is
    /// tried again and finds them, or they are collected.
    pub(super) fn put_ahead(&self, writer: &mut Writer, ws: WorkspaceId, group: &Group) -> StoreResult<()> {
        writer.set_full(false)?;
        let mut bufs = group.data().peekable();
        while bufs.peek().is_some() {
            let transaction = writer.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let batch = self.batch(&transaction, ws, 0);
            let mut written = 0;
            while let Some(buf) = bufs.next_if(|_| written < PORTION) {
                if batch.put_unused_chunk(buf)? {
                    written += buf.len();
                }
            }
            self.faults.pass(Point::Ahead)?;
            transaction.commit()?;
            writer.behind = true;
            writer.flusher.wrote(written);
        }
        Ok(())
    }
}

/// Has the disk take what is written to the WAL, in a thread of its own. A convenience: whoever needs it to be there asks the
/// disk, and hears of errors, by another way.
#[derive(Debug)]
pub(super) struct Flusher {
    /// The WAL; none of a store in memory.
    wal: Option<PathBuf>,
    doubt: Doubt,
    unsent: usize,
    thread: Option<(SyncSender<()>, JoinHandle<()>)>,
}

impl Flusher {
    pub(super) fn new(wal: Option<PathBuf>, doubt: Doubt) -> Self {
        Self { wal, doubt, unsent: 0, thread: None }
    }

    /// So many bytes more are in the WAL.
    fn wrote(&mut self, bytes: usize) {
        self.unsent += bytes;
        let Some(wal) = self.wal.as_deref().filter(|_| self.unsent >= FLUSH) else { return };
        if self.thread.is_none() {
            self.thread = start(wal, self.doubt.clone());
        }
        if let Some((wishes, _)) = &self.thread {
            // If one waits already, it is for these bytes too.
            let _ = wishes.try_send(());
            self.unsent = 0;
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        if let Some((wishes, thread)) = self.thread.take() {
            drop(wishes);
            let _ = thread.join();
        }
    }
}

/// `None`: the file cannot be opened once more, or there cannot be more threads.
fn start(wal: &Path, doubt: Doubt) -> Option<(SyncSender<()>, JoinHandle<()>)> {
    let file = File::open(wal).ok()?;
    let (wishes, wished) = sync_channel(1);
    let thread =
        std::thread::Builder::new().name("wsd-flush".into()).spawn(move || flush(&file, &doubt, &wished));
    Some((wishes, thread.ok()?))
}

fn flush(file: &File, doubt: &Doubt, wished: &Receiver<()>) {
    while wished.recv().is_ok() {
        // SQLite hears of it too, when it syncs the WAL itself.
        if file.sync_data().is_err() {
            doubt.raise();
        }
    }
}
