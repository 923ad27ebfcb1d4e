//! Entries and offers: many nodes in one message.

use super::squeeze::{Encoding, Press, unpack};
use super::state::{read_id, read_state, write_id, write_state};
use super::{Wrong, at_most, count, wrong};
use crate::sync::link::{BATCH_MOST, INLINE, Told};
use crate::sync::{ContentId, Entry, NodeId, Offer, State};
use capnp::message::{Builder, HeapAllocator, ReaderOptions};
use std::collections::HashSet;
use wsd_schema::sync_capnp::{entries, offers, parcel};

/// Most bytes of a batch before compression. One more node than is usual makes it larger than a batch should be.
const PARCEL_MAX: usize = 16 << 20;

/// Most bytes of one that travels: a message has some beside it.
const TRAVELS: usize = 7 << 20;

/// Bytes of a node with one name, roughly.
const NODE: usize = 320;

/// Deepest pointers: a batch, an entry, a state, a place, its parent.
const NESTING: i32 = 16;

/// A batch as it travels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parcel {
    /// How it is packed.
    pub encoding: Encoding,
    /// Bytes before that.
    pub size: u32,
    /// What travels.
    pub data: Vec<u8>,
}

impl Parcel {
    /// Puts it on the wire.
    pub fn write(&self, mut to: parcel::Builder<'_>) {
        to.set_encoding(self.encoding.to_wire());
        to.set_size(self.size);
        to.set_data(&self.data);
    }

    /// Takes it off the wire, as it is.
    pub fn read(from: parcel::Reader<'_>) -> Result<Self, Wrong> {
        let encoding = Encoding::of_wire(from.get_encoding()?);
        Ok(Self { encoding, size: from.get_size(), data: from.get_data()?.to_vec() })
    }

    fn pack(message: &Builder<HeapAllocator>, wanted: Encoding) -> Result<Self, Wrong> {
        let bytes = capnp::serialize::write_message_to_words(message);
        if bytes.len() > PARCEL_MAX {
            return wrong(format!("a batch of {} bytes: at most {PARCEL_MAX} can be sent", bytes.len()));
        }
        let size = bytes.len() as u32;
        let (encoding, data) = Press::new(wanted).pack(bytes);
        if data.len() > TRAVELS {
            return wrong(format!("a batch of {} bytes: at most {TRAVELS} can be sent", data.len()));
        }
        Ok(Self { encoding, size, data })
    }

