//! A workspace as sync needs it.

use super::entry::{Author, Hash, NodeId, Offer, ReplicaId};
use super::ignore::Ignore;
use super::link::{OBJECT_BYTES, OBJECTS_AT_ONCE, Object};
use super::lives::Lives;
use super::local::LocalTree;
use super::objects::Objects;
use super::view::unseen;
use crate::error::{FsError, FsResult};
use crate::store::Store;
use crate::store::replicas::ConflictRow;
use crate::store::rows::{Ino, ROOT, Revision, WorkspaceId};
use crate::store::sync::{LifeId, SyncChange, SyncNode, SyncState};
use crate::vfs::Vfs;
use std::collections::HashSet;
use std::sync::Arc;

/// Offers that were sent, and not answered.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// What was offered.
    pub offers: Vec<Offer>,
    /// The store's last revision when they were made; 0: it is not known.
    pub made_at: Revision,
}

/// A workspace with what sync needs of it.
pub struct Site {
    pub(crate) vfs: Arc<Vfs>,
    pub(crate) store: Arc<Store>,
    pub(crate) ws: WorkspaceId,
    pub(super) lives: Lives,
    pub(super) objects: Objects,
}

impl Site {
    /// The workspace of a store.
    pub fn open(vfs: Arc<Vfs>, store: Arc<Store>) -> FsResult<Self> {
        let ws = store.workspace();
        let lives = Lives::open(Arc::clone(&store), ws)?;
        let objects = Objects::new(Arc::clone(&vfs), Arc::clone(&store));
        Ok(Self { vfs, store, ws, lives, objects })
    }

    /// Makes ready for replicas, or for being one. A workspace that nobody syncs does without.
    pub fn prepare(&self) -> FsResult<()> {
        Ok(self.store.prepare_sync()?)
    }

    /// The present life of the store.
    pub fn life(&self) -> Author {
        self.lives.current()
    }

    /// Who this is, as replica or hub.
    pub fn replica(&self) -> FsResult<ReplicaId> {
        Ok(ReplicaId(self.store.sync_state(self.ws)?.replica))
    }

    /// What is stored of where this replica is.
    pub fn state(&self) -> FsResult<SyncState> {
        Ok(self.store.sync_state(self.ws)?)
    }

    /// The last revision.
    pub fn revision(&self) -> Revision {
        self.vfs.revision()
    }

    /// The id of the workspace.
    pub fn workspace(&self) -> FsResult<String> {
        Ok(self.store.uuid(self.ws)?)
    }

    /// The latest lives of the store, newest first, each with the last revision before it.
    pub fn lives(&self, limit: usize) -> Vec<(Author, Revision)> {
        self.lives.own(limit)
    }

    /// Objects here.
    pub fn objects(&self) -> Objects {
        self.objects.clone()
    }

    /// From now on `waker` is called whenever something changes. It must return at once.
    pub fn on_change(&self, waker: impl Fn() + Send + Sync + 'static) {
        self.vfs.on_change(waker);
    }

    /// Whether upstream is known to have any node that is here.
    pub fn has_bases(&self) -> FsResult<bool> {
        Ok(self.store.has_bases(self.ws)?)
    }

    /// Whether there is nothing here but the root, and upstream has never had anything of it.
    pub fn is_fresh(&self) -> FsResult<bool> {
        Ok(self.is_empty()? && !self.has_bases()?)
    }

    /// Whether there is nothing here but the root.
    pub fn is_empty(&self) -> FsResult<bool> {
        self.vfs.commit_now()?;
        Ok(self.store.snapshot(self.ws)?.dirents(ROOT)?.is_empty())
    }

    /// This is that workspace, and has that upstream, from now on.
    pub fn join(&self, workspace: &str, hub: ReplicaId) -> FsResult<()> {
        if self.workspace()? == workspace && self.state()?.upstream == Some(hub.0) {
            return Ok(());
        }
        Ok(self.store.join(self.ws, workspace, hub.0)?)
    }

    /// Notes durably that these offers are about to be sent; none: that all are answered.
    pub fn note_offers(&self, sent: &Sent) -> FsResult<()> {
        if sent.offers.is_empty() {
            return Ok(self.store.put_offers(self.ws, None)?);
        }
        let bytes = postcard::to_allocvec(&(&sent.offers, sent.made_at))
            .map_err(|error| FsError::Io(format!("offers cannot be noted: {error}").into()))?;
        self.store.put_offers(self.ws, Some(&bytes))?;
        self.vfs.sync()
    }

    /// Offers that were sent and not answered.
    pub fn unanswered(&self) -> FsResult<Sent> {
        let Some(bytes) = self.state()?.offers else { return Ok(Sent::default()) };
        let (offers, rest) = postcard::take_from_bytes(&bytes)
            .map_err(|error| FsError::Io(format!("offers that were noted cannot be read: {error}").into()))?;
        // Older ones end with the offers.
        Ok(Sent { offers, made_at: postcard::from_bytes(rest).unwrap_or(0) })
    }

