//! The status page, and what it asks for.

use crate::support::{Daemon, Place, eventually, has_fuse};
use serde_json::Value;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

fn json(daemon: &Daemon, path: &str) -> Value {
    let (status, head, body) = daemon.ask(&format!("GET {path}"), "");
    assert_eq!(status, 200, "{path}: {body}");
    for header in ["x-content-type-options: nosniff", "cross-origin-resource-policy: same-origin", "no-store"]
    {
        assert!(head.contains(header), "{header} is not in {head}");
    }
    serde_json::from_str(&body).unwrap()
}

#[test]
fn the_page_is_whole_and_may_load_nothing_else() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    let (status, head, body) = daemon.ask("GET /__wsd/ui", "");
    assert!(status == 200 && head.contains("content-type: text/html"), "{head}");
    let (_, policy) = head.split_once("content-security-policy: ").unwrap();
    let policy = policy.lines().next().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let (_, nonce) = policy.split_once("script-src 'nonce-").unwrap();
    let nonce = nonce.split('\'').next().unwrap();
    assert!(nonce.len() == 32 && body.matches(&format!("nonce=\"{nonce}\"")).count() == 2, "{nonce}");
    assert!(!body.contains("NONCE"));
    assert_ne!(daemon.ask("GET /__wsd/ui", "").1, head, "another number each time");
    // Nothing of somebody else's becomes markup, and nothing comes from elsewhere.
    for never in ["innerHTML", "http://", "https://", "//cdn", " onclick=", "style=\"", "eval("] {
        assert!(!body.contains(never), "{never}");
    }
    assert_eq!(daemon.ask("POST /__wsd/ui", "").0, 405);
    assert_eq!(daemon.ask("GET /__wsd/ui/nothing", "").0, 404);
    daemon.stop();
}

#[test]
fn with_a_secret_the_page_needs_it() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none"), ("WSD_TOKEN", "s3cret")]);
    for path in ["", "/tree", "/changes", "/commands", "/output?id=x"] {
        let request = format!("GET /__wsd/ui{path}");
        assert_eq!(daemon.ask(&request, "").0, 401, "{path}");
        assert_eq!(daemon.ask(&request, "Authorization: Bearer s3cret\r\n").0, 200, "{path}");
    }
    daemon.stop();
}

#[test]
fn directories_and_changes_are_shown_as_they_are() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    let odd = std::ffi::OsStr::from_bytes(b"a &<b>\xff%");
    fs::create_dir_all(daemon.path("src").join(odd)).unwrap();
    fs::write(daemon.path("src").join(odd).join("file"), "12345").unwrap();
    for index in 0..600 {
        fs::write(daemon.path(&format!("many-{index}")), "").unwrap();
    }
    let root = json(&daemon, "/__wsd/ui/tree");
    assert_eq!(root["path"], place.point.to_str().unwrap());
    let mut count = root["entries"].as_array().unwrap().len();
    let mut next = root["next"].as_u64();
    while let Some(after) = next {
        let page = json(&daemon, &format!("/__wsd/ui/tree?path=&after={after}"));
        count += page["entries"].as_array().unwrap().len();
        next = page["next"].as_u64();
    }
    assert_eq!(count, 601);
    let below = json(&daemon, "/__wsd/ui/tree?path=src");
    let entry = &below["entries"][0];
    assert_eq!(entry["name"], "a &<b>\u{fffd}%");
    let file = json(&daemon, &format!("/__wsd/ui/tree?path={}", entry["link"].as_str().unwrap()));
    let file = &file["entries"][0];
    assert_eq!(
        (file["name"].as_str(), file["size"].as_u64(), file["kind"].as_str()),
        (Some("file"), Some(5), Some("file"))
    );
    for (path, code) in [("nothing", "ENOENT"), ("%2e%2e", "ENOENT"), ("many-1", "ENOTDIR"), ("%4", "EINVAL")]
    {
        let answer = json(&daemon, &format!("/__wsd/ui/tree?path={path}"));
        assert!(answer["error"].as_str().unwrap().contains(code), "{path}: {answer}");
    }
    fs::rename(daemon.path("many-1"), daemon.path("moved")).unwrap();
    eventually("the change", || {
        let changes = json(&daemon, "/__wsd/ui/changes");
        let moved = |change: &Value| {
            change["kind"] == "renamed" && change["path"].as_str().unwrap().ends_with("/moved")
        };
        changes["changes"].as_array().unwrap().iter().any(moved)
    });
    daemon.stop();
}

