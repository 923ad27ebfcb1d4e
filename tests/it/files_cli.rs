//! The commands that talk to a daemon, as scripts use them.

use crate::support::{Daemon, Place, WSD, eventually, noise, text};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const NO_MOUNT: &[(&str, &str)] = &[("FUSE_MOUNT", "none")];

fn wsd(daemon: &Daemon) -> Command {
    let mut command = Command::new(WSD);
    command.env_clear().env("PORT", daemon.port.to_string());
    command
}

fn run<S: AsRef<OsStr>>(daemon: &Daemon, args: &[S]) -> Output {
    wsd(daemon).args(args).output().unwrap()
}

/// What a command that must succeed printed.
fn ok<S: AsRef<OsStr>>(daemon: &Daemon, args: &[S]) -> String {
    let output = run(daemon, args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
    text(&output.stdout)
}

fn lines<S: AsRef<OsStr>>(daemon: &Daemon, args: &[S]) -> Vec<Value> {
    ok(daemon, args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a command that must fail with this exit code said.
fn fails<S: AsRef<OsStr>>(daemon: &Daemon, code: i32, args: &[S]) -> String {
    let output = run(daemon, args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

fn feed(daemon: &Daemon, args: &[&str], bytes: &[u8]) {
    let mut child = wsd(daemon).args(args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn files_are_listed_read_moved_and_removed() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    let point = place.point.to_str().unwrap();
    ok(&daemon, &["mkdir", "-p", "-m", "700", "a/b"]);
    feed(&daemon, &["put", "-", "a/one"], b"one\n");
    feed(&daemon, &["put", "-", &format!("{point}/a/.two")], b"two\n");
    assert_eq!(ok(&daemon, &["cat", "a/one", "a/.two"]), "one\ntwo\n");
    assert_eq!(ok(&daemon, &["ls", "a"]), "b\none\n");
    assert_eq!(ok(&daemon, &["ls", "-a", "a"]), ".two\nb\none\n");
    ok(&daemon, &["ln", "-s", "one", "a/link"]);
    ok(&daemon, &["ln", "a/one", "a/b"]);
    let long = ok(&daemon, &["ls", "-l", "a"]);
    let rows: Vec<_> = long.lines().collect();
    assert!(rows[0].starts_with("drwx------") && rows[0].ends_with(" b"), "{long}");
    assert!(rows[1].starts_with('l') && rows[1].ends_with(" link -> one"), "{long}");
    assert!(rows[2].starts_with("-rw-r--r--   2 "), "{long}");
    assert_eq!(ok(&daemon, &["ls", "-R", "a"]), "a:\nb\nlink\none\n\na/b:\none\n");
    let listed = lines(&daemon, &["ls", "--json", "a"]);
    assert_eq!(listed[1]["name"], "link");
    assert_eq!((&listed[1]["target"], &listed[1]["kind"]), (&Value::from("one"), &Value::from("symlink")));
    let stat = lines(&daemon, &["stat", "--json", "a/one", "a/link"]);
    assert_eq!((&stat[0]["size"], &stat[0]["nlink"]), (&Value::from(4), &Value::from(2)));
    assert_eq!(stat[1]["kind"], "symlink");
    assert_eq!(lines(&daemon, &["stat", "-L", "--json", "a/link"])[0]["kind"], "file");
    assert!(ok(&daemon, &["stat", "a/one"]).contains("-rw-r--r-- (0644)"));
    ok(&daemon, &["cp", "-r", "a", "c"]);
    ok(&daemon, &["cp", "-r", "a", "c"]);
    assert_eq!(ok(&daemon, &["cat", "c/a/one"]), "one\n");
    ok(&daemon, &["mv", "c/a", "d"]);
    fails(&daemon, 1, &["mv", "-n", "-T", "d", "a"]);
    ok(&daemon, &["mv", "--exchange", "d", "a"]);
    let said = fails(&daemon, 1, &["rm", "a"]);
    assert_eq!(said.matches('\n').count(), 1);
    assert!(said.starts_with("wsd: a: ") && said.ends_with("(EISDIR)\n"), "{said}");
    ok(&daemon, &["rm", "-r", "a", "c"]);
    let said = fails(&daemon, 1, &["rm", "a", "d/one"]);
    assert!(said.starts_with("wsd: a: ") && said.ends_with("(ENOENT)\n"), "{said}");
    fails(&daemon, 1, &["stat", "d/one"]);
    ok(&daemon, &["rm", "-f", "a"]);
    assert_eq!(ok(&daemon, &["ls"]), "d\n");
    daemon.stop();
    place.check();
}

#[test]
fn names_are_bytes() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    let name = OsStr::from_bytes(b"n\xff\x1b[31m");
    ok(&daemon, &[OsStr::new("mkdir"), name]);
    assert_eq!(run(&daemon, &["ls"]).stdout, b"n\xff\x1b[31m\n");
    assert_eq!(run(&daemon, &["find", "-0", "--type", "d", "--glob", "n*"]).stdout.last(), Some(&0));
    let found = lines(&daemon, &["ls", "--json"]);
    assert_eq!(found[0]["nameBytes"], "6eff1b5b33316d");
    assert!(found[0].get("name").is_none() && found[0]["pathBytes"].as_str().is_some(), "{found:?}");
    let said = fails(&daemon, 1, &[OsStr::new("cat"), name]);
    assert!(said.starts_with("wsd: n\\xff\\x1b[31m: "), "{said:?}");
    daemon.stop();
}

/// The most memory that a process has had, MiB.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

#[test]
fn large_files_pass_through_little_memory() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    let piece = noise(1, 1 << 20);
    let mut put = wsd(&daemon).args(["put", "-", "big"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut pipe = put.stdin.take().unwrap();
    (0..200).for_each(|_| pipe.write_all(&piece).unwrap());
    let used = peak(put.id());
    assert!(used < 80, "putting 200 MiB took {used} MiB");
    drop(pipe);
    assert!(put.wait().unwrap().success());

    let mut cat = wsd(&daemon).args(["cat", "big"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut pipe = cat.stdout.take().unwrap();
    let mut back = vec![0; 1 << 20];
    for number in 0..200 {
        if number == 199 {
            let used = peak(cat.id());
            assert!(used < 80, "getting 200 MiB took {used} MiB");
        }
        pipe.read_exact(&mut back).unwrap();
        assert!(back == piece);
    }
    assert_eq!(pipe.read(&mut back).unwrap(), 0);
    assert!(cat.wait().unwrap().success());
    daemon.stop();
}

/// A tree with what trees have.
fn plant(root: &Path) {
    fs::create_dir_all(root.join("empty")).unwrap();
    fs::create_dir_all(root.join("deep/er")).unwrap();
    for number in 0..40 {
        fs::write(root.join(format!("deep/f{number}")), noise(number, number as usize * 1000)).unwrap();
    }
    fs::write(root.join("deep/er/tool"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("deep/er/tool"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("../f1", root.join("deep/er/link")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    fs::set_permissions(root.join("deep/er"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o700)).unwrap();
}

fn same(one: &Path, other: &Path) {
    let script =
        "cd \"$1\" && find . -printf '%p %m %y %l\\n' | sort && find . -type f -exec sha1sum {} + | sort";
    let list = |root: &Path| Command::new("sh").args(["-c", script, "sh"]).arg(root).output().unwrap().stdout;
    assert_eq!(text(&list(one)), text(&list(other)));
}

#[test]
fn files_and_trees_go_both_ways() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    let local = tempfile::tempdir().unwrap();
    let at = |name: &str| local.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("big"), noise(1, 60 << 20)).unwrap();
    ok(&daemon, &["put", "--sync", &at("big"), "big"]);
    ok(&daemon, &["get", "big", &at("back")]);
    assert!(fs::read(at("big")).unwrap() == fs::read(at("back")).unwrap());
    assert!(run(&daemon, &["get", "big", "-"]).stdout == fs::read(at("big")).unwrap());
    ok(&daemon, &["get", "big", "/dev/null"]);

    plant(&local.path().join("tree"));
    ok(&daemon, &["put", "-r", &at("tree"), "tree"]);
    ok(&daemon, &["get", "-r", "tree", &at("copy")]);
    same(&local.path().join("tree"), &local.path().join("copy"));
    // Again, over what is there.
    ok(&daemon, &["put", "-r", "-T", &at("tree"), "tree"]);
    ok(&daemon, &["put", "-r", &at("tree"), "tree"]);
    ok(&daemon, &["get", "-r", "tree/tree", &at("inner")]);
    same(&local.path().join("tree"), &local.path().join("inner"));

    let said = fails(&daemon, 1, &["put", &at("tree"), "x"]);
    assert!(said.ends_with("(EISDIR)\n"), "{said}");
    let said = fails(&daemon, 1, &["get", "tree", &at("x")]);
    assert!(said.starts_with("wsd: tree: ") && said.ends_with("(EISDIR)\n"), "{said}");
    let said = fails(&daemon, 1, &["put", &at("missing"), "x"]);
    assert!(said.ends_with("No such file or directory (ENOENT)\n"), "{said}");
    let said = fails(&daemon, 1, &["get", "missing", &at("x")]);
    assert!(said.starts_with("wsd: missing: ") && said.ends_with("(ENOENT)\n"), "{said}");
    assert!(!Path::new(&at("x")).exists());
    daemon.stop();
    place.check();
}

#[test]
fn trees_are_searched() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    let point = place.point.to_str().unwrap();
    ok(&daemon, &["mkdir", "-p", "src/deep"]);
    feed(&daemon, &["put", "-", "src/a.rs"], b"one\ntwo needle\nthree\nfour\nfive NEEDLE\n");
    feed(&daemon, &["put", "-", "src/deep/b.rs"], b"needles\n");
    feed(&daemon, &["put", "-", "src/c.log"], b"needle\n");
    feed(&daemon, &["put", "-", ".gitignore"], b"*.log\n");
    let found = ok(&daemon, &["find", "src", "--type", "f", "--glob", "*.rs"]);
    let mut found: Vec<_> = found.lines().collect();
    found.sort();
    assert_eq!(found, [format!("{point}/src/a.rs"), format!("{point}/src/deep/b.rs")]);
    assert_eq!(ok(&daemon, &["find", "src", "--max-depth", "0"]), format!("{point}/src\n"));
    assert!(!ok(&daemon, &["find", "--gitignore"]).contains("c.log"));
    assert!(!ok(&daemon, &["find", "--exclude", "deep"]).contains("b.rs"));
    let found = lines(&daemon, &["find", "src", "--json", "--type", "d"]);
    assert_eq!(found[1]["path"], format!("{point}/src/deep"));

    let a = format!("{point}/src/a.rs");
    assert_eq!(
        ok(&daemon, &["grep", "-i", "-w", "needle", "--include", "*.rs"]),
        format!("{a}:2:two needle\n{a}:5:five NEEDLE\n")
    );
    assert_eq!(
        ok(&daemon, &["grep", "-B", "1", "-i", "-w", "needle", "src/a.rs"]),
        format!("{a}-1-one\n{a}:2:two needle\n--\n{a}-4-four\n{a}:5:five NEEDLE\n")
    );
    let matches = lines(&daemon, &["grep", "--json", "-F", "needle", "src", "--exclude", "*.log"]);
    assert_eq!(matches.len(), 2);
    let found = matches.iter().find(|found| found["path"] == a[..]).unwrap();
    assert_eq!(found["spans"], serde_json::json!([{ "start": 4, "end": 10 }]));
    assert_eq!((&found["line"], &found["offset"]), (&Value::from(2), &Value::from(4)));
    let output = run(&daemon, &["grep", "nothing at all"]);
    assert_eq!((output.status.code(), output.stderr.len()), (Some(1), 0));
    let said = fails(&daemon, 2, &["grep", "("]);
    assert!(said.ends_with("(EPROTOCOL)\n") && said.matches('\n').count() == 1, "{said}");
    daemon.stop();
}

#[test]
fn changes_are_printed_as_they_come() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    ok(&daemon, &["mkdir", "seen", "unseen"]);
    let mut child = wsd(&daemon).args(["watch", "--json", "seen"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut printed = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let start: Value = serde_json::from_str(&printed.next().unwrap()).unwrap();
    ok(&daemon, &["mkdir", "unseen/x", "seen/x"]);
    ok(&daemon, &["mv", "seen/x", "seen/y"]);
    let mut changes = Vec::new();
    let is_renamed = |change: &Value| change["kind"] == "renamed";
    while !changes.last().is_some_and(is_renamed) {
        let line: Value = serde_json::from_str(&printed.next().unwrap()).unwrap();
        if line.get("upTo").is_none() {
            changes.push(line);
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(changes.iter().all(|change| !change.to_string().contains("unseen")), "{changes:?}");
    assert!(changes.iter().any(|change| change["kind"] == "created"), "{changes:?}");
    let renamed = changes.last().unwrap();
    assert!(renamed["from"].as_str().unwrap().ends_with("seen/x"), "{renamed}");
    let after = start["upTo"].to_string();
    let child = wsd(&daemon).args(["watch", "--after", &after, "seen"]).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let mut printed = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = printed.next().unwrap();
    assert!(first.contains(" created ") && first.ends_with("seen/x"), "{first}");
    child.kill().unwrap();
    child.wait().unwrap();
    daemon.stop();
}

#[test]
fn what_is_asked_of_the_daemon_itself() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    let info = &lines(&daemon, &["info", "--json"])[0];
    assert_eq!((info["mountPoint"].as_str(), info["mount"].as_str()), (place.point.to_str(), Some("none")));
    assert!(ok(&daemon, &["info"]).contains("workspaceId "));
    assert!(lines(&daemon, &["stats", "--json"])[0]["revision"].is_u64());
    assert!(ok(&daemon, &["stats"]).contains("store."));
    for shell in ["bash", "zsh", "fish"] {
        assert!(ok(&daemon, &["completions", shell]).contains("grep"), "{shell}");
    }
    let url = format!("http://localhost:{}", daemon.port);
    let output = Command::new(WSD).env_clear().args(["info", "--url", &url]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    daemon.stop();
}

#[test]
fn what_goes_wrong_is_told_in_one_line_and_the_exit_code() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none"), ("WSD_TOKEN", "s3cret")]);
    let said = fails(&daemon, 1, &["ls"]);
    assert!(said.contains("WSD_TOKEN") && said.ends_with("(EAUTH)\n"), "{said}");
    assert!(fails(&daemon, 1, &["stats"]).ends_with("(EAUTH)\n"));
    assert!(wsd(&daemon).env("WSD_TOKEN", "s3cret").arg("ls").output().unwrap().status.success());
    for args in
        [&["ls", "--what"][..], &["cat"], &["grep"], &["mkdir", "-m", "9", "x"], &["completions", "x"]]
    {
        fails(&daemon, 2, args);
    }
    let port = daemon.port;
    daemon.stop();
    for (args, code) in [(&["ls"][..], 1), (&["grep", "x"], 2), (&["exec", "--", "true"], 1)] {
        let output = Command::new(WSD).env_clear().env("PORT", port.to_string()).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "no match is another code: {args:?}");
    }
    let said = text(
        &Command::new(WSD)
            .env("WSD_URL", format!("ws://127.0.0.1:{port}/ws"))
            .arg("ls")
            .output()
            .unwrap()
            .stderr,
    );
    assert!(
        said.contains(&format!("ws://127.0.0.1:{port}/ws")) && said.contains("is the daemon running"),
        "{said}"
    );
    for (variable, value) in [("PORT", "0"), ("PORT", "x"), ("WSD_URL", "ftp://x")] {
        let output = Command::new(WSD).env_clear().env(variable, value).arg("ls").output().unwrap();
        let code = if variable == "PORT" { 2 } else { 1 };
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    }
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    feed(&daemon, &["put", "-", "big"], &noise(1, 20 << 20));
    for args in [&["cat", "big"][..], &["watch", "--json"]] {
        let mut child =
            wsd(&daemon).args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut number = 0;
        eventually("it ends", || {
            number += 1;
            ok(&daemon, &["mkdir", "-p", &format!("d{number}")]);
            child.try_wait().unwrap().is_some()
        });
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{args:?}");
    }
    daemon.stop();
}

/// A file is beside its place until it is whole, and the name that it has there must fit too.
#[test]
fn names_of_every_length_and_directories_behind_links_are_got() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    ok(&daemon, &["mkdir", "-p", "a/b"]);
    let longest = format!("a/b/{}", "x".repeat(255));
    feed(&daemon, &["put", "-", &longest], b"long\n");
    let local = tempfile::tempdir().unwrap();
    let at = |name: &str| local.path().join(name).to_str().unwrap().to_owned();
    ok(&daemon, &["get", &longest, local.path().to_str().unwrap()]);
    assert_eq!(fs::read(at(&"x".repeat(255))).unwrap(), b"long\n");
    ok(&daemon, &["ln", "-s", "b", "a/near"]);
    ok(&daemon, &["ln", "-s", place.point.join("a/near").to_str().unwrap(), "far"]);
    for (link, got) in [("a", "one"), ("a/near", "two"), ("far", "three"), ("far/", "four")] {
        ok(&daemon, &["get", "-r", link, &at(got)]);
        let file = if link == "a" { format!("{got}/b") } else { got.to_owned() };
        assert_eq!(fs::read_dir(at(&file)).unwrap().count(), 1, "{link}");
    }
    daemon.stop();
}

#[test]
fn a_search_goes_on_where_one_of_its_paths_leads_to_nothing() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    feed(&daemon, &["put", "-", "there"], b"needle\n");
    let point = place.point.display().to_string();
    for (args, code, found) in [
        (&["find", "nowhere", "there"][..], 1, format!("{point}/there\n")),
        (&["grep", "needle", "nowhere", "there"], 2, format!("{point}/there:1:needle\n")),
    ] {
        let output = run(&daemon, args);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(code), found));
        assert!(text(&output.stderr).contains("nowhere"), "{args:?}");
    }
    daemon.stop();
}

/// What was in a directory of that name was put where the symlink led, whose mode was changed too.
#[test]
fn what_a_symlink_of_this_machine_leads_to_is_not_filled() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    ok(&daemon, &["mkdir", "-p", "-m", "700", "tree/d/deep"]);
    feed(&daemon, &["put", "-", "tree/d/file"], b"1");
    feed(&daemon, &["put", "-", "tree/z"], b"2");
    let local = tempfile::tempdir().unwrap();
    let at = |name: &str| local.path().join(name);
    fs::create_dir(at("elsewhere")).unwrap();
    fs::set_permissions(at("elsewhere"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(at("got")).unwrap();
    symlink(at("elsewhere"), at("got/d")).unwrap();
    let said = fails(&daemon, 1, &["get", "-r", "-T", "tree", at("got").to_str().unwrap()]);
    assert!(said.lines().count() == 1 && said.contains("got/d: File exists"), "{said}");
    assert_eq!(fs::read_dir(at("elsewhere")).unwrap().count(), 0);
    assert_eq!(fs::metadata(at("elsewhere")).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::read(at("got/z")).unwrap(), b"2");
    daemon.stop();
}

#[test]
fn a_listing_goes_on_after_a_directory_that_cannot_be_listed() {
    if !crate::support::has("sqlite3") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    ok(&daemon, &["mkdir", "-p", "a", "b/in", "c/in"]);
    let bad = lines(&daemon, &["stat", "--json", "b"])[0]["ino"].clone();
    daemon.stop();
    let damage = format!("UPDATE dirent SET cookie = -1 WHERE parent = {bad}");
    assert!(Command::new("sqlite3").arg(&place.store).arg(damage).status().unwrap().success());
    let daemon = place.serve_with(NO_MOUNT);
    let output = run(&daemon, &["ls", "-R"]);
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.starts_with("wsd: ./b: "), "{said}");
    assert_eq!(text(&output.stdout), ".:\na\nb\nc\n\n./a:\n\n./b:\n\n./c:\nin\n\n./c/in:\n");
    daemon.stop();
}

/// The name was taken without its slash.
#[test]
fn no_file_is_put_where_a_directory_is_named() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    let local = place.dir.path().join("local");
    fs::write(&local, "x").unwrap();
    let local = local.to_str().unwrap();
    ok(&daemon, &["mkdir", "there"]);
    for args in [&["put", "-", "name/"][..], &["put", "-", "there/"], &["put", "-T", local, "name/"]] {
        assert!(fails(&daemon, 2, args).contains("is the name of a directory"));
    }
    assert!(fails(&daemon, 1, &["put", "-", "there"]).contains("EISDIR"));
    assert!(fails(&daemon, 1, &["put", local, "name/"]).contains("ENOENT"));
    ok(&daemon, &["put", local, "there/"]);
    assert_eq!(ok(&daemon, &["find", "--type", "f"]), format!("{}/there/local\n", place.point.display()));
}

/// It ended there, and the exit code was that of no match.
#[test]
fn a_search_goes_on_after_a_file_that_cannot_be_read() {
    if !crate::support::has("sqlite3") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    for (name, seed) in [("b", 1), ("d", 2)] {
        feed(
            &daemon,
            &["put", "-", name],
            &noise(seed, 3_000_001).into_iter().filter(|byte| *byte != 0).collect::<Vec<_>>(),
        );
    }
    daemon.stop();
    let damage = "UPDATE chunk_data SET data = x'00'";
    assert!(Command::new("sqlite3").arg(&place.store).arg(damage).status().unwrap().success());
    let daemon = place.serve_with(NO_MOUNT);
    for name in ["a", "c", "e"] {
        feed(&daemon, &["put", "-", name], b"a needle\n");
    }
    let output = run(&daemon, &["grep", "needle"]);
    let (said, found) = (text(&output.stderr), text(&output.stdout));
    assert_eq!((said.lines().count(), found.lines().count()), (2, 3), "{said}{found}");
    assert!(said.contains("/b: ") && said.contains("/d: "), "{said}");
    assert_eq!(output.status.code(), Some(2));
    fails(&daemon, 1, &["grep", "nothing of it", "a", "c"]);
}

/// It left what it had got so far, for ever.
#[test]
fn a_transfer_that_is_killed_leaves_nothing() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    feed(&daemon, &["put", "-", "large"], &noise(3, 100 << 20));
    let here = place.dir.path().join("here");
    fs::create_dir(&here).unwrap();
    let mut child = wsd(&daemon).args(["get", "large"]).arg(&here).spawn().unwrap();
    let open = format!("/proc/{}/fd", child.id());
    eventually("it has begun", || {
        let files = fs::read_dir(&open).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|file| file.starts_with(&here))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    feed(&daemon, &["put", "-", "small"], b"x");
    ok(&daemon, &[OsStr::new("get"), OsStr::new("small"), here.as_os_str()]);
    let names: Vec<_> = fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["small"]);
}

/// The slash was ignored, and a file was made.
#[test]
fn a_path_with_a_slash_at_its_end_is_no_file() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    feed(&daemon, &["put", "-", "f"], b"bytes");
    for args in [&["cat", "f/"][..], &["ls", "f/"], &["stat", "f/"], &["rm", "f/"], &["mv", "-T", "f", "g/"]]
    {
        assert!(fails(&daemon, 1, args).ends_with("(ENOTDIR)\n"), "{args:?}");
    }
    for args in [&["cp", "-T", "f", "g/"][..], &["ln", "-T", "f", "g/"], &["ln", "-sT", "f", "g/"]] {
        assert!(fails(&daemon, 1, args).ends_with("(ENOENT)\n"), "{args:?}");
    }
    ok(&daemon, &["mkdir", "d/"]);
    ok(&daemon, &["mv", "-T", "d/", "e/"]);
    ok(&daemon, &["cp", "f", "e/"]);
    assert_eq!(ok(&daemon, &["find", "--type", "f", "e/"]), format!("{}/e/f\n", place.point.display()));
    daemon.stop();
}

/// It ended there.
#[test]
fn a_search_goes_on_after_a_directory_that_cannot_be_read() {
    if !crate::support::has("sqlite3") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    ok(&daemon, &["mkdir", "bad", "c"]);
    for name in ["a", "bad/lost", "c/in", "e"] {
        feed(&daemon, &["put", "-", name], b"a line\n");
    }
    let ino = lines(&daemon, &["stat", "--json", "bad"])[0]["ino"].to_string();
    daemon.stop();
    let damage = format!("UPDATE dirent SET cookie = -1 WHERE parent = {ino}");
    assert!(Command::new("sqlite3").arg(&place.store).arg(damage).status().unwrap().success());
    let daemon = place.serve_with(NO_MOUNT);
    let (got, exported) = (place.dir.path().join("got"), place.dir.path().join("exported"));
    let (got, exported) = (got.to_str().unwrap(), exported.to_str().unwrap());
    for (args, code, count) in [
        (&["find", "--type", "f"][..], 1, 3),
        (&["grep", "line"], 2, 3),
        (&["get", "-r", ".", got], 1, 0),
        (&["export", exported], 1, 0),
    ] {
        let output = run(&daemon, args);
        let (said, found) = (text(&output.stderr), text(&output.stdout));
        assert_eq!((said.lines().count(), found.lines().count()), (1, count), "{said}{found}");
        assert!(said.contains("/bad: ") && said.ends_with("(EIO)\n"), "{said}");
        assert_eq!(output.status.code(), Some(code));
    }
    for target in [got, exported] {
        assert_eq!(fs::read(Path::new(target).join("e")).unwrap(), b"a line\n");
    }
}

/// Each file of the workspace was tried after it, and each was a line.
#[test]
fn an_archive_that_cannot_be_written_ends_at_once() {
    let place = Place::new();
    let daemon = place.serve_with(NO_MOUNT);
    for name in ["a", "b", "c"] {
        feed(&daemon, &["put", "-", name], &noise(1, 200_000));
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = wsd(&daemon).args(["export", "-"]).stdout(full).output().unwrap();
    assert_eq!(text(&output.stderr), "wsd: standard output: No space left on device (ENOSPC)\n");
    assert_eq!(output.status.code(), Some(1));
    let target = place.dir.path().join("full.tar");
    symlink("/dev/full", &target).unwrap();
    let said = fails(&daemon, 1, &["export", target.to_str().unwrap()]);
    assert_eq!(said, format!("wsd: {}: No space left on device (ENOSPC)\n", target.display()));
}
