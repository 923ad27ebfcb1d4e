//! Contents and grafts over a real tree.

use super::carry::{Carried, Marks, Stock};
use super::contents::{self, Record};
use super::entry::{ContentId, Offer};
use super::ignore::Ignore;
use super::judge::judge;
use super::local::LocalTree;
use super::objects::Assembly;
use super::site::Site;
use super::tree::{Plan, Tree, Verdict};
use crate::store::rows::{Ino, Kind, ROOT};
use crate::store::{Location, Store};
use crate::vfs::graft::{Becomes, Bytes, Grafted, Scion, Seen};
use crate::vfs::{Caller, Fallocate, NewNode, Options, RenameMode, SetAttr, SetXattr, Vfs};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

pub(super) fn site(location: &Location) -> Arc<Site> {
    let store = Arc::new(Store::open(location, Path::new("/nowhere")).unwrap());
    let vfs = Vfs::open(Arc::clone(&store), Options::default()).unwrap();
    Arc::new(Site::open(vfs, store).unwrap())
}

fn file(site: &Site, name: &str, bytes: &[u8]) -> Ino {
    let new = NewNode { kind: Kind::File, mode: 0o644, umask: 0, rdev: 0 };
    let ino = site.vfs.create(Caller::DAEMON, ROOT, name.as_bytes(), new).unwrap().ino;
    site.vfs.write(Caller::DAEMON, ino, 0, bytes, false).unwrap();
    ino
}

/// Bytes that look like no others.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut bytes = vec![0; len];
    reader.fill(&mut bytes);
    bytes
}

fn content_of(site: &Site, ino: Ino) -> ContentId {
    site.vfs.commit_now().unwrap();
    let ignore = Ignore::default();
    let tree = LocalTree::now(&site.store, &site.lives, &ignore).unwrap();
    let seen = tree.look(ino, false).unwrap().unwrap();
    tree.end().unwrap();
    seen.state.content.unwrap()
}

/// Brings a content from one to the other; returns the bytes of objects that had to travel.
fn bring(from: &Site, to: &Site, content: ContentId, name: &str) -> (Ino, usize) {
    if content.size <= super::link::INLINE && content.depth == 0 {
        // It travels within its entry.
        let source = from.vfs.resolve(name.as_bytes()).unwrap().ino;
        return (file(to, name, &from.vfs.read_quietly(source, 0, 1 << 20).unwrap()), 0);
    }
    let mut assembly = Assembly::new(&to.objects, content).unwrap();
    let mut travelled = 0;
    loop {
        let wanted = assembly.advance().unwrap();
        if wanted.is_empty() {
            break;
        }
        let (looked_for, came) = from.fetch(&wanted).unwrap();
        assert!(looked_for > 0 && !came.is_empty(), "the other side has what it said");
        travelled += came.iter().map(|object| object.bytes.len()).sum::<usize>();
        assembly.take(came).unwrap();
    }
    let staged = assembly.done();
    let ino = to.vfs.new_ino();
    let becomes = becomes(Kind::File, name, Bytes::Of(staged.ino()));
    let scion = Scion { ino, seen: None, becomes: Some(becomes) };
    assert!(matches!(to.vfs.graft(&[scion], |_, _| Default::default()).unwrap(), Grafted::Done(_)));
    to.objects.placed(&staged, ino).unwrap();
    (ino, travelled)
}

fn becomes(kind: Kind, name: &str, bytes: Bytes) -> Becomes {
    Becomes {
        kind,
        places: BTreeSet::from([(ROOT, name.as_bytes().into())]),
        mode: 0o644,
        uid: 0,
        gid: 0,
        rdev: 0,
        xattrs: Arc::default(),
        atime: Default::default(),
        mtime: Default::default(),
        btime: Default::default(),
        bytes,
    }
}

fn same_bytes(a: (&Site, Ino), b: (&Site, Ino)) {
    let size = a.0.vfs.getattr(a.1).unwrap().size;
    assert_eq!(size, b.0.vfs.getattr(b.1).unwrap().size);
    let mut at = 0;
    while at < size {
        let part = |(site, ino): (&Site, Ino)| site.vfs.read_quietly(ino, at, 1 << 20).unwrap();
        assert!(part(a) == part(b), "they differ after {at}");
        at += 1 << 20;
    }
}

