//! The bytes of an archive: what is before its first member, and how much a member may say of itself.
//!
//! Of a file with holes in the oldest format the crate `tar` gives all of the holes too, and not the map of them. So what
//! is read of headers is kept here, and the bytes are taken past it.

use super::super::talk::Failure;
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;

/// Bytes of a header, and of the records of a header.
const RECORD: usize = 512;

/// Most bytes of a member's headers, names and map of holes: all of it is kept in memory at once.
const MAX_HEADERS: u64 = 32 << 20;

/// What compressed archives begin with, and what takes them apart.
const COMPRESSED: [(&[u8], &str); 4] =
    [(b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\0", "xz"), (b"BZh", "bzip2")];

/// Of the name that GNU tar gives to an archive (`tar -V`), its first header.
const LABEL: u8 = b'V';

/// An archive as it is read. All of one are the same.
#[derive(Clone)]
pub(super) struct Source(Rc<RefCell<Stream>>);

struct Stream {
    bytes: Box<dyn Read>,
    at: u64,
    /// Where the next member's headers begin at the earliest, and what has been read from there on.
    headers_at: u64,
    headers: Vec<u8>,
    /// How far it may be read.
    end: u64,
    /// How much was taken past the archive that it has not passed over yet.
    owed: u64,
}

impl Source {
    /// Opens an archive, or standard input; at its first member.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let failed = Failure::local(path);
        let mut bytes: Box<dyn Read> = if path == Path::new("-") {
            Box::new(io::stdin().lock())
        } else {
            Box::new(File::open(path).map_err(&failed)?)
        };
        let mut first = Vec::with_capacity(RECORD);
        bytes.by_ref().take(RECORD as u64).read_to_end(&mut first).map_err(&failed)?;
        if let Some((_, program)) = COMPRESSED.iter().find(|(magic, _)| first.starts_with(magic)) {
            let text = format!("compressed: take it apart with `{program} -dc`, and import - from the pipe");
            return Err(failed(io::Error::other(text)));
        }
        // Its numbers are left blank, which none of a member may be.
        if first.len() == RECORD && tar::Header::from_byte_slice(&first).entry_type().as_byte() == LABEL {
            first.clear();
        }
        let bytes = Box::new(io::Cursor::new(first).chain(bytes));
        let stream = Stream { bytes, at: 0, headers_at: 0, headers: Vec::new(), end: MAX_HEADERS, owed: 0 };
        Ok(Self(Rc::new(RefCell::new(stream))))
    }

    /// Lets the bytes of a member be read whose headers have been, and the headers of the next one. Gives what was read
    /// of this one's from a place on.
    pub(super) fn member(&self, size: u64, from: u64) -> Vec<u8> {
        let mut stream = self.0.borrow_mut();
        let before = from.saturating_sub(stream.headers_at);
        stream.headers_at = stream.at.saturating_add(size);
        stream.end = stream.headers_at.saturating_add(MAX_HEADERS);
        let mut headers = std::mem::take(&mut stream.headers);
        headers.drain(..usize::try_from(before).unwrap_or(usize::MAX).min(headers.len()));
        headers
    }

    /// The bytes of the member whose headers have been read. The archive then passes over as many that are none.
    pub(super) fn past_archive(&self) -> PastArchive {
        PastArchive(self.clone())
    }
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let stream = &mut *self.0.borrow_mut();
        if stream.owed > 0 {
            let passed = usize::try_from(stream.owed).unwrap_or(usize::MAX).min(into.len());
            into[..passed].fill(0);
            stream.owed -= passed as u64;
            return Ok(passed);
        }
        let left = usize::try_from(stream.end - stream.at).unwrap_or(usize::MAX).min(into.len());
        if left == 0 && !into.is_empty() {
            let text = format!("the headers of a member have more than {MAX_HEADERS} bytes");
            return Err(io::Error::other(text));
        }
        let read = stream.bytes.read(&mut into[..left])?;
        let of_member = usize::try_from(stream.headers_at.saturating_sub(stream.at)).unwrap_or(usize::MAX);
        stream.headers.extend_from_slice(&into[of_member.min(read)..read]);
        stream.at += read as u64;
        Ok(read)
    }
}

pub(super) struct PastArchive(Source);

impl Read for PastArchive {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let stream = &mut *self.0.0.borrow_mut();
        let read = stream.bytes.read(into)?;
        stream.at += read as u64;
        stream.owed += read as u64;
        Ok(read)
    }
}
