//! The service over a workspace in memory, without a mount.

mod halfway;
mod slashes;

use super::*;
use crate::store::rows::Kind;
use crate::store::{Location, Store};
use crate::vfs::{ChangeKind, Options, RenameMode, Vfs};
use std::path::Path;

const POINT: &str = "/workspace";

fn files() -> Files {
    let store = Arc::new(Store::open(&Location::Memory, Path::new(POINT)).unwrap());
    Files::new(Vfs::open(store, Options::default()).unwrap(), Path::new(POINT))
}

fn path(below: &str) -> Vec<u8> {
    format!("{POINT}/{below}").into_bytes()
}

fn put(files: &Files, below: &str, bytes: &[u8]) {
    let query = WriteQuery { make_dirs: true, ..WriteQuery::default() };
    let mut sink = files.write_file(&path(below), query).unwrap();
    sink.write(bytes).unwrap();
    sink.done(false).unwrap();
}

fn get(files: &Files, below: &str) -> Vec<u8> {
    files.read(&path(below), 0, MAX_DATA).unwrap().0
}

fn code<T>(outcome: Outcome<T>) -> (&'static str, Applied) {
    outcome.err().map_or(("ok", Applied::Yes), |failure| (failure.code, failure.applied))
}

fn found(files: &Files, query: FindQuery) -> Vec<String> {
    let mut find = files.find(query).unwrap();
    let mut paths = Vec::new();
    loop {
        let (entries, end) = find.next(3, &|| false).unwrap();
        let text = |path: Vec<u8>| String::from_utf8(path[POINT.len()..].to_vec()).unwrap();
        paths.extend(entries.into_iter().map(|entry| text(entry.path)));
        if end {
            paths.sort();
            return paths;
        }
    }
}

#[test]
fn paths_carry_the_mount_point_and_never_lead_out() {
    let files = files();
    put(&files, "dir/file", b"x");
    let ino = files.stat(&path("dir/file")).unwrap().ino;
    for same in [
        "/workspace/dir/file",
        "//workspace//dir/./file",
        "dir/file",
        "/workspace/dir/../dir/file",
        "./dir/file",
    ] {
        assert_eq!(files.stat(same.as_bytes()).unwrap().ino, ino, "{same}");
    }
    for outside in ["/", "/etc/passwd", "/workspaces/dir/file", "..", "/workspace/../etc", "dir/../../x"] {
        assert_eq!(code(files.stat(outside.as_bytes())).0, "ENOENT", "{outside}");
    }
    assert_eq!(code(files.stat(&path("dir/file/x"))).0, "ENOTDIR");
    assert_eq!(code(files.stat(b"a\0b")).0, "EINVAL");
    assert_eq!(code(files.stat(&[b'a'; 5000])).0, "ENAMETOOLONG");
    assert_eq!(code(files.stat(&path(&"a".repeat(256)))).0, "ENAMETOOLONG");
}

