//! What is packed comes out as it was, and nothing that comes makes it panic or is believed unseen.

use super::*;
use crate::clock::Timestamp;
use crate::store::rows::Kind;
use crate::sync::link::{BATCH_ENTRIES, BATCH_MOST, INLINE, Object, Told};
use crate::sync::{Attributes, Author, ContentId, Entry, NodeId, Offer, Place, State, Times};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

fn id() -> impl Strategy<Value = NodeId> {
    let other =
        (1..=u8::MAX, 1..i64::MAX as u64).prop_map(|(life, ino)| NodeId { author: Author([life; 16]), ino });
    prop_oneof![1 => Just(NodeId::ROOT), 20 => other]
}

fn name() -> impl Strategy<Value = Arc<[u8]>> {
    vec(any::<u8>().prop_filter("of a name", |byte| !matches!(byte, 0 | b'/')), 1..40)
        .prop_filter("a name", |name| name != b"." && name != b"..")
        .prop_map(Into::into)
}

fn place() -> impl Strategy<Value = Place> {
    (id(), name()).prop_map(|(parent, name)| Place { parent, name })
}

/// A node that can be, and the bytes of its content if they are few.
fn state(id: NodeId) -> impl Strategy<Value = (State, Option<Vec<u8>>)> {
    let kinds = if id == NodeId::ROOT { 2..=2u8 } else { 1..=7 };
    let attributes =
        (0..=0o7777u32, any::<(u32, u32, u32)>(), btree_map(name(), vec(any::<u8>(), 0..50), 0..4));
    let content = (vec(any::<u8>(), 1..600), 0..=3u8, 1..i64::MAX as u64);
    let rest = (btree_set(place(), 1..4), attributes, any::<(i64, i64, i64)>(), content);
    (kinds, rest)
        .prop_map(move |(kind, (places, (mode, (uid, gid, rdev), xattrs), times, content))| {
            let kind = Kind::from_u8(kind).unwrap();
            let (bytes, depth, size) = content;
            let hash = *blake3::hash(&bytes).as_bytes();
            let (content, bytes) = match (kind, depth) {
                (Kind::File, 1..) => (Some(ContentId { size, hash, depth }), None),
                (Kind::File | Kind::Symlink, _) => {
                    (Some(ContentId { size: bytes.len() as u64, hash, depth: 0 }), Some(bytes))
                }
                _ => (None, None),
            };
            let most = if id == NodeId::ROOT {
                0
            } else if kind == Kind::Dir {
                1
            } else {
                3
            };
            let places =
                places.into_iter().filter(|place| place.parent != id).take(most).collect::<BTreeSet<_>>();
            let xattrs = xattrs.into_iter().map(|(name, value)| (name.to_vec(), value)).collect();
            let attributes = Attributes { mode, uid, gid, rdev, xattrs: Arc::new(xattrs) };
            let times =
                Times { atime: Timestamp(times.0), mtime: Timestamp(times.1), btime: Timestamp(times.2) };
            (State { kind, places, attributes, times, content }, bytes)
        })
        .prop_filter("a place", move |(state, _)| id == NodeId::ROOT || !state.places.is_empty())
}

fn entry() -> impl Strategy<Value = Told<Entry>> {
    id().prop_flat_map(|id| {
        (Just(id), option::of(state(id)), any::<bool>()).prop_map(|(id, told, inline)| {
            let (state, bytes) = told.unzip();
            Told { what: Entry { id, state }, bytes: bytes.flatten().filter(|_| inline), allocated: id.ino }
        })
    })
}

fn offer() -> impl Strategy<Value = Told<Offer>> {
    id().prop_flat_map(|id| {
        (Just(id), option::of(state(id)), option::of(state(id))).prop_map(|(id, base, told)| {
            let (state, bytes) = told.unzip();
            let base = base.map(|(base, _)| base);
            Told { what: Offer { id, base, state }, bytes: bytes.flatten(), allocated: id.ino }
        })
    })
}

