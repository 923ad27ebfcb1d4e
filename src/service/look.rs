//! The workspace for somebody who looks at it: listings, commands and their output, what changed last. Nothing here
//! changes anything or holds anything up.
//!
//! Texts are for eyes: bytes that are no UTF-8 are shown as U+FFFD. What is to be asked for again has a `link` with its
//! bytes escaped as in a URL.

use super::touched::change_of;
use super::{Failure, Files, Outcome, Tracker};
use crate::exec::{Execs, How, Running, Said, name_of};
use crate::store::rows::Kind;
use crate::vfs::ChangeKind;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::Serialize;
use std::os::unix::ffi::OsStrExt;

/// Entries of one portion of a listing.
const ENTRIES: usize = 500;

/// Bytes of one portion of output.
const OUTPUT: usize = 64 << 10;

/// Characters of a command that are shown in the list of all.
const BRIEF: usize = 256;

/// Bytes that a link has escaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.');

/// How many revisions back the latest changes go.
const LATEST: u64 = 50;

/// A portion of a directory.
#[derive(Debug, Serialize)]
pub struct Listing {
    path: String,
    entries: Vec<Row>,
    /// Where to go on; nowhere if that was all.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

/// A name of a directory.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    link: String,
    kind: &'static str,
    mode: String,
    size: u64,
    modified_ms: i64,
    revision: u64,
}

/// A command.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandRow {
    id: String,
    command: String,
    cwd: String,
    started_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_ms: Option<i64>,
    /// How it ended, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<String>,
}

/// What a command said.
#[derive(Debug, Serialize)]
pub struct Output {
    said: Vec<Text>,
    /// Ask for what is after this.
    next: u64,
    /// Older output is no longer kept.
    cut: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<String>,
}

/// Output of one stream.
#[derive(Debug, Serialize)]
struct Text {
    stream: &'static str,
    text: String,
}

/// A change.
#[derive(Debug, Serialize)]
pub struct ChangeRow {
    revision: u64,
    kind: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
}

impl Files {
    /// A portion of a directory, with its attributes.
    pub fn look(&self, path: &[u8], after: u64) -> Outcome<Listing> {
        let page = self.readdir(path, after, ENTRIES)?;
        let below = self.asked(path)?;
        let entries = page.entries.into_iter().map(|entry| Row {
            link: link(&[&below[..], &entry.name].join(&b'/')),
            name: text(&entry.name),
            kind: kind(entry.attr.kind),
            mode: format!("{:04o}", entry.attr.mode),
            size: entry.attr.size,
            modified_ms: entry.attr.mtime.0.div_euclid(1_000_000),
            revision: entry.attr.revision,
        });
        let entries = entries.collect();
        Ok(Listing { path: text(&self.wire_path(&below)), entries, next: (!page.end).then_some(page.next) })
    }

    /// What changed last, the newest first.
    pub fn latest(&self) -> Vec<ChangeRow> {
        let tracker = Tracker(self.clone());
        let revision = tracker.revision();
        let after = revision.saturating_sub(LATEST).max(self.vfs().known_after());
        let (changes, _) = tracker.changes(after, revision);
        let rows = changes.into_iter().rev().take(LATEST as usize).map(|change| ChangeRow {
            revision: change.revision,
            kind: match change_of(change.kind) {
                Some(ChangeKind::Created) => "created",
                Some(ChangeKind::Modified) => "modified",
                Some(ChangeKind::Attributes) => "attributes",
                Some(ChangeKind::Removed) => "removed",
                Some(ChangeKind::Renamed) => "renamed",
                None => "unknown",
            },
            path: text(&change.path),
            from: change.from.as_deref().map(text),
        });
        rows.collect()
    }
}

/// The commands, the newest first.
pub fn commands(execs: &Execs) -> Vec<CommandRow> {
    execs.list().iter().rev().map(|command| row_of(command)).collect()
}

