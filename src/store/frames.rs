//! What a WAL holds, by its own checksums.
//!
//! SQLite looks at them only when it opens a WAL that somebody else has left. So this is how to find out that the kernel does
//! not have the bytes any more that it was given. Source: <https://sqlite.org/fileformat2.html#walformat>.

use std::collections::BTreeMap;

/// Bytes before the first frame.
const HEADER: usize = 32;

/// Bytes of a frame before its page.
const FRAME_HEADER: usize = 24;

/// The header's first bytes, but for the last bit, which says that checksums are of big-endian words.
const MAGIC: u32 = 0x377f_0682;

/// The frames at the beginning of a WAL, read piece by piece.
#[derive(Debug)]
pub(super) struct Frames {
    /// How many are looked at. What is behind them is of no transaction.
    wanted: u64,
    found: u64,
    header: Option<Header>,
    sum: (u32, u32),
    /// Bytes that are not a whole frame yet, and where in the file they begin.
    rest: Vec<u8>,
    at: u64,
    pages: BTreeMap<u32, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    page_size: usize,
    salts: [u8; 8],
    is_big_endian: bool,
}

impl Frames {
    /// The first `wanted` frames, of which none has been read yet.
    pub(super) fn new(wanted: u64) -> Self {
        Self { wanted, found: 0, header: None, sum: (0, 0), rest: Vec::new(), at: 0, pages: BTreeMap::new() }
    }

    /// Takes the bytes of the WAL that follow those it has. `false`: they are not those that SQLite wrote.
    pub(super) fn take(&mut self, bytes: &[u8]) -> bool {
        if self.are_all() {
            return true;
        }
        self.rest.extend_from_slice(bytes);
        let rest = std::mem::take(&mut self.rest);
        let mut left = &rest[..];
        while !self.are_all() {
            let length = self.header.map_or(HEADER, |header| FRAME_HEADER + header.page_size);
            let Some((next, others)) = left.split_at_checked(length) else { break };
            let is_right = match self.header {
                None => self.begin(next),
                Some(header) => self.frame(&header, next),
            };
            if !is_right {
                return false;
            }
            left = others;
            self.at += length as u64;
        }
        self.rest = left.to_vec();
        true
    }

    /// Whether all that were wanted are there.
    pub(super) fn are_all(&self) -> bool {
        self.found >= self.wanted
    }

    /// The pages in them, by number from 1, each with where in the WAL its newest version is.
    pub(super) fn pages(&self) -> &BTreeMap<u32, u64> {
        &self.pages
    }

    /// Bytes of a page.
    pub(super) fn page_size(&self) -> usize {
        self.header.map_or(0, |header| header.page_size)
    }

    fn begin(&mut self, bytes: &[u8]) -> bool {
        let magic = word(bytes, 0);
        let is_big_endian = magic & 1 == 1;
        self.sum = checksum((0, 0), &bytes[..HEADER - 8], is_big_endian);
        let mut salts = [0; 8];
        salts.copy_from_slice(&bytes[16..24]);
        let page_size = word(bytes, 8) as usize;
        self.header = Some(Header { page_size, salts, is_big_endian });
        magic & !1 == MAGIC
            && page_size.is_power_of_two()
            && page_size >= 512
            && self.sum_is(bytes, HEADER - 8)
    }

    fn frame(&mut self, header: &Header, bytes: &[u8]) -> bool {
        self.sum = checksum(self.sum, &bytes[..8], header.is_big_endian);
        self.sum = checksum(self.sum, &bytes[FRAME_HEADER..], header.is_big_endian);
        let page = word(bytes, 0);
        self.pages.insert(page, self.at + FRAME_HEADER as u64);
        self.found += 1;
        page > 0 && bytes[8..16] == header.salts && self.sum_is(bytes, 16)
    }

    fn sum_is(&self, bytes: &[u8], at: usize) -> bool {
        self.sum == (word(bytes, at), word(bytes, at + 4))
    }
}

/// The big-endian word there.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Goes on with a checksum, over pairs of words.
fn checksum(sum: (u32, u32), bytes: &[u8], is_big_endian: bool) -> (u32, u32) {
    bytes.chunks_exact(8).fold(sum, |(first, second), pair| {
        let words = [word(pair, 0), word(pair, 4)];
        let [one, two] = if is_big_endian { words } else { words.map(u32::swap_bytes) };
        let first = first.wrapping_add(one).wrapping_add(second);
        (first, second.wrapping_add(two).wrapping_add(first))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    /// A WAL with some frames in it; how many, and the database.
    fn wal(dir: &tempfile::TempDir) -> (Connection, Vec<u8>, u64) {
        let path = dir.path().join("db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch("PRAGMA page_size=8192; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t (b)")
            .unwrap();
        for _ in 0..20 {
            connection.execute("INSERT INTO t VALUES (randomblob(20000))", []).unwrap();
        }
        let frames =
            connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get::<_, i64>(1)).unwrap();
        (connection, std::fs::read(dir.path().join("db-wal")).unwrap(), frames as u64)
    }

    fn all(bytes: &[u8], frames: u64, piece: usize) -> Option<Frames> {
        let mut all = Frames::new(frames);
        bytes.chunks(piece).all(|piece| all.take(piece)).then_some(all).filter(Frames::are_all)
    }

    #[test]
    fn what_sqlite_wrote_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (connection, mut bytes, frames) = wal(&dir);
        bytes.extend_from_slice(b"of no transaction");
        for piece in [1 << 20, 8216, 4096, 999] {
            let all = all(&bytes, frames, piece).unwrap();
            assert_eq!(all.page_size(), 8192);
            let folded: i64 =
                connection.query_row("PRAGMA wal_checkpoint(FULL)", [], |row| row.get(2)).unwrap();
            assert_eq!(folded as u64, frames);
            let database = std::fs::read(dir.path().join("db")).unwrap();
            for (page, at) in all.pages() {
                let (page, at) = ((*page as usize - 1) * 8192, *at as usize);
                assert_eq!(database[page..page + 8192], bytes[at..at + 8192]);
            }
            assert_eq!(all.pages().len() * 8192, database.len());
        }
        assert!(all(&bytes, frames + 1, 4096).is_none(), "there are no more");
    }

    #[test]
    fn what_is_not_what_sqlite_wrote_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (_connection, bytes, frames) = wal(&dir);
        for at in (0..bytes.len()).step_by(4096).chain([3, 9, 17, 25, 33, 41, 50]) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(all(&damaged, frames, 1 << 20).is_none(), "byte {at}");
            let mut cut = bytes.clone();
            cut.truncate(at);
            assert!(all(&cut, frames, 1 << 20).is_none(), "byte {at}");
            let mut lost = bytes.clone();
            let end = lost.len().min(at + 4096);
            lost[at..end].fill(0);
            assert!(lost == bytes || all(&lost, frames, 1 << 20).is_none(), "byte {at}");
        }
    }
}
