//! Writing a group: one transaction.
//!
//! All rows written between two snapshots carry the same `since`, the epoch: 0 before the first snapshot, the
//! revision after the newest one later. So a put is one upsert, and what an older snapshot needs has a smaller
//! `since` and stays.

use super::Store;
use super::ahead::{Flusher, LARGE};
use super::chunks::Part;
use super::error::StoreResult;
use super::fault::Point;
use super::group::{Committed, ContentChange, ExtentChange, Group, NodeChange, NodePut, Xattrs};
use super::rows::{ChunkId, Dirent, Ino, InodeRow, Name, Revision, WorkspaceId};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};

/// A removed file with more extents than this is taken apart later, in small steps.
const EXTENTS_AT_ONCE: usize = 64;

/// New bytes of a small group.
const SMALL: usize = 256 << 10;

/// The connection that writes, and how it is set.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) connection: Connection,
    /// Whether commits wait for the disk.
    pub(super) full: bool,
    /// Whether there are commits that did not.
    pub(super) behind: bool,
    /// Has the disk take what large groups write.
    pub(super) flusher: Flusher,
    /// The workspace's revision in the store, if it is known.
    revision: Option<Revision>,
}

/// One transaction under way.
pub(super) struct Batch<'a> {
    pub(super) connection: &'a Connection,
    pub(super) next_chunk: &'a AtomicI64,
    pub(super) ws: WorkspaceId,
    pub(super) epoch: i64,
}

impl Store {
    /// Writes a group in one transaction, and before it, if there are many, its new bytes. `durable`: it is on the disk when
    /// this returns, with every group before it. After an error nothing of the group is to be seen, and it can be tried again.
    pub fn commit(&self, ws: WorkspaceId, group: &Group, durable: bool) -> StoreResult<Committed> {
        // Hashed before the writer is taken.
        let mut new_bytes = 0;
        for buf in group.data() {
            buf.hash();
            new_bytes += buf.len();
        }
        let mut writer = self.writer.lock();
        if group.is_empty() && !(durable && writer.behind) {
            return Ok(Committed::default());
        }
        let committed = self.doubt.heed(self.write(&mut writer, ws, group, (durable, new_bytes)));
        writer.revision = committed.is_ok().then_some(group.revision);
        if new_bytes > SMALL {
            self.small_commits.store(0, Ordering::Relaxed);
        } else if durable {
            self.small_commits.fetch_add(1, Ordering::Relaxed);
        }
        committed
    }

    fn write(
        &self,
        writer: &mut Writer,
        ws: WorkspaceId,
        group: &Group,
        (durable, new_bytes): (bool, usize),
    ) -> StoreResult<Committed> {
        self.faults.pass(Point::CommitBegin)?;
        self.settle(writer)?;
        if durable && writer.has_to_catch_up(group) {
            self.sync_wal()?;
        }
        if new_bytes > LARGE {
            self.put_ahead(writer, ws, group)?;
        }
        writer.set_full(durable)?;
        let transaction =
            writer.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let epoch = transaction
            .prepare_cached(
                "UPDATE workspace SET revision = ?2, next_ino = ?3 WHERE id = ?1 RETURNING pinned",
            )?
            .query_row(params![ws, group.revision as i64, group.next_ino as i64], |row| {
                row.get::<_, i64>(0)
            })?;
        let batch = self.batch(&transaction, ws, if epoch == 0 { 0 } else { epoch + 1 });
        let mut committed = Committed::default();
        batch.keep_shared(group)?;
        for (ino, change) in &group.nodes {
            match change {
                NodeChange::Put(put) => batch.put(put, &mut committed)?,
                NodeChange::Removed(revision) => batch.remove(*ino, Some(*revision))?,
                NodeChange::Dropped => batch.remove(*ino, None)?,
            }
        }
        batch.put_sync(&group.sync)?;
        self.faults.pass(Point::CommitEnd)?;
        transaction.commit()?;
        self.gc.lock().removals +=
            group.nodes.values().filter(|change| !matches!(change, NodeChange::Put(_))).count() as u64;
        writer.behind = !durable;
        Ok(committed)
    }
}

impl Store {
    /// What a transaction writes with.
    pub(super) fn batch<'a>(&'a self, connection: &'a Connection, ws: WorkspaceId, epoch: i64) -> Batch<'a> {
        Batch { connection, next_chunk: &self.next_chunk, ws, epoch }
    }

