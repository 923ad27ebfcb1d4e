//! Contents as they travel: cut at places that the bytes themselves choose, and addressed by hash.
//!
//! A file's data is cut into pieces by FastCDC (Xia et al., 2020; 16 to 256 KiB, 64 KiB on average), hole by hole; so a
//! byte inserted at the front of a large file changes one piece. The list of the pieces is cut into pages in the same
//! manner, and so on, until one page is left: its hash names the content. A file of at most [`SINGLE`] bytes is one
//! piece, and its hash is that of its bytes.
//!
//! A page is a row of records: `0`, the hash of what has one level less, its length in the file (8 bytes, little-endian);
//! or `1` and the length of a hole. A page ends after a record whose hash ends in a zero byte, and at 4,096 records.

use super::entry::{ContentId, Hash};
use crate::error::{FsError, FsResult};
use crate::store::contents::{ContentRow, PieceRow};
use crate::store::rows::{CHUNK, ChunkId, Ino, InodeRow, Kind, Storage};
use crate::store::snapshot::Snapshot;
use fastcdc::v2020::StreamCDC;
use std::io::{self, Read};

/// Bytes up to which a file is a single piece.
pub const SINGLE: u64 = 64 << 10;

const PIECE_MIN: usize = 16 << 10;
const PIECE_AVERAGE: usize = 64 << 10;
const PIECE_MAX: usize = super::link::OBJECT_MAX;

/// Most records of a page.
const PAGE_RECORDS: usize = 4096;

/// Pieces that are noted at once.
pub(super) const NOTE_AT: usize = if cfg!(test) { 16 } else { PAGE_RECORDS };

/// Levels of pages that a content may have: enough for 16 TiB in the smallest pieces and pages.
pub const MAX_DEPTH: u8 = 8;

const DATA: u8 = 0;
const HOLE: u8 = 1;

/// A record of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// What has this hash, so many bytes of the file.
    Data(Hash, u64),
    /// So many bytes of nothing.
    Hole(u64),
}

impl Record {
    fn len(self) -> u64 {
        match self {
            Self::Data(_, len) | Self::Hole(len) => len,
        }
    }

    fn write(self, page: &mut Vec<u8>) {
        match self {
            Self::Data(hash, len) => {
                page.push(DATA);
                page.extend_from_slice(&hash);
                page.extend_from_slice(&len.to_le_bytes());
            }
            Self::Hole(len) => {
                page.push(HOLE);
                page.extend_from_slice(&len.to_le_bytes());
            }
        }
    }
}

/// The records of a page; `None`: it is none.
pub fn records(page: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    let mut rest = page;
    while let Some((tag, after)) = rest.split_first() {
        let length = |bytes: &[u8]| bytes.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
        let (record, used) = match *tag {
            DATA => (Record::Data(*after.first_chunk::<32>()?, length(&after[32..])?), 40),
            HOLE => (Record::Hole(length(after)?), 8),
            _ => return None,
        };
        records.push(record);
        rest = &after[used..];
    }
    (!records.is_empty() && records.len() <= PAGE_RECORDS).then_some(records)
}

/// The BLAKE3 hash of an object.
pub fn hash(bytes: &[u8]) -> Hash {
    *blake3::hash(bytes).as_bytes()
}

/// What was found out about a file's content: its id, and where its objects are.
pub struct Cut {
    /// The id.
    pub id: ContentId,
    /// The objects, if there is more than one, or one that is too large to travel within its entry.
    pub pieces: Vec<PieceRow>,
    /// The bytes, if they are a single piece.
    pub bytes: Option<Vec<u8>>,
}

impl Cut {
    fn single(ino: Ino, bytes: Vec<u8>) -> Self {
        let id = ContentId { size: bytes.len() as u64, hash: hash(&bytes), depth: 0 };
        let large = id.size > super::link::INLINE;
        let piece = PieceRow { hash: id.hash, ino, at: 0, len: id.size, page: None };
        Self { id, pieces: if large { vec![piece] } else { Vec::new() }, bytes: Some(bytes) }
    }
}

/// Cuts the content of a file, or takes the target of a symlink. `note` is given pieces from time to time, so that few are in
/// memory; what it does not take is in the result.
pub fn cut(
    snapshot: &Snapshot<'_>,
    row: &InodeRow,
    note: &mut dyn FnMut(Vec<PieceRow>) -> FsResult<Vec<PieceRow>>,
) -> FsResult<Cut> {
    if row.kind == Kind::Symlink || row.size <= SINGLE {
        return Ok(Cut::single(row.ino, small(snapshot, row)?));
    }
    let extents = match row.storage {
        Storage::Empty => Vec::new(),
        Storage::Inline => vec![(0, None)],
        Storage::Chunks => {
            snapshot.extents(row.ino)?.into_iter().map(|(index, id)| (index, Some(id))).collect()
        }
    };
    let mut pages = Pages { ino: row.ino, levels: Vec::new(), pieces: Vec::new() };
    let mut at = 0;
    let mut rest = &extents[..];
    while let Some((first, _)) = rest.first() {
        let start = first * CHUNK as u64;
        if start > at {
            pages.add(0, Record::Hole(start - at));
        }
        let run = rest.iter().zip(*first..).take_while(|((index, _), expected)| index == expected).count();
        let (now, later) = rest.split_at(run);
        rest = later;
        at = cut_run(snapshot, row, now, &mut pages, note)?;
    }
    if at < row.size {
        pages.add(0, Record::Hole(row.size - at));
    }
    Ok(pages.finish(row.size))
}

