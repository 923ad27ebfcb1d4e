//! The verbs, one at a time, without a kernel.

mod damage;
mod model;
mod space;
mod tree;

use super::*;
use crate::error::FsError;
use crate::store::Location;
use crate::store::rows::{Ino, Kind, ROOT};
use std::path::Path;

/// A filesystem over a store in memory.
pub(super) struct Fixture {
    pub(super) vfs: Arc<Vfs>,
    options: Options,
}

pub(super) const ME: Caller =
    Caller { uid: 1000, gid: 1000, origin: Origin::Direct, by: Author::Direct, process: 0 };
pub(super) const KERNEL: Caller =
    Caller { uid: 1000, gid: 1000, origin: Origin::Kernel, by: Author::Program, process: 0 };

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(super) fn with(options: Options) -> Self {
        let store = Arc::new(Store::open(&Location::Memory, Path::new("/nowhere")).unwrap());
        Self { vfs: Vfs::open(store, options).unwrap(), options }
    }

    /// Another filesystem over the same store, as after a restart.
    pub(super) fn reopen(&mut self) {
        self.vfs.shutdown().unwrap();
        let store = Arc::clone(&self.vfs.store);
        self.vfs = Vfs::open(store, self.options).unwrap();
    }

    pub(super) fn file(&self, parent: Ino, name: &str) -> Attr {
        self.make(parent, name, Kind::File).unwrap()
    }

    pub(super) fn dir(&self, parent: Ino, name: &str) -> Attr {
        self.make(parent, name, Kind::Dir).unwrap()
    }

    pub(super) fn make(&self, parent: Ino, name: &str, kind: Kind) -> FsResult<Attr> {
        self.vfs.create(ME, parent, name.as_bytes(), NewNode { kind, mode: 0o755, umask: 0o022, rdev: 0 })
    }

    pub(super) fn read(&self, ino: Ino) -> Vec<u8> {
        self.vfs.read(ino, 0, usize::MAX).unwrap()
    }

    pub(super) fn names(&self, dir: Ino) -> Vec<String> {
        let mut names = Vec::new();
        self.vfs
            .readdir(dir, 0, &mut |entry| {
                names.push(String::from_utf8_lossy(&entry.name).into_owned());
                true
            })
            .unwrap();
        names
    }

    /// No fault in the store.
    pub(super) fn check(&self) {
        self.vfs.sync().unwrap();
        let faults: Vec<String> =
            self.vfs.store.check(true).unwrap().iter().map(ToString::to_string).collect();
        assert!(faults.is_empty(), "{faults:#?}");
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.vfs.shutdown();
    }
}

#[test]
fn bytes_survive_a_restart() {
    let mut fs = Fixture::new();
    let small = fs.file(ROOT, "small");
    let large = fs.file(ROOT, "large");
    let bytes: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
    fs.vfs.write(ME, small.ino, 0, b"hello", false).unwrap();
    fs.vfs.write(ME, large.ino, 7, &bytes, false).unwrap();
    fs.vfs.symlink(ME, ROOT, b"link", b"small").unwrap();
    fs.reopen();
    assert_eq!(fs.read(small.ino), b"hello");
    assert_eq!(fs.read(large.ino)[7..], bytes);
    let link = fs.vfs.lookup(ME, ROOT, b"link").unwrap();
    assert_eq!(fs.vfs.readlink(link.ino).unwrap(), b"small");
    assert_eq!(fs.names(ROOT), [".", "..", "small", "large", "link"]);
    fs.check();
}

#[test]
fn a_file_that_is_held_outlives_its_last_name() {
    let fs = Fixture::new();
    let new = NewNode { kind: Kind::File, mode: 0o644, umask: 0, rdev: 0 };
    let file = fs.vfs.create(KERNEL, ROOT, b"held", new).unwrap();
    fs.vfs.write(KERNEL, file.ino, 0, b"still here", false).unwrap();
    fs.vfs.unlink(KERNEL, ROOT, b"held").unwrap();
    assert_eq!(fs.vfs.getattr(file.ino).unwrap().nlink, 0);
    fs.vfs.sync().unwrap();
    assert_eq!(fs.read(file.ino), b"still here");
    fs.vfs.forget(file.ino, 1);
    assert!(matches!(fs.vfs.getattr(file.ino), Err(FsError::Stale)));
    fs.check();
    assert!(matches!(fs.vfs.getattr(file.ino), Err(FsError::Stale)));
    assert_eq!(fs.vfs.stats().allocated_bytes, 0);
}

#[test]
fn an_orphan_left_by_a_crash_is_gone_after_the_start() {
    let mut fs = Fixture::new();
    let file =
        fs.vfs.tmpfile(KERNEL, ROOT, NewNode { kind: Kind::File, mode: 0o600, umask: 0, rdev: 0 }).unwrap();
    fs.vfs.write(KERNEL, file.ino, 0, &[7; 100_000], false).unwrap();
    fs.reopen();
    fs.check();
}

