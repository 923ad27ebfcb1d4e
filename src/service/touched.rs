//! What changed while a command ran.

use super::Files;
use crate::exec::Changed;
use crate::vfs::{Change, ChangeKind};

/// Changes that are kept of one command.
const MAX_CHANGES: usize = 10_000;

/// Changes that are taken from the feed at a time.
const PORTION: usize = 1000;

/// Knows the changes of a workspace.
pub struct Tracker(pub Files);

impl Tracker {
    /// The last revision.
    pub fn revision(&self) -> u64 {
        self.0.vfs().revision()
    }

    /// The changes after one revision up to another, and whether that is all of them.
    pub fn changes(&self, after: u64, up_to: u64) -> (Vec<Changed>, bool) {
        let (mut changes, mut cursor) = (Vec::new(), after);
        while cursor < up_to {
            let found = self.0.vfs().changes(cursor, &|change| change.revision <= up_to, PORTION);
            if found.dropped {
                return (changes, false);
            }
            changes.extend(found.changes.into_iter().map(|change| self.row(change)));
            if changes.len() > MAX_CHANGES {
                changes.truncate(MAX_CHANGES);
                return (changes, false);
            }
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
