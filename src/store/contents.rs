//! Where the bytes of objects are, and which objects the files' contents are: a cache of sync, noted as it is found out.

use super::Store;
use super::error::StoreResult;
use super::fault::Point;
use super::rows::{Ino, Revision, WorkspaceId};
use super::snapshot::Snapshot;
use super::sync::HashBytes;
use rusqlite::{OptionalExtension, Transaction, params};
use std::sync::atomic::Ordering;

/// The id of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the table")]
pub struct ContentRow {
    pub size: u64,
    pub hash: HashBytes,
    pub depth: u8,
}

/// Where the bytes of an object are: in a file, or, of a page, here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the table")]
pub struct PieceRow {
    pub hash: HashBytes,
    pub ino: Ino,
    pub at: u64,
    pub len: u64,
    pub page: Option<Vec<u8>>,
}

/// One time that the objects in a file are noted a few at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass(u64);

impl Snapshot<'_> {
    /// The id of a file's content as of a revision of its content, if it has been found out.
    pub fn content_id(&self, ino: Ino, revision: Revision) -> StoreResult<Option<ContentRow>> {
        let sql = "SELECT size, hash, depth FROM sync_content WHERE ws = ?1 AND ino = ?2 AND revision = ?3";
        let found = self.reader()?.prepare_cached(sql)?.query_row(
            params![self.ws(), ino as i64, revision as i64],
            |row| {
                Ok(ContentRow { size: row.get::<_, i64>(0)? as u64, hash: row.get(1)?, depth: row.get(2)? })
            },
        );
        Ok(found.optional()?)
    }
}

impl Store {
    /// Notes where objects are, and the ids of files' contents, each as of a revision of it, in place of what was noted of the file
    /// before. All at once: who has an id does not look for the objects again.
    pub fn put_contents(
        &self,
        ws: WorkspaceId,
        contents: &[(Ino, Revision, ContentRow)],
        pieces: &[PieceRow],
    ) -> StoreResult<()> {
        self.noting(|tx| put(tx, ws, contents, pieces))
    }

    /// Forgets what was noted of the objects in a file. They are noted anew, a few at a time.
    pub fn begin_pieces(&self, ws: WorkspaceId, ino: Ino) -> StoreResult<Pass> {
        self.noting(|tx| {
            self.forget_pieces(tx, ws, ino)?;
            let pass = Pass(self.next_pass.fetch_add(1, Ordering::Relaxed));
            self.passes.lock().insert(ino, pass);
            Ok(pass)
        })
    }

    /// Notes what is left of objects that were noted a few at a time, and the contents, but for those of which something was forgotten
    /// since.
    pub fn end_pieces(
        &self,
        ws: WorkspaceId,
        contents: &[(Ino, Revision, ContentRow, Option<Pass>)],
        pieces: &[PieceRow],
    ) -> StoreResult<()> {
        self.noting(|tx| {
            let mut passes = self.passes.lock();
            let mut whole = Vec::with_capacity(contents.len());
            for (ino, revision, id, pass) in contents {
                if pass.is_none() || passes.get(ino) == pass.as_ref() {
                    passes.remove(ino);
                    whole.push((*ino, *revision, *id));
                }
            }
            put(tx, ws, &whole, pieces)
        })
    }

    fn forget_pieces(&self, tx: &Transaction<'_>, ws: WorkspaceId, ino: Ino) -> StoreResult<()> {
        self.passes.lock().remove(&ino);
        tx.execute("DELETE FROM sync_piece WHERE ws = ?1 AND ino = ?2", params![ws, ino as i64])?;
        tx.execute("DELETE FROM sync_content WHERE ws = ?1 AND ino = ?2", params![ws, ino as i64])?;
        Ok(())
    }

    /// Where an object may be. Files may have changed since.
    pub fn pieces(&self, ws: WorkspaceId, hash: &HashBytes) -> StoreResult<Vec<PieceRow>> {
        self.with_reader(|reader| {
            let sql = "SELECT hash, ino, at, len, page FROM sync_piece WHERE ws = ?1 AND hash = ?2 LIMIT 16";
            let mut statement = reader.prepare_cached(sql)?;
            let rows = statement.query_map(params![ws, hash], |row| {
                Ok(PieceRow {
                    hash: row.get(0)?,
                    ino: row.get::<_, i64>(1)? as Ino,
                    at: row.get::<_, i64>(2)? as u64,
                    len: row.get::<_, i64>(3)? as u64,
                    page: row.get(4)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// What was noted of the objects in a file is no longer so.
    pub fn drop_pieces(&self, ws: WorkspaceId, ino: Ino) -> StoreResult<()> {
        self.noting(|tx| self.forget_pieces(tx, ws, ino))
    }

    /// The bytes of one file have become another one's, and maybe those of more: what was noted of them goes for it as well.
    pub fn copy_pieces(&self, ws: WorkspaceId, from: Ino, to: Ino) -> StoreResult<()> {
        self.faults.pass(Point::Pieces)?;
        self.noting(|tx| {
            self.passes.lock().remove(&to);
            tx.execute("DELETE FROM sync_piece WHERE ws = ?1 AND ino = ?2", params![ws, to as i64])?;
            tx.execute(
                "INSERT INTO sync_piece SELECT ws, hash, ?3, at, len, page FROM sync_piece WHERE ws = ?1 AND ino = ?2",
                params![ws, from as i64, to as i64],
            )?;
            Ok(())
        })
    }
}

fn put(
    tx: &Transaction<'_>,
    ws: WorkspaceId,
    contents: &[(Ino, Revision, ContentRow)],
    pieces: &[PieceRow],
) -> StoreResult<()> {
    let mut insert =
        tx.prepare_cached("INSERT OR REPLACE INTO sync_piece VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    for PieceRow { hash, ino, at, len, page } in pieces {
        insert.execute(params![ws, hash, *ino as i64, *at as i64, *len as i64, page])?;
    }
    let mut insert =
        tx.prepare_cached("INSERT OR REPLACE INTO sync_content VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    for (ino, revision, id) in contents {
        insert.execute(params![ws, *ino as i64, *revision as i64, id.size as i64, id.hash, id.depth])?;
    }
    Ok(())
}
