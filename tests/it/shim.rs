//! The workspace where there is no FUSE: a plain directory, and real programs in it.

use crate::support::{Daemon, Place, WSD, eventually, has, has_fuse, is_root, noise, sh, sh_output, text};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output, Stdio};

const SHIM: &[(&str, &str)] = &[("FUSE_MOUNT", "shim")];

fn serve(place: &Place) -> Daemon {
    place.serve_with(SHIM)
}

/// A client command; its output.
fn client(daemon: &Daemon, arguments: &[&str]) -> Output {
    let url = format!("ws://127.0.0.1:{}/ws", daemon.port);
    let mut command = Command::new(WSD);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("WSD_URL", url);
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// A client command that must succeed; what it printed.
fn ask(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = client(daemon, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn put(daemon: &Daemon, path: &str, bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    ask(daemon, &["put", file.path().to_str().unwrap(), path]);
}

/// What the workspace has at a path.
fn get(daemon: &Daemon, path: &str) -> Option<Vec<u8>> {
    let output = client(daemon, &["cat", path]);
    output.status.success().then_some(output.stdout)
}

fn comes_in(daemon: &Daemon, path: &str, expected: &[u8]) {
    eventually(path, || get(daemon, path).as_deref() == Some(expected));
}

/// Both sides have the same, says a hash over all of each.
fn compare(daemon: &Daemon) {
    let names = "find . -mindepth 1 -printf '%P %y %m %l\\n' | LC_ALL=C sort";
    let host = sh(&daemon.path(""), names);
    let dir = tempfile::tempdir().unwrap();
    // A command waits for both sides to be in step, so what is read back afterwards is all of it.
    ask(daemon, &["exec", "--", "true"]);
    ask(daemon, &["get", "-r", ".", dir.path().join("copy").to_str().unwrap()]);
    let copy = sh(&dir.path().join("copy"), names);
    assert_eq!(host, copy);
    let bytes = "find . -type f -exec sha256sum {} + | LC_ALL=C sort";
    assert_eq!(sh(&daemon.path(""), bytes), sh(&dir.path().join("copy"), bytes));
}

#[test]
fn changes_go_both_ways_and_are_told_of() {
    let place = Place::new();
    let daemon = serve(&place);
    let info: serde_json::Value = serde_json::from_str(&daemon.ask("GET /__wsd/info", "").2).unwrap();
    assert_eq!(info["mount"]["backend"], "shim");
    assert_eq!(daemon.ask("GET /health?ready", "").0, 200);
    fs::create_dir_all(daemon.path("a/b")).unwrap();
    fs::write(daemon.path("a/b/host"), b"from the host").unwrap();
    comes_in(&daemon, "a/b/host", b"from the host");
    put(&daemon, "a/b/work", b"from the workspace");
    eventually("the file on the host", || {
        fs::read(daemon.path("a/b/work")).is_ok_and(|bytes| bytes == b"from the workspace")
    });
    let big = noise(7, 9 << 20);
    put(&daemon, "big", &big);
    eventually("the large file", || fs::read(daemon.path("big")).is_ok_and(|bytes| bytes == big));
    ask(&daemon, &["mv", "a", "z"]);
    eventually("the rename", || daemon.path("z/b/work").exists() && !daemon.path("a").exists());
    fs::remove_dir_all(daemon.path("z")).unwrap();
    eventually("the removal", || get(&daemon, "z/b/work").is_none());
    compare(&daemon);
    assert_eq!(daemon.stat("/shim/failing"), 0);
    assert_eq!(daemon.stat("/shim/conflicts"), 0);
    daemon.stop();
    place.check();
}

#[test]
fn a_rename_on_the_host_keeps_the_node() {
    let place = Place::new();
    let daemon = serve(&place);
    fs::create_dir(daemon.path("dir")).unwrap();
    fs::write(daemon.path("dir/file"), b"x").unwrap();
    comes_in(&daemon, "dir/file", b"x");
    let number = |path: &str| {
        let stat: serde_json::Value = serde_json::from_str(&ask(&daemon, &["stat", "--json", path])).unwrap();
        stat.to_string().split("\"ino\":").nth(1).unwrap().split([',', '}']).next().unwrap().to_owned()
    };
    let before = number("dir/file");
    fs::rename(daemon.path("dir"), daemon.path("other")).unwrap();
    comes_in(&daemon, "other/file", b"x");
    assert_eq!(number("other/file"), before);
    daemon.stop();
    place.check();
}

#[test]
fn a_command_sees_the_workspace_and_the_workspace_sees_the_command() {
    // The second one is told of nothing, and looks around by itself once a minute.
    for settings in [&[][..], &[("SHIM_EVENTS", "0"), ("SHIM_POLL_MS", "60000")]] {
        let place = Place::new();
        let daemon = place.serve_with(&[SHIM, settings].concat());
        for round in 0..25 {
            let word = format!("round {round}");
            put(&daemon, "in", word.as_bytes());
            let script =
                "cat in; cp in out; mkdir -p d; ln -sfn in d/link; mkdir -p deep/$0; mv out deep/$0/out";
            let seen = ask(&daemon, &["exec", "--", "sh", "-c", script, &format!("d{round}")]);
            assert_eq!(seen, word);
            // With no waiting in between.
            assert_eq!(get(&daemon, &format!("deep/d{round}/out")).as_deref(), Some(word.as_bytes()));
            assert_eq!(get(&daemon, "d/link"), None, "a link that leads nowhere");
        }
        let id = ask(&daemon, &["exec", "-d", "-c", "--", "echo new > made; rm in"]);
        eventually("the changes of the command", || {
            let changes = ask(&daemon, &["ps", "--changes", id.trim()]);
            changes.contains("made") && changes.contains("/in")
        });
        // A file that is written to all the time, and one that is removed, hold nobody up.
        let said =
            ask(&daemon, &["exec", "-c", "--", "for i in 1 2 3; do echo $i >> log; done; cat log; rm made"]);
        assert_eq!(said, "1\n2\n3\n");
        assert_eq!((get(&daemon, "log").as_deref(), get(&daemon, "made")), (Some(&b"1\n2\n3\n"[..]), None));
        daemon.stop();
        place.check();
    }
}

#[test]
fn git_works_and_both_sides_are_equal() {
    if !has("git") {
        return;
    }
    let place = Place::new();
    let daemon = serve(&place);
    let script = r#"
export HOME="$PWD/.." GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
git init -q -b main repo; cd repo
for c in 1 2 3; do
  for i in $(seq 1 40); do mkdir -p "dir$((i % 5))"; echo "$c $i $(seq -s' ' 1 $i)" > "dir$((i % 5))/f$i"; done
  git add -A; git commit -qm "commit $c"
done
git checkout -q HEAD~2; git checkout -q main; git gc -q --prune=now; git fsck --strict 2>&1
git status --porcelain
cd ..; git clone -q repo clone; git -C clone fsck --strict; chmod 600 clone/dir1/f1; chmod 755 clone/dir1"#;
    let output = sh_output(&daemon.path(""), script, &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    compare(&daemon);
    assert_eq!(ask(&daemon, &["exec", "--cwd", "repo", "--", "git", "status", "--porcelain"]), "");
    assert_eq!(daemon.stat("/shim/conflicts"), 0);
    assert_eq!(daemon.stat("/shim/failing"), 0);
    daemon.stop();
    place.check();
}

#[test]
fn cargo_builds_in_it() {
    if !has("cargo") {
        return;
    }
    let place = Place::new();
    let daemon = serve(&place);
    let script = r#"
cargo init -q --name hello --vcs none .
echo 'fn main() { println!("{}", 6 * 7); }' > src/main.rs
test "$(env -u CARGO_TARGET_DIR -u RUSTFLAGS cargo run -q --offline)" = 42
! env -u CARGO_TARGET_DIR -u RUSTFLAGS cargo build --offline 2>&1 | grep Compiling"#;
    let output = sh_output(&daemon.path(""), script, &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    compare(&daemon);
    assert_eq!(daemon.stat("/shim/conflicts"), 0);
    daemon.stop();
    place.check();
}

/// Without privileges: owners are not given, and what is closed to its owner is opened for as long as it takes.
#[test]
fn an_ordinary_user_has_read_only_directories() {
    if !(is_root() && has("setpriv")) {
        return;
    }
    let place = Place::new();
    sh(place.dir.path(), "chmod 777 .");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", WSD, "serve"]);
    command.env("PORT", "0").env("WSD_DB", &place.store).env("MOUNT_POINT", &place.point);
    let daemon = place.start({
        command.env("FUSE_MOUNT", "shim");
        command
    });
    ask(&daemon, &["mkdir", "locked"]);
    for name in ["one", "two"] {
        put(&daemon, &format!("locked/{name}"), name.as_bytes());
    }
    ask(&daemon, &["exec", "-c", "--", "chmod 444 locked/one; chmod 555 locked"]);
    put(&daemon, "locked/one", b"other bytes");
    put(&daemon, "locked/three", b"three");
    ask(&daemon, &["rm", "locked/two"]);
    compare(&daemon);
    assert_eq!(fs::read(daemon.path("locked/one")).unwrap(), b"other bytes");
    let modes = sh(&daemon.path(""), "stat -c '%a %n' locked locked/*");
    assert_eq!(modes, "555 locked\n444 locked/one\n600 locked/three\n");
    assert_eq!(daemon.stat("/shim/failing"), 0);
    daemon.stop();
    place.check();
}

/// A container's root may not give owners: those stay in the workspace, and the files are on the host all the same.
#[test]
fn a_root_that_may_not_give_owners() {
    if !(is_root() && has("setpriv")) {
        return;
    }
    let place = Place::new();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-chown", "--inh-caps=-chown", WSD, "serve"]).env("FUSE_MOUNT", "shim");
    command.env("PORT", "0").env("WSD_DB", &place.store).env("MOUNT_POINT", &place.point);
    let daemon = place.start(command);
    let tar = place.dir.path().join("tree.tar");
    sh(
        place.dir.path(),
        "mkdir -p t/d && echo one > t/d/file && ln -s file t/d/link && tar --owner=1234 --group=1234 -cf tree.tar -C t d",
    );
    ask(&daemon, &["import", tar.to_str().unwrap()]);
    ask(&daemon, &["exec", "-c", "--", "cat d/link && echo two >> d/file"]);
    assert_eq!(fs::read(daemon.path("d/file")).unwrap(), b"one\ntwo\n");
    assert_eq!((daemon.stat("/shim/failing"), daemon.stat("/shim/otherOwners")), (0, 3));
    let stat: serde_json::Value = serde_json::from_str(&ask(&daemon, &["stat", "--json", "d/file"])).unwrap();
    assert!(stat.to_string().contains("\"uid\":1234"), "an edit on the host leaves the owner alone: {stat}");
    daemon.stop();
    place.check();
}

/// What editors do when they save, at full speed and with the workspace looking on.
#[test]
fn editors_save_in_their_ways() {
    let patterns: &[(&str, &str)] = &[
        ("sed -i", "sed -i \"s/.*/text $i/\" file"),
        ("in place", "echo \"text $i\" > file"),
        ("in two steps", "exec 3> file; printf 'text ' >&3; sleep 0.02; echo \"$i\" >&3; exec 3>&-"),
        ("renamed over it", "echo \"text $i\" > .file.tmp; mv .file.tmp file"),
        ("vim", "touch 4913; rm 4913; mv file file~; echo \"text $i\" > file; rm file~"),
        ("with a backup", "cp -p file file.bak; echo \"text $i\" > file"),
        ("removed and made anew", "rm file; echo \"text $i\" > file"),
        (
            "emacs",
            "echo \"text $i\" > '#file#'; ln -s me@here .#file; mv file file~; echo \"text $i\" > file; rm '#file#' .#file",
        ),
    ];
    let place = Place::new();
    let daemon = serve(&place);
    for (name, save) in patterns {
        sh(&daemon.path(""), "rm -f file*; echo begin > file");
        comes_in(&daemon, "file", b"begin\n");
        sh(&daemon.path(""), &format!("for i in $(seq 1 20); do {save}; done"));
        comes_in(&daemon, "file", b"text 20\n");
        assert_eq!(daemon.stat("/shim/conflicts"), 0, "{name}");
    }
    compare(&daemon);
    daemon.stop();
    place.check();
}

#[test]
fn both_changed_means_both_are_kept() {
    let place = Place::new();
    let daemon = serve(&place);
    fs::write(daemon.path("file"), b"agreed").unwrap();
    comes_in(&daemon, "file", b"agreed");
    daemon.stop();
    // While nothing keeps them in step.
    let offline = place.serve_with(&[("FUSE_MOUNT", "none")]);
    put(&offline, "file", b"the workspace's");
    offline.stop();
    fs::write(place.point.join("file"), b"the host's").unwrap();
    let daemon = serve(&place);
    assert_eq!(fs::read(daemon.path("file")).unwrap(), b"the workspace's");
    let listed: Vec<_> =
        fs::read_dir(&place.point).unwrap().flatten().map(|entry| entry.file_name()).collect();
    let beside = listed.iter().find(|name| name.as_bytes().starts_with(b"file.conflict-host-")).unwrap();
    assert_eq!(fs::read(daemon.path(beside.to_str().unwrap())).unwrap(), b"the host's");
    comes_in(&daemon, beside.to_str().unwrap(), b"the host's");
    assert_eq!(daemon.stat("/shim/conflicts"), 1);
    daemon.stop();
    place.check();
}

#[test]
fn a_kill_and_what_is_done_meanwhile_are_made_up_for() {
    let place = Place::new();
    for round in 0..6u64 {
        let daemon = serve(&place);
        let at = |name: &str| format!("{name}{round}");
        for name in ["removed", "changed", "moved", "kept"] {
            fs::write(daemon.path(&at(name)), at(name)).unwrap();
        }
        comes_in(&daemon, &at("kept"), at("kept").as_bytes());
        put(&daemon, &at("work"), at("work").as_bytes());
        // What both agreed on is kept once a second.
        std::thread::sleep(std::time::Duration::from_millis(1300 * (round % 2)));
        daemon.kill();
        let point = &place.point;
        fs::remove_file(point.join(at("removed"))).unwrap();
        fs::write(point.join(at("changed")), b"while it was down").unwrap();
        fs::rename(point.join(at("moved")), point.join(at("target"))).unwrap();
        let daemon = serve(&place);
        // Beside the workspace's version, if nobody knew yet that both had agreed on that.
        let versions = sh(point, &format!("cat changed{round}*"));
        assert!(versions.contains("while it was down"), "{versions}");
        assert_eq!(get(&daemon, &at("target")).unwrap(), at("moved").as_bytes());
        assert_eq!(get(&daemon, &at("kept")).unwrap(), at("kept").as_bytes());
        if round % 2 == 1 {
            assert_eq!(get(&daemon, &at("changed")).unwrap(), b"while it was down");
            assert_eq!(get(&daemon, &at("removed")), None, "it was agreed on, so it was removed");
            assert_eq!(get(&daemon, &at("moved")), None);
            assert_eq!(fs::read(point.join(at("work"))).unwrap(), at("work").as_bytes());
            assert_eq!(daemon.stat("/shim/conflicts"), 0);
        }
        compare(&daemon);
        daemon.stop();
        place.check();
    }
}

#[test]
fn it_is_killed_at_any_moment_under_work_on_both_sides() {
    let place = Place::new();
    for round in 0..8u64 {
        let daemon = serve(&place);
        let root = daemon.path("");
        let script = format!(
            "for i in $(seq 1 200); do mkdir -p h{round}/d$((i % 7)); echo {round}.$i > h{round}/d$((i % 7))/f$i; done"
        );
        let mut writer = Command::new("bash").args(["-c", &script]).current_dir(&root).spawn().unwrap();
        for number in 0..6 {
            put(&daemon, &format!("w{number}"), format!("{round} {number}").as_bytes());
        }
        std::thread::sleep(std::time::Duration::from_millis(u64::from(noise(round, 1)[0])));
        daemon.kill();
        writer.wait().unwrap();
        let daemon = serve(&place);
        for i in 1..=200 {
            let path = format!("h{round}/d{}/f{i}", i % 7);
            assert_eq!(fs::read(root.join(&path)).unwrap(), format!("{round}.{i}\n").as_bytes(), "{path}");
        }
        compare(&daemon);
        daemon.stop();
        place.check();
    }
}

#[test]
fn a_directory_with_files_is_refused_or_taken_over() {
    let place = Place::new();
    fs::create_dir(&place.point).unwrap();
    fs::write(place.point.join("mine"), b"was here before").unwrap();
    fs::write(place.point.join("both"), b"the host's").unwrap();
    let output = place.command().args(["serve", "--fuse-mount", "shim"]).output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("--adopt"), "{said}");
    let offline = place.serve_with(&[("FUSE_MOUNT", "none")]);
    put(&offline, "both", b"the workspace's");
    offline.stop();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "shim"), ("SHIM_ADOPT", "1")]);
    assert_eq!(get(&daemon, "mine").unwrap(), b"was here before");
    assert_eq!(fs::read(daemon.path("both")).unwrap(), b"the workspace's");
    let names = sh(&daemon.path(""), "cat both.conflict-host-*");
    assert_eq!(names, "the host's");
    daemon.stop();
    // It knows the directory now.
    let daemon = serve(&place);
    compare(&daemon);
    daemon.stop();
    // Another one at the same path is not one that was emptied.
    fs::remove_dir_all(&place.point).unwrap();
    let daemon = serve(&place);
    assert_eq!(fs::read(daemon.path("mine")).unwrap(), b"was here before");
    daemon.stop();
    place.check();
}

/// What was agreed on after the backup was made is not a removal.
#[test]
fn a_store_that_was_restored_from_a_backup_removes_nothing() {
    let place = Place::new();
    let daemon = serve(&place);
    fs::write(daemon.path("early"), b"in the backup").unwrap();
    comes_in(&daemon, "early", b"in the backup");
    daemon.stop();
    let backup = fs::read(&place.store).unwrap();
    let daemon = serve(&place);
    fs::write(daemon.path("late"), b"not in the backup").unwrap();
    comes_in(&daemon, "late", b"not in the backup");
    daemon.stop();
    fs::write(&place.store, backup).unwrap();
    let output = place.command().args(["serve", "--fuse-mount", "shim"]).output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("--adopt"), "{said}");
    let daemon = place.serve_with(&[("FUSE_MOUNT", "shim"), ("SHIM_ADOPT", "1")]);
    assert_eq!(get(&daemon, "late").as_deref(), Some(&b"not in the backup"[..]));
    assert_eq!(fs::read(daemon.path("early")).unwrap(), b"in the backup");
    compare(&daemon);
    daemon.stop();
    let daemon = serve(&place);
    assert_eq!(daemon.stat("/shim/conflicts"), 0);
    daemon.stop();
    place.check();
}

