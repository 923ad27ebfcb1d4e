//! `wsd sync`: how a workspace is in step with its upstream, and what it is told to do.

use super::out::{Out, put_bytes, utc};
use super::talk::{Done, talk};
use crate::client::Client;
use crate::config::ClientFlags;
use crate::parcel::status_json;
use crate::sync::status::{ConflictNote, Status};
use crate::sync::{ConflictKind, Cursor};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use std::process::ExitCode;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct SyncArgs {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    status: PlainArgs,
}

#[derive(Args)]
struct PlainArgs {
    #[command(flatten)]
    remote: ClientFlags,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct JoinArgs {
    #[command(flatten)]
    remote: ClientFlags,
    /// Though the two workspaces are not related: what both have under one name is settled as a conflict
    #[arg(long)]
    merge: bool,
}

#[derive(Subcommand)]
enum What {
    /// What is pending in each direction, and what was in conflict (the default)
    Status(PlainArgs),
    /// Push and pull at once; returns when both sides are the same, or says why not
    Now(PlainArgs),
    /// Leave the upstream alone until `resume`
    Pause(PlainArgs),
    /// Go on
    Resume(PlainArgs),
    /// Join an upstream that refused
    Join(JoinArgs),
    /// The replicas of this daemon, and how far they are
    Watermarks(PlainArgs),
}

pub(super) fn sync(args: SyncArgs) -> ExitCode {
    match args.what.unwrap_or(What::Status(args.status)) {
        What::Status(args) => talk(&args.remote, async |client, out| status(client, out, args.json).await),
        What::Now(args) => talk(&args.remote, async |client, out| now(client, out, args.json).await),
        What::Pause(args) => talk(&args.remote, async |client, _| {
            client.sync_pause().await?;
            Ok(true)
        }),
        What::Resume(args) => talk(&args.remote, async |client, _| {
            client.sync_resume().await?;
            Ok(true)
        }),
        What::Join(args) => talk(&args.remote, async |client, _| {
            client.sync_join(args.merge).await?;
            Ok(true)
        }),
        What::Watermarks(args) => {
            talk(&args.remote, async |client, out| watermarks(client, out, args.json).await)
        }
    }
}

async fn status(client: &Client, out: &mut Out, as_json: bool) -> Done {
    let status = client.sync_status().await?;
    if as_json {
        out.json(&object(&status))?;
        return Ok(true);
    }
    if status.upstream.is_none() {
        out.line(b"there is no upstream: UPSTREAM_URL is not set")?;
        return Ok(true);
    }
    out.table(&rows(&status))?;
    for note in &status.recent {
        let mut line = format!("{}  {:10}  ", utc(note.time), word_of(note.kind)).into_bytes();
        line.extend_from_slice(&note.path);
        if let Some(kept) = &note.kept {
            line.extend_from_slice(b" -> ");
            line.extend_from_slice(kept);
        }
        out.line(&line)?;
    }
    Ok(true)
}

/// The table of a status.
fn rows(status: &Status) -> Vec<(String, String)> {
    let row = |name: &str, value: String| (name.to_owned(), value);
    let pending = |entries, bytes| format!("{entries} entries, {bytes} bytes");
    let mut rows = vec![
        row("upstream", status.upstream.clone().unwrap_or_default()),
        row("link", status.link.word().to_owned()),
        row("last contact", status.last_contact.map_or_else(|| "never".to_owned(), utc)),
        row("to push", pending(status.pending_entries, status.pending_bytes)),
        row("to apply", pending(status.incoming_entries, status.incoming_bytes)),
        row("pushed", format!("revision {} of {}", status.pushed, status.revision)),
        row("applied", format!("upstream's revision {} of {}", status.pulled, status.upstream_revision)),
        row("conflicts", status.conflicts.to_string()),
        row("replica", status.replica.clone()),
    ];
    if let Some(error) = &status.last_error {
        rows.insert(2, row("last error", error.clone()));
    }
    rows
}

fn object(status: &Status) -> Value {
    let mut object = status_json(status);
    object["recent"] = status.recent.iter().map(conflict).collect();
    object
}

fn conflict(note: &ConflictNote) -> Value {
    let mut object = Map::new();
    object.insert("time".to_owned(), json!(note.time));
    object.insert("kind".to_owned(), json!(word_of(note.kind)));
    put_bytes(&mut object, "path", &note.path);
    if let Some(kept) = &note.kept {
        put_bytes(&mut object, "kept", kept);
    }
    Value::Object(object)
}

fn word_of(kind: ConflictKind) -> &'static str {
    match kind {
        ConflictKind::Content => "content",
        ConflictKind::Name => "name",
        ConflictKind::Move => "move",
        ConflictKind::Removal => "removal",
        ConflictKind::Attributes => "attributes",
    }
}

async fn now(client: &Client, out: &mut Out, as_json: bool) -> Done {
    let Cursor { life, revision, .. } = client.sync_now().await?;
    if as_json {
        let life = hex(&life.0);
        out.json(&json!({ "upstreamRevision": revision, "life": life }))?;
    } else {
        out.line(format!("in step with the upstream's revision {revision}").as_bytes())?;
    }
    Ok(true)
}

async fn watermarks(client: &Client, out: &mut Out, as_json: bool) -> Done {
    let watermarks = client.watermarks().await?;
    let width = watermarks.iter().map(|watermark| watermark.label.len()).max().unwrap_or(0);
    for watermark in &watermarks {
        let (replica, label) = (hex(&watermark.replica.0), &watermark.label);
        let (applied, pushed, seen) = (watermark.applied, watermark.pushed, watermark.last_seen);
        if as_json {
            let object = json!({
                "replica": replica, "label": label, "applied": applied, "pushed": pushed, "lastSeen": seen,
            });
            out.json(&object)?;
        } else {
            let line =
                format!("{replica}  {label:width$}  applied {applied}  pushed {pushed}  seen {}", utc(seen));
            out.line(line.as_bytes())?;
        }
    }
    Ok(true)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::status::LinkState;

    #[test]
    fn a_status_shows_both_directions_and_both_paths() {
        let note = ConflictNote {
            time: 0,
            kind: ConflictKind::Content,
            path: b"/workspace/a".to_vec(),
            kept: Some(b"/workspace/\xff".to_vec()),
        };
        let status = Status {
            upstream: Some("ws://hub/ws".to_owned()),
            link: LinkState::Refused,
            last_error: Some("not related".to_owned()),
            pending_entries: 3,
            incoming_bytes: 4,
            recent: vec![note],
            ..Status::default()
        };
        let text = rows(&status).iter().map(|(name, value)| format!("{name}: {value}\n")).collect::<String>();
        for line in
            ["link: refused", "last error: not related", "to push: 3 entries", "to apply: 0 entries, 4 bytes"]
        {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        let object = object(&status);
        assert_eq!(object["push"]["pendingEntries"], 3);
        assert_eq!(object["recent"][0]["path"], "/workspace/a");
        assert_eq!(object["recent"][0]["keptBytes"], "2f776f726b73706163652fff");
    }
}
