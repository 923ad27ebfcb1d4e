//! The calls that a daemon makes on its store's files fail, any of them, and then no longer: programs are told by the right
//! call, and nothing else is to be seen of it.

use crate::support::{Daemon, Place, WSD, eventually, has, has_fuse, noise};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What can fail, as in `flaky.c`.
const FULL: u32 = 1 << 1;
const READ: u32 = 1 << 7;
const ALL: u32 = 0xff;

/// A place whose daemons meet faults.
struct Flaky {
    place: Place,
    control: PathBuf,
    before: PathBuf,
}

impl Flaky {
    /// `None`, after saying so: it cannot be had here.
    fn new() -> Option<Self> {
        if !has_fuse() || !has("cc") {
            return None;
        }
        let place = Place::new();
        let (control, before) = (place.dir.path().join("control"), place.dir.path().join("flaky.so"));
        fs::write(&control, [0; 4096]).unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/flaky.c");
        let made =
            Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&before).arg(source).status();
        assert!(made.unwrap().success());
        Some(Self { place, control, before })
    }

    fn serve(&self) -> Daemon {
        let mut command = self.place.command();
        command.env("LD_PRELOAD", &self.before).env("FLAKY", &self.control).env("WSD_CACHE_BYTES", "32M");
        self.place.start(command)
    }

    /// So many of a thousand calls fail, of these.
    fn fail(&self, which: u32, often: u32) {
        let bytes = [which.to_le_bytes(), often.to_le_bytes()].concat();
        File::options().write(true).open(&self.control).unwrap().write_all_at(&bytes, 0).unwrap();
    }

    fn recovers(&self, daemon: &Daemon) {
        self.fail(0, 0);
        eventually("recovery", || daemon.ask("GET /health?ready", "").0 == 200);
    }
}

/// SQLite takes what cannot be read for damaged. So wsd said that the store was, or that the disk had lost something, and then
/// took nothing until it was started again.
#[test]
fn a_disk_that_cannot_be_read_for_a_moment_is_neither_damaged_nor_lost() {
    let Some(flaky) = Flaky::new() else { return };
    let daemon = flaky.serve();
    fs::write(daemon.path("file"), noise(1, 3 << 20)).unwrap();
    File::open(daemon.path("file")).unwrap().sync_all().unwrap();
    daemon.stop();
    for round in 0..8 {
        let daemon = flaky.serve();
        flaky.fail(READ, [1000, 300, 100, 500][round % 4]);
        let name = format!("new{round}");
        for _ in 0..20 {
            let made = File::create(daemon.path(&name)).and_then(|file| file.sync_all());
            let error = made.err().and_then(|error| error.raw_os_error());
            assert!(matches!(error, None | Some(libc::EIO)), "{error:?}");
            let _ = fs::read(daemon.path("file"));
            std::thread::sleep(Duration::from_millis(10));
        }
        flaky.recovers(&daemon);
        fs::write(daemon.path(&name), b"kept").unwrap();
        File::open(daemon.path(&name)).unwrap().sync_all().unwrap();
        assert!(fs::read(daemon.path("file")).unwrap() == noise(1, 3 << 20));
        daemon.stop();
        let log = flaky.place.log();
        let is_wrong = |line: &&str| line.contains("is damaged") || line.contains("takes nothing any more");
        assert_eq!(log.lines().find(is_wrong), None, "round {round}");
        flaky.place.check();
    }
}

