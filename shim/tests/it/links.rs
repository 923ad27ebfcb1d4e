//! Hard links, where the two sides do not have the same ones: bytes must not go to names that are not meant.

use crate::hostile::engine;
use crate::mem::Mem;
use crate::model::{Host, Shown, User, settle};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use wsd_shim::shadow::{Entry, Side};
use wsd_shim::{Engine, Facts, Kind};

fn file(bytes: &[u8]) -> Shown {
    Shown::File(bytes.to_vec(), 0o644)
}

fn look(engine: &mut Engine) {
    engine.look_at_all(Side::Host);
    settle(engine, 0);
}

fn changed_at(metadata: &fs::Metadata) -> u64 {
    (metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec()).cast_unsigned()
}

fn nodes(work: &Mem) -> usize {
    work.state().names.values().collect::<BTreeSet<_>>().len()
}

/// A workspace with one file of two names, `a` and `b`, both of which the host has.
fn linked() -> (tempfile::TempDir, Mem, Host, Engine) {
    let dir = tempfile::tempdir().unwrap();
    let (work, host) = (Mem::default(), Host(dir.path().to_path_buf()));
    let mut engine = engine(&work, dir.path());
    work.make(b"a", &file(b"one"));
    User::link(&work, b"a", b"b");
    settle(&mut engine, 0);
    (dir, work, host, engine)
}

/// Another file with the same bytes, mode and time.
fn renew(dir: &Path, name: &str) {
    let metadata = fs::metadata(dir.join(name)).unwrap();
    fs::copy(dir.join(name), dir.join("tmp")).unwrap();
    let copy = fs::File::options().write(true).open(dir.join("tmp")).unwrap();
    copy.set_modified(metadata.modified().unwrap()).unwrap();
    fs::rename(dir.join("tmp"), dir.join(name)).unwrap();
}

/// The edit of one name went to all names that the workspace's node had, and from there back to the host.
#[test]
fn a_link_that_was_broken_without_a_change_of_bytes_is_broken() {
    let (dir, work, host, mut engine) = linked();
    renew(dir.path(), "b");
    look(&mut engine);
    assert_eq!(nodes(&work), 2);
    host.rewrite(b"b", b"other");
    look(&mut engine);
    assert_eq!((&work.all()[&b"a"[..]], &work.all()[&b"b"[..]]), (&file(b"one"), &file(b"other")));
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"one");
}

/// Nothing was agreed on, so nobody saw the link being broken.
#[test]
fn what_is_linked_in_the_workspace_only_is_edited_alone() {
    for attributes in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (work, host) = (Mem::default(), Host(dir.path().to_path_buf()));
        work.make(b"a", &file(b"same"));
        User::link(&work, b"a", b"b");
        host.make(b"a", &file(b"same"));
        host.make(b"b", &file(b"same"));
        let mut engine = engine(&work, dir.path());
        settle(&mut engine, 0);
        let edited = if attributes {
            host.chmod(b"b", 0o600);
            Shown::File(b"same".to_vec(), 0o600)
        } else {
            host.rewrite(b"b", b"longer than before");
            file(b"longer than before")
        };
        look(&mut engine);
        for all in [work.all(), host.all()] {
            assert_eq!((&all[&b"a"[..]], &all[&b"b"[..]]), (&file(b"same"), &edited));
        }
    }
}

/// The node that gets a new name is written to, or replaced, after it was looked at: both sides were taken to be equal
/// at the new name ever after.
#[test]
fn what_is_written_at_the_last_moment_to_a_node_that_gets_a_name_is_not_lost() {
    for edit in ["longer than before", "two"] {
        for is_replaced in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (work, host) = (Mem::default(), Host(dir.path().to_path_buf()));
            let mut engine = engine(&work, dir.path());
            host.make(b"a", &file(b"one"));
            settle(&mut engine, 0);
            std::thread::sleep(std::time::Duration::from_millis(45));
            settle(&mut engine, 0);
            User::link(&host, b"a", b"b");
            work.before("link", move |state| {
                if is_replaced {
                    state.remove_all(b"a");
                    state.make(b"a", Kind::File, 0o644, edit.as_bytes()).unwrap();
                } else {
                    state.rewrite(b"a", edit.as_bytes());
                }
            });
            look(&mut engine);
            let expected = file(edit.as_bytes());
            for (side, all) in [("work", work.all()), ("host", host.all())] {
                for name in [&b"a"[..], b"b"] {
                    assert_eq!(all[name], expected, "{side}, replaced: {is_replaced}");
                }
            }
        }
    }
}

/// By one name the host's mode is news, by the other one the workspace's: each went to the other side, and back again, in
/// every pass.
#[test]
fn names_of_a_node_that_were_agreed_on_at_different_times_come_to_rest() {
    let (dir, work, host, mut engine) = linked();
    let before = [b"a", b"b"].map(|name| *engine.shadow().get(name).unwrap());
    User::chmod(&work, b"a", 0o700);
    look(&mut engine);
    let after = [b"a", b"b"].map(|name| *engine.shadow().get(name).unwrap());
    User::chmod(&host, b"a", 0o755);
    let now = fs::metadata(dir.path().join("a")).unwrap();
    let changed = Facts { mode: 0o755, change: changed_at(&now), ..after[0].host };
    engine.shadow().put(b"b".to_vec(), Entry { work: before[1].work, host: changed, ..after[1] });
    look(&mut engine);
    assert_eq!(work.all(), host.all());
}

