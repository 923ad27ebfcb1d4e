//! What sync remembers: who nodes are elsewhere, what was agreed on, with whom. (`contents`: where the bytes of objects are.)
//!
//! What must be true together with the tree (what a node is known as, what was agreed on, up to where) is written in the
//! group that it belongs to ([`SyncChange`]). The rest is a cache, or a note, and has transactions of its own.

use super::Store;
use super::error::{StoreError, StoreResult};
use super::rows::{Ino, Revision, WorkspaceId};
use super::snapshot::Snapshot;
use super::write::Batch;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use std::collections::BTreeMap;

/// A hash, as it is in the tables.
pub type HashBytes = [u8; 32];

/// Number of a life in this store. 0 is none: the node was made here.
pub type LifeId = i64;

/// The upstream of a workspace that has not met it yet ([`Store::await_upstream`]).
const AWAITED: [u8; 16] = [0; 16];

/// A life of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its number here.
    pub id: LifeId,
    /// Its name everywhere.
    pub author: [u8; 16],
    /// Whether it is one of this store.
    pub own: bool,
    /// Of its own: the first node that could be made in it.
    pub first_ino: Ino,
    /// Of its own: the last revision before it.
    pub first_revision: Revision,
}

/// What sync knows of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the table")]
pub struct SyncNode {
    pub life: LifeId,
    pub origin: u64,
    pub base: Option<Vec<u8>>,
    pub settled: Revision,
    pub by_replica: i64,
    pub by_revision: Revision,
}

/// A position in an upstream's changes: a life of it, a revision, and where everything was listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the table")]
pub struct CursorRow {
    pub life: [u8; 16],
    pub revision: Revision,
    pub listed: Revision,
}

/// A push that a hub has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the table")]
pub struct TakenRow {
    pub pushed: Revision,
    pub life: [u8; 16],
    pub taken: Option<HashBytes>,
    pub seen: i64,
}

/// What a group changes of what sync knows.
#[derive(Clone, Debug, Default)]
pub struct SyncChange {
    /// Nodes.
    pub nodes: BTreeMap<Ino, SyncNode>,
    /// Nodes that are gone count as changed at these revisions.
    pub gone: BTreeMap<Ino, Revision>,
    /// The upstream's changes are applied up to here.
    pub cursor: Option<CursorRow>,
    /// Where the upstream was when it told of this, or took it: its life and revision.
    pub heard: Option<([u8; 16], Revision)>,
    /// The latest pushes of replicas, by their numbers, that are in the tree with this.
    pub taken: BTreeMap<i64, TakenRow>,
}

/// Where a replica is with its upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the table")]
pub struct SyncState {
    pub replica: [u8; 16],
    pub upstream: Option<[u8; 16]>,
    pub cursor: Option<CursorRow>,
    pub heard: Option<([u8; 16], Revision)>,
    pub offers: Option<Vec<u8>>,
    pub pushed: Revision,
    pub floor: Revision,
    pub conflicts: u64,
}

impl SyncState {
    /// Whether the workspace has been meant to have an upstream since it was new, and has not met one yet.
    pub fn awaits_upstream(&self) -> bool {
        self.upstream == Some(AWAITED)
    }
}

impl SyncChange {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
            && self.gone.is_empty()
            && self.cursor.is_none()
            && self.heard.is_none()
            && self.taken.is_empty()
    }

    /// Adds a later change to this one.
    pub fn merge(&mut self, later: Self) {
        self.nodes.extend(later.nodes);
        self.gone.extend(later.gone);
        self.cursor = later.cursor.or(self.cursor);
        self.heard = later.heard.or(self.heard);
        self.taken.extend(later.taken);
    }
}

impl Batch<'_> {
    pub(super) fn put_sync(&self, change: &SyncChange) -> StoreResult<()> {
        for (ino, node) in &change.nodes {
            self.run(
                "INSERT OR REPLACE INTO sync_node (ws, ino, life, origin, base, settled, by_replica, by_revision)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    self.ws,
                    *ino as i64,
                    node.life,
                    node.origin as i64,
                    node.base,
                    node.settled as i64,
                    node.by_replica,
                    node.by_revision as i64
                ],
            )?;
        }
        for (ino, revision) in &change.gone {
            self.run("DELETE FROM tombstone WHERE ws = ?1 AND ino = ?2", params![self.ws, *ino as i64])?;
            self.run(
                "INSERT INTO tombstone (ws, rev, ino) VALUES (?1, ?2, ?3)",
                params![self.ws, *revision as i64, *ino as i64],
            )?;
        }
        if let Some(cursor) = &change.cursor {
            self.run(
                "UPDATE sync SET cursor_life = ?2, cursor_revision = ?3, cursor_listed = ?4 WHERE ws = ?1",
                params![self.ws, cursor.life, cursor.revision as i64, cursor.listed as i64],
            )?;
        }
        if let Some((life, revision)) = &change.heard {
            self.run(
                "UPDATE sync SET heard_life = ?2, heard_revision = ?3 WHERE ws = ?1",
                params![self.ws, life, *revision as i64],
            )?;
        }
        for (id, row) in &change.taken {
            self.run(
                "UPDATE replica SET pushed = ?2, life = ?3, taken = ?4, seen = ?5 WHERE id = ?1",
                params![id, row.pushed as i64, row.life, row.taken, row.seen],
            )?;
        }
        Ok(())
    }
}

