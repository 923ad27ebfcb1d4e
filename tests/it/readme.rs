//! What the README says works when pasted.

use crate::support::{Place, WSD, has, has_fuse, text};
use std::path::Path;
use std::process::{Command, Stdio};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The first block of shell commands in a section of the README.
fn block(section: &str) -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, after) = readme.split_once(&format!("## {section}\n")).unwrap();
    let (_, block) = after.split_once("```sh\n").unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

/// A port that nobody listens on at the moment.
fn port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn the_workspace_is_driven_from_outside_as_the_readme_says() {
    if !(has_fuse() && has("rustc")) {
        return;
    }
    let place = Place::new();
    let paste = block("Drive it from outside")
        .replace("/tmp/ws.db", place.store.to_str().unwrap())
        .replace("/tmp/ws ", &format!("{} ", place.point.display()));
    // A person takes a moment to type the second line; here somebody has to wait for the daemon.
    let (serve, rest) = paste.split_once('\n').unwrap();
    let wait = "for _ in $(seq 100); do wsd info > /dev/null 2>&1 && break; sleep 0.1; done";
    let script = format!("set -e\n{serve}\ntrap 'kill $!' EXIT\n{wait}\n{rest}");
    let path = format!("{}:{}", Path::new(WSD).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-c", &script]).env("PATH", path).env("PORT", port().to_string());
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains("hello\n"), "{said}");
    assert!(said.contains("println!(\"hello\")"), "{said}");
    assert!(said.contains("created ") && said.contains("/new\n"), "{said}");
}

#[test]
fn the_examples_run() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    let expected =
        |said: &str| said.contains("bytes written") && said.contains("hello.txt") && said.contains("exit ");
    let example = Path::new(WSD).parent().unwrap().join("examples/drive");
    let url = format!("ws://127.0.0.1:{}/ws", daemon.port);
    let output = Command::new(&example).env("WSD_URL", url).output().unwrap();
    let said = text(&output.stdout);
    assert!(
        output.status.success() && said.contains("hello from Rust") && expected(&said),
        "{said}{}",
        text(&output.stderr)
    );
    let Some(python) = crate::interop::python() else { return };
    let program = root().join("docs/examples/drive.py");
    let output = Command::new(python).arg(program).arg(daemon.port.to_string()).output().unwrap();
    let said = text(&output.stdout);
    assert!(
        output.status.success() && said.contains("hello from Python") && expected(&said),
        "{said}{}",
        text(&output.stderr)
    );
    daemon.stop();
}