#[test]
fn symlinks_are_followed_within_the_workspace() {
    let files = files();
    put(&files, "a/file", b"x");
    for (target, name) in [
        ("file", "a/near"),
        ("/workspace/a/file", "far"),
        ("../a", "a/up"),
        ("/etc/passwd", "out"),
        ("../../etc/passwd", "out2"),
        ("loop2", "loop1"),
        ("loop1", "loop2"),
    ] {
        files.symlink(target.as_bytes(), &path(name)).unwrap();
    }
    let ino = files.stat(&path("a/file")).unwrap().ino;
    for link in ["a/near", "far", "a/up/near", "a/up/up/file"] {
        assert_eq!(files.stat(&path(link)).unwrap().ino, ino, "{link}");
        assert_eq!(files.readlink(&path("far")).unwrap(), b"/workspace/a/file");
    }
    assert_eq!(files.lstat(&path("far")).unwrap().kind, Kind::Symlink);
    assert_eq!(code(files.read(&path("out"), 0, 9)).0, "ENOENT");
    assert_eq!(code(files.read(&path("out2"), 0, 9)).0, "ENOENT");
    assert_eq!(code(files.stat(&path("loop1"))).0, "ELOOP");
    assert_eq!(code(files.write_file(&path("out"), WriteQuery::default())).0, "ENOENT");
    assert_eq!(files.rm(&path("far"), true, false, &|| false).unwrap(), 1);
    assert_eq!(get(&files, "a/file"), b"x", "the link went, not what it leads to");
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let files = files();
    let mut sink =
        files.write_file(&path("new"), WriteQuery { mode: 0o600, ..WriteQuery::default() }).unwrap();
    sink.write(b"one ").unwrap();
    assert_eq!(code(files.stat(&path("new"))).0, "ENOENT");
    sink.write(b"two").unwrap();
    let attr = sink.done(true).unwrap();
    assert_eq!((attr.mode, attr.size, attr.nlink), (0o600, 7, 1));
    files.link(&path("new"), &path("other")).unwrap();
    files.chmod(&path("new"), 0o4711).unwrap();
    let mut sink = files.write_file(&path("new"), WriteQuery::default()).unwrap();
    sink.write(&[7; 300_000]).unwrap();
    assert_eq!(get(&files, "new"), b"one two", "the old bytes until the end");
    let replaced = sink.done(false).unwrap();
    assert_eq!((replaced.ino, replaced.nlink, replaced.mode), (attr.ino, 2, 0o4711), "it stays what it is");
    assert_eq!(get(&files, "other"), [7; 300_000]);
    drop(files.write_file(&path("given-up"), WriteQuery::default()).unwrap());
    assert_eq!(code(files.stat(&path("given-up"))).0, "ENOENT");
    let require = WriteQuery { if_exists: IfExists::Require, ..WriteQuery::default() };
    let fail = WriteQuery { if_exists: IfExists::Fail, ..WriteQuery::default() };
    assert_eq!(code(files.write_file(&path("absent"), require)), ("ENOENT", Applied::No));
    assert_eq!(code(files.write_file(&path("new"), fail)), ("EEXIST", Applied::No));
    let (mut one, mut two) =
        (files.write_file(&path("race"), fail).unwrap(), files.write_file(&path("race"), fail).unwrap());
    assert!(one.done(false).is_ok());
    assert_eq!(code(two.done(false)).0, "EEXIST", "the second of two that both had to make it");
    assert_eq!(code(files.write_file(&path("no/such/dir"), WriteQuery::default())).0, "ENOENT");
    assert_eq!(files.vfs.statfs().unwrap().nodes, 3, "what was given up is gone");
}

/// The second `done` made a file of the bytes that had come, with a hole in the place of the others.
#[test]
fn a_stream_that_failed_stays_one_however_often_it_is_ended() {
    let files = files();
    let mut sink = files.write_file(&path("file"), WriteQuery::default()).unwrap();
    sink.write(b"begin").unwrap();
    assert_eq!(code(sink.write(&vec![1; MAX_DATA + 1])).0, "EPROTOCOL");
    for _ in 0..2 {
        assert_eq!(code(sink.done(false)), ("EPROTOCOL", Applied::No));
        assert_eq!(code(sink.write(b"end")).0, "EPROTOCOL");
    }
    assert_eq!(code(files.stat(&path("file"))).0, "ENOENT");
}

/// It made a directory in each one that it had made, for as long as somebody waited.
#[test]
fn a_directory_is_not_copied_below_itself_whatever_way_leads_there() {
    let files = files();
    put(&files, "a/b/file", b"x");
    files.symlink(b"a/b", &path("link")).unwrap();
    for to in ["a/b/new", "a/b/../new", "link/new", "link/../new"] {
        let copied = files.copy(&path("a"), &path(to), true, true, &|| false);
        assert_eq!(code(copied), ("EINVAL", Applied::No), "{to}");
    }
    assert_eq!(code(files.copy(b".", &path("link/new"), true, true, &|| false)).0, "EINVAL");
    assert_eq!(files.copy(&path("a/b"), &path("a/new"), true, true, &|| false).unwrap().files, 1);
    // Moved there while it is being copied: the second look is at the directory that was made.
    let looks = std::cell::Cell::new(0);
    let moved = || {
        looks.set(looks.get() + 1);
        if looks.get() == 2 {
            files.rename(&path("target"), &path("a/b/target"), RenameMode::Replace).unwrap();
        }
        looks.get() > 100
    };
    let copied = files.copy(&path("a"), &path("target"), true, true, &moved);
    assert_eq!(code(copied), ("EINVAL", Applied::Yes));
}

