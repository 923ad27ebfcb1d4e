//! A file's content in memory: which bytes are where.
//!
//! Content is cut into chunks. Each chunk that is not a hole has a slot, and a slot says where its bytes are:
//! in memory (written since they were last on disk), in a chunk of the store, or in the store's inline row. The
//! type knows nothing of I/O: an operation that needs the old bytes of a slot asks for them ([`Content::base`]),
//! the caller fetches them with no lock held and comes back.
//!
//! Invariants: the bytes of a slot never reach past the end of the file; a slot [`Slot::Inline`] is the only one.

mod commit;
mod patch;

use crate::store::blocks::Blocks;
use crate::store::buf::{Buf, Gauge};
use crate::store::rows::{CHUNK, ChunkId, Storage};
use patch::Patch;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// [`CHUNK`], for offsets.
pub(super) const CHUNK_BYTES: u64 = CHUNK as u64;

/// How much of a chunk changed.
#[derive(Clone, Debug)]
enum Touched {
    /// It was not there, or is not, or any of its bytes may differ.
    Whole,
    /// Only bytes in these blocks differ, and there are no fewer.
    Part(Blocks),
}

/// Where the bytes of one chunk of a file are.
#[derive(Clone, Debug)]
pub(super) enum Slot {
    /// In memory.
    Data(Arc<Buf>),
    /// In the store, immutable.
    Chunk(ChunkId),
    /// Some of them in memory, all others in the store.
    Patch(Patch),
    /// In the file's inline row. `Content::inline_generation` tells one such row from the next.
    Inline,
}

/// What has to be fetched from the store before an operation can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Chunk(ChunkId),
    /// What is below the patch of the extent with this index: this chunk, or, if that is gone, what the extent has now,
    /// which differs from it only where the patch does.
    Below(ChunkId, u64),
    Inline(u64),
}

/// Bytes fetched from the store.
pub(super) type Fetched = (Source, Arc<Buf>);

/// A part of a read.
#[derive(Debug)]
pub(super) enum Piece {
    Zeros(usize),
    Memory(Arc<Buf>, Range<usize>),
    Stored(Source, Range<usize>),
}

#[derive(Debug, Default)]
pub(super) struct Content {
    /// `None` until the extents of a chunked file have been loaded.
    slots: Option<BTreeMap<u64, Slot>>,
    /// What changed since the last cut, by index.
    changed: BTreeMap<u64, Touched>,
    /// Every extent from this index on went away since the last cut, before `changed`.
    cut_from: Option<u64>,
    /// Extents that are on their way to the store as chunks which it has already.
    shared: BTreeSet<u64>,
    /// What the store has, as of the last cut.
    stored: Option<Storage>,
    /// Counts the times that a slot became `Inline`.
    inline_generation: u64,
    /// Bytes changed since [`Content::take_moved`] was asked last.
    moved: bool,
    /// The size of the file when it was asked.
    size: u64,
}

impl Content {
    /// Of a new file.
    pub(super) fn empty() -> Self {
        Self { slots: Some(BTreeMap::new()), ..Self::default() }
    }

    /// Of a file that the store has.
    pub(super) fn stored(storage: Storage, size: u64) -> Self {
        let slots = match storage {
            Storage::Empty => Some(BTreeMap::new()),
            Storage::Inline => Some(BTreeMap::from([(0, Slot::Inline)])),
            Storage::Chunks => None,
        };
        Self { slots, stored: Some(storage), size, ..Self::default() }
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.slots.is_some()
    }

    /// Takes the extents that the store has, unless somebody was faster.
    pub(super) fn load(&mut self, extents: Vec<(u64, ChunkId)>) {
        if self.slots.is_none() {
            self.slots = Some(extents.into_iter().map(|(index, id)| (index, Slot::Chunk(id))).collect());
        }
    }

    fn slots(&mut self) -> &mut BTreeMap<u64, Slot> {
        self.slots.get_or_insert_default()
    }

