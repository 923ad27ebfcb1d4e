//! Chunks of which only some blocks are in memory.
//!
//! Whoever overwrites pages here and there in a large file, as databases do, need not have the rest of each chunk fetched:
//! the store changes those blocks in place, or reads the rest when it has to write the chunk anew. So a write of whole
//! blocks makes a patch of a chunk. It is allowed only if the store has that very chunk for the extent by the time
//! that the patch comes to it: not before an extent which was shared has arrived there.

use super::{CHUNK_BYTES, Content, Piece, Slot, Source, Touched};
use crate::store::blocks::{BLOCK, Blocks};
use crate::store::buf::{Buf, Gauge};
use crate::store::rows::{CHUNK, ChunkId, Storage};
use std::ops::Range;
use std::sync::Arc;

/// Blocks that are laid over a chunk.
#[derive(Clone, Debug)]
pub(in crate::vfs) struct Patch {
    /// All of the chunk's size, of which only the blocks count.
    pub(super) buf: Arc<Buf>,
    pub(super) blocks: Blocks,
    /// The chunk below. When a part of the patch comes to the store, that is another one, and has that part.
    pub(super) base: ChunkId,
}

impl Patch {
    /// The parts of a read.
    pub(super) fn plan(&self, index: u64, within: Range<usize>, pieces: &mut Vec<Piece>) {
        let mut at = within.start;
        let below = |range| Piece::Stored(Source::Below(self.base, index), range);
        for block in self.blocks.ranges(within.end) {
            if block.end <= at {
                continue;
            }
            let start = block.start.max(at);
            if at < start {
                pieces.push(below(at..start));
            }
            pieces.push(Piece::Memory(Arc::clone(&self.buf), start..block.end));
            at = block.end;
        }
        if at < within.end {
            pieces.push(below(at..within.end));
        }
    }

    /// The whole chunk, when what is below is known. It has its zeros at the end, too: the store has them of a patched one.
    pub(super) fn over(&self, base: &[u8], gauge: &Gauge) -> Buf {
        let mut whole = Buf::copied(base, gauge);
        whole.resize(CHUNK);
        for block in self.blocks.ranges(CHUNK) {
            whole.write(block.start, &self.buf[block]);
        }
        whole
    }
}

impl Content {
    /// Whether these bytes of a chunk can be overwritten in a file of this size while the others are not known.
    pub(super) fn takes_patch(&self, index: u64, within: &Range<usize>, size: u64) -> bool {
        let is_blocks = within.start.is_multiple_of(BLOCK) && within.end.is_multiple_of(BLOCK);
        let is_inside = within.len() < CHUNK && (index + 1) * CHUNK_BYTES <= size;
        is_blocks
            && is_inside
            && match self.slot(index) {
                Some(Slot::Patch(_)) => true,
                Some(Slot::Chunk(_)) => {
                    let is_moving = self.changed.contains_key(&index) || self.shared.contains(&index);
                    self.stored == Some(Storage::Chunks) && !is_moving
                }
                _ => false,
            }
    }

    /// Overwrites blocks of a chunk that takes them.
    pub(super) fn patch(&mut self, index: u64, at: usize, data: &[u8], gauge: &Gauge) {
        let blocks = Blocks::of(&(at..at + data.len()));
        let Some(slot) = self.slots().get_mut(&index) else { return };
        if let Slot::Chunk(base) = *slot {
            let buf = Arc::new(Buf::blank(gauge));
            *slot = Slot::Patch(Patch { buf, blocks: Blocks::default(), base });
        }
        let Slot::Patch(patch) = slot else { return };
        Arc::make_mut(&mut patch.buf).write(at, data);
        patch.blocks = patch.blocks.and(blocks);
        if patch.blocks.are_all() {
            *slot = Slot::Data(Arc::clone(&patch.buf));
        }
        self.touch(index, Touched::Part(blocks));
    }

    /// What was in memory of a chunk is in the store, as this one: if more came meanwhile, it lies over that.
    pub(super) fn rebase(&mut self, index: u64, chunk: Option<ChunkId>) {
        let slot = self.slots.as_mut().and_then(|slots| slots.get_mut(&index));
        if let (Some(Slot::Patch(patch)), Some(id)) = (slot, chunk) {
            patch.base = id;
        }
    }

    /// All that was on its way to the store is there.
    pub(in crate::vfs) fn arrived(&mut self) {
        self.shared.clear();
    }
}
