//! Over a store with rows that no wsd has written: an error, and soon.

use super::*;

impl Fixture {
    /// As after a restart, with rows that somebody has changed.
    fn damaged(&mut self, sql: &str) {
        self.vfs.sync().unwrap();
        self.vfs.store.damage(sql);
        self.reopen();
    }
}

fn refused<T: std::fmt::Debug>(result: FsResult<T>, word: &str) {
    assert!(matches!(&result, Err(FsError::Io(why)) if why.contains(word)), "{word}: {result:?}");
}

fn rename(fs: &Fixture, from: (Ino, &str), to: (Ino, &str)) -> FsResult<()> {
    fs.vfs.rename(ME, (from.0, from.1.as_bytes()), (to.0, to.1.as_bytes()), RenameMode::Replace)
}

#[test]
fn a_symlink_of_a_terabyte_is_an_error() {
    let mut fs = Fixture::new();
    let link = fs.vfs.symlink(ME, ROOT, b"link", b"target").unwrap().ino;
    fs.damaged("UPDATE inode SET size = 1 << 40 WHERE kind = 3");
    refused(fs.vfs.readlink(link), "1099511627776");
}

/// Its zeros were all put into one chunk, or there was no memory for them.
#[test]
fn a_small_file_that_was_made_long_is_copied_as_what_it_has() {
    let mut fs = Fixture::new();
    let (source, copy) = (fs.file(ROOT, "source").ino, fs.file(ROOT, "copy").ino);
    fs.vfs.write(ME, source, 0, b"short", false).unwrap();
    fs.vfs.setattr(ME, source, &SetAttr { size: Some(8 << 40), ..SetAttr::default() }).unwrap();
    fs.vfs.sync().unwrap();
    fs.reopen();
    fs.vfs.replace_content(ME, copy, source, None).unwrap();
    fs.check();
    fs.reopen();
    assert_eq!(fs.vfs.getattr(copy).unwrap().size, 8 << 40);
    assert_eq!(fs.vfs.read(copy, 0, 8).unwrap(), b"short\0\0\0");
}

/// A move between directories went up for ever, and no other could be made meanwhile.
#[test]
fn directories_in_a_circle_are_an_error() {
    let mut fs = Fixture::new();
    let (a, other) = (fs.dir(ROOT, "a").ino, fs.dir(ROOT, "other").ino);
    let b = fs.dir(a, "b").ino;
    fs.file(b, "f");
    fs.damaged(&format!("UPDATE inode SET parent = {b} WHERE ino = {a}"));
    refused(rename(&fs, (b, "f"), (other, "f")), "circle");
    refused(rename(&fs, (other, "f"), (b, "f")), "circle");
    fs.damaged(&format!("UPDATE dirent SET parent = {b} WHERE ino = {a}"));
    refused(fs.vfs.path_of(b), "circle");
    // Nobody can be told where this was, but it is done.
    let mode = SetAttr { mode: Some(0o700), ..SetAttr::default() };
    assert_eq!(fs.vfs.setattr(ME, b, &mode).unwrap().mode, 0o700);
    fs.damaged(&format!("UPDATE inode SET parent = {other} WHERE ino = {other}"));
    refused(rename(&fs, (other, "f"), (ROOT, "f")), "circle");
}

#[test]
fn a_directory_with_a_place_that_no_entry_has_is_an_error() {
    let mut fs = Fixture::new();
    let file = fs.file(ROOT, "f").ino;
    fs.damaged("UPDATE dirent SET cookie = -1");
    refused(fs.vfs.readdir(ROOT, 0, &mut |_| true), "cookie -1");
    refused(fs.vfs.lookup(ME, ROOT, b"f"), "cookie -1");
    assert!(fs.vfs.getattr(file).is_ok());
}

/// What was made was not to be seen in listings, or took the place of something else.
#[test]
fn a_new_name_comes_after_those_that_are_there() {
    let mut fs = Fixture::new();
    let one = fs.file(ROOT, "one").ino;
    fs.damaged("UPDATE inode SET next_cookie = 0; UPDATE workspace SET next_ino = 1");
    assert!(fs.file(ROOT, "two").ino > one);
    assert_eq!(fs.names(ROOT), [".", "..", "one", "two"]);
    fs.check();
}

/// It was removed when the kernel had no use for it any more.
#[test]
fn what_has_a_name_but_no_links_is_an_error_and_stays() {
    let mut fs = Fixture::new();
    let dir = fs.dir(ROOT, "d").ino;
    let file = fs.file(dir, "f").ino;
    fs.damaged("UPDATE inode SET nlink = 0 WHERE ino > 1");
    for ino in [dir, file] {
        refused(fs.vfs.getattr(ino), "0 links");
    }
    refused(fs.vfs.lookup(KERNEL, ROOT, b"d"), "0 links");
    let _ = fs.vfs.readdir_plus(KERNEL, ROOT, 0, &mut |_, _| true);
    fs.vfs.forget(dir, 1);
    fs.damaged("UPDATE inode SET nlink = 1 + (kind = 2) WHERE ino > 1");
    assert_eq!(fs.names(dir), [".", "..", "f"]);
    fs.check();
}

/// The count went below nothing, or the directory was taken for one that is gone.
#[test]
fn a_directory_with_too_few_links_outlives_its_children() {
    let mut fs = Fixture::new();
    let dir = fs.dir(ROOT, "d").ino;
    for name in ["a", "b", "c", "e"] {
        fs.dir(dir, name);
    }
    fs.damaged(&format!("UPDATE inode SET nlink = 2 WHERE ino = {dir}"));
    fs.vfs.rmdir(ME, dir, b"a").unwrap();
    rename(&fs, (dir, "b"), (ROOT, "b")).unwrap();
    rename(&fs, (ROOT, "b"), (dir, "c")).unwrap();
    fs.vfs.rmdir(ME, dir, b"c").unwrap();
    fs.vfs.rmdir(ME, dir, b"e").unwrap();
    assert_eq!(fs.vfs.getattr(dir).unwrap().nlink, 2);
    fs.check();
}

/// Where it would be in the file was more than 64 bits can say.
#[test]
fn an_extent_that_no_file_reaches_is_an_error() {
    let mut fs = Fixture::new();
    let file = fs.file(ROOT, "f").ino;
    fs.vfs.write(ME, file, 0, &[7; 100_000], false).unwrap();
    for index in ["-1", "1 << 28", "1 << 60"] {
        fs.damaged(&format!("UPDATE extent SET idx = {index} WHERE idx <> 0"));
        refused(fs.vfs.seek(file, 65_536, Seek::Data), "extent");
        refused(fs.vfs.read(file, 0, 1), "extent");
    }
}
