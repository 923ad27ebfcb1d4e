//! Operations on ranges of a file: allocate, punch, seek, copy.

use super::Vfs;
use super::content::{CHUNK_BYTES, Fetched, Slot, Source};
use super::feed::ChangeKind;
use super::io::check_file;
use super::node::Node;
use super::privileges::{Taken, take};
use super::types::{Caller, Fallocate, Origin, Seek};
use crate::error::{FsError, FsResult};
use crate::store::rows::Ino;
use std::ops::Range;
use std::sync::Arc;

/// Most bytes that one call copies through memory; a caller that wants more calls again.
const COPY_BYTES: u64 = 4 << 20;

impl Vfs {
    /// Changes how a range of a file is allocated, as `fallocate(2)`.
    ///
    /// Nothing is set aside for an allocated range: a later write into it can still meet a full disk.
    pub fn fallocate(
        &self,
        caller: Caller,
        ino: Ino,
        what: Fallocate,
        offset: u64,
        len: u64,
    ) -> FsResult<()> {
        let node = self.node(ino)?;
        check_file(&node)?;
        if len == 0 {
            return Err(FsError::Invalid("an empty range cannot be allocated"));
        }
        let end = offset.checked_add(len).filter(|end| *end <= super::MAX_FILE_SIZE);
        let range = offset..end.ok_or(FsError::FileTooBig)?;
        self.admit()?;
        self.pull_for(caller, ino);
        self.load_content(&node)?;
        self.load_xattrs(&node)?;
        let taken = self.taken(&node, caller, None);
        let lost = loop {
            let fetched = self.fetch_for_hole(&node, what, &range)?;
            let op = self.begin(caller.by);
            let mut meta = node.meta.write();
            if meta.removed {
                return Err(FsError::Stale);
            }
            let size = meta.row.size;
            if matches!(what, Fallocate::Allocate | Fallocate::AllocateKeepSize) {
                self.check_room(&meta, &range)?;
            } else {
                if what == Fallocate::ZeroRange {
                    self.check_size_room(&meta, size.max(range.end))?;
                }
                let ready = |source: &Source| fetched.iter().any(|(have, _)| have == source);
                let whole = range.start..range.end.min(size).max(range.start);
                if !meta.content.bases_of_hole(whole.clone(), size).iter().all(ready)
                    || !meta.content.hole(whole, size, &fetched, &self.gauge)
                {
                    continue;
                }
            }
            if matches!(what, Fallocate::Allocate | Fallocate::ZeroRange) {
                meta.row.size = size.max(range.end);
            }
            meta.row.mtime = op.now;
            meta.row.ctime = op.now;
            let lost = take(&mut meta, taken);
            op.changed(&node, &mut meta);
            op.note(ChangeKind::Modified, &node);
            break lost;
        };
        if lost {
            self.tell_of_privileges(&node);
        }
        self.tell(caller, |kernel| kernel.written(ino));
        Ok(())
    }

    fn fetch_for_hole(&self, node: &Node, what: Fallocate, range: &Range<u64>) -> FsResult<Vec<Fetched>> {
        if matches!(what, Fallocate::Allocate | Fallocate::AllocateKeepSize) {
            return Ok(Vec::new());
        }
        self.fetch_all(node, |meta| {
            let size = meta.row.size;
            meta.content.bases_of_hole(range.start..range.end.min(size).max(range.start), size)
        })
    }

    /// The next data or hole at or after an offset. Chunks are the grain: zeros within one count as data.
    pub fn seek(&self, ino: Ino, offset: u64, what: Seek) -> FsResult<u64> {
        let node = self.node(ino)?;
        check_file(&node)?;
        self.load_content(&node)?;
        let meta = node.meta.read();
        let size = meta.row.size;
        if offset >= size {
            return Err(FsError::NoSuchOffset);
        }
        match what {
            Seek::Data => meta.content.next_data(offset).filter(|at| *at < size).ok_or(FsError::NoSuchOffset),
            Seek::Hole => Ok(meta.content.next_hole(offset).min(size)),
        }
    }

    /// Copies a range from one file to another, or within one; returns how many bytes, which may be fewer than
    /// asked for. Whole chunks are shared, not copied.
    pub fn copy_range(&self, caller: Caller, from: (Ino, u64), to: (Ino, u64), len: u64) -> FsResult<u64> {
        let (source, target) = (self.node(from.0)?, self.node(to.0)?);
        check_file(&source)?;
        check_file(&target)?;
        self.admit()?;
        self.pull_for(caller, from.0);
        self.pull_for(caller, to.0);
        self.load_content(&source)?;
        self.load_content(&target)?;
        self.load_xattrs(&target)?;
        let size = source.meta.read().row.size;
        let len = len.min(size.saturating_sub(from.1));
        if len == 0 {
            return Ok(0);
        }
        let target_size = target.meta.read().row.size;
        let len = match caller.origin {
            Origin::Kernel => in_pages(rustix::param::page_size() as u64, to.1, len, target_size)?,
            Origin::Direct => len,
        };
        let end =
            to.1.checked_add(len).filter(|end| *end <= super::MAX_FILE_SIZE).ok_or(FsError::FileTooBig)?;
        if from.0 == to.0 && from.1 < end && to.1 < from.1 + len {
            return Err(FsError::Invalid("the ranges overlap"));
        }
        let copied = self.copy_some(caller, &source, from.1, &target, to.1, len)?;
        self.tell(caller, |kernel| kernel.written(to.0));
        Ok(copied)
    }

