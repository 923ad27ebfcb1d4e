//! From memory to disk, in order.
//!
//! Operations change memory and list the nodes they changed. The committer makes a cut: it waits for the
//! operations under way, holds up new ones for as long as it takes to note what is new about each listed node
//! (a copy of its row, references to its bytes), and lets them go on. What it noted is a moment the workspace
//! really had; it becomes one transaction. Work on a node that is created, written, renamed and stamped within
//! one group costs the store one row of each.
//!
//! Who calls `fsync` makes the cut and the transaction in its own thread, which saves two switches of thread;
//! others that wait meanwhile find their changes on disk when it is their turn.
//!
//! A group that the store could not take is kept, merged with the next one and tried again. Meanwhile whoever
//! wants to add something is told why it cannot be.

use super::Vfs;
use super::feed::{ChangeKind, Noted};
use super::node::{Meta, Node};
use super::types::Author;
use crate::clock::Timestamp;
use crate::error::{FsError, FsResult};
use crate::store::error::StoreError;
use crate::store::group::{ExtentChange, Group, NodeChange, NodePut};
use crate::store::rows::{ChunkId, Ino, Kind, Name, Revision};
use crate::store::sync::SyncChange;
use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the first change of a group waits for others. A file is created, written, stamped and often renamed
/// within a few milliseconds; each that fits one group saves its rows' intermediate states.
const GATHER: Duration = Duration::from_millis(25);

/// Dirty bytes at which a group is not gathered any further.
pub(super) const ENOUGH_BYTES: u64 = 16 << 20;

/// Dirty nodes at which a group is not gathered any further: bounds the pause of a cut to a few milliseconds.
const ENOUGH_NODES: usize = 4096;

/// How long the committer leaves a store alone that could not take a group.
const RETRY: Duration = Duration::from_millis(500);

pub(super) struct Journal {
    gate: RwLock<()>,
    dirty: Mutex<Vec<Arc<Node>>>,
    /// What sync knows of nodes that are on the list, and of others, since the last cut.
    sync: Mutex<SyncChange>,
    revision: AtomicU64,
    next_ino: AtomicU64,
    committed: AtomicU64,
    durable: AtomicU64,
    /// Held while a group is written. What is in it could not be written yet.
    commit: Mutex<Option<Kept>>,
    /// Why the store could not take the last group.
    failure: RwLock<Option<FsError>>,
    failing: AtomicBool,
    /// A group was lost by a defect: nothing is written any more.
    broken: AtomicBool,
    wish: Mutex<Wish>,
    wake: Condvar,
    /// Signalled after every group.
    done: Condvar,
}

/// A group, and the nodes that must stay in memory until it is in the store.
struct Kept {
    group: Group,
    nodes: Vec<Arc<Node>>,
}

#[derive(Default)]
struct Wish {
    /// There is something to write, the first of it since then.
    work: Option<Instant>,
    hurry: bool,
    stop: bool,
}

/// One operation: what it does is in one group or not at all.
pub(super) struct Op<'a> {
    vfs: &'a Vfs,
    revision: Cell<Option<Revision>>,
    /// The time of the operation.
    pub(super) now: Timestamp,
    /// Whose it is.
    by: Author,
    /// What it did, for the feed.
    noted: RefCell<Vec<Noted>>,
    _gate: Gate<'a>,
}

