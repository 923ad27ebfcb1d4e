//! A store that was damaged on its disk: what is read wrong a check finds, the rest is right or an error, and soon.

use crate::support::{few_cases, noise};
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, LazyLock, Once};
use std::time::Duration;
use wsd::store::rows::{Ino, Kind, ROOT};
use wsd::store::{Checkpoint, Location, Store};
use wsd::vfs::{Caller, Fallocate, NewNode, Options, SetAttr, SetXattr, Vfs};

const ME: Caller = Caller::DAEMON;
const FILE: NewNode = NewNode { kind: Kind::File, mode: 0o644, umask: 0, rdev: 0 };
const DIR: NewNode = NewNode { kind: Kind::Dir, ..FILE };

/// Bytes of a page of the store.
const PAGE: usize = 8192;

/// How long anything may take.
const SOON: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip {
        at: Index,
        bit: u8,
    },
    /// A page, or a part of one, that the disk has lost.
    Zero {
        at: Index,
        len: usize,
    },
    /// A page of something else.
    Noise {
        at: Index,
    },
    /// A page that was written to the place of another one.
    Copy {
        from: Index,
        to: Index,
    },
    Cut {
        at: Index,
    },
}

impl Damage {
    fn apply(self, bytes: &mut Vec<u8>, seed: u64) {
        if bytes.is_empty() {
            return;
        }
        let pages = bytes.len().div_ceil(PAGE);
        let page = |at: Index| at.index(pages) * PAGE;
        let end = bytes.len();
        match self {
            Self::Flip { at, bit } => bytes[at.index(end)] ^= 1 << bit,
            Self::Zero { at, len } => {
                let at = at.index(end.div_ceil(512)) * 512;
                bytes[at..end.min(at + len)].fill(0);
            }
            Self::Noise { at } => {
                let at = page(at);
                let len = PAGE.min(end - at);
                bytes[at..at + len].copy_from_slice(&noise(seed, len));
            }
            Self::Copy { from, to } => {
                let (from, to) = (page(from), page(to));
                let len = PAGE.min(end - from).min(end - to);
                bytes.copy_within(from..from + len, to);
            }
            Self::Cut { at } => bytes.truncate(at.index(end)),
        }
    }
}

/// What each file has had, by its path, and the store: folded, and as it is while a daemon runs.
struct Sound {
    versions: BTreeMap<String, Vec<Vec<u8>>>,
    folded: Vec<u8>,
    running: [Vec<u8>; 2],
}

static SOUND: LazyLock<Sound> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = Arc::new(Store::open(&Location::File(path.clone()), "/nowhere".as_ref()).unwrap());
    let vfs = Vfs::open(Arc::clone(&store), Options::default()).unwrap();
    let mut versions: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    let mut now: BTreeMap<String, (Ino, Vec<u8>)> = BTreeMap::new();
    let lengths = [0, 10, 900, 5000, 65_536, 70_000, 200_000, 400_000];
    let mut seed = 0;
    for dir in ["a", "b", "c"] {
        let ino = vfs.create(ME, ROOT, dir.as_bytes(), DIR).unwrap().ino;
        for (number, len) in lengths.iter().enumerate() {
            seed += 1;
            let file = vfs.create(ME, ino, format!("f{number}").as_bytes(), FILE).unwrap().ino;
            let bytes = noise(seed, *len);
            vfs.write(ME, file, 0, &bytes, false).unwrap();
            vfs.setxattr(ME, file, b"user.x", &noise(seed, 100), SetXattr::Any).unwrap();
            now.insert(format!("{dir}/f{number}"), (file, bytes));
        }
        vfs.symlink(ME, ino, b"link", format!("../{dir}/f1").as_bytes()).unwrap();
        for number in 0..40 {
            vfs.create(ME, ino, format!("empty{number}").as_bytes(), FILE).unwrap();
        }
    }
    let note = |now: &BTreeMap<String, (Ino, Vec<u8>)>, versions: &mut BTreeMap<String, Vec<Vec<u8>>>| {
        vfs.sync().unwrap();
        now.iter()
            .for_each(|(path, (_, bytes))| versions.entry(path.clone()).or_default().push(bytes.clone()));
    };
    note(&now, &mut versions);
    store.checkpoint(Checkpoint::Truncate).unwrap();
    // Changed in place, shared, cut, and with a hole.
    for (path, at, len) in [("a/f6", 3, 9), ("a/f7", 65_536, 4096), ("b/f7", 100_000, 20), ("c/f2", 5, 5)] {
        let (ino, bytes) = now.get_mut(path).unwrap();
        vfs.write(ME, *ino, at as u64, &noise(99, len), false).unwrap();
        bytes[at..at + len].copy_from_slice(&noise(99, len));
        note(&now, &mut versions);
    }
    let (from, copied) = now["b/f6"].clone();
    let (to, bytes) = now.get_mut("c/f7").unwrap();
    vfs.replace_content(ME, *to, from, None).unwrap();
    *bytes = copied;
    note(&now, &mut versions);
    let (ino, bytes) = now.get_mut("b/f7").unwrap();
    vfs.fallocate(ME, *ino, Fallocate::PunchHole, 65_536, 70_000).unwrap();
    bytes[65_536..135_536].fill(0);
    note(&now, &mut versions);
    let (ino, bytes) = now.get_mut("a/f5").unwrap();
    vfs.setattr(ME, *ino, &SetAttr { size: Some(66_000), ..SetAttr::default() }).unwrap();
    bytes.truncate(66_000);
    note(&now, &mut versions);
    let read = |end: &str| fs::read(PathBuf::from(format!("{}{end}", path.display()))).unwrap();
    let running = [read(""), read("-wal")];
    assert!(running[1].len() > PAGE * 8, "there is a WAL");
    vfs.shutdown().unwrap();
    store.checkpoint(Checkpoint::Truncate).unwrap();
    let folded = fs::read(&path).unwrap();
    Sound { versions, folded, running }
});

