//! The mount and the callers from outside, step by step: what one side has done, the other one sees next, whatever the
//! kernel still holds.

use crate::support::{has_fuse, noise};
use proptest::prelude::*;
use rustix::fs::{CWD, RenameFlags, XattrFlags};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use wsd::clock::Timestamp;
use wsd::mount::{Choice, Mount, ShimSettings};
use wsd::service::{Files, WriteQuery};
use wsd::store::{Location, Store};
use wsd::vfs::{Options, RenameMode, SetTime, SetXattr, Vfs};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Mount,
    Outside,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// All of a file.
    Put {
        len: usize,
    },
    /// Bytes in the middle, by an open file that is not closed.
    Write {
        offset: u64,
        len: usize,
    },
    Append {
        len: usize,
    },
    Truncate {
        size: u64,
    },
    Chmod {
        mode: u32,
    },
    /// A time of modification.
    Utimes {
        sec: i64,
    },
    Setxattr {
        value: u8,
    },
    Removexattr,
    Rename {
        to: usize,
    },
    Exchange {
        with: usize,
    },
    Link {
        to: usize,
    },
    Copy {
        to: usize,
    },
    Remove,
}

/// A file, whatever names it has.
#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    mode: u32,
    xattr: Option<u8>,
}

struct Live {
    files: Files,
    vfs: Arc<Vfs>,
    mount: Option<Mount>,
    point: PathBuf,
    /// Open in the mount, with bytes that were never flushed.
    open: BTreeMap<u64, File>,
    /// Which file each name is of.
    names: BTreeMap<usize, u64>,
    contents: BTreeMap<u64, Content>,
    _dir: TempDir,
}

