//! Both sides are changed at random, between passes and in the middle of them; events are missed, the shim crashes at any
//! call and comes back with the shadow that it had kept. When it rests, both trees are equal, and no bytes that
//! somebody wrote are gone, unless somebody overwrote or removed them on a side that had them.

use crate::mem::{Mem, parent};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use wsd_shim::shadow::Shadow;
use wsd_shim::shadow::file::ShadowFile;
use wsd_shim::tree::Outcome;
use wsd_shim::{Attributes, Changes, Disk, Engine, Facts, Fault, Haste, Kind, Stage, Tree};

/// Reproducible numbers.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// What a program can see at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Dir(u32),
    File(Vec<u8>, u32),
    Link(Vec<u8>),
}

pub(crate) type All = BTreeMap<Vec<u8>, Shown>;

/// A side, as programs use it. What makes no sense there does nothing.
pub(crate) trait User {
    fn all(&self) -> All;
    fn make(&self, path: &[u8], shown: &Shown);
    fn rewrite(&self, path: &[u8], bytes: &[u8]);
    fn remove_all(&self, path: &[u8]);
    fn rename(&self, from: &[u8], to: &[u8]);
    fn link(&self, from: &[u8], to: &[u8]);
    fn chmod(&self, path: &[u8], mode: u32);
}

impl User for Mem {
    fn all(&self) -> All {
        let state = self.state();
        let shown = |id: &u64| {
            let node = &state.nodes[id];
            match node.facts.kind {
                Kind::Dir => Shown::Dir(node.facts.mode),
                Kind::Symlink => Shown::Link(node.bytes.clone()),
                _ => Shown::File(node.bytes.clone(), node.facts.mode),
            }
        };
        state.names.iter().map(|(path, id)| (path.clone(), shown(id))).collect()
    }

    fn make(&self, path: &[u8], shown: &Shown) {
        let mut state = self.state();
        let _ = match shown {
            Shown::Dir(mode) => state.make(path, Kind::Dir, *mode, b""),
            Shown::File(bytes, mode) => state.make(path, Kind::File, *mode, bytes),
            Shown::Link(target) => state.make(path, Kind::Symlink, 0o777, target),
        };
    }

    fn rewrite(&self, path: &[u8], bytes: &[u8]) {
        self.state().rewrite(path, bytes);
    }

    fn remove_all(&self, path: &[u8]) {
        self.state().remove_all(path);
    }

    fn rename(&self, from: &[u8], to: &[u8]) {
        self.state().rename_over(from, to);
    }

    fn link(&self, from: &[u8], to: &[u8]) {
        self.state().link(from, to);
    }

    fn chmod(&self, path: &[u8], mode: u32) {
        self.state().chmod(path, mode);
    }
}

/// The host's directory.
pub(crate) struct Host(pub(crate) PathBuf);

impl Host {
    fn at(&self, path: &[u8]) -> PathBuf {
        self.0.join(std::ffi::OsStr::from_bytes(path))
    }

    fn add(&self, dir: &Path, all: &mut All) {
        for entry in fs::read_dir(dir).unwrap() {
            let at = entry.unwrap().path();
            let metadata = at.symlink_metadata().unwrap();
            let path = at.strip_prefix(&self.0).unwrap().as_os_str().as_bytes().to_vec();
            let mode = metadata.mode() & 0o7777;
            if metadata.is_dir() {
                all.insert(path, Shown::Dir(mode));
                self.add(&at, all);
            } else if metadata.is_symlink() {
                all.insert(path, Shown::Link(fs::read_link(&at).unwrap().into_os_string().into_vec()));
            } else {
                all.insert(path, Shown::File(fs::read(&at).unwrap(), mode));
            }
        }
    }
}

impl User for Host {
    fn all(&self) -> All {
        let mut all = All::new();
        self.add(&self.0, &mut all);
        all.retain(|path, _| !path.split(|byte| *byte == b'/').any(|name| name.starts_with(b".wsd-shim.")));
        all
    }

    fn make(&self, path: &[u8], shown: &Shown) {
        let at = self.at(path);
        match shown {
            Shown::Dir(_) => drop(fs::create_dir(at)),
            Shown::File(bytes, _) => {
                if let Ok(mut file) = fs::File::create_new(at) {
                    std::io::Write::write_all(&mut file, bytes).unwrap();
                }
            }
            Shown::Link(target) => drop(symlink(std::ffi::OsStr::from_bytes(target), at)),
        }
    }

