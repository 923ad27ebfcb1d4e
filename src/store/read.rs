//! Reading what is now: of every row the version with the greatest `since`.

use super::Store;
use super::error::{StoreError, StoreResult};
use super::fault::Point;
use super::group::Xattrs;
use super::rows::{
    CHUNK, ChunkId, Dirent, FIRST_COOKIE, INLINE_MAX, Ino, InodeRow, Kind, MAX_FILE_SIZE, NUMBER_MAX, Name,
    ROOT, Revision, Storage, TARGET_MAX, WorkspaceId, is_name,
};
use crate::clock::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;

const INODE: &str =
    "SELECT ino, kind, rev, mode, uid, gid, rdev, nlink, size, allocated, atime, mtime, ctime, btime,
                            parent, next_cookie, storage, has_xattrs, content_rev, dead
                     FROM inode WHERE ws = ?1 AND ino = ?2 ORDER BY since DESC LIMIT 1";

/// What the store holds, for whoever watches it.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "each name says it; bytes where it ends in bytes, rows otherwise")]
pub struct Counts {
    pub inodes: u64,
    pub dirents: u64,
    pub xattrs: u64,
    pub extents: u64,
    pub chunks: u64,
    pub tombstones: u64,
    pub inline_bytes: u64,
    pub chunk_bytes: u64,
    pub logical_bytes: u64,
    pub orphaned_chunks: u64,
    pub orphaned_chunk_bytes: u64,
    pub free_pages: u64,
    pub page_bytes: u64,
}

impl Store {
    /// When the workspace was made here, nanoseconds since the epoch: it stays when the id becomes that of an upstream.
    pub fn created(&self, ws: WorkspaceId) -> StoreResult<i64> {
        self.with_reader(|reader| {
            Ok(reader.query_row("SELECT created FROM workspace WHERE id = ?1", [ws], |row| row.get(0))?)
        })
    }

    /// The workspace's id. Joining an upstream gives it that of the upstream.
    pub fn uuid(&self, ws: WorkspaceId) -> StoreResult<String> {
        self.with_reader(|reader| {
            Ok(reader.query_row("SELECT uuid FROM workspace WHERE id = ?1", [ws], |row| row.get(0))?)
        })
    }

    /// Counts rows and bytes. Reads whole indexes: for a store of a million files a good part of a second.
    pub fn counts(&self) -> StoreResult<Counts> {
        self.with_reader(|reader| {
            let one = |sql: &str| -> StoreResult<u64> {
                Ok(reader.query_row(sql, [], |row| row.get::<_, i64>(0))?.max(0) as u64)
            };
            Ok(Counts {
                inodes: one("SELECT count(*) FROM inode WHERE dead = 0")?,
                dirents: one("SELECT count(*) FROM dirent WHERE dead = 0")?,
                xattrs: one("SELECT count(*) FROM xattr WHERE dead = 0")?,
                extents: one("SELECT count(*) FROM extent")?,
                chunks: one("SELECT count(*) FROM chunk")?,
                tombstones: one("SELECT count(*) FROM tombstone")?,
                inline_bytes: one("SELECT coalesce(sum(length(data)), 0) FROM content")?,
                chunk_bytes: one("SELECT coalesce(sum(room), 0) FROM chunk")?,
                logical_bytes: one("SELECT coalesce(sum(size), 0) FROM inode WHERE dead = 0")?,
                orphaned_chunks: one("SELECT count(*) FROM chunk WHERE refs = 0")?,
                orphaned_chunk_bytes: one("SELECT coalesce(sum(room), 0) FROM chunk WHERE refs = 0")?,
                free_pages: one("PRAGMA freelist_count")?,
                page_bytes: one("PRAGMA page_size")?,
            })
        })
    }

