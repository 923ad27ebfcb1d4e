//! More real programs in a directory that is kept in step: installers, and editors as they are.

use crate::support::{Daemon, Place, WSD, eventually, has, sh, sh_output, text};
use std::process::Command;

fn serve(place: &Place) -> Daemon {
    place.serve_with(&[("FUSE_MOUNT", "shim")])
}

fn wsd(daemon: &Daemon, arguments: &[&str]) -> String {
    let mut command = Command::new(WSD);
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let output = command.env("PORT", daemon.port.to_string()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The workspace has what the directory has, to the last byte; nothing was in conflict.
fn is_in_step(place: &Place, daemon: &Daemon) {
    // Its end is told of when both sides are in step.
    wsd(daemon, &["exec", "--", "true"]);
    let tar = place.dir.path().join("workspace.tar");
    wsd(daemon, &["export", tar.to_str().unwrap()]);
    let script = r#"
{ tar --compare -f "$TAR" 2>&1 || true; } | { grep -v 'Mod time differs' || true; }
diff <(tar -tf "$TAR" | sed 's,/$,,' | grep -vxF . | LC_ALL=C sort) <(find . -mindepth 1 -printf '%P\n' | LC_ALL=C sort)"#;
    let differences = sh_output(&daemon.path(""), script, &[("TAR", tar.as_os_str())]);
    let said = text(&differences.stdout) + &text(&differences.stderr);
    assert!(said.is_empty(), "{said}");
    assert_eq!((daemon.stat("/shim/conflicts"), daemon.stat("/shim/failing")), (0, 0));
}

/// Without a network: packages that `npm pack` made, which depend on each other and bring commands along.
#[test]
fn npm_installs_packages_that_a_script_then_uses() {
    if !(has("npm") && has("node")) {
        return;
    }
    let place = Place::new();
    let daemon = serve(&place);
    let script = r#"
export HOME="$SCRATCH" npm_config_cache="$SCRATCH/cache" npm_config_audit=false npm_config_fund=false npm_config_offline=true npm_config_update_notifier=false
mkdir -p "$SCRATCH/src/words/lib" "$SCRATCH/src/shout/bin"; cd "$SCRATCH/src"
echo '{"name":"words","version":"1.2.3","main":"lib/index.js"}' > words/package.json
for i in $(seq 200); do echo "exports.word$i = 'word $i';" > words/lib/w$i.js; done
echo 'module.exports = n => require(`./w${n}`)[`word${n}`];' > words/lib/index.js
echo '{"name":"shout","version":"2.0.0","bin":{"shout":"bin/shout.js"}}' > shout/package.json
printf '#!/usr/bin/env node\nconsole.log(process.argv[2].toUpperCase() + "!")\n' > shout/bin/shout.js; chmod 755 shout/bin/shout.js
(cd words && npm pack --silent --pack-destination ..) >/dev/null; (cd shout && npm pack --silent --pack-destination ..) >/dev/null
mkdir -p "$DIR/app/vendor"; cp ./*.tgz "$DIR/app/vendor"; cd "$DIR/app"
echo '{"name":"app","version":"1.0.0","private":true,"scripts":{"say":"shout \"$(node -p \"require('"'words'"')(7)\")\""}}' > package.json
npm install --silent ./vendor/words-1.2.3.tgz ./vendor/shout-2.0.0.tgz
test "$(npm run --silent say)" = 'WORD 7!'
rm -r node_modules; npm ci --silent; test "$(npm run --silent say)" = 'WORD 7!'
test -L node_modules/.bin/shout; npm uninstall --silent words; test ! -e node_modules/words; npm install --silent ./vendor/words-1.2.3.tgz"#;
    let scratch = tempfile::tempdir().unwrap();
    let dir = daemon.path("");
    let variables = [("SCRATCH", scratch.path().as_os_str()), ("DIR", dir.as_os_str())];
    let output = sh_output(&daemon.path(""), script, &variables);
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    is_in_step(&place, &daemon);
    // The same from outside, and what a command installed is there when it has ended.
    let said = wsd(&daemon, &["exec", "--cwd", "app", "--", "npm", "run", "--silent", "say"]);
    assert_eq!(said, "WORD 7!\n");
    wsd(
        &daemon,
        &[
            "exec",
            "--cwd",
            "app",
            "-c",
            "--",
            "rm -r node_modules && npm ci --silent --offline --cache ../cache",
        ],
    );
    assert!(wsd(&daemon, &["find", "app", "--glob", "w*.js"]).lines().count() >= 200);
    is_in_step(&place, &daemon);
    daemon.stop();
    place.check();
}

/// Saves fifty times, with the workspace looking on; the last version has to arrive, and none is a conflict.
fn saves(place: &Place, save: &str) {
    saves_with(place, &format!("for i in $(seq 50); do {save}\ndone"));
}

fn saves_with(place: &Place, script: &str) {
    let daemon = serve(place);
    sh(
        &daemon.path(""),
        "mkdir -p src; echo 'text 0' > src/file; echo other > src/beside; chmod 640 src/file",
    );
    eventually("the file", || wsd(&daemon, &["ls", "src"]) == "beside\nfile\n");
    sh(&daemon.path("src"), script);
    eventually("the last version", || wsd(&daemon, &["cat", "src/file"]) == "text 50\n");
    // And back: what a call edits is what the editor reads next.
    wsd(&daemon, &["exec", "-c", "--", "grep -q 'text 50' src/file && sed -i s/50/51/ src/file"]);
    assert_eq!(wsd(&daemon, &["cat", "src/file"]), "text 51\n");
    is_in_step(place, &daemon);
    let mode = sh(&daemon.path("src"), "stat -c %a file");
    assert_eq!(mode, "640\n");
    daemon.stop();
    place.check();
}

#[test]
fn vim_itself_saves_in_each_of_its_ways() {
    if !has("vim") {
        return;
    }
    for ways in ["backupcopy=no", "backupcopy=yes", "backup backupcopy=no", "nowritebackup"] {
        let place = Place::new();
        saves(
            &place,
            &format!(
                "vim -Nu NONE -i NONE -es -c 'set {ways}' -c \"%s/.*/text $i/\" -c wq file < /dev/null; rm -f file~"
            ),
        );
    }
}