    fn rewrite(&self, path: &[u8], bytes: &[u8]) {
        fs::write(self.at(path), bytes).unwrap();
    }

    fn remove_all(&self, path: &[u8]) {
        let at = self.at(path);
        if at.symlink_metadata().unwrap().is_dir() {
            fs::remove_dir_all(at).unwrap();
        } else {
            fs::remove_file(at).unwrap();
        }
    }

    fn rename(&self, from: &[u8], to: &[u8]) {
        if self.at(to).symlink_metadata().is_ok() {
            self.remove_all(to);
        }
        fs::rename(self.at(from), self.at(to)).unwrap();
    }

    fn link(&self, from: &[u8], to: &[u8]) {
        fs::hard_link(self.at(from), self.at(to)).unwrap();
    }

    fn chmod(&self, path: &[u8], mode: u32) {
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// The world around the shim, and what was written in it.
pub(crate) struct World {
    pub(crate) work: Mem,
    pub(crate) host: Host,
    dice: Dice,
    tokens: u64,
    written: BTreeSet<Vec<u8>>,
    /// Overwritten or removed by somebody who could see it.
    given_up: BTreeSet<Vec<u8>>,
    log: Vec<String>,
}

fn contents(all: &All, path: &[u8]) -> Vec<Vec<u8>> {
    let prefix = [path, b"/"].concat();
    let inside = all.iter().filter(|(at, _)| *at == path || at.starts_with(&prefix));
    inside
        .filter_map(|(_, shown)| match shown {
            Shown::File(bytes, _) => Some(bytes.clone()),
            _ => None,
        })
        .collect()
}

impl World {
    pub(crate) fn new(root: &Path, seed: u64) -> Self {
        Self {
            work: Mem::default(),
            host: Host(root.to_path_buf()),
            dice: Dice::new(seed),
            tokens: 0,
            written: BTreeSet::new(),
            given_up: BTreeSet::new(),
            log: Vec::new(),
        }
    }

    fn token(&mut self) -> Vec<u8> {
        self.tokens += 1;
        let token = format!("token {}\n", self.tokens).repeat(1 + self.dice.below(400));
        self.written.insert(token.clone().into_bytes());
        token.into_bytes()
    }

    fn some_path(&mut self, all: &All) -> Vec<u8> {
        let dirs: Vec<_> = all
            .iter()
            .filter(|(path, shown)| matches!(shown, Shown::Dir(_)) && path.len() < 40)
            .map(|(p, _)| p)
            .collect();
        let name = format!("n{}", self.dice.below(6)).into_bytes();
        match self.dice.below(dirs.len() + 2).checked_sub(2) {
            Some(at) => [&dirs[at][..], b"/", &name].concat(),
            None => name,
        }
    }

    /// Somebody does something somewhere.
    pub(crate) fn op(&mut self) {
        let on_work = self.dice.below(2) == 0;
        let all = if on_work { self.work.all() } else { self.host.all() };
        let path = self.some_path(&all);
        let there = all.get(&path).cloned();
        let token = self.token();
        let kind = self.dice.below(100);
        let other = all.keys().nth(self.dice.below(all.len().max(1))).cloned();
        let side = if on_work { "work" } else { "host" };
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        self.log.push(format!("{side}: {kind} at {:?}, {:?}", text(&path), other.as_deref().map(text)));
        let (work, host): (&dyn User, &dyn User) = (&self.work, &self.host);
        let user = if on_work { work } else { host };
        let mut given_up = Vec::new();
        let mut wrote = false;
        match (kind, there, other) {
            (0..35, None, _) => {
                user.make(&path, &Shown::File(token.clone(), 0o644));
                wrote = true;
            }
            (0..40, Some(Shown::File(old, _)), _) => {
                given_up.push(old);
                user.rewrite(&path, &token);
                wrote = true;
            }
            (40..50, Some(Shown::File(old, _)), _) => {
                // Written elsewhere, and renamed over it.
                let beside = [&path[..], b"~"].concat();
                if all.contains_key(&beside) {
                    return;
                }
                user.make(&beside, &Shown::File(token.clone(), 0o644));
                user.rename(&beside, &path);
                given_up.push(old);
                wrote = true;
            }
            (35..50, None, _) => user.make(&path, &Shown::Dir(0o755)),
            (50..58, None, _) => user.make(&path, &Shown::Link(token[..8].to_vec())),
            (50..65, Some(_), _) => {
                given_up = contents(&all, &path);
                user.remove_all(&path);
            }
            (65..85, there, Some(from)) => {
                let is_inside = path == from
                    || path.starts_with(&[&from[..], b"/"].concat())
                    || from.starts_with(&[&path[..], b"/"].concat());
                if !is_inside && (parent(&path).is_empty() || all.contains_key(parent(&path))) {
                    if there.is_some() {
                        given_up = contents(&all, &path);
                    }
                    user.rename(&from, &path);
                }
            }
            (85..92, None, Some(from)) if matches!(all.get(&from), Some(Shown::File(..))) => {
                user.link(&from, &path);
            }
            (85..100, Some(Shown::File(..) | Shown::Dir(_)), _) => {
                let mode = if self.dice.below(2) == 0 { 0o755 } else { 0o700 };
                user.chmod(&path, mode);
            }
            _ => {}
        }
        if wrote {
            let name = String::from_utf8_lossy(&token[..token.len().min(12)]).into_owned();
            self.log.push(format!("wrote {name:?}"));
        } else {
            self.written.remove(&token);
        }
        for old in &given_up {
            let name = String::from_utf8_lossy(&old[..old.len().min(12)]).into_owned();
            self.log.push(format!("gave up {name:?}"));
        }
        self.given_up.extend(given_up);
    }

    pub(crate) fn check(&self, seed: u64) {
        let (work, host) = (self.work.all(), self.host.all());
        let tail = || self.log[self.log.len().saturating_sub(40)..].join("\n");
        for path in work.keys().chain(host.keys()) {
            if work.get(path) != host.get(path) {
                let brief = |shown: Option<&Shown>| match shown {
                    Some(Shown::File(bytes, mode)) => format!(
                        "file of {} {mode:o} {:?}",
                        bytes.len(),
                        String::from_utf8_lossy(&bytes[..bytes.len().min(10)])
                    ),
                    shown => format!("{shown:?}"),
                };
                panic!(
                    "seed {seed}: {:?}: workspace {}, host {}\n{}",
                    String::from_utf8_lossy(path),
                    brief(work.get(path)),
                    brief(host.get(path)),
                    tail()
                );
            }
        }
        let kept: BTreeSet<_> = work
            .values()
            .filter_map(|shown| match shown {
                Shown::File(bytes, _) => Some(bytes.clone()),
                _ => None,
            })
            .collect();
        for token in self.written.difference(&self.given_up) {
            let name = String::from_utf8_lossy(&token[..token.len().min(10)]).into_owned();
            assert!(kept.contains(token), "seed {seed}: {name:?} was written and is gone\n{}", tail());
        }
        let own = fs::read_dir(&self.host.0).unwrap().flatten();
        let own = own.filter(|entry| entry.file_name().as_bytes().starts_with(b".wsd-shim."));
        assert_eq!(own.count(), 0, "seed {seed}: something of the shim's own is left");
    }
}

impl Drop for World {
    /// Keeps the log of a story that failed.
    fn drop(&mut self) {
        if let (true, Some(file)) = (std::thread::panicking(), std::env::var_os("WSD_SHIM_LOG")) {
            let _ = fs::write(file, self.log.join("\n"));
        }
    }
}

/// A side at each call of which something may happen: somebody changes something, or the shim crashes.
struct Eventful {
    tree: Arc<dyn Tree>,
    world: Arc<Mutex<World>>,
    /// Calls until the crash; negative: it has crashed.
    left: Arc<AtomicI64>,
    /// One call in so many is disturbed; 0: none.
    disturbed: Arc<AtomicI64>,
    misses_events: bool,
    name: &'static str,
}

impl Eventful {
    fn call(&self, what: &str, path: &[u8]) -> Outcome<()> {
        if !matches!(what, "list" | "look" | "target") {
            let line = format!("  {} {what} {:?}", self.name, String::from_utf8_lossy(path));
            self.world.lock().unwrap().log.push(line);
        }
        if self.left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            return Err(Fault::Io("crashed".into()));
        }
        let often = self.disturbed.load(Ordering::Relaxed);
        if often > 0 {
            let mut world = self.world.lock().unwrap();
            if world.dice.below(often as usize) == 0 {
                world.op();
            }
        }
        Ok(())
    }
}

struct EventfulStage<'a>(&'a Eventful, Box<dyn Stage + 'a>);

impl Stage for EventfulStage<'_> {
    fn write(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.0.call("write", b"")?;
        self.1.write(bytes)
    }