    fn copy_some(
        &self,
        caller: Caller,
        source: &Arc<Node>,
        from: u64,
        target: &Arc<Node>,
        to: u64,
        len: u64,
    ) -> FsResult<u64> {
        if from % CHUNK_BYTES != to % CHUNK_BYTES {
            return self.copy_bytes(caller, source, from, target, to, len.min(COPY_BYTES));
        }
        let head = (from.next_multiple_of(CHUNK_BYTES) - from).min(len);
        if head > 0 {
            return self.copy_bytes(caller, source, from, target, to, head);
        }
        let shared = self.share_chunks(caller, source, from, target, to, len)?;
        if shared > 0 {
            return Ok(shared);
        }
        self.copy_bytes(caller, source, from, target, to, len.min(CHUNK_BYTES))
    }

    fn copy_bytes(
        &self,
        caller: Caller,
        source: &Arc<Node>,
        from: u64,
        target: &Arc<Node>,
        to: u64,
        len: u64,
    ) -> FsResult<u64> {
        let bytes = self.read_content(source, from, len as usize)?;
        let unprivileged = self.taken(target, caller, None) != Taken::Capabilities;
        self.write_content(caller, target, to, &bytes, unprivileged)?;
        Ok(bytes.len() as u64)
    }

    /// Lets the target's chunks be the source's. Returns how many bytes that covers: none when the first chunk
    /// cannot be shared because only a part of it is wanted.
    fn share_chunks(
        &self,
        caller: Caller,
        source: &Arc<Node>,
        from: u64,
        target: &Arc<Node>,
        to: u64,
        len: u64,
    ) -> FsResult<u64> {
        let taken = self.taken(target, caller, None);
        let op = self.begin(caller.by);
        let target_size = target.meta.read().row.size;
        let (slots, len) = {
            let meta = source.meta.read();
            let len = len.min(meta.row.size.saturating_sub(from));
            let to_the_end = from + len == meta.row.size && to + len >= target_size;
            let len = if to_the_end { len } else { len - len % CHUNK_BYTES };
            let first = from / CHUNK_BYTES;
            let slots: Vec<Option<Slot>> = (first..first + len.div_ceil(CHUNK_BYTES))
                .map(|index| meta.content.slot(index).cloned())
                .collect();
            // What is only patched in memory is copied.
            let whole = slots.iter().take_while(|slot| !matches!(slot, Some(Slot::Patch(_)))).count();
            let len = if whole < slots.len() { whole as u64 * CHUNK_BYTES } else { len };
            (slots[..whole].to_vec(), len)
        };
        if slots.iter().any(|slot| matches!(slot, Some(Slot::Inline))) {
            return Ok(0);
        }
        let mut meta = target.meta.write();
        if meta.removed {
            return Err(FsError::Stale);
        }
        let target_grew = to + len < meta.row.size && len % CHUNK_BYTES != 0;
        if len == 0 || target_grew || matches!(meta.content.slot(0), Some(Slot::Inline)) {
            return Ok(0);
        }
        self.check_filled(&meta, &(to..to + len), slots.iter().flatten().count())?;
        for (index, slot) in (to / CHUNK_BYTES..).zip(slots) {
            meta.content.share(index, slot);
        }
        meta.row.size = meta.row.size.max(to + len);
        meta.row.mtime = op.now;
        meta.row.ctime = op.now;
        let lost = take(&mut meta, taken);
        op.changed(target, &mut meta);
        op.note(ChangeKind::Modified, target);
        drop(meta);
        drop(op);
        if lost {
            self.tell_of_privileges(target);
        }
        Ok(len)
    }
}

/// How much of a copy the kernel may be answered, whose pages have `page` bytes. It drops the pages that it has of the target
/// afterwards, the first and the last one too, with all that a program has stored in them meanwhile through a mapping. So a part
/// of a page is refused: the kernel then copies it in its own pages.
fn in_pages(page: u64, start: u64, len: u64, size: u64) -> FsResult<u64> {
    let end = start.saturating_add(len);
    let beyond = if end < size { end % page } else { 0 };
    match len.saturating_sub(beyond) {
        len if len > 0 && start.is_multiple_of(page) => Ok(len),
        _ => Err(FsError::NotSupported("copies into a part of a page")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_answered_whole_pages_of_its_own_size() {
        let answered = |page, start, len, size| in_pages(page, start, len, size).ok();
        assert_eq!(answered(4096, 4096, 10_000, 100_000), Some(8192));
        assert_eq!(answered(4096, 4096, 10_000, 14_000), Some(10_000), "to the end of the file");
        assert_eq!(answered(65_536, 65_536, 100_000, 1 << 20), Some(65_536));
        for (page, start, len) in [(65_536, 4096, 100_000), (16_384, 32_768, 12_288), (4096, 1, 8192)] {
            assert_eq!(answered(page, start, len, 1 << 20), None, "{page} {start} {len}");
        }
    }
}