/// What a command said after an event.
pub fn output(execs: &Execs, id: &str, after: u64) -> Outcome<Output> {
    let command = execs.get(id).map_err(|error| Failure::new("ENOENT", error.to_string()))?;
    let (events, cut) = match command.said_after(after, OUTPUT) {
        Ok(events) => (events, false),
        Err(truncated) => (command.said_after(truncated.resume, OUTPUT).unwrap_or_default(), true),
    };
    let next = events.last().map_or(after, |event| event.seq);
    // Put together before they are read as text: a character may begin in one event and end in the next.
    let mut said: Vec<(&'static str, Vec<u8>)> = Vec::new();
    let mut exit = None;
    for event in events {
        let (stream, bytes) = match event.said {
            Said::Stdout(bytes) => ("stdout", bytes),
            Said::Stderr(bytes) => ("stderr", bytes),
            Said::Exit(_) => {
                exit = words(&command);
                continue;
            }
        };
        match said.last_mut() {
            Some((last, all)) if *last == stream => all.extend_from_slice(&bytes),
            _ => said.push((stream, bytes.to_vec())),
        }
    }
    let said = said.into_iter().map(|(stream, bytes)| Text { stream, text: text(&bytes) }).collect();
    Ok(Output { said, next, cut, exit })
}

fn row_of(command: &Running) -> CommandRow {
    CommandRow {
        id: command.id.clone(),
        command: brief(&command.shown),
        cwd: brief(command.cwd.as_os_str().as_bytes()),
        started_ms: command.started.0.div_euclid(1_000_000),
        ended_ms: command.ended().map(|(ended, _)| ended.0.div_euclid(1_000_000)),
        exit: words(command),
    }
}

fn words(command: &Running) -> Option<String> {
    let exit = command.exit()?;
    let mut words = match exit.how {
        How::Code(code) => format!("exit {code}"),
        How::Signal(signal) => format!("SIG{}", name_of(signal).trim_start_matches("SIG")),
        How::Lost => "lost: the daemon was killed while it ran".to_owned(),
    };
    if exit.timed_out {
        words.push_str(", timed out");
    }
    if exit.output_cut {
        words.push_str(", output may be missing");
    }
    if let Some(reason) = &exit.not_upstream {
        words.push_str(", not upstream: ");
        words.push_str(reason);
    }
    Some(words)
}

/// All commands are shown at once, each with the beginning of what it is.
fn brief(bytes: &[u8]) -> String {
    let whole = text(bytes);
    match whole.char_indices().nth(BRIEF) {
        Some((end, _)) => format!("{}\u{2026}", &whole[..end]),
        None => whole,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Dir => "dir",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice => "char device",
        Kind::BlockDevice => "block device",
    }
}

/// A path below the mount point, escaped as in the query of a URL.
fn link(path: &[u8]) -> String {
    percent_encode(path.strip_prefix(b"/").unwrap_or(path), ESCAPED).to_string()
}

/// The bytes that a `link` stands for.
pub fn unlink(link: &str) -> Outcome<Vec<u8>> {
    let wrong = || Failure::new("EINVAL", "a % in a link is followed by two hexadecimal digits");
    let (bytes, mut plain, mut at) = (link.as_bytes(), Vec::with_capacity(link.len()), 0);
    while let Some(byte) = bytes.get(at) {
        if *byte == b'%' {
            let digits = link.get(at + 1..at + 3).ok_or_else(wrong)?;
            plain.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
            at += 3;
        } else {
            plain.push(*byte);
            at += 1;
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stand_for_any_bytes() {
        let all: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
        let path = [&b"dir/"[..], &all].concat();
        assert_eq!(unlink(&link(&path)).unwrap(), path);
        assert_eq!(link(b"/a b"), "a%20b");
        for bad in ["%", "%4", "%zz", "a%\u{e9}"] {
            assert!(unlink(bad).is_err(), "{bad}");
        }
    }
}
