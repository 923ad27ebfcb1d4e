//! A node in memory.
//!
//! Lock order, for all of the filesystem: the rename lock, the journal's gate (shared), directories (an ancestor
//! before its descendant, otherwise by inode number), metadata (one node at a time), a node's place, the node table's shards,
//! the journal's list of dirty nodes. Nothing waits for the disk or the kernel with any of them held, but for
//! the rename lock.

use super::content::Content;
use super::xattr::bytes_of;
use crate::store::buf::{Gauge, Weight};
use crate::store::group::Xattrs;
use crate::store::rows::{Dirent, FIRST_COOKIE, Ino, InodeRow, Kind, Name, Storage};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[derive(Debug)]
pub(super) struct Node {
    pub(super) ino: Ino,
    pub(super) kind: Kind,
    pub(super) meta: RwLock<Meta>,
    /// Looked at since the last eviction.
    pub(super) used: AtomicBool,
    /// The name it got last, as far as this process knows.
    pub(super) place: Mutex<Option<(Ino, Name)>>,
    /// The names in it, for a directory.
    pub(super) dir: Option<Box<RwLock<Dir>>>,
}

#[derive(Debug)]
pub(super) struct Meta {
    pub(super) row: InodeRow,
    pub(super) content: Content,
    /// `None` until loaded; a node without any needs no loading.
    pub(super) xattrs: Option<Arc<Xattrs>>,
    pub(super) xattrs_changed: bool,
    /// Bytes that the workspace's total has of the attributes, if they are loaded.
    pub(super) xattr_bytes: u64,
    /// Counts those of attributes that changed since the last cut.
    pub(super) xattr_weight: Option<Weight>,
    /// On the journal's list, so that the next cut sees it.
    pub(super) dirty: bool,
    /// In a group that is being written.
    pub(super) committing: bool,
    /// The store has a row of it, as of the last cut.
    pub(super) in_store: bool,
    /// Gone: no name and nobody who holds it.
    pub(super) removed: bool,
}

/// The names in a directory.
#[derive(Debug, Default)]
pub(super) struct Dir {
    /// `None` until loaded.
    entries: Option<Entries>,
    /// Names set or removed since the last cut.
    changed: HashSet<Name>,
    /// Where the kernel's listings end; 0: not known.
    listed_to: AtomicU64,
}

#[derive(Debug, Default)]
struct Entries {
    by_name: HashMap<Name, Entry>,
    by_cookie: BTreeMap<u64, Name>,
    next_cookie: u64,
}

/// Where a name leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) ino: Ino,
    pub(super) kind: Kind,
    pub(super) cookie: u64,
}

impl Node {
    /// A node as the store has it.
    pub(super) fn stored(row: InodeRow) -> Self {
        let content = Content::stored(row.storage, row.size);
        let xattrs = (!row.has_xattrs).then(Arc::default);
        Self::with(row, content, xattrs, Dir::default(), true)
    }

    /// A node that did not exist before.
    pub(super) fn new(row: InodeRow) -> Self {
        Self::with(row, Content::empty(), Some(Arc::default()), Dir::empty(), false)
    }

    fn with(row: InodeRow, content: Content, xattrs: Option<Arc<Xattrs>>, dir: Dir, in_store: bool) -> Self {
        Self {
            ino: row.ino,
            kind: row.kind,
            used: AtomicBool::new(true),
            place: Mutex::default(),
            dir: (row.kind == Kind::Dir).then(|| Box::new(RwLock::new(dir))),
            meta: RwLock::new(Meta {
                row,
                content,
                xattrs,
                xattrs_changed: false,
                xattr_bytes: 0,
                xattr_weight: None,
                dirty: false,
                committing: false,
                in_store,
                removed: false,
            }),
        }
    }

    /// Approximate memory, bytes. Zero when a lock is taken: the node is in use, and nobody will evict it.
    pub(super) fn footprint(&self) -> usize {
        let Some(meta) = self.meta.try_read() else { return 0 };
        let names = self.dir.as_ref().and_then(|dir| Some(dir.try_read()?.len())).unwrap_or(0);
        size_of::<Self>() + 64 + meta.content.footprint() + meta.xattr_footprint() + names * 140
    }

    /// Whether the store could give the node back as it is.
    pub(super) fn is_clean(&self) -> bool {
        self.meta.try_read().is_some_and(|meta| !meta.dirty && !meta.committing && meta.row.nlink > 0)
    }
}

impl Meta {
    /// Whether it is waiting for its last holder to let go.
    pub(super) fn is_orphan(&self) -> bool {
        self.row.nlink == 0 && !self.removed
    }

    /// A directory more is in this one.
    pub(super) fn gained_dir(&mut self) {
        self.row.nlink = self.row.nlink.saturating_add(1);
    }

    /// A directory less is in this one. What has a name itself has two links, whatever it had before.
    pub(super) fn lost_dir(&mut self) {
        self.row.nlink = self.row.nlink.saturating_sub(1).max(2);
    }

