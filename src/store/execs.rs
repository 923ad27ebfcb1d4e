//! Commands and what they said.

use super::Store;
use super::error::StoreResult;
use super::rows::{Ino, Kind, Revision, WorkspaceId};
use rusqlite::{Row, params};

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the table")]
pub struct ExecRow {
    pub id: String,
    pub command: Vec<u8>,
    pub cwd: Vec<u8>,
    pub pid: u32,
    pub started: i64,
    pub ended: Option<i64>,
    pub start_revision: Revision,
    pub end_revision: Revision,
    pub first_seq: u64,
    pub complete: bool,
}

/// An event; what `kind` and `data` mean is the writer's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the table")]
pub struct ExecEventRow {
    pub seq: u64,
    pub kind: i64,
    pub data: Vec<u8>,
}

/// A change that happened while a command ran; what `kind` means is the writer's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the table")]
pub struct ExecChangeRow {
    pub revision: Revision,
    pub kind: i64,
    pub node: Kind,
    pub ino: Ino,
    pub path: Vec<u8>,
    pub from: Option<Vec<u8>>,
}

impl Store {
    /// Writes a command with what is new about it: events that are not in the store yet, and, when `changes` are given,
    /// all of its changes. Events before its `first_seq` go.
    pub fn put_exec(
        &self,
        ws: WorkspaceId,
        row: &ExecRow,
        events: &[ExecEventRow],
        changes: Option<&[ExecChangeRow]>,
    ) -> StoreResult<()> {
        self.noting(|transaction| {
            transaction
                .prepare_cached(
                    "INSERT INTO exec VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
                     ON CONFLICT DO UPDATE SET pid = ?5, ended = ?7, end_revision = ?9, first_seq = ?10, complete = ?11",
                )?
                .execute(params![
                    ws,
                    row.id,
                    row.command,
                    row.cwd,
                    row.pid,
                    row.started,
                    row.ended,
                    row.start_revision as i64,
                    row.end_revision as i64,
                    row.first_seq as i64,
                    row.complete
                ])?;
            {
                let mut insert = transaction
                    .prepare_cached("INSERT OR REPLACE INTO exec_event VALUES (?1, ?2, ?3, ?4, ?5)")?;
                for event in events {
                    insert.execute(params![ws, row.id, event.seq as i64, event.kind, event.data])?;
                }
                let mut drop_old = transaction
                    .prepare_cached("DELETE FROM exec_event WHERE ws = ?1 AND exec = ?2 AND seq < ?3")?;
                drop_old.execute(params![ws, row.id, row.first_seq as i64])?;
            }
            for (number, change) in (0i64..).zip(changes.into_iter().flatten()) {
                transaction
                    .prepare_cached(
                        "INSERT OR REPLACE INTO exec_change VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                    )?
                    .execute(params![
                        ws,
                        row.id,
                        number,
                        change.revision as i64,
                        change.kind,
                        change.node as i64,
                        change.ino as i64,
                        change.path,
                        change.from
                    ])?;
            }
            Ok(())
        })
    }

    /// All commands, oldest first.
    pub fn execs(&self, ws: WorkspaceId) -> StoreResult<Vec<ExecRow>> {
        self.with_reader(|reader| {
            let mut statement =
                reader.prepare_cached("SELECT * FROM exec WHERE ws = ?1 ORDER BY started, id")?;
            let rows = statement.query_map([ws], exec_row)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// The events of a command that are kept, in order.
    pub fn exec_events(&self, ws: WorkspaceId, id: &str) -> StoreResult<Vec<ExecEventRow>> {
        self.with_reader(|reader| {
            let sql = "SELECT seq, kind, data FROM exec_event WHERE ws = ?1 AND exec = ?2 ORDER BY seq";
            let mut statement = reader.prepare_cached(sql)?;
            let rows = statement.query_map(params![ws, id], |row| {
                Ok(ExecEventRow { seq: row.get::<_, i64>(0)? as u64, kind: row.get(1)?, data: row.get(2)? })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// The changes of a command, in order.
    pub fn exec_changes(&self, ws: WorkspaceId, id: &str) -> StoreResult<Vec<ExecChangeRow>> {
        self.with_reader(|reader| {
            let sql = "SELECT revision, kind, node, ino, path, came_from FROM exec_change
                       WHERE ws = ?1 AND exec = ?2 ORDER BY number";
            let mut statement = reader.prepare_cached(sql)?;
            let mut rows = statement.query(params![ws, id])?;
            let mut changes = Vec::new();
            while let Some(row) = rows.next()? {
                changes.push(ExecChangeRow {
                    revision: row.get::<_, i64>(0)? as u64,
                    kind: row.get(1)?,
                    node: super::read::kind(row.get(2)?)?,
                    ino: row.get::<_, i64>(3)? as u64,
                    path: row.get(4)?,
                    from: row.get(5)?,
                });
            }
            Ok(changes)
        })
    }

    /// Forgets commands, their events and their changes.
    pub fn remove_execs(&self, ws: WorkspaceId, ids: &[String]) -> StoreResult<()> {
        self.noting(|transaction| {
            for id in ids {
                for sql in [
                    "DELETE FROM exec WHERE ws = ?1 AND id = ?2",
                    "DELETE FROM exec_event WHERE ws = ?1 AND exec = ?2",
                    "DELETE FROM exec_change WHERE ws = ?1 AND exec = ?2",
                ] {
                    transaction.prepare_cached(sql)?.execute(params![ws, id])?;
                }
            }
            Ok(())
        })
    }
}

fn exec_row(row: &Row<'_>) -> rusqlite::Result<ExecRow> {
    Ok(ExecRow {
        id: row.get(1)?,
        command: row.get(2)?,
        cwd: row.get(3)?,
        pid: row.get(4)?,
        started: row.get(5)?,
        ended: row.get(6)?,
        start_revision: row.get::<_, i64>(7)? as u64,
        end_revision: row.get::<_, i64>(8)? as u64,
        first_seq: row.get::<_, i64>(9)? as u64,
        complete: row.get(10)?,
    })
}
