//! Many nodes changed at once, to what somebody else says they are: how sync applies a batch.
//!
//! A graft says of each node what it is afterwards, not how it gets there, so names may be exchanged and whole trees move
//! in it. It is one operation with no other beside it, so it is in one group of the journal, with what sync notes of it,
//! and no program sees a half of it except through two calls. What it relied on is checked first: a node that changed
//! since it was looked at, or a name that somebody took, and nothing is done.
//!
//! The kernel is told afterwards, when other operations go on.

use super::Vfs;
use super::content::{Slot, allocated_to};
use super::feed::ChangeKind;
use super::journal::Op;
use super::lookup::{Climb, names_in};
use super::node::{Node, blank};
use super::remove::remember;
use super::types::{Author, Caller, Origin};
use super::xattr::footprint_of;
use crate::clock::Timestamp;
use crate::error::{FsError, FsResult};
use crate::store::buf::Buf;
use crate::store::group::Xattrs;
use crate::store::rows::{INLINE_MAX, Ino, InodeRow, Kind, Name, ROOT, Revision};
use crate::store::sync::SyncChange;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// No names.
static NOWHERE: BTreeSet<At> = BTreeSet::new();

/// A name in a directory.
pub type At = (Ino, Name);

/// What becomes of one node.
#[derive(Clone, Debug)]
pub struct Scion {
    /// The node; one that is made has its number from [`Vfs::new_ino`].
    pub ino: Ino,
    /// What it was when it was looked at; `None`: it is made.
    pub seen: Option<Seen>,
    /// What it is afterwards; `None`: it has no name any more.
    pub becomes: Option<Becomes>,
}

/// What a graft relies on.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The revision of its last change. Not compared for directories, which change whenever something in them does.
    pub revision: Revision,
    /// Mode, owner and group. Compared for directories.
    pub access: (u32, u32, u32),
    /// All extended attributes. Compared for directories.
    pub xattrs: Arc<Xattrs>,
    /// All its names.
    pub places: BTreeSet<At>,
}

/// What a node is after a graft.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "as in stat(2)")]
pub struct Becomes {
    pub kind: Kind,
    pub places: BTreeSet<At>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub xattrs: Arc<Xattrs>,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub btime: Timestamp,
    pub bytes: Bytes,
}

/// Where a node's bytes come from.
#[derive(Clone, Debug)]
pub enum Bytes {
    /// It keeps those it has.
    Keep,
    /// These: a symlink's target, or a small file.
    These(Vec<u8>),
    /// Those that this file has before the graft; shared, not copied.
    Of(Ino),
}

/// What a graft did.
#[derive(Clone, Debug)]
pub enum Grafted {
    /// It is done, at this revision.
    Done(Revision),
    /// Nothing was done: this node, or a name in this directory, is not as it was.
    Changed(Ino),
}

/// The nodes that a graft touches, in memory.
struct Ground {
    nodes: HashMap<Ino, Arc<Node>>,
    /// The files that bytes come from.
    bytes: HashMap<Ino, Stock>,
}

/// The bytes of a file, to be shared.
struct Stock {
    slots: Vec<(u64, Slot)>,
    size: u64,
    revision: Revision,
}

impl Ground {
    fn node(&self, ino: Ino) -> FsResult<&Arc<Node>> {
        self.nodes.get(&ino).ok_or(FsError::Stale)
    }
}

impl Vfs {
    /// A number for a node that is to be made.
    pub fn new_ino(&self) -> Ino {
        self.begin(Author::Direct).new_ino()
    }

    /// Carries out a graft, and notes with it what sync knows from then on; that is told the revision, and which revision
    /// nodes that the graft touches had before.
    pub fn graft(
        &self,
        scions: &[Scion],
        note: impl FnOnce(Revision, &dyn Fn(Ino) -> Option<Revision>) -> SyncChange,
    ) -> FsResult<Grafted> {
        self.admit()?;
        for scion in scions.iter().filter(|scion| scion.seen.is_some()) {
            self.pull_for(Caller::DAEMON, scion.ino);
        }
        let ground = match self.prepare(scions) {
            Err(FsError::Stale) => return Ok(Grafted::Changed(0)),
            ground => ground?,
        };
        let revision = {
            let _still = self.moves.lock();
            let op = self.begin_alone();
            if let Some(changed) = self.find_changed(scions, &ground)? {
                return Ok(Grafted::Changed(changed));
            }
            self.check_graft(scions, &ground)?;
            let before: HashMap<Ino, Revision> =
                ground.nodes.iter().map(|(ino, node)| (*ino, node.meta.read().row.revision)).collect();
            for scion in scions {
                self.leave_places(&op, scion, &ground)?;
            }
            for scion in scions.iter().filter(|scion| scion.becomes.is_none()) {
                // Only now has everything left it, directories that were in it too.
                op.change(ground.node(scion.ino)?, |meta| {
                    meta.row.ctime = op.now;
                    meta.row.nlink = 0;
                });
            }
            for scion in scions {
                self.take_places(&op, scion, &ground)?;
            }
            let revision = op.revision();
            op.sync(note(revision, &|ino| before.get(&ino).copied()));
            revision
        };
        self.after_graft(scions, &ground);
        Ok(Grafted::Done(revision))
    }

