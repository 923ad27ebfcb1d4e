//! `wsd stats --watch`, in a terminal of its own.

use crate::support::{Place, WSD, eventually, has_fuse, text};
use pty_process::blocking::{Command as InTerminal, Pts, Pty, open};
use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

const ROWS: u16 = 30;
const COLUMNS: u16 = 110;

/// A terminal, and what is on its screen.
struct Terminal {
    pty: Arc<Pty>,
    screen: Arc<Mutex<vt100::Parser>>,
}

fn parser() -> vt100::Parser {
    let [rows, columns] = [ROWS, COLUMNS].map(|count| std::num::NonZero::new(count).unwrap());
    vt100::Parser::new(rows, columns, 0)
}

impl Terminal {
    fn new() -> (Self, Pts) {
        let (pty, pts) = open().unwrap();
        pty.resize(pty_process::Size::new(ROWS, COLUMNS)).unwrap();
        let (pty, screen) = (Arc::new(pty), Arc::new(Mutex::new(parser())));
        let (reader, drawn) = (Arc::clone(&pty), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = (&*reader).read(&mut bytes) {
                drawn.lock().unwrap().process(&bytes[..count]);
            }
        });
        (Self { pty, screen }, pts)
    }

    fn shows(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    fn is_taken(&self) -> bool {
        let screen = self.screen.lock().unwrap();
        screen.screen().alternate_screen() || screen.screen().hide_cursor()
    }

    fn waits_for(&self, text: &str) {
        let found = std::panic::catch_unwind(|| eventually(text, || self.shows().contains(text)));
        assert!(found.is_ok(), "{text:?} is not shown:\n{}", self.shows());
    }
}

/// A shell in the terminal, so that what was there before and comes after is seen.
fn watch(pts: Pts, port: u16) -> Child {
    let script = "before=$(stty -g); echo BEFORE; \"$WSD\" stats --watch; code=$?; \
                  [ \"$before\" = \"$(stty -g)\" ] && echo \"AS IT WAS $code\"; sleep 60";
    let command = InTerminal::new("bash").args(["-c", script]).env_clear();
    let path = std::env::var_os("PATH").unwrap();
    let command = command.env("PATH", path).env("WSD", WSD).env("TERM", "xterm-256color");
    command.env("PORT", port.to_string()).spawn(pts).unwrap()
}

fn leave(terminal: &Terminal, mut shell: Child, how: impl FnOnce()) {
    assert!(terminal.is_taken());
    how();
    terminal.waits_for("AS IT WAS 0");
    let shown = terminal.shows();
    assert!(!terminal.is_taken() && shown.contains("BEFORE") && !shown.contains("revisions"), "{shown}");
    shell.kill().unwrap();
    shell.wait().unwrap();
}

#[test]
fn the_view_shows_what_goes_on_and_leaves_no_trace() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    let (terminal, pts) = Terminal::new();
    let shell = watch(pts, daemon.port);
    terminal.waits_for("commands: 0 run, 0 ended");
    for part in [
        place.point.to_str().unwrap(),
        "by fuse",
        "up ",
        "written",
        "read",
        "changes",
        "last change",
        "store",
    ] {
        terminal.waits_for(part);
    }
    let busy = "while :; do head -c 300000 /dev/zero > zeros; sleep 0.05; done";
    let mut command = Command::new(WSD);
    command.args(["exec", "-c", "--", busy]).env_clear().env("PORT", daemon.port.to_string());
    let mut running = command.stdout(Stdio::null()).spawn().unwrap();
    terminal.waits_for("commands: 1 run, 0 ended");
    terminal.waits_for("head -c 300000");
    eventually("the throughput", || {
        let shown = terminal.shows();
        let (_, written) = shown.split_once("written ").unwrap();
        let (amount, unit) = written.split_once("/s").unwrap().0.split_once(' ').unwrap();
        amount.parse::<f64>().unwrap() > 0.0 && (unit == "MiB" || unit == "KiB")
    });
    leave(&terminal, shell, || (&*terminal.pty).write_all(b"q").unwrap());
    running.kill().unwrap();
    running.wait().unwrap();
    daemon.stop();
}

#[test]
fn the_view_is_left_by_ctrl_c_and_by_a_signal() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    let (terminal, pts) = Terminal::new();
    let shell = watch(pts, daemon.port);
    terminal.waits_for("by none");
    leave(&terminal, shell, || (&*terminal.pty).write_all(b"\x03").unwrap());
    let (terminal, pts) = Terminal::new();
    let shell = watch(pts, daemon.port);
    terminal.waits_for("by none");
    let parent = shell.id().to_string();
    leave(&terminal, shell, || {
        assert!(Command::new("pkill").args(["-TERM", "-P", &parent, "wsd"]).status().unwrap().success());
    });
    daemon.stop();
}

#[test]
fn the_view_survives_the_daemon() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    let port = daemon.port;
    let (terminal, pts) = Terminal::new();
    let shell = watch(pts, port);
    terminal.waits_for("by none");
    daemon.stop();
    terminal.waits_for("cannot connect to");
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none"), ("PORT", &port.to_string())]);
    eventually("the daemon's return", || !terminal.shows().contains("cannot connect to"));
    leave(&terminal, shell, || (&*terminal.pty).write_all(b"q").unwrap());
    daemon.stop();
}

#[test]
fn without_a_terminal_there_is_a_line_a_second() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    let port = daemon.port.to_string();
    let mut command = Command::new(WSD);
    command.args(["stats", "--watch"]).env_clear().env("PORT", &port).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(
        output.status.code() == Some(2) && text(&output.stderr).contains("needs a terminal; with --json")
    );
    let lines = format!("{WSD} stats --watch --json | head -n 2");
    let output = Command::new("sh").args(["-c", &lines]).env("PORT", &port).output().unwrap();
    let said = text(&output.stdout);
    let lines: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() == 2 && lines[1]["uptimeMs"].as_u64() > lines[0]["uptimeMs"].as_u64(), "{said}");
    daemon.stop();
}

#[test]
fn the_version_says_what_was_built() {
    let said = |flag: &str| text(&Command::new(WSD).arg(flag).output().unwrap().stdout);
    assert_eq!(said("-V"), format!("wsd {}\n", env!("CARGO_PKG_VERSION")));
    let long = said("--version");
    let (_, commit) = long.split_once("\ncommit: ").unwrap();
    let commit = commit.lines().next().unwrap();
    assert!(long.contains("\nfeatures: fuse ") && !commit.is_empty(), "{long}");
    let root = env!("CARGO_MANIFEST_DIR");
    let git = Command::new("git").args(["-C", root, "rev-parse", "HEAD"]).output();
    let is_given = option_env!("WSD_COMMIT").is_some();
    if let (false, Ok(git)) = (is_given, git)
        && git.status.success()
        && fs::exists(format!("{root}/.git")).unwrap()
    {
        assert_eq!(commit, text(&git.stdout).trim());
    }
}