    /// Removes what had no name but was open when the daemon that had this store died.
    pub(super) fn remove_orphans(&self, ws: WorkspaceId) -> StoreResult<()> {
        let (mut revision, next_ino) = self.position(ws)?;
        let orphans = self.orphans(ws)?;
        for some in orphans.chunks(1000) {
            let mut group = Group { next_ino, ..Group::default() };
            for ino in some {
                revision += 1;
                group.nodes.insert(*ino, NodeChange::Removed(revision));
            }
            group.revision = revision;
            self.commit(ws, &group, false)?;
        }
        Ok(())
    }
}

impl Writer {
    /// Who had the store before may not have waited for the disk.
    pub(super) fn new(connection: Connection, flusher: Flusher) -> Self {
        Self { connection, full: false, behind: true, flusher, revision: None }
    }

    /// Whether the commit of a group that is to be on the disk does not see to it that earlier ones are. SQLite waits for the
    /// disk if a transaction changed a byte of a page, and a new revision does.
    fn has_to_catch_up(&self, group: &Group) -> bool {
        self.behind && self.revision.is_none_or(|revision| revision == group.revision)
    }

    pub(super) fn set_full(&mut self, full: bool) -> StoreResult<()> {
        if self.full != full {
            self.connection.pragma_update(None, "synchronous", if full { "FULL" } else { "NORMAL" })?;
            self.full = full;
        }
        Ok(())
    }
}

