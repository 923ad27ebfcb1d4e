//! Reading and writing bytes.

use super::content::{Fetched, Piece, Source, chunks_of};
use super::feed::ChangeKind;
use super::lookup::missing;
use super::node::{Meta, Node};
use super::privileges::take;
use super::types::{Attr, Author, Caller};
use super::{MAX_FILE_SIZE, Vfs};
use crate::clock::Timestamp;
use crate::error::{FsError, FsResult};
use crate::store::buf::Buf;
use crate::store::rows::{CHUNK, Ino, Kind, TARGET_MAX};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A time of access is not moved more often than this, unless the file has changed since (`relatime`).
const ATIME_AGE: i64 = 24 * 3600 * 1_000_000_000;

/// Where to write.
#[derive(Clone, Copy)]
enum At {
    Offset(u64),
    /// Pages that the kernel had: times are its business.
    Cached(u64),
    End,
}

impl At {
    fn range(self, size: u64, len: usize) -> FsResult<Range<u64>> {
        let start = match self {
            Self::Offset(offset) | Self::Cached(offset) => offset,
            Self::End => size,
        };
        let end = start.checked_add(len as u64).filter(|end| *end <= MAX_FILE_SIZE);
        Ok(start..end.ok_or(FsError::FileTooBig)?)
    }
}

/// What the store had for a part of a read.
enum Found {
    Nothing,
    /// Bytes that are the same for ever.
    Immutable,
    /// What is there now: right if nothing was changed meanwhile.
    Now,
}

impl Vfs {
    /// At most `size` bytes from `offset`; fewer only at the end of the file.
    pub fn read(&self, ino: Ino, offset: u64, size: usize) -> FsResult<Vec<u8>> {
        let node = self.node(ino)?;
        let bytes = self.read_counted(&node, offset, size)?;
        self.accessed(&node);
        Ok(bytes)
    }

    /// Like [`Vfs::read`], for a program that wants the time of access to stay.
    pub fn read_leaving_time(&self, ino: Ino, offset: u64, size: usize) -> FsResult<Vec<u8>> {
        self.read_counted(&self.node(ino)?, offset, size)
    }

    /// Does something that reads what the kernel is to keep.
    pub fn passing_on<T>(&self, read: impl FnOnce() -> T) -> T {
        self.store.passing_on(read)
    }