/// What was met.
#[derive(Debug, Default)]
struct Met {
    opened: bool,
    right: usize,
    errors: usize,
    wrong: Vec<String>,
    flaws: usize,
}

/// Reads all there is, and writes.
fn use_all(path: &Path, met: &mut Met) {
    let Ok(store) = Store::open(&Location::File(path.to_path_buf()), "/nowhere".as_ref()) else { return };
    let store = Arc::new(store);
    let Ok(vfs) = Vfs::open(Arc::clone(&store), Options::default()) else { return };
    met.opened = true;
    let mut ahead = vec![(ROOT, String::new())];
    let mut dirs = 0;
    while let Some((dir, path)) = ahead.pop() {
        dirs += 1;
        if dirs > 100 {
            break;
        }
        let mut names = Vec::new();
        let listed = vfs.readdir(dir, 0, &mut |entry| {
            if !matches!(&*entry.name, b"." | b"..") {
                names.push((entry.name.to_vec(), entry.ino, entry.kind));
            }
            names.len() < 10_000
        });
        met.errors += usize::from(listed.is_err());
        for (name, ino, kind) in names {
            let at = format!("{path}{}", String::from_utf8_lossy(&name));
            if vfs.lookup(ME, dir, &name).is_err() {
                met.errors += 1;
                continue;
            }
            match kind {
                Kind::Dir => ahead.push((ino, at + "/")),
                Kind::Symlink => drop(vfs.readlink(ino)),
                _ => read(&vfs, ino, &at, met),
            }
            let _ = vfs.listxattr(ino).and_then(|_| vfs.getxattr(ino, b"user.x"));
        }
    }
    change(&vfs);
    let _ = (vfs.sync(), store.gc_step(1000, true), store.checkpoint(Checkpoint::Truncate), vfs.shutdown());
}

fn read(vfs: &Vfs, ino: Ino, path: &str, met: &mut Met) {
    match vfs.read(ino, 0, 1 << 20) {
        Err(_) => met.errors += 1,
        Ok(bytes) => match SOUND.versions.get(path) {
            Some(versions) if versions.contains(&bytes) => met.right += 1,
            Some(_) => met.wrong.push(path.to_owned()),
            None => {}
        },
    }
}