#[test]
fn contents_of_all_sizes_and_shapes_arrive_as_they_were() {
    for location in [Location::Memory, Location::File(tempfile::tempdir().unwrap().keep().join("a.db"))] {
        let (here, there) = (site(&location), site(&Location::Memory));
        for (number, len) in [0, 1, 16 << 10, (16 << 10) + 1, 64 << 10, (64 << 10) + 1, 300_000, 40 << 20]
            .into_iter()
            .enumerate()
        {
            let ino = file(&here, &format!("f{number}"), &noise(number as u64, len));
            let content = content_of(&here, ino);
            let (copy, _) = bring(&here, &there, content, &format!("f{number}"));
            same_bytes((&here, ino), (&there, copy));
            assert_eq!(content_of(&there, copy), content, "{len} bytes are cut the same everywhere");
        }
        let sparse = file(&here, "sparse", b"x");
        here.vfs.write(Caller::DAEMON, sparse, 5 << 30, &noise(9, 200_000), false).unwrap();
        let set = SetAttr { size: Some(1 << 40), ..SetAttr::default() };
        here.vfs.setattr(Caller::DAEMON, sparse, &set).unwrap();
        let content = content_of(&here, sparse);
        let (copy, travelled) = bring(&here, &there, content, "sparse");
        let attr = there.vfs.getattr(copy).unwrap();
        assert!(attr.size == 1 << 40 && attr.blocks * 512 < 1 << 20 && travelled < 400_000);
        assert_eq!(there.vfs.read_quietly(copy, 5 << 30, 200_000).unwrap(), noise(9, 200_000));
        assert_eq!(content_of(&there, copy), content);
        let hole = file(&here, "hole", b"");
        here.vfs.fallocate(Caller::DAEMON, hole, Fallocate::Allocate, 0, 1 << 20).unwrap();
        let (copy, travelled) = bring(&here, &there, content_of(&here, hole), "hole");
        assert!(travelled < 100 && there.vfs.getattr(copy).unwrap().blocks == 0);
    }
}

#[test]
fn a_byte_at_the_front_of_a_large_file_sends_little() {
    let (here, there) = (site(&Location::Memory), site(&Location::Memory));
    let bytes = noise(1, 100 << 20);
    let ino = file(&here, "large", &bytes);
    let (copy, all) = bring(&here, &there, content_of(&here, ino), "large");
    assert!(all >= 100 << 20);
    same_bytes((&here, ino), (&there, copy));
    let mut longer = vec![b'!'];
    longer.extend_from_slice(&bytes);
    let ino = file(&here, "longer", &longer);
    let (copy, travelled) = bring(&here, &there, content_of(&here, ino), "longer");
    same_bytes((&here, ino), (&there, copy));
    assert!(travelled < 500 << 10, "{travelled} bytes for one");
}

#[test]
fn pages_are_read_as_they_are_written_and_nothing_else_is() {
    assert!(contents::records(b"").is_none() && contents::records(&[2, 0]).is_none());
    assert!(contents::records(&[0; 40]).is_none() && contents::records(&[0; 41]).is_some());
    assert!(contents::records(&[1; 9]).is_some() && contents::records(&[1; 8]).is_none());
}

