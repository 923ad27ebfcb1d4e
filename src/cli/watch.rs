//! `wsd watch`.

use super::out::{Out, put_bytes};
use super::talk::{Done, Failure};
use crate::client::{Change, ChangeKind, Client};
use crate::config::ClientFlags;
use clap::Args;
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

#[derive(Args)]
pub(super) struct WatchArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    /// Changes after this revision, not from now on
    #[arg(long, value_name = "REVISION")]
    after: Option<u64>,
    /// Only PATH and the names in it, not what is further down
    #[arg(long)]
    flat: bool,
    /// Print a JSON object a line: changes, and {"upTo": REVISION} when all up to there have been printed
    #[arg(long)]
    json: bool,
    /// What to watch
    #[arg(default_value = ".")]
    path: OsString,
}

pub(super) async fn watch(client: &Client, out: &mut Out, args: &WatchArgs) -> Done {
    let mut watcher = client.watch(args.path.as_bytes(), !args.flat, args.after).await?;
    if args.json {
        out.json(&json!({ "upTo": watcher.revision(), "dropped": false }))?;
        out.flush()?;
    }
    while let Some(changes) = watcher.next().await {
        let changes = changes?;
        if changes.dropped && !args.json {
            eprintln!("wsd: some changes before revision {} are not known any more", changes.up_to);
        }
        for change in &changes.changes {
            if args.json {
                out.json(&Value::Object(object(change)))?;
            } else {
                print(out, change)?;
            }
        }
        if args.json {
            out.json(&json!({ "upTo": changes.up_to, "dropped": changes.dropped }))?;
        }
        out.flush()?;
    }
    Ok(true)
}

pub(super) fn print(out: &mut Out, change: &Change) -> Result<(), Failure> {
    let kind = match change.kind {
        ChangeKind::Created => "created",
        ChangeKind::Modified => "modified",
        ChangeKind::Attributes => "attributes",
        ChangeKind::Removed => "removed",
        ChangeKind::Renamed => "renamed",
    };
    let mut line = format!("{} {kind} ", change.revision).into_bytes();
    if change.kind == ChangeKind::Renamed {
        line.extend_from_slice(&change.from);
        line.extend_from_slice(b" -> ");
    }
    line.extend_from_slice(&change.path);
    out.line(&line)
}

pub(super) fn object(change: &Change) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("revision".to_owned(), change.revision.into());
    object.insert("kind".to_owned(), json!(change.kind));
    object.insert("node".to_owned(), json!(change.node));
    object.insert("ino".to_owned(), change.ino.into());
    put_bytes(&mut object, "path", &change.path);
    if change.kind == ChangeKind::Renamed {
        put_bytes(&mut object, "from", &change.from);
    }
    object
}