    /// Only notes what sync knows.
    pub fn note_sync(&self, change: SyncChange) {
        self.begin(Author::Direct).sync(change);
    }

    /// Brings into memory all that the graft needs; nodes that are to be made are made, without a name.
    fn prepare(&self, scions: &[Scion]) -> FsResult<Ground> {
        let mut ground = Ground { nodes: HashMap::new(), bytes: HashMap::new() };
        let made: HashSet<Ino> =
            scions.iter().filter(|scion| scion.seen.is_none()).map(|scion| scion.ino).collect();
        for scion in scions {
            let before = scion.seen.iter().flat_map(|seen| &seen.places);
            let after = scion.becomes.iter().flat_map(|becomes| &becomes.places);
            let parents = before.chain(after).map(|(parent, _)| *parent);
            let own = scion.seen.is_some().then_some(scion.ino);
            for ino in parents.filter(|ino| !made.contains(ino)).chain(own) {
                if let Entry::Vacant(vacant) = ground.nodes.entry(ino) {
                    vacant.insert(self.whole(ino)?);
                }
            }
            if let Some(Becomes { bytes: Bytes::Of(from), .. }) = &scion.becomes
                && !ground.bytes.contains_key(from)
            {
                let bytes = self.bytes_of(*from)?;
                ground.bytes.insert(*from, bytes);
            }
        }
        for scion in scions.iter().filter(|scion| scion.seen.is_none()) {
            let Some(becomes) = &scion.becomes else { continue };
            ground.nodes.insert(scion.ino, Arc::new(Node::new(blank(scion.ino, becomes.kind))));
        }
        Ok(ground)
    }

    /// A node with all that may be changed of it in memory.
    fn whole(&self, ino: Ino) -> FsResult<Arc<Node>> {
        let node = self.node(ino)?;
        if node.dir.is_some() {
            self.load_dir(&node)?;
        }
        self.load_content(&node)?;
        self.load_xattrs(&node)?;
        Ok(node)
    }

    /// The slots of a file, to be shared. Small ones are read, because an inline row belongs to one file.
    fn bytes_of(&self, ino: Ino) -> FsResult<Stock> {
        let node = self.node(ino)?;
        self.load_content(&node)?;
        loop {
            let (slots, size, revision) = {
                let meta = node.meta.read();
                (meta.content.all_slots(), meta.row.size, meta.row.revision)
            };
            if slots.iter().any(|(_, slot)| matches!(slot, Slot::Patch(_))) {
                // A patch belongs to one file; in the store they are whole.
                self.commit(false)?;
                continue;
            }
            if !slots.iter().any(|(_, slot)| matches!(slot, Slot::Inline)) {
                return Ok(Stock { slots, size, revision });
            }
            let bytes = self.read_content(&node, 0, INLINE_MAX)?;
            if node.meta.read().row.revision == revision {
                let slot = Slot::Data(Arc::new(Buf::new(bytes, &self.gauge)));
                return Ok(Stock { slots: vec![(0, slot)], size, revision });
            }
        }
    }

    /// The first thing that is not as the graft relies on.
    fn find_changed(&self, scions: &[Scion], ground: &Ground) -> FsResult<Option<Ino>> {
        let mut vacated: HashSet<(Ino, &Name)> = HashSet::new();
        let mut inside: HashMap<Ino, isize> = HashMap::new();
        for scion in scions {
            let Some(seen) = &scion.seen else { continue };
            let node = ground.node(scion.ino)?;
            if !is_as_seen(node, seen) {
                return Ok(Some(scion.ino));
            }
            for (parent, name) in &seen.places {
                let entry = names_in(ground.node(*parent)?)?.read().get(name);
                if entry.is_none_or(|entry| entry.ino != scion.ino) {
                    return Ok(Some(*parent));
                }
                vacated.insert((*parent, name));
                *inside.entry(*parent).or_default() -= 1;
            }
        }
        let mut taken: HashSet<(Ino, &Name)> = HashSet::new();
        for scion in scions {
            for (parent, name) in scion.becomes.iter().flat_map(|becomes| &becomes.places) {
                let dir = ground.node(*parent)?;
                let is_free = names_in(dir)?.read().get(name).is_none() || vacated.contains(&(*parent, name));
                if !is_free || !taken.insert((*parent, name)) || dir.meta.read().row.nlink == 0 {
                    return Ok(Some(*parent));
                }
                *inside.entry(*parent).or_default() += 1;
            }
        }
        for scion in scions {
            let node = ground.node(scion.ino)?;
            let Some(dir) = &node.dir else { continue };
            let left = dir.read().len() as isize + inside.get(&scion.ino).copied().unwrap_or(0);
            if scion.becomes.is_none() && left != 0 {
                return Ok(Some(scion.ino));
            }
        }
        for (from, stock) in &ground.bytes {
            if self.node(*from)?.meta.read().row.revision != stock.revision {
                return Ok(Some(*from));
            }
        }
        self.find_cycle(scions, ground)
    }