/// Cuts one run of data; returns where it ends.
fn cut_run(
    snapshot: &Snapshot<'_>,
    row: &InodeRow,
    extents: &[Extent],
    pages: &mut Pages,
    note: &mut dyn FnMut(Vec<PieceRow>) -> FsResult<Vec<PieceRow>>,
) -> FsResult<u64> {
    let mut at = extents.first().map_or(0, |(index, _)| index * CHUNK as u64);
    let run = Run { snapshot, row, extents: extents.iter(), chunk: Vec::new(), used: 0 };
    for piece in StreamCDC::new(run, PIECE_MIN, PIECE_AVERAGE, PIECE_MAX) {
        let piece = piece.map_err(|error| FsError::Io(format!("cannot cut a file: {error}").into()))?;
        let (hash, len) = (hash(&piece.data), piece.data.len() as u64);
        pages.pieces.push(PieceRow { hash, ino: row.ino, at, len, page: None });
        pages.add(0, Record::Data(hash, len));
        at += len;
        if pages.pieces.len() >= NOTE_AT {
            pages.pieces = note(std::mem::take(&mut pages.pieces))?;
        }
    }
    Ok(at)
}

/// All bytes of a small file, or a symlink's target.
fn small(snapshot: &Snapshot<'_>, row: &InodeRow) -> FsResult<Vec<u8>> {
    let mut bytes = match row.storage {
        Storage::Empty => Vec::new(),
        Storage::Inline => snapshot.inline(row.ino)?.ok_or_else(|| missing(row))?,
        Storage::Chunks => match snapshot.extents(row.ino)?.first() {
            Some((_, id)) => snapshot.chunk(*id)?.ok_or_else(|| missing(row))?,
            None => Vec::new(),
        },
    };
    bytes.resize(row.size as usize, 0);
    Ok(bytes)
}

fn missing(row: &InodeRow) -> FsError {
    FsError::Io(format!("content of node {} is missing", row.ino).into())
}

/// An index, and the chunk that is there; `None`: what is there is inline.
type Extent = (u64, Option<ChunkId>);

/// A run of chunks without holes, as a stream.
struct Run<'a> {
    snapshot: &'a Snapshot<'a>,
    row: &'a InodeRow,
    extents: std::slice::Iter<'a, Extent>,
    chunk: Vec<u8>,
    used: usize,
}

impl Run<'_> {
    fn next_chunk(&mut self) -> FsResult<bool> {
        let Some((index, id)) = self.extents.next() else { return Ok(false) };
        let bytes = match id {
            None => self.snapshot.inline(self.row.ino)?,
            Some(id) => self.snapshot.chunk(*id)?,
        };
        self.chunk = bytes.ok_or_else(|| missing(self.row))?;
        let whole = (self.row.size - index * CHUNK as u64).min(CHUNK as u64);
        self.chunk.resize(whole as usize, 0);
        self.used = 0;
        Ok(true)
    }
}

impl Read for Run<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.used == self.chunk.len() {
            if !self.next_chunk().map_err(io::Error::other)? {
                return Ok(0);
            }
        }
        let count = buf.len().min(self.chunk.len() - self.used);
        buf[..count].copy_from_slice(&self.chunk[self.used..self.used + count]);
        self.used += count;
        Ok(count)
    }
}

/// Pages in the making, one a level.
struct Pages {
    ino: Ino,
    levels: Vec<Level>,
    pieces: Vec<PieceRow>,
}

#[derive(Default)]
struct Level {
    page: Vec<u8>,
    records: usize,
    len: u64,
    /// A page of this level has ended already.
    any: bool,
    only: Option<Record>,
}

impl Pages {
    fn add(&mut self, level: usize, record: Record) {
        if self.levels.len() == level {
            self.levels.push(Level::default());
        }
        let at = &mut self.levels[level];
        record.write(&mut at.page);
        at.records += 1;
        at.len += record.len();
        at.only = (at.records == 1 && !at.any).then_some(record);
        let ends = matches!(record, Record::Data(hash, _) if hash[31] == 0) || at.records >= PAGE_RECORDS;
        if ends {
            self.end(level);
        }
    }

    /// Ends a level's page, and lists it in the level above.
    fn end(&mut self, level: usize) {
        let at = &mut self.levels[level];
        let page = std::mem::take(&mut at.page);
        let len = std::mem::take(&mut at.len);
        at.records = 0;
        at.any = true;
        let hash = hash(&page);
        // Pages have no place in the file; their level keeps equal ones of one file apart from nothing else.
        self.pieces.push(PieceRow { hash, ino: self.ino, at: 0, len, page: Some(page) });
        self.add(level + 1, Record::Data(hash, len));
    }

    fn finish(mut self, size: u64) -> Cut {
        let mut level = 0;
        while let Some(at) = self.levels.get(level) {
            // A level with a single record, of data, is no level: the record is the root.
            if level + 1 == self.levels.len()
                && let Some(Record::Data(hash, _)) = at.only
            {
                let id = ContentId { size, hash, depth: level as u8 };
                return Cut { id, pieces: self.pieces, bytes: None };
            }
            if at.records > 0 {
                self.end(level);
            }
            level += 1;
        }
        // Only a file without any record comes here, and such a file is a single piece.
        Cut { id: ContentId { size, hash: hash(&[]), depth: 0 }, pieces: self.pieces, bytes: None }
    }
}

impl From<ContentId> for ContentRow {
    fn from(id: ContentId) -> Self {
        Self { size: id.size, hash: id.hash, depth: id.depth }
    }
}

impl From<ContentRow> for ContentId {
    fn from(row: ContentRow) -> Self {
        Self { size: row.size, hash: row.hash, depth: row.depth }
    }
}