#[test]
fn bytes_come_in_portions_and_the_file_lives_meanwhile() {
    let files = files();
    let bytes: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    put(&files, "big", &bytes[..MAX_DATA]);
    let (attr, mut source) = files.read_file(&path("big"), 100, 2_500_000).unwrap();
    assert_eq!(attr.size, MAX_DATA as u64);
    files.rm(&path("big"), false, false, &|| false).unwrap();
    let mut read = Vec::new();
    loop {
        let (portion, end) = source.next(usize::MAX).unwrap();
        assert!(portion.len() <= stream::MAX_PORTION);
        read.extend(portion);
        if end {
            break;
        }
    }
    assert!(read == bytes[100..2_500_100]);
    drop(source);
    assert_eq!(files.vfs.statfs().unwrap().nodes, 1);
    assert_eq!(code(files.write(&path(""), 0, b"x")).0, "EISDIR");
    assert_eq!(code(files.write(&path("absent"), 0, &vec![0; MAX_DATA + 1])).0, "EPROTOCOL");
}

#[test]
fn an_edit_is_exact() {
    let files = files();
    put(&files, "text", b"one two one");
    assert_eq!(code(files.edit(&path("text"), b"one", b"1", false)), ("EMATCHES", Applied::No));
    let failure = files.edit(&path("text"), b"one", b"1", false).unwrap_err();
    assert!(failure.message.contains("2 times"), "{failure}");
    assert_eq!(code(files.edit(&path("text"), b"three", b"3", true)).0, "EMATCHES");
    assert_eq!(code(files.edit(&path("text"), b"", b"3", true)).0, "EPROTOCOL");
    assert_eq!(files.edit(&path("text"), b"two", b"2\n", false).unwrap().replaced, 1);
    assert_eq!(files.edit(&path("text"), b"one", b"", true).unwrap().replaced, 2);
    assert_eq!(get(&files, "text"), b" 2\n ");
}

#[test]
fn edits_at_once_are_all_made() {
    let files = files();
    put(&files, "count", b"<>");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    while files.edit(&path("count"), b"<", b"<x", false).is_err() {}
                }
            });
        }
    });
    assert_eq!(get(&files, "count").len(), 102);
}

#[test]
fn appends_at_once_do_not_overlap() {
    let files = files();
    std::thread::scope(|scope| {
        for writer in 0..4u8 {
            let files = &files;
            scope.spawn(move || {
                for _ in 0..200 {
                    files.append(&path("log"), &[b'a' + writer; 33], Some(0o644)).unwrap();
                }
            });
        }
    });
    let bytes = get(&files, "log");
    assert_eq!(bytes.len(), 4 * 200 * 33);
    assert!(bytes.chunks(33).all(|record| record.iter().all(|byte| *byte == record[0])));
}

