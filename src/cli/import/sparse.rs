//! Files with holes as GNU tar has them in archives: what is no hole, one after the other, and a map of where that belongs. In
//! the PAX format the map is in the member's header (versions 0.0 and 0.1) or before its bytes (1.0); in that of GNU tar it is
//! in the header and in records after it.

use std::io::{self, Read};
use std::ops::Range;

/// Most parts between holes: all of the map is kept in memory.
const MAX_PARTS: u64 = 1 << 22;

/// Bytes of a record; the map before the bytes is filled up to whole ones.
const RECORD: usize = 512;

pub(super) struct Sparse {
    /// The file's name, where the member has one that stands for it.
    pub(super) name: Option<Vec<u8>>,
    /// The file's size.
    pub(super) size: u64,
    /// An offset and a length for each part; none when that is before the bytes.
    map: Option<Vec<u64>>,
}

impl Sparse {
    /// What a member says of the holes in it, if it does.
    pub(super) fn of<R: Read>(member: &mut tar::Entry<'_, R>) -> io::Result<Option<Self>> {
        let (mut name, mut size, mut map, mut is_in_header) = (None, None, Vec::new(), true);
        for extension in member.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            let value = extension.value_bytes();
            match extension.key() {
                Ok("GNU.sparse.major") => is_in_header = number(value)? == 0,
                Ok("GNU.sparse.name") => name = Some(value.to_vec()),
                Ok("GNU.sparse.size" | "GNU.sparse.realsize") => size = Some(number(value)?),
                Ok("GNU.sparse.offset" | "GNU.sparse.numbytes") => map.push(number(value)?),
                Ok("GNU.sparse.map") if !value.is_empty() => {
                    let most = 2 * MAX_PARTS as usize + 2;
                    let numbers = value.split(|byte| *byte == b',').map(number);
                    map = numbers.take(most).collect::<io::Result<_>>()?;
                }
                _ => {}
            }
            few(map.len() as u64 / 2)?;
        }
        Ok(size.map(|size| Self { name, size, map: is_in_header.then_some(map) }))
    }

    /// The same of a member in GNU tar's own format. `headers` begins with its header.
    pub(super) fn of_oldest<R: Read>(member: &tar::Entry<'_, R>, headers: &[u8]) -> io::Result<Option<Self>> {
        let header = member.header();
        let Some(gnu) = header.as_gnu().filter(|_| header.entry_type().is_gnu_sparse()) else {
            return Ok(None);
        };
        let (mut map, mut is_more) = (Vec::new(), gnu.is_extended());
        add_parts(&gnu.sparse, &mut map)?;
        for record in headers.as_chunks::<RECORD>().0.iter().skip(1) {
            if !is_more {
                break;
            }
            let mut more = tar::GnuExtSparseHeader::new();
            more.as_mut_bytes().copy_from_slice(record);
            add_parts(more.sparse(), &mut map)?;
            is_more = more.is_extended();
        }
        Ok(Some(Self { name: None, size: gnu.real_size()?, map: Some(map) }))
    }

    /// Where in the file the bytes that follow belong, part by part; `stored` is how many the member has.
    pub(super) fn parts(self, bytes: &mut impl Read, stored: u64) -> io::Result<Vec<Range<u64>>> {
        let (map, stored) = match self.map {
            Some(map) => (map, stored),
            None => read_map(bytes).map(|(map, length)| (map, stored.saturating_sub(length)))?,
        };
        let (pairs, rest) = map.as_chunks::<2>();
        let part = |[offset, length]: &[u64; 2]| {
            let end = offset.checked_add(*length).filter(|end| *end <= self.size);
            end.map(|end| *offset..end).ok_or_else(senseless)
        };
        let parts = pairs.iter().map(part).collect::<io::Result<Vec<_>>>()?;
        let mapped = parts.iter().try_fold(0, |sum: u64, part| sum.checked_add(part.end - part.start));
        if rest.is_empty() && mapped == Some(stored) { Ok(parts) } else { Err(senseless()) }
    }
}

fn add_parts(parts: &[tar::GnuSparseHeader], map: &mut Vec<u64>) -> io::Result<()> {
    for part in parts.iter().filter(|part| !part.is_empty()) {
        map.extend([part.offset()?, part.length()?]);
    }
    Ok(())
}

/// Numbers, a line each: first how many pairs there are. And how many bytes the map takes.
fn read_map(bytes: &mut impl Read) -> io::Result<(Vec<u64>, u64)> {
    let (mut numbers, mut line, mut left) = (Vec::new(), Vec::new(), None);
    let mut length = 0;
    loop {
        let mut record = [0; RECORD];
        bytes.read_exact(&mut record).map_err(|_| senseless())?;
        length += RECORD as u64;
        for byte in record {
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            let found = number(&line)?;
            line.clear();
            left = match left {
                None => Some(2 * few(found)?),
                Some(left) => {
                    numbers.push(found);
                    Some(left - 1)
                }
            };
            if left == Some(0) {
                return Ok((numbers, length));
            }
        }
        if line.len() > RECORD {
            return Err(senseless());
        }
    }
}

/// A number of parts, if it is not too large.
fn few(parts: u64) -> io::Result<u64> {
    if parts <= MAX_PARTS {
        return Ok(parts);
    }
    Err(io::Error::other(format!("the map of its holes has more than {MAX_PARTS} parts")))
}

fn number(text: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(senseless)
}

fn senseless() -> io::Error {
    io::Error::other("the map of its holes makes no sense")
}
