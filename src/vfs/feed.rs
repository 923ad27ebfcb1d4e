//! The change feed: what changed, in the order of revisions.
//!
//! An operation says what it did; when it ends, with all its locks released and no cut possible yet, the feed takes
//! that under the operation's revision. Operations end in any order, so what comes early waits for what is
//! missing. The feed keeps the last [`HISTORY`] changes in memory: enough for a reader that is slow or was cut off for
//! a while. Who needs more looks at the tree itself, which has a revision on every node.

use super::Vfs;
use super::lookup::Climb;
use super::node::Node;
use super::types::Author;
use crate::store::rows::{Ino, Kind, Name, ROOT, Revision};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Changes that are kept.
const HISTORY: usize = 32_768;

/// Bytes of their paths that are kept.
const HISTORY_BYTES: usize = 16 << 20;

/// Bytes of paths after which a portion is full.
const PORTION: usize = 1 << 20;

/// Changes that are looked at in one go, so that writers never wait long for a reader with a narrow view.
const STRIDE: usize = 2048;

/// What happened to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It has a name: a new node, or a new link to one.
    Created,
    /// Its bytes or its size changed.
    Modified,
    /// Its mode, owner, times or extended attributes changed.
    Attributes,
    /// A name of it is gone.
    Removed,
    /// It has another name.
    Renamed,
}

/// One change.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is what its name says")]
pub struct Change {
    pub revision: Revision,
    pub kind: ChangeKind,
    pub ino: Ino,
    pub node: Kind,
    /// From the root, without a leading slash. Of something removed: where it was.
    pub path: Arc<[u8]>,
    /// Of a rename: where it was.
    pub from: Option<Arc<[u8]>>,
    pub by: Author,
}

impl Change {
    fn bytes(&self) -> usize {
        self.path.len() + self.from.as_ref().map_or(0, |from| from.len())
    }
}

/// A portion of the feed.
#[derive(Debug, Default)]
pub struct Changes {
    /// In order; the changes of one revision are never torn apart.
    pub changes: Vec<Change>,
    /// Where to go on.
    pub up_to: Revision,
    /// Not all that was asked for is still known. The portion is empty then.
    pub dropped: bool,
    /// There may be more at once.
    pub more: bool,
}

/// Told after the feed has grown. Must return at once.
type Waker = Arc<dyn Fn() + Send + Sync>;

pub(super) struct Feed {
    state: Mutex<State>,
    wakers: RwLock<Vec<Waker>>,
}

struct State {
    /// The revision that comes next.
    next: Revision,
    early: BTreeMap<Revision, Vec<Change>>,
    history: VecDeque<Change>,
    /// Of the paths in it.
    bytes: usize,
    /// Changes up to this revision are no longer known.
    forgotten: Revision,
}

/// What an operation says of itself.
pub(super) enum Noted {
    /// A change at a name.
    Named { kind: ChangeKind, node: (Ino, Kind), at: (Arc<Node>, Name) },
    /// A change of a node, by whatever name.
    Of { kind: ChangeKind, node: Arc<Node> },
    /// A move.
    Moved { node: (Ino, Kind), from: (Arc<Node>, Name), to: (Arc<Node>, Name) },
}

impl Feed {
    pub(super) fn new(revision: Revision) -> Self {
        let state = State {
            next: revision + 1,
            early: BTreeMap::new(),
            history: VecDeque::new(),
            bytes: 0,
            forgotten: revision,
        };
        Self { state: Mutex::new(state), wakers: RwLock::default() }
    }

    /// Whether the last change known is one of the bytes of this node: another one goes with it.
    fn goes_with_last(&self, ino: Ino) -> Option<Change> {
        let state = self.state.lock();
        let last = state.history.back()?;
        (last.kind == ChangeKind::Modified && last.ino == ino).then(|| last.clone())
    }

    /// Takes the changes of a revision, of which there may be none.
    fn publish(&self, revision: Revision, changes: Vec<Change>) {
        let grew = {
            let mut state = self.state.lock();
            if revision == state.next {
                state.take(changes);
                while let Some(changes) = state.next_early() {
                    state.take(changes);
                }
                true
            } else {
                state.early.insert(revision, changes);
                false
            }
        };
        if grew {
            for wake in self.wakers.read().iter() {
                wake();
            }
        }
    }