    /// Lets somebody look at the message.
    fn open<T>(
        self,
        look: impl FnOnce(capnp::message::Reader<capnp::serialize::NoAllocSliceSegments<'_>>) -> Result<T, Wrong>,
    ) -> Result<T, Wrong> {
        let bytes = unpack(self.encoding, self.size, self.data, PARCEL_MAX)?;
        let mut options = ReaderOptions::new();
        // Each byte may be looked at a few times, not more: pointers may lead to one place from many.
        options.traversal_limit_in_words(Some(bytes.len() / 8 * 3 + 64)).nesting_limit(NESTING);
        let mut rest = &bytes[..];
        let message = capnp::serialize::read_message_from_flat_slice_no_alloc(&mut rest, options)?;
        look(message)
    }
}

fn builder(nodes: usize, bytes: usize) -> Builder<HeapAllocator> {
    let words = (nodes * NODE + bytes) / 8 + 64;
    Builder::new(HeapAllocator::new().first_segment_words(u32::try_from(words).unwrap_or(u32::MAX)))
}

fn inline_bytes<T>(told: &[Told<T>]) -> usize {
    told.iter().filter_map(|told| told.bytes.as_ref()).map(Vec::len).sum()
}

/// Packs entries.
pub fn pack_entries(told: &[Told<Entry>], wanted: Encoding) -> Result<Parcel, Wrong> {
    let mut message = builder(told.len(), inline_bytes(told));
    let mut list = message.init_root::<entries::Builder<'_>>().init_list(count(told));
    for (index, told) in (0..).zip(told) {
        let mut to = list.reborrow().get(index);
        write_id(to.reborrow().init_id(), told.what.id);
        if let Some(state) = &told.what.state {
            write_state(to.reborrow().init_state(), state);
        }
        if let Some(bytes) = &told.bytes {
            to.set_bytes(bytes);
        }
        to.set_allocated(told.allocated);
    }
    Parcel::pack(&message, wanted)
}

/// Packs offers.
pub fn pack_offers(told: &[Told<Offer>], wanted: Encoding) -> Result<Parcel, Wrong> {
    let mut message = builder(2 * told.len(), inline_bytes(told));
    let mut list = message.init_root::<offers::Builder<'_>>().init_list(count(told));
    for (index, told) in (0..).zip(told) {
        let mut to = list.reborrow().get(index);
        write_id(to.reborrow().init_id(), told.what.id);
        if let Some(base) = &told.what.base {
            write_state(to.reborrow().init_base(), base);
        }
        if let Some(state) = &told.what.state {
            write_state(to.reborrow().init_state(), state);
        }
        if let Some(bytes) = &told.bytes {
            to.set_bytes(bytes);
        }
        to.set_allocated(told.allocated);
    }
    Parcel::pack(&message, wanted)
}

/// The entries of a parcel, each node once.
pub fn unpack_entries(parcel: Parcel) -> Result<Vec<Told<Entry>>, Wrong> {
    parcel.open(|message| {
        let list = message.get_root::<entries::Reader<'_>>()?.get_list()?;
        let mut told = Vec::with_capacity(at_most(list.len(), BATCH_MOST, "entries")?);
        let mut seen = HashSet::with_capacity(told.capacity());
        for entry in list {
            let id = once(&mut seen, read_id(entry.get_id()?)?)?;
            let state = entry.has_state().then(|| read_state(entry.get_state()?, id)).transpose()?;
            let bytes = if entry.has_bytes() { Some(entry.get_bytes()?) } else { None };
            let bytes = inline(bytes, state.as_ref())?;
            told.push(Told { what: Entry { id, state }, bytes, allocated: entry.get_allocated() });
        }
        Ok(told)
    })
}

/// The offers of a parcel, each of another node.
pub fn unpack_offers(parcel: Parcel) -> Result<Vec<Told<Offer>>, Wrong> {
    parcel.open(|message| {
        let list = message.get_root::<offers::Reader<'_>>()?.get_list()?;
        let mut told = Vec::with_capacity(at_most(list.len(), BATCH_MOST, "offers")?);
        let mut seen = HashSet::with_capacity(told.capacity());
        for offer in list {
            let id = once(&mut seen, read_id(offer.get_id()?)?)?;
            let base = offer.has_base().then(|| read_state(offer.get_base()?, id)).transpose()?;
            let state = offer.has_state().then(|| read_state(offer.get_state()?, id)).transpose()?;
            let bytes = if offer.has_bytes() { Some(offer.get_bytes()?) } else { None };
            let bytes = inline(bytes, state.as_ref())?;
            told.push(Told { what: Offer { id, base, state }, bytes, allocated: offer.get_allocated() });
        }
        Ok(told)
    })
}

fn once(seen: &mut HashSet<NodeId>, id: NodeId) -> Result<NodeId, Wrong> {
    if seen.insert(id) { Ok(id) } else { wrong("the same node twice in one batch") }
}

/// Bytes that come with a node, if they are what its content is.
fn inline(bytes: Option<&[u8]>, state: Option<&State>) -> Result<Option<Vec<u8>>, Wrong> {
    let Some(bytes) = bytes else { return Ok(None) };
    match state.and_then(|state| state.content) {
        Some(ContentId { size, hash, depth: 0 })
            if size <= INLINE && size == bytes.len() as u64 && *blake3::hash(bytes).as_bytes() == hash =>
        {
            Ok(Some(bytes.to_vec()))
        }
        Some(_) => wrong("bytes within an entry that are not those of its content"),
        None => wrong("bytes of a node without content"),
    }
}
