//! What a replica and its hub say to each other, whatever carries it.
//!
//! The hub answers; only the replica asks. `changes` with `wait` is how it hears at once of what is new.

use super::entry::{Author, Cursor, Entry, Hash, Offer, ReplicaId};
use super::tree::Refusal;
use crate::error::NO_SPACE;
use crate::store::rows::Revision;
use std::time::Duration;

/// Bytes of content up to which they travel within their entry.
pub const INLINE: u64 = 16 << 10;

/// Most bytes of a single object: a piece of content, or a page of them.
pub const OBJECT_MAX: usize = 256 << 10;

/// Most entries or offers of one batch.
pub const BATCH_ENTRIES: usize = 1024;

/// Most entries or offers that a message may have: a batch is made of whole revisions, and one revision of a hub holds all
/// of a batch that was pushed, and the directories that it is in.
pub const BATCH_MOST: usize = 4 * BATCH_ENTRIES;

/// Bytes of names, attributes and inline content after which a batch is full.
pub const BATCH_BYTES: usize = 4 << 20;

/// Most hashes of one question, and bytes of objects after which an answer is full.
pub const OBJECTS_AT_ONCE: usize = 1024;

/// See [`OBJECTS_AT_ONCE`].
pub const OBJECT_BYTES: usize = 2 << 20;

/// A replica introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who it is.
    pub replica: ReplicaId,
    /// What people call it: its host's name, for lists.
    pub label: String,
    /// The workspace that it has.
    pub workspace: String,
    /// Whether there is nothing in it but its root, and never was anything that upstream has.
    pub empty: bool,
    /// It has been told to merge with a workspace that is not related.
    pub merge: bool,
    /// The last answer of the hub that it has applied.
    pub cursor: Option<Cursor>,
    /// Where the hub was when it told the replica something last, or took something.
    pub heard: Option<Cursor>,
    /// What its store has lived through, newest first: each life, and the revision at which it began.
    pub lives: Vec<(Author, Revision)>,
}

/// The hub's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The workspace, which is the replica's from now on.
    pub workspace: String,
    /// Who the hub is.
    pub hub: ReplicaId,
    /// Where the hub is now.
    pub current: Cursor,
    /// Whether the hub can go on from the replica's cursor. If not, the replica begins at 0, and afterwards asks for
    /// each node that it has and was not told of ([`Upstream::read_entries`]).
    pub resumes: bool,
    /// The hub has had more from this replica than the replica knows of: the replica is a copy of an old state, and
    /// must take a new [`ReplicaId`].
    pub stale: bool,
    /// The hub has never been where the replica has seen it: it is a copy of an old state, or another hub. Nothing
    /// that the two agreed on holds.
    pub restored: bool,
    /// What the replica's last push offered ([`digest`]), if it was taken and the hub remembers.
    pub taken: Option<Hash>,
    /// The replica's last revision when it pushed that; 0: the hub is older and does not say.
    pub pushed: Revision,
}

impl Welcome {
    /// Whether the hub has taken these offers, which were made at that revision, and nothing of the replica since. At
    /// another one it may have offered just the same.
    pub fn has_taken(&self, offers: &[Offer], made_at: Revision) -> bool {
        let may_be = self.pushed == made_at || self.pushed == 0 || made_at == 0;
        may_be && self.taken.is_some() && self.taken == digest(offers)
    }
}

/// What tells the offers of one push from those of another.
pub fn digest(offers: &[Offer]) -> Option<Hash> {
    Some(super::contents::hash(&postcard::to_allocvec(offers).ok()?))
}

/// An entry, with the bytes of its content if they are few and the replica may lack them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is what its name says")]
pub struct Told<T> {
    pub what: T,
    /// Only of content of depth 0 and at most [`INLINE`] bytes.
    pub bytes: Option<Vec<u8>>,
    /// Bytes that are allocated to its content, without holes; 0: none, or it is not known.
    pub allocated: u64,
}

/// A portion of what changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Portion {
    /// Each node at most once. Not those whose last change came from the replica that asks.
    pub entries: Vec<Told<Entry>>,
    /// Where to go on.
    pub up_to: Cursor,
    /// There is more at once.
    pub more: bool,
    /// The cursor is too old or of another life: begin at 0 (see [`Welcome::resumes`]).
    pub reset: bool,
    /// The hub's last revision when it told this: what it tells may be as new as that.
    pub now: Revision,
}

