//! The workspace as sync sees it: one moment of it, in states and identities.

use super::contents::{self, Cut, NOTE_AT};
use super::entry::{Attributes, ContentId, NodeId, Place, State, Times};
use super::ignore::Ignore;
use super::lives::Lives;
use super::tree::{Ignores, Local, Tree};
use crate::error::{FsError, FsResult};
use crate::store::Store;
use crate::store::contents::{Pass, PieceRow};
use crate::store::rows::{Ino, InodeRow, Kind, Name, ROOT, Revision};
use crate::store::snapshot::Snapshot;
use crate::store::sync::SyncNode;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// One moment of a workspace.
pub struct LocalTree<'a> {
    snapshot: Snapshot<'a>,
    store: &'a Store,
    lives: &'a Lives,
    ignore: &'a Ignore,
    ids: RefCell<HashMap<Ino, NodeId>>,
    /// What was found out on the way and is still to be noted.
    found: RefCell<Found>,
    known: RefCell<Option<HashMap<NodeId, Vec<NodeId>>>>,
}

/// What was found out about contents while a tree was looked at.
#[derive(Default)]
struct Found {
    contents: Vec<(Ino, Revision, ContentId, Option<Pass>)>,
    pieces: Vec<PieceRow>,
    /// Files of which other pieces are noted.
    stale: Vec<Ino>,
}

/// A node, with all that is known of it.
pub struct Seen {
    /// Its row.
    pub row: InodeRow,
    /// What sync knows of it.
    pub sync: Option<SyncNode>,
    /// What it is.
    pub state: State,
    /// Its bytes, if they were asked for and are few.
    pub bytes: Option<Vec<u8>>,
}

impl<'a> LocalTree<'a> {
    /// The workspace as it is in the store now.
    pub fn now(store: &'a Store, lives: &'a Lives, ignore: &'a Ignore) -> FsResult<Self> {
        let snapshot = store.snapshot(store.workspace())?;
        let (ids, found, known) = Default::default();
        Ok(Self { snapshot, store, lives, ignore, ids, found, known })
    }

    /// The moment itself.
    pub fn snapshot(&self) -> &Snapshot<'a> {
        &self.snapshot
    }

    /// Ends the look, and notes what was found out.
    pub fn end(self) -> FsResult<()> {
        let Self { snapshot, store, found, .. } = self;
        drop(snapshot);
        let found = found.into_inner();
        let ws = store.workspace();
        for ino in found.stale {
            store.drop_pieces(ws, ino)?;
        }
        let contents: Vec<_> =
            found.contents.into_iter().map(|(ino, at, id, pass)| (ino, at, id.into(), pass)).collect();
        if contents.is_empty() && found.pieces.is_empty() {
            return Ok(());
        }
        Ok(store.end_pieces(ws, &contents, &found.pieces)?)
    }

    /// Who a node is.
    pub fn id(&self, ino: Ino) -> FsResult<NodeId> {
        if let Some(id) = self.ids.borrow().get(&ino) {
            return Ok(*id);
        }
        let id = self.lives.id(ino, self.snapshot.sync_node(ino)?.as_ref());
        self.ids.borrow_mut().insert(ino, id);
        Ok(id)
    }

    /// Which node that is here, or was.
    pub fn ino(&self, id: NodeId) -> FsResult<Option<Ino>> {
        self.lives.ino(&self.snapshot, id)
    }

    /// All that is known of a node that has a name.
    pub fn look(&self, ino: Ino, with_bytes: bool) -> FsResult<Option<Seen>> {
        let Some(row) = self.snapshot.inode(ino)?.filter(|row| row.nlink > 0) else { return Ok(None) };
        let sync = self.snapshot.sync_node(ino)?;
        let (content, bytes) = self.content(&row, with_bytes)?;
        let state = State {
            kind: row.kind,
            places: self.places(ino)?,
            attributes: Attributes {
                mode: row.mode,
                uid: row.uid,
                gid: row.gid,
                rdev: row.rdev,
                xattrs: if row.has_xattrs { Arc::new(self.snapshot.xattrs(ino)?) } else { Arc::default() },
            },
            times: Times { atime: row.atime, mtime: row.mtime, btime: row.btime },
            content,
        };
        Ok(Some(Seen { row, sync, state, bytes }))
    }

    fn places(&self, ino: Ino) -> FsResult<BTreeSet<Place>> {
        let names = self.snapshot.names_of(ino)?;
        names.into_iter().map(|(parent, name)| Ok(Place { parent: self.id(parent)?, name })).collect()
    }

    /// The id of a node's content, and its bytes, if they are wanted and fit an entry.
    fn content(&self, row: &InodeRow, with_bytes: bool) -> FsResult<(Option<ContentId>, Option<Vec<u8>>)> {
        if !matches!(row.kind, Kind::File | Kind::Symlink) {
            return Ok((None, None));
        }
        let is_small = row.size <= super::link::INLINE;
        if !is_small && let Some(known) = self.snapshot.content_id(row.ino, row.content_revision)? {
            return Ok((Some(known.into()), None));
        }
        let pass = if is_small { None } else { self.forget_pieces(row.ino)? };
        let mut note = |pieces: Vec<PieceRow>| self.note(pieces);
        let Cut { id, pieces, bytes } = contents::cut(&self.snapshot, row, &mut note)?;
        if !is_small {
            self.note(pieces)?;
            self.found.borrow_mut().contents.push((row.ino, row.content_revision, id, pass));
        }
        Ok((Some(id), bytes.filter(|_| with_bytes && is_small)))
    }

    fn forget_pieces(&self, ino: Ino) -> FsResult<Option<Pass>> {
        if self.store.location().path().is_none() {
            self.found.borrow_mut().stale.push(ino);
            return Ok(None);
        }
        Ok(Some(self.store.begin_pieces(self.store.workspace(), ino)?))
    }

    /// Notes pieces at once where that can be done beside a snapshot, which is not so in a store in memory.
    fn note(&self, pieces: Vec<PieceRow>) -> FsResult<Vec<PieceRow>> {
        let mut found = self.found.borrow_mut();
        found.pieces.extend(pieces);
        if found.pieces.len() >= NOTE_AT && self.store.location().path().is_some() {
            self.store.put_contents(self.store.workspace(), &[], &std::mem::take(&mut found.pieces))?;
        }
        Ok(Vec::new())
    }

    /// Whether what has this place is left out of sync.
    pub fn is_left_out(&self, place: &Place) -> FsResult<bool> {
        if self.ignore.is_empty() {
            return Ok(false);
        }
        Ok(self.path(place)?.is_some_and(|path| self.ignore.holds(&path)))
    }

    /// What upstream has in each directory. Of all nodes, so it is looked for only when a directory comes into view, or leaves
    /// it.
    fn all_known(&self) -> FsResult<HashMap<NodeId, Vec<NodeId>>> {
        let mut known: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
        self.snapshot.each_base::<FsError>(|ino, base| {
            let id = self.id(ino)?;
            for place in decode_base(base)?.places {
                known.entry(place.parent).or_default().push(id);
            }
            Ok(())
        })?;
        Ok(known)
    }

    /// The path of a place from the root; `None` when a directory on the way is not here.
    pub fn path(&self, place: &Place) -> FsResult<Option<Vec<u8>>> {
        let mut names = vec![Arc::clone(&place.name)];
        let Some(mut at) = self.ino(place.parent)? else { return Ok(None) };
        while at != ROOT {
            let Some((parent, name)) = self.snapshot.names_of(at)?.into_iter().next() else {
                return Ok(None);
            };
            names.push(name);
            at = parent;
        }
        names.reverse();
        Ok(Some(names.join(&b'/')))
    }
}

