//! Long histories over a disk that fails now and then, in every place that can: whoever asked is told, nothing that was
//! accepted is lost, and what is found after a crash is a moment that there was.

use crate::support::{eventually, few_cases, noise};
use proptest::prelude::*;
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use wsd::error::{FsError, FsResult};
use wsd::store::error::StoreError;
use wsd::store::fault::{Fault, Point};
use wsd::store::rows::{Ino, Kind, ROOT};
use wsd::store::{Checkpoint, Location, Store};
use wsd::vfs::{Caller, Fallocate, NewNode, Options, RenameMode, SetAttr, SetXattr, Vfs};

const ME: Caller = Caller::DAEMON;
const FILE: NewNode = NewNode { kind: Kind::File, mode: 0o644, umask: 0, rdev: 0 };

/// A file as it is: its bytes and an attribute.
type File = (Vec<u8>, Option<u8>);

/// All files by their names, each with a number of its own.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    names: BTreeMap<u8, usize>,
    files: BTreeMap<usize, File>,
}

impl Model {
    /// What is to be seen of it: the bytes of each name, and which names are of one file.
    fn shown(&self) -> BTreeMap<u8, (Vec<u8>, usize, u8)> {
        let first = |file| *self.names.iter().find(|(_, id)| **id == file).unwrap().0;
        let links = |file| self.names.values().filter(|id| **id == file).count();
        self.names
            .iter()
            .map(|(name, id)| (*name, (self.files[id].0.clone(), links(*id), first(*id))))
            .collect()
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Create(u8),
    Write(u8, usize, usize),
    Append(u8, usize),
    Size(u8, usize),
    Punch(u8, usize, usize),
    CopyRange(u8, usize, u8, usize, usize),
    Replace(u8, u8),
    Attribute(u8, Option<u8>),
    Link(u8, u8),
    Rename(u8, u8, bool),
    Unlink(u8),
    /// Keeps a file, whatever becomes of its names.
    Hold(u8),
    Release,
    Read(u8),
    Sync,
    Commit,
    Collect,
    Fold(bool),
    Plant(Point, Fault, usize),
    Mend,
    Crash,
    Restart,
    Wait,
}

struct Run {
    dir: TempDir,
    store: Arc<Store>,
    vfs: Arc<Vfs>,
    options: Options,
    model: Model,
    /// What there was since `fsync` was answered last, that moment included.
    moments: Vec<Model>,
    held: Vec<Ino>,
    next: usize,
    /// The disk may fail, or may have failed.
    fails: bool,
}

fn open(path: &Path, options: Options) -> (Arc<Store>, Arc<Vfs>) {
    let location = Location::File(path.to_path_buf());
    let mut store = Store::open(&location, "/nowhere".as_ref());
    // A child that another test is just starting may have the lock of the one before.
    eventually("the lock", || {
        if matches!(store, Err(StoreError::InUse { .. })) {
            store = Store::open(&location, "/nowhere".as_ref());
        }
        !matches!(store, Err(StoreError::InUse { .. }))
    });
    let store = Arc::new(store.unwrap());
    let vfs = Vfs::open(Arc::clone(&store), options).unwrap();
    (store, vfs)
}

fn name(number: u8) -> [u8; 2] {
    [b'f', b'0' + number]
}

/// All that is in a filesystem.
fn found(vfs: &Vfs) -> BTreeMap<u8, (Vec<u8>, usize, u8)> {
    let mut names = Vec::new();
    vfs.readdir(ROOT, 0, &mut |entry| {
        names.extend((entry.name[0] == b'f').then(|| (entry.name[1] - b'0', entry.ino)));
        true
    })
    .unwrap();
    names.sort_unstable();
    let first = |ino| names.iter().find(|(_, other)| *other == ino).unwrap().0;
    let of = |ino| {
        let attr = vfs.getattr(ino).unwrap();
        (vfs.read(ino, 0, 64 << 20).unwrap(), attr.nlink as usize, first(ino))
    };
    names.iter().map(|(name, ino)| (*name, of(*ino))).collect()
}

/// What the filesystem counted is what there is.
fn recount(vfs: &Vfs, store: &Store) {
    let flaws: Vec<String> = store.check(true).unwrap().iter().map(ToString::to_string).collect();
    assert!(flaws.is_empty(), "{flaws:#?}");
    let (nodes, allocated) = store.usage(store.workspace()).unwrap();
    let attributes = store.attribute_bytes(store.workspace()).unwrap();
    assert_eq!(vfs.stats().allocated_bytes, allocated + attributes, "the bytes that are counted");
    assert_eq!(vfs.statfs().unwrap().nodes, nodes, "the nodes that are counted");
}

impl Run {
    fn new(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, vfs) = open(&dir.path().join("store.db"), options);
        let (model, moments) = (Model::default(), vec![Model::default()]);
        Self { dir, store, vfs, options, model, moments, held: Vec::new(), next: 0, fails: false }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("store.db")
    }