#[test]
fn a_shared_copy_takes_no_bytes_and_parts_when_written() {
    let fs = Fixture::new();
    let source = fs.file(ROOT, "source");
    let copy = fs.file(ROOT, "copy");
    let bytes: Vec<u8> = (0..1_000_001u32).map(|at| (at / 7) as u8).collect();
    fs.vfs.write(ME, source.ino, 0, &bytes, false).unwrap();
    fs.vfs.sync().unwrap();
    let mut at = 0;
    while at < bytes.len() as u64 {
        at += fs.vfs.copy_range(ME, (source.ino, at), (copy.ino, at), bytes.len() as u64 - at).unwrap();
    }
    assert_eq!(fs.read(copy.ino), bytes);
    assert_eq!(fs.vfs.stats().dirty_bytes, 0, "the copy shares the chunks of the store");
    fs.vfs.write(ME, source.ino, 500_000, b"changed", false).unwrap();
    assert_eq!(fs.read(copy.ino), bytes);
    fs.check();
    fs.vfs.unlink(ME, ROOT, b"source").unwrap();
    fs.check();
    assert_eq!(fs.read(copy.ino), bytes);
}

/// As after a write. It must not depend on whether anybody has asked for them since the start.
#[test]
fn a_file_that_others_bytes_are_shared_into_loses_its_capabilities() {
    let mut fs = Fixture::new();
    let (source, target) = (fs.file(ROOT, "source").ino, fs.file(ROOT, "target").ino);
    fs.vfs.write(ME, source, 0, &[1; 65_536], false).unwrap();
    fs.vfs.setxattr(ME, target, b"security.capability", b"all", SetXattr::Any).unwrap();
    fs.reopen();
    assert_eq!(fs.vfs.copy_range(ME, (source, 0), (target, 0), 65_536).unwrap(), 65_536);
    assert!(matches!(fs.vfs.getxattr(target, b"security.capability"), Err(FsError::NoAttribute)));
    fs.check();
}

#[test]
fn a_copy_and_a_change_of_the_source_may_be_in_one_group() {
    let fs = Fixture::new();
    let (source, copy) = (fs.file(ROOT, "source").ino, fs.file(ROOT, "copy").ino);
    let bytes: Vec<u8> = (0..131_072u32).map(|at| (at / 7) as u8).collect();
    fs.vfs.write(ME, source, 0, &bytes, false).unwrap();
    fs.vfs.sync().unwrap();
    assert_eq!(fs.vfs.copy_range(ME, (source, 0), (copy, 0), 131_072).unwrap(), 131_072);
    fs.vfs.write(ME, source, 70_000, b"changed", false).unwrap();
    fs.vfs.write(ME, source, 10, b"changed", false).unwrap();
    fs.vfs.sync().unwrap();
    assert!(fs.read(copy) == bytes);
    fs.vfs.write(ME, copy, 100, b"too", false).unwrap();
    fs.check();
    assert_eq!(fs.read(source)[70_000..70_007], *b"changed");
    assert_eq!(fs.read(copy)[100..103], *b"too");
}

#[test]
fn holes_are_found() {
    let fs = Fixture::new();
    let file = fs.file(ROOT, "sparse").ino;
    fs.vfs.write(ME, file, 1 << 20, b"data", false).unwrap();
    fs.vfs.setattr(ME, file, &SetAttr { size: Some(4 << 20), ..SetAttr::default() }).unwrap();
    assert_eq!(fs.vfs.seek(file, 0, Seek::Data).unwrap(), 1 << 20);
    assert_eq!(fs.vfs.seek(file, 0, Seek::Hole).unwrap(), 0);
    assert_eq!(fs.vfs.seek(file, 1 << 20, Seek::Hole).unwrap(), (1 << 20) + 65_536);
    assert!(matches!(fs.vfs.seek(file, 2 << 20, Seek::Data), Err(FsError::NoSuchOffset)));
    assert!(matches!(fs.vfs.seek(file, 4 << 20, Seek::Hole), Err(FsError::NoSuchOffset)));
    let attr = fs.vfs.getattr(file).unwrap();
    assert_eq!((attr.size, attr.blocks), (4 << 20, 128));
}

#[test]
fn xattrs_are_kept_and_their_names_are_checked() {
    let mut fs = Fixture::new();
    let file = fs.file(ROOT, "file").ino;
    fs.vfs.setxattr(ME, file, b"user.a", b"1", SetXattr::Any).unwrap();
    assert!(matches!(fs.vfs.setxattr(ME, file, b"user.a", b"2", SetXattr::Create), Err(FsError::Exists)));
    assert!(matches!(
        fs.vfs.setxattr(ME, file, b"user.b", b"2", SetXattr::Replace),
        Err(FsError::NoAttribute)
    ));
    assert!(matches!(
        fs.vfs.setxattr(ME, file, b"other.a", b"1", SetXattr::Any),
        Err(FsError::NotSupported(_))
    ));
    fs.reopen();
    assert_eq!(fs.vfs.getxattr(file, b"user.a").unwrap(), b"1");
    assert_eq!(fs.vfs.listxattr(file).unwrap(), [b"user.a"]);
    fs.vfs.removexattr(ME, file, b"user.a").unwrap();
    fs.reopen();
    assert!(matches!(fs.vfs.getxattr(file, b"user.a"), Err(FsError::NoAttribute)));
    fs.check();
}
