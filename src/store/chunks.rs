//! Writing chunks: shared by their hash, or changed in place where nobody else has them.
//!
//! A chunk that one extent alone points to can be changed where it is. That saves writing all of it, and collecting
//! the old one, for the few bytes that a database changes between two calls of `fsync`. Who reads never notices:
//! an id stands for the same bytes for ever, so the changed chunk gets a new one, and who looks for the old one
//! finds it gone, as with any chunk that was overwritten. What is new of it is its version: the extent, which names its
//! row, need not be written.

use super::blocks::Blocks;
use super::buf::Buf;
use super::error::{StoreError, StoreResult};
use super::group::{ExtentChange, Group, NodeChange};
use super::read;
use super::rows::{CHUNK, ChunkId, Ino};
use super::write::Batch;
use rusqlite::{OptionalExtension, params};
use std::sync::atomic::Ordering;

/// With more changed bytes than this, finding the place costs more than it saves.
const PART_MAX: usize = CHUNK / 4 * 3;

/// What became of a changed part of a chunk.
pub(super) enum Part {
    /// It is in place; the chunk's new id.
    InPlace(ChunkId),
    /// The chunk has grown beyond its room.
    Grown,
    /// The chunk has to be written whole.
    Otherwise,
    /// It has to be written whole, and this is it.
    Whole(Vec<u8>),
}

impl Batch<'_> {
    /// Counts the extents of the group that point at chunks which are there already. Comes first, so that no such
    /// chunk is changed in place.
    pub(super) fn keep_shared(&self, group: &Group) -> StoreResult<()> {
        for change in group.nodes.values() {
            let NodeChange::Put(put) = change else { continue };
            for extent in put.content.extents.values() {
                if let ExtentChange::Chunk(id) = extent {
                    self.run("UPDATE chunk SET refs = refs + 1 WHERE id = ?1", [id.row])?;
                }
            }
        }
        Ok(())
    }

    /// The chunk with these bytes and this hash, with one more reference.
    pub(super) fn put_chunk(&self, bytes: &[u8], hash: &[u8; 32]) -> StoreResult<ChunkId> {
        let present = self
            .connection
            .prepare_cached("UPDATE chunk SET refs = refs + 1 WHERE hash = ?1 RETURNING id")?
            .query_row([hash], |row| row.get(0))
            .optional()?;
        match present {
            // What has a hash was never changed.
            Some(row) => Ok(ChunkId { row, version: 0 }),
            None => self.add_chunk(bytes, bytes.len(), Some(hash), 1),
        }
    }

    /// A chunk with these bytes that nothing refers to yet, unless there is one; whether there was none.
    pub(super) fn put_unused_chunk(&self, buf: &Buf) -> StoreResult<bool> {
        let hash = *buf.hash().as_bytes();
        let present =
            self.connection.prepare_cached("SELECT 1 FROM chunk WHERE hash = ?1")?.exists([hash])?;
        if !present {
            self.add_chunk(buf, buf.len(), Some(&hash), 0)?;
        }
        Ok(!present)
    }

    /// A chunk of its own with these bytes, and room to grow in place.
    pub(super) fn put_roomy_chunk(&self, buf: &[u8]) -> StoreResult<ChunkId> {
        let mut roomy = buf.to_vec();
        roomy.resize(CHUNK, 0);
        self.add_chunk(&roomy, buf.len(), None, 1)
    }

    fn add_chunk(&self, data: &[u8], len: usize, hash: Option<&[u8; 32]>, refs: i64) -> StoreResult<ChunkId> {
        let row = self.next_chunk.fetch_add(1, Ordering::Relaxed);
        self.run(
            "INSERT INTO chunk (id, refs, len, data, room, hash) VALUES (?1, ?2, ?3, ?1, ?4, ?5)",
            params![row, refs, len as i64, data.len() as i64, hash],
        )?;
        self.run("INSERT INTO chunk_data (id, data) VALUES (?1, ?2)", params![row, data])?;
        Ok(ChunkId { row, version: 0 })
    }

    /// One extent less names this row.
    pub(super) fn release(&self, row: i64) -> StoreResult<()> {
        self.run("UPDATE chunk SET refs = refs - 1 WHERE id = ?1", [row])?;
        Ok(())
    }

    /// Changes blocks of an extent's chunk, of which the others are not known.
    pub(super) fn put_patch(&self, ino: Ino, index: u64, buf: &[u8], blocks: Blocks) -> StoreResult<Part> {
        let part = self.put_in_place(ino, index, buf, blocks)?;
        if let Part::InPlace(_) = part {
            return Ok(part);
        }
        let mut whole = vec![0; CHUNK];
        let base = read::extent_chunk(self.connection, self.ws, ino, index, |bytes| {
            whole[..bytes.len()].copy_from_slice(bytes);
        });
        // Somebody else's doing; what is new, here and elsewhere, is not to be lost as well.
        match base {
            Ok(Some(())) => {}
            Ok(None) => {
                tracing::error!(
                    ino,
                    index,
                    "bytes of a file are missing in the store: they read as zeros now"
                );
            }
            Err(StoreError::Corrupt(why)) => {
                tracing::error!(ino, index, %why, "bytes of a file are damaged in the store: they read as zeros now");
            }
            Err(error) => return Err(error),
        }
        for range in blocks.ranges(CHUNK) {
            whole[range.clone()].copy_from_slice(&buf[range]);
        }
        Ok(Part::Whole(whole))
    }

    /// Changes a part of an extent's chunk in place, if that is worth it and nobody else has the chunk.
    pub(super) fn put_part(&self, ino: Ino, index: u64, buf: &[u8], part: Blocks) -> StoreResult<Part> {
        if part.bytes() > PART_MAX {
            return Ok(Part::Otherwise);
        }
        self.put_in_place(ino, index, buf, part)
    }

    fn put_in_place(&self, ino: Ino, index: u64, buf: &[u8], part: Blocks) -> StoreResult<Part> {
        let key = (self.ws, ino as i64, index as i64, self.epoch);
        let alone: Option<(i64, i64, i64, i64, i64, bool)> = self
            .connection
            .prepare_cached(
                "SELECT c.id, d.id, c.len, c.room, c.version, c.hash IS NULL FROM extent e JOIN chunk c ON c.id = e.chunk JOIN chunk_data d ON d.id = c.data
                 WHERE e.ws = ?1 AND e.ino = ?2 AND e.idx = ?3 AND e.since = ?4 AND c.refs = 1
                   AND length(d.data) = c.room",
            )?
            .query_row(key, |row| row.try_into())
            .optional()?;
        let Some((row, data, len, room, version, has_no_hash)) = alone else { return Ok(Part::Otherwise) };
        let Ok(version) = u32::try_from(version.saturating_add(1)) else { return Ok(Part::Otherwise) };
        let now = buf.len() as i64;
        if now > room {
            return Ok(Part::Grown);
        }
        if now < len {
            return Ok(Part::Otherwise);
        }
        let mut blob = self.connection.blob_open(rusqlite::MAIN_DB, "chunk_data", "data", data, false)?;
        for range in part.ranges(buf.len()) {
            blob.write_all_at(&buf[range.clone()], range.start)?;
        }
        blob.close()?;
        // An index is written when a column of it is set, whatever to.
        self.run(
            if has_no_hash {
                "UPDATE chunk SET version = ?2, len = ?3 WHERE id = ?1"
            } else {
                "UPDATE chunk SET version = ?2, len = ?3, hash = NULL WHERE id = ?1"
            },
            params![row, version, now],
        )?;
        Ok(Part::InPlace(ChunkId { row, version }))
    }
}
