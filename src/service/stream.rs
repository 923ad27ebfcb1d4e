//! A file's bytes, in and out, a portion at a time.

use super::failure::{About, Applied};
use super::path::{Last, Spot, names_dir};
use super::{Failure, Files, Outcome};
use crate::error::{FsError, FsResult};
use crate::store::rows::{Ino, Kind};
use crate::vfs::{Attr, NewNode, SetAttr, Vfs};
use std::sync::Arc;

/// Most bytes of one portion that is read.
pub(super) const MAX_PORTION: usize = 1 << 20;

/// How often the end of a stream is tried again when somebody makes and removes the name meanwhile.
const TRIES: usize = 16;

/// A node that is kept alive.
pub(super) struct Held {
    vfs: Arc<Vfs>,
    pub(super) ino: Ino,
}

impl Held {
    fn of(vfs: &Arc<Vfs>, ino: Ino) -> FsResult<Self> {
        vfs.hold(ino)?;
        Ok(Self { vfs: Arc::clone(vfs), ino })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.vfs.release(self.ino);
    }
}

/// The bytes of a file, in order.
pub struct Source {
    files: Files,
    file: Held,
    path: Vec<u8>,
    at: u64,
    end: u64,
}

impl Source {
    /// At most `count` bytes, and whether there is no more.
    pub fn next(&mut self, count: usize) -> Outcome<(Vec<u8>, bool)> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let count = count.clamp(1, MAX_PORTION).min(left);
        if count == 0 {
            return Ok((Vec::new(), true));
        }
        self.files.vfs.pull(self.file.ino);
        let bytes = self.files.vfs.read(self.file.ino, self.at, count).about(&self.path)?;
        self.at += bytes.len() as u64;
        let end = bytes.len() < count || self.at == self.end;
        Ok((bytes, end))
    }
}

/// What becomes of a file that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfExists {
    /// It gets the new bytes.
    #[default]
    Replace,
    /// `EEXIST`.
    Fail,
    /// It must be there.
    Require,
}

/// How a file is to be written.
#[derive(Clone, Copy, Debug)]
pub struct WriteQuery {
    /// Permission bits of a file that is made.
    pub mode: u32,
    /// What becomes of a file that is there.
    pub if_exists: IfExists,
    /// Makes the directories that are missing.
    pub make_dirs: bool,
    /// A file that is replaced gets `mode` too.
    pub set_mode: bool,
}

impl Default for WriteQuery {
    fn default() -> Self {
        Self { mode: 0o644, if_exists: IfExists::default(), make_dirs: false, set_mode: false }
    }
}

/// Where the bytes of a file go until all are there.
pub struct Sink {
    files: Files,
    /// `None` once it is done.
    staged: Option<Held>,
    path: Vec<u8>,
    query: WriteQuery,
    at: u64,
    failed: Option<Failure>,
}

impl Files {
    /// The bytes of a file, or of a range of it.
    pub fn read_file(&self, path: &[u8], offset: u64, length: u64) -> Outcome<(Attr, Source)> {
        let ino = self.file_at(path)?.ino;
        let file = Held::of(&self.vfs, ino).about(path)?;
        let attr = self.vfs.attr_now(ino).about(path)?;
        let end = offset.saturating_add(length);
        Ok((attr, Source { files: self.clone(), file, path: path.to_vec(), at: offset, end }))
    }

    /// A file to be made or replaced.
    pub fn write_file(&self, path: &[u8], query: WriteQuery) -> Outcome<Sink> {
        let staged = match self.spot(path, Last::Follow) {
            Err(failure) if query.make_dirs && failure.code == "ENOENT" && !names_dir(path) => {
                self.make_dirs(parent_of(path), 0o755)?;
                let staged = self.spot(path, Last::Follow).and_then(|spot| self.begin(&spot, path, &query));
                staged.map_err(|failure| failure.after(Applied::Yes))?
            }
            spot => self.begin(&spot?, path, &query)?,
        };
        Ok(Sink {
            files: self.clone(),
            staged: Some(staged),
            path: path.to_vec(),
            query,
            at: 0,
            failed: None,
        })
    }

