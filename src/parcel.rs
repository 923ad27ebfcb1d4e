//! What replica and hub say to each other, as Cap'n Proto has it: for both ends of the link, in both directions.
//!
//! Batches of states are messages of their own, compressed as a whole: thousands of nodes differ in little. What comes is
//! believed only once it was looked at: sizes before memory is spent, names and kinds and numbers before they become
//! nouns, bytes against their hash. So what is behind this door needs no second look.
//!
//! - `batch`: entries and offers. `state`: one node. `object`: bytes by hash. `squeeze`: compression.
//! - `talk`: greetings, cursors, watermarks, what became of a push. `report`: how a replica is.

mod batch;
mod object;
mod report;
mod squeeze;
mod state;
mod talk;
#[cfg(test)]
mod tests;

pub use batch::{Parcel, pack_entries, pack_offers, unpack_entries, unpack_offers};
pub use object::{PackedObject, pack_objects, read_objects, unpack_objects, write_objects};
pub use report::{read_status, status_json, write_status};
pub use squeeze::Encoding;
pub use talk::{
    PackedPortion, hashes, hashes_of, read_cursor, read_hello, read_ids, read_life, read_pushed,
    read_watermarks, read_welcome, write_cursor, write_hello, write_ids, write_pushed, write_watermarks,
    write_welcome,
};

/// What came makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(pub String);

impl From<capnp::Error> for Wrong {
    fn from(error: capnp::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<capnp::NotInSchema> for Wrong {
    fn from(error: capnp::NotInSchema) -> Self {
        Self(error.to_string())
    }
}

/// That something makes no sense.
fn wrong<T>(what: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong(what.into()))
}

/// Bytes of a fixed number.
fn exactly<const N: usize>(bytes: &[u8], what: &str) -> Result<[u8; N], Wrong> {
    bytes.try_into().map_err(|_| Wrong(format!("{what} of {} bytes, not {N}", bytes.len())))
}

/// The number of items of a list, if it is sane.
fn at_most(length: u32, most: usize, what: &str) -> Result<usize, Wrong> {
    let length = length as usize;
    if length > most { wrong(format!("{length} {what}, of which there may be {most}")) } else { Ok(length) }
}

/// A number of items for the wire.
fn count<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

/// Text from a peer, at most so long.
fn text(reader: capnp::Result<capnp::text::Reader<'_>>, most: usize, what: &str) -> Result<String, Wrong> {
    let reader = reader?;
    if reader.len() > most {
        return wrong(format!("{what} of {} bytes: at most {most} are read", reader.len()));
    }
    reader.to_string().map_err(|_| Wrong(format!("{what} is not UTF-8")))
}