    /// Whether it was done. If not, there is a reason.
    fn done<T: std::fmt::Debug>(&self, result: FsResult<T>) -> bool {
        match result {
            Ok(_) => true,
            Err(FsError::NoSpace) => {
                assert!(self.fails || self.options.max_bytes.is_some(), "a disk that does not fail is full");
                false
            }
            Err(FsError::Io(why)) => {
                assert!(self.fails, "a disk that does not fail: {why}");
                false
            }
            error => panic!("{error:?}"),
        }
    }

    fn ino(&self, number: u8) -> Option<(Ino, usize)> {
        let id = *self.model.names.get(&number)?;
        Some((self.vfs.lookup(ME, ROOT, &name(number)).unwrap().ino, id))
    }

    fn bytes(&mut self, id: usize) -> &mut Vec<u8> {
        &mut self.model.files.get_mut(&id).unwrap().0
    }

    fn take(&mut self, step: Step, seed: u64) {
        match step {
            Step::Create(number) if !self.model.names.contains_key(&number) => {
                if self.done(self.vfs.create(ME, ROOT, &name(number), FILE)) {
                    self.next += 1;
                    self.model.names.insert(number, self.next);
                    self.model.files.insert(self.next, File::default());
                }
            }
            Step::Link(from, to) => self.link(from, to),
            Step::Rename(from, to, exchange) => self.rename(from, to, exchange),
            Step::Unlink(number) => {
                if self.model.names.contains_key(&number)
                    && self.done(self.vfs.unlink(ME, ROOT, &name(number)))
                {
                    self.model.names.remove(&number);
                }
            }
            Step::Hold(number) => {
                if let Some((ino, _)) = self.ino(number) {
                    self.vfs.hold(ino).unwrap();
                    self.held.push(ino);
                }
            }
            Step::Release => self.held.drain(..).for_each(|ino| self.vfs.release(ino)),
            Step::Read(number) => {
                let Some((ino, id)) = self.ino(number) else { return };
                let read = self.vfs.read(ino, 0, 64 << 20);
                if let Ok(bytes) = &read {
                    assert!(*bytes == self.model.files[&id].0, "the bytes of f{number}");
                }
                self.done(read);
            }
            Step::Sync => self.sync(),
            Step::Commit => drop(self.done(self.vfs.commit_now())),
            Step::Collect => drop(self.store.gc_step(1000, seed.is_multiple_of(2))),
            Step::Fold(wholly) => {
                let how = if wholly { Checkpoint::Truncate } else { Checkpoint::Passive };
                let _ = self.store.checkpoint(how);
            }
            Step::Plant(point, fault, times) => {
                self.fails = true;
                self.store.faults.plant(point, fault, times);
            }
            Step::Mend => self.mend(),
            Step::Crash => self.crash(),
            Step::Restart => self.restart(),
            Step::Wait => std::thread::sleep(std::time::Duration::from_millis(30)),
            step => self.content(step, seed),
        }
        let named: Vec<usize> = self.model.names.values().copied().collect();
        self.model.files.retain(|id, _| named.contains(id));
        if self.moments.last() != Some(&self.model) {
            self.moments.push(self.model.clone());
        }
    }

