//! What `import` and `export` share: what belongs to a node beside its bytes, and where holes are.

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::ffi::{CString, OsStr};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// How extended attributes are called in an archive.
pub(super) const XATTR: &str = "SCHILY.xattr.";

/// Most bytes of an extended attribute, and of their names.
const XATTR_MAX: usize = 64 << 10;

/// What belongs to a node beside its bytes. Times are nanoseconds since 1970.
#[derive(Clone, Debug, Default)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) atime: i64,
    pub(super) mtime: i64,
    pub(super) is_symlink: bool,
    pub(super) xattrs: Vec<XattrValue>,
}

/// An extended attribute.
#[derive(Clone, Debug)]
pub(super) struct XattrValue {
    pub(super) name: Vec<u8>,
    pub(super) value: Vec<u8>,
}

impl Meta {
    /// Of something on this machine.
    pub(super) fn of(path: &Path, metadata: &Metadata) -> io::Result<Self> {
        let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        Ok(Self {
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            atime: nanos(metadata.atime(), metadata.atime_nsec()),
            mtime: nanos(metadata.mtime(), metadata.mtime_nsec()),
            is_symlink: metadata.is_symlink(),
            xattrs: xattrs_of(path)?,
        })
    }

    /// Of something in an archive.
    pub(super) fn of_member<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Self> {
        let header = entry.header();
        // GNU tar has times before 1970 as the complement of two.
        let mtime = (header.mtime()? as i64).saturating_mul(1_000_000_000);
        let mut meta = Self {
            mode: header.mode()? & 0o7777,
            uid: header.uid()? as u32,
            gid: header.gid()? as u32,
            atime: mtime,
            mtime,
            is_symlink: header.entry_type().is_symlink(),
            xattrs: Vec::new(),
        };
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            let Ok(key) = extension.key() else { continue };
            let value = extension.value_bytes();
            match key {
                "mtime" => meta.mtime = nanos_of(value).unwrap_or(meta.mtime),
                "atime" => meta.atime = nanos_of(value).unwrap_or(meta.atime),
                "uid" => meta.uid = number_of(value).unwrap_or(meta.uid),
                "gid" => meta.gid = number_of(value).unwrap_or(meta.gid),
                _ => {
                    if let Some(name) = key.strip_prefix(XATTR) {
                        meta.xattrs.push(XattrValue { name: name.into(), value: value.to_vec() });
                    }
                }
            }
        }
        Ok(meta)
    }
}

fn number_of(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `-12.5` is 12 and a half seconds before 1970.
fn nanos_of(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_negative = whole.starts_with('-');
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = part.chars().chain("000000000".chars()).take(9).collect();
    let nanos: i64 = digits.parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(if is_negative { -nanos } else { nanos })
}

fn xattrs_of(path: &Path) -> io::Result<Vec<XattrValue>> {
    let mut names = vec![0; XATTR_MAX];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Err(Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = CString::new(name)?;
        let mut value = vec![0; XATTR_MAX];
        match rustix::fs::lgetxattr(path, &name, &mut value) {
            Ok(length) => value.truncate(length),
            // Gone meanwhile, or for others' eyes.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => continue,
            Err(error) => return Err(error.into()),
        }
        found.push(XattrValue { name: name.into_bytes(), value });
    }
    Ok(found)
}

/// Where a file of this machine has bytes.
pub(super) fn data_of(file: &File) -> io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    loop {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return Ok(ranges),
            start => start?,
        };
        at = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        ranges.push(start..at);
    }
}

/// The parts of a portion between blocks of zeros.
pub(super) fn runs(portion: &[u8], block: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, bytes) in portion.chunks(block).enumerate() {
        let (start, end) = (index * block, index * block + bytes.len());
        if bytes.iter().all(|byte| *byte == 0) {
            continue;
        }
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

/// The place of an archive's member below a directory; `None` for one that leads out of it.
pub(super) fn inside(to: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let mut place = PathBuf::from(os(to));
    for part in Path::new(os(name)).components() {
        match part {
            Component::Normal(name) => place.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(place.into_os_string().into_encoded_bytes())
}

pub(super) fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_stay_inside() {
        assert_eq!(inside(b"dir", b"./a//b"), Some(b"dir/a/b".to_vec()));
        assert_eq!(inside(b".", b"/etc/passwd"), Some(b"./etc/passwd".to_vec()));
        assert_eq!(inside(b".", b"a/../../b"), None);
    }

    #[test]
    fn zeros_are_left_out_block_by_block() {
        assert_eq!(runs(&[1, 0, 0, 0, 0, 0, 5, 5, 5], 2), [0..2, 6..9]);
        assert!(runs(&[0; 9], 2).is_empty());
    }

    #[test]
    fn times_have_fractions_and_may_be_early() {
        assert_eq!(nanos_of(b"12.5"), Some(12_500_000_000));
        assert_eq!(nanos_of(b"-0.25"), Some(-250_000_000));
        assert_eq!(nanos_of(b"1"), Some(1_000_000_000));
        assert_eq!(nanos_of(b"x"), None);
    }
}