/// An object and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is what its name says")]
pub struct Object {
    pub hash: Hash,
    pub bytes: Vec<u8>,
}

/// What became of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is on the hub's disk, with this revision.
    Taken(Cursor),
    /// Nothing of it was taken.
    Refused(Vec<Refusal>),
    /// Objects that it needs are not there (any more).
    Lacks(Vec<Hash>),
}

/// What a hub knows of one of its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// Who.
    pub replica: ReplicaId,
    /// What people call it.
    pub label: String,
    /// Up to where the replica has said that it has applied the hub's changes.
    pub applied: Revision,
    /// The replica's own last revision when it pushed last.
    pub pushed: Revision,
    /// Nanoseconds since the epoch.
    pub last_seen: i64,
}

/// Why something could not be asked, or was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// There is no connection any more; another one may work.
    #[error("{0}")]
    Lost(String),
    /// Trying again won't help until somebody does something, which the text says.
    #[error("{0}")]
    Refused(String),
    /// The hub could not do it; it may later.
    #[error("{0}")]
    Failed(String),
    /// The same, for want of room.
    #[error("{0}")]
    Full(String),
}

impl LinkError {
    /// What a hub could not do that has no code for its want of room, because it is older: it says so in words.
    pub fn in_words(message: String) -> Self {
        if message.starts_with(NO_SPACE) { Self::Full(message) } else { Self::Failed(message) }
    }
}

/// What was asked for, or why not.
pub type Answer<T> = Result<T, LinkError>;

/// A hub, seen from a replica. All calls may be under way at the same time, and each may be dropped.
pub trait Upstream: Send + Sync + 'static {
    /// Comes first on each connection. From then on the hub takes no push any more that came on an earlier connection of this
    /// replica: what the replica reads now stays true of what it sent before. It may come again, to hear what was taken.
    fn hello(&self, hello: Hello) -> impl Future<Output = Answer<Welcome>> + Send;
    /// What changed after the cursor (`None`: everything); says by it that everything up to it is applied here. With
    /// `wait`: answers when there is something, or after that time with nothing. `ignore`: patterns of what is to be
    /// left out. What was gone before everything began to be told ([`Cursor::listed`]) need not be told of.
    fn changes(
        &self,
        after: Option<Cursor>,
        ignore: Vec<String>,
        wait: Option<Duration>,
    ) -> impl Future<Output = Answer<Portion>> + Send;
    /// These nodes as they are now, in the order asked for, and where the hub is.
    fn read_entries(
        &self,
        ids: Vec<super::NodeId>,
    ) -> impl Future<Output = Answer<(Vec<Told<Entry>>, Cursor)>> + Send;
    /// Which of these objects the hub lacks.
    fn lacks(&self, hashes: Vec<Hash>) -> impl Future<Output = Answer<Vec<Hash>>> + Send;
    /// The first of these objects, as many as fit an answer, in order; those that the hub does not have are left out,
    /// but at least one is looked for. Returns how many of the hashes were looked for, and the objects.
    fn fetch(&self, hashes: Vec<Hash>) -> impl Future<Output = Answer<(usize, Vec<Object>)>> + Send;
    /// Brings objects to the hub.
    fn bring(&self, objects: Vec<Object>) -> impl Future<Output = Answer<()>> + Send;
    /// Offers changes. `up_to`: the replica's last revision when the offers were made, so nothing in them is newer; `life`:
    /// the life of its store that the revision is of. By these the hub knows a replica that was restored from an old copy.
    /// What is not taken when it is answered is not taken later.
    fn push(
        &self,
        offers: Vec<Told<Offer>>,
        up_to: Revision,
        life: Author,
    ) -> impl Future<Output = Answer<Pushed>> + Send;
    /// Returns when the hub has its changes up to this revision on its disk, and where it is then.
    fn flush(&self, revision: Revision) -> impl Future<Output = Answer<Cursor>> + Send;
    /// All replicas that the hub knows.
    fn watermarks(&self) -> impl Future<Output = Answer<Vec<Watermark>>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::FsError;

    /// Those who know no code for it read the words.
    #[test]
    fn want_of_room_is_told_in_words_too() {
        for error in [FsError::NoSpace, FsError::NoRoom { more: 2, free: 1 }] {
            let error = LinkError::from(error);
            assert_eq!(LinkError::in_words(error.to_string()), error);
            assert!(matches!(error, LinkError::Full(_)));
        }
        assert!(matches!(LinkError::from(FsError::Stale), LinkError::Failed(_)));
    }
}