    fn content(&mut self, step: Step, seed: u64) {
        let (Step::Write(number, ..)
        | Step::Append(number, _)
        | Step::Size(number, _)
        | Step::Punch(number, ..)
        | Step::CopyRange(_, _, number, ..)
        | Step::Replace(_, number)
        | Step::Attribute(number, _)) = step
        else {
            return;
        };
        let Some((ino, id)) = self.ino(number) else { return };
        match step {
            Step::Write(_, at, len) => {
                let data = noise(seed, len);
                if self.done(self.vfs.write(ME, ino, at as u64, &data, false)) {
                    let bytes = self.bytes(id);
                    bytes.resize(bytes.len().max(at + len), 0);
                    bytes[at..at + len].copy_from_slice(&data);
                }
            }
            Step::Append(_, len) => {
                let appended = self.vfs.append(ME, ino, &noise(seed, len));
                if self.done(appended) {
                    self.bytes(id).extend(noise(seed, len));
                }
            }
            Step::Size(_, size) => {
                let set = SetAttr { size: Some(size as u64), ..SetAttr::default() };
                if self.done(self.vfs.setattr(ME, ino, &set)) {
                    self.bytes(id).resize(size, 0);
                }
            }
            Step::Punch(_, at, len) => {
                let punched = self.vfs.fallocate(ME, ino, Fallocate::PunchHole, at as u64, len as u64);
                if self.done(punched) {
                    let bytes = self.bytes(id);
                    let end = bytes.len().min(at + len);
                    bytes[at.min(end)..end].fill(0);
                }
            }
            Step::CopyRange(from, at, _, to, len) => self.copy_range((from, at), (number, to), len),
            Step::Replace(from, _) => {
                let Some((source, other)) = self.ino(from).filter(|(_, other)| *other != id) else { return };
                if self.done(self.vfs.replace_content(ME, ino, source, None)) {
                    *self.bytes(id) = self.bytes(other).clone();
                }
            }
            Step::Attribute(_, value) => {
                let key = b"user.attribute";
                let done = match value {
                    Some(value) => self.vfs.setxattr(ME, ino, key, &[value; 50], SetXattr::Any),
                    None if self.model.files[&id].1.is_none() => return,
                    None => self.vfs.removexattr(ME, ino, key),
                };
                if self.done(done) {
                    self.model.files.get_mut(&id).unwrap().1 = value;
                }
            }
            _ => {}
        }
    }

    fn copy_range(&mut self, (from, mut at): (u8, usize), (to, mut to_at): (u8, usize), len: usize) {
        let (Some((source, id)), Some((target, other))) = (self.ino(from), self.ino(to)) else { return };
        let mut rest = self.bytes(id).len().saturating_sub(at).min(len);
        if id == other {
            return;
        }
        while rest > 0 {
            let copied = self.vfs.copy_range(ME, (source, at as u64), (target, to_at as u64), rest as u64);
            let count = *copied.as_ref().unwrap_or(&0) as usize;
            if !self.done(copied) {
                return;
            }
            let some = self.bytes(id)[at..at + count].to_vec();
            let bytes = self.bytes(other);
            bytes.resize(bytes.len().max(to_at + count), 0);
            bytes[to_at..to_at + count].copy_from_slice(&some);
            // Each part is a moment.
            self.moments.push(self.model.clone());
            (at, to_at, rest) = (at + count, to_at + count, rest - count);
        }
    }

    fn link(&mut self, from: u8, to: u8) {
        let Some((ino, id)) = self.ino(from) else { return };
        if !self.model.names.contains_key(&to) && self.done(self.vfs.link(ME, ino, ROOT, &name(to))) {
            self.model.names.insert(to, id);
        }
    }

    fn rename(&mut self, from: u8, to: u8, exchange: bool) {
        let (Some(id), there) = (self.model.names.get(&from).copied(), self.model.names.get(&to).copied())
        else {
            return;
        };
        if exchange && there.is_none() {
            return;
        }
        let mode = if exchange { RenameMode::Exchange } else { RenameMode::Replace };
        let (old, new) = (name(from), name(to));
        if !self.done(self.vfs.rename(ME, (ROOT, &old), (ROOT, &new), mode)) || there == Some(id) {
            return;
        }
        match there.filter(|_| exchange) {
            Some(there) => self.model.names.insert(from, there),
            None => self.model.names.remove(&from),
        };
        self.model.names.insert(to, id);
    }

    fn sync(&mut self) {
        if self.done(self.vfs.sync()) {
            self.moments = vec![self.model.clone()];
        }
    }