/// A random name of 16 bytes.
fn random(connection: &Connection) -> StoreResult<[u8; 16]> {
    Ok(connection.query_row("SELECT randomblob(16)", [], |row| row.get(0))?)
}

/// Another life begins: the store has been opened by a daemon. See `life` in the tables.
pub(super) fn begin_life(connection: &mut Connection, ws: WorkspaceId) -> StoreResult<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let (author, replica) = (random(&transaction)?, random(&transaction)?);
    transaction.execute(
        "INSERT INTO life (ws, author, own, first_ino, first_revision)
         SELECT id, ?2, 1, max(next_ino, (SELECT coalesce(max(ino), 0) FROM inode WHERE ws = ?1) + 1), revision
         FROM workspace WHERE id = ?1",
        params![ws, author],
    )?;
    transaction.execute("INSERT OR IGNORE INTO sync (ws, replica) VALUES (?1, ?2)", params![ws, replica])?;
    // What came for nodes that were not there at the end is of no use any more.
    transaction.execute(
        "DELETE FROM sync_piece WHERE ws = ?1 AND NOT EXISTS (SELECT 1 FROM inode WHERE ws = ?1 AND ino = sync_piece.ino)",
        [ws],
    )?;
    // Contents that the files do not have, because the daemon was killed; and those of which it is not known where their objects are.
    transaction.execute(
        "DELETE FROM sync_content WHERE ws = ?1
             AND (NOT EXISTS (SELECT 1 FROM inode WHERE ws = ?1 AND ino = sync_content.ino AND content_rev = sync_content.revision)
                  OR NOT EXISTS (SELECT 1 FROM sync_piece WHERE ws = ?1 AND hash = sync_content.hash))",
        [ws],
    )?;
    Ok(transaction.commit()?)
}

fn life_row(row: &Row<'_>) -> rusqlite::Result<Life> {
    Ok(Life {
        id: row.get(0)?,
        author: row.get(1)?,
        own: row.get(2)?,
        first_ino: row.get::<_, i64>(3)? as Ino,
        first_revision: row.get::<_, i64>(4)? as Revision,
    })
}

fn state_row(row: &Row<'_>) -> rusqlite::Result<SyncState> {
    let life: Option<[u8; 16]> = row.get(2)?;
    let unsigned = |at: usize| row.get::<_, i64>(at).map(|value| value as u64);
    let (revision, listed) = (unsigned(3)?, unsigned(4)?);
    let (heard_life, heard_revision): (Option<[u8; 16]>, Revision) = (row.get(9)?, unsigned(10)?);
    Ok(SyncState {
        heard: heard_life.map(|life| (life, heard_revision)),
        replica: row.get(0)?,
        upstream: row.get(1)?,
        cursor: life.map(|life| CursorRow { life, revision, listed }),
        offers: row.get(5)?,
        pushed: unsigned(6)?,
        floor: unsigned(7)?,
        conflicts: unsigned(8)?,
    })
}

