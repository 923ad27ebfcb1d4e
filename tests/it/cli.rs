//! Settings, refusals, exit codes.

use crate::support::{Place, WSD, has_fuse, text};
use std::fs;
use std::process::{Command, Output};

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
    assert!(said.contains("version 99") && said.contains("up to 4"), "{said}");
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
