//! What programs of the host write through mappings.
//!
//! The kernel moves a file's times when a page that was clean is written to, and says nothing of what is written to it
//! after that, until the page is on the disk. So a file that was read may become another one without a sign, for as long
//! as it has such pages. Once all is on the disk, whatever is written shows again: then what was read before is compared
//! once more with what was agreed on.

use super::age::age_of;
use super::{Depth, Engine, Wish};
use crate::shadow::Entry;
use crate::tree::{Facts, Path, UNTRUSTED};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a page that was written to may not be on the disk yet: the kernel's 30 seconds, and as much again.
const UNWRITTEN: Duration = Duration::from_secs(60);

impl Engine {
    /// A file of the host was read. Who closes a file that they wrote to has no mapping of it any more.
    pub(super) fn was_read(&mut self, path: &[u8], host: &Facts, wish: Option<&Wish>) {
        let is_closed = wish.is_some_and(|wish| wish.closed);
        if !is_closed && age_of(host.change).is_none_or(|age| age < UNWRITTEN) {
            self.mapped.insert(path.to_vec());
        }
    }

    /// The files of the host that were read since this was asked last, and may have changed since without a sign.
    pub fn take_mapped(&mut self) -> BTreeSet<Path> {
        std::mem::take(&mut self.mapped)
    }

    /// What was agreed on about these files of the host may not be what they are, whatever their facts say.
    pub fn distrust(&mut self, files: &BTreeSet<Path>) {
        for path in files {
            if let Some(Entry { work, host, digest }) = self.shadow.get(path).copied() {
                let host = Facts { change: UNTRUSTED, ..host };
                self.shadow.put(path.clone(), Entry { work, host, digest });
            }
        }
    }

    /// Has such files compared with what was agreed on.
    pub fn compare(&mut self, files: BTreeSet<Path>) {
        self.distrust(&files);
        for path in files {
            self.wish(path, Depth::Itself, None, true);
        }
    }

    /// Has those files compared that may have changed without a sign. They are compared again when all is on the disk.
    pub fn compare_mapped(&mut self) {
        self.compare(self.mapped.clone());
    }
}
