//! Settings, refusals, exit codes.

use crate::support::{Place, WSD, eventually, has_fuse, text};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn refused(output: &Output, code: i32) -> String {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert_eq!(said.lines().count(), 1, "one line, not: {said}");
    said
}

#[test]
fn a_value_that_makes_no_sense_stops_the_start() {
    let place = Place::new();
    for (variable, value) in
        [("PORT", "x"), ("FUSE_MOUNT", "maybe"), ("HOST", "0.0.0.0"), ("DISABLE_FUSE", "1")]
    {
        let said = refused(&place.command().env(variable, value).output().unwrap(), 2);
        assert!(said.contains(variable), "{said}");
    }
    assert!(!place.store.exists());
}

#[test]
fn a_flag_has_the_meaning_of_its_variable() {
    let place = Place::new();
    let said = refused(&place.command().args(["serve", "--port", "x"]).output().unwrap(), 2);
    assert!(said.contains("PORT"), "{said}");
}

#[test]
fn a_store_inside_the_mount_is_refused() {
    let place = Place::new();
    let output = place.command().env("WSD_DB", place.point.join("store.db")).output().unwrap();
    assert!(refused(&output, 1).contains("inside the mount point"));
}

#[test]
fn a_file_that_is_no_store_is_left_untouched() {
    let place = Place::new();
    for bytes in [&b"not a database, but somebody's letter"[..], &[b'x'; 5000]] {
        fs::write(&place.store, bytes).unwrap();
        let said = refused(&place.command().env("FUSE_MOUNT", "none").output().unwrap(), 1);
        assert!(said.contains("is not a wsd store"), "{said}");
        assert_eq!(fs::read(&place.store).unwrap(), bytes);
    }
    let beside: Vec<_> =
        fs::read_dir(place.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(beside, ["store.db"], "nothing was written beside it");
}

#[test]
fn a_store_in_use_is_refused_with_the_process_that_has_it() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    let said = refused(&place.command().env("FUSE_MOUNT", "none").output().unwrap(), 1);
    assert!(said.contains(&daemon.pid().to_string()), "{said}");
    let check = Command::new(WSD).args(["check", "--db"]).arg(&place.store).output().unwrap();
    assert!(refused(&check, 1).contains("in use"));
    daemon.stop();
    place.check();
}

#[test]
fn a_store_of_a_newer_wsd_is_refused_with_both_versions() {
    let place = Place::new();
    place.serve_with(&[("FUSE_MOUNT", "none")]).stop();
    let mut bytes = fs::read(&place.store).unwrap();
    bytes[60..64].copy_from_slice(&99i32.to_be_bytes());
    fs::write(&place.store, &bytes).unwrap();
    let said = refused(&place.command().env("FUSE_MOUNT", "none").output().unwrap(), 1);
    assert!(said.contains("version 99") && said.contains("up to 6"), "{said}");
    assert_eq!(fs::read(&place.store).unwrap(), bytes);
}

#[test]
fn run_ends_with_the_exit_code_of_its_command() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let run = |script: &str| {
        let mut command = Command::new(WSD);
        command.arg("run").arg("--mount-point").arg(&place.point).arg("--db").arg(&place.store);
        command.args(["--", "sh", "-c", script]).output().unwrap()
    };
    let output = run("pwd; echo kept > file; exit 7");
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).trim(), place.point.to_str().unwrap());
    let output = run("cat file; kill -9 $$");
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("kept\n", Some(137)));
    assert_eq!(text(&output.stderr), "", "run says nothing of its own");
    place.check();
}

#[test]
fn check_names_what_is_wrong() {
    let place = Place::new();
    place.serve_with(&[("FUSE_MOUNT", "none")]).stop();
    place.check();
    let connection = rusqlite::Connection::open(&place.store).unwrap();
    connection.execute("UPDATE inode SET nlink = 5 WHERE ino = 1", []).unwrap();
    drop(connection);
    let output = Command::new(WSD).args(["check", "--db"]).arg(&place.store).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "directory 1: 5 links, 0 directories in it\n");
}

#[test]
fn gc_gives_space_back() {
    let place = Place::new();
    place.serve_with(&[("FUSE_MOUNT", "none")]).stop();
    let output = Command::new(WSD).args(["gc", "--json", "--db"]).arg(&place.store).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["chunks"], 0);
}

#[test]
fn a_store_in_memory_leaves_no_file() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none"), ("WSD_DB", "memory")]);
    assert_eq!(daemon.ask("GET /health?ready", "").0, 200);
    daemon.stop();
    assert!(!place.store.exists());
}

/// Whoever can read the store can read every file of the workspace, whatever modes they have.
#[test]
fn a_store_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let store = place.dir.path().join("new/deep/store.db");
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none"), ("WSD_DB", store.to_str().unwrap())]);
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(store.parent().unwrap()), 0o700);
    for entry in fs::read_dir(store.parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{path:?}");
    }
    daemon.stop();
}

#[test]
fn what_is_no_store_is_not_checked_by_making_one_of_it() {
    let place = Place::new();
    fs::write(&place.store, b"").unwrap();
    let check = Command::new(WSD).args(["check", "--db"]).arg(&place.store).output().unwrap();
    assert!(refused(&check, 1).contains("is not a wsd store"));
    assert_eq!(fs::metadata(&place.store).unwrap().len(), 0);
}