#[test]
fn trees_are_made_copied_moved_and_removed() {
    let files = files();
    files.mkdir(&path("a/b/c"), 0o750, true).unwrap();
    files.mkdir(&path("a/b/c"), 0o750, true).unwrap();
    assert_eq!(code(files.mkdir(&path("a"), 0o755, false)).0, "EEXIST");
    assert_eq!(code(files.mkdir(&path("x/y"), 0o755, false)).0, "ENOENT");
    put(&files, "a/file", &[1; 200_000]);
    put(&files, "a/b/small", b"s");
    assert_eq!(code(files.mkdir(&path("a/file/d"), 0o755, true)).0, "ENOTDIR");
    files.symlink(b"file", &path("a/link")).unwrap();
    files.setxattr(&path("a/file"), b"user.k", b"v", crate::vfs::SetXattr::Any, true).unwrap();
    files.chmod(&path("a/file"), 0o4755).unwrap();
    assert_eq!(code(files.copy(&path("a"), &path("z"), false, true, &|| false)).0, "EISDIR");
    assert_eq!(code(files.copy(&path("a"), &path("a/b/z"), true, true, &|| false)).0, "EINVAL");
    let copied = files.copy(&path("a"), &path("z"), true, true, &|| false).unwrap();
    assert_eq!(copied, Copied { files: 3, bytes: 200_005 });
    let (old, new) = (files.stat(&path("a/file")).unwrap(), files.stat(&path("z/file")).unwrap());
    assert_eq!((new.mode, new.size, new.mtime), (0o4755, old.size, old.mtime));
    assert_eq!(files.getxattr(&path("z/file"), b"user.k", true).unwrap(), b"v");
    assert_eq!(files.readlink(&path("z/link")).unwrap(), b"file");
    files.rename(&path("z"), &path("a/b/c"), RenameMode::Replace).unwrap();
    assert_eq!(get(&files, "a/b/c/b/small"), b"s");
    assert_eq!(code(files.rename(&path(""), &path("q"), RenameMode::Replace)).0, "EBUSY");
    assert_eq!(code(files.rm(&path("a"), false, false, &|| false)), ("EISDIR", Applied::No));
    assert_eq!(code(files.rm(&path("none"), true, false, &|| false)).0, "ENOENT");
    assert_eq!(files.rm(&path("none"), true, true, &|| false).unwrap(), 0);
    assert_eq!(code(files.rm(&path("a"), true, false, &|| true)), ("ECANCELED", Applied::No));
    let names = found(&files, FindQuery { path: path("a"), ..FindQuery::default() }).len() as u64;
    assert_eq!(files.rm(&path("a"), true, false, &|| false).unwrap(), names);
    assert_eq!(files.vfs.statfs().unwrap().nodes, 1);
}

#[test]
fn a_directory_comes_in_pages() {
    let files = files();
    for name in 0..25 {
        put(&files, &format!("d/{name:02}"), b"");
    }
    let (mut names, mut after) = (Vec::new(), 0);
    loop {
        let page = files.readdir(&path("d"), after, 7).unwrap();
        assert!(page.entries.len() <= 7);
        names.extend(page.entries.iter().map(|entry| String::from_utf8(entry.name.clone()).unwrap()));
        // What comes and goes meanwhile disturbs nothing.
        files.rm(&path("d/00"), false, true, &|| false).unwrap();
        after = page.next;
        if page.end {
            break;
        }
    }
    names.sort();
    assert_eq!(names, (0..25).map(|name| format!("{name:02}")).collect::<Vec<_>>());
    assert_eq!(code(files.readdir(&path("d/01"), 0, 7)).0, "ENOTDIR");
}

#[test]
fn find_knows_what_is_wanted_and_where_not_to_look() {
    let files = files();
    for name in ["src/a.rs", "src/deep/b.rs", "src/c.txt", "target/x.rs", ".git/y.rs", "node/z.rs", ".hide"] {
        put(&files, name, b"");
    }
    put(&files, ".gitignore", b"/target\n*.txt\n!src/deep/keep.txt\n");
    put(&files, "src/deep/.gitignore", b"b.*\n");
    let all = FindQuery { path: path(""), ..FindQuery::default() };
    assert_eq!(found(&files, all.clone()).len(), 15, "every name, the root itself, and the directories");
    let rust = FindQuery {
        globs: vec!["*.rs".into()],
        excludes: vec!["target/".into(), "node".into()],
        hidden: false,
        ..all.clone()
    };
    assert_eq!(found(&files, rust), ["/src/a.rs", "/src/deep/b.rs"]);
    let by_path = FindQuery { globs: vec!["src/**/*.rs".into(), "*/z.rs".into()], ..all.clone() };
    assert_eq!(found(&files, by_path), ["/node/z.rs", "/src/a.rs", "/src/deep/b.rs"]);
    let ignoring = FindQuery { gitignore: true, kinds: vec![Kind::File], ..all.clone() };
    let expected = ["/.gitignore", "/.hide", "/node/z.rs", "/src/a.rs", "/src/deep/.gitignore"];
    assert_eq!(found(&files, ignoring), expected);
    let shallow = FindQuery { max_depth: 1, kinds: vec![Kind::Dir], ..all.clone() };
    assert_eq!(found(&files, shallow), ["", "/.git", "/node", "/src", "/target"]);
    let file = FindQuery { path: path("src/a.rs"), ..FindQuery::default() };
    assert_eq!(found(&files, file), ["/src/a.rs"]);
    assert_eq!(code(files.find(FindQuery { globs: vec!["[".into()], ..all.clone() })).0, "EPROTOCOL");
    let mut find = files.find(all).unwrap();
    assert_eq!(code(find.next(10, &|| true)).0, "ECANCELED");
}

