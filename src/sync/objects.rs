//! Objects: where their bytes are here, and files put together from them.

use super::contents::{self, MAX_DEPTH, Record};
use super::entry::{ContentId, Hash};
use super::link::{OBJECT_MAX, OBJECTS_AT_ONCE, Object};
use crate::error::{FsError, FsResult};
use crate::store::Store;
use crate::store::contents::PieceRow;
use crate::store::rows::{Ino, WorkspaceId};
use crate::vfs::{Caller, SetAttr, Vfs};
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes of objects that an assembly asks for at once.
const WANTED_BYTES: u64 = 8 << 20;

/// The objects of a workspace.
#[derive(Clone)]
pub struct Objects {
    vfs: Arc<Vfs>,
    store: Arc<Store>,
    ws: WorkspaceId,
}

/// A file without a name, for as long as this lasts.
pub struct Staged {
    objects: Objects,
    ino: Ino,
}

impl Staged {
    /// The file.
    pub fn ino(&self) -> Ino {
        self.ino
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.objects.vfs.release(self.ino);
        if let Err(error) = self.objects.store.drop_pieces(self.objects.ws, self.ino) {
            tracing::warn!(%error, "what is noted of a file that is gone stays until the next start");
        }
    }
}

impl Objects {
    /// Those of this workspace.
    pub fn new(vfs: Arc<Vfs>, store: Arc<Store>) -> Self {
        let ws = store.workspace();
        Self { vfs, store, ws }
    }

