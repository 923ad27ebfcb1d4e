//! Names, links, moves and listings.

use super::*;
use std::sync::Barrier;

fn rename(fs: &Fixture, from: (Ino, &str), to: (Ino, &str), mode: RenameMode) -> FsResult<()> {
    fs.vfs.rename(ME, (from.0, from.1.as_bytes()), (to.0, to.1.as_bytes()), mode)
}

fn at(fs: &Fixture, path: &str) -> FsResult<Attr> {
    fs.vfs.resolve(path.as_bytes())
}

#[test]
fn names_are_refused_that_cannot_be() {
    let fs = Fixture::new();
    let long = "n".repeat(256);
    assert!(matches!(fs.make(ROOT, &long, Kind::File), Err(FsError::NameTooLong)));
    assert!(fs.make(ROOT, &long[1..], Kind::File).is_ok());
    assert!(matches!(fs.make(ROOT, &long[1..], Kind::File), Err(FsError::Exists)));
    let file = at(&fs, &long[1..]).unwrap().ino;
    assert!(matches!(fs.make(file, "x", Kind::File), Err(FsError::NotDir)));
}

#[test]
fn hard_links_are_one_node() {
    let mut fs = Fixture::new();
    let dir = fs.dir(ROOT, "d").ino;
    let file = fs.file(ROOT, "a").ino;
    fs.vfs.link(ME, file, dir, b"b").unwrap();
    assert!(matches!(fs.vfs.link(ME, dir, ROOT, b"c"), Err(FsError::NotPermitted)));
    fs.vfs.write(ME, file, 0, b"one", false).unwrap();
    fs.reopen();
    let other = at(&fs, "d/b").unwrap();
    assert_eq!((other.ino, other.nlink), (file, 2));
    assert_eq!(fs.read(other.ino), b"one");
    fs.vfs.unlink(ME, ROOT, b"a").unwrap();
    assert_eq!(at(&fs, "d/b").unwrap().nlink, 1);
    assert_eq!(fs.vfs.path_of(file).unwrap().unwrap(), b"d/b");
    fs.check();
}

#[test]
fn directories_count_their_children() {
    let fs = Fixture::new();
    let a = fs.dir(ROOT, "a").ino;
    fs.dir(a, "b");
    fs.file(a, "f");
    assert_eq!(at(&fs, "a").unwrap().nlink, 3);
    assert_eq!(at(&fs, "").unwrap().nlink, 3);
    assert!(matches!(fs.vfs.rmdir(ME, ROOT, b"a"), Err(FsError::NotEmpty)));
    assert!(matches!(fs.vfs.rmdir(ME, a, b"f"), Err(FsError::NotDir)));
    assert!(matches!(fs.vfs.unlink(ME, a, b"b"), Err(FsError::IsDir)));
    fs.vfs.rmdir(ME, a, b"b").unwrap();
    fs.vfs.unlink(ME, a, b"f").unwrap();
    fs.vfs.rmdir(ME, ROOT, b"a").unwrap();
    assert_eq!(at(&fs, "").unwrap().nlink, 2);
    assert!(matches!(fs.make(a, "late", Kind::File), Err(FsError::NotFound | FsError::Stale)));
    fs.check();
}

#[test]
fn renames_follow_the_table() {
    let fs = Fixture::new();
    let (d, e) = (fs.dir(ROOT, "d").ino, fs.dir(ROOT, "e").ino);
    let f = fs.file(d, "f").ino;
    let g = fs.file(e, "g").ino;
    let replace = RenameMode::Replace;
    assert!(matches!(rename(&fs, (d, "f"), (e, "g"), RenameMode::NoReplace), Err(FsError::Exists)));
    assert!(matches!(rename(&fs, (d, "f"), (e, "h"), RenameMode::Exchange), Err(FsError::NotFound)));
    assert!(matches!(rename(&fs, (d, "f"), (ROOT, "e"), replace), Err(FsError::IsDir)));
    assert!(matches!(rename(&fs, (ROOT, "d"), (e, "g"), replace), Err(FsError::NotDir)));
    assert!(matches!(rename(&fs, (ROOT, "d"), (ROOT, "e"), replace), Err(FsError::NotEmpty)));
    assert!(matches!(rename(&fs, (ROOT, "d"), (d, "x"), replace), Err(FsError::Invalid(_))));
    assert!(matches!(rename(&fs, (d, "f"), (ROOT, "d"), replace), Err(FsError::NotEmpty | FsError::IsDir)));
    rename(&fs, (d, "f"), (e, "g"), replace).unwrap();
    assert_eq!(at(&fs, "e/g").unwrap().ino, f);
    assert!(matches!(fs.vfs.getattr(g), Err(FsError::Stale)));
    rename(&fs, (ROOT, "d"), (e, "d"), replace).unwrap();
    assert_eq!((at(&fs, "e").unwrap().nlink, at(&fs, "").unwrap().nlink), (3, 3));
    rename(&fs, (e, "d"), (e, "g"), RenameMode::Exchange).unwrap();
    assert_eq!((at(&fs, "e/g").unwrap().ino, at(&fs, "e/d").unwrap().ino), (d, f));
    rename(&fs, (e, "g"), (ROOT, "d"), RenameMode::NoReplace).unwrap();
    fs.vfs.link(ME, f, e, b"twin").unwrap();
    rename(&fs, (e, "d"), (e, "twin"), replace).unwrap();
    assert_eq!(fs.names(e), [".", "..", "d", "twin"]);
    fs.check();
}

