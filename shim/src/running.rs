//! Passes, for as long as the workspace is in service.
//!
//! A thread waits for either side to say that something changed, for what is on the agenda, and for the time to look
//! around. Another one keeps what was agreed on, because bringing things to the disk takes its time.
//! Who needs the two to be in step right now makes a pass in their own thread, between two of its.

use crate::disk::Disk;
use crate::engine::{Engine, Forget, Haste, Stats};
use crate::shadow::file::ShadowFile;
use crate::shadow::{Shadow, Side};
use crate::tree::{Fault, Tree};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often everything is kept, if there is something new.
const KEEP: Duration = Duration::from_secs(1);

/// How often to look around where events come.
const EASY: Duration = Duration::from_secs(1);

/// The part of a processor's time that looking around may take, in tenths of a thousandth: where events come, where none
/// do, and for some time after something happened.
const EASY_SHARE: u32 = 40;
const SHARE: u32 = 85;
const BUSY_SHARE: u32 = 300;
const BUSY: Duration = Duration::from_secs(10);

/// How long somebody may be held up until both sides are in step.
const SETTLE: Duration = Duration::from_secs(30);

/// Events of one operation come together.
const GATHER: Duration = Duration::from_millis(1);

/// How the directory is kept in step.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often to look for changes where no events come.
    pub poll: Duration,
    /// Whether the kernel is asked for events.
    pub events: bool,
    /// Whether a directory that has files, and that nothing was agreed on about, is taken over.
    pub adopt: bool,
    /// Where what was agreed on is kept, outside of the directory; `None`: nowhere, and a restart begins anew.
    pub shadow: Option<PathBuf>,
    /// Which workspace this is.
    pub identity: Vec<u8>,
    /// No node of the workspace has a later [`Facts::change`](crate::tree::Facts::change): what was agreed on about later
    /// ones is of a workspace that has been put back to an earlier state since.
    pub newest: u64,
}

/// Why a directory is not kept in step.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what the variant means")]
pub enum Error {
    #[error("the directory is not empty (there is {0:?})")]
    NotEmpty(String),
    #[error("what was agreed on cannot be kept in {path:?}: {source}")]
    Shadow { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Fault(#[from] Fault),
}

/// A directory that is kept in step with a workspace.
pub struct Shim {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    engine: Mutex<Engine>,
    work: Arc<dyn Tree>,
    disk: Arc<Disk>,
    /// Locked after the engine.
    file: Arc<Mutex<Option<ShadowFile>>>,
    bell: Bell,
    /// Rung when it is over.
    end: Bell,
    stop: AtomicBool,
    /// The directory was there when it was looked at last.
    is_there: AtomicBool,
    poll: Duration,
}

/// What the thread waits for.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock() = true;
        self.heard.notify_one();
    }

    fn wait(&self, until: Instant) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.heard.wait_until(&mut rung, until);
        }
        *rung = false;
    }
}

impl Shim {
    /// Brings a directory in step with a workspace, and keeps it so. `on_change` is given what is to be called when the
    /// workspace has changed.
    pub fn start(
        work: Arc<dyn Tree>,
        dir: &Path,
        options: &Options,
        on_change: impl FnOnce(Box<dyn Fn() + Send + Sync>),
    ) -> Result<Self, Error> {
        let disk = Arc::new(Disk::open(dir, options.events)?);
        let (file, shadow) = remembered(&disk, options)?;
        disk.clear_leftovers(&shadow)?;
        let file = Arc::new(Mutex::new(file));
        let forgets = Arc::clone(&file);
        let forget: Forget = Box::new(move |places| match forgets.lock().as_mut() {
            Some(file) => file.forget(places).map_err(|error| Fault::Io(error.to_string())),
            None => Ok(()),
        });
        let engine = Engine::new(Arc::clone(&work), Arc::clone(&disk) as Arc<dyn Tree>, shadow, forget);
        let shared = Arc::new(Shared {
            engine: Mutex::new(engine),
            work,
            disk,
            file,
            bell: Bell::default(),
            end: Bell::default(),
            stop: AtomicBool::new(false),
            is_there: AtomicBool::new(true),
            poll: options.poll,
        });
        shared.disk.on_change(shared.ringer());
        on_change(Box::new(shared.ringer()));
        shared.settle(&mut shared.engine.lock(), Instant::now() + 20 * SETTLE);
        shared.keep();
        let start = |name: &str, run: fn(&Shared)| {
            let its = Arc::clone(&shared);
            std::thread::Builder::new().name(name.into()).spawn(move || run(&its))
        };
        let threads = vec![start("wsd-shim", Shared::run)?, start("wsd-shim-keep", Shared::keep_on)?];
        Ok(Self { shared, threads: Mutex::new(threads) })
    }

    /// Waits until the directory has what the workspace has now. False if that took too long.
    pub fn settle_out(&self) -> bool {
        self.shared.settle(&mut self.shared.engine.lock(), Instant::now() + SETTLE)
    }

    /// Waits until the workspace has what the directory has now. False if that took too long.
    pub fn settle_in(&self) -> bool {
        let mut engine = self.shared.engine.lock();
        engine.look_at_all(Side::Host);
        engine.compare_mapped();
        self.shared.settle(&mut engine, Instant::now() + SETTLE)
    }

    /// Whether the directory is there, and kept in step.
    pub fn is_alive(&self) -> bool {
        let threads = self.threads.lock();
        let run = !threads.is_empty() && threads.iter().all(|thread| !thread.is_finished());
        run && self.shared.is_there.load(Ordering::Relaxed)
    }

