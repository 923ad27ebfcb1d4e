//! Bytes by hash.

use super::squeeze::{Encoding, Press, unpack};
use super::{Wrong, at_most, count, exactly, wrong};
use crate::sync::Hash;
use crate::sync::link::{OBJECT_MAX, OBJECTS_AT_ONCE, Object};
use capnp::struct_list;
use wsd_schema::sync_capnp::object;

/// Most bytes of the objects of one call before compression: what is usual, and one that makes it too many.
const CALL_MAX: u64 = 4 << 20;

/// An object as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedObject {
    hash: Hash,
    encoding: Encoding,
    size: u32,
    data: Vec<u8>,
}

impl PackedObject {
    /// Bytes that travel.
    pub fn cost(&self) -> usize {
        self.data.len() + self.hash.len()
    }
}

/// Packs objects, each by itself.
pub fn pack_objects(objects: Vec<Object>, wanted: Encoding) -> Vec<PackedObject> {
    let mut press = Press::new(wanted);
    let pack = |object: Object| {
        let size = object.bytes.len() as u32;
        let (encoding, data) = press.pack(object.bytes);
        PackedObject { hash: object.hash, encoding, size, data }
    };
    objects.into_iter().map(pack).collect()
}

/// The objects, if they are what their hashes say.
pub fn unpack_objects(packed: Vec<PackedObject>) -> Result<Vec<Object>, Wrong> {
    let unpack = |packed: PackedObject| {
        let PackedObject { hash, encoding, size, data } = packed;
        let bytes = unpack(encoding, size, data, OBJECT_MAX)?;
        if *blake3::hash(&bytes).as_bytes() != hash {
            return wrong("an object whose bytes do not have its hash");
        }
        Ok(Object { hash, bytes })
    };
    packed.into_iter().map(unpack).collect()
}

/// Puts objects on the wire.
pub fn write_objects(mut to: struct_list::Builder<'_, object::Owned>, packed: &[PackedObject]) {
    debug_assert_eq!(to.len(), count(packed));
    for (index, packed) in (0..).zip(packed) {
        let mut to = to.reborrow().get(index);
        to.set_hash(&packed.hash);
        to.set_encoding(packed.encoding.to_wire());
        to.set_size(packed.size);
        to.set_data(&packed.data);
    }
}

/// Takes objects off the wire, as they are.
pub fn read_objects(from: struct_list::Reader<'_, object::Owned>) -> Result<Vec<PackedObject>, Wrong> {
    let mut packed = Vec::with_capacity(at_most(from.len(), OBJECTS_AT_ONCE, "objects")?);
    let mut all = 0;
    for object in from {
        let (hash, size) = (exactly(object.get_hash()?, "a hash")?, object.get_size());
        all += u64::from(size);
        if size as usize > OBJECT_MAX || all > CALL_MAX {
            return wrong(format!(
                "objects of {all} bytes, of which there may be {CALL_MAX}, and {OBJECT_MAX} of one"
            ));
        }
        let encoding = Encoding::of_wire(object.get_encoding()?);
        packed.push(PackedObject { hash, encoding, size, data: object.get_data()?.to_vec() });
    }
    Ok(packed)
}