/// What was found there had the names of something else.
#[test]
fn find_goes_up_from_where_a_symlink_leads() {
    let files = files();
    put(&files, "a/b/file", b"x");
    put(&files, "file", b"y");
    files.symlink(b"a/b", &path("link")).unwrap();
    let below = |way: &str| found(&files, FindQuery { path: path(way), ..FindQuery::default() });
    assert_eq!(below("link/.."), ["/a", "/a/b", "/a/b/file"]);
    assert_eq!(below("link/../b/file"), ["/a/b/file"]);
    assert_eq!(below("a/../link/file"), ["/a/b/file"]);
    assert_eq!(below("link/file"), ["/link/file"]);
}

fn grepped(files: &Files, query: GrepQuery) -> Vec<(String, u64, String, bool)> {
    let mut grep = files.grep(query).unwrap();
    let mut lines = Vec::new();
    loop {
        let (portion, end) = grep.next(2, &|| false).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let line = |line: Line| (text(&line.path[POINT.len()..]), line.line, text(&line.text), line.context);
        lines.extend(portion.into_iter().map(line));
        if end {
            return lines;
        }
    }
}

#[test]
fn grep_finds_lines_with_what_is_around_them() {
    let files = files();
    put(&files, "a", b"one\ntwo\nthree\nTwo words\n");
    put(&files, "binary", b"two\0two\n");
    put(&files, "no-end", b"a two");
    let query = |pattern: &str| GrepQuery {
        files: FindQuery { path: path(""), ..FindQuery::default() },
        pattern: pattern.into(),
        ..GrepQuery::default()
    };
    let two = |line: u64, text: &str| ("/a".to_owned(), line, text.to_owned(), false);
    let end = ("/no-end".to_owned(), 1, "a two".to_owned(), false);
    assert_eq!(grepped(&files, query("two")), [two(2, "two\n"), end.clone()]);
    let any_case = GrepQuery { ignore_case: true, max_per_file: 1, ..query("^TWO") };
    assert_eq!(grepped(&files, any_case), [two(2, "two\n")]);
    let literal = GrepQuery { literal: true, ..query("t.o") };
    assert!(grepped(&files, literal).is_empty());
    let around = GrepQuery { before: 1, after: 1, ..query("three") };
    let shown: Vec<_> =
        grepped(&files, around).into_iter().map(|(_, line, _, context)| (line, context)).collect();
    assert_eq!(shown, [(2, true), (3, false), (4, true)]);
    let spanning = GrepQuery { multiline: true, ..query("one\ntwo") };
    assert_eq!(grepped(&files, spanning), [two(1, "one\ntwo\n")]);
    assert_eq!(code(files.grep(query("("))).0, "EPROTOCOL");
    let mut grep = files.grep(query("wo")).unwrap();
    let (lines, _) = grep.next(10, &|| false).unwrap();
    assert_eq!((lines[0].offset, &lines[0].spans[..]), (4, &[(1, 3)][..]));
}

