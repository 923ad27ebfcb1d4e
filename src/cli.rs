//! The commands, a file each.

mod about;
mod check;
mod commands;
mod exec;
mod export;
mod files;
mod gc;
mod get;
mod guard;
mod import;
mod list;
mod live;
mod offline;
mod out;
mod progress;
mod put;
mod remote;
mod run;
mod search;
mod serve;
mod sync;
mod talk;
mod trees;
mod watch;

use crate::config::{Config, Defaults, Flags};
use crate::exec::{LIMIT, become_limited};
use crate::store::error::{StoreError, StoreResult};
use crate::{mount, telemetry};
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// The workspace daemon for AI agents: a directory for every program, one SQLite file for its owner.
#[derive(Parser)]
#[command(name = "wsd", version, long_version = about::version(), args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Flags,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon (the default); configured by the environment, or by flags
    Serve(Box<Flags>),
    /// Serve, run a command in the workspace, and stop with its exit code
    Run(Box<run::RunArgs>),
    /// Verify a store that is not in use: exit 0, or 1 with one line a flaw
    Check(check::CheckArgs),
    /// Reclaim what a store that is not in use no longer needs
    Gc(gc::GcArgs),
    #[command(name = mount::guard::COMMAND, hide = true)]
    Guard(guard::GuardArgs),
    #[command(flatten)]
    Remote(remote::Remote),
}

/// Which store an offline command works on.
#[derive(Args)]
struct StoreArg {
    /// The store's file
    #[arg(long, value_name = "PATH")]
    db: PathBuf,
}

impl StoreArg {
    /// Its full path.
    fn path(&self) -> StoreResult<PathBuf> {
        std::path::absolute(&self.db).map_err(|source| StoreError::Open { path: self.db.clone(), source })
    }
}

/// Bad usage, bad settings.
const USAGE: u8 = 2;

/// Runs the command line; what it returns is the process's exit code.
pub fn main() -> ExitCode {
    // Before the environment is looked at: it is that of the program to come.
    let words: Vec<OsString> = std::env::args_os().collect();
    if let [_, stage, limits, _, program @ ..] = &words[..]
        && stage == LIMIT
    {
        let (error, code) = become_limited(&limits.to_string_lossy(), program);
        return complain(error, code);
    }
    let cli = Cli::parse();
    match cli.command {
        None => serve::serve(&cli.serve),
        Some(Command::Serve(flags)) => serve::serve(&flags),
        Some(Command::Run(args)) => run::run(&args),
        Some(Command::Check(args)) => check::check(&args),
        Some(Command::Gc(args)) => gc::gc(&args),
        Some(Command::Guard(args)) => guard::guard(args),
        Some(Command::Remote(command)) => command.run(),
    }
}

/// Reads the settings and starts the log.
fn configure(flags: &Flags, defaults: Defaults) -> Result<Config, ExitCode> {
    let config = Config::load(flags, defaults).map_err(|error| complain(error, USAGE))?;
    telemetry::start(&config.log).map_err(|error| complain(error, 1))?;
    Ok(config)
}

/// Says one line about what went wrong.
fn complain(error: impl Display, code: u8) -> ExitCode {
    // Nobody may listen; the code tells.
    let _ = writeln!(io::stderr(), "wsd: {error}");
    ExitCode::from(code)
}

/// Says one line to who asked, who may have stopped listening.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}
