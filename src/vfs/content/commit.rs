//! What the store is told of a file's content, and what becomes of it when the store has it.

use super::patch::Patch;
use super::{Content, Slot, Touched};
use crate::store::buf::Buf;
use crate::store::group::{ContentChange, ExtentChange};
use crate::store::rows::{ChunkId, INLINE_MAX, Storage};
use std::sync::Arc;

impl Content {
    /// Where the content will be after the next cut.
    pub(in crate::vfs) fn storage(&self) -> Storage {
        let Some(slots) = self.slots.as_ref() else { return Storage::Chunks };
        match (slots.len(), slots.get(&0)) {
            (0, _) => Storage::Empty,
            (1, Some(Slot::Inline)) => Storage::Inline,
            (1, Some(Slot::Data(buf))) if buf.len() <= INLINE_MAX => Storage::Inline,
            _ => Storage::Chunks,
        }
    }

    /// What changed since the last cut.
    pub(in crate::vfs) fn take_change(&mut self) -> ContentChange {
        let storage = self.storage();
        let before = self.stored.replace(storage);
        let changed = std::mem::take(&mut self.changed);
        let mut change = ContentChange { cut_from: self.cut_from.take(), ..ContentChange::default() };
        if before == Some(Storage::Inline) && storage != Storage::Inline {
            change.inline = Some(None);
        }
        match storage {
            Storage::Chunks => {
                change.extents =
                    changed.iter().map(|(index, touched)| (*index, self.part(*index, touched))).collect();
                if before != Some(Storage::Chunks) {
                    // None of its extents is in the store yet.
                    let all: Vec<u64> = self.slots().keys().copied().collect();
                    change.extents.extend(all.into_iter().map(|index| (index, self.extent(index))));
                }
                let chunks =
                    change.extents.iter().filter(|(_, extent)| matches!(extent, ExtentChange::Chunk(_)));
                self.shared.extend(chunks.map(|(index, _)| *index));
            }
            Storage::Inline | Storage::Empty => {
                if before == Some(Storage::Chunks) {
                    change.cut_from = Some(0);
                }
                if let (Storage::Inline, Some(Slot::Data(buf))) = (storage, self.slot(0))
                    && (changed.contains_key(&0) || before != Some(Storage::Inline))
                {
                    change.inline = Some(Some(Arc::clone(buf)));
                }
            }
        }
        change
    }

    fn part(&self, index: u64, touched: &Touched) -> ExtentChange {
        match (self.extent(index), touched) {
            (ExtentChange::Data(buf), Touched::Part(part)) => ExtentChange::Part(buf, *part),
            (ExtentChange::Patch(buf, _), Touched::Part(part)) => ExtentChange::Patch(buf, *part),
            (extent, _) => extent,
        }
    }

    fn extent(&self, index: u64) -> ExtentChange {
        match self.slot(index) {
            Some(Slot::Data(buf)) => ExtentChange::Data(Arc::clone(buf)),
            Some(Slot::Chunk(id)) => ExtentChange::Chunk(*id),
            Some(Slot::Patch(patch)) => ExtentChange::Patch(Arc::clone(&patch.buf), patch.blocks),
            Some(Slot::Inline) | None => ExtentChange::Hole,
        }
    }

    /// The bytes are on disk: lets go of them, unless they have been overwritten since.
    pub(in crate::vfs) fn settle(&mut self, index: u64, written: &Arc<Buf>, chunk: Option<ChunkId>) {
        self.rebase(index, chunk);
        if self.changed.contains_key(&index) {
            return;
        }
        let generation = self.inline_generation + 1;
        let alone = self.slots.as_ref().is_some_and(|slots| slots.len() == 1);
        let Some(slot) = self.slots.as_mut().and_then(|slots| slots.get_mut(&index)) else { return };
        if !matches!(slot, Slot::Data(buf) | Slot::Patch(Patch { buf, .. }) if Arc::ptr_eq(buf, written)) {
            return;
        }
        match chunk {
            Some(id) => *slot = Slot::Chunk(id),
            None if alone && self.stored == Some(Storage::Inline) => {
                *slot = Slot::Inline;
                self.inline_generation = generation;
            }
            None => {}
        }
    }
}
