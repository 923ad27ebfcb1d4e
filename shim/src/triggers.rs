//! What the kernel tells of the directory, where it does.
//!
//! Events say where to look, never what happened: they are lost when there are too many of them, are not sent for writes
//! through a mapping, and miss what happens in a directory before it is watched. So whoever uses them looks at
//! everything now and then.

use crate::path;
use crate::tree::{Change, Changes, Path};
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{Config, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path as HostPath;
use std::sync::{Arc, OnceLock};

/// Places after which it is cheaper to look at everything.
const MOST: usize = 10_000;

type Wake = Box<dyn Fn() + Send + Sync>;

/// The events of a directory, gathered.
pub(crate) struct Triggers {
    gathered: Arc<Gathered>,
    /// `None` where there are no events.
    watcher: Option<RecommendedWatcher>,
}

#[derive(Default)]
struct Gathered {
    pending: Mutex<Pending>,
    wake: OnceLock<Wake>,
}

#[derive(Default)]
struct Pending {
    /// Whether whoever wrote there is done.
    places: BTreeMap<Path, bool>,
    lost: bool,
}

impl Triggers {
    /// No events.
    pub(crate) fn none() -> Self {
        Self { gathered: Arc::default(), watcher: None }
    }

    /// Those of everything below `root`, if the kernel has room for the watches.
    pub(crate) fn start(root: &HostPath) -> Self {
        let gathered = Arc::new(Gathered::default());
        let watcher = watch(root, Arc::clone(&gathered));
        let watcher = watcher.inspect_err(|error| {
            tracing::warn!(%error, "the kernel does not tell of changes here: the directory is polled");
        });
        Self { gathered, watcher: watcher.ok() }
    }

    pub(crate) fn work(&self) -> bool {
        self.watcher.is_some()
    }

    pub(crate) fn on_change(&self, wake: Wake) {
        let _ = self.gathered.wake.set(wake);
    }

    /// What was gathered since this was asked last.
    pub(crate) fn take(&self) -> Changes {
        let pending = std::mem::take(&mut *self.gathered.pending.lock());
        let places =
            pending.places.into_iter().map(|(path, settled)| Change { path, node: None, settled }).collect();
        Changes { places, lost: pending.lost }
    }
}

fn watch(root: &HostPath, gathered: Arc<Gathered>) -> notify::Result<RecommendedWatcher> {
    let base = root.to_path_buf();
    let take = move |event: notify::Result<notify::Event>| {
        if gathered.take(&base, event)
            && let Some(wake) = gathered.wake.get()
        {
            wake();
        }
    };
    // Symlinks lead out of the directory.
    let mut watcher = RecommendedWatcher::new(take, Config::default().with_follow_symlinks(false))?;
    watcher.watch(root, RecursiveMode::Recursive)?;
    Ok(watcher)
}

impl Gathered {
    /// Whether there is something new.
    fn take(&self, root: &HostPath, event: notify::Result<notify::Event>) -> bool {
        let mut pending = self.pending.lock();
        let event = match event {
            Ok(event) if !event.need_rescan() => event,
            _ => {
                pending.lost = true;
                return true;
            }
        };
        let settled = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
            EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => true,
            EventKind::Remove(_) => true,
            EventKind::Access(_) => return false,
            _ => false,
        };
        let mut grew = false;
        for place in &event.paths {
            let Ok(below) = place.strip_prefix(root) else { continue };
            let below = below.as_os_str().as_bytes();
            if !path::is_own(below) {
                *pending.places.entry(below.to_vec()).or_default() = settled;
                grew = true;
            }
        }
        if pending.places.len() > MOST {
            *pending = Pending { places: BTreeMap::new(), lost: true };
        }
        grew
    }
}