/// What an operation holds for as long as it lasts.
enum Gate<'a> {
    /// Beside other operations.
    Shared(#[allow(dead_code, reason = "held, not read")] RwLockReadGuard<'a, ()>),
    /// With no other operation under way.
    Exclusive(#[allow(dead_code, reason = "held, not read")] RwLockWriteGuard<'a, ()>),
}

impl Journal {
    pub(super) fn new(revision: Revision, next_ino: Ino) -> Self {
        Self {
            gate: RwLock::new(()),
            dirty: Mutex::default(),
            sync: Mutex::default(),
            revision: AtomicU64::new(revision),
            next_ino: AtomicU64::new(next_ino),
            committed: AtomicU64::new(revision),
            durable: AtomicU64::new(0),
            commit: Mutex::new(None),
            failure: RwLock::new(None),
            failing: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            wish: Mutex::default(),
            wake: Condvar::new(),
            done: Condvar::new(),
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    pub(super) fn committed(&self) -> Revision {
        self.committed.load(Ordering::Acquire)
    }

    pub(super) fn durable(&self) -> Revision {
        self.durable.load(Ordering::Acquire)
    }

    /// Why nothing can be added at present.
    pub(super) fn failure(&self) -> Option<FsError> {
        if !self.failing.load(Ordering::Relaxed) {
            return None;
        }
        self.failure.read().clone()
    }

    fn list(&self, node: &Arc<Node>) {
        let mut dirty = self.dirty.lock();
        dirty.push(Arc::clone(node));
        let (first, enough) = (dirty.len() == 1, dirty.len() == ENOUGH_NODES);
        drop(dirty);
        if first || enough {
            self.wish(first);
        }
        if enough {
            self.hurry();
        }
    }

    /// Nodes that the next group is about.
    pub(super) fn dirty_nodes(&self) -> usize {
        self.dirty.lock().len()
    }

    fn is_clean(&self) -> bool {
        self.dirty.lock().is_empty() && self.sync.lock().is_empty()
    }

    /// There is something to write. `first`: what there was before has been written. The committer is woken only if it does not
    /// wait for the group to grow already: who calls `fsync` after each write would have a thread woken in vain each time.
    fn wish(&self, first: bool) {
        let mut wish = self.wish.lock();
        let waits = wish.work.is_some();
        if first || !waits {
            wish.work = Some(Instant::now());
        }
        if !waits {
            self.wake.notify_one();
        }
    }

    pub(super) fn hurry(&self) {
        let mut wish = self.wish.lock();
        wish.hurry = true;
        self.wake.notify_one();
    }

    pub(super) fn stop(&self) {
        self.wish.lock().stop = true;
        self.wake.notify_all();
        self.done.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.wish.lock().stop
    }

    /// Until this is let go of, no group is written.
    pub(super) fn no_group(&self) -> impl Sized + '_ {
        self.commit.lock()
    }

    /// Waits for a group to have been tried, at most a little while.
    pub(super) fn wait_for_group(&self) {
        let mut wish = self.wish.lock();
        self.done.wait_for(&mut wish, Duration::from_millis(20));
    }

    /// Waits until there is a group worth writing; false when the work is over.
    fn gather(&self) -> bool {
        let mut wish = self.wish.lock();
        while !wish.stop {
            let Some(since) = wish.work else {
                self.wake.wait(&mut wish);
                continue;
            };
            // It may have become a later time while this slept, because others have written a group.
            if wish.hurry || since.elapsed() >= GATHER {
                break;
            }
            self.wake.wait_until(&mut wish, since + GATHER);
        }
        (wish.work, wish.hurry) = (None, false);
        !wish.stop
    }

    /// Whoever wrote a group panicked, and the group is lost. What comes after it must not be written without it.
    fn break_down(&self) {
        let text = "a defect of wsd has lost changes that were not on disk yet: start it again, and report what the log says";
        tracing::error!(committed = self.committed(), "{text}");
        self.broken.store(true, Ordering::Release);
        self.record(Some(FsError::Io(text.into())));
        self.done.notify_all();
    }

    fn record(&self, outcome: Option<FsError>) {
        self.failing.store(outcome.is_some(), Ordering::Relaxed);
        *self.failure.write() = outcome;
    }
}

impl Op<'_> {
    /// The operation's revision; taken when it first changes something, so that no number is left out.
    pub(super) fn revision(&self) -> Revision {
        self.revision.get().unwrap_or_else(|| {
            let revision = self.vfs.journal.revision.fetch_add(1, Ordering::AcqRel) + 1;
            self.revision.set(Some(revision));
            revision
        })
    }

    /// A name leads to a node now, or no longer does.
    pub(super) fn note_at(&self, kind: ChangeKind, node: &Node, dir: &Arc<Node>, name: &Name) {
        let at = (Arc::clone(dir), Arc::clone(name));
        self.noted.borrow_mut().push(Noted::Named { kind, node: (node.ino, node.kind), at });
    }

    /// A node has changed, by whatever name.
    pub(super) fn note(&self, kind: ChangeKind, node: &Arc<Node>) {
        self.noted.borrow_mut().push(Noted::Of { kind, node: Arc::clone(node) });
    }

    /// A node has moved.
    pub(super) fn note_move(&self, node: &Node, from: (&Arc<Node>, &Name), to: (&Arc<Node>, &Name)) {
        let own = |(dir, name): (&Arc<Node>, &Name)| (Arc::clone(dir), Arc::clone(name));
        self.noted.borrow_mut().push(Noted::Moved {
            node: (node.ino, node.kind),
            from: own(from),
            to: own(to),
        });
    }

    /// What sync knows of nodes from now on; written together with what the operation does.
    pub(super) fn sync(&self, change: SyncChange) {
        self.vfs.journal.sync.lock().merge(change);
        self.vfs.journal.wish(false);
    }

    /// A new node's number.
    pub(super) fn new_ino(&self) -> Ino {
        self.vfs.journal.next_ino.fetch_add(1, Ordering::Relaxed)
    }

    /// Changes a node.
    pub(super) fn change<R>(&self, node: &Arc<Node>, change: impl FnOnce(&mut Meta) -> R) -> R {
        let mut meta = node.meta.write();
        let result = change(&mut meta);
        self.changed(node, &mut meta);
        result
    }

    /// The node was changed under a lock that the caller holds.
    pub(super) fn changed(&self, node: &Arc<Node>, meta: &mut Meta) {
        let revision = self.revision();
        meta.row.revision = revision;
        if meta.content.take_moved(meta.row.size) {
            meta.row.content_revision = revision;
        }
        self.changed_quietly(node, meta);
    }

    /// Like [`Op::changed`], for what is not a change to anybody else: the time of an access.
    pub(super) fn changed_quietly(&self, node: &Arc<Node>, meta: &mut Meta) {
        let (before, after) = meta.settle_content(&self.vfs.gauge);
        self.vfs.space.grew(node.ino, before, after);
        if !meta.dirty {
            meta.dirty = true;
            self.vfs.journal.list(node);
        }
    }
}

impl Drop for Op<'_> {
    /// Every revision reaches the feed. The operation has let go of its locks by now, and no cut can be made yet.
    fn drop(&mut self) {
        if let Some(revision) = self.revision.get() {
            self.vfs.publish(revision, self.by, self.noted.take());
        }
    }
}