    /// Fails when the quota has no room for the bytes that come, beside those that stay.
    fn check_graft(&self, scions: &[Scion], ground: &Ground) -> FsResult<()> {
        if !self.space.is_limited() {
            return Ok(());
        }
        let (mut before, mut after) = (0, 0);
        for scion in scions {
            after += match scion.becomes.as_ref().map(|becomes| &becomes.bytes) {
                Some(Bytes::Keep) => continue,
                Some(Bytes::These(bytes)) => allocated_to(1, bytes.len() as u64),
                Some(Bytes::Of(from)) => {
                    ground.bytes.get(from).map_or(0, |stock| allocated_to(stock.slots.len(), stock.size))
                }
                None => 0,
            };
            before += ground.node(scion.ino)?.meta.read().row.allocated;
        }
        self.check_growth(before, after)
    }

    /// A directory that would be below itself.
    fn find_cycle(&self, scions: &[Scion], ground: &Ground) -> FsResult<Option<Ino>> {
        let parent_of = |scion: &Scion| {
            let becomes = scion.becomes.as_ref().filter(|becomes| becomes.kind == Kind::Dir)?;
            becomes.places.first().map(|(parent, _)| (scion.ino, *parent))
        };
        let moved: HashMap<Ino, Ino> = scions.iter().filter_map(parent_of).collect();
        for (ino, parent) in &moved {
            let unmoved = ground.node(*ino)?.meta.read().row.parent == *parent;
            if unmoved {
                continue;
            }
            let mut at = *parent;
            let mut climb = Climb::new(at);
            while at != ROOT {
                if at == *ino {
                    return Ok(Some(*ino));
                }
                climb.step()?;
                at = match moved.get(&at) {
                    Some(parent) => *parent,
                    None => self.node(at)?.meta.read().row.parent,
                };
            }
        }
        Ok(None)
    }

    /// Takes away the names that the node does not keep.
    fn leave_places(&self, op: &Op<'_>, scion: &Scion, ground: &Ground) -> FsResult<()> {
        let node = ground.node(scion.ino)?;
        let Some(seen) = &scion.seen else {
            self.nodes.insert_made(node);
            self.space.node_added();
            self.grew(size_of::<Node>() + 256);
            op.change(node, |_| ());
            return Ok(());
        };
        for place @ (parent, name) in &seen.places {
            if scion.becomes.as_ref().is_some_and(|becomes| becomes.places.contains(place)) {
                continue;
            }
            let dir = ground.node(*parent)?;
            names_in(dir)?.write().remove(name);
            remember(node, dir, name);
            op.change(dir, |meta| {
                meta.row.ctime = op.now;
                if node.kind == Kind::Dir {
                    meta.lost_dir();
                }
            });
            if scion.becomes.is_none() {
                op.note_at(ChangeKind::Removed, node, dir, name);
            }
        }
        Ok(())
    }

    /// Gives the node the names that it gets, and makes it what it becomes.
    fn take_places(&self, op: &Op<'_>, scion: &Scion, ground: &Ground) -> FsResult<()> {
        let Some(becomes) = &scion.becomes else { return Ok(()) };
        let node = ground.node(scion.ino)?;
        let left: Vec<&At> = scion
            .seen
            .iter()
            .flat_map(|seen| &seen.places)
            .filter(|place| !becomes.places.contains(*place))
            .collect();
        let mut left = left.into_iter();
        for place @ (parent, name) in &becomes.places {
            *node.place.lock() = Some(place.clone());
            if scion.seen.as_ref().is_some_and(|seen| seen.places.contains(place)) {
                continue;
            }
            let dir = ground.node(*parent)?;
            names_in(dir)?.write().set(Arc::clone(name), node.ino, node.kind);
            op.change(dir, |meta| {
                meta.row.ctime = op.now;
                if node.kind == Kind::Dir {
                    meta.gained_dir();
                }
            });
            match left.next() {
                Some((from, old)) => op.note_move(node, (ground.node(*from)?, old), (dir, name)),
                None => op.note_at(ChangeKind::Created, node, dir, name),
            }
        }
        for (parent, name) in left {
            op.note_at(ChangeKind::Removed, node, ground.node(*parent)?, name);
        }
        let kind = self.become_what(op, node, becomes, ground);
        if let (Some(kind), true) = (kind, scion.seen.is_some()) {
            op.note(kind, node);
        }
        Ok(())
    }

