//! Which parts of a chunk changed, in blocks of 4 KiB.

use super::rows::CHUNK;
use std::ops::Range;

/// Bytes of a block: a page of the kernel's, which is what programs change in place.
pub const BLOCK: usize = 4096;

const _: () = assert!(CHUNK == BLOCK * u16::BITS as usize);

/// Blocks of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocks(u16);

impl Blocks {
    /// Those that a range of the chunk's bytes touches.
    pub fn of(range: &Range<usize>) -> Self {
        let below = |end: usize| ((1u32 << end.min(u16::BITS as usize)) - 1) as u16;
        Self(below(range.end.div_ceil(BLOCK)) & !below(range.start / BLOCK))
    }

    /// Those and these.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether they are all that a chunk has.
    pub fn are_all(self) -> bool {
        self.0 == u16::MAX
    }

    /// Bytes in them.
    pub fn bytes(self) -> usize {
        self.0.count_ones() as usize * BLOCK
    }

    /// The ranges of bytes that they are, in order, as far as they are below `len`.
    pub fn ranges(self, len: usize) -> impl Iterator<Item = Range<usize>> {
        let mut rest = u32::from(self.0);
        std::iter::from_fn(move || {
            let first = rest.trailing_zeros();
            let run = (rest >> first.min(31)).trailing_ones();
            rest &= !(((1 << run) - 1) << first.min(31));
            (run > 0).then(|| first as usize * BLOCK..(first + run) as usize * BLOCK)
        })
        .map(move |range| range.start.min(len)..range.end.min(len))
        .filter(|range| !range.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_ranges_are_the_blocks_that_were_touched(
            touched in proptest::collection::vec((0..CHUNK, 1..9000usize), 0..6),
            len in 0..=CHUNK,
        ) {
            let mut model = [false; CHUNK / BLOCK];
            let mut blocks = Blocks::default();
            for (start, count) in touched {
                let end = (start + count).min(CHUNK);
                blocks = blocks.and(Blocks::of(&(start..end)));
                model[start / BLOCK..end.div_ceil(BLOCK)].fill(true);
            }
            prop_assert_eq!(blocks.bytes(), model.iter().filter(|touched| **touched).count() * BLOCK);
            let mut found = vec![false; len];
            let mut before = None;
            for range in blocks.ranges(len) {
                prop_assert!(before.is_none_or(|before| before < range.start), "neighbours are one range");
                before = Some(range.end);
                found[range].fill(true);
            }
            for (at, found) in found.into_iter().enumerate() {
                prop_assert_eq!(found, model[at / BLOCK]);
            }
        }
    }

    #[test]
    fn nothing_touches_nothing_and_all_is_one_range() {
        assert_eq!(
            Blocks::of(&(5000..5000)).bytes(),
            BLOCK,
            "an empty range inside a block is of that block"
        );
        assert_eq!(Blocks::of(&(0..0)), Blocks::default());
        for len in [CHUNK, 10] {
            assert!(Blocks::of(&(0..CHUNK)).ranges(len).eq(std::iter::once(0..len)));
        }
    }
}