    fn after(&self, cursor: Revision, wanted: &dyn Fn(&Change) -> bool, limit: usize) -> Changes {
        let state = self.state.lock();
        let last = state.next - 1;
        if cursor < state.forgotten || cursor > last {
            return Changes { up_to: last, dropped: true, ..Changes::default() };
        }
        let mut portion = Changes { up_to: last, ..Changes::default() };
        let first = state.history.partition_point(|change| change.revision <= cursor);
        let (mut before, mut bytes) = (cursor, 0);
        for (looked_at, change) in state.history.range(first..).enumerate() {
            let full = portion.changes.len() >= limit || bytes >= PORTION || looked_at >= STRIDE;
            if change.revision != before && full {
                (portion.up_to, portion.more) = (before, true);
                break;
            }
            before = change.revision;
            if wanted(change) {
                bytes += change.bytes();
                portion.changes.push(change.clone());
            }
        }
        portion
    }

    /// Whose the last change of each of these nodes was up to a revision, as far as that is known and kept.
    fn last_authors(&self, up_to: Revision, mut nodes: HashSet<Ino>) -> HashMap<Ino, Author> {
        let state = self.state.lock();
        let end = state.history.partition_point(|change| change.revision <= up_to);
        let mut found = HashMap::new();
        for change in state.history.range(..end).rev() {
            if nodes.is_empty() {
                break;
            }
            if matches!(change.by, Author::Program | Author::Command(_)) && nodes.remove(&change.ino) {
                found.insert(change.ino, change.by);
            }
        }
        found
    }
}

impl State {
    fn next_early(&mut self) -> Option<Vec<Change>> {
        self.early.remove(&self.next)
    }

    fn take(&mut self, changes: Vec<Change>) {
        self.next += 1;
        for change in changes {
            match self.history.back_mut() {
                Some(last)
                    if change.kind == ChangeKind::Modified
                        && last.kind == ChangeKind::Modified
                        && last.ino == change.ino
                        && last.by == change.by
                        && last.path == change.path =>
                {
                    last.revision = change.revision;
                }
                _ => {
                    self.bytes += change.bytes();
                    self.history.push_back(change);
                }
            }
        }
        while self.history.len() > HISTORY || self.bytes > HISTORY_BYTES {
            let Some(oldest) = self.history.pop_front() else { break };
            self.bytes -= oldest.bytes();
            self.forgotten = oldest.revision;
        }
    }
}

impl Vfs {
    /// What changed after `cursor`, of what is `wanted`; about `limit` changes at most.
    pub fn changes(&self, cursor: Revision, wanted: &dyn Fn(&Change) -> bool, limit: usize) -> Changes {
        self.feed.after(cursor, wanted, limit)
    }

    /// Whose the last change through the mount of each of these nodes was up to a revision; of those of which that is known
    /// and still kept.
    pub fn last_authors(&self, up_to: Revision, nodes: HashSet<Ino>) -> HashMap<Ino, Author> {
        self.feed.last_authors(up_to, nodes)
    }

    /// The last revision that the feed has: all operations up to it have ended.
    pub fn revision(&self) -> Revision {
        self.feed.state.lock().next - 1
    }

    /// All changes after this revision are known.
    pub fn known_after(&self) -> Revision {
        self.feed.state.lock().forgotten
    }

    /// From now on `waker` is called whenever there are new changes. It must return at once.
    pub fn on_change(&self, waker: impl Fn() + Send + Sync + 'static) {
        self.feed.wakers.write().push(Arc::new(waker));
    }

    /// Puts what an operation said of itself into the feed.
    pub(super) fn publish(&self, revision: Revision, by: Author, noted: Vec<Noted>) {
        let changes = noted.into_iter().filter_map(|noted| self.change(revision, by, noted)).collect();
        self.feed.publish(revision, changes);
    }

    /// A change with its paths; `None` when it happened to what has no place in the tree any more.
    fn change(&self, revision: Revision, by: Author, noted: Noted) -> Option<Change> {
        let (kind, (ino, node), path, from) = match noted {
            Noted::Named { kind, node, at } => (kind, node, self.path_in(&at.0, &at.1)?, None),
            Noted::Moved { node, from, to } => {
                let (from, to) = (self.path_in(&from.0, &from.1)?, self.path_in(&to.0, &to.1)?);
                (ChangeKind::Renamed, node, to, Some(from))
            }
            Noted::Of { kind, node } => {
                if let (ChangeKind::Modified, Some(last)) = (kind, self.feed.goes_with_last(node.ino)) {
                    return Some(Change { revision, by, ..last });
                }
                // What has no name any more (the kernel still stamps it) would be looked for in the store.
                if node.meta.read().row.nlink == 0 {
                    return None;
                }
                let path = self.known_path(&node)?;
                (kind, (node.ino, node.kind), path, None)
            }
        };
        Some(Change { revision, kind, ino, node, path, from, by })
    }