#[test]
fn who_stops_listening_to_a_check_is_no_flaw_of_it() {
    let place = Place::new();
    place.serve_with(&[("FUSE_MOUNT", "none")]).stop();
    for command in ["check", "gc"] {
        let script = format!("{WSD} {command} --json --db {} > /dev/full", place.store.display());
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
}

/// coreutils' timeout signals a command and its group. The second signal ended the stop.
#[test]
fn a_signal_that_comes_doubled_and_a_hangup_stop_in_order() {
    if !has_fuse() {
        return;
    }
    for signals in [&["TERM", "TERM", "INT"][..], &["HUP"]] {
        let place = Place::new();
        let daemon = place.serve();
        fs::write(daemon.path("file"), vec![b'x'; 3 << 20]).unwrap();
        signals[1..].iter().for_each(|signal| daemon.signal(signal));
        if signals.len() == 1 {
            daemon.signal("HUP");
        }
        daemon.stop();
        place.check();
        let daemon = place.serve();
        assert_eq!(fs::read(daemon.path("file")).unwrap().len(), 3 << 20);
        daemon.stop();
    }
}

#[test]
fn the_command_of_run_is_given_variables_and_no_token() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let mut command = place.command();
    command.env("WSD_TOKEN", "secret-of-sixteen-letters").env("WSD_VAR_GIVEN", "yes");
    command.args(["run", "--", "sh", "-c", "echo $GIVEN ${WSD_TOKEN-none}"]);
    let output = command.output().unwrap();
    assert_eq!(text(&output.stdout), "yes none\n", "{}", text(&output.stderr));
}

/// Signals `wsd run` itself, as whoever supervises it does, once its command says that it is there; the exit code.
fn signalled(script: &str, signals: &[&str]) -> Option<i32> {
    let place = Place::new();
    let mut command = place.command();
    // Not in the foreground of a terminal, whose signals reach the command by themselves.
    command.args(["run", "--", "sh", "-c", script]).stdout(Stdio::piped()).process_group(0);
    let mut run = command.spawn().unwrap();
    let mut said = BufReader::new(run.stdout.take().unwrap());
    said.read_line(&mut String::new()).unwrap();
    for (number, signal) in signals.iter().enumerate() {
        std::thread::sleep(Duration::from_millis(if number > 0 { 400 } else { 0 }));
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(run.id().to_string()).status();
        assert!(sent.unwrap().success());
    }
    let code = run.wait().unwrap().code();
    place.check();
    code
}

#[test]
fn run_passes_signals_on_and_does_not_wait_for_who_ignores_them() {
    if !has_fuse() {
        return;
    }
    let waits = "while :; do sleep 0.05; done";
    for (signal, code) in [("TERM", 143), ("INT", 130), ("HUP", 143)] {
        assert_eq!(signalled(&format!("echo ready; {waits}"), &[signal]), Some(code), "{signal}");
    }
    let handled = format!("trap 'exit 5' INT; echo ready; {waits}");
    assert_eq!(signalled(&handled, &["INT"]), Some(5));
    let deaf = format!("trap '' TERM; echo ready; {waits}");
    assert_eq!(signalled(&deaf, &["TERM", "TERM"]), Some(137));
}

#[test]
fn run_tells_what_cannot_be_run_from_what_is_not_there() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let plain = place.dir.path().join("plain");
    fs::write(&plain, b"text").unwrap();
    for (program, code) in [(plain.to_str().unwrap(), 126), ("/none/such", 127)] {
        let output = place.command().args(["run", "--", program]).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains(program));
    }
}

/// Some supervisors ignore SIGCHLD, and whoever they start does too: nobody knew how the command had ended.
#[test]
fn run_knows_how_its_command_ended_whatever_was_ignored_before() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let mut command = Command::new("env");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.args(["--ignore-signal=CHLD", WSD, "run", "--mount-point"]).arg(&place.point);
    let output = command.arg("--db").arg(&place.store).args(["--", "sh", "-c", "exit 3"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
}

#[test]
fn the_address_that_is_printed_is_one() {
    let place = Place::new();
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return crate::support::skip("there is no IPv6");
    }
    let mut command = place.command();
    command.env("HOST", "::1").env("FUSE_MOUNT", "none").stdout(Stdio::piped());
    let mut daemon = command.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut said).unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert!(said.starts_with("wsd listens on http://[::1]:"), "{said}");
}

/// A pipe takes 64 KiB, and then whoever writes to it waits.
#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    let place = Place::new();
    let (unread, stderr) = std::io::pipe().unwrap();
    let mut command = place.command();
    command.env("FUSE_MOUNT", "none").env("WSD_LOG", "trace");
    let daemon = place.start_saying_to(command, stderr);
    let begin = Instant::now();
    for _ in 0..2000 {
        assert_eq!(daemon.ask("GET /health?ready", "").0, 200);
    }
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    let reader = std::thread::spawn(move || std::io::read_to_string(unread).unwrap());
    std::thread::sleep(Duration::from_millis(300));
    daemon.ask("GET /health", "");
    daemon.stop();
    let log = reader.join().unwrap();
    assert!(log.contains("lines of the log were left out: nobody read them"), "{} bytes", log.len());
}

/// The start waited for somebody who reads, without a word and without a port.
#[test]
fn a_log_file_that_is_a_pipe_keeps_nobody_waiting() {
    let place = Place::new();
    let pipe = place.dir.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let settings = [("FUSE_MOUNT", "none"), ("LOG_FILE", pipe.to_str().unwrap())];
    let mut command = place.command();
    let mut child = command.envs(settings).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the refusal", || child.try_wait().unwrap().is_some());
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("LOG_FILE"), "{said}");
    let mut reader = fs::File::options().read(true).write(true).open(&pipe).unwrap();
    let daemon = place.serve_with(&settings);
    let mut read = [0; 4096];
    let read = reader.read(&mut read).map(|length| text(&read[..length])).unwrap();
    assert!(read.contains("INFO"), "{read}");
    daemon.stop();
}
