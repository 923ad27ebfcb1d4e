//! Giving space back, a little at a time.
//!
//! Removing a large file only notes that its extents are doomed; overwriting only counts references down. What
//! nobody refers to any more is deleted here, in steps of a few milliseconds, between which commits go on.
//! Pages that become free are used again by the next writes; when nobody writes, the file is cut down too.

use super::error::{StoreError, StoreResult};
use super::rows::WorkspaceId;
use super::write::Writer;
use super::{Checkpoint, Store};
use crate::clock::Timestamp;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Tombstones that are kept, newest first; older ones say nothing that a full comparison does not say too.
const TOMBSTONES: i64 = 100_000;

/// How long a replica that is not heard of is waited for before removals that it does not know of are forgotten: 30 days,
/// in nanoseconds.
const REPLICA_AGE: i64 = 30 * 86_400 * 1_000_000_000;

/// How many removals may pass until old tombstones are looked for again.
const TOMBSTONE_SLACK: u64 = 10_000;

/// Free pages that the file keeps for the next writes: 4 MiB.
const SPARE_PAGES: i64 = 512;

/// What there is to do that no table tells cheaply.
#[derive(Debug)]
pub(super) struct Agenda {
    /// Removals since tombstones were last pruned.
    pub(super) removals: u64,
    /// The count of changed rows when there was last nothing to do.
    pub(super) idle_since: Option<u64>,
}

impl Default for Agenda {
    fn default() -> Self {
        Self { removals: TOMBSTONE_SLACK, idle_since: None }
    }
}

/// What a step of collection achieved.
#[derive(Clone, Copy, Debug, Default)]
pub struct GcProgress {
    /// There is nothing more to do at present.
    pub done: bool,
    /// How long it waited for others that write.
    pub waited: Duration,
    /// Extents of removed files that were let go.
    pub extents: u64,
    /// Chunks deleted.
    pub chunks: u64,
    /// Bytes of those chunks.
    pub bytes: u64,
}

/// What a whole collection achieved.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GcReport {
    /// Chunks deleted.
    pub chunks: u64,
    /// Bytes of those chunks.
    pub bytes: u64,
    /// Bytes of the store's file before.
    pub size_before: u64,
    /// Bytes of the store's file after.
    pub size_after: u64,
}

impl Store {
    /// One step of collection, in one transaction that touches about `budget` rows. `quiet`: nobody writes, so
    /// free pages may be cut off the file.
    pub fn gc_step(&self, budget: usize, quiet: bool) -> StoreResult<GcProgress> {
        let begin = Instant::now();
        let mut writer = self.writer.lock();
        let waited = begin.elapsed();
        self.settle(&mut writer)?;
        let progress = self.doubt.heed(self.step(&mut writer, budget, quiet))?;
        Ok(GcProgress { waited, ..progress })
    }

    fn step(&self, writer: &mut Writer, budget: usize, quiet: bool) -> StoreResult<GcProgress> {
        // The total of all changed rows tells whether anything happened since there was nothing to do.
        let changes = writer.connection.total_changes();
        if self.gc.lock().idle_since == Some(changes) && !quiet {
            return Ok(GcProgress { done: true, ..GcProgress::default() });
        }
        writer.set_full(false)?;
        let transaction = writer.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut progress = GcProgress::default();
        if let Some((ws, ino)) = first_doomed(&transaction)? {
            progress.extents = take_apart(&transaction, ws, ino, budget)?;
        } else {
            // A chunk is eight pages and two rows.
            delete_chunks(&transaction, budget.div_ceil(8), &mut progress)?;
            if progress.chunks == 0 {
                self.prune_tombstones(&transaction)?;
                progress.done = !(quiet && vacuum(&transaction, budget)?);
            }
        }
        transaction.commit()?;
        writer.behind = true;
        if progress.done {
            self.gc.lock().idle_since = Some(writer.connection.total_changes());
        }
        Ok(progress)
    }

    /// Collects everything there is, and folds the WAL. For a store without a running filesystem.
    pub fn gc(&self) -> StoreResult<GcReport> {
        match self.checkpoint(Checkpoint::Truncate) {
            // What is collected makes the room that this needs.
            Err(StoreError::Full) => {}
            folded => drop(folded?),
        }
        let size_before = self.file_bytes();
        self.remove_orphans(self.workspace())?;
        let (mut chunks, mut bytes) = (0, 0);
        loop {
            let progress = self.gc_step(10_000, true)?;
            chunks += progress.chunks;
            bytes += progress.bytes;
            if progress.done {
                break;
            }
        }
        let size_after = self.checkpoint(Checkpoint::Truncate)?.size_bytes;
        Ok(GcReport { chunks, bytes, size_before, size_after })
    }