    /// Whether the kernel tells of changes.
    pub fn has_events(&self) -> bool {
        self.shared.disk.has_events()
    }

    /// What there is to see.
    pub fn stats(&self) -> Stats {
        self.shared.engine.lock().stats()
    }

    /// Brings both in step for a last time, and ends.
    pub fn stop(&self) {
        if !self.end() {
            return;
        }
        if self.shared.disk.is_there() {
            if !(self.settle_in() && self.settle_out()) {
                tracing::warn!("the directory and the workspace were not in step when the shim stopped");
            }
            self.shared.keep();
        }
    }

    /// Ends the threads; false when they had ended before.
    fn end(&self) -> bool {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.bell.ring();
        self.shared.end.ring();
        let threads = std::mem::take(&mut *self.threads.lock());
        let had_any = !threads.is_empty();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the shim panicked");
            }
        }
        had_any
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        self.end();
    }
}

/// What was agreed on about this directory. It is kept from before the first file is written on.
fn remembered(disk: &Disk, options: &Options) -> Result<(Option<ShadowFile>, Shadow), Error> {
    let refuse = || match disk.first_name()? {
        Some(name) if !options.adopt => Err(Error::NotEmpty(String::from_utf8_lossy(&name).into_owned())),
        _ => Ok(Shadow::default()),
    };
    let Some(path) = &options.shadow else { return Ok((None, refuse()?)) };
    let failed = |source| Error::Shadow { path: path.clone(), source };
    let identity = [&options.identity[..], b"\n", &disk.identity()?].concat();
    let (mut file, shadow) = ShadowFile::load(path.clone(), identity).map_err(failed)?;
    let is_of_now = |shadow: &Shadow| shadow.iter().all(|(_, entry)| entry.work.change <= options.newest);
    let shadow = match shadow.filter(is_of_now) {
        Some(shadow) => shadow,
        None => {
            let mut shadow = refuse()?;
            file.distrust();
            let batch = file.prepare(&mut shadow);
            file.write(batch).map_err(failed)?;
            shadow
        }
    };
    Ok((Some(file), shadow))
}

impl Shared {
    /// What wakes the thread, for as long as there is one.
    fn ringer(self: &Arc<Self>) -> impl Fn() + Send + Sync + 'static {
        let woken = Arc::downgrade(self);
        move || {
            if let Some(shared) = woken.upgrade() {
                shared.bell.ring();
            }
        }
    }

    fn run(&self) {
        let told = self.disk.has_events();
        let (step, quiet) = if told { (EASY.max(self.poll), EASY_SHARE) } else { (self.poll, SHARE) };
        let mut next_look = Instant::now() + step;
        let mut busy_until = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let looks = Instant::now() >= next_look;
            // Whatever is done to it elsewhere is not meant for the workspace.
            if !self.check_directory() {
                next_look = Instant::now() + step;
                self.bell.wait(next_look);
                continue;
            }
            let progress = {
                let mut engine = self.engine.lock();
                if looks {
                    let share = if busy_until > Instant::now() { BUSY_SHARE } else { quiet };
                    engine.look_around(step * share / 10_000);
                    next_look = Instant::now() + step;
                }
                engine.pass(Haste::Patient)
            };
            if progress.done > 0 {
                busy_until = Instant::now() + BUSY;
            }
            let pause = Instant::now() + GATHER;
            let due = progress.due.map_or(next_look, |due| due.min(next_look));
            self.bell.wait(if progress.again { pause } else { due.max(pause) });
        }
    }

    /// Keeps what is new, once in a while.
    fn keep_on(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            self.end.wait(Instant::now() + KEEP);
            self.keep();
        }
    }

    /// Whether the directory is still where it was. Where it is not, nothing is done any more.
    fn check_directory(&self) -> bool {
        let is_there = self.disk.is_there();
        if self.is_there.swap(is_there, Ordering::Relaxed) && !is_there {
            tracing::error!("the directory is no longer where it was: it is not kept in step");
        }
        is_there
    }

    /// Passes until there is nothing to do.
    fn settle(&self, engine: &mut Engine, deadline: Instant) -> bool {
        if !self.check_directory() {
            return false;
        }
        loop {
            let progress = engine.pass(Haste::Now);
            if progress.done == 0 && !progress.again {
                return true;
            }
            if Instant::now() > deadline {
                return false;
            }
        }
    }

    /// Keeps what was agreed on. It must not be ahead of the trees, so those are written to their disks first.
    fn keep(&self) {
        let (batch, mapped) = {
            let mut engine = self.engine.lock();
            let mapped = engine.take_mapped();
            engine.distrust(&mapped);
            let mut file = self.file.lock();
            let file = file.as_mut().filter(|file| engine.shadow().is_unsaved() || file.is_stale());
            (file.map(|file| file.prepare(engine.shadow())), mapped)
        };
        if batch.is_none() && mapped.is_empty() {
            return;
        }
        let both = self.work.sync().and_then(|()| self.disk.sync());
        if !mapped.is_empty() {
            self.engine.lock().compare(mapped);
            self.bell.ring();
        }
        let Some(batch) = batch else { return };
        let kept = both.and_then(|()| {
            let written = self.file.lock().as_mut().map(|file| file.write(batch));
            let synced =
                written.transpose().and_then(|file| file.flatten().map_or(Ok(()), |file| file.sync_data()));
            synced.map_err(|error| Fault::Io(error.to_string()))
        });
        if let Err(error) = kept {
            tracing::error!(%error, "what both sides agreed on could not be kept; it is tried again");
            if let Some(file) = self.file.lock().as_mut() {
                file.distrust();
            }
        }
    }
}