fn encoding() -> impl Strategy<Value = Encoding> {
    prop_oneof![Just(Encoding::Plain), Just(Encoding::Zstd)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn entries_come_out_as_they_went_in(mut told in vec(entry(), 0..30), encoding in encoding()) {
        let mut seen = BTreeSet::new();
        told.retain(|told| seen.insert(told.what.id));
        let parcel = pack_entries(&told, encoding).unwrap();
        prop_assert_eq!(unpack_entries(parcel).unwrap(), told);
    }

    #[test]
    fn offers_come_out_as_they_went_in(mut told in vec(offer(), 0..30), encoding in encoding()) {
        let mut seen = BTreeSet::new();
        told.retain(|told| seen.insert(told.what.id));
        let parcel = pack_offers(&told, encoding).unwrap();
        prop_assert_eq!(unpack_offers(parcel).unwrap(), told);
    }

    #[test]
    fn objects_come_out_as_they_went_in(bytes in vec(vec(any::<u8>(), 0..3000), 0..20), encoding in encoding()) {
        let object = |bytes: Vec<u8>| Object { hash: *blake3::hash(&bytes).as_bytes(), bytes };
        let objects: Vec<Object> = bytes.into_iter().map(object).collect();
        prop_assert_eq!(unpack_objects(pack_objects(objects.clone(), encoding)).unwrap(), objects);
    }

    /// Whatever became of a parcel on its way: what comes out is whole, or nothing does.
    #[test]
    fn a_parcel_that_was_tampered_with_is_no_panic(
        mut told in vec(entry(), 1..20), at in any::<prop::sample::Index>(), to in any::<u8>(), encoding in encoding(),
    ) {
        let mut seen = BTreeSet::new();
        told.retain(|told| seen.insert(told.what.id));
        let mut parcel = pack_entries(&told, encoding).unwrap();
        let at = at.index(parcel.data.len());
        parcel.data[at] = to;
        if let Ok(again) = unpack_entries(parcel.clone()) {
            let again = pack_entries(&again, encoding).unwrap();
            prop_assert!(unpack_entries(again).is_ok());
        }
        let _ = unpack_offers(parcel);
    }

    #[test]
    fn noise_is_no_panic(data in vec(any::<u8>(), 0..500), size in 0..1000u32, encoding in encoding()) {
        let parcel = Parcel { encoding, size, data };
        let _ = unpack_entries(parcel.clone());
        let _ = unpack_offers(parcel);
    }
}

fn file(ino: u64) -> Told<Entry> {
    let id = NodeId { author: Author([7; 16]), ino };
    let bytes = format!("bytes of {ino}").into_bytes();
    let content = ContentId { size: bytes.len() as u64, hash: *blake3::hash(&bytes).as_bytes(), depth: 0 };
    let places = [Place { parent: NodeId::ROOT, name: format!("file-{ino}").into_bytes().into() }].into();
    let attributes = Attributes { mode: 0o644, ..Attributes::default() };
    let state =
        State { kind: Kind::File, places, attributes, times: Times::default(), content: Some(content) };
    Told { what: Entry { id, state: Some(state) }, bytes: Some(bytes), allocated: 512 }
}

fn refusal(change: impl FnOnce(&mut Told<Entry>)) -> String {
    let mut told = file(2);
    change(&mut told);
    let parcel = pack_entries(&[told], Encoding::Plain).unwrap();
    unpack_entries(parcel).unwrap_err().to_string()
}

fn state_of(told: &mut Told<Entry>) -> &mut State {
    told.what.state.as_mut().unwrap()
}

#[test]
fn what_cannot_be_is_refused() {
    let place = |name: &[u8]| Place { parent: NodeId::ROOT, name: name.into() };
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'a'; 256]] {
        let said = refusal(|told| state_of(told).places = [place(name)].into());
        assert!(said.contains("name"), "{said}");
    }
    assert!(refusal(|told| state_of(told).places.clear()).contains("the root alone"));
    assert!(refusal(|told| state_of(told).kind = Kind::Dir).contains("content"));
    assert!(refusal(|told| state_of(told).content = None).contains("without content"));
    assert!(refusal(|told| state_of(told).attributes.mode = 0o10000).contains("mode"));
    assert!(refusal(|told| told.what.id.ino = 0).contains("no node"));
    assert!(refusal(|told| told.what.id.author = Author::default()).contains("no node"));
    assert!(refusal(|told| told.bytes = Some(b"others".to_vec())).contains("not those"));
    assert!(refusal(|told| told.what.state = None).contains("without content"));
    let said = refusal(|told| {
        let places = [place(b"a"), place(b"b")].into();
        *state_of(told) = State { kind: Kind::Dir, places, content: None, ..state_of(told).clone() };
        told.bytes = None;
    });
    assert!(said.contains("more than one name"), "{said}");
    let said = refusal(|told| {
        let (id, state) = (told.what.id, state_of(told));
        state.places = [Place { parent: id, name: b"a"[..].into() }].into();
    });
    assert!(said.contains("within itself"), "{said}");
    let said = refusal(|told| {
        let content = Some(ContentId { size: 1 << 20, hash: [1; 32], depth: 0 });
        state_of(told).content = content;
    });
    assert!(said.contains("1048576 bytes"), "{said}");
    let large = vec![0; INLINE as usize + 1];
    let hash = *blake3::hash(&large).as_bytes();
    let said = refusal(|told| {
        state_of(told).content = Some(ContentId { size: large.len() as u64, hash, depth: 0 });
        told.bytes = Some(large.clone());
    });
    assert!(said.contains("not those"), "{said}");
    let twice = pack_entries(&[file(2), file(2)], Encoding::Plain).unwrap();
    assert!(unpack_entries(twice).unwrap_err().to_string().contains("twice"));
    let many: Vec<_> = (2..).take(BATCH_MOST + 1).map(file).collect();
    let many = pack_entries(&many, Encoding::Zstd).unwrap();
    assert!(unpack_entries(many).unwrap_err().to_string().contains("4097 entries"));
}

#[test]
fn claims_are_checked_before_memory_is_spent() {
    let many: Vec<_> = (2..).take(BATCH_ENTRIES).map(file).collect();
    let good = pack_entries(&many, Encoding::Zstd).unwrap();
    assert_eq!(good.encoding, Encoding::Zstd);
    for size in [good.size - 1, good.size + 8, 17 << 20, u32::MAX] {
        assert!(unpack_entries(Parcel { size, ..good.clone() }).is_err(), "{size}");
    }
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let parcel = |size| Parcel { encoding: Encoding::Zstd, size, data: bomb.clone() };
    for size in [64 << 20, 1 << 20] {
        assert!(unpack_entries(parcel(size)).is_err());
    }
}

#[test]
fn a_thousand_small_files_take_little_room() {
    let many: Vec<_> = (2..).take(BATCH_ENTRIES).map(file).collect();
    let parcel = pack_entries(&many, Encoding::Zstd).unwrap();
    let each = parcel.data.len() / BATCH_ENTRIES;
    assert!(each < 100, "{each} bytes each, {} before compression", parcel.size as usize / BATCH_ENTRIES);
}
