//! What fails half-way, and what others do to the same names meanwhile.

use super::*;
use crate::vfs::SetXattr;

fn with_quota(bytes: u64) -> Files {
    let store = Arc::new(Store::open(&Location::Memory, Path::new(POINT)).unwrap());
    let options = Options { max_bytes: Some(bytes), ..Options::default() };
    Files::new(Vfs::open(store, options).unwrap(), Path::new(POINT))
}

/// With `force` there was an error all the same, and what others had removed was counted.
#[test]
fn what_others_remove_first_is_nothing_to_complain_of() {
    let files = files();
    let meanwhile = || files.rm(&path("a"), true, true, &|| false).map_or(true, |_| false);
    put(&files, "a/b/one", b"1");
    put(&files, "a/two", b"2");
    assert_eq!(files.rm(&path("a"), true, true, &meanwhile).unwrap(), 0);
    put(&files, "a/two", b"2");
    assert_eq!(code(files.rm(&path("a"), true, false, &meanwhile)), ("ENOENT", Applied::No));
}

/// It was refused, as what cannot be replaced is.
#[test]
fn a_copy_fills_and_replaces_what_others_make_meanwhile() {
    let files = files();
    put(&files, "from/name", b"copied");
    let meanwhile = || {
        if files.lstat(&path("to/name")).is_err() {
            put(&files, "to/name", b"of others");
            put(&files, "to/more", b"of others");
        }
        false
    };
    files.copy(&path("from"), &path("to"), true, true, &meanwhile).unwrap();
    assert_eq!((get(&files, "to/name"), get(&files, "to/more")), (b"copied".to_vec(), b"of others".to_vec()));
    files.rm(&path("to"), true, false, &|| false).unwrap();
    assert_eq!(code(files.copy(&path("from/name"), &path("to/name"), false, true, &|| false)).0, "ENOENT");
    files.mkdir(&path("to"), 0o755, false).unwrap();
    let kept = files.copy(&path("from/name"), &path("to/name"), false, false, &meanwhile);
    assert_eq!(code(kept), ("EEXIST", Applied::No));
    assert_eq!(get(&files, "to/name"), b"of others");
    let removed = || files.rm(&path("to/name"), false, true, &|| false).map_or(true, |_| false);
    files.copy(&path("from/name"), &path("to/name"), false, true, &removed).unwrap();
    assert_eq!(get(&files, "to/name"), b"copied");
}

/// Nothing had been changed, it was said.
#[test]
fn what_fails_after_a_change_says_that_there_was_one() {
    let files = with_quota(1 << 20);
    put(&files, "from", b"new");
    files.setxattr(&path("from"), b"user.large", &[7; 60_000], SetXattr::Any, true).unwrap();
    put(&files, "to", b"old");
    put(&files, "filler", &vec![1; (1 << 20) - 100_000]);
    assert_eq!(
        code(files.copy(&path("from"), &path("to"), false, true, &|| false)),
        ("ENOSPC", Applied::Yes)
    );
    assert_eq!(get(&files, "to"), b"new");
    let appended = files.append(&path("appended"), &[1; 100_000], Some(0o644));
    assert_eq!(code(appended), ("ENOSPC", Applied::Yes));
    assert_eq!(files.stat(&path("appended")).unwrap().size, 0);
    assert_eq!(code(files.append(&path("appended"), &[1; 100_000], None)), ("ENOSPC", Applied::No));
    let query = WriteQuery { make_dirs: true, ..WriteQuery::default() };
    let long = format!("deep/below/{}", "n".repeat(300));
    assert_eq!(code(files.write_file(&path(&long), query)), ("ENAMETOOLONG", Applied::Yes));
    assert!(files.stat(&path("deep/below")).is_ok());
}

/// What was in it was copied before that was seen.
#[test]
fn no_directory_is_copied_below_itself_through_dots() {
    let files = files();
    put(&files, "a/b/c/file", b"1");
    put(&files, "a/top", b"2");
    let copied = files.copy(&path("a"), &path("a/b/c/.."), true, true, &|| false);
    assert_eq!(code(copied), ("EINVAL", Applied::No));
    assert!(files.stat(&path("a/b/top")).is_err());
}

/// A file that could not be read was passed over without a word.
#[test]
fn a_search_says_which_file_it_could_not_read() {
    let store = Arc::new(Store::open(&Location::Memory, Path::new(POINT)).unwrap());
    let files = Files::new(Vfs::open(Arc::clone(&store), Options::default()).unwrap(), Path::new(POINT));
    put(&files, "bad", &b"a line\n".repeat(30_000));
    put(&files, "good", b"a line\n");
    files.vfs.shutdown().unwrap();
    store.damage("UPDATE chunk_data SET data = x'00'");
    let files = Files::new(Vfs::open(store, Options::default()).unwrap(), Path::new(POINT));
    let query = GrepQuery { pattern: "line".to_owned(), ..GrepQuery::default() };
    let mut grep = files.grep(query).unwrap();
    let failure = grep.next(1000, &|| false).err().unwrap();
    assert_eq!((failure.code, failure.path), ("EIO", path("bad")));
    let (lines, end) = grep.next(1000, &|| false).unwrap();
    assert_eq!((lines.len(), &lines[0].path[..], end), (1, &path("good")[..], true));
}

/// What had been found was lost with it, and the search never came past it.
#[test]
fn a_search_goes_on_after_a_directory_that_cannot_be_read() {
    let store = Arc::new(Store::open(&Location::Memory, Path::new(POINT)).unwrap());
    let files = Files::new(Vfs::open(Arc::clone(&store), Options::default()).unwrap(), Path::new(POINT));
    for name in ["a", "bad/lost", "c/d", "e"] {
        put(&files, name, b"a line\n");
    }
    let bad = files.stat(&path("bad")).unwrap().ino;
    files.vfs.shutdown().unwrap();
    store.damage(&format!("UPDATE dirent SET cookie = -1 WHERE parent = {bad}"));
    let files = Files::new(Vfs::open(store, Options::default()).unwrap(), Path::new(POINT));
    let (mut paths, mut failures) = (Vec::new(), Vec::new());
    let mut find = files.find(FindQuery::default()).unwrap();
    loop {
        match find.next(1000, &|| false) {
            Ok((entries, end)) => {
                paths.extend(entries.into_iter().map(|entry| entry.path));
                if end {
                    break;
                }
            }
            Err(failure) => failures.push((failure.code, failure.path)),
        }
        assert!(failures.len() < 2);
    }
    let told = [
        path("").split_last().unwrap().1.to_vec(),
        path("a"),
        path("bad"),
        path("c"),
        path("c/d"),
        path("e"),
    ];
    paths.sort();
    assert_eq!((paths, &failures), (told.to_vec(), &vec![("EIO", path("bad"))]));
    let mut grep = files.grep(GrepQuery { pattern: "line".to_owned(), ..GrepQuery::default() }).unwrap();
    let found = |lines: Vec<Line>| lines.iter().map(|line| line.path.to_vec()).collect::<Vec<_>>();
    let (first, _) = grep.next(1000, &|| false).unwrap();
    let failure = grep.next(1000, &|| false).err().unwrap();
    let (rest, end) = grep.next(1000, &|| false).unwrap();
    assert_eq!((failure.code, failure.path, end), ("EIO", path("bad"), true));
    assert_eq!([found(first), found(rest)], [vec![path("a")], vec![path("c/d"), path("e")]]);
}