/// Whatever comes of it.
fn change(vfs: &Vfs) {
    for path in ["a/f6", "b/f7", "c/f2", "c/f7", "a/f1"] {
        let Ok(file) = vfs.resolve(path.as_bytes()) else { continue };
        let _ = vfs.write(ME, file.ino, 7, b"new", false);
        let _ = vfs.write(ME, file.ino, 65_536, &noise(7, 4096), false);
        let _ = vfs.append(ME, file.ino, b"more");
        let _ = vfs.commit_now();
        let _ = vfs.setattr(ME, file.ino, &SetAttr { size: Some(60_000), ..SetAttr::default() });
    }
    for path in ["a/f7", "b/f3"] {
        let Ok(file) = vfs.resolve(path.as_bytes()) else { continue };
        let _ = vfs.unlink(ME, ROOT, path.as_bytes());
        let _ = vfs.copy_range(ME, (file.ino, 0), (file.ino, 1 << 20), 200_000);
    }
    if let Ok(dir) = vfs.resolve(b"a") {
        let _ = vfs.unlink(ME, dir.ino, b"f7");
        let _ = vfs.rename(ME, (dir.ino, b"f5"), (ROOT, b"moved"), wsd::vfs::RenameMode::Replace);
        let _ = vfs.create(ME, dir.ino, b"made", FILE);
    }
}

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Damages a copy of a store, and uses it.
fn meet(is_running: bool, damages: &[(bool, Damage)], no_wal: bool) -> Met {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_planted = info.to_string().contains("planted at");
            let is_ours = |name: &str| name.starts_with("wsd-") || name == "met";
            if !is_planted && std::thread::current().name().is_some_and(is_ours) {
                PANICS.fetch_add(1, Ordering::Relaxed);
            }
            before(info);
        }));
    });
    let mut files = if is_running { SOUND.running.clone() } else { [SOUND.folded.clone(), Vec::new()] };
    for (seed, (is_wal, damage)) in (1000..).zip(damages) {
        damage.apply(&mut files[usize::from(*is_wal && is_running)], seed);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    fs::write(&path, &files[0]).unwrap();
    if is_running && !no_wal {
        fs::write(dir.path().join("store.db-wal"), &files[1]).unwrap();
    }
    let copy = dir.path().join("copy.db");
    for end in ["", "-wal"] {
        let _ = fs::copy(dir.path().join(format!("store.db{end}")), dir.path().join(format!("copy.db{end}")));
    }
    let (done, wait) = channel();
    std::thread::Builder::new()
        .name("met".into())
        .spawn(move || {
            let mut met = Met::default();
            let flaws = Store::check_at(&copy, true);
            met.flaws = flaws.map_or(1, |flaws| flaws.len());
            use_all(&path, &mut met);
            let _ = Store::check_at(&path, true);
            let _ = done.send(met);
        })
        .unwrap();
    let met = wait.recv_timeout(SOON).unwrap_or_else(|error| panic!("it hangs, or has panicked: {error}"));
    assert_eq!(PANICS.load(Ordering::Relaxed), 0, "somebody panicked");
    met
}

/// Small files, and chunks that were changed in place, have no hash.
fn has_hash(path: &str) -> bool {
    !["f1", "f2", "f3", "a/f6", "a/f7", "b/f7"].iter().any(|end| path.ends_with(end))
}

fn damage() -> impl Strategy<Value = Damage> {
    let any = any::<Index>;
    prop_oneof![
        4 => (any(), 0..8u8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        2 => (any(), prop_oneof![Just(512), Just(4096), Just(PAGE), Just(1 << 20)])
            .prop_map(|(at, len)| Damage::Zero { at, len }),
        1 => any().prop_map(|at| Damage::Noise { at }),
        2 => (any(), any()).prop_map(|(from, to)| Damage::Copy { from, to }),
        1 => any().prop_map(|at| Damage::Cut { at }),
    ]
}

proptest! {
    #![proptest_config(few_cases())]
    #[test]
    fn damage_is_an_error_and_soon(
        is_running: bool,
        damages in prop::collection::vec((any::<bool>(), damage()), 1..4),
        no_wal in prop::bool::weighted(0.1),
    ) {
        let met = meet(is_running, &damages, no_wal);
        let unnoticed = met.wrong.iter().find(|path| has_hash(path)).filter(|_| met.flaws == 0);
        prop_assert!(unnoticed.is_none(), "{:?} is wrong, and a check finds nothing", unnoticed);
    }
}