    fn read_counted(&self, node: &Arc<Node>, offset: u64, size: usize) -> FsResult<Vec<u8>> {
        check_file(node)?;
        let bytes = self.read_content(node, offset, size)?;
        self.bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    /// Like [`Vfs::read`], for whoever reads for no program: the time of access stays.
    pub fn read_quietly(&self, ino: Ino, offset: u64, size: usize) -> FsResult<Vec<u8>> {
        let node = self.node(ino)?;
        check_file(&node)?;
        self.read_content(&node, offset, size)
    }

    /// The target of a symlink.
    pub fn readlink(&self, ino: Ino) -> FsResult<Vec<u8>> {
        let node = self.node(ino)?;
        if node.kind != Kind::Symlink {
            return Err(FsError::Invalid("not a symlink"));
        }
        self.read_content(&node, 0, TARGET_MAX)
    }

    pub(super) fn read_content(&self, node: &Arc<Node>, offset: u64, size: usize) -> FsResult<Vec<u8>> {
        self.load_content(node)?;
        loop {
            let (pieces, revision, length) = {
                let meta = node.meta.read();
                let end = meta.row.size.min(offset.saturating_add(size as u64));
                let range = offset.min(end)..end;
                (meta.content.plan(range.clone()), meta.row.revision, (range.end - range.start) as usize)
            };
            let mut bytes = Vec::with_capacity(length);
            if self.assemble(node, pieces, revision, &mut bytes)? {
                return Ok(bytes);
            }
        }
    }

    /// Puts the pieces of a read together; false when the file changed below them.
    fn assemble(
        &self,
        node: &Node,
        pieces: Vec<Piece>,
        revision: u64,
        bytes: &mut Vec<u8>,
    ) -> FsResult<bool> {
        for piece in pieces {
            match piece {
                Piece::Zeros(count) => bytes.resize(bytes.len() + count, 0),
                Piece::Memory(buf, range) => bytes.extend_from_slice(&buf[range]),
                Piece::Stored(source, range) => {
                    let found = self.append_stored(node.ino, source, range, bytes)?;
                    let is_final = matches!(found, Found::Immutable);
                    if !is_final && node.meta.read().row.revision != revision {
                        return Ok(false);
                    }
                    if matches!(found, Found::Nothing) {
                        return Err(missing(node.ino, source));
                    }
                }
            }
        }
        Ok(true)
    }

    /// Adds bytes that the store has, and zeros for those that it does not keep.
    fn append_stored(
        &self,
        ino: Ino,
        source: Source,
        range: Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> FsResult<Found> {
        let mut append = |stored: &[u8]| {
            let end = range.end.min(stored.len()).max(range.start);
            bytes.extend_from_slice(stored.get(range.start..end).unwrap_or_default());
            bytes.resize(bytes.len() + range.end - end, 0);
        };
        match source {
            // Who reads all of it does not need it again soon: the kernel keeps it.
            Source::Chunk(id) if range.len() == CHUNK && self.chunks.get(&id).is_none() => {
                let found = self.store.chunk(id, append)?;
                Ok(found.map_or(Found::Nothing, |()| Found::Immutable))
            }
            Source::Chunk(id) | Source::Below(id, _) => {
                if let Some(buf) = self.chunk(id)? {
                    append(&buf);
                    return Ok(Found::Immutable);
                }
                let Some((_, buf)) = self.fetch(ino, source)? else { return Ok(Found::Nothing) };
                append(&buf);
                Ok(Found::Now)
            }
            Source::Inline(_) => {
                let Some((_, buf)) = self.fetch(ino, source)? else { return Ok(Found::Nothing) };
                append(&buf);
                Ok(Found::Now)
            }
        }
    }

    /// Moves the time of access, as `relatime` does.
    fn accessed(&self, node: &Arc<Node>) {
        let stale = |meta: &Meta, now: Timestamp| {
            let Meta { row, .. } = meta;
            row.atime <= row.mtime || row.atime <= row.ctime || now.0.saturating_sub(row.atime.0) > ATIME_AGE
        };
        if !stale(&node.meta.read(), Timestamp::now()) {
            return;
        }
        let op = self.begin(Author::Unknown);
        let mut meta = node.meta.write();
        if !meta.removed && op.now > meta.row.atime && stale(&meta, op.now) {
            meta.row.atime = op.now;
            op.changed_quietly(node, &mut meta);
        }
    }

    /// Writes all of `data` at `offset`, or fails. `unprivileged`: the write takes setuid and setgid away.
    pub fn write(
        &self,
        caller: Caller,
        ino: Ino,
        offset: u64,
        data: &[u8],
        unprivileged: bool,
    ) -> FsResult<()> {
        let node = self.node(ino)?;
        check_file(&node)?;
        self.pull_for(caller, ino);
        self.write_content(caller, &node, offset, data, unprivileged)?;
        self.tell(caller, |kernel| kernel.written(ino));
        Ok(())
    }

    /// Writes pages that the kernel had in its cache. It has stamped the file when the program wrote, and sends those times
    /// by themselves, before or after the pages; so the times stay.
    pub fn write_pages(&self, ino: Ino, offset: u64, data: &[u8], unprivileged: bool) -> FsResult<()> {
        let node = self.node(ino)?;
        check_file(&node)?;
        let nobody = Caller { by: Author::Unknown, ..Caller::DAEMON };
        self.write_at(nobody, &node, At::Cached(offset), data, unprivileged)
    }

    /// Writes all of `data` at the end of the file, wherever that is by then; returns its attributes.
    pub fn append(&self, caller: Caller, ino: Ino, data: &[u8]) -> FsResult<Attr> {
        let node = self.node(ino)?;
        check_file(&node)?;
        self.pull_for(caller, ino);
        self.write_at(caller, &node, At::End, data, caller.uid != 0)?;
        self.tell(caller, |kernel| kernel.written(ino));
        self.getattr(ino)
    }

    pub(super) fn write_content(
        &self,
        caller: Caller,
        node: &Arc<Node>,
        offset: u64,
        data: &[u8],
        unprivileged: bool,
    ) -> FsResult<()> {
        self.write_at(caller, node, At::Offset(offset), data, unprivileged)
    }

    fn write_at(
        &self,
        caller: Caller,
        node: &Arc<Node>,
        at: At,
        data: &[u8],
        unprivileged: bool,
    ) -> FsResult<()> {
        self.admit()?;
        self.load_content(node)?;
        self.load_xattrs(node)?;
        let taken = self.taken(node, caller, Some(unprivileged));
        loop {
            let range = at.range(node.meta.read().row.size, data.len())?;
            let fetched = self.fetch_bases(node, &range)?;
            let whole = self.whole_chunks(&range, data);
            let op = self.begin(caller.by);
            let mut meta = node.meta.write();
            if meta.removed {
                return Err(FsError::Stale);
            }
            if matches!(at, At::End) && meta.row.size != range.start {
                continue;
            }
            self.check_room(&meta, &range)?;
            if !self.overwrite(&mut meta, &range, (data, whole), &fetched) {
                continue;
            }
            let mut lost = false;
            let before = meta.row.allocated;
            if !data.is_empty() {
                meta.row.size = meta.row.size.max(range.end);
                if !matches!(at, At::Cached(_)) {
                    meta.row.mtime = op.now;
                    meta.row.ctime = op.now;
                }
                lost = take(&mut meta, taken);
            }
            op.changed(node, &mut meta);
            op.note(ChangeKind::Modified, node);
            if matches!(at, At::Cached(_)) && meta.row.allocated != before {
                self.has_grown_unseen(node.ino, meta.row.allocated);
            }
            self.bytes_written.fetch_add(data.len() as u64, Ordering::Relaxed);
            drop(meta);
            drop(op);
            if lost {
                self.tell_of_privileges(node);
            }
            return Ok(());
        }
    }

    fn fetch_bases(&self, node: &Node, range: &Range<u64>) -> FsResult<Vec<Fetched>> {
        self.fetch_all(node, |meta| {
            chunks_of(range.clone())
                .filter_map(|(index, within)| meta.content.base(index, &within, meta.row.size))
                .collect()
        })
    }

    /// Those chunks that a write replaces, in order, as they will be: with no lock held, so that several threads do this at
    /// once for one file, and with their hashes, for which the bytes are near now.
    fn whole_chunks(&self, range: &Range<u64>, data: &[u8]) -> Vec<Buf> {
        let mut rest = data;
        let mut whole = Vec::new();
        for (_, within) in chunks_of(range.clone()) {
            let (now, later) = rest.split_at(within.len());
            if now.len() == CHUNK {
                let buf = Buf::copied(now, &self.gauge);
                buf.hash();
                whole.push(buf);
            }
            rest = later;
        }
        whole
    }

    /// Puts the bytes in place, of which `whole` has the chunks that are replaced; false when something has to be fetched
    /// first.
    fn overwrite(
        &self,
        meta: &mut Meta,
        range: &Range<u64>,
        (data, whole): (&[u8], Vec<Buf>),
        fetched: &[Fetched],
    ) -> bool {
        let size = meta.row.size;
        let ready = |source: Source| fetched.iter().any(|(have, _)| *have == source);
        let mut bases =
            chunks_of(range.clone()).filter_map(|(index, within)| meta.content.base(index, &within, size));
        if !bases.all(ready) {
            return false;
        }
        drop(bases);
        let (mut rest, mut whole) = (data, whole.into_iter());
        for (index, within) in chunks_of(range.clone()) {
            let (now, later) = rest.split_at(within.len());
            let ready = if now.len() == CHUNK { whole.next() } else { None };
            let written = match ready {
                Some(buf) => meta.content.replace(index, buf, fetched, &self.gauge),
                None => meta.content.write(index, within.start, now, size, fetched, &self.gauge),
            };
            if !written {
                return false;
            }
            rest = later;
        }
        true
    }
}

pub(super) fn check_file(node: &Node) -> FsResult<()> {
    match node.kind {
        Kind::File => Ok(()),
        Kind::Dir => Err(FsError::IsDir),
        _ => Err(FsError::Invalid("not a regular file")),
    }
}
