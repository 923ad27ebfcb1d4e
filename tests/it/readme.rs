//! What the README says works when pasted. Every block of it is known here, by its first line.

use crate::support::{Place, WSD, has, has_fuse, skip, text};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Each block of shell commands, by how it begins, and the test that runs it.
const BLOCKS: &[(&str, &str)] = &[
    ("scripts/demo.sh", "the_main_job_is_done"),
    ("scripts/check.sh", "ci_runs_what_the_readme_says"),
    ("cargo install", "it_is_installed_and_used"),
    ("wsd serve --mount-point", "the_workspace_is_driven_from_outside"),
    ("wsd serve --port", "a_hub_and_two_replicas"),
    ("wsd serve --fuse-mount shim", "a_directory_on_a_laptop"),
    ("cargo run --example drive", "the_examples_run"),
    ("docker build", "the_containers_work"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn blocks() -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = readme.split("```sh\n").skip(1).map(|rest| rest.split_once("```").unwrap().0.to_owned());
    blocks.collect()
}

/// The block that begins so.
fn block(beginning: &str) -> String {
    let found = blocks().into_iter().find(|block| block.starts_with(beginning));
    found.unwrap_or_else(|| panic!("the README has no block that begins with {beginning:?}"))
}

/// A port that nobody listens on at the moment.
fn port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Pastes into a shell that finds our build as `wsd`.
fn paste(script: &str, port: u16) -> Output {
    let script = format!("export PORT={port}\n{script}");
    shell(&script).current_dir(root()).output().unwrap()
}

/// The same somewhere else, which is home.
fn paste_at(script: &str, home: &Path) -> Output {
    shell(script).current_dir(home).env("HOME", home).output().unwrap()
}

fn shell(script: &str) -> Command {
    let path = format!("{}:{}", Path::new(WSD).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-c", &format!("set -e\n{script}")]).env("PATH", path);
    command.env_remove("WSD_URL").stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    said
}

#[test]
fn every_block_is_run_by_somebody() {
    let tests = std::fs::read_to_string(root().join("tests/it/readme.rs")).unwrap();
    for block in blocks() {
        let runs = BLOCKS.iter().filter(|(beginning, _)| block.starts_with(beginning)).count();
        assert_eq!(runs, 1, "so many run this block:\n{block}");
    }
    for (beginning, test) in BLOCKS {
        let (_, body) = tests.split_once(&format!("fn {test}()")).unwrap();
        let body = body.split_once("\n}\n").unwrap().0;
        let words: Vec<&str> = beginning.split(' ').collect();
        let named =
            (1..=words.len()).any(|count| body.contains(&format!("\"{}\"", words[..count].join(" "))));
        assert!(named, "{test} does not run the block {beginning:?}");
        drop(block(beginning));
    }
}

#[test]
fn the_main_job_is_done() {
    if !(has_fuse() && has("rustc") && has("git")) {
        return;
    }
    // As it is written, but for the release build, which has a step of its own.
    let output = Command::new("bash")
        .args(["-c", &block("scripts/demo.sh")])
        .env("WSD", WSD)
        .current_dir(root())
        .output();
    let said = said(&output.unwrap());
    assert_eq!(said.matches("2 + 2 = 4\n").count(), 3, "{said}");
    assert!(said.contains("Done: it was mounted, it was kept"), "{said}");
}

#[test]
fn ci_runs_what_the_readme_says() {
    let test = block("scripts/check.sh");
    let ci = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(ci.trim_end().ends_with(&format!("exec {}", test.trim_end())));
    for script in [".ci/run", "scripts/check.sh", "scripts/demo.sh"] {
        let mode = std::fs::metadata(root().join(script)).unwrap().permissions().mode();
        assert!(mode & 0o111 == 0o111, "{script} is executable");
    }
}

#[test]
fn it_is_installed_and_used() {
    if !(has_fuse() && has("git")) {
        return;
    }
    let place = Place::new();
    let block = block("cargo install");
    let (install, used) = block.split_once('\n').unwrap();
    // scripts/check.sh does this part, into a directory of its own.
    let check = std::fs::read_to_string(root().join("scripts/check.sh")).unwrap();
    assert!(check.contains("cargo install --locked") && check.contains("--path ."), "{install}");
    let used = used.replace("/tmp/ws.db", place.store.to_str().unwrap());
    let used = used.replace("/tmp/ws ", &format!("{} ", place.point.display()));
    let said = said(&paste(&used, 0));
    assert!(said.contains("No commits yet"), "{said}");
    place.check();
}

#[test]
fn the_workspace_is_driven_from_outside() {
    if !(has_fuse() && has("rustc")) {
        return;
    }
    let place = Place::new();
    let block = block("wsd serve --mount-point")
        .replace("/tmp/ws.db", place.store.to_str().unwrap())
        .replace("/tmp/ws ", &format!("{} ", place.point.display()));
    // A person takes a moment to type the second line; here somebody has to wait for the daemon.
    let (serve, rest) = block.split_once('\n').unwrap();
    let wait = "for _ in $(seq 100); do wsd info > /dev/null 2>&1 && break; sleep 0.1; done";
    let output = paste(&format!("{serve}\ntrap 'kill $!' EXIT\n{wait}\n{rest}"), port());
    let said = said(&output);
    assert!(said.contains("hello\n"), "{said}");
    assert!(said.contains("println!(\"hello\")"), "{said}");
    assert!(said.contains("created ") && said.contains("/new\n"), "{said}");
}

#[test]
fn the_examples_run() {
    if !has_fuse() {
        return;
    }
    let Some(python) = crate::interop::python() else { return };
    let place = Place::new();
    let daemon = place.serve();
    // The example is built with the tests; Cargo would wait for whoever runs these.
    let example = Path::new(WSD).parent().unwrap().join("examples/drive");
    let block = block("cargo run --example drive");
    let block = block.replace("cargo run --example drive", example.to_str().unwrap());
    let url = format!("export WSD_URL=ws://127.0.0.1:{}/ws\n", daemon.port);
    let said = said(&paste(&(url + &block.replace("python3", &python)), daemon.port));
    for part in ["hello from Rust", "hello from Python", "bytes written", "hello.txt", "exit "] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    daemon.stop();
}

#[test]
fn a_hub_and_two_replicas() {
    if !(has_fuse() && has("git")) {
        return;
    }
    let place = Place::new();
    let dir = place.dir.path().canonicalize().unwrap();
    let mut script = block("wsd serve --port").replace("/tmp/", &format!("{}/", dir.display()));
    for given in ["4570", "4571", "4572"] {
        script = script.replace(given, &port().to_string());
    }
    // A person ends them one by one.
    let script =
        format!("git config --global init.defaultBranch main\ntrap 'kill $(jobs -p); wait' EXIT\n{script}");
    let said = said(&paste_at(&script, &dir));
    assert!(said.ends_with("written at one\n?? file\n"), "{said}");
    for store in ["hub.db", "one.db", "two.db"] {
        let check = Command::new(WSD).args(["check", "--db"]).arg(dir.join(store)).output().unwrap();
        assert!(check.status.success(), "{store}: {}", text(&check.stdout));
    }
}

#[test]
fn a_directory_on_a_laptop() {
    let home = tempfile::tempdir().unwrap();
    let project = home.path().join("project");
    std::fs::create_dir(&project).unwrap();
    std::fs::write(project.join("mine"), "here before\n").unwrap();
    let block = block("wsd serve --fuse-mount shim");
    // A person takes a moment to type the second line.
    let (serve, rest) = block.split_once('\n').unwrap();
    let wait = "for _ in $(seq 100); do wsd info > /dev/null 2>&1 && break; sleep 0.1; done";
    let script = format!(
        "export PORT={}\n{serve}\ntrap 'kill $!; wait $!' EXIT\n{wait}\n{rest}\nwsd cat mine\n\
         echo saved > ~/project/saved; until wsd cat saved 2> /dev/null; do sleep 0.02; done",
        port()
    );
    let said = said(&paste_at(&script, home.path()));
    assert!(said.contains(" mine\n") && said.ends_with("here before\nsaved\n"), "{said}");
    assert!(std::fs::read_to_string(project.join("made-by-a-command")).unwrap().contains(':'));
}

/// `scripts/containers.sh` runs the block as it is written, with podman in the place of docker, as a part of
/// `scripts/check.sh`; here it is with docker, where that is.
#[test]
fn the_containers_work() {
    let script = std::fs::read_to_string(root().join("scripts/containers.sh")).unwrap();
    assert!(script.contains("/^docker build/") && script.contains("README.md"), "it reads the block");
    assert!(
        std::fs::read_to_string(root().join("scripts/check.sh")).unwrap().contains("scripts/containers.sh")
    );
    let block = block("docker build");
    assert!(block.contains("\ndocker run --rm "), "the script waits before the last command");
    let reachable = Command::new("docker").args(["image", "inspect", "debian:bookworm-slim"]).output();
    if !reachable.is_ok_and(|output| output.status.success()) {
        return;
    }
    let undo = "trap 'docker rm -f wsd; umount /srv/workspace' EXIT\n";
    let said = said(&paste(&format!("{undo}{block}"), 0));
    assert!(said.contains("file"), "{said}");
}

#[test]
fn the_chart_shows_the_figures() {
    if !has("python3") {
        return;
    }
    let check = Command::new("python3").arg(root().join("scripts/chart.py")).arg("--check").output().unwrap();
    assert!(check.status.success(), "{}", text(&check.stderr));
}

/// No link of the documents leads nowhere.
#[test]
fn links_lead_somewhere() {
    let documents =
        Command::new("git").args(["-C", root().to_str().unwrap(), "ls-files", "*.md"]).output().unwrap();
    let listed = text(&documents.stdout);
    if listed.is_empty() {
        return skip("the sources are not a git checkout");
    }
    for document in listed.lines() {
        let content = std::fs::read_to_string(root().join(document)).unwrap();
        let links = content.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links.filter(|link| !link.contains("://")) {
            let file = link.split('#').next().unwrap();
            let target = root().join(document).parent().unwrap().join(file);
            assert!(target.exists(), "{document} links to {link}");
        }
    }
}
