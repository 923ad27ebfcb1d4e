//! Random writes, cuts, holes and commits against a plain vector, with a store made of maps.

use super::*;
use crate::store::blocks::BLOCK;
use crate::store::group::{ContentChange, ExtentChange};
use proptest::prelude::*;

#[derive(Default)]
struct FakeStore {
    inline: Option<Vec<u8>>,
    extents: BTreeMap<u64, ChunkId>,
    /// What was changed in place is gone.
    chunks: Vec<Option<Vec<u8>>>,
}

impl FakeStore {
    fn fetch(&self, source: Source, gauge: &Gauge) -> Fetched {
        let bytes = match source {
            Source::Chunk(id) => self.chunks[id.row as usize].clone().unwrap(),
            Source::Below(id, index) => {
                let now = self.extents.get(&index).and_then(|id| self.chunks[id.row as usize].clone());
                self.chunks[id.row as usize].clone().or(now).unwrap()
            }
            Source::Inline(_) => self.inline.clone().unwrap(),
        };
        (source, Arc::new(Buf::new(bytes, gauge)))
    }

    fn add(&mut self, index: u64, bytes: Vec<u8>) -> ChunkId {
        self.chunks.push(Some(bytes));
        let id = ChunkId { row: self.chunks.len() as i64 - 1, version: 0 };
        self.extents.insert(index, id);
        id
    }

    /// The bytes of an extent's chunk, which is gone if nobody else has it.
    fn take(&mut self, index: u64, change: &ContentChange) -> Vec<u8> {
        let id = self.extents[&index];
        let others = self.extents.iter().filter(|(other, has)| **other != index && **has == id).count();
        let new = change.extents.values().filter(|new| matches!(new, ExtentChange::Chunk(new) if *new == id));
        let chunk = &mut self.chunks[id.row as usize];
        if others + new.count() == 0 { chunk.take().unwrap() } else { chunk.clone().unwrap() }
    }

    fn apply(&mut self, change: &ContentChange) -> Vec<(u64, ChunkId)> {
        if let Some(cut) = change.cut_from {
            self.extents.split_off(&cut);
        }
        if let Some(inline) = &change.inline {
            self.inline = inline.as_ref().map(|buf| buf.to_vec());
        }
        let mut new = Vec::new();
        for (index, extent) in &change.extents {
            match extent {
                ExtentChange::Part(buf, part) => {
                    let mut bytes = self.take(*index, change);
                    assert!(buf.len() >= bytes.len());
                    bytes.resize(buf.len(), 0);
                    for range in part.ranges(buf.len()) {
                        bytes[range.clone()].copy_from_slice(&buf[range]);
                    }
                    assert!(bytes[..] == buf[..], "more than the part differs");
                    new.push((*index, self.add(*index, bytes)));
                }
                ExtentChange::Patch(buf, blocks) => {
                    let mut bytes = self.take(*index, change);
                    assert_eq!(buf.len(), CHUNK);
                    bytes.resize(CHUNK, 0);
                    for range in blocks.ranges(CHUNK) {
                        bytes[range.clone()].copy_from_slice(&buf[range]);
                    }
                    new.push((*index, self.add(*index, bytes)));
                }
                ExtentChange::Data(buf) => {
                    assert!(!buf.is_empty() && buf.len() <= CHUNK);
                    new.push((*index, self.add(*index, buf.to_vec())));
                }
                ExtentChange::Chunk(id) => {
                    self.extents.insert(*index, *id);
                }
                ExtentChange::Hole => {
                    self.extents.remove(index);
                }
            }
        }
        new
    }
}

struct File {
    content: Content,
    size: u64,
    store: FakeStore,
    gauge: Gauge,
    in_flight: Option<(ContentChange, Vec<(u64, ChunkId)>)>,
}