#[test]
fn a_graft_exchanges_names_and_moves_trees_at_once() {
    let site = site(&Location::Memory);
    let (a, b) = (file(&site, "a", b"one"), file(&site, "b", b"two"));
    let new = NewNode { kind: Kind::Dir, mode: 0o755, umask: 0, rdev: 0 };
    let dir = site.vfs.create(Caller::DAEMON, ROOT, b"dir", new).unwrap().ino;
    let seen = |ino: Ino, name: &str| {
        let attr = site.vfs.getattr(ino).unwrap();
        let places = BTreeSet::from([(ROOT, name.as_bytes().into())]);
        let xattrs = Arc::default();
        Some(Seen { revision: attr.revision, access: (attr.mode, attr.uid, attr.gid), xattrs, places })
    };
    let mut into_dir = becomes(Kind::File, "a", Bytes::Keep);
    into_dir.places = BTreeSet::from([(dir, b"x"[..].into()), (dir, b"y"[..].into())]);
    let graft = |b_seen: Option<Seen>| {
        [
            Scion { ino: a, seen: seen(a, "a"), becomes: Some(becomes(Kind::File, "b", Bytes::Of(b))) },
            Scion { ino: b, seen: b_seen, becomes: Some(into_dir.clone()) },
            Scion { ino: dir, seen: seen(dir, "dir"), becomes: Some(becomes(Kind::Dir, "a", Bytes::Keep)) },
        ]
    };
    let mut stale = seen(b, "b").unwrap();
    stale.revision -= 1;
    let before = site.vfs.revision();
    let refused = site.vfs.graft(&graft(Some(stale)), |_, _| Default::default()).unwrap();
    assert!(matches!(refused, Grafted::Changed(ino) if ino == b) && site.vfs.revision() == before);
    let done = site.vfs.graft(&graft(seen(b, "b")), |_, _| Default::default()).unwrap();
    assert!(matches!(done, Grafted::Done(revision) if revision == before + 1));
    let at = |path: &str| site.vfs.resolve(path.as_bytes()).unwrap();
    assert_eq!((at("b").ino, at("a").ino, at("a/x").ino, at("a/y").nlink), (a, dir, b, 2));
    assert_eq!(site.vfs.read_quietly(a, 0, 9).unwrap(), b"two");
    assert_eq!(site.vfs.read_quietly(b, 0, 9).unwrap(), b"two");
    site.vfs.sync().unwrap();
    assert_eq!(site.store.check(true).unwrap(), []);
}

#[test]
fn a_graft_removes_a_tree_whatever_its_order() {
    let site = site(&Location::Memory);
    let new = NewNode { kind: Kind::Dir, mode: 0o755, umask: 0, rdev: 0 };
    let outer = site.vfs.create(Caller::DAEMON, ROOT, b"outer", new).unwrap().ino;
    let inner = site.vfs.create(Caller::DAEMON, outer, b"inner", new).unwrap().ino;
    let gone = |ino: Ino, parent: Ino, name: &str| {
        let attr = site.vfs.getattr(ino).unwrap();
        let places = BTreeSet::from([(parent, name.as_bytes().into())]);
        let access = (attr.mode, attr.uid, attr.gid);
        let seen = Seen { revision: attr.revision, access, xattrs: Arc::default(), places };
        Scion { ino, seen: Some(seen), becomes: None }
    };
    let scions = [gone(outer, ROOT, "outer"), gone(inner, outer, "inner")];
    let alone = site.vfs.graft(&scions[..1], |_, _| Default::default()).unwrap();
    assert!(matches!(alone, Grafted::Changed(ino) if ino == outer), "it is not empty");
    assert!(matches!(site.vfs.graft(&scions, |_, _| Default::default()).unwrap(), Grafted::Done(_)));
    assert_eq!(site.vfs.getattr(ROOT).unwrap().nlink, 2);
    site.vfs.sync().unwrap();
    assert_eq!(site.store.check(true).unwrap(), []);
}

/// A daemon that was killed between noting the one and the other never pushed the file: its pages were looked for where they are not.
#[test]
fn a_content_whose_objects_are_not_known_is_found_out_again() {
    let dir = tempfile::tempdir().unwrap();
    let location = Location::File(dir.path().join("s.db"));
    let first = site(&location);
    let ino = file(&first, "f", &noise(1, 100_000));
    let content = content_of(&first, ino);
    assert!(content.depth > 0 && first.objects.has(&content.hash).unwrap());
    // What was noted of a file that is not there, which is nothing, is what is noted of this one.
    first.store.copy_pieces(first.store.workspace(), 999, ino).unwrap();
    assert!(!first.objects.has(&content.hash).unwrap());
    first.vfs.shutdown().unwrap();
    drop(first);
    let second = site(&location);
    assert_eq!(content_of(&second, ino), content);
    assert!(second.objects.has(&content.hash).unwrap());
}

/// Two looks found out the same, and one of them ended while the other had not noted all: then came a kill. The inner pieces
/// were not known, and the file was never pushed.
#[test]
fn a_content_is_not_noted_if_its_pieces_were_forgotten_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let site = site(&Location::File(dir.path().join("s.db")));
    let ino = file(&site, "f", &noise(1, 4 << 20));
    let ignore = Ignore::default();
    site.commit().unwrap();
    let one = site.look(&ignore).unwrap();
    let content = one.look(ino, false).unwrap().unwrap().state.content.unwrap();
    // Another look begins with this.
    site.store.drop_pieces(site.store.workspace(), ino).unwrap();
    one.end().unwrap();
    assert_eq!(content_of(&site, ino), content);
    let page = site.objects.get(&content.hash).unwrap().unwrap();
    for record in contents::records(&page).unwrap() {
        let Record::Data(hash, _) = record else { continue };
        assert!(site.objects.has(&hash).unwrap());
    }
}

