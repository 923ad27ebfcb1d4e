//! A look at the workspace as it was at one moment, while it goes on.

use super::durable::Files;
use super::error::{StoreError, StoreResult};
use super::group::Xattrs;
use super::read;
use super::rows::{ChunkId, Dirent, Ino, InodeRow, Name, Revision, WorkspaceId};
use super::write::Writer;
use super::{Store, open};
use parking_lot::{MutexGuard, RwLockReadGuard};
use rusqlite::{Connection, OptionalExtension, params};

/// One moment of a workspace. For as long as it is held the WAL cannot be folded beyond it; of a store in memory
/// nothing can be written meanwhile, and nothing else of that store may be called by the thread that holds it.
pub struct Snapshot<'a> {
    connection: Held<'a>,
    ws: WorkspaceId,
    revision: Revision,
}

enum Held<'a> {
    Own { store: &'a Store, connection: Option<Connection>, _reading: Option<RwLockReadGuard<'a, ()>> },
    Writer(MutexGuard<'a, Writer>),
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Self::Own { store, connection, .. } = self
            && let Some(connection) = connection.take()
            && connection.execute_batch("COMMIT").is_ok()
        {
            store.readers.lock().push(connection);
        }
    }
}

impl Store {
    /// The workspace as it is in the store now.
    pub fn snapshot(&self, ws: WorkspaceId) -> StoreResult<Snapshot<'_>> {
        let connection = match self.location.path() {
            None => Held::Writer(self.writer.lock()),
            Some(path) => {
                let reading = self.files.as_deref().map(Files::reading);
                let idle = self.readers.lock().pop();
                let connection = idle.map_or_else(|| open::reader(path), Ok)?;
                connection.execute_batch("BEGIN")?;
                Held::Own { store: self, connection: Some(connection), _reading: reading }
            }
        };
        let mut snapshot = Snapshot { connection, ws, revision: 0 };
        snapshot.revision =
            snapshot
                .reader()?
                .query_row("SELECT revision FROM workspace WHERE id = ?1", [ws], |row| row.get::<_, i64>(0))?
                as Revision;
        Ok(snapshot)
    }
}

impl Snapshot<'_> {
    pub(super) fn reader(&self) -> StoreResult<&Connection> {
        match &self.connection {
            Held::Own { connection: Some(connection), .. } => Ok(connection),
            Held::Own { connection: None, .. } => Err(StoreError::Corrupt("a snapshot is over".into())),
            Held::Writer(writer) => Ok(&writer.connection),
        }
    }

    pub(super) fn ws(&self) -> WorkspaceId {
        self.ws
    }

    /// The last revision in it.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// A node's row.
    pub fn inode(&self, ino: Ino) -> StoreResult<Option<InodeRow>> {
        read::inode(self.reader()?, self.ws, ino)
    }

    /// The names of a node, each with the directory it is in.
    pub fn names_of(&self, ino: Ino) -> StoreResult<Vec<(Ino, Name)>> {
        read::names_of(self.reader()?, self.ws, ino)
    }

    /// The names in a directory.
    pub fn dirents(&self, parent: Ino) -> StoreResult<Vec<Dirent>> {
        read::dirents(self.reader()?, self.ws, parent)
    }

    /// Where a name leads.
    pub fn child(&self, parent: Ino, name: &[u8]) -> StoreResult<Option<Ino>> {
        let sql = "SELECT ino, dead FROM dirent WHERE ws = ?1 AND parent = ?2 AND name = ?3 ORDER BY since DESC LIMIT 1";
        let found = self
            .reader()?
            .prepare_cached(sql)?
            .query_row(params![self.ws, parent as i64, name], |row| {
                Ok((row.get::<_, i64>(0)? as Ino, row.get::<_, bool>(1)?))
            })
            .optional()?;
        Ok(found.and_then(|(ino, dead)| (!dead).then_some(ino)))
    }

    /// The bytes of a small file, or a symlink's target.
    pub fn inline(&self, ino: Ino) -> StoreResult<Option<Vec<u8>>> {
        read::inline(self.reader()?, self.ws, ino)
    }

    /// The chunks of a file, by index.
    pub fn extents(&self, ino: Ino) -> StoreResult<Vec<(u64, ChunkId)>> {
        read::extents(self.reader()?, self.ws, ino)
    }

    /// The bytes of a chunk.
    pub fn chunk(&self, id: ChunkId) -> StoreResult<Option<Vec<u8>>> {
        read::chunk(self.reader()?, id, <[u8]>::to_vec)
    }

    /// A node's extended attributes.
    pub fn xattrs(&self, ino: Ino) -> StoreResult<Xattrs> {
        read::xattrs(self.reader()?, self.ws, ino)
    }

    /// Nodes that changed after a revision, gone ones included, in the order of their last changes: about `limit` of them,
    /// and then all others of the last one's revision. Returns them with the revision up to which that is all.
    pub fn changed_after(&self, after: Revision, limit: usize) -> StoreResult<(Vec<Changed>, Revision)> {
        let last: Option<i64> = self
            .reader()?
            .prepare_cached(
                "SELECT max(rev) FROM (SELECT rev FROM
                   (SELECT rev FROM inode WHERE ws = ?1 AND rev > ?2 ORDER BY rev LIMIT ?3)
                   UNION ALL SELECT rev FROM (SELECT rev FROM tombstone WHERE ws = ?1 AND rev > ?2 ORDER BY rev LIMIT ?3)
                 ORDER BY rev LIMIT ?3)",
            )?
            .query_row(params![self.ws, after as i64, limit as i64], |row| row.get(0))?;
        let Some(last) = last else { return Ok((Vec::new(), self.revision)) };
        let mut statement = self.reader()?.prepare_cached(
            "SELECT rev, ino, nlink = 0 FROM inode WHERE ws = ?1 AND rev > ?2 AND rev <= ?3 AND dead = 0
             UNION ALL SELECT rev, ino, 1 FROM tombstone WHERE ws = ?1 AND rev > ?2 AND rev <= ?3 ORDER BY 1, 2",
        )?;
        let rows = statement.query_map(params![self.ws, after as i64, last], |row| {
            Ok(Changed {
                revision: row.get::<_, i64>(0)? as Revision,
                ino: row.get::<_, i64>(1)? as Ino,
                gone: row.get(2)?,
            })
        })?;
        let changed: Vec<Changed> = rows.collect::<Result<_, _>>()?;
        let up_to = if changed.len() < limit { self.revision } else { last as Revision };
        Ok((changed, up_to))
    }
}

/// A node that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is what its name says")]
pub struct Changed {
    pub revision: Revision,
    pub ino: Ino,
    pub gone: bool,
}