    /// Forgets removals that nobody has still to hear of at once, not after so many.
    #[cfg(test)]
    pub fn prune_now(&self) -> StoreResult<()> {
        self.gc.lock().removals = TOMBSTONE_SLACK;
        self.noting(|tx| self.prune_tombstones(tx))
    }

    fn prune_tombstones(&self, connection: &Connection) -> StoreResult<()> {
        let mut agenda = self.gc.lock();
        if agenda.removals < TOMBSTONE_SLACK {
            return Ok(());
        }
        agenda.removals = 0;
        prune_tombstones(connection, self.workspace())
    }
}

/// Forgets removals that nobody has still to hear of, and, though somebody may, those beyond the last
/// [`TOMBSTONES`]: who asks for them later compares everything.
fn prune_tombstones(connection: &Connection, ws: WorkspaceId) -> StoreResult<()> {
    let known: Option<i64> = connection.query_row(
        "SELECT min(rev) FROM (SELECT applied AS rev FROM replica WHERE ws = ?1 AND seen > ?2
                               UNION ALL SELECT pushed FROM sync WHERE ws = ?1 AND upstream IS NOT NULL)",
        params![ws, Timestamp::now().0 - REPLICA_AGE],
        |row| row.get(0),
    )?;
    let beyond: Option<i64> = connection
        .query_row(
            "SELECT rev FROM tombstone WHERE ws = ?1 ORDER BY rev DESC LIMIT 1 OFFSET ?2",
            params![ws, TOMBSTONES],
            |row| row.get(0),
        )
        .optional()?;
    let Some(cut) = known.max(beyond) else { return Ok(()) };
    let gone = "SELECT ino FROM tombstone WHERE ws = ?1 AND rev <= ?2";
    // What upstream has, and is not here because it is out of view, is still known.
    for rows in ["sync_node WHERE base IS NULL AND", "sync_content WHERE", "sync_piece WHERE"] {
        connection.execute(&format!("DELETE FROM {rows} ws = ?1 AND ino IN ({gone})"), params![ws, cut])?;
    }
    if connection.execute("DELETE FROM tombstone WHERE ws = ?1 AND rev <= ?2", params![ws, cut])? > 0 {
        connection.execute("UPDATE sync SET floor = max(floor, ?2) WHERE ws = ?1", params![ws, cut])?;
    }
    Ok(())
}

fn first_doomed(connection: &Connection) -> StoreResult<Option<(WorkspaceId, i64)>> {
    let mut statement = connection.prepare_cached("SELECT ws, ino FROM doomed LIMIT 1")?;
    Ok(statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

/// Lets some extents of a removed file go.
fn take_apart(connection: &Connection, ws: WorkspaceId, ino: i64, budget: usize) -> StoreResult<u64> {
    let some: Vec<(i64, Option<i64>)> = connection
        .prepare_cached("SELECT idx, chunk FROM extent WHERE ws = ?1 AND ino = ?2 LIMIT ?3")?
        .query_map(params![ws, ino, budget as i64], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let mut delete =
        connection.prepare_cached("DELETE FROM extent WHERE ws = ?1 AND ino = ?2 AND idx = ?3")?;
    let mut release = connection.prepare_cached("UPDATE chunk SET refs = refs - 1 WHERE id = ?1")?;
    for (index, chunk) in &some {
        delete.execute(params![ws, ino, index])?;
        if let Some(chunk) = chunk {
            release.execute([chunk])?;
        }
    }
    if some.len() < budget {
        connection.execute("DELETE FROM doomed WHERE ws = ?1 AND ino = ?2", params![ws, ino])?;
    }
    Ok(some.len() as u64)
}

fn delete_chunks(connection: &Connection, budget: usize, progress: &mut GcProgress) -> StoreResult<()> {
    let unused: Vec<(i64, i64, i64)> = connection
        .prepare_cached("SELECT id, data, room FROM chunk WHERE refs = 0 LIMIT ?1")?
        .query_map([budget as i64], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let mut delete = connection.prepare_cached("DELETE FROM chunk WHERE id = ?1")?;
    let mut delete_data = connection.prepare_cached("DELETE FROM chunk_data WHERE id = ?1")?;
    for (id, data, room) in unused {
        delete.execute([id])?;
        delete_data.execute([data])?;
        progress.chunks += 1;
        progress.bytes += room as u64;
    }
    Ok(())
}

/// Cuts free pages off the file; whether there may be more of them.
fn vacuum(connection: &Connection, budget: usize) -> StoreResult<bool> {
    let free: i64 = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    let pages = (free - SPARE_PAGES).min(budget as i64);
    if pages <= 0 {
        return Ok(false);
    }
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(free - pages > SPARE_PAGES)
}