impl File {
    fn new() -> Self {
        let (content, store, gauge) = (Content::empty(), FakeStore::default(), Gauge::default());
        Self { content, size: 0, store, gauge, in_flight: None }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let range = offset..offset + data.len() as u64;
        let bases: Vec<Fetched> = chunks_of(range.clone())
            .filter_map(|(index, within)| self.content.base(index, &within, self.size))
            .map(|source| self.store.fetch(source, &self.gauge))
            .collect();
        let mut rest = data;
        for (index, within) in chunks_of(range.clone()) {
            let (now, later) = rest.split_at(within.len());
            assert!(self.content.write(index, within.start, now, self.size, &bases, &self.gauge));
            rest = later;
        }
        self.size = self.size.max(range.end);
    }

    fn cut(&mut self, size: u64) {
        if size < self.size {
            let base = self.content.base_of_cut(size).map(|source| self.store.fetch(source, &self.gauge));
            assert!(self.content.cut(size, base.as_slice(), &self.gauge));
        }
        self.size = size;
    }

    fn hole(&mut self, range: Range<u64>) {
        let range = range.start..range.end.min(self.size).max(range.start);
        let bases: Vec<Fetched> = self
            .content
            .bases_of_hole(range.clone(), self.size)
            .into_iter()
            .map(|source| self.store.fetch(source, &self.gauge))
            .collect();
        assert!(self.content.hole(range, self.size, &bases, &self.gauge));
    }

    /// Shares a chunk that is in the store, if there is one; whether it did.
    fn share(&mut self, from: u64, to: u64) -> bool {
        let Some(Slot::Chunk(id)) = self.content.slot(from).cloned() else { return false };
        if from == to || (from.max(to) + 1) * CHUNK_BYTES > self.size {
            return false;
        }
        self.content.share(to, Some(Slot::Chunk(id)));
        true
    }

    fn begin_commit(&mut self) {
        self.end_commit();
        let change = self.content.take_change();
        let new = self.store.apply(&change);
        self.in_flight = Some((change, new));
    }

    fn end_commit(&mut self) {
        let Some((change, new)) = self.in_flight.take() else { return };
        for (index, id) in new {
            let Some(buf) = change.extents.get(&index).and_then(ExtentChange::bytes) else { unreachable!() };
            self.content.settle(index, buf, Some(id));
        }
        if let Some(Some(buf)) = &change.inline {
            self.content.settle(0, buf, None);
        }
        self.content.arrived();
    }

    fn reload(&mut self) {
        self.begin_commit();
        self.end_commit();
        let storage = self.content.storage();
        assert_eq!(storage == Storage::Inline, self.store.inline.is_some());
        assert_eq!(storage == Storage::Chunks, !self.store.extents.is_empty());
        self.content = Content::stored(storage, self.size);
        self.content.load(self.store.extents.iter().map(|(index, id)| (*index, *id)).collect());
    }

