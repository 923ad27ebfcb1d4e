//! Paths with a slash at their end.

use super::*;

fn planted() -> Files {
    let files = files();
    put(&files, "f", b"file");
    put(&files, "d/in", b"inner");
    for (target, name) in
        [("d", "to-d"), ("f", "to-f"), ("f/", "to-f-slash"), ("d/", "to-d-slash"), ("no", "to-no")]
    {
        files.symlink(target.as_bytes(), &path(name)).unwrap();
    }
    files
}

fn all(files: &Files) -> Vec<String> {
    found(files, FindQuery { path: path(""), ..FindQuery::default() })
}

/// It was ignored: a file was read as one that is there.
#[test]
fn a_slash_at_the_end_of_a_path_names_a_directory() {
    let files = planted();
    let calls = |below: &str| {
        let path = path(below);
        let find = FindQuery { path: path.clone(), ..FindQuery::default() };
        [
            code(files.stat(&path)).0,
            code(files.lstat(&path)).0,
            code(files.read(&path, 0, 9)).0,
            code(files.read_file(&path, 0, 9)).0,
            code(files.write(&path, 0, b"x")).0,
            code(files.append(&path, b"x", Some(0o644))).0,
            code(files.truncate(&path, 1)).0,
            code(files.edit(&path, b"file", b"x", false)).0,
            code(files.chmod(&path, 0o600)).0,
            code(files.write_file(&path, WriteQuery { make_dirs: true, ..WriteQuery::default() })).0,
            code(files.readdir(&path, 0, 9)).0,
            code(files.find(find)).0,
            code(files.copy(&path, &self::path("copy"), false, true, &|| false)).0,
            code(files.rename(&path, &self::path("moved"), RenameMode::Replace)).0,
            code(files.link(&path, &self::path("linked"))).0,
            code(files.rm(&path, true, false, &|| false)).0,
        ]
    };
    let before = all(&files);
    for file in ["f/", "f//", "f/.", "f/./", "to-f/", "d/in/"] {
        assert_eq!(calls(file), ["ENOTDIR"; 16], "{file}");
        assert!(files.stat_at_once(&path(file)).is_none(), "{file}");
    }
    for missing in ["no/", "no/.", "d/no/"] {
        assert_eq!(calls(missing), ["ENOENT"; 16], "{missing}");
    }
    assert_eq!(code(files.stat(&path("to-f-slash"))).0, "ENOTDIR");
    assert_eq!(code(files.stat(&path("to-no/"))).0, "ENOENT");
    assert_eq!((all(&files), get(&files, "f")), (before, b"file".to_vec()));
    let dir = files.stat(&path("d")).unwrap().ino;
    for there in ["d/", "d//", "d/.", "to-d/", "to-d-slash", "to-d-slash/", "d/../to-d/"] {
        assert_eq!(
            files.lstat(&path(there)).map(|attr| attr.ino).unwrap_or(0) == dir,
            there != "to-d-slash",
            "{there}"
        );
        assert_eq!(files.stat(&path(there)).unwrap().ino, dir, "{there}");
        assert_eq!(files.readdir(&path(there), 0, 9).unwrap().entries.len(), 1, "{there}");
    }
    assert_eq!(files.stat_at_once(&path("d/")).unwrap().ino, dir);
    assert_eq!(files.lstat(&path("to-d")).unwrap().kind, Kind::Symlink);
    assert_eq!(files.stat(&path("d/../f")).unwrap().kind, Kind::File);
}

/// What is yet to be made may be named so if it will be a directory; and a name is not that of what it leads to.
#[test]
fn a_slash_at_the_end_may_be_after_a_new_directory_but_after_no_new_file() {
    let files = planted();
    let copy = |from: &str, to: &str| code(files.copy(&path(from), &path(to), true, true, &|| false)).0;
    let rename = |from: &str, to: &str| code(files.rename(&path(from), &path(to), RenameMode::Replace)).0;
    assert_eq!((copy("f", "g/"), copy("f", "to-f/"), copy("f", "d/")), ("ENOENT", "ENOTDIR", "EISDIR"));
    assert_eq!(
        (rename("f", "g/"), rename("d", "f/"), rename("d", "to-d/")),
        ("ENOTDIR", "ENOTDIR", "ENOTDIR")
    );
    assert_eq!(code(files.symlink(b"x", &path("g/"))).0, "ENOENT");
    assert_eq!(code(files.symlink(b"x", &path("d/"))).0, "EEXIST");
    assert_eq!(code(files.link(&path("f"), &path("g/"))).0, "ENOENT");
    assert_eq!(code(files.rm(&path("to-d/"), true, true, &|| false)).0, "ENOTDIR");
    assert_eq!(files.rm(&path("no/"), true, true, &|| false).unwrap(), 0);
    assert_eq!(code(files.mkdir(&path("d/"), 0o755, false)).0, "EEXIST");
    files.mkdir(&path("new/"), 0o755, false).unwrap();
    files.mkdir(&path("new/deep/er//"), 0o755, true).unwrap();
    files.mkdir(&path("to-no/"), 0o755, true).unwrap();
    assert_eq!(files.stat(&path("no")).unwrap().kind, Kind::Dir);
    assert_eq!(copy("d", "copy/"), "ok");
    assert_eq!(copy("copy/", "to-d/"), "ok", "it is filled");
    assert_eq!(rename("copy/", "moved//"), "ok");
    assert_eq!(get(&files, "moved/in"), b"inner");
    files.rename(&path("moved/"), &path("d/"), RenameMode::Exchange).unwrap();
    assert_eq!(files.rm(&path("d/"), true, false, &|| false).unwrap(), 2);
    files.symlink(b"moved", &path("far")).unwrap();
    let mut watch = files.watch(&path("far/yet/"), true, None).unwrap();
    put(&files, "moved/yet/file", b"x");
    assert!(!watch.poll(9).changes.is_empty(), "of what is made there later");
}

/// They said ENOTDIR, and made what a symlink pointed to.
#[test]
fn mkdir_says_what_the_kernel_says_of_what_is_there() {
    let files = planted();
    let before = all(&files);
    for there in ["f", "f/", "f//", "to-f/", "to-no", "to-no/", "d/", "to-d/", "to-f-slash"] {
        assert_eq!(code(files.mkdir(&path(there), 0o755, false)).0, "EEXIST", "{there}");
    }
    for file in ["f/", "to-f/"] {
        assert_eq!(code(files.mkdir(&path(file), 0o755, true)).0, "EEXIST", "{file}");
    }
    for below in ["f/x", "f/x/", "f/."] {
        assert_eq!(code(files.mkdir(&path(below), 0o755, false)).0, "ENOTDIR", "{below}");
    }
    assert_eq!(code(files.mkdir(&path("to-no/x"), 0o755, false)).0, "ENOENT");
    assert_eq!(all(&files), before);
}
