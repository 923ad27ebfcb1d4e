//! Looking at files and directories, and writing in place.

use super::failure::{About, Applied};
use super::path::{Last, MAX_PATH, names_dir};
use super::{Failure, Files, MAX_DATA, MAX_ENTRIES, Outcome};
use crate::error::FsError;
use crate::store::rows::Kind;
use crate::vfs::{Attr, NewNode, SetAttr, StatFs};

/// One name of a directory.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Without a path.
    pub name: Vec<u8>,
    /// What it leads to.
    pub attr: Attr,
}

/// A portion of a listing.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In an order that stays.
    pub entries: Vec<Entry>,
    /// Where to go on.
    pub next: u64,
    /// There is no more.
    pub end: bool,
}

impl Files {
    /// The attributes of what is at a path, after symlinks.
    pub fn stat(&self, path: &[u8]) -> Outcome<Attr> {
        let attr = self.node_at(path, Last::Follow)?;
        self.vfs.attr_now(attr.ino).about(path)
    }

    /// The same, if it can be told without waiting for anything, and no symlink is on the way.
    pub fn stat_at_once(&self, path: &[u8]) -> Option<Attr> {
        let mut names = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
        if path.first() == Some(&b'/') && !self.prefix.iter().all(|expected| names.next() == Some(expected)) {
            return None;
        }
        let is_plain = path.len() <= MAX_PATH && names.clone().all(|name| name != b"..");
        let attr = if is_plain { self.vfs.attr_at_once(names)? } else { return None };
        (attr.kind == Kind::Dir || attr.kind != Kind::Symlink && !names_dir(path)).then_some(attr)
    }

    /// The attributes of what is at a path.
    pub fn lstat(&self, path: &[u8]) -> Outcome<Attr> {
        let attr = self.node_at(path, Last::Keep)?;
        self.vfs.attr_now(attr.ino).about(path)
    }

    /// A page of a directory, without `.` and `..`.
    pub fn readdir(&self, path: &[u8], after: u64, limit: usize) -> Outcome<Page> {
        let dir = self.node_at(path, Last::Follow)?;
        if dir.kind != Kind::Dir {
            return Err(FsError::NotDir).about(path);
        }
        let limit = limit.clamp(1, MAX_ENTRIES);
        let mut page = Page { next: after, end: true, ..Page::default() };
        let result = self.vfs.readdir_plus(self.caller, dir.ino, after, &mut |entry, attr| {
            if page.entries.len() == limit {
                page.end = false;
                return false;
            }
            page.next = entry.cookie;
            if !matches!(&*entry.name, b"." | b"..") {
                page.entries.push(Entry { name: entry.name.to_vec(), attr: attr.clone() });
            }
            true
        });
        result.about(path)?;
        for entry in &mut page.entries {
            if self.vfs.asks_kernel(&entry.attr)
                && let Ok(attr) = self.vfs.attr_now(entry.attr.ino)
            {
                entry.attr = attr;
            }
        }
        Ok(page)
    }

    /// Bytes of a file: fewer than asked for only at its end.
    pub fn read(&self, path: &[u8], offset: u64, count: usize) -> Outcome<(Vec<u8>, Attr)> {
        let file = self.file_at(path)?;
        self.vfs.pull(file.ino);
        let bytes = self.vfs.read(file.ino, offset, count.min(MAX_DATA)).about(path)?;
        Ok((bytes, self.vfs.attr_now(file.ino).about(path)?))
    }

    /// Writes bytes in place.
    pub fn write(&self, path: &[u8], offset: u64, data: &[u8]) -> Outcome<Attr> {
        check_data(data).about(path)?;
        let file = self.file_at(path)?;
        self.vfs.write(self.caller, file.ino, offset, data, self.is_unprivileged()).about(path)?;
        self.vfs.getattr(file.ino).map_err(after_change).about(path)
    }

    /// Adds bytes at the end.
    pub fn append(&self, path: &[u8], data: &[u8], create: Option<u32>) -> Outcome<Attr> {
        check_data(data).about(path)?;
        let mut applied = Applied::No;
        let ino = match (self.spot(path, Last::Follow)?, create) {
            (spot, Some(mode)) if spot.node.is_none() => {
                let new = NewNode { kind: Kind::File, mode: mode & 0o7777, umask: 0, rdev: 0 };
                match self.vfs.create(self.caller, spot.dir, &spot.name, new) {
                    // Somebody was faster.
                    Err(FsError::Exists) => self.file_at(path)?.ino,
                    made => {
                        let made = made.about(path)?;
                        applied = Applied::Yes;
                        made.ino
                    }
                }
            }
            _ => self.file_at(path)?.ino,
        };
        let appended = self.vfs.append(self.caller, ino, data);
        appended.map_err(|error| Failure::from(error).after(applied)).about(path)
    }

    /// Cuts a file, or extends it by a hole.
    pub fn truncate(&self, path: &[u8], size: u64) -> Outcome<Attr> {
        let file = self.file_at(path)?;
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        self.vfs.setattr(self.caller, file.ino, &set).about(path)
    }

    /// Returns when all that was changed is on the disk; the last revision of that.
    pub fn sync(&self) -> Outcome<u64> {
        let revision = self.vfs.revision();
        self.vfs.sync()?;
        Ok(revision)
    }

    /// How much there is and may be.
    pub fn statfs(&self) -> Outcome<StatFs> {
        Ok(self.vfs.statfs()?)
    }

    pub(super) fn is_unprivileged(&self) -> bool {
        self.caller.uid != 0
    }
}

pub(super) fn check_data(data: &[u8]) -> Outcome<()> {
    if data.len() <= MAX_DATA {
        return Ok(());
    }
    let text = format!("{} bytes in one call: at most {MAX_DATA}; use writeFile", data.len());
    Err(Failure::protocol(text))
}

/// A failure that came after the change was made.
pub(super) fn after_change(error: FsError) -> Failure {
    Failure::from(error).after(Applied::Yes)
}