    /// The last revision in the store, and the next new node's number.
    pub fn position(&self, ws: WorkspaceId) -> StoreResult<(Revision, Ino)> {
        self.with_reader(|reader| {
            let sql =
                "SELECT revision, max(next_ino, (SELECT coalesce(max(ino), 0) FROM inode WHERE ws = ?1) + 1)
                       FROM workspace WHERE id = ?1";
            let found = reader.query_row(sql, [ws], |row| Ok((row.get(0)?, row.get(1)?)));
            let found = found
                .optional()
                .map_err(|error| StoreError::from(error).at(format_args!("workspace {ws}")))?;
            let Some((revision, next_ino)) = found else {
                return Err(StoreError::Corrupt(format!("workspace {ws} has no row")));
            };
            let number = |what: &str, value: i64| {
                at_most(NUMBER_MAX, what, value).map_err(|error| error.at(format_args!("workspace {ws}")))
            };
            Ok((number("revision", revision)?, number("next node", next_ino)?))
        })
    }

    /// Nodes in the workspace, and the bytes allocated to their content.
    pub fn usage(&self, ws: WorkspaceId) -> StoreResult<(u64, u64)> {
        self.with_reader(|reader| {
            let sql = "SELECT count(*), coalesce(sum(allocated), 0) FROM
                       (SELECT allocated, dead, max(since) FROM inode WHERE ws = ?1 GROUP BY ino) WHERE dead = 0";
            Ok(reader.query_row(sql, [ws], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)))?)
        })
    }

    /// Nodes without a name, and with none in them, by what they say and by what there is: neither is believed alone.
    pub(super) fn orphans(&self, ws: WorkspaceId) -> StoreResult<Vec<Ino>> {
        self.with_reader(|reader| {
            let sql = "SELECT ino FROM inode o WHERE ws = ?1 AND nlink = 0 AND dead = 0 AND ino <> ?2
                       AND since = (SELECT max(since) FROM inode WHERE ws = o.ws AND ino = o.ino)
                       AND NOT EXISTS (SELECT 1 FROM dirent d WHERE ws = o.ws AND ino = o.ino AND dead = 0
                           AND since = (SELECT max(since) FROM dirent WHERE ws = d.ws AND parent = d.parent AND name = d.name))
                       AND NOT EXISTS (SELECT 1 FROM dirent d WHERE ws = o.ws AND parent = o.ino AND dead = 0
                           AND since = (SELECT max(since) FROM dirent WHERE ws = d.ws AND parent = d.parent AND name = d.name))";
            let mut statement = reader.prepare(sql)?;
            let rows =
                statement.query_map(params![ws, ROOT as i64], |row| row.get::<_, i64>(0).map(|ino| ino as u64))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Fails when there is no tree to serve.
    pub(super) fn check_root(&self, ws: WorkspaceId) -> StoreResult<()> {
        let what = match self.inode(ws, ROOT)? {
            Some(row) if row.kind == Kind::Dir && row.nlink > 0 => return Ok(()),
            Some(row) => format!("kind {}, {} links", row.kind as u8, row.nlink),
            None => "missing".to_owned(),
        };
        Err(StoreError::Corrupt(format!("the root directory, node {ROOT}: {what}")))
    }

    /// A node's row.
    pub fn inode(&self, ws: WorkspaceId, ino: Ino) -> StoreResult<Option<InodeRow>> {
        self.with_reader(|reader| inode(reader, ws, ino))
    }

    /// Several nodes' rows, in the order asked for.
    pub fn inodes(&self, ws: WorkspaceId, inos: &[Ino]) -> StoreResult<Vec<Option<InodeRow>>> {
        if inos.is_empty() {
            return Ok(Vec::new());
        }
        self.with_reader(|reader| inos.iter().map(|ino| inode(reader, ws, *ino)).collect())
    }

    /// The names in a directory, in no particular order.
    pub fn dirents(&self, ws: WorkspaceId, parent: Ino) -> StoreResult<Vec<Dirent>> {
        self.with_reader(|reader| dirents(reader, ws, parent))
    }

    /// The names of a node, each with the directory it is in.
    pub fn names_of(&self, ws: WorkspaceId, ino: Ino) -> StoreResult<Vec<(Ino, Name)>> {
        self.with_reader(|reader| names_of(reader, ws, ino))
    }

    /// The bytes of a small file, or a symlink's target.
    pub fn inline(&self, ws: WorkspaceId, ino: Ino) -> StoreResult<Option<Vec<u8>>> {
        self.with_reader(|reader| inline(reader, ws, ino))
    }

    /// The chunks of a file, by index.
    pub fn extents(&self, ws: WorkspaceId, ino: Ino) -> StoreResult<Vec<(u64, ChunkId)>> {
        self.with_reader(|reader| extents(reader, ws, ino))
    }

    /// What `take` makes of the bytes of a chunk; `None` when there is no such chunk any more.
    pub fn chunk<T>(&self, id: ChunkId, take: impl FnOnce(&[u8]) -> T) -> StoreResult<Option<T>> {
        self.faults.pass(Point::ChunkRead)?;
        self.with_reader(|reader| chunk(reader, id, take))
    }

    /// The same for the chunk that an extent of a file has.
    pub fn extent_chunk<T>(
        &self,
        ws: WorkspaceId,
        ino: Ino,
        index: u64,
        take: impl FnOnce(&[u8]) -> T,
    ) -> StoreResult<Option<T>> {
        self.faults.pass(Point::ChunkRead)?;
        self.with_reader(|reader| {
            // One look at the store: the extent and its chunk go together.
            let moment = reader.unchecked_transaction()?;
            extent_chunk(&moment, ws, ino, index, take)
        })
    }

    /// A node's extended attributes.
    pub fn xattrs(&self, ws: WorkspaceId, ino: Ino) -> StoreResult<Xattrs> {
        self.with_reader(|reader| xattrs(reader, ws, ino))
    }
}

pub(super) fn dirents(reader: &Connection, ws: WorkspaceId, parent: Ino) -> StoreResult<Vec<Dirent>> {
    let sql = "SELECT name, ino, kind, cookie, dead, max(since) FROM dirent
               WHERE ws = ?1 AND parent = ?2 GROUP BY name";
    let mut statement = reader.prepare_cached(sql)?;
    let mut rows = statement.query(params![ws, parent as i64])?;
    let mut dirents = Vec::new();
    while let Some(row) = rows.next()? {
        dirents.extend(dirent(row).map_err(|error| error.at(format_args!("directory {parent}")))?);
    }
    Ok(dirents)
}

/// `None`: the name is gone.
fn dirent(row: &Row<'_>) -> StoreResult<Option<Dirent>> {
    if row.get(4)? {
        return Ok(None);
    }
    let name = name(row.get_ref(0)?)?;
    let cookie = row.get::<_, i64>(3)?;
    if cookie < FIRST_COOKIE as i64 || cookie == i64::MAX {
        let name = String::from_utf8_lossy(&name);
        return Err(StoreError::Corrupt(format!("name {name:?} has cookie {cookie}")));
    }
    let ino = row.get::<_, i64>(1)? as u64;
    Ok(Some(Dirent { name, ino, kind: kind(row.get(2)?)?, cookie: cookie as u64 }))
}

fn name(value: ValueRef<'_>) -> StoreResult<Name> {
    match value {
        ValueRef::Blob(name) if is_name(name) => Ok(Name::from(name)),
        ValueRef::Blob(bytes) | ValueRef::Text(bytes) => {
            let (bytes, what) = (String::from_utf8_lossy(bytes), value.data_type());
            Err(StoreError::Corrupt(format!("{bytes:?} ({what}) cannot be a name")))
        }
        other => Err(StoreError::Corrupt(format!("{other:?} cannot be a name"))),
    }
}

pub(super) fn names_of(reader: &Connection, ws: WorkspaceId, ino: Ino) -> StoreResult<Vec<(Ino, Name)>> {
    let sql = "SELECT d.parent, d.name FROM dirent d INDEXED BY dirent_by_ino WHERE d.ws = ?1 AND d.ino = ?2 AND d.dead = 0
               AND d.since = (SELECT max(since) FROM dirent WHERE ws = d.ws AND parent = d.parent AND name = d.name)";
    let mut statement = reader.prepare_cached(sql)?;
    let mut rows = statement.query(params![ws, ino as i64])?;
    let mut names = Vec::new();
    while let Some(row) = rows.next()? {
        let name = name(row.get_ref(1)?).map_err(|error| error.at(format_args!("node {ino}")))?;
        names.push((row.get::<_, i64>(0)? as u64, name));
    }
    Ok(names)
}

pub(super) fn inline(reader: &Connection, ws: WorkspaceId, ino: Ino) -> StoreResult<Option<Vec<u8>>> {
    let sql = "SELECT data, dead FROM content WHERE ws = ?1 AND ino = ?2 ORDER BY since DESC LIMIT 1";
    let mut statement = reader.prepare_cached(sql)?;
    let mut rows = statement.query(params![ws, ino as i64])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    if row.get(1)? {
        return Ok(None);
    }
    match row.get_ref(0)? {
        ValueRef::Blob(data) if data.len() <= INLINE_MAX => Ok(Some(data.to_vec())),
        other => Err(StoreError::Corrupt(format!("node {ino}: {} inline", length(other)))),
    }
}

/// What is there instead of the right bytes.
fn length(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Blob(data) => format!("{} bytes", data.len()),
        other => other.data_type().to_string(),
    }
}

pub(super) fn extents(reader: &Connection, ws: WorkspaceId, ino: Ino) -> StoreResult<Vec<(u64, ChunkId)>> {
    let sql = "SELECT idx, chunk, version FROM
            (SELECT idx, chunk, max(since) FROM extent WHERE ws = ?1 AND ino = ?2 GROUP BY idx)
        LEFT JOIN chunk ON id = chunk";
    let mut statement = reader.prepare_cached(sql)?;
    let rows = statement.query_map(params![ws, ino as i64], |row| {
        // Who wants what is missing or damaged finds that it is.
        let version = row.get(2).unwrap_or(0);
        let chunk = row.get::<_, Option<i64>>(1)?.map(|row| ChunkId { row, version });
        Ok((row.get::<_, i64>(0)? as u64, chunk))
    })?;
    let mut extents = Vec::new();
    for row in rows {
        let (index, chunk) = row?;
        if index >= MAX_FILE_SIZE / CHUNK as u64 {
            return Err(StoreError::Corrupt(format!("node {ino}: an extent at {}", index as i64)));
        }
        extents.extend(chunk.map(|chunk| (index, chunk)));
    }
    Ok(extents)
}

pub(super) fn xattrs(reader: &Connection, ws: WorkspaceId, ino: Ino) -> StoreResult<Xattrs> {
    let sql = "SELECT name, value, dead, max(since) FROM xattr WHERE ws = ?1 AND ino = ?2 GROUP BY name";
    let mut statement = reader.prepare_cached(sql)?;
    let rows = statement.query_map(params![ws, ino as i64], |row| {
        Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, bool>(2)?))
    })?;
    let mut xattrs = Xattrs::new();
    for row in rows {
        let (name, value, dead) = row?;
        if !dead {
            xattrs.insert(name, value);
        }
    }
    Ok(xattrs)
}