    fn read(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in self.content.plan(0..self.size) {
            match piece {
                Piece::Zeros(count) => bytes.resize(bytes.len() + count, 0),
                Piece::Memory(buf, range) => bytes.extend_from_slice(&buf[range]),
                Piece::Stored(source, range) => {
                    let (_, buf) = self.store.fetch(source, &self.gauge);
                    let end = range.end.min(buf.len()).max(range.start);
                    let zeros = range.end - end;
                    if range.start < end {
                        bytes.extend_from_slice(&buf[range.start..end]);
                    }
                    bytes.resize(bytes.len() + zeros, 0);
                }
            }
        }
        bytes
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, usize, u8),
    /// Some blocks, as the kernel writes back pages.
    Blocks(u64, usize, u8),
    Share(u64, u64),
    Cut(u64),
    Hole(u64, u64),
    BeginCommit,
    EndCommit,
    Reload,
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![0..40_000u64, 0..300_000u64, (0..5u64).prop_map(|chunk| chunk * CHUNK_BYTES)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (offset(), prop_oneof![1..9000usize, 1..150_000usize], 1..255u8).prop_map(|(o, l, b)| Step::Write(o, l, b)),
        6 => (0..80u64, prop_oneof![4 => 1..4usize, 1 => 1..40usize], 1..255u8).prop_map(|(o, l, b)| Step::Blocks(o, l, b)),
        2 => (0..5u64, 0..5u64).prop_map(|(from, to)| Step::Share(from, to)),
        2 => offset().prop_map(Step::Cut),
        2 => (offset(), offset()).prop_map(|(o, l)| Step::Hole(o, l + 1)),
        2 => Just(Step::BeginCommit),
        2 => Just(Step::EndCommit),
        1 => Just(Step::Reload),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn content_is_what_was_written(steps in proptest::collection::vec(step(), 1..40)) {
        let mut file = File::new();
        let mut model: Vec<u8> = Vec::new();
        for step in steps {
            match step {
                Step::Write(..) | Step::Blocks(..) => {
                    let (offset, len, byte) = match step {
                        Step::Blocks(first, count, byte) => (first * BLOCK as u64, count * BLOCK, byte),
                        Step::Write(offset, len, byte) => (offset, len, byte),
                        _ => unreachable!(),
                    };
                    let data: Vec<u8> = (0..len).map(|at| byte.wrapping_add(at as u8)).collect();
                    file.write(offset, &data);
                    let end = offset as usize + len;
                    if model.len() < end {
                        model.resize(end, 0);
                    }
                    model[offset as usize..end].copy_from_slice(&data);
                }
                Step::Share(from, to) => {
                    if file.share(from, to) {
                        let (from, to) = (from as usize * CHUNK, to as usize * CHUNK);
                        model.copy_within(from..from + CHUNK, to);
                    }
                }
                Step::Cut(size) => {
                    file.cut(size);
                    model.resize(size as usize, 0);
                }
                Step::Hole(offset, len) => {
                    file.hole(offset..offset + len);
                    let end = model.len().min((offset + len) as usize);
                    if (offset as usize) < end {
                        model[offset as usize..end].fill(0);
                    }
                }
                Step::BeginCommit => file.begin_commit(),
                Step::EndCommit => file.end_commit(),
                Step::Reload => file.reload(),
            }
            prop_assert!(file.read() == model, "the content differs after this step");
            let allocated = file.content.allocated(file.size);
            prop_assert!(allocated <= file.size.next_multiple_of(512));
        }
        file.reload();
        prop_assert!(file.read() == model);
    }
}

/// Books were kept on each chunk of 200 GiB of nothing.
#[test]
fn a_hole_that_is_copied_over_a_hole_is_no_change() {
    let mut content = Content::empty();
    content.share(7, None);
    assert!(content.changed.is_empty());
    content.share(7, Some(Slot::Chunk(ChunkId { row: 1, version: 0 })));
    content.share(7, None);
    assert_eq!(content.changed.len(), 1);
}

/// What follows a patch of a short chunk had fewer bytes than the store made of the two.
#[test]
fn a_chunk_that_was_patched_is_a_whole_one() {
    let mut file = File::new();
    file.write(0, &[1]);
    file.write(CHUNK_BYTES, &[1; 2 * CHUNK]);
    file.reload();
    // So that what is below the patch stays there.
    assert!(file.share(0, 1));
    file.write(BLOCK as u64, &[2; BLOCK]);
    file.begin_commit();
    file.write(1, &[3]);
    file.begin_commit();
    let mut expected = vec![0; 3 * CHUNK];
    expected[..2].copy_from_slice(&[1, 3]);
    expected[BLOCK..2 * BLOCK].fill(2);
    expected[CHUNK] = 1;
    expected[2 * CHUNK..].fill(1);
    assert!(file.read() == expected);
}

/// As the guest of a disk image in the workspace discards one block after the other.
#[test]
fn a_chunk_that_is_punched_piece_by_piece_is_a_hole_in_the_end() {
    let mut file = File::new();
    file.write(0, &[1; 3 * CHUNK]);
    file.reload();
    for from in (CHUNK_BYTES..2 * CHUNK_BYTES).step_by(BLOCK) {
        assert_eq!(file.content.next_hole(0), 3 * CHUNK_BYTES);
        file.hole(from..from + BLOCK as u64);
    }
    assert_eq!(
        (file.content.next_hole(0), file.content.next_data(CHUNK_BYTES)),
        (CHUNK_BYTES, Some(2 * CHUNK_BYTES))
    );
    file.reload();
    assert_eq!(file.content.allocated(file.size), 2 * CHUNK_BYTES);
    assert_eq!(file.read(), [[1; CHUNK], [0; CHUNK], [1; CHUNK]].concat());
}
