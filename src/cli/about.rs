//! `wsd info`, `stats` and `completions`.

use super::live;
use super::out::Out;
use super::talk::{Done, Failure};
use crate::client::{Client, ClientOptions, page};
use crate::config::ClientFlags;
use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::aot;
use serde_json::{Value, json};

/// What `wsd --version` says after the name: the same for every build of a commit.
pub(super) fn version() -> String {
    let (version, features) = (env!("CARGO_PKG_VERSION"), crate::daemon::FEATURES.join(" "));
    format!("{version}\ncommit: {}\nfeatures: {features}", crate::COMMIT)
}

#[derive(Args)]
pub(super) struct AboutArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct StatsArgs {
    #[command(flatten)]
    pub(super) about: AboutArgs,
    /// Go on: a view in the terminal, or with --json a line a second
    #[arg(short, long)]
    watch: bool,
}

#[derive(Args)]
pub(super) struct CompletionsArgs {
    shell: Shell,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(super) async fn info(client: &Client, out: &mut Out, args: &AboutArgs) -> Done {
    show(out, args, &json!(client.info().await?))
}

/// Without RPC, so that it works where RPC does not.
pub(super) async fn stats(options: &ClientOptions, out: &mut Out, args: &StatsArgs) -> Done {
    match (args.watch, args.about.json) {
        (true, true) => live::lines(options, out).await,
        (true, false) => live::view(options).await,
        (false, _) => show(out, &args.about, &page(options, "/__wsd/stats").await?),
    }
}

fn show(out: &mut Out, args: &AboutArgs, value: &Value) -> Done {
    if args.json {
        out.json(value)?;
    } else {
        let mut rows = Vec::new();
        flatten("", value, &mut rows);
        out.table(&rows)?;
    }
    Ok(true)
}

/// `{"store": {"nodes": 1}}` becomes a row `store.nodes`.
pub(super) fn flatten(name: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    let text = match value {
        Value::Object(object) => {
            let dot = if name.is_empty() { "" } else { "." };
            object.iter().for_each(|(key, value)| flatten(&format!("{name}{dot}{key}"), value, rows));
            return;
        }
        Value::Array(values) => values
            .iter()
            .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(" "),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    rows.push((name.to_owned(), text));
}

pub(super) fn completions(out: &mut Out, args: &CompletionsArgs) -> Result<bool, Failure> {
    let mut command = super::Cli::command();
    let mut script = Vec::new();
    match args.shell {
        Shell::Bash => aot::generate(aot::Bash, &mut command, "wsd", &mut script),
        Shell::Zsh => aot::generate(aot::Zsh, &mut command, "wsd", &mut script),
        Shell::Fish => aot::generate(aot::Fish, &mut command, "wsd", &mut script),
    }
    out.raw(&script)?;
    Ok(true)
}
