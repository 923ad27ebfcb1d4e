//! The rooms of the house, and who may use what: read from the sources.

use std::fs;
use std::path::{Path, PathBuf};

/// Each room, and the rooms it may use.
const ROOMS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("cgroup", &[]),
    ("memory", &["cgroup"]),
    ("clock", &[]),
    ("store", &["error", "clock"]),
    ("vfs", &["error", "clock", "memory", "store"]),
    ("mount", &["error", "clock", "memory", "store", "vfs"]),
    ("sync", &["error", "clock", "store", "vfs"]),
    ("replica", &["error", "clock", "store", "vfs", "sync"]),
    ("service", &["error", "store", "vfs", "exec"]),
    ("wire", &[]),
    ("parcel", &["clock", "store", "sync"]),
    ("metrics", &["sync"]),
    ("exec", &["cgroup", "clock", "store"]),
    ("rpc", &["clock", "store", "vfs", "service", "exec", "wire", "metrics", "sync", "parcel", "replica"]),
    ("config", &["mount", "store", "sync"]),
    ("telemetry", &["error", "config", "mount"]),
    ("workspace", &["error", "store", "vfs", "mount", "config"]),
    ("outbound", &["client", "rpc"]),
    (
        "http",
        &["error", "store", "config", "workspace", "service", "rpc", "metrics", "sync", "parcel", "outbound"],
    ),
    (
        "daemon",
        &[
            "error",
            "config",
            "memory",
            "mount",
            "workspace",
            "http",
            "service",
            "exec",
            "rpc",
            "metrics",
            "sync",
            "outbound",
            "replica",
            "upstream",
        ],
    ),
    ("client", &["error", "wire", "store", "sync", "parcel"]),
    ("upstream", &["client", "store", "sync", "parcel", "replica"]),
    ("cli", &["exec", "sync", "parcel", "config", "telemetry", "store", "mount", "daemon", "client"]),
];

/// Crates that only these rooms may use.
const CRATES: &[(&str, &[&str])] = &[
    ("rusqlite", &["store"]),
    ("fuser", &["mount"]),
    ("wsd_shim", &["mount"]),
    ("axum", &["http"]),
    ("clap", &["config", "cli"]),
    ("capnp", &["wire", "parcel", "rpc", "client"]),
    ("wsd_schema", &["wire", "parcel", "rpc", "client"]),
    ("zstd", &["parcel"]),
    ("tokio", &["wire", "rpc", "client", "upstream", "replica", "outbound", "exec", "http", "daemon", "cli"]),
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

/// What compares two trees and decides has neither I/O nor clock, and nothing of the shim knows wsd.
#[test]
fn the_shim_decides_without_looking() {
    let shim = root().join("../shim/src");
    let diff = fs::read_to_string(shim.join("diff.rs")).unwrap();
    for word in ["std::fs", "std::time", "std::io", "rustix", "dyn Tree"] {
        assert!(!diff.contains(word), "diff.rs uses {word}");
    }
    let mut files = Vec::new();
    sources(&shim, &mut files);
    for file in files {
        let code = fs::read_to_string(&file).unwrap();
        for word in ["rusqlite", "capnp", "wsd::", "tokio"] {
            assert!(!code.contains(word), "{} uses {word}", file.display());
        }
    }
}

/// The only rooms that the compiler cannot vouch for.
#[test]
fn what_is_unsafe_is_listed() {
    let mut files = Vec::new();
    for place in ["", "../shim/src", "../schema/src", "../tests/it"] {
        sources(&root().join(place), &mut files);
    }
    let is_unsafe = |file: &PathBuf| {
        let code = fs::read_to_string(file).unwrap();
        code.contains(concat!("unsafe", " {")) || code.contains(concat!("allow(unsafe", "_code"))
    };
    files.retain(is_unsafe);
    files.sort();
    assert_eq!(
        files,
        ["exec/start.rs", "memory.rs", "store/wal/tests.rs", "store/wal.rs"].map(|file| root().join(file))
    );
}

#[test]
fn no_file_is_crowded() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    sources(&root().join("../shim/src"), &mut files);
    for file in files {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= 500, "{} has {lines} lines: split it", file.display());
    }
}
