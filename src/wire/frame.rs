//! Messages as bytes.
//!
//! The standard framing for streams (capnproto.org/encoding.html#serialization-over-a-stream): the number of
//! segments less one and each one's length in words, as 32-bit little-endian numbers padded to a whole word, then
//! the segments.

use bytes::Bytes;
use capnp::message::{Builder, HeapAllocator, Reader, ReaderOptions};
use capnp::serialize::BufferSegments;

/// Largest frame that is read, bytes.
pub const MAX_FRAME: usize = 8 << 20;

/// Most segments of a message.
pub const MAX_SEGMENTS: usize = 64;

/// Deepest nesting of pointers.
const NESTING: i32 = 32;

const WORD: usize = 8;

/// A message that was read; the bytes are not copied.
pub(super) type Message = Reader<BufferSegments<Bytes>>;

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what the variant means")]
pub enum FrameError {
    #[error("the frame ends within a message: {have} bytes are there, {need} were announced")]
    Short { have: usize, need: usize },
    #[error("{extra} bytes follow the message in its frame")]
    Long { extra: usize },
    #[error("a message of {0} segments: at most {MAX_SEGMENTS} are read")]
    Segments(u64),
    #[error("a message of {0} bytes: at most {MAX_FRAME} are read")]
    Size(u64),
}

impl From<FrameError> for capnp::Error {
    fn from(error: FrameError) -> Self {
        Self::failed(format!("EPROTOCOL: {error}"))
    }
}

/// How long the message is that begins here, its segment table included; `bytes` may go on after it.
fn length(bytes: &[u8]) -> Result<usize, FrameError> {
    let short = |need| FrameError::Short { have: bytes.len(), need };
    let number = |index: usize| -> Option<u64> {
        let four: [u8; 4] = bytes.get(index * 4..index * 4 + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(four).into())
    };
    let segments = number(0).ok_or(short(WORD))? + 1;
    if segments > MAX_SEGMENTS as u64 {
        return Err(FrameError::Segments(segments));
    }
    let table = (segments as usize * 4 + 4).next_multiple_of(WORD);
    let mut total = table as u64;
    for index in 1..=segments as usize {
        total += number(index).ok_or(short(table))? * WORD as u64;
    }
    if total > MAX_FRAME as u64 {
        return Err(FrameError::Size(total));
    }
    if (bytes.len() as u64) < total {
        return Err(short(total as usize));
    }
    Ok(total as usize)
}

/// The message of a frame, which must be all of it.
pub(super) fn decode(frame: Bytes) -> Result<Message, capnp::Error> {
    let length = length(&frame)?;
    if frame.len() > length {
        return Err(FrameError::Long { extra: frame.len() - length }.into());
    }
    let mut options = ReaderOptions::new();
    // Each byte may be looked at a few times: a message is read by the RPC layer, then by the method.
    options.traversal_limit_in_words(Some(4 * MAX_FRAME / WORD)).nesting_limit(NESTING);
    Ok(Reader::new(BufferSegments::new(frame, options)?, options))
}

/// A message as a frame.
pub fn encode(message: &Builder<HeapAllocator>) -> Bytes {
    capnp::serialize::write_message_to_words(message).into()
}

/// The frames of a batch, one after the other.
pub struct Batch {
    rest: Bytes,
}

impl Batch {
    /// Takes a body apart.
    pub fn new(body: Bytes) -> Self {
        Self { rest: body }
    }
}

impl Iterator for Batch {
    type Item = Result<Bytes, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let found = length(&self.rest).map(|length| self.rest.split_to(length));
        if found.is_err() {
            self.rest.clear();
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wsd_schema::common_capnp::error;

    fn message(text: &str) -> Bytes {
        let mut builder = Builder::new_default();
        builder.init_root::<error::Builder<'_>>().set_message(text);
        encode(&builder)
    }

    #[test]
    fn a_frame_is_one_message_and_a_batch_many() {
        let (one, two) = (message("one"), message(&"two".repeat(10_000)));
        let read = decode(two.clone()).unwrap();
        let text = read.get_root::<error::Reader<'_>>().unwrap().get_message().unwrap().to_string().unwrap();
        assert_eq!(text.len(), 30_000);
        let body = Bytes::from([&one[..], &two[..], &one[..]].concat());
        let frames: Vec<Bytes> = Batch::new(body.clone()).map(Result::unwrap).collect();
        assert_eq!(frames, [one.clone(), two.clone(), one.clone()]);
        let cut = body.slice(..body.len() - 8);
        assert!(Batch::new(cut).last().unwrap().is_err());
        assert!(decode(body).is_err(), "more than one message in a frame");
    }

    #[test]
    fn claims_are_checked_before_anything_is_allocated() {
        let claims: [&[u32]; 4] = [&[u32::MAX, 1], &[64, 0], &[0, u32::MAX], &[1, 1 << 19, 1 << 20, 0]];
        for claim in claims {
            let bytes: Vec<u8> = claim.iter().flat_map(|number| number.to_le_bytes()).collect();
            assert!(
                matches!(length(&bytes), Err(FrameError::Segments(_) | FrameError::Size(_))),
                "{claim:?}"
            );
        }
        assert!(matches!(length(&[0, 0, 0, 0, 9, 0, 0, 0]), Err(FrameError::Short { have: 8, need: 80 })));
        assert!(matches!(length(&[]), Err(FrameError::Short { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            for frame in Batch::new(bytes.into()) {
                let Ok(frame) = frame else { break };
                let Ok(message) = decode(frame) else { continue };
                if let Ok(root) = message.get_root::<error::Reader<'_>>() {
                    let _ = root.get_message();
                    let _ = root.get_path();
                }
            }
        }

        #[test]
        fn a_flipped_byte_is_no_panic(at in 0..200usize, to in any::<u8>()) {
            let mut bytes = message(&"x".repeat(150)).to_vec();
            let at = at % bytes.len();
            bytes[at] = to;
            if let Ok(message) = decode(bytes.into()) {
                let root = message.get_root::<capnp::any_pointer::Reader<'_>>();
                let _ = root.and_then(|root| root.target_size());
            }
        }
    }
}