/// What was agreed on, from its column.
pub fn decode_base(bytes: &[u8]) -> FsResult<State> {
    postcard::from_bytes(bytes).map_err(|error| {
        FsError::Io(format!("what was agreed on about a node cannot be read: {error}").into())
    })
}

/// What was agreed on, for its column.
pub fn encode_base(state: &State) -> FsResult<Vec<u8>> {
    postcard::to_allocvec(state)
        .map_err(|error| FsError::Io(format!("what was agreed on cannot be written: {error}").into()))
}

impl Tree for LocalTree<'_> {
    fn node(&self, id: NodeId) -> FsResult<Option<Local>> {
        let Some(ino) = self.ino(id)? else { return Ok(None) };
        if let Some(seen) = self.look(ino, false)? {
            let base = seen.sync.and_then(|sync| sync.base).map(|base| decode_base(&base)).transpose()?;
            return Ok(Some(Local { state: Some(seen.state), base, revision: seen.row.revision }));
        }
        let base = self.snapshot.sync_node(ino)?.and_then(|sync| sync.base);
        let base = base.map(|base| decode_base(&base)).transpose()?;
        Ok(base.map(|base| Local { state: None, base: Some(base), revision: 0 }))
    }

    fn child(&self, parent: NodeId, name: &[u8]) -> FsResult<Option<NodeId>> {
        let Some(parent) = self.ino(parent)? else { return Ok(None) };
        self.snapshot.child(parent, name)?.map(|ino| self.id(ino)).transpose()
    }

    fn children(&self, parent: NodeId) -> FsResult<Vec<(Name, NodeId)>> {
        let Some(parent) = self.ino(parent)? else { return Ok(Vec::new()) };
        let dirents = self.snapshot.dirents(parent)?;
        dirents.into_iter().map(|dirent| Ok((dirent.name, self.id(dirent.ino)?))).collect()
    }

    fn known_in(&self, parent: NodeId) -> FsResult<Vec<NodeId>> {
        if self.known.borrow().is_none() {
            *self.known.borrow_mut() = Some(self.all_known()?);
        }
        let known = self.known.borrow();
        Ok(known.as_ref().and_then(|known| known.get(&parent)).cloned().unwrap_or_default())
    }

    fn fresh(&self) -> NodeId {
        self.lives.fresh()
    }

    fn is_ignored(&self, path: &[u8]) -> bool {
        self.ignore.holds(path)
    }

    fn ignores(&self) -> Ignores {
        match self.ignore {
            all if all.is_empty() => Ignores::Nothing,
            all if all.looks_at_paths() => Ignores::Paths,
            _ => Ignores::Names,
        }
    }
}
