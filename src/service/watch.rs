//! What changes: a view of the change feed.

use super::{Files, MAX_ENTRIES, Outcome};
use crate::vfs::{Change, Changes};
use std::sync::Arc;

/// Which changes somebody wants.
#[derive(Clone, Debug)]
pub struct View {
    /// Below the root; empty for all.
    path: Arc<[u8]>,
    recursive: bool,
}

impl View {
    fn shows(&self, change: &Change) -> bool {
        self.holds(&change.path) || change.from.as_ref().is_some_and(|from| self.holds(from))
    }

    fn holds(&self, path: &[u8]) -> bool {
        let below = match path.strip_prefix(&*self.path) {
            Some(b"") => return true,
            Some(below) if self.path.is_empty() => below,
            Some([b'/', below @ ..]) => below,
            _ => return false,
        };
        self.recursive || !below.contains(&b'/')
    }
}

/// A place in the feed.
#[derive(Clone)]
pub struct Watch {
    files: Files,
    view: View,
    cursor: u64,
}

impl Files {
    /// Watches a path after a revision; `None`: from now on.
    pub fn watch(&self, path: &[u8], recursive: bool, after: Option<u64>) -> Outcome<Watch> {
        let path = self.real(path)?;
        let cursor = after.unwrap_or_else(|| self.vfs.revision());
        Ok(Watch { files: self.clone(), view: View { path: path.into(), recursive }, cursor })
    }
}

impl Watch {
    /// All changes up to this revision have been delivered.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// What there is now, which may be nothing. Paths are as on the wire.
    pub fn poll(&mut self, limit: usize) -> Changes {
        let view = &self.view;
        let limit = limit.clamp(1, MAX_ENTRIES);
        let mut found = self.files.vfs.changes(self.cursor, &|change| view.shows(change), limit);
        self.cursor = found.up_to;
        for change in &mut found.changes {
            change.path = self.files.wire_path(&change.path).into();
            change.from = change.from.as_ref().map(|from| self.files.wire_path(from).into());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(path: &str, recursive: bool) -> View {
        View { path: path.as_bytes().into(), recursive }
    }

    #[test]
    fn a_view_holds_what_is_at_in_and_below() {
        assert!(
            view("", true).holds(b"a/b/c") && view("", false).holds(b"a") && !view("", false).holds(b"a/b")
        );
        let dir = view("a/b", true);
        assert!(dir.holds(b"a/b") && dir.holds(b"a/b/c/d") && !dir.holds(b"a/bc") && !dir.holds(b"a"));
        assert!(view("a/b", false).holds(b"a/b/c") && !view("a/b", false).holds(b"a/b/c/d"));
    }
}
