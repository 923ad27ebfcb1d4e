//! What changed while a command ran, and what of it is the command's.
//!
//! Most changes come with whose they are. Pages that the kernel writes back do not, so the bytes of a file, as long as they
//! were in its cache, are told by what is known of the file: who else did something to it through the mount.

use super::Files;
use crate::exec::{Changed, Lineage, Whose};
use crate::store::rows::Ino;
use crate::vfs::{Author, Change, ChangeKind};
use std::collections::HashMap;
use std::sync::Arc;

/// Changes that are kept of one command.
const MAX_CHANGES: usize = 10_000;

/// Bytes of them, so that they fit one answer; and what one has beside its paths there.
const MAX_BYTES: usize = 4 << 20;
const BESIDES: usize = 64;

/// Changes that are taken from the feed at a time.
const PORTION: usize = 1000;

/// Knows the changes of a workspace.
#[derive(Clone)]
pub struct Tracker(pub Files);

impl Tracker {
    /// The last revision.
    pub fn revision(&self) -> u64 {
        self.0.vfs().revision()
    }

    /// From now on changes that come through the mount carry which command they are of.
    pub fn follow(&self, lineage: Arc<Lineage>) {
        self.0.vfs().set_authors(move |process| match lineage.whose(process) {
            Whose::Nobody => Author::Unknown,
            Whose::Others => Author::Program,
            Whose::Command(first) => Author::Command(first),
        });
    }

    /// All changes after one revision up to another, and whether that is all of them.
    pub fn changes(&self, after: u64, up_to: u64) -> (Vec<Changed>, bool) {
        let (changes, complete) = self.between(after, up_to, &|_| true);
        (changes.into_iter().map(|change| self.row(change)).collect(), complete)
    }

    /// The changes after one revision up to another of the command with this first process, and whether that is all of
    /// them. What is of nobody that is known is the command's too, unless others have done something to the same node
    /// through the mount meanwhile and the command has not, or another command was the last to do so before.
    pub fn changes_of(&self, command: u32, after: u64, up_to: u64) -> (Vec<Changed>, bool) {
        let may_be = |change: &Change| change.by != Author::Direct;
        let (mut changes, complete) = self.between(after, up_to, &may_be);
        let own = Author::Command(command);
        // Of each node that somebody has touched: whether the command has.
        let mut touched: HashMap<Ino, bool> = HashMap::new();
        for change in changes.iter().filter(|change| change.by != Author::Unknown) {
            *touched.entry(change.ino).or_default() |= change.by == own;
        }
        let of_nobody = changes.iter().map(|change| change.ino).filter(|ino| !touched.contains_key(ino));
        let before = self.0.vfs().last_authors(after, of_nobody.collect());
        touched.extend(
            before.into_iter().filter(|(_, by)| *by != Author::Program).map(|(ino, by)| (ino, by == own)),
        );
        changes.retain(|change| match change.by {
            Author::Unknown => touched.get(&change.ino).copied().unwrap_or(true),
            by => by == own,
        });
        let all = changes.len();
        let mut bytes = 0;
        let rows = changes.into_iter().take(MAX_CHANGES).map(|change| self.row(change));
        let rows: Vec<Changed> = rows
            .take_while(|row| {
                bytes += BESIDES + row.path.len() + row.from.as_ref().map_or(0, Vec::len);
                bytes <= MAX_BYTES
            })
            .collect();
        let complete = complete && rows.len() == all;
        (rows, complete)
    }

    fn between(&self, after: u64, up_to: u64, wanted: &dyn Fn(&Change) -> bool) -> (Vec<Change>, bool) {
        let (mut changes, mut cursor) = (Vec::new(), after);
        while cursor < up_to {
            let wanted = |change: &Change| change.revision <= up_to && wanted(change);
            let found = self.0.vfs().changes(cursor, &wanted, PORTION);
            if found.dropped {
                return (changes, false);
            }
            changes.extend(found.changes);
            cursor = found.up_to;
        }
        (changes, true)
    }

    fn row(&self, change: Change) -> Changed {
        Changed {
            revision: change.revision,
            kind: match change.kind {
                ChangeKind::Created => 1,
                ChangeKind::Modified => 2,
                ChangeKind::Attributes => 3,
                ChangeKind::Removed => 4,
                ChangeKind::Renamed => 5,
            },
            node: change.node,
            ino: change.ino,
            path: self.0.wire_path(&change.path),
            from: change.from.map(|from| self.0.wire_path(&from)),
        }
    }
}

/// What happened, as the store's number has it; `None` for one that no version of wsd has written.
pub fn change_of(kind: i64) -> Option<ChangeKind> {
    Some(match kind {
        1 => ChangeKind::Created,
        2 => ChangeKind::Modified,
        3 => ChangeKind::Attributes,
        4 => ChangeKind::Removed,
        5 => ChangeKind::Renamed,
        _ => return None,
    })
}
