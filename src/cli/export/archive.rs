//! A tree as a tar archive: headers of ustar, and extensions (PAX) for what does not fit them.

use crate::cli::out::Out;
use crate::cli::talk::Failure;
use crate::cli::trees::{Meta, XATTR};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};

/// Bytes of a record.
const RECORD: u64 = 512;

pub(super) struct ToArchive<'a> {
    builder: tar::Builder<Box<dyn Write + 'a>>,
    place: PathBuf,
    /// Bytes of the file that is being written.
    size: u64,
}

/// Standard output, with errors as those of any file.
struct Standard<'a>(&'a mut Out);

impl Write for Standard<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.raw(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(Failure::Out(error)) => Err(error),
            Err(_) => Err(io::Error::other("standard output cannot be written")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> ToArchive<'a> {
    /// Into a file, or to standard output.
    pub(super) fn new(out: &'a mut Out, place: Option<&Path>) -> io::Result<Self> {
        let writer: Box<dyn Write + 'a> = match place {
            Some(place) => Box::new(BufWriter::with_capacity(1 << 20, File::create(place)?)),
            None => Box::new(Standard(out)),
        };
        let place = place.unwrap_or(Path::new("standard output")).to_owned();
        Ok(Self { builder: tar::Builder::new(writer), place, size: 0 })
    }

    fn failed(&self) -> impl Fn(io::Error) -> Failure + use<> {
        let place = self.place.clone();
        move |error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Out(error),
            _ => Failure::Archive(place.clone(), error),
        }
    }

    pub(super) fn directory(&mut self, below: &[u8], meta: &Meta) -> Result<(), Failure> {
        let name = if below.is_empty() { b"./".to_vec() } else { [below, b"/"].concat() };
        self.header(EntryType::Directory, &name, meta, b"", 0)
    }

    pub(super) fn symlink(&mut self, below: &[u8], to: &[u8], meta: &Meta) -> Result<(), Failure> {
        self.header(EntryType::Symlink, below, meta, to, 0)
    }

    pub(super) fn hard_link(&mut self, below: &[u8], first: &[u8]) -> Result<(), Failure> {
        self.header(EntryType::Link, below, &Meta::default(), first, 0)
    }

    pub(super) fn begin(&mut self, below: &[u8], meta: &Meta, size: u64) -> Result<(), Failure> {
        self.size = size;
        self.header(EntryType::Regular, below, meta, b"", size)
    }

    pub(super) fn bytes(&mut self, portion: &[u8]) -> Result<(), Failure> {
        let failed = self.failed();
        self.builder.get_mut().write_all(portion).map_err(failed)
    }

    /// Fills up what a file that shrank meanwhile, or could not be read, left open, and the last record, so that what comes
    /// after it is found. Where nothing comes any more there is nothing to fill up for.
    pub(super) fn end(&mut self, missing: u64, read: Result<(), Failure>) -> Result<(), Failure> {
        if read.as_ref().is_err_and(Failure::is_last) {
            return read;
        }
        let failed = self.failed();
        let padding = (RECORD - self.size % RECORD) % RECORD;
        let mut zeros = io::Read::take(io::repeat(0), missing + padding);
        io::copy(&mut zeros, self.builder.get_mut()).map_err(&failed)?;
        read
    }

    pub(super) fn finish(mut self) -> Result<(), Failure> {
        let failed = self.failed();
        self.builder.finish().map_err(&failed)?;
        self.builder.get_mut().flush().map_err(&failed)
    }

    fn header(
        &mut self,
        kind: EntryType,
        name: &[u8],
        meta: &Meta,
        link: &[u8],
        size: u64,
    ) -> Result<(), Failure> {
        let failed = self.failed();
        let mut header = Header::new_ustar();
        let mut more: Vec<(String, Vec<u8>)> = Vec::new();
        header.set_entry_type(kind);
        header.set_mode(meta.mode);
        let mut fits = |key: &str, field: &mut [u8], value: &[u8]| {
            let end = value.len().min(field.len());
            field[..end].copy_from_slice(&value[..end]);
            if value.len() > field.len() {
                more.push((key.to_owned(), value.to_vec()));
            }
        };
        let old = header.as_old_mut();
        fits("path", &mut old.name, name);
        fits("linkpath", &mut old.linkname, link);
        let mut number = |key: &str, value: u64, most: u64| {
            if value > most {
                more.push((key.to_owned(), value.to_string().into_bytes()));
            }
            value.min(most)
        };
        header.set_uid(number("uid", meta.uid.into(), 0o7_777_777));
        header.set_gid(number("gid", meta.gid.into(), 0o7_777_777));
        header.set_size(number("size", size, 0o77_777_777_777));
        header.set_mtime(meta.mtime.div_euclid(1_000_000_000).clamp(0, 0o77_777_777_777) as u64);
        more.push(("mtime".to_owned(), decimal(meta.mtime).into_bytes()));
        more.push(("atime".to_owned(), decimal(meta.atime).into_bytes()));
        for xattr in &meta.xattrs {
            if let Ok(name) = std::str::from_utf8(&xattr.name) {
                more.push((format!("{XATTR}{name}"), xattr.value.clone()));
            }
        }
        if kind != EntryType::Link {
            let more = more.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
            self.builder.append_pax_extensions(more).map_err(&failed)?;
        } else {
            let more = more.iter().filter(|(key, _)| key.ends_with("path"));
            let more: Vec<_> = more.map(|(key, value)| (key.as_str(), value.as_slice())).collect();
            self.builder.append_pax_extensions(more).map_err(&failed)?;
        }
        header.set_cksum();
        self.builder.get_mut().write_all(header.as_bytes()).map_err(&failed)
    }
}

/// Seconds with nanoseconds, negative ones included.
fn decimal(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Applied, ClientError};

    /// With the daemon gone in the middle of a disk image, all the rest of that was written as zeros.
    #[test]
    fn a_file_is_filled_up_only_if_more_may_come() {
        let (url, reason, applied) = (String::new(), String::new(), Applied::No);
        let lost = Failure::Client(ClientError::Lost { url, reason, applied });
        let unreadable = Failure::Local(PathBuf::new(), io::Error::other("unreadable"));
        for (failure, length) in [(lost, 3 * RECORD), (unreadable, 22 * RECORD)] {
            let file = tempfile::NamedTempFile::new().unwrap();
            let mut out = Out::new();
            let mut archive = ToArchive::new(&mut out, Some(file.path())).unwrap();
            archive.begin(b"image", &Meta::default(), 19 * RECORD).unwrap();
            archive.end(19 * RECORD, Err(failure)).unwrap_err();
            archive.builder.get_mut().flush().unwrap();
            assert_eq!(file.as_file().metadata().unwrap().len(), length);
        }
    }
}
