//! What docs/operations.md says of backups is so, and its table of messages has those that there are.

use crate::support::{Place, WSD, has, noise, text};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document() -> String {
    fs::read_to_string(root().join("docs/operations.md")).unwrap()
}

fn block() -> String {
    let document = document();
    let (_, after) = document.split_once("## Backup and restore\n").unwrap();
    let (_, block) = after.split_once("```sh\n").unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

fn wsd(port: u16, arguments: &[&str], input: &Path) -> String {
    let mut command = Command::new(WSD);
    command.args(arguments).env_clear().env("PORT", port.to_string());
    let output = command.stdin(fs::File::open(input).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_backup_of_a_running_daemon_is_whole_and_a_copy_of_the_file_is_not() {
    if !has("sqlite3") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    let content = place.dir.path().join("content");
    fs::write(&content, noise(1, 300_000)).unwrap();
    let put = |name: &str| wsd(daemon.port, &["put", "-", name], &content);
    put("first");
    // Until it is in the store, which the daemon does by itself.
    crate::support::eventually("the commit", || {
        daemon.stat("/committedRevision") == daemon.stat("/revision")
    });
    let copies = ["backup.db", "copied.db"].map(|name| place.dir.path().join(name));
    fs::copy(&place.store, &copies[1]).unwrap();
    let mut backup = Command::new("bash");
    backup.args(["-c", &format!("set -e\n{}", block())]).env("WSD_DB", &place.store).env("COPY", &copies[0]);
    let output = backup.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    put("second");
    daemon.stop();
    let files = |store: &Path| {
        let other = Place::new();
        fs::copy(store, &other.store).unwrap();
        let daemon = other.serve_with(&[("FUSE_MOUNT", "none")]);
        let listed = wsd(daemon.port, &["ls"], &content);
        daemon.stop();
        other.check();
        listed
    };
    assert_eq!(files(&copies[0]), "first\n");
    assert_eq!(
        files(&place.store),
        "first\nsecond\n",
        "a daemon that has stopped leaves all of it in the file"
    );
    let is_whole =
        Command::new(WSD).args(["check", "--db"]).arg(&copies[1]).output().unwrap().status.success();
    assert!(!is_whole || files(&copies[1]) != "first\n", "the WAL was not copied");
}

/// All sources of a directory but tests, each literal in one line, as it is printed.
fn sources(directory: &Path, into: &mut String) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            sources(&path, into);
        } else if name.to_str().is_some_and(|name| name.ends_with(".rs") && name != "tests.rs") {
            let text = fs::read_to_string(path).unwrap();
            let mut parts = text.split("\\\n");
            into.push_str(parts.next().unwrap());
            parts.for_each(|part| into.push_str(part.trim_start()));
        }
    }
}

/// What a literal says, without what is filled in: the parts that are words.
fn words(text: &str, is_gap: impl Fn(&str) -> bool) -> Vec<String> {
    let mut parts = vec![String::new()];
    for word in text.split_inclusive(' ') {
        if is_gap(word.trim()) {
            parts.push(String::new());
        } else {
            parts.last_mut().unwrap().push_str(word);
        }
    }
    let trim = |part: &String| part.trim().trim_end_matches([':', ';', ',']).to_owned();
    parts.iter().map(trim).filter(|part| part.len() > 3).collect()
}

/// What the system says, not we.
const OF_THE_SYSTEM: &[&str] = &[
    "Address already in use",
    "Permission denied",
    "Read-only file system",
    "Connection refused",
    "failed to lookup address information",
    "Transport endpoint is not connected",
    "Authorization: Bearer",
];

#[test]
fn the_table_has_the_messages_that_there_are() {
    let mut source = String::new();
    sources(&root().join("src"), &mut source);
    let document = document();
    let (_, table) = document.split_once("## Every message, and what to do\n").unwrap();
    let rows: Vec<&str> =
        table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Message")).collect();
    assert!(rows.len() > 50, "{}", rows.len());
    // From the table to the sources.
    let mut listed = String::new();
    for row in &rows {
        let message = row.split(" | ").next().unwrap();
        for code in message.split('`').skip(1).step_by(2) {
            listed.push_str(code);
            listed.push('\n');
            let is_gap = |word: &str| {
                let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
                word.starts_with("...")
                    || (bare.len() == 1 || bare.len() > 1 && !bare.starts_with('E'))
                        && bare.chars().all(|c| c.is_uppercase())
            };
            for part in words(code, is_gap) {
                let part = OF_THE_SYSTEM.iter().fold(part, |part, said| part.replace(said, ""));
                let part = part.trim_matches([' ', ':', ';']);
                assert!(source.contains(part), "no source says {part:?}, which is in the table: {row}");
            }
        }
    }
    // From the sources to the table: every error that has words of its own.
    let mut count = 0;
    for literal in source.split("#[error(").skip(1) {
        let Some(literal) = literal.trim_start().strip_prefix('"') else { continue };
        let end = ["\",", "\")", "\"\n"].iter().filter_map(|end| literal.find(end)).min();
        let literal = &literal[..end.unwrap_or(literal.len())];
        let spaced = literal.replace('{', " {").replace('}', "} ").replace("\\\"", "\"");
        let parts = words(&spaced, |word| word.starts_with('{'));
        if parts.is_empty() {
            continue;
        }
        count += 1;
        let is_listed = parts.iter().any(|part| {
            let mut pieces = part.split([':', ';', ',']).map(str::trim);
            // After a code.
            let beginning = pieces.find(|piece| piece.chars().any(char::is_lowercase)).unwrap_or(part);
            let beginning = beginning.strip_suffix(" (there is").unwrap_or(beginning);
            beginning.len() >= 5 && listed.contains(beginning)
        });
        assert!(is_listed, "the table has no row for {literal:?}");
    }
    assert!(count > 60, "{count}");
}