pub(super) fn chunk<T>(
    reader: &Connection,
    ChunkId { row, version }: ChunkId,
    take: impl FnOnce(&[u8]) -> T,
) -> StoreResult<Option<T>> {
    chunk_at(reader, row, Some(version), take)
}

/// The same for any version of it, if none is given.
fn chunk_at<T>(
    reader: &Connection,
    row: i64,
    version: Option<u32>,
    take: impl FnOnce(&[u8]) -> T,
) -> StoreResult<Option<T>> {
    let sql = "SELECT d.data, c.len FROM chunk c JOIN chunk_data d ON d.id = c.data WHERE c.id = ?1 AND c.version = ifnull(?2, c.version)";
    let mut statement = reader.prepare_cached(sql)?;
    let mut rows = statement.query(params![row, version])?;
    let Some(found) = rows.next()? else { return Ok(None) };
    let (data, len) = (found.get_ref(0)?, found.get::<_, i64>(1)?);
    let bytes = match (data, usize::try_from(len)) {
        (ValueRef::Blob(data), Ok(len)) if data.len() <= CHUNK => data.get(..len),
        _ => None,
    };
    let Some(bytes) = bytes else {
        return Err(StoreError::Corrupt(format!("chunk {row}: {len} bytes in {}", length(data))));
    };
    Ok(Some(take(bytes)))
}

