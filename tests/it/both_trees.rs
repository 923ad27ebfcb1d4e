//! A tree in which a program is, with its files open and mapped, its directories being listed, and callers from outside
//! change at every step. What one side has done the other one sees next, by whatever it holds.

mod compare;
mod held;
mod program;
mod step;

use self::program::Program;
use self::step::{Change, Step, step};
use crate::support::{few_cases, has, has_fuse, noise};
use proptest::prelude::*;
use proptest::sample::Index;
use rustix::fs::{CWD, RenameFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use wsd::mount::{Choice, Mount, ShimSettings};
use wsd::service::{Files, WriteQuery};
use wsd::store::{Location, Store};
use wsd::vfs::{Caller, Fallocate, Options, RenameMode, Vfs};

/// More than any file has.
const LONGEST: usize = 256 << 10;

/// Names in a directory.
const NAMES: u8 = 4;

/// What a node is called in the model; the root is 0.
type Id = u64;

#[derive(Clone, Debug)]
enum Thing {
    File(Vec<u8>),
    Dir(BTreeMap<u8, Id>),
}

/// A listing that a program has begun.
#[derive(Default)]
struct Listing {
    dir: Id,
    /// What was there when it began, and has been ever since.
    stays: BTreeSet<u8>,
    seen: Vec<String>,
}

struct Live {
    files: Files,
    vfs: Arc<Vfs>,
    mount: Option<Mount>,
    program: Program,
    point: PathBuf,
    things: BTreeMap<Id, Thing>,
    held: BTreeSet<Id>,
    /// Directories that the program has open.
    stays: BTreeSet<Id>,
    place: Option<Id>,
    listing: Option<Listing>,
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
        let things = BTreeMap::from([(0, Thing::Dir(BTreeMap::new()))]);
        let (held, stays, program) = (BTreeSet::new(), BTreeSet::new(), Program::start());
        Self { files, vfs, mount, program, point, things, held, stays, place: None, listing: None, _dir: dir }
    }

    /// All that has a name, with its path, parent and name.
    fn named(&self) -> Vec<(Id, PathBuf, Id, u8)> {
        let (mut all, mut ahead) = (Vec::new(), vec![(0, self.point.clone())]);
        while let Some((dir, path)) = ahead.pop() {
            let Thing::Dir(names) = &self.things[&dir] else { continue };
            for (name, id) in names {
                let path = path.join(format!("n{name}"));
                all.push((*id, path.clone(), dir, *name));
                ahead.push((*id, path));
            }
        }
        all.sort_by(|one, other| one.1.cmp(&other.1));
        all
    }

    fn is_dir(&self, id: Id) -> bool {
        matches!(self.things[&id], Thing::Dir(_))
    }

    fn pick(&self, which: Index, is_right: impl Fn(Id) -> bool) -> Option<(Id, PathBuf, Id, u8)> {
        let mut named = self.named();
        named.retain(|(id, ..)| is_right(*id));
        (!named.is_empty()).then(|| named.swap_remove(which.index(named.len())))
    }

    fn file(&self, which: Index) -> Option<(Id, PathBuf)> {
        self.pick(which, |id| !self.is_dir(id)).map(|(id, path, ..)| (id, path))
    }

    fn dir(&self, which: Index) -> (Id, PathBuf) {
        let mut dirs = self.named();
        dirs.retain(|(id, ..)| self.is_dir(*id));
        match which.index(dirs.len() + 1) {
            0 => (0, self.point.clone()),
            at => (dirs[at - 1].0, dirs[at - 1].1.clone()),
        }
    }

    fn names(&mut self, dir: Id) -> &mut BTreeMap<u8, Id> {
        match self.things.get_mut(&dir) {
            Some(Thing::Dir(names)) => names,
            other => panic!("{dir}: {other:?}"),
        }
    }

    fn bytes(&mut self, file: Id) -> &mut Vec<u8> {
        match self.things.get_mut(&file) {
            Some(Thing::File(bytes)) => bytes,
            other => panic!("{file}: {other:?}"),
        }
    }

    fn set(&mut self, dir: Id, name: u8, id: Option<Id>) {
        if let Some(listing) = self.listing.as_mut().filter(|listing| listing.dir == dir) {
            listing.stays.remove(&name);
        }
        match id {
            Some(id) => self.names(dir).insert(name, id),
            None => self.names(dir).remove(&name),
        };
    }

    fn take(&mut self, inside: bool, step: Step, seed: u64) {
        match step {
            Step::Make { dir, name, is_dir } => self.make(inside, dir, name, is_dir, seed),
            Step::Change { file, change } => {
                if let Some((id, path)) = self.file(file) {
                    self.change(inside, id, &path, change, seed);
                }
            }
            Step::Copy { from, to } => self.copy(from, to),
            Step::CopyRange { from, at, to, to_at, len } => {
                self.copy_range(inside, (from, at), (to, to_at), len)
            }
            Step::Move { what, dir, name, exchange } => self.rename(inside, what, dir, name, exchange),
            Step::Link { file, dir, name } => self.link(inside, file, dir, name),
            Step::Remove { what } => self.remove(inside, what),
            Step::RemoveAll { dir } => self.remove_all(inside, dir),
            Step::Commit => self.vfs.sync().unwrap(),
            step => self.hold(step, seed),
        }
        let mut kept: BTreeSet<Id> = self.named().iter().map(|(id, ..)| *id).collect();
        kept.extend(self.held.iter().chain(&self.stays).chain(&self.place));
        kept.extend(self.listing.as_ref().map(|listing| listing.dir));
        self.things.retain(|id, _| *id == 0 || kept.contains(id));
    }

    fn make(&mut self, inside: bool, dir: Index, name: u8, is_dir: bool, seed: u64) {
        let (dir, path) = self.dir(dir);
        let path = path.join(format!("n{name}"));
        let is_free = !self.names(dir).contains_key(&name);
        let bytes = noise(seed, seed as usize * 977 % 50_000);
        let made = match (inside, is_dir) {
            (true, true) => fs::create_dir(&path).is_ok(),
            (false, true) => self.files.mkdir(&wire(&path), 0o755, false).is_ok(),
            (true, false) => File::create_new(&path).and_then(|file| file.write_all_at(&bytes, 0)).is_ok(),
            (false, false) if is_free => {
                self.put(&path, &bytes);
                true
            }
            (false, false) => false,
        };
        assert_eq!(made, is_free, "{path:?}");
        if is_free {
            self.set(dir, name, Some(seed));
            self.things.insert(seed, if is_dir { Thing::Dir(BTreeMap::new()) } else { Thing::File(bytes) });
        }
    }

    fn put(&self, path: &Path, bytes: &[u8]) {
        let mut sink = self.files.write_file(&wire(path), WriteQuery::default()).unwrap();
        bytes.chunks(50_000).for_each(|portion| sink.write(portion).unwrap());
        sink.done(false).unwrap();
    }

    fn change(&mut self, inside: bool, id: Id, path: &Path, change: Change, seed: u64) {
        let (wire, open) = (wire(path), || File::options().read(true).write(true).open(path).unwrap());
        let files = self.files.clone();
        match change {
            Change::Put { len } if inside => fs::write(path, noise(seed, len)).unwrap(),
            Change::Put { len } => self.put(path, &noise(seed, len)),
            Change::Write { at, len } if inside => open().write_all_at(&noise(seed, len), at as u64).unwrap(),
            Change::Write { at, len } => drop(files.write(&wire, at as u64, &noise(seed, len)).unwrap()),
            Change::Append { len } if inside => {
                let mut file = File::options().append(true).open(path).unwrap();
                file.write_all(&noise(seed, len)).unwrap();
            }
            Change::Append { len } => drop(files.append(&wire, &noise(seed, len), None).unwrap()),
            Change::Truncate { size } if inside => open().set_len(size as u64).unwrap(),
            Change::Truncate { size } => drop(files.truncate(&wire, size as u64).unwrap()),
            Change::Punch { at, len } if inside => {
                use rustix::fs::{FallocateFlags as Flags, fallocate};
                fallocate(open(), Flags::PUNCH_HOLE | Flags::KEEP_SIZE, at as u64, len as u64).unwrap();
            }
            Change::Punch { at, len } => {
                let ino = files.stat(&wire).unwrap().ino;
                self.vfs.fallocate(Caller::DAEMON, ino, Fallocate::PunchHole, at as u64, len as u64).unwrap();
            }
        }
        self.changed(id, change, seed);
    }

    /// What a change makes of the bytes.
    fn changed(&mut self, id: Id, change: Change, seed: u64) {
        let bytes = self.bytes(id);
        let put = |bytes: &mut Vec<u8>, at: usize, len: usize| {
            bytes.resize(bytes.len().max(at + len), 0);
            bytes[at..at + len].copy_from_slice(&noise(seed, len));
        };
        match change {
            Change::Put { len } => *bytes = noise(seed, len),
            Change::Write { at, len } => put(bytes, at, len),
            Change::Append { len } => put(bytes, bytes.len(), len),
            Change::Truncate { size } => bytes.resize(size, 0),
            Change::Punch { at, len } => {
                let end = bytes.len().min(at + len);
                bytes[at.min(end)..end].fill(0);
            }
        }
    }

    fn copy(&mut self, from: Index, to: Index) {
        let (Some((from, source)), Some((to, target))) = (self.file(from), self.file(to)) else { return };
        if from != to {
            self.files.copy(&wire(&source), &wire(&target), false, true, &|| false).unwrap();
            *self.bytes(to) = self.bytes(from).clone();
        }
    }

    fn copy_range(
        &mut self,
        inside: bool,
        (from, at): (Index, usize),
        (to, to_at): (Index, usize),
        len: usize,
    ) {
        let (Some((from, source)), Some((to, target))) = (self.file(from), self.file(to)) else { return };
        let rest = self.bytes(from).len().saturating_sub(at).min(len);
        if from == to || rest == 0 {
            return;
        }
        let (mut done, mut at, mut to_at) = (0, at as u64, to_at as u64);
        let first = (at as usize, to_at as usize);
        let inos = [&source, &target].map(|path| self.files.stat(&wire(path)).unwrap().ino);
        let open = |path| File::options().read(true).write(true).open(path).unwrap();
        let (source, target) = (open(&source), open(&target));
        while done < rest {
            let left = rest - done;
            let copied = if inside {
                rustix::fs::copy_file_range(&source, Some(&mut at), &target, Some(&mut to_at), left).unwrap()
            } else {
                let (from, to) = ((inos[0], at), (inos[1], to_at));
                let copied = self.vfs.copy_range(Caller::DAEMON, from, to, left as u64).unwrap();
                (at, to_at) = (at + copied, to_at + copied);
                copied as usize
            };
            assert!(copied > 0, "{left} bytes are left");
            done += copied;
        }
        let copied = self.bytes(from)[first.0..first.0 + rest].to_vec();
        let bytes = self.bytes(to);
        bytes.resize(bytes.len().max(first.1 + rest), 0);
        bytes[first.1..first.1 + rest].copy_from_slice(&copied);
    }

    fn rename(&mut self, inside: bool, what: Index, dir: Index, name: u8, exchange: bool) {
        let Some((id, from, parent, old)) = self.pick(what, |_| true) else { return };
        let (dir, to) = self.dir(dir);
        let to = to.join(format!("n{name}"));
        let there = self.names(dir).get(&name).copied();
        let (below, above) = (to.starts_with(&from) && to != from, from.starts_with(&to) && to != from);
        let may = match there {
            _ if below => false,
            None => !exchange,
            Some(there) if there == id => true,
            Some(_) if exchange => !above,
            Some(there) => match &self.things[&there] {
                Thing::Dir(names) => self.is_dir(id) && names.is_empty(),
                Thing::File(_) => !self.is_dir(id),
            },
        };
        let done = if inside {
            let flags = if exchange { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
            rustix::fs::renameat_with(CWD, &from, CWD, &to, flags).is_ok()
        } else {
            let mode = if exchange { RenameMode::Exchange } else { RenameMode::Replace };
            self.files.rename(&wire(&from), &wire(&to), mode).is_ok()
        };
        assert_eq!(done, may, "{from:?} to {to:?}");
        if may && there != Some(id) {
            self.set(parent, old, there.filter(|_| exchange));
            self.set(dir, name, Some(id));
        }
    }

    fn link(&mut self, inside: bool, file: Index, dir: Index, name: u8) {
        let Some((id, from)) = self.file(file) else { return };
        let (dir, to) = self.dir(dir);
        let to = to.join(format!("n{name}"));
        let is_free = !self.names(dir).contains_key(&name);
        let made = if inside {
            fs::hard_link(&from, &to).is_ok()
        } else {
            self.files.link(&wire(&from), &wire(&to)).is_ok()
        };
        assert_eq!(made, is_free, "{to:?}");
        if is_free {
            self.set(dir, name, Some(id));
        }
    }

    fn remove(&mut self, inside: bool, what: Index) {
        let Some((id, path, dir, name)) = self.pick(what, |_| true) else { return };
        let may = !matches!(&self.things[&id], Thing::Dir(names) if !names.is_empty());
        let done = match (inside, self.is_dir(id)) {
            (true, true) => fs::remove_dir(&path).is_ok(),
            (true, false) => fs::remove_file(&path).is_ok(),
            (false, _) => self.files.rm(&wire(&path), false, false, &|| false).is_ok(),
        };
        // A caller's `rm` needs a word more for directories.
        let may = may && (inside || !self.is_dir(id) || done);
        assert_eq!(done, may, "{path:?}");
        if done {
            self.set(dir, name, None);
        }
    }

    fn remove_all(&mut self, inside: bool, dir: Index) {
        let Some((id, path, dir, name)) = self.pick(dir, |id| self.is_dir(id)) else { return };
        if inside {
            fs::remove_dir_all(&path).unwrap();
        } else {
            self.files.rm(&wire(&path), true, false, &|| false).unwrap();
        }
        let mut ahead = vec![id];
        while let Some(id) = ahead.pop() {
            if self.is_dir(id) {
                let names = std::mem::take(self.names(id));
                ahead.extend(names.values());
                if let Some(listing) = self.listing.as_mut().filter(|listing| listing.dir == id) {
                    listing.stays.clear();
                }
            }
        }
        self.set(dir, name, None);
    }
}

fn wire(path: &Path) -> Vec<u8> {
    path.as_os_str().as_encoded_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.program.child.kill();
        let _ = self.program.child.wait();
        if let Some(mount) = self.mount.take() {
            mount.stop();
        }
        self.vfs.shutdown().unwrap();
    }
}

proptest! {
    #![proptest_config(few_cases())]
    #[test]
    fn what_a_program_holds_is_what_others_have_made_of_it(
        steps in prop::collection::vec((any::<bool>(), step(), prop::bool::weighted(0.3)), 1..60),
    ) {
        if !has_fuse() || !has("python3") {
            return Ok(());
        }
        let mut live = Live::new();
        for (seed, (inside, step, look)) in (1..).zip(steps) {
            live.take(inside, step, seed);
            if look {
                live.compare();
            }
        }
        live.compare();
    }
}
