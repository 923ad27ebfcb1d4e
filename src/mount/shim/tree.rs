//! The filesystem as a side of the shim: paths in, facts out.
//!
//! A node's number is its identity, its revision what moves with every change of it. What the shim writes comes back
//! through the change feed, and is found to be as agreed.

use crate::clock::Timestamp;
use crate::error::{FsError, FsResult};
use crate::store::rows::{Ino, Kind as NodeKind, Revision};
use crate::vfs::{Attr, Author, Caller, NewNode, Origin, RenameMode, SetAttr, SetTime, Vfs};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wsd_shim::path;
use wsd_shim::tree::{Outcome, UNTRUSTED};
use wsd_shim::{Attributes, Change, Changes, Facts, Fault, Kind, Stage, Tree};

/// Bytes that are read at a time.
const PORTION: usize = 1 << 20;

/// Changes that are taken from the feed at a time, and at most before it is cheaper to look at everything.
const CHANGES: usize = 4096;
const MOST_CHANGES: usize = 20_000;

/// The workspace.
pub(super) struct Workspace {
    vfs: Arc<Vfs>,
    caller: Caller,
    cursor: Mutex<Revision>,
    counter: AtomicU64,
}

fn facts(attr: &Attr) -> Facts {
    let kind = match attr.kind {
        NodeKind::File => Kind::File,
        NodeKind::Dir => Kind::Dir,
        NodeKind::Symlink => Kind::Symlink,
        NodeKind::Fifo | NodeKind::Socket | NodeKind::CharDevice | NodeKind::BlockDevice => Kind::Other,
    };
    Facts {
        id: attr.ino,
        kind,
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        size: attr.size,
        mtime: attr.mtime.0,
        change: attr.revision.max(UNTRUSTED + 1),
    }
}

fn fault(error: FsError) -> Fault {
    match error {
        FsError::NotFound | FsError::NotDir | FsError::Stale => Fault::NotFound,
        FsError::Exists => Fault::Exists,
        FsError::NotEmpty => Fault::NotEmpty,
        FsError::IsDir => Fault::Changed,
        FsError::NameTooLong | FsError::TooManyLinks | FsError::FileTooBig | FsError::Invalid(_) => {
            Fault::Unfit(error.to_string())
        }
        error => Fault::Io(error.to_string()),
    }
}

fn set_of(attributes: &Attributes) -> SetAttr {
    SetAttr {
        mode: Some(attributes.mode),
        uid: Some(attributes.uid),
        gid: Some(attributes.gid),
        mtime: Some(SetTime::At(Timestamp(attributes.mtime))),
        ..SetAttr::default()
    }
}

impl Workspace {
    pub(super) fn new(vfs: Arc<Vfs>) -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let cursor = Mutex::new(vfs.revision());
        let process = std::process::id();
        let caller = Caller { uid, gid, origin: Origin::Direct, by: Author::Unknown, process };
        Self { vfs, caller, cursor, counter: AtomicU64::new(0) }
    }

    fn find(&self, path: &[u8]) -> FsResult<Option<Attr>> {
        match self.vfs.resolve(path) {
            Ok(attr) => Ok(Some(attr)),
            Err(FsError::NotFound | FsError::NotDir | FsError::Stale | FsError::NameTooLong) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The directory that a path is in.
    fn dir_of(&self, path: &[u8]) -> Outcome<Ino> {
        let dir = self.vfs.resolve(path::split(path).0).map_err(fault)?;
        if dir.kind == NodeKind::Dir { Ok(dir.ino) } else { Err(Fault::NotFound) }
    }

    /// What is at a path, which must be what is expected.
    fn expect(&self, path: &[u8], expected: &Facts) -> Outcome<Attr> {
        let attr = self.find(path).map_err(fault)?.ok_or(Fault::Changed)?;
        let now = facts(&attr);
        let same = if now.kind == Kind::Dir { now.id == expected.id } else { now == *expected };
        if same && now.kind == expected.kind { Ok(attr) } else { Err(Fault::Changed) }
    }

    /// Puts what `make` makes in the place of what is there, or in a free one.
    fn put(
        &self,
        at: &[u8],
        replaces: Option<&Facts>,
        make: impl FnOnce(Ino, &[u8]) -> FsResult<Attr>,
    ) -> Outcome<Facts> {
        let (dir, name) = (self.dir_of(at)?, path::split(at).1);
        let Some(expected) = replaces else {
            return make(dir, name).map(|attr| facts(&attr)).map_err(fault);
        };
        let own = format!("{}", self.counter.fetch_add(1, Ordering::Relaxed));
        let own = [path::OWN_PREFIX, own.as_bytes()].concat();
        let made = make(dir, &own).map_err(fault)?;
        let renamed = self.expect(at, expected).and_then(|_| {
            self.vfs.rename(self.caller, (dir, &own), (dir, name), RenameMode::Replace).map_err(fault)
        });
        if renamed.is_err() {
            let _ = self.vfs.unlink(self.caller, dir, &own);
        }
        renamed?;
        let now = facts(&self.vfs.getattr(made.ino).map_err(fault)?);
        Ok(if now.has_bytes_of(&facts(&made)) { now } else { Facts { change: UNTRUSTED, ..facts(&made) } })
    }

    /// Removes a name of what is expected to be there; what was written to it at the last moment gets its name back.
    fn unlink(&self, at: &[u8], expected: &Facts) -> Outcome<()> {
        let (dir, name) = (self.dir_of(at)?, path::split(at).1);
        let ino = self.expect(at, expected)?.ino;
        self.vfs.hold(ino).map_err(fault)?;
        let removed = self.vfs.unlink(self.caller, dir, name).and_then(|()| {
            let after = facts(&self.vfs.getattr(ino)?);
            if after.has_bytes_of(expected) {
                return Ok(Ok(()));
            }
            self.vfs.link(self.caller, ino, dir, name)?;
            Ok(Err(Fault::Changed))
        });
        self.vfs.release(ino);
        removed.map_err(fault)?
    }
}

/// A file that comes together without a name.
struct Staged<'a> {
    workspace: &'a Workspace,
    ino: Ino,
    path: Vec<u8>,
    at: u64,
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        self.workspace.vfs.release(self.ino);
    }
}