impl Live {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().canonicalize().unwrap().join("mnt");
        let store = Arc::new(Store::open(&Location::Memory, &point).unwrap());
        let vfs = Vfs::open(store, Options::default()).unwrap();
        let mount = Some(Mount::start(&vfs, &point, Choice::Fuse, &ShimSettings::default()).unwrap());
        let files = Files::new(Arc::clone(&vfs), &point);
        let (open, names, contents) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { files, vfs, mount, point, open, names, contents, _dir: dir }
    }

    fn path(&self, name: usize) -> PathBuf {
        self.point.join(format!("f{name}"))
    }

    fn wire(&self, name: usize) -> Vec<u8> {
        self.path(name).into_os_string().into_encoded_bytes()
    }

    fn take(&mut self, side: Side, name: usize, step: Step, seed: u64) {
        if let Step::Put { len } = step {
            return self.put(side, name, &noise(seed, len), seed);
        }
        let Some(id) = self.names.get(&name).copied() else { return };
        match step {
            Step::Put { .. } => {}
            Step::Write { offset, len } => self.write(side, name, id, offset, &noise(seed, len)),
            Step::Append { len } => self.append(side, name, id, &noise(seed, len)),
            Step::Rename { to } => self.rename(side, name, to),
            Step::Exchange { with } => self.exchange(side, name, with),
            Step::Link { to } => self.link(side, name, id, to),
            Step::Copy { to } => self.copy(side, name, id, to, seed),
            Step::Remove => self.remove(side, name),
            Step::Truncate { .. }
            | Step::Chmod { .. }
            | Step::Utimes { .. }
            | Step::Setxattr { .. }
            | Step::Removexattr => self.set(side, name, id, step),
        }
        self.contents.retain(|id, _| self.names.values().any(|named| named == id));
        self.open.retain(|id, _| self.contents.contains_key(id));
    }

    /// What is in a file that has not been there, or is filled anew.
    fn fill(&mut self, name: usize, bytes: Vec<u8>, seed: u64) -> &mut Content {
        let id = *self.names.entry(name).or_insert(seed);
        let new = Content { mode: 0o644, ..Content::default() };
        let content = self.contents.entry(id).or_insert(new);
        content.bytes = bytes;
        content
    }

    fn put(&mut self, side: Side, name: usize, bytes: &[u8], seed: u64) {
        match side {
            Side::Mount => fs::write(self.path(name), bytes).unwrap(),
            Side::Outside => {
                let mut sink = self.files.write_file(&self.wire(name), WriteQuery::default()).unwrap();
                bytes.chunks(50_000).for_each(|portion| sink.write(portion).unwrap());
                sink.done(false).unwrap();
            }
        }
        self.fill(name, bytes.to_vec(), seed);
    }

    fn write(&mut self, side: Side, name: usize, id: u64, offset: u64, bytes: &[u8]) {
        match side {
            Side::Mount => {
                let path = self.path(name);
                let open = self.open.entry(id);
                let file = open.or_insert_with(|| File::options().write(true).open(path).unwrap());
                file.write_all_at(bytes, offset).unwrap();
            }
            Side::Outside => drop(self.files.write(&self.wire(name), offset, bytes).unwrap()),
        }
        let content = &mut self.contents.get_mut(&id).unwrap().bytes;
        let end = offset as usize + bytes.len();
        content.resize(content.len().max(end), 0);
        content[offset as usize..end].copy_from_slice(bytes);
    }

    fn append(&mut self, side: Side, name: usize, id: u64, bytes: &[u8]) {
        match side {
            Side::Mount => {
                let mut file = File::options().append(true).open(self.path(name)).unwrap();
                std::io::Write::write_all(&mut file, bytes).unwrap();
            }
            Side::Outside => drop(self.files.append(&self.wire(name), bytes, None).unwrap()),
        }
        self.contents.get_mut(&id).unwrap().bytes.extend(bytes);
    }

    fn rename(&mut self, side: Side, name: usize, to: usize) {
        match side {
            Side::Mount => fs::rename(self.path(name), self.path(to)).unwrap(),
            Side::Outside => {
                self.files.rename(&self.wire(name), &self.wire(to), RenameMode::Replace).unwrap();
            }
        }
        if self.names.get(&name) != self.names.get(&to) {
            let id = self.names.remove(&name).unwrap();
            self.names.insert(to, id);
        }
    }

    fn exchange(&mut self, side: Side, name: usize, with: usize) {
        let Some(other) = self.names.get(&with).copied() else { return };
        match side {
            Side::Mount => {
                let (here, there) = (self.path(name), self.path(with));
                rustix::fs::renameat_with(CWD, here, CWD, there, RenameFlags::EXCHANGE).unwrap();
            }
            Side::Outside => {
                self.files.rename(&self.wire(name), &self.wire(with), RenameMode::Exchange).unwrap();
            }
        }
        let id = self.names.insert(name, other).unwrap();
        self.names.insert(with, id);
    }

    fn link(&mut self, side: Side, name: usize, id: u64, to: usize) {
        if self.names.contains_key(&to) {
            return;
        }
        match side {
            Side::Mount => fs::hard_link(self.path(name), self.path(to)).unwrap(),
            Side::Outside => drop(self.files.link(&self.wire(name), &self.wire(to)).unwrap()),
        }
        self.names.insert(to, id);
    }

    fn copy(&mut self, side: Side, name: usize, id: u64, to: usize, seed: u64) {
        if self.names.get(&to) == Some(&id) {
            return;
        }
        let source = self.contents[&id].clone();
        match side {
            Side::Mount => {
                fs::copy(self.path(name), self.path(to)).unwrap();
                self.fill(to, source.bytes, seed).mode = source.mode;
            }
            Side::Outside => {
                self.files.copy(&self.wire(name), &self.wire(to), false, true, &|| false).unwrap();
                let content = self.fill(to, source.bytes, seed);
                (content.mode, content.xattr) = (source.mode, source.xattr.or(content.xattr));
            }
        }
    }

    fn remove(&mut self, side: Side, name: usize) {
        match side {
            Side::Mount => fs::remove_file(self.path(name)).unwrap(),
            Side::Outside => drop(self.files.rm(&self.wire(name), false, false, &|| false).unwrap()),
        }
        self.names.remove(&name);
    }

    fn set(&mut self, side: Side, name: usize, id: u64, step: Step) {
        let (path, wire, files) = (self.path(name), self.wire(name), &self.files);
        let content = self.contents.get_mut(&id).unwrap();
        match (step, side) {
            (Step::Truncate { size }, Side::Mount) => {
                File::options().write(true).open(&path).unwrap().set_len(size).unwrap();
            }
            (Step::Truncate { size }, Side::Outside) => drop(files.truncate(&wire, size).unwrap()),
            (Step::Chmod { mode }, Side::Mount) => {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
            (Step::Chmod { mode }, Side::Outside) => drop(files.chmod(&wire, mode).unwrap()),
            (Step::Utimes { sec }, Side::Mount) => {
                let time = SystemTime::UNIX_EPOCH + Duration::from_secs(sec as u64);
                File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            }
            (Step::Utimes { sec }, Side::Outside) => {
                let time = SetTime::At(Timestamp(sec * 1_000_000_000));
                files.utimes(&wire, None, Some(time), true).map(drop).unwrap();
            }
            (Step::Setxattr { value }, Side::Mount) => {
                rustix::fs::setxattr(&path, "user.x", &[value], XattrFlags::empty()).unwrap();
            }
            (Step::Setxattr { value }, Side::Outside) => {
                files.setxattr(&wire, b"user.x", &[value], SetXattr::Any, true).unwrap();
            }
            (Step::Removexattr, _) if content.xattr.is_none() => {}
            (Step::Removexattr, Side::Mount) => rustix::fs::removexattr(&path, "user.x").unwrap(),
            (Step::Removexattr, Side::Outside) => files.removexattr(&wire, b"user.x", true).unwrap(),
            (step, _) => unreachable!("{step:?}"),
        }
        match step {
            Step::Truncate { size } => content.bytes.resize(size as usize, 0),
            Step::Chmod { mode } => content.mode = mode,
            Step::Setxattr { value } => content.xattr = Some(value),
            Step::Removexattr => content.xattr = None,
            // Whoever looks, asks whether both sides agree.
            _ => {}
        }
        if let Step::Utimes { sec } = step {
            assert_eq!(fs::metadata(&path).unwrap().mtime(), sec, "the time of f{name} inside");
            assert_eq!(files.stat(&wire).unwrap().mtime.sec(), sec, "the time of f{name} from outside");
        }
    }

    /// Both sides see what the model says.
    fn compare(&self) {
        let mut names: Vec<String> = fs::read_dir(&self.point)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected: Vec<String> = self.names.keys().map(|name| format!("f{name}")).collect();
        assert_eq!(names, expected, "the mount's listing");
        let page = self.files.readdir(self.point.as_os_str().as_encoded_bytes(), 0, 100).unwrap();
        let mut listed: Vec<_> =
            page.entries.iter().map(|entry| String::from_utf8(entry.name.clone()).unwrap()).collect();
        listed.sort();
        assert_eq!(listed, expected, "the listing from outside");
        for (name, id) in &self.names {
            let Content { bytes, mode, xattr } = &self.contents[id];
            let nlink = self.names.values().filter(|named| *named == id).count() as u64;
            let outside = self.files.stat(&self.wire(*name)).unwrap();
            let inside = fs::metadata(self.path(*name)).unwrap();
            let expected = (bytes.len() as u64, *mode, nlink);
            assert_eq!((outside.size, outside.mode, outside.nlink.into()), expected, "f{name} from outside");
            assert_eq!((inside.len(), inside.mode() & 0o7777, inside.nlink()), expected, "f{name} inside");
            let time = inside.mtime() * 1_000_000_000 + inside.mtime_nsec();
            assert_eq!(outside.mtime.0, time, "the time of f{name}");
            let (read, _) = self.files.read(&self.wire(*name), 0, 4 << 20).unwrap();
            assert!(read == *bytes, "the bytes of f{name} from outside");
            assert!(fs::read(self.path(*name)).unwrap() == *bytes, "the bytes of f{name} inside");
            let mut value = [0];
            let got = rustix::fs::getxattr(self.path(*name), "user.x", &mut value).ok().map(|_| value[0]);
            assert_eq!(got, *xattr, "the attribute of f{name} inside");
            let got = self.files.getxattr(&self.wire(*name), b"user.x", true).ok().map(|value| value[0]);
            assert_eq!(got, *xattr, "the attribute of f{name} from outside");
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.open.clear();
        if let Some(mount) = self.mount.take() {
            mount.stop();
        }
        self.vfs.shutdown().unwrap();
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..200_000usize).prop_map(|len| Step::Put { len }),
        4 => (0..150_000u64, 1..5000usize).prop_map(|(offset, len)| Step::Write { offset, len }),
        2 => (1..5000usize).prop_map(|len| Step::Append { len }),
        2 => (0..150_000u64).prop_map(|size| Step::Truncate { size }),
        1 => prop_oneof![Just(0o600), Just(0o644), Just(0o755)].prop_map(|mode| Step::Chmod { mode }),
        1 => (1..1_000_000_000i64).prop_map(|sec| Step::Utimes { sec }),
        1 => any::<u8>().prop_map(|value| Step::Setxattr { value }),
        1 => Just(Step::Removexattr),
        1 => (0..4usize).prop_map(|to| Step::Rename { to }),
        1 => (0..4usize).prop_map(|with| Step::Exchange { with }),
        1 => (0..4usize).prop_map(|to| Step::Link { to }),
        1 => (0..4usize).prop_map(|to| Step::Copy { to }),
        1 => Just(Step::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 300, ..ProptestConfig::default() })]
    #[test]
    fn each_side_sees_what_the_other_has_done(
        // Looking has the kernel write back what it holds, so not every step is looked at.
        steps in prop::collection::vec((any::<bool>(), 0..4usize, step(), prop::bool::weighted(0.3)), 1..40),
    ) {
        if !has_fuse() {
            return Ok(());
        }
        let mut live = Live::new();
        for (seed, (inside, name, step, look)) in (1..).zip(steps) {
            let side = if inside { Side::Mount } else { Side::Outside };
            live.take(side, name, step, seed);
            if look {
                live.compare();
            }
        }
        live.compare();
    }
}
