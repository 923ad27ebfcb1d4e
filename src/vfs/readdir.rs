//! Listing directories.
//!
//! A cookie is an entry's own place, given when the name was made and never used again, so a listing goes on
//! where it stopped whatever was removed or added meanwhile: no entry that stays is skipped or shown twice.
//!
//! New names come last, so whoever makes or renames files of the directory that it lists would see no end. The kernel tells no
//! more of a listing than where it goes on, and keeps what it has for other listings. So all listings of a directory end where
//! the newest one found its end when it began; and where there are names beyond that, the kernel forgets what it keeps before it is
//! told of an end, or a listing that began later would end there too.

use super::Vfs;
use super::lookup::names_in;
use super::node::Node;
use super::types::{Attr, Caller, DirEntry, Origin};
use crate::error::{FsError, FsResult};
use crate::store::rows::{Ino, Kind, Name};
use std::sync::Arc;

/// Entries that are looked at with the directory locked, before the caller sees them.
const PAGE: usize = 256;

/// The cookies of `.` and `..`.
const SELF: u64 = 1;
const PARENT: u64 = 2;

impl Vfs {
    /// Calls `each` with the entries after `cookie` (0: from the start, `.` and `..` first) until it says false.
    pub fn readdir(&self, parent: Ino, cookie: u64, each: &mut dyn FnMut(&DirEntry) -> bool) -> FsResult<()> {
        let dir = self.dir(parent)?;
        let mut cookie = cookie;
        loop {
            let page = page(&dir, cookie)?;
            let Some(last) = page.last() else { return Ok(()) };
            cookie = last.cookie;
            if !page.iter().all(&mut *each) {
                return Ok(());
            }
        }
    }

    /// Like [`Vfs::readdir`], with attributes. An accepted entry (`true`) other than `.` and `..` is pinned for
    /// the kernel.
    pub fn readdir_plus(
        &self,
        caller: Caller,
        parent: Ino,
        cookie: u64,
        each: &mut dyn FnMut(&DirEntry, &Attr) -> bool,
    ) -> FsResult<()> {
        let dir = self.dir(parent)?;
        let mut cookie = cookie;
        loop {
            let page = page(&dir, cookie)?;
            let Some(last) = page.last() else { return Ok(()) };
            cookie = last.cookie;
            let counted = |entry: &DirEntry| caller.origin == Origin::Kernel && entry.cookie > PARENT;
            page.iter().filter(|entry| counted(entry)).for_each(|entry| self.nodes.pin(entry.ino));
            let attrs = self.attrs(&page);
            let mut open = true;
            for (at, entry) in page.iter().enumerate() {
                let attr = attrs.as_ref().ok().and_then(|attrs| attrs[at].as_ref());
                let kept = match attr {
                    Some(attr) if open => {
                        open = each(entry, attr);
                        open
                    }
                    _ => false,
                };
                if !kept && counted(entry) {
                    self.forget(entry.ino, 1);
                }
            }
            attrs?;
            if !open {
                return Ok(());
            }
        }
    }

    /// The first cookie that a listing by the kernel, which goes on after `cookie`, no longer reaches.
    pub fn listed_to(&self, parent: Ino, cookie: u64) -> FsResult<u64> {
        let dir = self.dir(parent)?;
        let end = names_in(&dir)?.read().listed_to(cookie);
        Ok(end)
    }

    /// Has the kernel forget what it keeps of a directory: before it is told of an end that is not the end for others.
    pub fn drop_listing(&self, parent: Ino) {
        if let Some(kernel) = self.invalidator() {
            kernel.listing(parent);
        }
    }

    /// The attributes of each entry; `None` for one that is gone meanwhile.
    fn attrs(&self, page: &[DirEntry]) -> FsResult<Vec<Option<Attr>>> {
        let in_memory = |ino: Ino| {
            let node = self.nodes.get(ino)?;
            let meta = node.meta.read();
            Some((!meta.removed).then(|| Attr::from(&meta.row)))
        };
        let known: Vec<Option<Option<Attr>>> = page.iter().map(|entry| in_memory(entry.ino)).collect();
        let missing: Vec<Ino> = page
            .iter()
            .zip(&known)
            .filter(|(_, known)| known.is_none())
            .map(|(entry, _)| entry.ino)
            .collect();
        let evictions: Vec<u64> = missing.iter().map(|ino| self.nodes.evictions(*ino)).collect();
        let mut rows =
            self.store.inodes(self.workspace, &missing)?.into_iter().zip(missing.iter().zip(evictions));
        let attr = |(entry, known): (&DirEntry, Option<Option<Attr>>)| match known {
            Some(known) => Ok(known),
            None => match rows.next() {
                // Nobody can have changed the node and let go of it again since its row was read.
                Some((Some(row), (ino, evictions)))
                    if self.nodes.evictions(*ino) == evictions && self.nodes.get(*ino).is_none() =>
                {
                    Ok(Some(Attr::from(&row)))
                }
                _ => match self.getattr(entry.ino) {
                    Ok(attr) => Ok(Some(attr)),
                    Err(FsError::Stale) => Ok(None),
                    Err(error) => Err(error),
                },
            },
        };
        page.iter().zip(known).map(attr).collect()
    }
}

fn page(dir: &Arc<Node>, cookie: u64) -> FsResult<Vec<DirEntry>> {
    let mut page = Vec::with_capacity(PAGE);
    let parent = dir.meta.read().row.parent;
    for (at, name, ino) in [(SELF, &b"."[..], dir.ino), (PARENT, &b".."[..], parent)] {
        if cookie < at {
            page.push(DirEntry { name: Name::from(name), ino, kind: Kind::Dir, cookie: at });
        }
    }
    let names = names_in(dir)?.read();
    let entries = names.after(cookie.max(PARENT)).take(PAGE);
    page.extend(entries.map(|(name, entry)| DirEntry {
        name: Arc::clone(name),
        ino: entry.ino,
        kind: entry.kind,
        cookie: entry.cookie,
    }));
    Ok(page)
}