    fn place(self: Box<Self>, a: &Attributes, replaces: Option<&Facts>, keep: bool) -> Outcome<Facts> {
        if let Err(fault) = self.0.call("place", b"") {
            // A process that is gone does not clear up.
            std::mem::forget(self.1);
            return Err(fault);
        }
        self.1.place(a, replaces, keep)
    }
}

impl Tree for Eventful {
    fn list(&self, dir: &[u8]) -> Outcome<Vec<(Vec<u8>, Facts)>> {
        self.call("list", dir)?;
        self.tree.list(dir)
    }
    fn look(&self, path: &[u8]) -> Outcome<Option<Facts>> {
        self.call("look", path)?;
        self.tree.look(path)
    }
    fn read(
        &self,
        path: &[u8],
        expected: &Facts,
        each: &mut dyn FnMut(&[u8]) -> Outcome<()>,
    ) -> Outcome<Facts> {
        self.call("read", path)?;
        self.tree.read(path, expected, each)
    }
    fn target(&self, path: &[u8]) -> Outcome<Vec<u8>> {
        self.call("target", path)?;
        self.tree.target(path)
    }
    fn stage<'a>(&'a self, path: &[u8]) -> Outcome<Box<dyn Stage + 'a>> {
        self.call("stage", path)?;
        Ok(Box::new(EventfulStage(self, self.tree.stage(path)?)))
    }
    fn make_dir(&self, path: &[u8], a: &Attributes) -> Outcome<Facts> {
        self.call("make_dir", path)?;
        self.tree.make_dir(path, a)
    }
    fn make_symlink(&self, path: &[u8], target: &[u8], a: &Attributes, r: Option<&Facts>) -> Outcome<Facts> {
        self.call("make_symlink", path)?;
        self.tree.make_symlink(path, target, a, r)
    }
    fn link(&self, existing: &[u8], path: &[u8], replaces: Option<&Facts>) -> Outcome<Facts> {
        self.call("link", path)?;
        self.tree.link(existing, path, replaces)
    }
    fn rename(&self, from: &[u8], to: &[u8], expected: &Facts) -> Outcome<Facts> {
        self.call("rename", to)?;
        self.tree.rename(from, to, expected)
    }
    fn remove(&self, path: &[u8], expected: &Facts) -> Outcome<()> {
        self.call("remove", path)?;
        self.tree.remove(path, expected)
    }
    fn set(&self, path: &[u8], attributes: &Attributes, expected: &Facts) -> Outcome<Facts> {
        self.call("set", path)?;
        self.tree.set(path, attributes, expected)
    }
    fn changes(&self) -> Changes {
        let changes = self.tree.changes();
        if self.misses_events && self.world.lock().unwrap().dice.below(2) == 0 {
            return Changes::default();
        }
        changes
    }
    fn sync(&self) -> Outcome<()> {
        self.tree.sync()
    }
    fn unfit(&self, path: &[u8], facts: &Facts) -> Option<String> {
        self.tree.unfit(path, facts)
    }
}