    /// Takes a new identity as a replica.
    pub fn renew(&self) -> FsResult<()> {
        self.store.renew_replica(self.ws)?;
        Ok(())
    }

    /// Forgets what was agreed on with the upstream, which does not know of it any more.
    pub fn forget_agreement(&self) -> FsResult<()> {
        self.commit()?;
        Ok(self.store.forget_bases(self.ws)?)
    }

    /// Nodes and bytes of files that have changed here after a revision and are not upstream.
    pub fn pending(&self, pushed: Revision) -> FsResult<(u64, u64)> {
        Ok(self.store.pending(self.ws, pushed)?)
    }

    /// The latest conflicts, newest first.
    pub fn conflicts(&self, limit: usize) -> FsResult<Vec<ConflictRow>> {
        Ok(self.store.conflicts(self.ws, limit)?)
    }

    /// Notes conflicts.
    pub fn put_conflicts(&self, conflicts: &[ConflictRow]) -> FsResult<()> {
        Ok(self.store.put_conflicts(self.ws, conflicts)?)
    }

    /// All changes here up to this revision are upstream.
    pub fn note_pushed(&self, revision: Revision) -> FsResult<()> {
        Ok(self.store.note_pushed(self.ws, revision)?)
    }

    /// Sees to it that it is these patterns that are left out. If it was others until now, everything has to be told of anew,
    /// and what was out of view counts as never agreed on: what comes into view has not been removed here.
    pub fn leave_out(&self, ignore: &Ignore) -> FsResult<()> {
        let patterns = ignore.patterns().join("\n");
        let before = self.store.ignored(self.ws)?;
        if before.as_ref() == Some(&patterns) {
            return Ok(());
        }
        if let Some(before) = before.filter(|before| !before.is_empty()) {
            let before: Vec<String> = before.lines().map(str::to_owned).collect();
            self.forget_unseen(&Ignore::new(&before)?)?;
        }
        Ok(self.store.put_ignored(self.ws, &patterns)?)
    }

    fn forget_unseen(&self, before: &Ignore) -> FsResult<()> {
        let tree = self.look(before)?;
        let mut known = Vec::new();
        tree.snapshot().each_base::<FsError>(|ino, _| {
            known.push(tree.id(ino)?);
            Ok(())
        })?;
        let mut change = SyncChange::default();
        for id in unseen(&tree, known)? {
            let Some(ino) = tree.ino(id)? else { continue };
            if let Some(row) = tree.snapshot().sync_node(ino)? {
                change.nodes.insert(ino, SyncNode { base: None, ..row });
            }
        }
        tree.end()?;
        self.note(change);
        self.commit()
    }

    /// What sync knows of nodes from now on.
    pub fn note(&self, change: SyncChange) {
        self.vfs.note_sync(change);
    }

    /// Writes what has changed to the store.
    pub fn commit(&self) -> FsResult<()> {
        self.vfs.commit_now()
    }

    /// The workspace as it is in the store now.
    pub fn look<'a>(&'a self, ignore: &'a Ignore) -> FsResult<LocalTree<'a>> {
        LocalTree::now(&self.store, &self.lives, ignore)
    }

    /// An identity, as the store has it.
    pub fn number(&self, id: NodeId) -> FsResult<(LifeId, u64)> {
        let life = if id == NodeId::ROOT { 0 } else { self.lives.number(id.author)? };
        Ok((life, id.ino))
    }

    /// Brings what programs wrote to these nodes into the store, so that a look at it shows it.
    /// Their authors are known from then on, so that plans about them can be carried out.
    pub fn gather(&self, ids: impl Iterator<Item = NodeId> + Clone, ignore: &Ignore) -> FsResult<()> {
        let authors: HashSet<Author> =
            ids.clone().filter(|id| *id != NodeId::ROOT).map(|id| id.author).collect();
        for author in authors {
            self.lives.number(author)?;
        }
        let known: Vec<Ino> = {
            let tree = LocalTree::now(&self.store, &self.lives, ignore)?;
            let mut known = Vec::new();
            for id in ids {
                known.extend(tree.ino(id)?.filter(|ino| self.vfs.is_known_to_kernel(*ino)));
            }
            known
        };
        for ino in known {
            self.vfs.pull(ino);
        }
        self.vfs.commit_now()
    }

    /// The first of these objects, as many as fit an answer; and how many were looked for.
    pub fn fetch(&self, hashes: &[Hash]) -> FsResult<(usize, Vec<Object>)> {
        let (mut looked_for, mut bytes, mut found) = (0, 0, Vec::new());
        for hash in hashes.iter().take(OBJECTS_AT_ONCE) {
            if bytes >= OBJECT_BYTES {
                break;
            }
            looked_for += 1;
            if let Some(object) = self.objects.get(hash)? {
                bytes += object.len();
                found.push(Object { hash: *hash, bytes: object });
            }
        }
        Ok((looked_for, found))
    }
}