#[test]
fn a_rename_can_leave_a_whiteout() {
    let fs = Fixture::new();
    let d = fs.dir(ROOT, "d").ino;
    let moved = fs.file(d, "f").ino;
    let replaced = fs.file(ROOT, "g").ino;
    let (refusing, replacing) =
        (RenameMode::Whiteout { replace: false }, RenameMode::Whiteout { replace: true });
    assert!(matches!(rename(&fs, (d, "f"), (ROOT, "g"), refusing), Err(FsError::Exists)));
    assert!(matches!(rename(&fs, (d, "none"), (ROOT, "g"), replacing), Err(FsError::NotFound)));
    rename(&fs, (d, "f"), (ROOT, "g"), replacing).unwrap();
    let whiteout = at(&fs, "d/f").unwrap();
    assert_eq!((whiteout.kind, whiteout.rdev, whiteout.mode, whiteout.nlink), (Kind::CharDevice, 0, 0, 1));
    assert_eq!(at(&fs, "g").unwrap().ino, moved);
    assert!(matches!(fs.vfs.getattr(replaced), Err(FsError::Stale)));
    rename(&fs, (ROOT, "d"), (ROOT, "e"), refusing).unwrap();
    let mut names = fs.names(ROOT);
    names.sort();
    assert_eq!(
        (&names[..], at(&fs, "").unwrap().nlink),
        (&[".", "..", "d", "e", "g"].map(String::from)[..], 3)
    );
    fs.vfs.unlink(ME, ROOT, b"d").unwrap();
    fs.check();
}

#[test]
fn exchanging_a_directory_with_a_file_across_directories_moves_the_links() {
    let fs = Fixture::new();
    let (a, b) = (fs.dir(ROOT, "a").ino, fs.dir(ROOT, "b").ino);
    fs.dir(a, "x");
    fs.file(b, "y");
    rename(&fs, (a, "x"), (b, "y"), RenameMode::Exchange).unwrap();
    assert_eq!((at(&fs, "a").unwrap().nlink, at(&fs, "b").unwrap().nlink), (2, 3));
    let moved = at(&fs, "b/y").unwrap().ino;
    let mut parents = Vec::new();
    fs.vfs
        .readdir(moved, 0, &mut |entry| {
            parents.push(entry.ino);
            true
        })
        .unwrap();
    assert_eq!(parents, [moved, b]);
    fs.check();
}

#[test]
fn a_listing_goes_on_where_it_stopped_whatever_is_removed() {
    let fs = Fixture::new();
    for number in 0..2000 {
        fs.file(ROOT, &format!("{number}"));
    }
    let (mut cookie, mut seen) = (0, 0);
    loop {
        let mut page = Vec::new();
        fs.vfs
            .readdir(ROOT, cookie, &mut |entry| {
                page.push(entry.clone());
                page.len() < 7
            })
            .unwrap();
        let Some(last) = page.last() else { break };
        cookie = last.cookie;
        for entry in page.iter().filter(|entry| entry.cookie > 2) {
            fs.vfs.unlink(ME, ROOT, &entry.name).unwrap();
            seen += 1;
        }
    }
    assert_eq!(seen, 2000);
    assert_eq!(fs.names(ROOT), [".", ".."]);
}

#[test]
fn a_new_directory_takes_the_group_of_a_setgid_parent() {
    let fs = Fixture::new();
    let dir = fs.dir(ROOT, "shared").ino;
    let set = SetAttr { mode: Some(0o2775), gid: Some(77), ..SetAttr::default() };
    fs.vfs.setattr(ME, dir, &set).unwrap();
    let (file, sub) = (fs.file(dir, "f"), fs.dir(dir, "s"));
    assert_eq!((file.gid, file.mode & 0o2000), (77, 0));
    assert_eq!((sub.gid, sub.mode & 0o2000), (77, 0o2000));
}

#[test]
fn listing_with_attributes_pins_for_the_kernel_what_it_accepted() {
    let mut fs = Fixture::new();
    for number in 0..10 {
        fs.file(ROOT, &format!("{number}"));
    }
    fs.reopen();
    let mut accepted = 0;
    fs.vfs
        .readdir_plus(KERNEL, ROOT, 0, &mut |entry, attr| {
            assert_eq!(entry.ino, attr.ino);
            accepted += 1;
            accepted <= 6
        })
        .unwrap();
    assert_eq!(fs.vfs.stats().pinned_nodes, 4);
}

/// The store's row may be of after a moment at which memory was looked at in vain.
#[test]
fn a_node_that_has_lost_its_name_is_found_by_who_looked_for_it_before() {
    let fs = Fixture::new();
    for _ in 0..500 {
        let ino = fs.file(ROOT, "a").ino;
        fs.vfs.hold(ino).unwrap();
        fs.vfs.commit_now().unwrap();
        while fs.vfs.nodes.get(ino).is_some() {
            fs.vfs.nodes.evict(usize::MAX);
        }
        let all = Barrier::new(7);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    all.wait();
                    fs.vfs.getattr(ino).unwrap();
                });
            }
            all.wait();
            fs.vfs.unlink(ME, ROOT, b"a").unwrap();
            fs.vfs.commit_now().unwrap();
        });
        fs.vfs.release(ino);
    }
}

/// The kernel was answered that it is there, and holds it, as an open file that was removed.
#[test]
fn a_node_that_is_removed_as_soon_as_it_is_made_is_there_for_the_kernel() {
    let fs = Fixture::new();
    let new = NewNode { kind: Kind::File, mode: 0o644, umask: 0, rdev: 0 };
    for _ in 0..5000 {
        let all = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                all.wait();
                while fs.vfs.unlink(ME, ROOT, b"a").is_err() {
                    std::hint::spin_loop();
                }
            });
            all.wait();
            let ino = fs.vfs.create(KERNEL, ROOT, b"a", new).unwrap().ino;
            fs.vfs.getattr(ino).unwrap();
            fs.vfs.forget(ino, 1);
        });
    }
}
