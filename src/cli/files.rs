//! `wsd cat`, `mkdir`, `rm`, `mv`, `cp`, `ln`: a call or two each.

use super::out::Out;
use super::talk::{Done, Failure, base_name, join, went_well};
use crate::client::{Attr, Client, Kind, RenameMode};
use crate::config::ClientFlags;
use clap::Args;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

#[derive(Args)]
pub(super) struct CatArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Args)]
pub(super) struct MkdirArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    /// Make what is missing on the way; one that is there is no error
    #[arg(short, long)]
    parents: bool,
    /// Permission bits, octal
    #[arg(short, long, default_value = "755", value_parser = octal)]
    mode: u32,
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Args)]
pub(super) struct RmArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    /// Directories too, with all that is in them
    #[arg(short, long)]
    recursive: bool,
    /// That there is nothing to remove is no error
    #[arg(short, long)]
    force: bool,
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// Where something goes.
#[derive(Args)]
pub(super) struct Target {
    /// TO is the new name itself, even when a directory has it
    #[arg(short = 'T', long)]
    no_target_directory: bool,
    /// The new name, or a directory to put it into
    to: OsString,
}

#[derive(Args)]
pub(super) struct MvArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    /// Do not replace what is there
    #[arg(short, long)]
    no_replace: bool,
    /// The two swap names
    #[arg(long, conflicts_with = "no_replace")]
    exchange: bool,
    from: OsString,
    #[command(flatten)]
    target: Target,
}

#[derive(Args)]
pub(super) struct CpArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    /// Directories too, with all that is in them
    #[arg(short, long)]
    recursive: bool,
    /// Do not replace what is there
    #[arg(short, long)]
    no_replace: bool,
    from: OsString,
    #[command(flatten)]
    target: Target,
}

#[derive(Args)]
pub(super) struct LnArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    /// A symlink that holds FROM, which is not looked at
    #[arg(short, long)]
    symbolic: bool,
    from: OsString,
    #[command(flatten)]
    target: Target,
}

pub(super) fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| "give an octal number, at most 7777".to_owned())
}

pub(super) async fn cat(client: &Client, out: &mut Out, args: &CatArgs) -> Done {
    let mut is_good = true;
    for path in &args.paths {
        let result = stream(client, out, path.as_bytes()).await;
        is_good &= went_well(result)?;
    }
    Ok(is_good)
}

/// A file to standard output.
pub(super) async fn stream(client: &Client, out: &mut Out, path: &[u8]) -> Result<(), Failure> {
    let mut bytes = client.read_file(path, 0, None).await?;
    while let Some(portion) = bytes.next().await {
        out.raw(&portion?)?;
    }
    out.flush()
}

pub(super) async fn mkdir(client: &Client, args: &MkdirArgs) -> Done {
    let mut is_good = true;
    for path in &args.paths {
        let made = client.mkdir(path.as_bytes(), args.mode, args.parents).await;
        is_good &= went_well(made.map(drop).map_err(Failure::from))?;
    }
    Ok(is_good)
}

pub(super) async fn rm(client: &Client, args: &RmArgs) -> Done {
    let mut is_good = true;
    for path in &args.paths {
        let removed = client.rm(path.as_bytes(), args.recursive, args.force).await;
        is_good &= went_well(removed.map(drop).map_err(Failure::from))?;
    }
    Ok(is_good)
}

impl Target {
    /// The new name of something.
    async fn of(&self, client: &Client, from: &[u8]) -> Result<Vec<u8>, Failure> {
        let to = self.to.as_bytes();
        if self.no_target_directory { Ok(to.to_owned()) } else { into(client, from, to).await }
    }
}

/// `to`, or when it is a directory the name of `from` in it.
pub(super) async fn into(client: &Client, from: &[u8], to: &[u8]) -> Result<Vec<u8>, Failure> {
    let is_directory = matches!(client.stat(to).await, Ok(Attr { kind: Kind::Dir, .. }));
    if !is_directory && !to.ends_with(b"/") {
        return Ok(to.to_owned());
    }
    let name = base_name(from).ok_or_else(|| {
        Failure::Usage(format!(
            "{:?} ends in no name: say the new name with -T",
            String::from_utf8_lossy(from)
        ))
    })?;
    Ok(join(to, name))
}

pub(super) async fn mv(client: &Client, args: &MvArgs) -> Done {
    let from = args.from.as_bytes();
    let mode = match (args.no_replace, args.exchange) {
        (true, _) => RenameMode::NoReplace,
        (_, true) => RenameMode::Exchange,
        _ => RenameMode::Replace,
    };
    let to = if args.exchange {
        args.target.to.as_bytes().to_owned()
    } else {
        args.target.of(client, from).await?
    };
    client.rename(from, to, mode).await?;
    Ok(true)
}

pub(super) async fn cp(client: &Client, args: &CpArgs) -> Done {
    let from = args.from.as_bytes();
    let to = args.target.of(client, from).await?;
    client.copy(from, to, args.recursive, !args.no_replace).await?;
    Ok(true)
}

pub(super) async fn ln(client: &Client, args: &LnArgs) -> Done {
    let from = args.from.as_bytes();
    let path = args.target.of(client, from).await?;
    if args.symbolic {
        client.symlink(from, path).await?;
    } else {
        client.link(from, path).await?;
    }
    Ok(true)
}