    fn begin(&self, spot: &Spot, path: &[u8], query: &WriteQuery) -> Outcome<Held> {
        check_target(spot.node.as_ref(), query.if_exists).about(path)?;
        self.stage(spot.dir, query.mode).about(path)
    }

    /// A file without a name.
    pub(super) fn stage(&self, dir: Ino, mode: u32) -> FsResult<Held> {
        let new = NewNode { kind: Kind::File, mode: mode & 0o7777, umask: 0, rdev: 0 };
        let attr = self.vfs.tmpfile(self.caller, dir, new)?;
        Ok(Held { vfs: Arc::clone(&self.vfs), ino: attr.ino })
    }
}

fn parent_of(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let slash = path[..end].iter().rposition(|byte| *byte == b'/');
    slash.map_or(&b"."[..], |slash| &path[..slash.max(1)])
}

fn check_target(there: Option<&Attr>, if_exists: IfExists) -> FsResult<()> {
    match (there, if_exists) {
        (Some(_), IfExists::Fail) => Err(FsError::Exists),
        (None, IfExists::Require) => Err(FsError::NotFound),
        (Some(there), _) => match there.kind {
            Kind::File => Ok(()),
            Kind::Dir => Err(FsError::IsDir),
            _ => Err(FsError::Invalid("not a regular file")),
        },
        (None, _) => Ok(()),
    }
}

fn over() -> Failure {
    Failure::protocol("the file is done: nothing can be added")
}

impl Sink {
    /// Adds bytes. What goes wrong is also remembered for [`Sink::done`].
    pub fn write(&mut self, bytes: &[u8]) -> Outcome<()> {
        if let Some(failure) = &self.failed {
            return Err(failure.clone());
        }
        let written = super::files::check_data(bytes).and_then(|()| {
            let staged = self.staged.as_ref().ok_or_else(over)?;
            Ok(self.files.vfs.write(self.files.caller, staged.ino, self.at, bytes, false)?)
        });
        self.at += bytes.len() as u64;
        written.about(&self.path).inspect_err(|failure| self.failed = Some(failure.clone()))
    }

    /// All bytes are there: the file appears, or gets them.
    pub fn done(&mut self, sync: bool) -> Outcome<Attr> {
        if let Some(failure) = &self.failed {
            // Whoever asks again is told again: not all of the bytes are there.
            self.staged = None;
            return Err(failure.clone());
        }
        let staged = self.staged.take().ok_or_else(over).about(&self.path)?;
        let attr = self.appear(staged.ino)?;
        drop(staged);
        if sync {
            let synced = self.files.vfs.sync().about(&self.path);
            synced.map_err(|failure| failure.after(Applied::Yes))?;
        }
        Ok(attr)
    }

    fn appear(&mut self, staged: Ino) -> Outcome<Attr> {
        let vfs = &self.files.vfs;
        let mut failure = Failure::from(FsError::Exists);
        for _ in 0..TRIES {
            let spot = self.files.spot(&self.path, Last::Follow)?;
            check_target(spot.node.as_ref(), self.query.if_exists).about(&self.path)?;
            let appeared = match spot.node {
                None => vfs.link(self.files.caller, staged, spot.dir, &spot.name),
                Some(there) => self.replace(&there, staged),
            };
            match appeared {
                Ok(attr) => return Ok(attr),
                Err(error @ (FsError::Exists | FsError::Stale)) => failure = error.into(),
                Err(error) => return Err(error).about(&self.path),
            }
        }
        Err(failure.at(&self.path))
    }

    fn replace(&self, there: &Attr, staged: Ino) -> FsResult<Attr> {
        let (vfs, caller) = (&self.files.vfs, self.files.caller);
        let attr = vfs.replace_content(caller, there.ino, staged, None)?;
        let attr = attr.ok_or(FsError::Stale)?;
        if !self.query.set_mode {
            return Ok(attr);
        }
        vfs.setattr(caller, there.ino, &SetAttr { mode: Some(self.query.mode), ..SetAttr::default() })
    }
}