    pub(super) fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.as_ref()?.get(&index)
    }

    /// All slots, by index.
    pub(super) fn all_slots(&self) -> Vec<(u64, Slot)> {
        let slots = self.slots.iter().flatten();
        slots.map(|(index, slot)| (*index, slot.clone())).collect()
    }

    /// Approximate memory of the bookkeeping, bytes.
    pub(super) fn footprint(&self) -> usize {
        self.slots.as_ref().map_or(0, |slots| slots.len() * 48)
    }

    /// Bytes allocated in a file of this size: what `st_blocks` counts.
    pub(super) fn allocated(&self, size: u64) -> u64 {
        allocated_to(self.slots.as_ref().map_or(0, BTreeMap::len), size)
    }

    /// The same if `filled` of the chunks that a range touches had slots.
    pub(super) fn allocated_if(&self, range: &Range<u64>, filled: usize, size: u64) -> u64 {
        let (first, end) = (range.start / CHUNK_BYTES, range.end.div_ceil(CHUNK_BYTES));
        let outside = self.slots.as_ref().map_or(0, |slots| slots.len() - slots.range(first..end).count());
        allocated_to(outside + filled, size)
    }

    fn source(&self, index: u64, slot: &Slot) -> Option<Source> {
        match slot {
            Slot::Data(_) => None,
            Slot::Chunk(id) => Some(Source::Chunk(*id)),
            Slot::Patch(patch) => Some(Source::Below(patch.base, index)),
            Slot::Inline => Some(Source::Inline(self.inline_generation)),
        }
    }

    /// What must be fetched before bytes `within` chunk `index` can be overwritten, in a file of this size.
    pub(super) fn base(&self, index: u64, within: &Range<usize>, size: u64) -> Option<Source> {
        let slots = self.slots.as_ref()?;
        if let Some(inline @ Slot::Inline) = slots.get(&0) {
            return self.source(0, inline);
        }
        if self.is_whole(index, within, size) || self.takes_patch(index, within, size) {
            return None;
        }
        self.source(index, slots.get(&index)?)
    }

    /// The parts of `range`, which must end at or before the end of the file.
    pub(super) fn plan(&self, range: Range<u64>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for (index, within) in chunks_of(range) {
            match self.slot(index) {
                None => pieces.push(Piece::Zeros(within.len())),
                Some(Slot::Data(buf)) => {
                    let end = within.end.min(buf.len());
                    if within.start < end {
                        pieces.push(Piece::Memory(Arc::clone(buf), within.start..end));
                    }
                    let zeros = within.end - end.max(within.start);
                    if zeros > 0 {
                        pieces.push(Piece::Zeros(zeros));
                    }
                }
                Some(Slot::Patch(patch)) => patch.plan(index, within, &mut pieces),
                Some(slot) => {
                    if let Some(source) = self.source(index, slot) {
                        pieces.push(Piece::Stored(source, within));
                    }
                }
            }
        }
        pieces
    }

    fn touch(&mut self, index: u64, touched: Touched) {
        self.moved = true;
        let touched = match (self.changed.remove(&index), touched) {
            (None, touched) => touched,
            (Some(Touched::Part(a)), Touched::Part(b)) => Touched::Part(a.and(b)),
            _ => Touched::Whole,
        };
        self.changed.insert(index, touched);
    }

    /// The bytes of a chunk, to be changed. `None` when the old bytes are needed and not among `fetched`.
    fn edit(
        &mut self,
        index: u64,
        keep: bool,
        touched: Touched,
        fetched: &[Fetched],
        gauge: &Gauge,
    ) -> Option<&mut Buf> {
        let source = self.slot(index).and_then(|slot| self.source(index, slot));
        let fresh = match (source, self.slot(index).is_some()) {
            (Some(source), _) if keep => {
                let (_, base) = fetched.iter().find(|(have, _)| *have == source)?;
                Some(match self.slot(index) {
                    Some(Slot::Patch(patch)) => patch.over(base, gauge),
                    _ => Buf::copied(base, gauge),
                })
            }
            (Some(_), _) | (None, false) => Some(Buf::new(Vec::new(), gauge)),
            (None, true) => None,
        };
        let anew = self.slot(index).is_none() || (fresh.is_some() && !keep);
        self.touch(index, if anew { Touched::Whole } else { touched });
        let slots = self.slots();
        if let Some(fresh) = fresh {
            slots.insert(index, Slot::Data(Arc::new(fresh)));
        }
        match slots.get_mut(&index) {
            Some(Slot::Data(buf)) => Some(Arc::make_mut(buf)),
            _ => None,
        }
    }

    /// Overwrites bytes of one chunk. False when [`Content::base`] was not fetched: nothing has changed then.
    #[must_use]
    pub(super) fn write(
        &mut self,
        index: u64,
        at: usize,
        data: &[u8],
        size: u64,
        fetched: &[Fetched],
        gauge: &Gauge,
    ) -> bool {
        let within = at..at + data.len();
        if !self.materialise(fetched, gauge) {
            return false;
        }
        if self.takes_patch(index, &within, size) {
            self.patch(index, at, data, gauge);
            return true;
        }
        let keep = self.base(index, &within, size).is_some();
        let touched = Touched::Part(Blocks::of(&within));
        let Some(buf) = self.edit(index, keep, touched, fetched, gauge) else { return false };
        buf.write(within.start, data);
        true
    }

    /// Overwrites all of one chunk. False when the file's inline row was not fetched.
    #[must_use]
    pub(super) fn replace(&mut self, index: u64, whole: Buf, fetched: &[Fetched], gauge: &Gauge) -> bool {
        if !self.materialise(fetched, gauge) {
            return false;
        }
        self.touch(index, Touched::Whole);
        self.slots().insert(index, Slot::Data(Arc::new(whole)));
        true
    }

    /// Turns an inline slot into bytes in memory. False when they were not fetched.
    fn materialise(&mut self, fetched: &[Fetched], gauge: &Gauge) -> bool {
        match self.slot(0) {
            Some(Slot::Inline) => self.edit(0, true, Touched::Whole, fetched, gauge).is_some(),
            _ => true,
        }
    }

    /// What must be fetched before the file can be cut to `size`.
    pub(super) fn base_of_cut(&self, size: u64) -> Option<Source> {
        let slots = self.slots.as_ref()?;
        if size.is_multiple_of(CHUNK_BYTES) {
            return None;
        }
        let index = size / CHUNK_BYTES;
        self.source(index, slots.get(&index)?)
    }

    /// Forgets everything from `size` on. False when [`Content::base_of_cut`] was not fetched.
    #[must_use]
    pub(super) fn cut(&mut self, size: u64, fetched: &[Fetched], gauge: &Gauge) -> bool {
        let (index, rest) = (size / CHUNK_BYTES, (size % CHUNK_BYTES) as usize);
        if rest > 0 && self.slot(index).is_some() {
            let Some(buf) = self.edit(index, true, Touched::Whole, fetched, gauge) else { return false };
            if buf.len() > rest {
                buf.resize(rest);
            }
        }
        let first = size.div_ceil(CHUNK_BYTES);
        let slots = self.slots();
        if slots.last_key_value().is_some_and(|(last, _)| *last >= first) {
            slots.split_off(&first);
            self.changed.split_off(&first);
            self.cut_from = Some(self.cut_from.map_or(first, |before| before.min(first)));
            self.moved = true;
        }
        true
    }

    /// What must be fetched before `range` can be made a hole.
    pub(super) fn bases_of_hole(&self, range: Range<u64>, size: u64) -> Vec<Source> {
        let mut bases: Vec<Source> = edges_of(range)
            .into_iter()
            .filter(|(index, within)| !self.is_whole(*index, within, size))
            .filter_map(|(index, _)| self.source(index, self.slot(index)?))
            .collect();
        if let Some(inline @ Slot::Inline) = self.slot(0) {
            bases.extend(self.source(0, inline));
        }
        bases
    }

    fn is_whole(&self, index: u64, within: &Range<usize>, size: u64) -> bool {
        let valid = size.saturating_sub(index * CHUNK_BYTES).min(CHUNK_BYTES) as usize;
        within.start == 0 && within.end >= valid
    }

    /// Makes `range` read as zeros, giving up whole chunks. False when a base was not fetched.
    #[must_use]
    pub(super) fn hole(&mut self, range: Range<u64>, size: u64, fetched: &[Fetched], gauge: &Gauge) -> bool {
        if !self.materialise(fetched, gauge) {
            return false;
        }
        if range.is_empty() {
            return true;
        }
        let mut kept = Vec::new();
        for (index, within) in edges_of(range.clone()) {
            if self.slot(index).is_none() || self.is_whole(index, &within, size) {
                continue;
            }
            let touched = Touched::Part(Blocks::of(&within));
            let Some(buf) = self.edit(index, true, touched, fetched, gauge) else { return false };
            let end = within.end.min(buf.len());
            if within.start < end {
                buf[within.start..end].fill(0);
            }
            // Whoever punches a chunk piece by piece gets its room back with the last one.
            if buf.iter().any(|byte| *byte != 0) {
                kept.push(index);
            }
        }
        let (first, last) = (range.start / CHUNK_BYTES, (range.end - 1) / CHUNK_BYTES);
        let touched = self.slots().range(first..=last).map(|(index, _)| *index);
        let gone: Vec<u64> = touched.filter(|index| !kept.contains(index)).collect();
        for index in gone {
            self.slots().remove(&index);
            self.touch(index, Touched::Whole);
        }
        true
    }

    /// Lets chunk `index` be what another file's slot is. The slot must not be inline.
    pub(super) fn share(&mut self, index: u64, slot: Option<Slot>) {
        // A hole in place of a hole is nothing that has to be written down.
        if slot.is_none() && self.slot(index).is_none() {
            return;
        }
        self.touch(index, Touched::Whole);
        match slot {
            Some(slot) => self.slots().insert(index, slot),
            None => self.slots().remove(&index),
        };
    }

    /// The first offset at or after `offset` that is in a slot; `None` when only hole is left.
    pub(super) fn next_data(&self, offset: u64) -> Option<u64> {
        let slots = self.slots.as_ref()?;
        let (index, _) = slots.range(offset / CHUNK_BYTES..).next()?;
        Some(offset.max(index * CHUNK_BYTES))
    }

    /// The first offset at or after `offset` that is in no slot.
    pub(super) fn next_hole(&self, offset: u64) -> u64 {
        let mut index = offset / CHUNK_BYTES;
        let Some(slots) = self.slots.as_ref() else { return offset };
        for (taken, _) in slots.range(index..) {
            if *taken != index {
                break;
            }
            index += 1;
        }
        offset.max(index * CHUNK_BYTES)
    }

    /// Forgets all bytes of a file that is going away.
    pub(super) fn clear(&mut self) {
        self.slots = Some(BTreeMap::new());
        self.changed.clear();
    }

    /// Whether the bytes of the file, which has this size now, changed since this was asked last.
    pub(super) fn take_moved(&mut self, size: u64) -> bool {
        let resized = std::mem::replace(&mut self.size, size) != size;
        std::mem::take(&mut self.moved) || resized
    }
}