    fn path_in(&self, dir: &Arc<Node>, name: &[u8]) -> Option<Arc<[u8]>> {
        let mut path = self.known_path(dir)?.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Some(path.into())
    }

    /// A path of the node, if it has one that memory or the store knows. Takes no lock but those of directories.
    fn known_path(&self, node: &Arc<Node>) -> Option<Arc<[u8]>> {
        let mut names: Vec<Name> = Vec::new();
        let mut at = Arc::clone(node);
        let mut climb = Climb::new(node.ino);
        while at.ino != ROOT {
            climb.step().inspect_err(|error| tracing::error!(%error, "a change has no place")).ok()?;
            let (parent, name) = self.place_of(&at).ok()??;
            names.push(name);
            at = self.nodes.get(parent).or_else(|| self.node(parent).ok())?;
        }
        names.reverse();
        Some(names.join(&b'/').into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: Revision, kind: ChangeKind, ino: Ino) -> Change {
        let path = format!("f{ino}").into_bytes().into();
        Change { revision, kind, ino, node: Kind::File, path, from: None, by: Author::Direct }
    }

    fn revisions(changes: &Changes) -> Vec<Revision> {
        changes.changes.iter().map(|change| change.revision).collect()
    }

    #[test]
    fn what_comes_early_waits_for_what_is_missing() {
        let feed = Feed::new(10);
        feed.publish(12, vec![change(12, ChangeKind::Created, 2)]);
        assert_eq!(feed.after(10, &|_| true, 9).up_to, 10);
        feed.publish(13, Vec::new());
        feed.publish(11, vec![change(11, ChangeKind::Created, 1)]);
        let all = feed.after(10, &|_| true, 9);
        assert_eq!((revisions(&all), all.up_to, all.dropped), (vec![11, 12], 13, false));
        assert_eq!(revisions(&feed.after(11, &|_| true, 9)), [12]);
        let first = feed.after(10, &|_| true, 1);
        assert_eq!((revisions(&first), first.up_to, first.more), (vec![11], 11, true));
    }

    #[test]
    fn a_revision_is_never_torn_apart() {
        let feed = Feed::new(0);
        feed.publish(1, vec![change(1, ChangeKind::Renamed, 1), change(1, ChangeKind::Renamed, 2)]);
        feed.publish(2, vec![change(2, ChangeKind::Removed, 1)]);
        let first = feed.after(0, &|_| true, 1);
        assert_eq!((revisions(&first), first.up_to), (vec![1, 1], 1));
    }

    #[test]
    fn changes_of_bytes_in_a_row_are_one_and_are_seen_anew() {
        let feed = Feed::new(0);
        feed.publish(1, vec![change(1, ChangeKind::Modified, 1)]);
        assert_eq!(feed.after(0, &|_| true, 9).up_to, 1);
        feed.publish(2, vec![change(2, ChangeKind::Modified, 1)]);
        assert_eq!(revisions(&feed.after(0, &|_| true, 9)), [2]);
        assert_eq!(revisions(&feed.after(1, &|_| true, 9)), [2]);
    }

    #[test]
    fn it_says_when_history_is_gone() {
        let feed = Feed::new(0);
        for revision in 1..=HISTORY as u64 + 5 {
            feed.publish(revision, vec![change(revision, ChangeKind::Created, revision)]);
        }
        let last = HISTORY as u64 + 5;
        assert!(feed.after(4, &|_| true, 9).dropped && feed.after(last + 1, &|_| true, 9).dropped);
        let rest = feed.after(5, &|_| true, 9);
        assert_eq!((rest.dropped, revisions(&rest)[0]), (false, 6));
        let narrow = feed.after(5, &|change| change.ino == last, 9);
        assert!(narrow.changes.is_empty() && narrow.more, "only so many are looked at in one go");
    }
}