/// The kernel tells whoever asks first, and that was the daemon, for a caller from outside. So what a program had written was
/// gone, and `fsync` succeeded.
#[test]
fn a_look_from_outside_takes_no_error_from_programs() {
    let Some(flaky) = Flaky::new() else { return };
    let daemon = flaky.serve();
    let [full, file] = ["full", "file"].map(|name| daemon.path(name));
    let open = |path| File::options().write(true).open(path).unwrap();
    fs::write(&full, b"old").and_then(|()| fs::write(&file, b"old")).unwrap();
    open(&file).sync_all().unwrap();
    flaky.fail(FULL, 1000);
    open(&full).write_all_at(&noise(1, 9000), 0).unwrap();
    let error = open(&full).sync_all().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    let program = open(&file);
    program.write_all_at(&noise(2, 90_000), 0).unwrap();
    // It writes back, and nobody asks what became of that.
    rustix::fs::fadvise(&program, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let look =
        || Command::new(WSD).arg("cat").arg(&file).env("PORT", daemon.port.to_string()).output().unwrap();
    eventually("a look", || {
        std::thread::sleep(Duration::from_millis(100));
        look().status.success()
    });
    drop(program);
    flaky.recovers(&daemon);
    let error = open(&file).sync_all().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    fs::write(&file, b"new").unwrap();
    open(&file).sync_all().unwrap();
    assert_eq!(look().stdout, b"new");
    daemon.stop();
    flaky.place.check();
}

/// What is known of a file.
#[derive(Default)]
struct Known {
    /// What it is now; `None`: some of it may be lost, as a program was told.
    now: Option<Vec<u8>>,
    /// What it may be after a restart: what it was when `fsync` was answered last, and all that it was since. Empty: anything.
    since: Vec<Vec<u8>>,
    /// Two descriptors, each of which has to tell of an error.
    open: Option<[File; 2]>,
}

/// A program with some files of its own.
struct Writer {
    root: PathBuf,
    number: u64,
    files: BTreeMap<u64, Known>,
    steps: u64,
    told: u64,
}

impl Writer {
    /// Works until it is told to stop, or the daemon is gone.
    fn work(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.steps += 1;
            let dice = noise(self.number << 40 | self.steps, 8);
            let path = self.root.join(format!("w{}-{}", self.number, dice[0] % 4));
            let mut known = self.files.remove(&u64::from(dice[0] % 4)).unwrap_or_default();
            let done = if known.now.is_some() && dice[1] % 8 < 5 {
                Self::change(&mut known, &path, &dice)
            } else {
                Self::replace(&mut known, &path, &self.root, &dice)
            };
            let error = done.err().and_then(|error| error.raw_os_error());
            if error.is_some() {
                (known.now, known.open) = (None, None);
                known.since.clear();
                self.told += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            self.files.insert(u64::from(dice[0] % 4), known);
            match error {
                None | Some(libc::EIO | libc::ENOSPC) => {}
                Some(libc::ENOTCONN | libc::ECONNABORTED) => return,
                error => panic!("{path:?}: {error:?}"),
            }
        }
    }

    /// A new file in the place of the one that is there.
    fn replace(known: &mut Known, path: &Path, root: &Path, dice: &[u8]) -> io::Result<()> {
        known.open = None;
        known.since.clear();
        known.now = None;
        let len = [100, 5000, 100_000, 1_500_000, 10_000_000]
            [usize::from(dice[2] % 5).min(usize::from(dice[3]) % 5)];
        let bytes = noise(u64::from_le_bytes(dice.try_into().unwrap()), len);
        let temporary = path.with_extension("new");
        let file = File::create(&temporary)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, path)?;
        File::open(root)?.sync_all()?;
        (known.now, known.since) = (Some(bytes.clone()), vec![bytes]);
        Ok(())
    }

    fn change(known: &mut Known, path: &Path, dice: &[u8]) -> io::Result<()> {
        let Some(bytes) = &mut known.now else { return Ok(()) };
        if known.open.is_none() {
            let open = || File::options().read(true).write(true).open(path);
            known.open = Some([open()?, open()?]);
        }
        let Some([one, other]) = &known.open else { return Ok(()) };
        let place = u64::from_le_bytes(dice.try_into().unwrap());
        let (at, len) =
            (place as usize % (bytes.len() + 10), [10, 4096, 70_000, 300_000][usize::from(dice[2] % 4)]);
        let at = if dice[3].is_multiple_of(2) { at } else { at / 4096 * 4096 };
        let new = noise(place, len);
        one.write_all_at(&new, at as u64)?;
        bytes.resize(bytes.len().max(at + len), 0);
        bytes[at..at + len].copy_from_slice(&new);
        known.since.push(bytes.clone());
        if dice[4].is_multiple_of(2) {
            // What one descriptor was told of, the other one is told of too, unless nothing is lost.
            let [first, second] = if dice[5].is_multiple_of(2) { [one, other] } else { [other, one] };
            first.sync_all().or_else(|_| second.sync_all())?;
            known.since = vec![bytes.clone()];
            rustix::fs::fadvise(one, 0, None, rustix::fs::Advice::DontNeed)?;
            let mut back = vec![0; bytes.len()];
            one.read_exact_at(&mut back, 0)?;
            assert!(back == *bytes, "what was synced is not there: {path:?}");
        }
        Ok(())
    }

    /// What is there after a restart: each page as it was once since it was synced, the kernel sends them one by one.
    fn compare(&mut self) {
        for (name, known) in &mut self.files {
            let path = self.root.join(format!("w{}-{name}", self.number));
            known.open = None;
            if known.since.is_empty() {
                continue;
            }
            let there = fs::read(&path).unwrap();
            let page = |bytes: &[u8], at: usize| {
                let mut page = bytes[at.min(bytes.len())..bytes.len().min(at + 4096)].to_vec();
                page.resize(4096, 0);
                page
            };
            let lengths = || known.since.iter().map(Vec::len);
            assert!(
                (lengths().min()..=lengths().max()).contains(&Some(there.len())),
                "{path:?}: {}",
                there.len()
            );
            for at in (0..there.len()).step_by(4096) {
                let page_now = page(&there, at);
                assert!(known.since.iter().any(|bytes| page(bytes, at) == page_now), "{path:?} at {at}");
            }
            (known.now, known.since) = (Some(there.clone()), vec![there]);
        }
    }
}