impl Stage for Staged<'_> {
    fn write(&mut self, bytes: &[u8]) -> Outcome<()> {
        let Workspace { vfs, caller, .. } = self.workspace;
        vfs.write(*caller, self.ino, self.at, bytes, false).map_err(fault)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn place(
        self: Box<Self>,
        attributes: &Attributes,
        replaces: Option<&Facts>,
        keep_node: bool,
    ) -> Outcome<Facts> {
        let Workspace { vfs, caller, .. } = self.workspace;
        let set = set_of(attributes);
        if let Some(expected) = replaces.filter(|there| there.kind == Kind::File) {
            let there = self.workspace.expect(&self.path, expected)?;
            if keep_node || there.nlink == 1 {
                let replaced = vfs.replace_as(*caller, there.ino, self.ino, Some(there.revision), &set);
                return Ok(facts(&replaced.map_err(fault)?.ok_or(Fault::Changed)?));
            }
        }
        vfs.setattr(*caller, self.ino, &set).map_err(fault)?;
        self.workspace.put(&self.path, replaces, |dir, name| vfs.link(*caller, self.ino, dir, name))
    }
}

impl Tree for Workspace {
    fn list(&self, dir: &[u8]) -> Outcome<Vec<(Vec<u8>, Facts)>> {
        let node = self.vfs.resolve(dir).map_err(fault)?;
        if node.kind != NodeKind::Dir {
            return Err(Fault::NotFound);
        }
        let mut found = Vec::new();
        let listed = self.vfs.readdir_plus(self.caller, node.ino, 0, &mut |entry, attr| {
            if !matches!(&*entry.name, b"." | b"..") && !path::is_own(&entry.name) {
                found.push((entry.name.to_vec(), facts(attr)));
            }
            true
        });
        listed.map_err(fault)?;
        Ok(found)
    }

    fn look(&self, path: &[u8]) -> Outcome<Option<Facts>> {
        if path::is_own(path) {
            return Ok(None);
        }
        Ok(self.find(path).map_err(fault)?.map(|attr| facts(&attr)))
    }

    fn read(
        &self,
        path: &[u8],
        expected: &Facts,
        each: &mut dyn FnMut(&[u8]) -> Outcome<()>,
    ) -> Outcome<Facts> {
        let ino = self.vfs.resolve(path).map_err(fault)?.ino;
        if ino != expected.id {
            return Err(Fault::Changed);
        }
        self.vfs.hold(ino).map_err(fault)?;
        let mut read = || {
            let mut at = 0;
            loop {
                let bytes = self.vfs.read(ino, at, PORTION).map_err(fault)?;
                if bytes.is_empty() {
                    return Ok(facts(&self.vfs.getattr(ino).map_err(fault)?));
                }
                at += bytes.len() as u64;
                each(&bytes)?;
            }
        };
        let done = read();
        self.vfs.release(ino);
        done
    }

    fn target(&self, path: &[u8]) -> Outcome<Vec<u8>> {
        let attr = self.vfs.resolve(path).map_err(fault)?;
        if attr.kind != NodeKind::Symlink {
            return Err(Fault::Changed);
        }
        self.vfs.readlink(attr.ino).map_err(fault)
    }