/// `files.atomicSave` and the ordinary way; what VS Code does, step by step.
#[test]
fn saves_as_of_vs_code_arrive() {
    if !has("python3") {
        return;
    }
    let atomic = "mode = os.stat('file').st_mode & 0o7777; f = os.open('file.vsctmp', os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode); \
        os.write(f, text); os.fsync(f); os.fchmod(f, mode); os.close(f); os.rename('file.vsctmp', 'file')";
    let in_place = "f = os.open('file', os.O_WRONLY); os.ftruncate(f, 0); os.write(f, text); os.fdatasync(f); os.close(f)";
    for body in [atomic, in_place] {
        let program = format!("import os\nfor i in range(1, 51): text = b'text %d\\n' % i; {body}");
        saves_with(&Place::new(), &format!("python3 -c \"{program}\""));
    }
}

#[test]
fn sed_and_perl_edit_in_place() {
    if !has("perl") {
        return;
    }
    for save in [
        "sed -i \"s/.*/text $i/\" file",
        "sed -i.bak \"s/.*/text $i/\" file; rm file.bak",
        "perl -pi -e \"s/.*/text $i/\" file",
    ] {
        saves(&Place::new(), save);
    }
}

#[test]
fn a_crate_is_built_tested_and_cleaned() {
    if !has("cargo") {
        return;
    }
    let place = Place::new();
    let daemon = serve(&place);
    let script = r#"
unset CARGO_TARGET_DIR RUSTFLAGS; export CARGO_INCREMENTAL=1
cargo new -q --lib --vcs none part; cargo new -q --vcs none whole; printf '[workspace]\nmembers = ["part", "whole"]\nresolver = "3"\n' > Cargo.toml
echo 'pub fn answer() -> u32 { 42 }  #[test] fn is_right() { assert_eq!(answer(), 42); }' > part/src/lib.rs
echo 'part = { path = "../part" }' >> whole/Cargo.toml; echo 'fn main() { println!("{}", part::answer()); }' > whole/src/main.rs
cargo test -q --offline >/dev/null; test "$(cargo run -q --offline)" = 42
sed -i 's/{ 42 }/{ 43 }/' part/src/lib.rs; test "$(cargo run -q --offline)" = 43
! cargo build --offline 2>&1 | grep Compiling"#;
    let output = sh_output(&daemon.path(""), script, &[]);
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(wsd(&daemon, &["exec", "--", "target/debug/whole"]), "43\n", "as a command too");
    is_in_step(&place, &daemon);
    sh(&daemon.path(""), "rm -r target");
    is_in_step(&place, &daemon);
    daemon.stop();
    place.check();
}

/// The kernel gives no sign of what is written to a page a second time, as long as the page is not on the disk.
#[test]
fn what_is_written_twice_through_a_mapping_arrives_as_it_is_in_the_end() {
    for events in ["1", "0"] {
        let place = Place::new();
        let daemon = place.serve_with(&[("FUSE_MOUNT", "shim"), ("SHIM_EVENTS", events)]);
        let script = r#"
import mmap, time
maps = {}
for number in range(40):
    with open(f"f{number}", "w+b") as file:
        file.truncate(8192)
        maps[number] = mmap.mmap(file.fileno(), 8192)
    maps[number][:5] = b"first"
    time.sleep(0.02)
    if number >= 20:
        maps[number - 20][:5] = b"again"
time.sleep(0.3)
for number in range(20, 40):
    maps[number][:5] = b"again"
time.sleep(1000)
"#;
        let mut python = Command::new("python3");
        let mut writer = python.args(["-c", script]).current_dir(daemon.path("")).spawn().unwrap();
        for number in 0..40 {
            let path = daemon.path(&format!("f{number}"));
            let path = path.to_str().unwrap();
            eventually(&format!("{path} is as it is"), || {
                let output =
                    Command::new(WSD).args(["cat", path]).env("PORT", daemon.port.to_string()).output();
                output.unwrap().stdout.starts_with(b"again")
            });
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
    }
}