    /// The bytes of an object, if it is here: read from where it was noted to be, and checked.
    pub fn get(&self, hash: &Hash) -> FsResult<Option<Vec<u8>>> {
        for piece in self.store.pieces(self.ws, hash)? {
            let bytes = match piece.page {
                Some(page) => page,
                None if piece.len > OBJECT_MAX as u64 => continue,
                None => match self.vfs.read_quietly(piece.ino, piece.at, piece.len as usize) {
                    Ok(bytes) => bytes,
                    Err(FsError::Stale | FsError::IsDir | FsError::Invalid(_)) => continue,
                    Err(error) => return Err(error),
                },
            };
            if contents::hash(&bytes) == *hash {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Whether an object is here. Looks at its bytes, because files change.
    pub fn has(&self, hash: &Hash) -> FsResult<bool> {
        Ok(self.get(hash)?.is_some())
    }

    /// A file to put bytes into.
    pub fn stage(&self) -> FsResult<Staged> {
        let attr = self.vfs.stage(Caller::DAEMON)?;
        Ok(Staged { objects: self.clone(), ino: attr.ino })
    }

    fn write(&self, staged: &Staged, at: u64, bytes: &[u8]) -> FsResult<()> {
        self.vfs.write(Caller::DAEMON, staged.ino, at, bytes, false)
    }

    /// The bytes and notes of a staged file are now those of a file in the tree, which may be one of several.
    pub fn placed(&self, staged: &Staged, ino: Ino) -> FsResult<()> {
        Ok(self.store.copy_pieces(self.ws, staged.ino, ino)?)
    }
}

/// Objects that came and are not part of a file yet: one after the other in a file without a name.
pub struct Pile {
    staged: Staged,
    end: u64,
    room: u64,
}

impl Pile {
    /// An empty one, for about so many bytes.
    pub fn new(objects: &Objects, room: u64) -> FsResult<Self> {
        Ok(Self { staged: objects.stage()?, end: 0, room })
    }

    /// Bytes that it is for.
    pub fn room(&self) -> u64 {
        self.room
    }

    /// From now on it is for so many bytes, if it was for less.
    pub fn widen(&mut self, room: u64) {
        self.room = self.room.max(room);
    }

    /// Whether it has as many bytes as it is for.
    pub fn is_full(&self) -> bool {
        self.end >= self.room
    }

    /// Adds objects, each of which must be what it says it is.
    pub fn add(&mut self, came: &[Object]) -> FsResult<()> {
        let objects = self.staged.objects.clone();
        let mut bytes = Vec::new();
        let mut pieces = Vec::with_capacity(came.len());
        for object in came {
            check(object)?;
            let (at, len) = (self.end + bytes.len() as u64, object.bytes.len() as u64);
            pieces.push(PieceRow { hash: object.hash, ino: self.staged.ino, at, len, page: None });
            bytes.extend_from_slice(&object.bytes);
        }
        objects.write(&self.staged, self.end, &bytes)?;
        self.end += bytes.len() as u64;
        Ok(objects.store.put_contents(objects.ws, &[], &pieces)?)
    }
}

/// Fails for an object that is not what its hash says.
pub fn check(object: &Object) -> FsResult<()> {
    if object.bytes.len() > OBJECT_MAX {
        return Err(FsError::Invalid("an object is larger than objects may be"));
    }
    if contents::hash(&object.bytes) != object.hash {
        return Err(FsError::Io(
            "an object that came is not what its hash says: it was damaged on its way".into(),
        ));
    }
    Ok(())
}

/// A file in the making, from the objects of its content: first those that are here, then those that come.
pub struct Assembly {
    objects: Objects,
    staged: Staged,
    id: ContentId,
    /// Pages that are being read, the root first.
    open: Vec<Open>,
    /// Objects that are to come, and where their bytes belong, or at which depth they are a page.
    wanted: HashMap<Hash, Vec<Want>>,
    wanted_bytes: u64,
    pieces: Vec<PieceRow>,
}

struct Open {
    records: std::vec::IntoIter<Record>,
    depth: u8,
    at: u64,
}

#[derive(Clone, Copy)]
struct Want {
    at: u64,
    len: u64,
    depth: u8,
}

impl Assembly {
    /// Of this content.
    pub fn new(objects: &Objects, id: ContentId) -> FsResult<Self> {
        if id.depth > MAX_DEPTH || id.size > crate::vfs::MAX_FILE_SIZE {
            return Err(FsError::Invalid("a content is larger than files may be"));
        }
        let mut assembly = Self {
            objects: objects.clone(),
            staged: objects.stage()?,
            id,
            open: Vec::new(),
            wanted: HashMap::new(),
            wanted_bytes: 0,
            pieces: Vec::new(),
        };
        let root = Want { at: 0, len: id.size, depth: id.depth };
        assembly.meet(id.hash, root)?;
        Ok(assembly)
    }

    /// What it is.
    pub fn id(&self) -> ContentId {
        self.id
    }

    /// Goes on with what is here. Returns objects that are to come before it can go on; none: the file is complete.
    pub fn advance(&mut self) -> FsResult<Vec<Hash>> {
        while self.wanted.len() < OBJECTS_AT_ONCE && self.wanted_bytes < WANTED_BYTES {
            // A page that is to come holds up what is after it: the order of pages is that of the file.
            if self.wanted.values().flatten().any(|want| want.depth > 0) {
                break;
            }
            let Some(open) = self.open.last_mut() else { break };
            let (depth, at) = (open.depth, open.at);
            match open.records.next() {
                None => {
                    self.open.pop();
                }
                Some(Record::Hole(len)) => open.at = open.at.saturating_add(len),
                Some(Record::Data(hash, len)) => {
                    open.at = open.at.saturating_add(len);
                    self.meet(hash, Want { at, len, depth: depth - 1 })?;
                }
            }
        }
        if self.wanted.is_empty() && self.open.is_empty() {
            self.finish()?;
        }
        Ok(self.wanted.keys().copied().collect())
    }

    /// Takes objects that came. Those that were not asked for are left out.
    pub fn take(&mut self, came: Vec<Object>) -> FsResult<()> {
        for object in came {
            check(&object)?;
            let Some(wants) = self.wanted.remove(&object.hash) else { continue };
            for want in wants {
                self.wanted_bytes = self.wanted_bytes.saturating_sub(want.len.min(OBJECT_MAX as u64));
                self.put(object.hash, &object.bytes, want)?;
            }
        }
        Ok(())
    }

    /// The complete file.
    pub fn done(self) -> Staged {
        self.staged
    }

    fn meet(&mut self, hash: Hash, want: Want) -> FsResult<()> {
        if let Some(wants) = self.wanted.get_mut(&hash) {
            wants.push(want);
            self.wanted_bytes += want.len.min(OBJECT_MAX as u64);
            return Ok(());
        }
        match self.objects.get(&hash)? {
            Some(bytes) => self.put(hash, &bytes, want),
            None => {
                self.wanted.insert(hash, vec![want]);
                self.wanted_bytes += want.len.min(OBJECT_MAX as u64);
                Ok(())
            }
        }
    }

    fn put(&mut self, hash: Hash, bytes: &[u8], want: Want) -> FsResult<()> {
        let bad = FsError::Invalid("the pages of a content do not add up to it");
        if want.at.saturating_add(want.len) > self.id.size {
            return Err(bad);
        }
        let ino = self.staged.ino;
        if want.depth > 0 {
            let records = contents::records(bytes).ok_or(bad.clone())?;
            let len = records.iter().try_fold(0u64, |sum, record| match record {
                Record::Data(_, len) | Record::Hole(len) => sum.checked_add(*len),
            });
            if len != Some(want.len) {
                return Err(bad);
            }
            self.open.push(Open { records: records.into_iter(), depth: want.depth, at: want.at });
            self.pieces.push(PieceRow { hash, ino, at: 0, len: want.len, page: Some(bytes.to_vec()) });
        } else {
            if bytes.len() as u64 != want.len {
                return Err(bad);
            }
            self.objects.write(&self.staged, want.at, bytes)?;
            self.pieces.push(PieceRow { hash, ino, at: want.at, len: want.len, page: None });
        }
        if self.pieces.len() >= OBJECTS_AT_ONCE {
            self.note()?;
        }
        Ok(())
    }

    fn note(&mut self) -> FsResult<()> {
        let pieces = std::mem::take(&mut self.pieces);
        Ok(self.objects.store.put_contents(self.objects.ws, &[], &pieces)?)
    }

    fn finish(&mut self) -> FsResult<()> {
        let attr = self.objects.vfs.getattr(self.staged.ino)?;
        if attr.size != self.id.size {
            let set = SetAttr { size: Some(self.id.size), ..SetAttr::default() };
            self.objects.vfs.setattr(Caller::DAEMON, self.staged.ino, &set)?;
        }
        if self.id.size > super::link::INLINE { self.note() } else { Ok(()) }
    }
}
