//! The rooms of the house, and who may use what: read from the sources.

use std::fs;
use std::path::{Path, PathBuf};

/// Each room, and the rooms it may use.
const ROOMS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("clock", &[]),
    ("store", &["error", "clock"]),
    ("vfs", &["error", "clock", "store"]),
    ("mount", &["error", "clock", "store", "vfs"]),
    ("service", &["error", "store", "vfs", "exec"]),
    ("wire", &[]),
    ("metrics", &[]),
    ("exec", &["clock", "store"]),
    ("rpc", &["clock", "store", "vfs", "service", "exec", "wire", "metrics"]),
    ("config", &["mount", "store"]),
    ("telemetry", &["config", "mount"]),
    ("workspace", &["error", "store", "vfs", "mount", "config"]),
    ("http", &["error", "store", "config", "workspace", "service", "rpc", "metrics"]),
    ("daemon", &["error", "config", "mount", "workspace", "http", "service", "exec", "rpc", "metrics"]),
    ("client", &["wire"]),
    ("cli", &["exec", "config", "telemetry", "store", "mount", "daemon", "client"]),
];

/// Crates that only these rooms may use.
const CRATES: &[(&str, &[&str])] = &[
    ("rusqlite", &["store"]),
    ("fuser", &["mount"]),
    ("axum", &["http"]),
    ("clap", &["config", "cli"]),
    ("capnp", &["wire", "rpc", "client"]),
    ("wsd_schema", &["wire", "rpc", "client"]),
    ("tokio", &["wire", "rpc", "client", "exec", "http", "daemon", "cli"]),
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn room_of(source: &Path) -> String {
    let below = source.strip_prefix(root()).unwrap();
    let first = below.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn dependencies_point_one_way() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let room = room_of(&file);
        if matches!(room.as_str(), "lib" | "main") {
            continue;
        }
        let code = fs::read_to_string(&file).unwrap();
        let (_, allowed) =
            ROOMS.iter().find(|(name, _)| *name == room).unwrap_or_else(|| panic!("a new room: {room}"));
        for (other, _) in ROOMS {
            let used =
                code.contains(&format!("crate::{other}::")) || code.contains(&format!("crate::{other};"));
            if used && *other != room && !allowed.contains(other) {
                wrong.push(format!("{} uses crate::{other}", file.display()));
            }
        }
        for (name, users) in CRATES {
            let used = code.contains(&format!("{name}::")) && !users.contains(&room.as_str());
            if used {
                wrong.push(format!("{} uses {name}", file.display()));
            }
        }
        if room != "config" && code.contains("std::env::var") && !file.ends_with("tests.rs") {
            wrong.push(format!("{} reads the environment", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_is_crowded() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    for file in files {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= 500, "{} has {lines} lines: split it", file.display());
    }
}