#[test]
fn commands_are_shown_with_what_they_say() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    let mut command = Command::new(crate::support::WSD);
    command.args([
        "exec",
        "--detach",
        "-c",
        "--",
        "printf 'one \\303\\244\\n'; echo two >&2; cat hold; exit 3",
    ]);
    command.env_clear().env("PORT", daemon.port.to_string());
    assert!(Command::new("mkfifo").arg(daemon.path("hold")).status().unwrap().success());
    let output = command.output().unwrap();
    let id = crate::support::text(&output.stdout).trim().to_owned();
    let said = |after: u64| json(&daemon, &format!("/__wsd/ui/output?id={id}&after={after}"));
    eventually("its output", || said(0)["said"].as_array().unwrap().len() == 2);
    let now = said(0);
    assert!(now["exit"].is_null() && now["cut"] == false, "{now}");
    let texts = now["said"].as_array().unwrap();
    assert!(texts.iter().any(|text| text["stream"] == "stdout" && text["text"] == "one ä\n"), "{now}");
    assert!(texts.iter().any(|text| text["stream"] == "stderr" && text["text"] == "two\n"), "{now}");
    let listed = json(&daemon, "/__wsd/ui/commands");
    assert!(
        listed["commands"][0]["id"] == id.as_str() && listed["commands"][0]["exit"].is_null(),
        "{listed}"
    );
    assert_eq!(daemon.stat("/execs/running"), 1);
    fs::write(daemon.path("hold"), "three\n").unwrap();
    let next = now["next"].as_u64().unwrap();
    eventually("its end", || said(next)["exit"] == "exit 3");
    let rest = said(next);
    assert_eq!(
        (rest["said"][0]["text"].as_str(), rest["said"].as_array().unwrap().len()),
        (Some("three\n"), 1)
    );
    assert_eq!(json(&daemon, "/__wsd/ui/commands")["commands"][0]["exit"], "exit 3");
    assert!(json(&daemon, "/__wsd/ui/output?id=nobody")["error"].as_str().unwrap().contains("ENOENT"));
    daemon.stop();
}

/// A browser, if there is one and something to drive it with.
fn browser() -> Option<String> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let is_there = |name: &&str| {
        let found = Command::new("sh").args(["-c", &format!("command -v {name}")]).output().unwrap();
        found.status.success()
    };
    if !names.iter().any(is_there) {
        crate::support::skip("chromium is not installed");
        return None;
    }
    crate::interop::python()
}

#[test]
fn a_browser_shows_it() {
    let Some(python) = browser().filter(|_| has_fuse()) else { return };
    let place = Place::new();
    let daemon = place.serve();
    fs::create_dir(daemon.path("src")).unwrap();
    fs::write(daemon.path("src/main.rs"), "fn main() {}\n").unwrap();
    // A slash cannot be in a name, so no tag is closed in one.
    fs::write(daemon.path("src/<b>odd"), "").unwrap();
    let mut command = Command::new(crate::support::WSD);
    let steps = "for step in $(seq 1000); do echo step $step; sleep 0.2; done";
    command.args(["exec", "--detach", "-c", "--", steps]).env_clear().env("PORT", daemon.port.to_string());
    assert!(command.output().unwrap().status.success());
    let program = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/browser.py");
    let url = format!("http://localhost:{}/__wsd/ui", daemon.port);
    let output = Command::new(python).arg(program).arg(url).arg(&place.point).output().unwrap();
    let said = format!("{}{}", crate::support::text(&output.stdout), crate::support::text(&output.stderr));
    assert!(output.status.success(), "{said}");
    daemon.stop();
}