impl Batch<'_> {
    pub(super) fn run(&self, sql: &str, params: impl rusqlite::Params) -> StoreResult<usize> {
        Ok(self.connection.prepare_cached(sql)?.execute(params)?)
    }

    fn put(&self, put: &NodePut, committed: &mut Committed) -> StoreResult<()> {
        let ino = put.row.ino;
        self.put_inode(&put.row)?;
        self.put_dirents(ino, &put.dirents)?;
        self.put_content(ino, &put.content, committed)?;
        if let Some(xattrs) = &put.xattrs {
            self.put_xattrs(ino, xattrs)?;
        }
        Ok(())
    }

    fn put_inode(&self, row: &InodeRow) -> StoreResult<()> {
        self.run(
            "INSERT INTO inode (ws, ino, since, rev, kind, mode, uid, gid, rdev, nlink, size, allocated,
                                atime, mtime, ctime, btime, parent, next_cookie, storage, has_xattrs, content_rev)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)
             ON CONFLICT DO UPDATE SET dead = 0, rev = ?4, kind = ?5, mode = ?6, uid = ?7, gid = ?8, rdev = ?9,
                nlink = ?10, size = ?11, allocated = ?12, atime = ?13, mtime = ?14, ctime = ?15, btime = ?16,
                parent = ?17, next_cookie = ?18, storage = ?19, has_xattrs = ?20, content_rev = ?21",
            params![
                self.ws,
                row.ino as i64,
                self.epoch,
                row.revision as i64,
                row.kind as u8,
                row.mode,
                row.uid,
                row.gid,
                row.rdev,
                row.nlink,
                row.size as i64,
                row.allocated as i64,
                row.atime.0,
                row.mtime.0,
                row.ctime.0,
                row.btime.0,
                row.parent as i64,
                row.next_cookie as i64,
                row.storage as u8,
                row.has_xattrs,
                row.content_revision as i64,
            ],
        )?;
        Ok(())
    }

    fn put_dirents(&self, parent: Ino, dirents: &BTreeMap<Name, Option<Dirent>>) -> StoreResult<()> {
        for (name, dirent) in dirents {
            match dirent {
                Some(Dirent { ino, kind, cookie, .. }) => self.run(
                    "INSERT INTO dirent (ws, parent, name, since, ino, kind, cookie) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                     ON CONFLICT DO UPDATE SET dead = 0, ino = ?5, kind = ?6, cookie = ?7",
                    params![self.ws, parent as i64, &name[..], self.epoch, *ino as i64, *kind as u8, *cookie as i64],
                )?,
                None => self.run(
                    "DELETE FROM dirent WHERE ws = ?1 AND parent = ?2 AND name = ?3 AND since = ?4",
                    params![self.ws, parent as i64, &name[..], self.epoch],
                )?,
            };
            if dirent.is_none() && self.epoch > 0 {
                self.run(
                    "INSERT INTO dirent (ws, parent, name, since, dead, ino, kind, cookie)
                     SELECT ws, parent, name, ?4, 1, ino, kind, cookie FROM dirent
                     WHERE ws = ?1 AND parent = ?2 AND name = ?3 AND since < ?4 ORDER BY since DESC LIMIT 1",
                    params![self.ws, parent as i64, &name[..], self.epoch],
                )?;
            }
        }
        Ok(())
    }

    fn put_content(&self, ino: Ino, change: &ContentChange, committed: &mut Committed) -> StoreResult<()> {
        if let Some(cut) = change.cut_from {
            self.cut_extents(ino, cut)?;
        }
        match &change.inline {
            None => {}
            Some(None) => self.drop_inline(ino)?,
            Some(Some(buf)) => {
                self.run(
                    "INSERT INTO content (ws, ino, since, data) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT DO UPDATE SET dead = 0, data = ?4",
                    params![self.ws, ino as i64, self.epoch, &buf[..]],
                )?;
            }
        }
        for (index, extent) in &change.extents {
            let part = match extent {
                ExtentChange::Part(buf, part) => self.put_part(ino, *index, buf, *part)?,
                ExtentChange::Patch(buf, blocks) => self.put_patch(ino, *index, buf, *blocks)?,
                ExtentChange::Data(_) | ExtentChange::Chunk(_) | ExtentChange::Hole => Part::Otherwise,
            };
            let chunk = match (part, extent.bytes()) {
                (Part::InPlace(id), _) => {
                    committed.chunks.push((ino, *index, id));
                    continue;
                }
                (Part::Whole(bytes), _) => Some(self.put_chunk(&bytes, blake3::hash(&bytes).as_bytes())?),
                (Part::Grown, Some(buf)) => Some(self.put_roomy_chunk(buf)?),
                (_, Some(buf)) => Some(self.put_chunk(buf, buf.hash().as_bytes())?),
                (_, None) => match extent {
                    ExtentChange::Chunk(id) => Some(*id),
                    _ => None,
                },
            };
            if let (Some(id), true) = (chunk, extent.bytes().is_some()) {
                committed.chunks.push((ino, *index, id));
            }
            self.put_extent(ino, *index, chunk)?;
        }
        Ok(())
    }

    fn put_extent(&self, ino: Ino, index: u64, chunk: Option<ChunkId>) -> StoreResult<()> {
        let key = (self.ws, ino as i64, index as i64, self.epoch);
        if chunk.is_some() {
            let new = self.run(
                "INSERT INTO extent (ws, ino, idx, since, chunk) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
                params![key.0, key.1, key.2, key.3, chunk.map(|chunk| chunk.row)],
            )?;
            if new == 1 {
                return Ok(());
            }
        }
        let old: Option<Option<i64>> = self
            .connection
            .prepare_cached(
                "SELECT chunk FROM extent WHERE ws = ?1 AND ino = ?2 AND idx = ?3 AND since = ?4",
            )?
            .query_row(key, |row| row.get(0))
            .optional()?;
        if let Some(Some(old)) = old {
            self.release(old)?;
        }
        match chunk {
            Some(chunk) => self.run(
                "UPDATE extent SET chunk = ?5 WHERE ws = ?1 AND ino = ?2 AND idx = ?3 AND since = ?4",
                params![key.0, key.1, key.2, key.3, chunk.row],
            )?,
            None => {
                self.run("DELETE FROM extent WHERE ws = ?1 AND ino = ?2 AND idx = ?3 AND since = ?4", key)?;
                self.hide_extents(ino, index, index)?
            }
        };
        Ok(())
    }

    /// Where a snapshot still has extents in this range, says that they are holes now.
    fn hide_extents(&self, ino: Ino, first: u64, last: u64) -> StoreResult<usize> {
        if self.epoch == 0 {
            return Ok(0);
        }
        self.run(
            "INSERT OR IGNORE INTO extent (ws, ino, idx, since, chunk)
             SELECT DISTINCT ws, ino, idx, ?5, NULL FROM extent
             WHERE ws = ?1 AND ino = ?2 AND idx BETWEEN ?3 AND ?4 AND since < ?5",
            params![self.ws, ino as i64, first as i64, last.min(i64::MAX as u64) as i64, self.epoch],
        )
    }

    fn cut_extents(&self, ino: Ino, from: u64) -> StoreResult<()> {
        let params = params![self.ws, ino as i64, from as i64, self.epoch];
        let deleted: Vec<Option<i64>> = self
            .connection
            .prepare_cached(
                "DELETE FROM extent WHERE ws = ?1 AND ino = ?2 AND idx >= ?3 AND since = ?4 RETURNING chunk",
            )?
            .query_map(params, |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for chunk in deleted.into_iter().flatten() {
            self.release(chunk)?;
        }
        self.hide_extents(ino, from, u64::MAX)?;
        Ok(())
    }

    fn drop_inline(&self, ino: Ino) -> StoreResult<()> {
        let key = params![self.ws, ino as i64, self.epoch];
        self.run("DELETE FROM content WHERE ws = ?1 AND ino = ?2 AND since = ?3", key)?;
        if self.epoch > 0 {
            self.run(
                "INSERT INTO content (ws, ino, since, dead, data)
                 SELECT ws, ino, ?3, 1, x'' FROM content WHERE ws = ?1 AND ino = ?2 AND since < ?3 LIMIT 1",
                key,
            )?;
        }
        Ok(())
    }

    fn put_xattrs(&self, ino: Ino, xattrs: &Xattrs) -> StoreResult<()> {
        self.drop_xattrs(ino)?;
        for (name, value) in xattrs {
            self.run(
                "INSERT INTO xattr (ws, ino, name, since, value) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET dead = 0, value = ?5",
                params![self.ws, ino as i64, name, self.epoch, value],
            )?;
        }
        Ok(())
    }

    fn drop_xattrs(&self, ino: Ino) -> StoreResult<()> {
        let key = params![self.ws, ino as i64, self.epoch];
        self.run("DELETE FROM xattr WHERE ws = ?1 AND ino = ?2 AND since = ?3", key)?;
        if self.epoch > 0 {
            self.run(
                "INSERT INTO xattr (ws, ino, name, since, dead, value)
                 SELECT DISTINCT ws, ino, name, ?3, 1, x'' FROM xattr WHERE ws = ?1 AND ino = ?2 AND since < ?3",
                key,
            )?;
        }
        Ok(())
    }

    /// Takes a node out of the store; leaves a tombstone of that revision, if there is one.
    fn remove(&self, ino: Ino, revision: Option<Revision>) -> StoreResult<()> {
        let key = params![self.ws, ino as i64, self.epoch];
        let there = self.run("DELETE FROM inode WHERE ws = ?1 AND ino = ?2 AND since = ?3", key)?;
        let mut hidden = 0;
        if self.epoch > 0 {
            hidden = self.run(
                "INSERT INTO inode SELECT ws, ino, ?3, 1, ?4, kind, mode, uid, gid, rdev, nlink, size, allocated,
                        atime, mtime, ctime, btime, parent, next_cookie, storage, has_xattrs, content_rev FROM inode
                 WHERE ws = ?1 AND ino = ?2 AND since < ?3 ORDER BY since DESC LIMIT 1",
                params![self.ws, ino as i64, self.epoch, revision.unwrap_or(0) as i64],
            )?;
        }
        if there + hidden == 0 {
            return Ok(());
        }
        if let Some(revision) = revision {
            self.run(
                "INSERT OR IGNORE INTO tombstone (ws, rev, ino) VALUES (?1, ?2, ?3)",
                params![self.ws, revision as i64, ino as i64],
            )?;
        }
        self.drop_inline(ino)?;
        self.drop_xattrs(ino)?;
        self.drop_dirents(ino)?;
        let many = self
            .connection
            .prepare_cached("SELECT 1 FROM extent WHERE ws = ?1 AND ino = ?2 LIMIT 1 OFFSET ?3")?
            .exists(params![self.ws, ino as i64, EXTENTS_AT_ONCE as i64])?;
        if many && self.epoch == 0 {
            self.run("INSERT OR IGNORE INTO doomed (ws, ino) VALUES (?1, ?2)", params![self.ws, ino as i64])?;
            return Ok(());
        }
        self.cut_extents(ino, 0)
    }

    fn drop_dirents(&self, parent: Ino) -> StoreResult<()> {
        let key = params![self.ws, parent as i64, self.epoch];
        self.run("DELETE FROM dirent WHERE ws = ?1 AND parent = ?2 AND since = ?3", key)?;
        if self.epoch > 0 {
            self.run(
                "INSERT INTO dirent (ws, parent, name, since, dead, ino, kind, cookie)
                 SELECT DISTINCT ws, parent, name, ?3, 1, 0, 1, 0 FROM dirent
                 WHERE ws = ?1 AND parent = ?2 AND since < ?3",
                key,
            )?;
        }
        Ok(())
    }
}