    fn stage<'a>(&'a self, path: &[u8]) -> Outcome<Box<dyn Stage + 'a>> {
        let new = NewNode { kind: NodeKind::File, mode: 0o600, umask: 0, rdev: 0 };
        let ino = self.vfs.tmpfile(self.caller, self.dir_of(path)?, new).map_err(fault)?.ino;
        Ok(Box::new(Staged { workspace: self, ino, path: path.to_vec(), at: 0 }))
    }

    fn make_dir(&self, path: &[u8], attributes: &Attributes) -> Outcome<Facts> {
        let new = NewNode { kind: NodeKind::Dir, mode: attributes.mode, umask: 0, rdev: 0 };
        let dir = self.dir_of(path)?;
        let made = self.vfs.create(self.caller, dir, path::split(path).1, new).map_err(fault)?;
        let set = SetAttr { mtime: None, ..set_of(attributes) };
        Ok(facts(&self.vfs.setattr(self.caller, made.ino, &set).map_err(fault)?))
    }

    fn make_symlink(
        &self,
        path: &[u8],
        target: &[u8],
        attributes: &Attributes,
        replaces: Option<&Facts>,
    ) -> Outcome<Facts> {
        let set = SetAttr { uid: Some(attributes.uid), gid: Some(attributes.gid), ..SetAttr::default() };
        self.put(path, replaces, |dir, name| {
            let made = self.vfs.symlink(self.caller, dir, name, target)?;
            self.vfs.setattr(self.caller, made.ino, &set)
        })
    }

    fn link(&self, existing: &[u8], path: &[u8], replaces: Option<&Facts>) -> Outcome<Facts> {
        let ino = self.vfs.resolve(existing).map_err(fault)?.ino;
        if let Some(there) = replaces.filter(|there| there.id == ino) {
            return Ok(facts(&self.expect(path, there)?));
        }
        self.put(path, replaces, |dir, name| self.vfs.link(self.caller, ino, dir, name))
    }

    fn rename(&self, from: &[u8], to: &[u8], expected: &Facts) -> Outcome<Facts> {
        let ino = self.expect(from, expected)?.ino;
        let (old, new) = ((self.dir_of(from)?, path::split(from).1), (self.dir_of(to)?, path::split(to).1));
        self.vfs.rename(self.caller, old, new, RenameMode::NoReplace).map_err(fault)?;
        Ok(facts(&self.vfs.getattr(ino).map_err(fault)?))
    }

    fn remove(&self, path: &[u8], expected: &Facts) -> Outcome<()> {
        if expected.kind != Kind::Dir {
            return self.unlink(path, expected);
        }
        self.expect(path, expected)?;
        self.vfs.rmdir(self.caller, self.dir_of(path)?, path::split(path).1).map_err(fault)
    }

    fn set(&self, path: &[u8], attributes: &Attributes, expected: &Facts) -> Outcome<Facts> {
        let attr = self.expect(path, expected)?;
        let set = match expected.kind {
            Kind::Dir => SetAttr { mtime: None, ..set_of(attributes) },
            Kind::Symlink => SetAttr { mtime: None, mode: None, ..set_of(attributes) },
            Kind::File | Kind::Other => set_of(attributes),
        };
        let after = facts(&self.vfs.setattr(self.caller, attr.ino, &set).map_err(fault)?);
        // Bytes that were written in between do not show where the time was set.
        Ok(if expected.kind == Kind::File { Facts { change: UNTRUSTED, ..after } } else { after })
    }

    fn changes(&self) -> Changes {
        let mut cursor = self.cursor.lock();
        let mut changes = Changes::default();
        loop {
            let portion = self.vfs.changes(*cursor, &|_| true, CHANGES);
            *cursor = portion.up_to;
            if portion.dropped || changes.places.len() > MOST_CHANGES {
                changes = Changes { places: Vec::new(), lost: true };
            }
            for change in portion.changes {
                let places = [Some(&change.path), change.from.as_ref()];
                for place in places.into_iter().flatten().filter(|place| !path::is_own(place)) {
                    let (path, node) = (place.to_vec(), Some(change.ino));
                    changes.places.push(Change { path, node, settled: true });
                }
            }
            if !portion.more {
                return changes;
            }
        }
    }

    fn sync(&self) -> Outcome<()> {
        self.vfs.sync().map_err(fault)
    }

    fn unfit(&self, _: &[u8], facts: &Facts) -> Option<String> {
        (facts.kind == Kind::Other).then(|| "a device, fifo or socket of the host".into())
    }
}