#[test]
fn grep_goes_on_in_a_file_with_more_lines_than_fit() {
    let files = files();
    let line = |number: usize| format!("{number:07} {}\n", "match ".repeat(15));
    let text: String = (1..=120_000).map(line).collect();
    for portion in text.as_bytes().chunks(MAX_DATA) {
        files.append(&path("log"), portion, Some(0o644)).unwrap();
    }
    let query = GrepQuery {
        files: FindQuery { path: path("log"), ..FindQuery::default() },
        pattern: "match".into(),
        ..GrepQuery::default()
    };
    let mut grep = files.grep(query).unwrap();
    let mut next = 1;
    loop {
        let (lines, end) = grep.next(MAX_ENTRIES, &|| false).unwrap();
        for found in lines {
            assert_eq!(found.line, next);
            assert_eq!(found.text, line(next as usize).into_bytes());
            next += 1;
        }
        if end {
            break;
        }
    }
    assert_eq!(next, 120_001);
}

/// Through a symlink on the way nothing ever changed.
#[test]
fn a_watch_is_where_its_path_leads() {
    let files = files();
    put(&files, "real/sub/deep/file", b"x");
    files.symlink(b"real/sub", &path("link")).unwrap();
    files.symlink(format!("{POINT}/real").as_bytes(), &path("other")).unwrap();
    let ways = ["link/deep", "link/../sub", "other/sub", "other/sub/deep/..", "real", "", "not/../real/sub"];
    let watches = ways.map(|way| files.watch(&path(way), true, None).unwrap());
    files.append(&path("real/sub/deep/file"), b"y", None).unwrap();
    for (mut watch, way) in watches.into_iter().zip(ways) {
        let told = watch.poll(9).changes;
        let paths: Vec<_> = told.iter().map(|change| String::from_utf8_lossy(&change.path)).collect();
        assert!(
            !paths.is_empty() && paths.iter().all(|told| told == "/workspace/real/sub/deep/file"),
            "{way}"
        );
    }
    let mut new = files.watch(&path("link/new"), true, None).unwrap();
    put(&files, "real/sub/new", b"z");
    assert!(!new.poll(9).changes.is_empty());
    let mut link = files.watch(&path("link"), true, None).unwrap();
    files.rm(&path("link"), false, false, &|| false).unwrap();
    assert_eq!(link.poll(9).changes.len(), 1, "the last one is not followed");
}

#[test]
fn a_watch_tells_of_every_change_in_its_view_once() {
    let files = files();
    put(&files, "in/seen", b"1");
    let mut watch = files.watch(&path("in"), true, None).unwrap();
    let from = watch.cursor();
    put(&files, "in/new", b"2");
    put(&files, "out/new", b"3");
    files.rename(&path("in/new"), &path("out/moved"), RenameMode::Replace).unwrap();
    files.chmod(&path("in/seen"), 0o600).unwrap();
    files.append(&path("in/seen"), b"more", None).unwrap();
    files.rm(&path("in"), true, false, &|| false).unwrap();
    let mut again = files.watch(&path("in"), true, Some(from)).unwrap();
    for watch in [&mut watch, &mut again] {
        let found = watch.poll(100);
        let told: Vec<(ChangeKind, String)> = found
            .changes
            .iter()
            .map(|change| (change.kind, String::from_utf8(change.path[POINT.len()..].to_vec()).unwrap()))
            .collect();
        let expected = [
            (ChangeKind::Created, "/in/new"),
            (ChangeKind::Renamed, "/out/moved"),
            (ChangeKind::Attributes, "/in/seen"),
            (ChangeKind::Modified, "/in/seen"),
            (ChangeKind::Removed, "/in/seen"),
            (ChangeKind::Removed, "/in"),
        ];
        let expected: Vec<_> = expected.into_iter().map(|(kind, path)| (kind, path.to_owned())).collect();
        assert_eq!(told, expected);
        assert!(watch.poll(100).changes.is_empty());
    }
    let mut future = files.watch(&path(""), true, Some(1 << 40)).unwrap();
    assert!(future.poll(10).dropped, "a revision that has not been");
}