impl Snapshot<'_> {
    /// What sync knows of a node.
    pub fn sync_node(&self, ino: Ino) -> StoreResult<Option<SyncNode>> {
        let sql = "SELECT life, origin, base, settled, by_replica, by_revision FROM sync_node WHERE ws = ?1 AND ino = ?2";
        let found = self.reader()?.prepare_cached(sql)?.query_row(params![self.ws(), ino as i64], |row| {
            Ok(SyncNode {
                life: row.get(0)?,
                origin: row.get::<_, i64>(1)? as u64,
                base: row.get(2)?,
                settled: row.get::<_, i64>(3)? as Revision,
                by_replica: row.get(4)?,
                by_revision: row.get::<_, i64>(5)? as Revision,
            })
        });
        Ok(found.optional()?)
    }

    /// The node that has this identity, of those that have a row.
    pub fn node_of(&self, life: LifeId, origin: u64) -> StoreResult<Option<Ino>> {
        let sql = "SELECT ino FROM sync_node WHERE ws = ?1 AND life = ?2 AND origin = ?3";
        let found = self
            .reader()?
            .prepare_cached(sql)?
            .query_row(params![self.ws(), life, origin as i64], |row| row.get::<_, i64>(0));
        Ok(found.optional()?.map(|ino| ino as Ino))
    }

    /// Calls this with everything that was agreed on.
    pub fn each_base<E: From<StoreError>>(
        &self,
        mut each: impl FnMut(Ino, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let sql = "SELECT ino, base FROM sync_node WHERE ws = ?1 AND base IS NOT NULL";
        let reader = self.reader()?;
        let mut statement = reader.prepare_cached(sql).map_err(StoreError::from)?;
        let mut rows = statement.query([self.ws()]).map_err(StoreError::from)?;
        while let Some(row) = rows.next().map_err(StoreError::from)? {
            let ino = row.get::<_, i64>(0).map_err(StoreError::from)? as Ino;
            let base = row.get_ref(1).and_then(|base| Ok(base.as_blob()?)).map_err(StoreError::from)?;
            each(ino, base)?;
        }
        Ok(())
    }

    /// Nodes that have a row, after this one, in order.
    pub fn sync_nodes_after(&self, ino: Ino, limit: usize) -> StoreResult<Vec<Ino>> {
        let sql = "SELECT ino FROM sync_node WHERE ws = ?1 AND ino > ?2 ORDER BY ino LIMIT ?3";
        let mut statement = self.reader()?.prepare_cached(sql)?;
        let rows = statement.query_map(params![self.ws(), ino as i64, limit as i64], |row| {
            row.get::<_, i64>(0).map(|ino| ino as Ino)
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

impl Store {
    pub(super) fn noting<T>(&self, write: impl FnOnce(&Transaction<'_>) -> StoreResult<T>) -> StoreResult<T> {
        let mut writer = self.writer.lock();
        self.settle(&mut writer)?;
        let noted = writer.set_full(false).and_then(|()| {
            let transaction = writer.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = write(&transaction)?;
            transaction.commit()?;
            writer.behind = true;
            Ok(result)
        });
        self.doubt.heed(noted)
    }

    /// Makes the index that sync looks for changes with. A workspace that nobody syncs does without.
    pub fn prepare_sync(&self) -> StoreResult<()> {
        self.noting(|tx| {
            Ok(tx.execute_batch("CREATE INDEX IF NOT EXISTS inode_by_revision ON inode (ws, rev)")?)
        })
    }

    /// All lives that are known, oldest first.
    pub fn lives(&self, ws: WorkspaceId) -> StoreResult<Vec<Life>> {
        self.with_reader(|reader| {
            let sql = "SELECT id, author, own, first_ino, first_revision FROM life WHERE ws = ?1 ORDER BY id";
            let mut statement = reader.prepare_cached(sql)?;
            Ok(statement.query_map([ws], life_row)?.collect::<Result<_, _>>()?)
        })
    }

    /// The number of somebody else's life.
    pub fn add_life(&self, ws: WorkspaceId, author: [u8; 16]) -> StoreResult<Life> {
        self.noting(|tx| {
            tx.execute(
                "INSERT OR IGNORE INTO life (ws, author, own, first_ino, first_revision) VALUES (?1, ?2, 0, 0, 0)",
                params![ws, author],
            )?;
            let sql = "SELECT id, author, own, first_ino, first_revision FROM life WHERE ws = ?1 AND author = ?2";
            Ok(tx.query_row(sql, params![ws, author], life_row)?)
        })
    }

    /// Where this replica is with its upstream.
    pub fn sync_state(&self, ws: WorkspaceId) -> StoreResult<SyncState> {
        self.with_reader(|reader| {
            let sql = "SELECT replica, upstream, cursor_life, cursor_revision, cursor_listed, offers, pushed, floor, conflicts,
                              heard_life, heard_revision
                       FROM sync WHERE ws = ?1";
            Ok(reader.query_row(sql, [ws], state_row)?)
        })
    }

    /// This replica is part of that workspace and has that upstream from now on.
    pub fn join(&self, ws: WorkspaceId, uuid: &str, upstream: [u8; 16]) -> StoreResult<()> {
        self.noting(|tx| {
            tx.execute("UPDATE workspace SET uuid = ?2 WHERE id = ?1", params![ws, uuid])?;
            tx.execute("UPDATE sync SET upstream = ?2 WHERE ws = ?1", params![ws, upstream])?;
            Ok(())
        })
    }

    /// If this workspace has nothing in it, has no upstream, and nothing was agreed on with anybody, it is meant to have one from
    /// now on, whatever is written to it: it joins the first that it meets.
    pub fn await_upstream(&self, ws: WorkspaceId) -> StoreResult<()> {
        self.noting(|tx| {
            let sql = "UPDATE sync SET upstream = ?2 WHERE ws = ?1 AND upstream IS NULL
                AND NOT EXISTS (SELECT 1 FROM dirent WHERE ws = ?1 AND dead = 0)
                AND NOT EXISTS (SELECT 1 FROM sync_node WHERE ws = ?1 AND base IS NOT NULL)";
            tx.execute(sql, params![ws, AWAITED])?;
            Ok(())
        })
    }

    /// The replica is another one from now on, because there are two that were the same.
    pub fn renew_replica(&self, ws: WorkspaceId) -> StoreResult<[u8; 16]> {
        self.noting(|tx| {
            let replica = random(tx)?;
            tx.execute("UPDATE sync SET replica = ?2 WHERE ws = ?1", params![ws, replica])?;
            Ok(replica)
        })
    }

    /// The patterns of what was left out of sync so far; `None`: this replica has never been in step with anybody.
    pub fn ignored(&self, ws: WorkspaceId) -> StoreResult<Option<String>> {
        self.with_reader(|reader| {
            Ok(reader.query_row("SELECT ignored FROM sync WHERE ws = ?1", [ws], |row| row.get(0))?)
        })
    }

    /// Nothing is agreed on with anybody any more: everything has to be told of anew, at both ends.
    pub fn forget_bases(&self, ws: WorkspaceId) -> StoreResult<()> {
        self.noting(|tx| {
            tx.execute("UPDATE sync_node SET base = NULL, settled = 0 WHERE ws = ?1", [ws])?;
            tx.execute(
                "UPDATE sync SET cursor_life = NULL, cursor_revision = 0, cursor_listed = 0, offers = NULL,
                        pushed = 0, heard_life = NULL, heard_revision = 0
                 WHERE ws = ?1",
                [ws],
            )?;
            Ok(())
        })
    }

    /// These patterns are left out of sync from now on, and everything has to be told of anew, at both ends.
    pub fn put_ignored(&self, ws: WorkspaceId, patterns: &str) -> StoreResult<()> {
        self.noting(|tx| {
            tx.execute(
                "UPDATE sync SET ignored = ?2, cursor_life = NULL, cursor_revision = 0, cursor_listed = 0,
                        pushed = 0
                 WHERE ws = ?1",
                params![ws, patterns],
            )?;
            Ok(())
        })
    }

    /// Offers that are sent; `None`: all were answered.
    pub fn put_offers(&self, ws: WorkspaceId, offers: Option<&[u8]>) -> StoreResult<()> {
        self.noting(|tx| {
            tx.execute("UPDATE sync SET offers = ?2 WHERE ws = ?1", params![ws, offers])?;
            Ok(())
        })
    }

    /// All changes up to this revision are upstream.
    pub fn note_pushed(&self, ws: WorkspaceId, revision: Revision) -> StoreResult<()> {
        self.noting(|tx| {
            tx.execute(
                "UPDATE sync SET pushed = max(pushed, ?2) WHERE ws = ?1",
                params![ws, revision as i64],
            )?;
            Ok(())
        })
    }

    /// Whether there is a node here on which this replica and its upstream have agreed.
    pub fn has_bases(&self, ws: WorkspaceId) -> StoreResult<bool> {
        self.with_reader(|reader| {
            let sql = "SELECT 1 FROM sync_node WHERE ws = ?1 AND base IS NOT NULL LIMIT 1";
            Ok(reader.prepare_cached(sql)?.exists([ws])?)
        })
    }

    /// Nodes, and bytes of files, that have changed after a revision and are not as was agreed on.
    pub fn pending(&self, ws: WorkspaceId, after: Revision) -> StoreResult<(u64, u64)> {
        self.with_reader(|reader| {
            let sql = "SELECT count(*), coalesce(sum(size), 0) FROM
                (SELECT CASE kind WHEN 1 THEN size ELSE 0 END AS size FROM inode i LEFT JOIN sync_node s USING (ws, ino)
                    WHERE ws = ?1 AND rev > ?2 AND dead = 0 AND nlink > 0 AND (s.base IS NULL OR s.settled <> rev)
                 UNION ALL SELECT 0 FROM tombstone t JOIN sync_node s USING (ws, ino)
                    WHERE ws = ?1 AND rev > ?2 AND s.base IS NOT NULL)";
            let row = |row: &Row<'_>| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64));
            Ok(reader.query_row(sql, params![ws, after as i64], row)?)
        })
    }
}