/// The same for the chunk that an extent has.
pub(super) fn extent_chunk<T>(
    reader: &Connection,
    ws: WorkspaceId,
    ino: Ino,
    index: u64,
    take: impl FnOnce(&[u8]) -> T,
) -> StoreResult<Option<T>> {
    let sql = "SELECT chunk FROM extent WHERE ws = ?1 AND ino = ?2 AND idx = ?3 ORDER BY since DESC LIMIT 1";
    let mut statement = reader.prepare_cached(sql)?;
    let row: Option<Option<i64>> =
        statement.query_row(params![ws, ino as i64, index as i64], |row| row.get(0)).optional()?;
    row.flatten().map_or(Ok(None), |row| chunk_at(reader, row, None, take))
}

pub(super) fn inode(reader: &Connection, ws: WorkspaceId, ino: Ino) -> StoreResult<Option<InodeRow>> {
    let mut statement = reader.prepare_cached(INODE)?;
    let mut rows = statement.query(params![ws, ino as i64])?;
    match rows.next()? {
        Some(row) => inode_row(row).map_err(|error| error.at(format_args!("node {ino}"))),
        None => Ok(None),
    }
}

/// `None`: the node is gone.
fn inode_row(row: &Row<'_>) -> StoreResult<Option<InodeRow>> {
    if row.get(19)? {
        return Ok(None);
    }
    let unsigned = |at: usize| row.get::<_, i64>(at).map(|value| value as u64);
    let time = |at: usize| row.get(at).map(Timestamp);
    let (kind, storage) = (kind(row.get(1)?)?, row.get(16)?);
    let size_max = if kind == Kind::Symlink { TARGET_MAX as u64 } else { MAX_FILE_SIZE };
    Ok(Some(InodeRow {
        ino: unsigned(0)?,
        kind,
        revision: unsigned(2)?,
        mode: row.get(3)?,
        uid: row.get(4)?,
        gid: row.get(5)?,
        rdev: row.get(6)?,
        nlink: row.get(7)?,
        size: at_most(size_max, "size", row.get(8)?)?,
        allocated: unsigned(9)?,
        atime: time(10)?,
        mtime: time(11)?,
        ctime: time(12)?,
        btime: time(13)?,
        parent: unsigned(14)?,
        next_cookie: at_most(i64::MAX as u64, "next cookie", row.get(15)?)?,
        storage: Storage::from_u8(storage)
            .ok_or_else(|| StoreError::Corrupt(format!("storage {storage}")))?,
        has_xattrs: row.get(17)?,
        content_revision: unsigned(18)?,
    }))
}

fn at_most(most: u64, what: &str, value: i64) -> StoreResult<u64> {
    let fits = u64::try_from(value).ok().filter(|value| *value <= most);
    fits.ok_or_else(|| StoreError::Corrupt(format!("{what} {value}")))
}

pub(super) fn kind(value: u8) -> StoreResult<Kind> {
    Kind::from_u8(value).ok_or_else(|| StoreError::Corrupt(format!("kind {value}")))
}