impl Vfs {
    /// Begins an operation. Everything it needs from the store must be in memory.
    pub(super) fn begin(&self, by: Author) -> Op<'_> {
        self.op(by, Gate::Shared(self.journal.gate.read()))
    }

    /// Begins an operation that is alone for as long as it lasts, which must not be long.
    pub(super) fn begin_alone(&self) -> Op<'_> {
        self.op(Author::Direct, Gate::Exclusive(self.journal.gate.write()))
    }

    fn op<'a>(&'a self, by: Author, gate: Gate<'a>) -> Op<'a> {
        Op {
            vfs: self,
            revision: Cell::new(None),
            now: Timestamp::now(),
            by,
            noted: RefCell::default(),
            _gate: gate,
        }
    }

    /// Writes everything up to now; `durable`: and returns when it is on the disk.
    pub(super) fn commit(&self, durable: bool) -> FsResult<()> {
        let target = self.journal.revision();
        let mut pending = self.journal.commit.lock();
        if let (true, Some(failure)) = (self.journal.broken.load(Ordering::Acquire), self.journal.failure()) {
            return Err(failure);
        }
        let nothing_dirty = self.journal.is_clean() && pending.is_none();
        if nothing_dirty && (!durable || self.journal.durable() >= target) {
            return Ok(());
        }
        self.bound_wal();
        let _whole = Whole(&self.journal);
        let mut kept = self.cut();
        if let Some(mut failed) = pending.take() {
            failed.group.merge(kept.group);
            failed.nodes.append(&mut kept.nodes);
            kept = failed;
        }
        match self.store.commit(self.workspace, &kept.group, durable) {
            Ok(committed) => {
                self.journal.committed.store(kept.group.revision, Ordering::Release);
                if durable {
                    self.journal.durable.store(kept.group.revision, Ordering::Release);
                }
                self.settle(kept, &committed.chunks);
                self.journal.record(None);
                self.look_at_disk();
                self.note_wal();
                self.journal.done.notify_all();
                Ok(())
            }
            Err(error) => {
                let passes = matches!(error, StoreError::Busy);
                if matches!(error, StoreError::Full) {
                    // It may be what makes room.
                    self.store.give_room();
                }
                let error = FsError::from(error);
                let revision = kept.group.revision;
                tracing::error!(%error, revision, "the store could not take a group; it is kept and tried again");
                *pending = Some(kept);
                // Somebody else's lock on the store is no reason to refuse what there is memory for.
                if !passes {
                    self.journal.record(Some(error.clone()));
                    self.look_at_disk();
                }
                self.journal.wish(false);
                self.journal.done.notify_all();
                Err(error)
            }
        }
    }

    /// Notes what is new, between operations.
    fn cut(&self) -> Kept {
        let _no_operation = self.journal.gate.write();
        let nodes = std::mem::take(&mut *self.journal.dirty.lock());
        let mut group = Group {
            revision: self.journal.revision(),
            next_ino: self.journal.next_ino.load(Ordering::Relaxed),
            sync: std::mem::take(&mut *self.journal.sync.lock()),
            ..Group::default()
        };
        for node in &nodes {
            if let Some(change) = note(node) {
                group.nodes.insert(node.ino, change);
            }
        }
        Kept { group, nodes }
    }

    /// The group is in the store: memory may let go of what it holds only because it was not.
    fn settle(&self, Kept { group, nodes }: Kept, chunks: &[(Ino, u64, ChunkId)]) {
        for (ino, index, id) in chunks {
            let Some(NodeChange::Put(put)) = group.nodes.get(ino) else { continue };
            let Some(buf) = put.content.extents.get(index).and_then(ExtentChange::bytes) else { continue };
            if let Some(node) = self.nodes.get(*ino) {
                node.meta.write().content.settle(*index, buf, Some(*id));
            }
        }
        let ids: HashMap<(Ino, u64), ChunkId> =
            chunks.iter().map(|(ino, index, id)| ((*ino, *index), *id)).collect();
        for (ino, change) in group.nodes {
            let NodeChange::Put(put) = change else { continue };
            let inline = put.content.inline.as_ref().and_then(Option::as_ref);
            if let (Some(buf), Some(node)) = (inline, self.nodes.get(ino)) {
                node.meta.write().content.settle(0, buf, None);
            }
            self.keep_parts(ino, put.content.extents, &ids);
        }
        for node in nodes {
            let mut meta = node.meta.write();
            meta.committing = false;
            meta.content.arrived();
            if meta.removed && !meta.dirty {
                self.nodes.remove(node.ino);
            }
        }
    }

    /// Who changed a part of a chunk will change another one soon, and need its bytes again.
    fn keep_parts(&self, ino: Ino, extents: BTreeMap<u64, ExtentChange>, ids: &HashMap<(Ino, u64), ChunkId>) {
        for (index, extent) in extents {
            let ExtentChange::Part(buf, _) = extent else { continue };
            if let (Some(id), Ok(buf)) = (ids.get(&(ino, index)), Arc::try_unwrap(buf)) {
                self.chunks.insert(*id, Arc::new(buf.recounted(&self.cached)));
            }
        }
    }

    /// The committer's thread: writes groups until the filesystem shuts down.
    pub(super) fn run_committer(&self) {
        while self.journal.gather() {
            if self.commit_in_pace().is_err() {
                std::thread::sleep(RETRY);
            }
            self.after_commit();
            self.bell.stir();
        }
    }
}