    /// Sets attributes, times and bytes. Returns what there is to say of it.
    fn become_what(
        &self,
        op: &Op<'_>,
        node: &Arc<Node>,
        becomes: &Becomes,
        ground: &Ground,
    ) -> Option<ChangeKind> {
        op.change(node, |meta| {
            let new_bytes = match &becomes.bytes {
                Bytes::Keep => None,
                Bytes::These(bytes) if bytes.is_empty() => Some((Vec::new(), 0)),
                Bytes::These(bytes) => {
                    let slot = Slot::Data(Arc::new(Buf::new(bytes.clone(), &self.gauge)));
                    Some((vec![(0, slot)], bytes.len() as u64))
                }
                Bytes::Of(from) => ground.bytes.get(from).map(|stock| (stock.slots.clone(), stock.size)),
            };
            let moved = new_bytes.is_some();
            if let Some((slots, size)) = new_bytes {
                // From 0 on, nothing has to be fetched.
                let _ = meta.content.cut(0, &[], &self.gauge);
                for (index, slot) in slots {
                    meta.content.share(index, Some(slot));
                }
                meta.row.size = size;
            }
            let row = &mut meta.row;
            let before = (row.mode, row.uid, row.gid, row.mtime);
            (row.mode, row.uid, row.gid, row.mtime) =
                (becomes.mode & 0o7777, becomes.uid, becomes.gid, becomes.mtime);
            let mut changed = before != (row.mode, row.uid, row.gid, row.mtime);
            (row.atime, row.btime, row.rdev) = (becomes.atime, becomes.btime, becomes.rdev);
            row.ctime = op.now;
            if node.kind == Kind::Dir {
                row.parent = becomes.places.first().map_or(row.parent, |(parent, _)| *parent);
            } else {
                row.nlink = becomes.places.len() as u32;
            }
            if meta.xattrs.as_deref() != Some(&*becomes.xattrs) {
                self.grew(footprint_of(&becomes.xattrs));
                meta.row.has_xattrs = !becomes.xattrs.is_empty();
                meta.xattrs = Some(Arc::clone(&becomes.xattrs));
                meta.xattrs_changed = true;
                changed = true;
            }
            if moved { Some(ChangeKind::Modified) } else { changed.then_some(ChangeKind::Attributes) }
        })
    }

    /// Tells the kernel, and ends what has no name.
    fn after_graft(&self, scions: &[Scion], ground: &Ground) {
        let caller = Caller { origin: Origin::Direct, ..Caller::DAEMON };
        let mut names: BTreeSet<&At> = BTreeSet::new();
        for scion in scions {
            let (before, after) = (scion.seen.as_ref(), scion.becomes.as_ref());
            let before: Option<&BTreeSet<At>> = before.map(|seen| &seen.places);
            let after: Option<&BTreeSet<At>> = after.map(|becomes| &becomes.places);
            names.extend(before.unwrap_or(&NOWHERE).symmetric_difference(after.unwrap_or(&NOWHERE)));
        }
        self.tell(caller, |kernel| {
            for (parent, name) in names {
                kernel.entry(*parent, name);
            }
            for scion in scions.iter().filter(|scion| self.nodes.is_known(scion.ino)) {
                match &scion.becomes {
                    Some(becomes) if !matches!(becomes.bytes, Bytes::Keep) => kernel.content(scion.ino),
                    Some(becomes) if becomes.kind == Kind::Dir => {
                        kernel.attributes(scion.ino);
                        kernel.moved(scion.ino);
                    }
                    Some(_) => kernel.times(scion.ino),
                    None => kernel.attributes(scion.ino),
                }
            }
        });
        for scion in scions.iter().filter(|scion| scion.becomes.is_none()) {
            if let Some(node) = ground.nodes.get(&scion.ino) {
                self.reap(node);
            }
        }
    }
}

fn is_as_seen(node: &Node, seen: &Seen) -> bool {
    let meta = node.meta.read();
    let InodeRow { revision, nlink, mode, uid, gid, .. } = meta.row;
    let same = if node.kind == Kind::Dir {
        (mode, uid, gid) == seen.access && meta.xattrs.as_ref().is_none_or(|xattrs| *xattrs == seen.xattrs)
    } else {
        revision == seen.revision
    };
    !meta.removed && nlink > 0 && same
}