    fn mend(&mut self) {
        for point in POINTS {
            self.store.faults.plant(point, Fault::Io, 0);
        }
        eventually("recovery", || self.vfs.failure().is_none());
        // Its last failing try may be under way.
        self.vfs.sync().unwrap();
        self.moments = vec![self.model.clone()];
        self.fails = false;
        assert!(found(&self.vfs) == self.model.shown(), "what is there when the disk is well again");
        self.held.drain(..).for_each(|ino| self.vfs.release(ino));
        self.vfs.sync().unwrap();
        recount(&self.vfs, &self.store);
    }

    /// What there would be if the daemon was killed now.
    fn crash(&self) {
        let copy = tempfile::tempdir().unwrap();
        {
            let other = Connection::open(self.path()).unwrap();
            other.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
            // Nobody writes a group, or begins the WAL anew.
            other.execute_batch("BEGIN IMMEDIATE").unwrap();
            for end in ["", "-wal"] {
                let file = format!("store.db{end}");
                fs::copy(self.dir.path().join(&file), copy.path().join(&file)).unwrap();
            }
        }
        let (store, vfs) = open(&copy.path().join("store.db"), Options::default());
        let there = found(&vfs);
        let moment = self.moments.iter().rposition(|moment| moment.shown() == there);
        assert!(moment.is_some(), "no such moment since fsync: {:?}", summary(&there));
        vfs.sync().unwrap();
        recount(&vfs, &store);
        vfs.shutdown().unwrap();
    }

    fn restart(&mut self) {
        self.mend();
        self.vfs.shutdown().unwrap();
        let (path, options) = (self.path(), self.options);
        let nowhere = Store::open(&Location::Memory, "/nowhere".as_ref()).unwrap();
        self.store = Arc::new(nowhere);
        self.vfs = Vfs::open(Arc::clone(&self.store), options).unwrap();
        (self.store, self.vfs) = open(&path, options);
        assert!(found(&self.vfs) == self.model.shown(), "what is there after a restart");
        recount(&self.vfs, &self.store);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.vfs.shutdown();
    }
}

fn summary(there: &BTreeMap<u8, (Vec<u8>, usize, u8)>) -> Vec<(u8, usize, usize, u8)> {
    there.iter().map(|(name, (bytes, links, first))| (*name, bytes.len(), *links, *first)).collect()
}

const POINTS: [Point; 5] =
    [Point::CommitBegin, Point::Ahead, Point::CommitEnd, Point::ChunkRead, Point::Checkpoint];