/// A group is being written; while it is, a panic is the end of the journal.
struct Whole<'a>(&'a Journal);

impl Drop for Whole<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.break_down();
        }
    }
}

/// What is new about a node. Called between operations.
fn note(node: &Node) -> Option<NodeChange> {
    let mut meta = node.meta.write();
    meta.dirty = false;
    meta.committing = true;
    if meta.removed {
        let was_there = std::mem::replace(&mut meta.in_store, false);
        let had_name = node.place.lock().is_some();
        let gone = if had_name { NodeChange::Removed(meta.row.revision) } else { NodeChange::Dropped };
        return was_there.then_some(gone);
    }
    meta.in_store = true;
    let dirents = node.dir.as_ref().map(|dir| {
        let mut dir = dir.write();
        meta.row.next_cookie = dir.next_cookie().unwrap_or(meta.row.next_cookie);
        dir.take_change()
    });
    let has_content = matches!(node.kind, Kind::File | Kind::Symlink) && meta.content.is_loaded();
    let content = if has_content { meta.content.take_change() } else { Default::default() };
    let xattrs = meta.take_xattrs();
    Some(NodeChange::Put(Box::new(NodePut {
        row: meta.row.clone(),
        dirents: dirents.unwrap_or_default(),
        content,
        xattrs,
    })))
}