    /// Makes the accounts of content and attributes true; returns the bytes that the node takes, before and after.
    pub(super) fn settle_content(&mut self, gauge: &Gauge) -> (u64, u64) {
        let before = self.row.allocated + self.xattr_bytes;
        if self.content.is_loaded() {
            self.row.allocated = self.content.allocated(self.row.size);
            self.row.storage = self.content.storage();
        }
        if let (true, Some(xattrs)) = (self.xattrs_changed, &self.xattrs) {
            self.xattr_bytes = bytes_of(xattrs);
            self.xattr_weight = Some(Weight::new(self.xattr_bytes, gauge));
        }
        (before, self.row.allocated + self.xattr_bytes)
    }
}

impl Dir {
    /// Of a new directory.
    pub(super) fn empty() -> Self {
        let entries = Entries { next_cookie: FIRST_COOKIE, ..Entries::default() };
        Self { entries: Some(entries), ..Self::default() }
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.entries.is_some()
    }

    /// Takes what the store has, unless somebody was faster.
    pub(super) fn load(&mut self, dirents: Vec<Dirent>, next_cookie: u64) {
        if self.entries.is_some() {
            return;
        }
        let mut entries = Entries {
            by_name: HashMap::with_capacity(dirents.len()),
            by_cookie: BTreeMap::new(),
            next_cookie: next_cookie.max(FIRST_COOKIE),
        };
        for Dirent { name, ino, kind, cookie } in dirents {
            entries.next_cookie = entries.next_cookie.max(cookie + 1);
            entries.by_cookie.insert(cookie, Arc::clone(&name));
            entries.by_name.insert(name, Entry { ino, kind, cookie });
        }
        self.entries = Some(entries);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.as_ref().map_or(0, |entries| entries.by_name.len())
    }

    pub(super) fn get(&self, name: &[u8]) -> Option<Entry> {
        self.entries.as_ref()?.by_name.get(name).copied()
    }

    /// The cookie that the next new entry gets; `None` while the names are not in memory.
    pub(super) fn next_cookie(&self) -> Option<u64> {
        self.entries.as_ref().map(|entries| entries.next_cookie)
    }

    /// The first cookie that a listing by the kernel, which goes on after `cookie`, no longer reaches: names made since the
    /// newest listing began, or there would be no end to one that makes names.
    pub(super) fn listed_to(&self, cookie: u64) -> u64 {
        let next = self.next_cookie().unwrap_or(u64::MAX);
        if cookie == 0 {
            self.listed_to.store(next, Ordering::Relaxed);
            return next;
        }
        match self.listed_to.compare_exchange(0, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => next,
            Err(known) => known,
        }
    }

    /// The entries after a cookie, in the order of their creation.
    pub(super) fn after(&self, cookie: u64) -> impl Iterator<Item = (&Name, Entry)> {
        let entries = self.entries.as_ref();
        entries.into_iter().flat_map(move |entries| {
            let names = entries.by_cookie.range(cookie.saturating_add(1)..);
            names.filter_map(|(_, name)| Some((name, *entries.by_name.get(name)?)))
        })
    }

    /// Sets a name, which keeps its place in listings if it was there.
    pub(super) fn set(&mut self, name: Name, ino: Ino, kind: Kind) {
        let entries = self.entries.get_or_insert_default();
        self.changed.insert(Arc::clone(&name));
        if let Some(entry) = entries.by_name.get_mut(&name) {
            (entry.ino, entry.kind) = (ino, kind);
            return;
        }
        let cookie = entries.next_cookie;
        entries.next_cookie += 1;
        entries.by_cookie.insert(cookie, Arc::clone(&name));
        entries.by_name.insert(name, Entry { ino, kind, cookie });
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        let Some(entries) = self.entries.as_mut() else { return };
        if let Some((name, entry)) = entries.by_name.remove_entry(name) {
            entries.by_cookie.remove(&entry.cookie);
            self.changed.insert(name);
        }
    }

    /// What changed since the last cut.
    pub(super) fn take_change(&mut self) -> BTreeMap<Name, Option<Dirent>> {
        let changed = std::mem::take(&mut self.changed);
        let with_entry = |name: Name| {
            let entry = self.get(&name);
            let dirent = entry.map(|Entry { ino, kind, cookie }| Dirent {
                name: Arc::clone(&name),
                ino,
                kind,
                cookie,
            });
            (name, dirent)
        };
        changed.into_iter().map(with_entry).collect()
    }
}

/// The row of a node that is being made. Content and times are the caller's to set.
pub(super) fn blank(ino: Ino, kind: Kind) -> InodeRow {
    let is_dir = kind == Kind::Dir;
    InodeRow {
        ino,
        kind,
        revision: 0,
        mode: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        nlink: if is_dir { 2 } else { 1 },
        size: 0,
        allocated: 0,
        atime: Default::default(),
        mtime: Default::default(),
        ctime: Default::default(),
        btime: Default::default(),
        parent: 0,
        next_cookie: if is_dir { FIRST_COOKIE } else { 0 },
        storage: Storage::Empty,
        has_xattrs: false,
        content_revision: 0,
    }
}