#[test]
fn what_the_host_cannot_have_stays_in_the_workspace_and_is_listed() {
    let place = Place::new();
    let daemon = serve(&place);
    put(&daemon, "plain", b"x");
    put(&daemon, ".wsd-shim.mine", b"the name is taken");
    sh(&daemon.path(""), "mkfifo pipe; mkdir dir; mkfifo dir/pipe");
    comes_in(&daemon, "plain", b"x");
    ask(&daemon, &["exec", "--", "true"]);
    assert!(!daemon.path(".wsd-shim.mine").exists());
    assert_eq!(get(&daemon, ".wsd-shim.mine").unwrap(), b"the name is taken");
    assert_eq!(daemon.stat("/shim/leftOut"), 2, "{}", daemon.ask("GET /__wsd/stats", "").2);
    daemon.stop();
    place.check();
}

#[test]
fn devices_of_the_workspace_are_listed_and_kept() {
    if !(has_fuse() && is_root()) {
        return;
    }
    let place = Place::new();
    let mounted = place.serve();
    sh(&mounted.path(""), "mkdir d && mknod d/null c 1 3 && mkfifo d/pipe && echo x > d/file");
    mounted.stop();
    let daemon = serve(&place);
    assert_eq!(sh(&daemon.path(""), "ls d"), "file\n");
    assert_eq!(daemon.stat("/shim/leftOut"), 2);
    let stats = daemon.ask("GET /__wsd/stats", "").2;
    assert!(stats.contains("d/null") && stats.contains("a device, fifo or socket"), "{stats}");
    sh(&daemon.path(""), "mv d e; rm e/file");
    eventually("the rename", || get(&daemon, "d/file").is_none() && get(&daemon, "e/file").is_none());
    ask(&daemon, &["exec", "--", "true"]);
    daemon.stop();
    sh(&place.point, "rm -rf e d");
    let mounted = place.serve();
    assert_eq!(sh(&mounted.path(""), "find . -type c -o -type p | wc -l"), "2\n", "they are where they were");
    mounted.stop();
    place.check();
}

#[test]
fn it_works_by_polling_alone() {
    let place = Place::new();
    let settings = [("FUSE_MOUNT", "shim"), ("SHIM_EVENTS", "0"), ("SHIM_POLL_MS", "50")];
    let daemon = place.serve_with(&settings);
    fs::create_dir_all(daemon.path("a/b/c")).unwrap();
    fs::write(daemon.path("a/b/c/file"), b"1").unwrap();
    comes_in(&daemon, "a/b/c/file", b"1");
    fs::write(daemon.path("a/b/c/file"), b"2").unwrap();
    comes_in(&daemon, "a/b/c/file", b"2");
    fs::rename(daemon.path("a/b"), daemon.path("b")).unwrap();
    comes_in(&daemon, "b/c/file", b"2");
    fs::remove_dir_all(daemon.path("b")).unwrap();
    eventually("the removal", || get(&daemon, "b/c/file").is_none());
    daemon.stop();
    place.check();
}