/// A name that comes or goes, or a mode that is set again, is a change of the node, not of its bytes.
#[test]
fn a_touched_node_gets_its_new_name_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let work = Mem::default();
    let mut engine = engine(&work, dir.path());
    work.make(b"a", &file(b"one"));
    settle(&mut engine, 0);
    let mode = fs::metadata(dir.path().join("a")).unwrap().permissions();
    std::thread::sleep(std::time::Duration::from_millis(10));
    fs::set_permissions(dir.path().join("a"), mode).unwrap();
    // Comes before the other one.
    User::link(&work, b"a", b"0");
    settle(&mut engine, 0);
    assert_eq!(fs::metadata(dir.path().join("0")).unwrap().nlink(), 2);
}

#[test]
fn links_that_are_made_anew_are_links_again() {
    let dir = tempfile::tempdir().unwrap();
    let work = Mem::default();
    let mut engine = engine(&work, dir.path());
    work.make(b"a", &file(b"one"));
    work.make(b"c", &file(b"one"));
    User::link(&work, b"a", b"b");
    settle(&mut engine, 0);
    // A new pair in the place of the old one, with the same bytes.
    renew(dir.path(), "a");
    fs::remove_file(dir.path().join("b")).unwrap();
    fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
    look(&mut engine);
    let names = |work: &Mem| work.state().names.clone();
    assert_eq!(names(&work)[&b"a"[..]], names(&work)[&b"b"[..]]);
    // And one that had the same bytes all along.
    fs::remove_file(dir.path().join("c")).unwrap();
    fs::hard_link(dir.path().join("a"), dir.path().join("c")).unwrap();
    look(&mut engine);
    assert_eq!(nodes(&work), 1);
    assert_eq!(fs::metadata(dir.path().join("c")).unwrap().nlink(), 3);
}

/// The new name was agreed on with the mode of the host, and so was the old one, before the workspace had it.
#[test]
fn a_mode_that_changed_while_a_name_was_added_goes_to_the_other_side() {
    let dir = tempfile::tempdir().unwrap();
    let (work, host) = (Mem::default(), Host(dir.path().to_path_buf()));
    let mut engine = engine(&work, dir.path());
    work.make(b"z", &file(b"one"));
    settle(&mut engine, 0);
    host.chmod(b"z", 0o700);
    User::link(&work, b"z", b"a");
    look(&mut engine);
    look(&mut engine);
    assert_eq!(work.all(), host.all());
    assert_eq!(work.all()[&b"z"[..]], Shown::File(b"one".to_vec(), 0o700));
}

/// The first name that went made a changed node of the other one, whose directory was then not empty, was taken for a new
/// one, and came back on the side where somebody was just removing it.
#[test]
fn a_tree_with_links_that_is_removed_does_not_come_back() {
    for side in [Side::Work, Side::Host] {
        let dir = tempfile::tempdir().unwrap();
        let (work, host) = (Mem::default(), Host(dir.path().to_path_buf()));
        let mut engine = engine(&work, dir.path());
        for place in [&b"d"[..], b"d/deps", b"d/deps/deep"] {
            work.make(place, &Shown::Dir(0o755));
        }
        work.make(b"d/deps/deep/a", &file(b"one"));
        User::link(&work, b"d/deps/deep/a", b"d/z");
        settle(&mut engine, 0);
        std::thread::sleep(std::time::Duration::from_millis(30));
        match side {
            Side::Work => work.remove_all(b"d"),
            Side::Host => host.remove_all(b"d"),
        }
        engine.look_at_all(Side::Host);
        let towards = |engine: &Engine| match side {
            Side::Work => engine.stats().to_work,
            Side::Host => engine.stats().to_host,
        };
        let before = towards(&engine);
        settle(&mut engine, 0);
        assert_eq!((work.all(), host.all()), Default::default());
        assert_eq!(towards(&engine), before, "nothing was done to the side that had removed it");
    }
}

/// What was changed in a directory that the other side removed keeps the directory.
#[test]
fn a_change_in_a_directory_that_is_removed_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let (work, host) = (Mem::default(), Host(dir.path().to_path_buf()));
    let mut engine = engine(&work, dir.path());
    for place in [&b"d"[..], b"d/e", b"d/e/f"] {
        work.make(place, &Shown::Dir(0o755));
    }
    work.make(b"d/e/f/a", &file(b"one"));
    work.make(b"d/b", &file(b"two"));
    settle(&mut engine, 0);
    host.remove_all(b"d");
    work.rewrite(b"d/e/f/a", b"other");
    look(&mut engine);
    let left: Vec<Vec<u8>> = host.all().into_keys().collect();
    assert_eq!(left, [&b"d"[..], b"d/e", b"d/e/f", b"d/e/f/a"]);
    assert_eq!(work.all(), host.all());
}
