//! A tree as a directory of this machine.

use crate::cli::talk::Failure;
use crate::cli::trees::{Meta, XattrValue, os, runs};
use rustix::fs::{AtFlags, Timespec, Timestamps, XattrFlags, utimensat};
use std::fs::{self, File, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Zeros of this length become holes.
const HOLE: usize = 4096;

pub(super) struct ToDirectory {
    root: PathBuf,
    /// They get their attributes last.
    directories: Vec<(PathBuf, Meta)>,
    file: Option<(PathBuf, File)>,
}

impl ToDirectory {
    /// Into a directory that is not there, or empty.
    pub(super) fn new(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        if fs::read_dir(root)?.next().is_some() {
            return Err(io::Error::other("the directory is not empty: empty it, or give another"));
        }
        Ok(Self { root: root.to_owned(), directories: Vec::new(), file: None })
    }

    fn place(&self, below: &[u8]) -> PathBuf {
        if below.is_empty() { self.root.clone() } else { self.root.join(os(below)) }
    }

    pub(super) fn directory(&mut self, below: &[u8], meta: Meta) -> Result<(), Failure> {
        let place = self.place(below);
        if !below.is_empty() {
            fs::create_dir(&place).map_err(Failure::local(&place))?;
        }
        self.directories.push((place, meta));
        Ok(())
    }

    pub(super) fn symlink(&self, below: &[u8], to: &[u8], meta: &Meta) -> Result<(), Failure> {
        let place = self.place(below);
        std::os::unix::fs::symlink(os(to), &place).map_err(Failure::local(&place))?;
        set(&place, meta).map_err(Failure::local(&place))
    }

    pub(super) fn hard_link(&self, below: &[u8], first: &[u8]) -> Result<(), Failure> {
        let place = self.place(below);
        fs::hard_link(self.place(first), &place).map_err(Failure::local(&place))
    }

    pub(super) fn begin(&mut self, below: &[u8]) -> Result<(), Failure> {
        let place = self.place(below);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&place);
        self.file = Some((place.clone(), file.map_err(Failure::local(&place))?));
        Ok(())
    }

    pub(super) fn bytes(&mut self, portion: &[u8]) -> Result<(), Failure> {
        let Some((place, file)) = &mut self.file else { return Ok(()) };
        let failed = Failure::local(place);
        let start = file.stream_position().map_err(&failed)?;
        for run in runs(portion, HOLE) {
            file.seek(SeekFrom::Start(start + run.start as u64)).map_err(&failed)?;
            file.write_all(&portion[run]).map_err(&failed)?;
        }
        file.seek(SeekFrom::Start(start + portion.len() as u64)).map(drop).map_err(&failed)
    }

    pub(super) fn end(&mut self, _: &[u8], meta: &Meta) -> Result<(), Failure> {
        let Some((place, mut file)) = self.file.take() else { return Ok(()) };
        let failed = Failure::local(&place);
        let size = file.stream_position().map_err(&failed)?;
        file.set_len(size).map_err(&failed)?;
        drop(file);
        set(&place, meta).map_err(&failed)
    }

    pub(super) fn finish(self) -> Result<(), Failure> {
        for (place, meta) in self.directories.iter().rev() {
            set(place, meta).map_err(Failure::local(place))?;
        }
        Ok(())
    }
}

/// Owner, mode, extended attributes and times, in the order in which none takes another away.
fn set(place: &Path, meta: &Meta) -> io::Result<()> {
    // Who is not root keeps what is made.
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(place, Some(meta.uid), Some(meta.gid))?;
    }
    if !meta.is_symlink {
        fs::set_permissions(place, Permissions::from_mode(meta.mode))?;
    }
    for XattrValue { name, value } in &meta.xattrs {
        match rustix::fs::lsetxattr(place, name.as_slice(), value, XattrFlags::empty()) {
            // A disk, or a user, that cannot have this one.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::PERM) => {
                tracing::warn!(?place, "an extended attribute cannot be kept here");
            }
            done => done?,
        }
    }
    let time = |nanos: i64| Timespec {
        tv_sec: nanos.div_euclid(1_000_000_000),
        tv_nsec: nanos.rem_euclid(1_000_000_000),
    };
    let times = Timestamps { last_access: time(meta.atime), last_modification: time(meta.mtime) };
    Ok(utimensat(rustix::fs::CWD, place, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
