//! `wsd ps`, `logs` and `kill`.

use super::exec::{code, show};
use super::out::{Out, put_bytes};
use super::talk::{Done, Failure, went_well};
use crate::client::{Applied, Client, ClientError, CommandEvent, CommandInfo};
use crate::config::ClientFlags;
use clap::Args;
use serde_json::{Map, Value, json};
use std::time::Duration;

#[derive(Args)]
pub(super) struct PsArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    /// What this command changed in the workspace
    #[arg(long, value_name = "ID")]
    changes: Option<String>,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct LogsArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    /// Go on until it has ended; the exit code is then the command's
    #[arg(short, long)]
    follow: bool,
    /// Only events after this one
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    after: u64,
    /// The command
    id: String,
}

#[derive(Args)]
pub(super) struct KillArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    /// The signal, by name or number
    #[arg(short, long, default_value = "TERM")]
    signal: String,
    /// Kill what has not ended after so many seconds
    #[arg(long, value_name = "SECONDS")]
    grace: Option<f64>,
    /// Forget the command and its output; it must have ended
    #[arg(long)]
    dispose: bool,
    /// The commands
    #[arg(required = true)]
    ids: Vec<String>,
}

pub(super) async fn ps(client: &Client, out: &mut Out, args: &PsArgs) -> Done {
    if let Some(id) = &args.changes {
        return changes(client, out, id, args.json).await;
    }
    let commands = client.commands().await?;
    if args.json {
        commands.iter().try_for_each(|command| out.json(&object(command)))?;
        return Ok(true);
    }
    let width = commands.iter().map(|command| command.id.len()).max().unwrap_or(0);
    for command in &commands {
        let mut line = format!("{:width$}  {:9}  ", command.id, state(command)).into_bytes();
        line.extend_from_slice(&command.command);
        out.line(&line)?;
    }
    Ok(true)
}

/// How it is, in a word.
fn state(command: &CommandInfo) -> String {
    match &command.exit {
        None => "running".to_owned(),
        Some(exit) => match (exit.code, &exit.signal) {
            (Some(code), _) => format!("exit {code}"),
            (None, Some(signal)) => format!("SIG{signal}"),
            (None, None) => "lost".to_owned(),
        },
    }
}

fn object(command: &CommandInfo) -> Value {
    let mut object = Map::new();
    object.insert("id".to_owned(), json!(command.id));
    put_bytes(&mut object, "command", &command.command);
    put_bytes(&mut object, "cwd", &command.cwd);
    object.insert("pid".to_owned(), json!(command.pid));
    object.insert("exit".to_owned(), json!(command.exit));
    object.insert("started".to_owned(), json!(command.started));
    object.insert("ended".to_owned(), json!(command.exit.as_ref().map(|_| command.ended)));
    object.insert("startRevision".to_owned(), json!(command.start_revision));
    object.insert("endRevision".to_owned(), json!(command.end_revision));
    object.insert("firstSeq".to_owned(), json!(command.first_seq));
    object.insert("lastSeq".to_owned(), json!(command.last_seq));
    Value::Object(object)
}

async fn changes(client: &Client, out: &mut Out, id: &str, as_json: bool) -> Done {
    let (changes, complete) = client.command_changes(id).await?;
    for change in &changes {
        if as_json {
            out.json(&Value::Object(super::watch::object(change)))?;
        } else {
            super::watch::print(out, change)?;
        }
    }
    if !complete {
        eprintln!("wsd: there were more changes than are known any more");
    }
    Ok(true)
}

/// Prints what a command said.
pub(super) async fn logs(client: &Client, out: &mut Out, args: &LogsArgs) -> Result<u8, Failure> {
    let last = if args.follow { u64::MAX } else { last_of(client, &args.id).await? };
    if last <= args.after {
        return Ok(0);
    }
    let mut attached = client.attach(&args.id, Some(args.after)).await?;
    let mut seq = args.after;
    while let Some(event) = attached.next().await {
        let event = event?;
        seq = if let CommandEvent::Dropped(up_to) = event { up_to } else { seq + 1 };
        if let Some(exit) = show(out, event)? {
            return Ok(if args.follow { code(exit) } else { 0 });
        }
        if seq >= last {
            break;
        }
    }
    Ok(0)
}

async fn last_of(client: &Client, id: &str) -> Result<u64, Failure> {
    let commands = client.commands().await?;
    let known = commands.iter().find(|command| command.id == id);
    let unknown = || ClientError::Refused {
        code: "ENOENT".to_owned(),
        message: format!("no command has the id {id:?}"),
        path: Vec::new(),
        applied: Applied::No,
    };
    Ok(known.ok_or_else(unknown)?.last_seq)
}

pub(super) async fn kill(client: &Client, args: &KillArgs) -> Done {
    let grace = args.grace.map(Duration::try_from_secs_f64).transpose();
    let grace = grace.map_err(|error| Failure::Usage(format!("--grace: {error}")))?;
    let mut is_good = true;
    for id in &args.ids {
        let done = if args.dispose {
            client.dispose(id).await.map(|()| true)
        } else {
            client.kill(id, &args.signal, grace).await
        };
        if let Ok(false) = done {
            eprintln!("wsd: {id}: it has ended already");
        }
        is_good &= went_well(done.map(drop).map_err(Failure::from))?;
    }
    Ok(is_good)
}