#[test]
fn whatever_call_fails_programs_are_told_and_it_is_outlived() {
    let Some(flaky) = Flaky::new() else { return };
    let rounds = std::env::var("WSD_FLAKY_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(8);
    let writer = |number| Writer {
        root: flaky.place.point.clone(),
        number,
        files: BTreeMap::new(),
        steps: 0,
        told: 0,
    };
    let mut writers = [0, 1, 2].map(writer);
    for round in 0..rounds {
        let dice = noise(round, 16);
        let (mut daemon, stop) = (Some(flaky.serve()), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for writer in &mut writers {
                scope.spawn(|| writer.work(&stop));
            }
            for dice in dice[1..].chunks(5) {
                std::thread::sleep(Duration::from_millis(u64::from(dice[0])));
                let which =
                    if dice[1].is_multiple_of(4) { ALL } else { 1 << (dice[1] % 8) | 1 << (dice[2] % 8) };
                flaky.fail(which, [3, 20, 100, 500, 1000][usize::from(dice[3] % 5)]);
                std::thread::sleep(Duration::from_millis(2 * u64::from(dice[4])));
                flaky.fail(0, 0);
            }
            daemon.iter().for_each(|daemon| flaky.recovers(daemon));
            if dice[0].is_multiple_of(2) {
                daemon.take().into_iter().for_each(Daemon::kill);
            }
            stop.store(true, Ordering::Relaxed);
        });
        daemon.into_iter().for_each(Daemon::stop);
        flaky.place.check();
        assert!(!flaky.place.log().contains("panicked"), "{}", flaky.place.log());
        let daemon = flaky.serve();
        writers.iter_mut().for_each(Writer::compare);
        daemon.stop();
    }
    let [steps, told] = [|writer: &Writer| writer.steps, |writer: &Writer| writer.told]
        .map(|count| writers.iter().map(count).sum::<u64>());
    println!("{rounds} rounds, {steps} steps, {told} errors");
}