/// Passes until nothing is left to do. Files are taken as they are.
pub(crate) fn settle(engine: &mut Engine, seed: u64) {
    for _ in 0..200 {
        let progress = engine.pass(Haste::Now);
        if progress.done == 0 && !progress.again {
            return;
        }
    }
    panic!("seed {seed}: it does not come to rest: {:?}", engine.stats());
}

fn story(seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let (root, kept) = (dir.path().join("host"), dir.path().join("shadow"));
    fs::create_dir(&root).unwrap();
    let world = Arc::new(Mutex::new(World::new(&root, seed)));
    let work = world.lock().unwrap().work.clone();
    let chance = |bound: usize| world.lock().unwrap().dice.below(bound);
    for life in 0..4 {
        let disk = Arc::new(Disk::open(&root, chance(2) == 0).unwrap());
        let (file, shadow) = ShadowFile::load(kept.clone(), b"x".to_vec()).unwrap();
        let shadow = shadow.unwrap_or_default();
        let file = Arc::new(Mutex::new(file));
        let forgets = Arc::clone(&file);
        disk.clear_leftovers(&shadow).unwrap();
        let (left, disturbed) = (Arc::new(AtomicI64::new(i64::MAX)), Arc::new(AtomicI64::new(0)));
        world.lock().unwrap().log.push(format!("--- life {life}, {} agreed", shadow.len()));
        let eventful = |tree: Arc<dyn Tree>, misses_events| {
            let (world, left, disturbed) = (Arc::clone(&world), Arc::clone(&left), Arc::clone(&disturbed));
            let name = if misses_events { "host" } else { "work" };
            Arc::new(Eventful { tree, world, left, disturbed, misses_events, name })
        };
        let mut engine = Engine::new(
            eventful(Arc::new(work.clone()), false),
            eventful(disk, true),
            shadow,
            Box::new(move |places| {
                forgets.lock().unwrap().forget(places).map_err(|error| Fault::Io(error.to_string()))
            }),
        );
        let crashes = life < 3 && chance(2) == 0;
        for _ in 0..1 + chance(6) {
            for _ in 0..chance(12) {
                world.lock().unwrap().op();
            }
            if chance(5) == 0 {
                work.lose_feed();
            }
            disturbed.store([0, 7, 40][chance(3)], Ordering::Relaxed);
            if chance(3) == 0 {
                engine.look_around(std::time::Duration::from_millis(2));
            }
            engine.pass(if chance(2) == 0 { Haste::Now } else { Haste::Patient });
            if chance(3) == 0 {
                let batch = file.lock().unwrap().prepare(engine.shadow());
                if chance(2) == 0 {
                    engine.pass(Haste::Now);
                }
                file.lock().unwrap().write(batch).unwrap();
            }
        }
        if crashes {
            left.store(chance(120) as i64, Ordering::Relaxed);
            engine.pass(Haste::Now);
            drop(engine);
            for _ in 0..chance(8) {
                world.lock().unwrap().op();
            }
            continue;
        }
        disturbed.store(0, Ordering::Relaxed);
        if chance(2) == 0 {
            engine.look_at_all(wsd_shim::shadow::Side::Host);
        } else {
            // What events missed is found by looking around, in as many rounds as there are.
            for _ in 0..10 {
                engine.look_around(std::time::Duration::from_secs(1));
                engine.pass(Haste::Now);
            }
        }
        settle(&mut engine, seed);
        // Files that were read too soon after they were written.
        std::thread::sleep(std::time::Duration::from_millis(45));
        settle(&mut engine, seed);
        world.lock().unwrap().check(seed);
        engine.look_at_all(wsd_shim::shadow::Side::Host);
        engine.look_at_all(wsd_shim::shadow::Side::Work);
        assert_eq!(engine.pass(Haste::Now).done, 0, "seed {seed}: looking at all of it finds more");
        let batch = file.lock().unwrap().prepare(engine.shadow());
        file.lock().unwrap().write(batch).unwrap();
        // A restart with nothing changed has nothing to do.
        let (_, shadow) = ShadowFile::load(kept.clone(), b"x".to_vec()).unwrap();
        let disk = Arc::new(Disk::open(&root, false).unwrap());
        let mut again = Engine::new(
            Arc::new(work.clone()),
            disk,
            shadow.unwrap_or_else(Shadow::default),
            Box::new(|_| Ok(())),
        );
        assert_eq!(again.pass(Haste::Now).done, 0, "seed {seed}: a restart finds something to do");
        for _ in 0..chance(8) {
            world.lock().unwrap().op();
        }
    }
}

#[test]
fn whatever_happens_both_sides_end_equal_and_nothing_vanishes() {
    let count = std::env::var("WSD_SHIM_STORIES").ok().and_then(|count| count.parse().ok()).unwrap_or(60);
    let first = std::env::var("WSD_SHIM_FIRST").ok().and_then(|first| first.parse().ok()).unwrap_or(0);
    for seed in first..first + count {
        story(seed);
    }
}