fn step() -> impl Strategy<Value = Step> {
    let file = || 0..6u8;
    let at = || prop_oneof![3 => 0..300_000usize, 2 => (0..70usize).prop_map(|block| block * 4096), 1 => (0..5usize).prop_map(|chunk| chunk << 16)];
    let len = || prop_oneof![3 => 1..10_000usize, 2 => (1..20usize).prop_map(|blocks| blocks * 4096), 2 => 1..200_000usize];
    let point = prop::sample::select(&POINTS[..]);
    let fault = prop_oneof![Just(Fault::Full), Just(Fault::Io)];
    prop_oneof![
        4 => file().prop_map(Step::Create),
        8 => (file(), at(), len()).prop_map(|(file, at, len)| Step::Write(file, at, len)),
        1 => file().prop_map(|file| Step::Write(file, 0, 9 << 20)),
        2 => (file(), 1..5000usize).prop_map(|(file, len)| Step::Append(file, len)),
        3 => (file(), at()).prop_map(|(file, at)| Step::Size(file, at)),
        2 => (file(), at(), len()).prop_map(|(file, at, len)| Step::Punch(file, at, len)),
        3 => (file(), at(), file(), at(), len()).prop_map(|(a, b, c, d, e)| Step::CopyRange(a, b, c, d, e)),
        3 => (file(), 0..4usize, file(), 0..4usize).prop_map(|(a, b, c, d)| Step::CopyRange(a, b << 16, c, d << 16, 1 << 20)),
        2 => (file(), file()).prop_map(|(from, to)| Step::Replace(from, to)),
        2 => (file(), any::<Option<u8>>()).prop_map(|(file, value)| Step::Attribute(file, value)),
        2 => (file(), file()).prop_map(|(from, to)| Step::Link(from, to)),
        3 => (file(), file(), any::<bool>()).prop_map(|(from, to, exchange)| Step::Rename(from, to, exchange)),
        2 => file().prop_map(Step::Unlink),
        1 => file().prop_map(Step::Hold),
        1 => Just(Step::Release),
        2 => file().prop_map(Step::Read),
        3 => Just(Step::Sync),
        3 => Just(Step::Commit),
        1 => Just(Step::Collect),
        1 => any::<bool>().prop_map(Step::Fold),
        5 => (point, fault, 1..4usize).prop_map(|(point, fault, times)| Step::Plant(point, fault, times)),
        2 => Just(Step::Mend),
        2 => Just(Step::Crash),
        1 => Just(Step::Restart),
        2 => Just(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(few_cases())]
    #[test]
    fn whatever_fails_nothing_that_was_accepted_is_lost(
        quota in prop::option::weighted(0.3, 500_000..4_000_000u64),
        little_memory: bool,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let cache_bytes = if little_memory { 1 << 20 } else { 64 << 20 };
        let mut run = Run::new(Options { cache_bytes, max_bytes: quota });
        for (seed, step) in (1..).zip(steps) {
            run.take(step, seed);
        }
        run.restart();
    }
}

/// One of several that change the same files at once.
fn jostle(vfs: &Vfs, store: &Store, number: u64, steps: u64) {
    let mut held = Vec::new();
    for step in 0..steps {
        let dice = noise(number << 32 | step, 8);
        let [one, other] = [dice[0] % 6, dice[1] % 6];
        let [at, to] = [dice[2], dice[3]].map(|dice| u64::from(dice % 5) << 16);
        let at_name = |number: u8| vfs.lookup(ME, ROOT, &name(number)).map(|attr| attr.ino);
        let (Ok(ino), Ok(to_ino)) = (at_name(one), at_name(other)) else {
            for number in [one, other] {
                let _ = vfs.create(ME, ROOT, &name(number), FILE);
            }
            continue;
        };
        let _ = match dice[4] % 16 {
            0..=3 => {
                vfs.write(ME, ino, at + u64::from(dice[5]) * 200, &noise(step, 1 << (dice[6] % 19)), false)
            }
            4 | 5 => vfs.copy_range(ME, (ino, at), (to_ino, to), 300_000).map(drop),
            6 => vfs.replace_content(ME, to_ino, ino, None).map(drop),
            7 => {
                let set = SetAttr { size: Some(at + u64::from(dice[5])), ..SetAttr::default() };
                vfs.setattr(ME, ino, &set).map(drop)
            }
            8 => vfs.fallocate(ME, ino, Fallocate::PunchHole, at, 100_000),
            9 => vfs.unlink(ME, ROOT, &name(one)),
            10 => vfs.rename(ME, (ROOT, &name(one)), (ROOT, &name(other)), RenameMode::Replace),
            11 => vfs.link(ME, ino, ROOT, &name(other)).map(drop),
            12 => vfs.setxattr(ME, ino, b"user.attribute", &noise(step, usize::from(dice[5])), SetXattr::Any),
            13 => vfs.hold(ino).map(|()| held.push(ino)),
            14 => {
                held.drain(..).for_each(|ino| vfs.release(ino));
                vfs.sync()
            }
            _ => {
                drop(store.gc_step(50, true));
                vfs.commit_now()
            }
        };
    }
    held.drain(..).for_each(|ino| vfs.release(ino));
}

#[test]
fn what_is_counted_while_many_share_and_remove_is_what_there_is() {
    for (round, quota) in [(1, None), (2, Some(3 << 20)), (3, Some(800_000))] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let (store, vfs) = open(&path, Options { cache_bytes: 4 << 20, max_bytes: quota });
        std::thread::scope(|scope| {
            for number in 0..4 {
                let (vfs, store) = (&vfs, &store);
                scope.spawn(move || jostle(vfs, store, round * 100 + number, 400));
            }
        });
        vfs.sync().unwrap();
        recount(&vfs, &store);
        assert!(quota.is_none_or(|quota| vfs.stats().allocated_bytes <= quota), "more than the quota");
        while !store.gc_step(10_000, true).unwrap().done {}
        let there = found(&vfs);
        assert_eq!(store.counts().unwrap().orphaned_chunks, 0);
        vfs.shutdown().unwrap();
        drop((vfs, store));
        let (store, vfs) = open(&path, Options::default());
        assert!(found(&vfs) == there);
        recount(&vfs, &store);
        vfs.shutdown().unwrap();
    }
}
