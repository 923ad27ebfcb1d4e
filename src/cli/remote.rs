//! The commands that talk to a running daemon.

use super::offline::Missing;
use super::talk::{FAILURE, finish, options, talk, talk_code};
use super::{about, commands, exec, export, files, get, import, list, offline, put, search, sync, watch};
use clap::Subcommand;
use std::process::ExitCode;

#[derive(Subcommand)]
pub(super) enum Remote {
    /// List directories
    Ls(list::LsArgs),
    /// Print files
    Cat(files::CatArgs),
    /// Put a file of this machine into the workspace
    Put(put::PutArgs),
    /// Get a file of the workspace onto this machine
    Get(get::GetArgs),
    /// Put a whole directory or tar archive into the workspace, with all that belongs to it
    Import(import::ImportArgs),
    /// Write the workspace to a directory or tar archive, with all that belongs to it
    Export(export::ExportArgs),
    /// Make directories
    Mkdir(files::MkdirArgs),
    /// Remove files, or directories
    Rm(files::RmArgs),
    /// Give a file or directory another name
    Mv(files::MvArgs),
    /// Copy within the workspace; content is shared, so that size costs next to nothing
    Cp(files::CpArgs),
    /// Make a link
    Ln(files::LnArgs),
    /// Print the attributes of files
    Stat(list::StatArgs),
    /// Print what is below a path
    Find(search::FindArgs),
    /// Print the lines that match a pattern; exit 1 when none does, 2 when something could not be searched
    Grep(search::GrepArgs),
    /// Print what changes, as it changes
    Watch(watch::WatchArgs),
    /// Run a command in the workspace; the exit code is the command's
    Exec(Box<exec::ExecArgs>),
    /// List commands that run or have run
    Ps(commands::PsArgs),
    /// Print what a command said
    Logs(commands::LogsArgs),
    /// Send a signal to all processes of a command
    Kill(commands::KillArgs),
    /// How the workspace is in step with its upstream, and what it is told to do
    Sync(sync::SyncArgs),
    /// What the daemon says of itself
    Info(about::AboutArgs),
    /// The daemon's counters
    Stats(about::StatsArgs),
    /// Print a completion script for a shell
    Completions(about::CompletionsArgs),
}

impl Remote {
    pub(super) fn run(self) -> ExitCode {
        match self {
            Self::Ls(args) => talk(&args.remote, async |client, out| list::ls(client, out, &args).await),
            Self::Cat(args) => talk(&args.remote, async |client, out| files::cat(client, out, &args).await),
            Self::Put(args) => talk(&args.remote, async |client, _| put::put(client, &args).await),
            Self::Get(args) => talk(&args.remote, async |client, out| get::get(client, out, &args).await),
            Self::Import(args) => {
                offline::work_on(&args.remote, &args.offline, Missing::IsMade, async |client, _| {
                    import::import(client, &args).await
                })
            }
            Self::Export(args) => {
                offline::work_on(&args.remote, &args.offline, Missing::IsRefused, async |client, out| {
                    export::export(client, out, &args).await
                })
            }
            Self::Mkdir(args) => talk(&args.remote, async |client, _| files::mkdir(client, &args).await),
            Self::Rm(args) => talk(&args.remote, async |client, _| files::rm(client, &args).await),
            Self::Mv(args) => talk(&args.remote, async |client, _| files::mv(client, &args).await),
            Self::Cp(args) => talk(&args.remote, async |client, _| files::cp(client, &args).await),
            Self::Ln(args) => talk(&args.remote, async |client, _| files::ln(client, &args).await),
            Self::Stat(args) => talk(&args.remote, async |client, out| list::stat(client, out, &args).await),
            Self::Find(args) => {
                talk(&args.remote, async |client, out| search::find(client, out, &args).await)
            }
            Self::Grep(args) => talk_code(&args.remote, search::UNSEARCHED, async |client, out| {
                search::grep(client, out, &args).await
            }),
            Self::Watch(args) => {
                talk(&args.remote, async |client, out| watch::watch(client, out, &args).await)
            }
            Self::Exec(args) => {
                talk_code(&args.remote, FAILURE, async |client, out| exec::exec(client, out, &args).await)
            }
            Self::Ps(args) => talk(&args.remote, async |client, out| commands::ps(client, out, &args).await),
            Self::Logs(args) => {
                talk_code(&args.remote, FAILURE, async |client, out| commands::logs(client, out, &args).await)
            }
            Self::Kill(args) => talk(&args.remote, async |client, _| commands::kill(client, &args).await),
            Self::Sync(args) => sync::sync(args),
            Self::Info(args) => talk(&args.remote, async |client, out| about::info(client, out, &args).await),
            Self::Stats(args) => match options(&args.about.remote) {
                Ok(options) => finish(async |out| about::stats(&options, out, &args).await),
                Err(code) => code,
            },
            Self::Completions(args) => finish(async |out| about::completions(out, &args)),
        }
    }
}
