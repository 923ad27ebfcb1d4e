//! What sync notes for people and for hubs: replicas, and conflicts that were settled.

use super::Store;
use super::error::StoreResult;
use super::rows::{Revision, WorkspaceId};
use super::sync::HashBytes;
use rusqlite::{Row, params};

/// Conflicts that are remembered.
const CONFLICTS: i64 = 1000;

/// A replica of this hub.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the table")]
pub struct ReplicaRow {
    pub id: i64,
    pub replica: [u8; 16],
    pub label: String,
    pub applied: Revision,
    pub pushed: Revision,
    pub life: Option<[u8; 16]>,
    pub taken: Option<HashBytes>,
    pub seen: i64,
}

/// A conflict that was settled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the table")]
pub struct ConflictRow {
    pub time: i64,
    pub kind: i64,
    pub path: Vec<u8>,
    pub kept: Option<Vec<u8>>,
}

fn replica_row(row: &Row<'_>) -> rusqlite::Result<ReplicaRow> {
    Ok(ReplicaRow {
        id: row.get(0)?,
        replica: row.get(1)?,
        label: row.get(2)?,
        applied: row.get::<_, i64>(3)? as Revision,
        pushed: row.get::<_, i64>(4)? as Revision,
        life: row.get(5)?,
        seen: row.get(6)?,
        taken: row.get(7)?,
    })
}

impl Store {
    /// All replicas that this hub knows.
    pub fn replicas(&self, ws: WorkspaceId) -> StoreResult<Vec<ReplicaRow>> {
        self.with_reader(|reader| {
            let sql = "SELECT id, replica, label, applied, pushed, life, seen, taken
                       FROM replica WHERE ws = ?1 ORDER BY id";
            let mut statement = reader.prepare_cached(sql)?;
            Ok(statement.query_map([ws], replica_row)?.collect::<Result<_, _>>()?)
        })
    }

    /// Notes who a replica is, what it has applied and when it was seen; it gets a number if it has none. Returns that. What
    /// it has pushed is noted with what it pushed ([`SyncChange::taken`](super::sync::SyncChange::taken)).
    pub fn put_replica(&self, ws: WorkspaceId, row: &ReplicaRow) -> StoreResult<i64> {
        self.noting(|tx| {
            let sql = "INSERT INTO replica (ws, replica, label, applied, seen) VALUES (?1, ?2, ?3, ?4, ?5)
                       ON CONFLICT DO UPDATE SET label = ?3, applied = ?4, seen = ?5 RETURNING id";
            let values = params![ws, row.replica, row.label, row.applied as i64, row.seen];
            Ok(tx.query_row(sql, values, |row| row.get(0))?)
        })
    }

    /// Notes conflicts.
    pub fn put_conflicts(&self, ws: WorkspaceId, conflicts: &[ConflictRow]) -> StoreResult<()> {
        self.noting(|tx| {
            for row in conflicts {
                tx.execute(
                    "INSERT INTO sync_conflict (ws, time, kind, path, kept) VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![ws, row.time, row.kind, row.path, row.kept],
                )?;
            }
            tx.execute(
                "UPDATE sync SET conflicts = conflicts + ?2 WHERE ws = ?1",
                params![ws, conflicts.len() as i64],
            )?;
            tx.execute(
                "DELETE FROM sync_conflict WHERE ws = ?1 AND id <= (SELECT max(id) FROM sync_conflict) - ?2",
                params![ws, CONFLICTS],
            )?;
            Ok(())
        })
    }

    /// The latest conflicts, newest first.
    pub fn conflicts(&self, ws: WorkspaceId, limit: usize) -> StoreResult<Vec<ConflictRow>> {
        self.with_reader(|reader| {
            let sql =
                "SELECT time, kind, path, kept FROM sync_conflict WHERE ws = ?1 ORDER BY id DESC LIMIT ?2";
            let mut statement = reader.prepare_cached(sql)?;
            let rows = statement.query_map(params![ws, limit as i64], |row| {
                Ok(ConflictRow { time: row.get(0)?, kind: row.get(1)?, path: row.get(2)?, kept: row.get(3)? })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}
