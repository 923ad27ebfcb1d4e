//! The bytes of an archive: what is before its first member, and how much a member may say of itself.

use super::super::talk::Failure;
use std::cell::Cell;
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

/// An archive as it is read.
pub(super) struct Source {
    bytes: Box<dyn Read>,
    allowance: Allowance,
}

/// How far a source may be read.
#[derive(Clone)]
pub(super) struct Allowance {
    at: Rc<Cell<u64>>,
    end: Rc<Cell<u64>>,
}

impl Allowance {
    /// Lets the bytes of a member be read whose headers have been, and the headers of the next one.
    pub(super) fn member(&self, size: u64) {
        self.end.set(self.at.get().saturating_add(size).saturating_add(MAX_HEADERS));
    }
}

impl Source {
    /// Opens an archive, or standard input; at its first member.
    pub(super) fn open(path: &Path) -> Result<(Self, Allowance), Failure> {
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
        let allowance = Allowance { at: Rc::default(), end: Rc::new(Cell::new(MAX_HEADERS)) };
        let bytes = Box::new(io::Cursor::new(first).chain(bytes));
        Ok((Self { bytes, allowance: allowance.clone() }, allowance))
    }
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (at, end) = (self.allowance.at.get(), self.allowance.end.get());
        let left = usize::try_from(end - at).unwrap_or(usize::MAX).min(into.len());
        if left == 0 && !into.is_empty() {
            let text = format!("the headers of a member have more than {MAX_HEADERS} bytes");
            return Err(io::Error::other(text));
        }
        let read = self.bytes.read(&mut into[..left])?;
        self.allowance.at.set(at + read as u64);
        Ok(read)
    }
}