#[test]
fn two_files_of_one_content_both_know_its_objects() {
    let (here, there) = (site(&Location::Memory), site(&Location::Memory));
    let content = content_of(&here, file(&here, "f", &noise(2, 100_000)));
    let mut assembly = Assembly::new(&there.objects, content).unwrap();
    loop {
        let wanted = assembly.advance().unwrap();
        if wanted.is_empty() {
            break;
        }
        assembly.take(here.fetch(&wanted).unwrap().1).unwrap();
    }
    let staged = assembly.done();
    let [one, other] = ["one", "other"].map(|name| file(&there, name, b""));
    there.objects.placed(&staged, one).unwrap();
    there.objects.placed(&staged, other).unwrap();
    there.store.drop_pieces(there.store.workspace(), one).unwrap();
    drop(staged);
    assert!(there.objects.has(&content.hash).unwrap());
}

/// What a push makes of a directory, which was judged; and the directory.
fn judged(site: &Site, name: &str) -> (Ino, Plan) {
    site.vfs.commit_now().unwrap();
    let ignore = Ignore::default();
    let tree = LocalTree::now(&site.store, &site.lives, &ignore).unwrap();
    let ino = site.vfs.resolve(name.as_bytes()).unwrap().ino;
    let id = tree.id(ino).unwrap();
    let base = tree.node(id).unwrap().unwrap().state;
    let mut state = base.clone();
    state.iter_mut().for_each(|state| state.attributes.mode = 0o700);
    let verdict = judge(&tree, &[Offer { id, base, state }]).unwrap();
    tree.end().unwrap();
    let Verdict::Accept(plan) = verdict else { panic!("{verdict:?}") };
    (ino, plan)
}

/// Contents that a push needs may take long to put together.
#[test]
fn a_directory_that_changes_after_it_was_judged_is_judged_anew() {
    let site = site(&Location::Memory);
    let new = NewNode { kind: Kind::Dir, mode: 0o755, umask: 0, rdev: 0 };
    site.vfs.create(Caller::DAEMON, ROOT, b"dir", new).unwrap();
    let ignore = Ignore::default();
    let carry = |plan: &Plan| {
        site.vfs.commit_now().unwrap();
        let tree = LocalTree::now(&site.store, &site.lives, &ignore).unwrap();
        site.carry(tree, plan, &Stock::default(), Marks::default()).unwrap()
    };
    let (dir, plan) = judged(&site, "dir");
    let to = |name: &'static [u8]| (ROOT, name);
    site.vfs.rename(Caller::DAEMON, to(b"dir"), to(b"moved"), RenameMode::Replace).unwrap();
    assert_eq!(carry(&plan), Carried::Changed);
    assert_eq!(site.vfs.resolve(b"moved").unwrap().ino, dir);
    let (_, plan) = judged(&site, "moved");
    assert!(matches!(carry(&plan), Carried::Done(_)));
}

/// The mode of a directory says that it has not changed, and its revision says nothing.
#[test]
fn attributes_that_a_directory_gets_meanwhile_are_not_overwritten() {
    let site = site(&Location::Memory);
    let new = NewNode { kind: Kind::Dir, mode: 0o755, umask: 0, rdev: 0 };
    let dir = site.vfs.create(Caller::DAEMON, ROOT, b"dir", new).unwrap();
    let places = BTreeSet::from([(ROOT, b"dir"[..].into())]);
    let access = (dir.mode, dir.uid, dir.gid);
    let seen = Seen { revision: dir.revision, access, xattrs: Arc::default(), places };
    site.vfs.setxattr(Caller::DAEMON, dir.ino, b"user.x", b"y", SetXattr::Any).unwrap();
    let becomes = Some(becomes(Kind::Dir, "dir", Bytes::Keep));
    let done =
        site.vfs.graft(&[Scion { ino: dir.ino, seen: Some(seen), becomes }], |_, _| Default::default());
    assert!(matches!(done.unwrap(), Grafted::Changed(ino) if ino == dir.ino));
}