/// Bytes allocated in a file of this size with so many slots.
pub(super) fn allocated_to(slots: usize, size: u64) -> u64 {
    (slots as u64 * CHUNK_BYTES).min(size.next_multiple_of(512))
}

/// The chunks that a range touches, each with the part of it that is in the range.
pub(super) fn chunks_of(range: Range<u64>) -> impl Iterator<Item = (u64, Range<usize>)> {
    let size = CHUNK_BYTES;
    let indexes = if range.is_empty() { 0..0 } else { range.start / size..range.end.div_ceil(size) };
    indexes.map(move |index| {
        let start = range.start.max(index * size) - index * size;
        let end = range.end.min((index + 1) * size) - index * size;
        (index, start as usize..end as usize)
    })
}

/// The first and the last chunk that a range touches.
fn edges_of(range: Range<u64>) -> Vec<(u64, Range<usize>)> {
    if range.is_empty() {
        return Vec::new();
    }
    let last = (range.end - 1) / CHUNK_BYTES;
    let mut edges: Vec<_> =
        chunks_of(range.start..range.end.min((range.start / CHUNK_BYTES + 1) * CHUNK_BYTES)).collect();
    if edges.first().is_some_and(|(first, _)| *first != last) {
        edges.extend(chunks_of(range.start.max(last * CHUNK_BYTES)..range.end));
    }
    edges
}

#[cfg(test)]
mod tests;
