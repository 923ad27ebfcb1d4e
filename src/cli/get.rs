//! `wsd get`: files of the workspace onto this machine.
//!
//! A file takes its place when it is complete, so that a transfer that breaks off leaves what was there.

mod part;

use super::files::stream;
use super::out::Out;
use super::progress::Progress;
use super::put::AT_ONCE;
use super::talk::{Done, Failure, base_name, if_read, went_well};
use crate::client::{Client, FindOptions, Kind, PathEntry};
use crate::config::ClientFlags;
use clap::Args;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use part::Part;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

#[derive(Args)]
pub(super) struct GetArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    /// A directory, with all that is in it
    #[arg(short, long)]
    recursive: bool,
    /// LOCAL is the new name itself, even when a directory has it
    #[arg(short = 'T', long)]
    no_target_directory: bool,
    /// What to get
    remote_path: OsString,
    /// Its name on this machine, a directory to put it into, or - for standard output
    local: PathBuf,
}

pub(super) async fn get(client: &Client, out: &mut Out, args: &GetArgs) -> Done {
    let remote = args.remote_path.as_bytes();
    if args.local == Path::new("-") {
        stream(client, out, remote).await?;
        return Ok(true);
    }
    let attr = client.stat(remote).await?;
    let ends_in_slash = args.local.as_os_str().as_bytes().ends_with(b"/");
    let local = if !args.no_target_directory && (ends_in_slash || args.local.is_dir()) {
        let name = base_name(remote);
        let name = name.ok_or_else(|| Failure::Usage("say the new name with -T".to_owned()))?;
        args.local.join(OsStr::from_bytes(name))
    } else {
        args.local.clone()
    };
    if attr.kind != Kind::Dir {
        part::sweep(part::directory_of(&local));
        let download = Download { client, progress: Progress::new(Some(attr.size)) };
        download.file(remote.to_owned(), local, attr.mode).await?;
        return Ok(true);
    }
    if !args.recursive {
        return Err(Failure::is_directory(remote));
    }
    let remote = behind_links(client, remote).await?;
    Download { client, progress: Progress::new(None) }.tree(&remote, &local).await
}

/// The path of what a path leads to: a search follows no symlink.
async fn behind_links(client: &Client, path: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut path = PathBuf::from(OsStr::from_bytes(path));
    while client.lstat(path.as_os_str().as_bytes()).await?.kind == Kind::Symlink {
        let target = client.readlink(path.as_os_str().as_bytes()).await?;
        path = path.parent().unwrap_or(Path::new("")).join(OsStr::from_bytes(&target));
    }
    Ok(path.into_os_string().into_vec())
}

struct Download<'a> {
    client: &'a Client,
    progress: Progress,
}

impl Download<'_> {
    async fn file(&self, remote: Vec<u8>, local: PathBuf, mode: u32) -> Result<(), Failure> {
        let failed = Failure::local(&local);
        let mut bytes = self.client.read_file(&remote, 0, None).await?;
        let mut part = Part::create(&local).map_err(&failed)?;
        while let Some(portion) = bytes.next().await {
            let portion = portion?;
            part.file.write_all(&portion).map_err(&failed)?;
            self.progress.add(portion.len());
        }
        part.keep(&local, mode).map_err(&failed)
    }

    /// A directory; whether everything in it could be got.
    async fn tree(&self, remote: &[u8], local: &Path) -> Done {
        let mut is_good = true;
        let mut modes = Vec::new();
        let mut made = HashSet::new();
        let mut running = FuturesUnordered::new();
        let mut root: Option<Vec<u8>> = None;
        let mut found = self.client.find(FindOptions::below(remote)).await?;
        while let Some(entry) = found.next().await {
            let Some(PathEntry { path, attr }) = if_read(entry, &mut is_good)? else { continue };
            // The first is the directory itself, as the daemon calls it.
            let root = root.get_or_insert_with(|| path.clone());
            let Some(place) = below(root, &path).map(|below| local.join(below)) else { continue };
            // What a symlink may lead to is not ours to fill.
            if path != *root && !place.parent().is_some_and(|parent| made.contains(parent)) {
                continue;
            }
            let done = match attr.kind {
                Kind::Dir => make_directory(&place).map(|()| {
                    modes.push((place.clone(), attr.mode));
                    made.insert(place);
                }),
                Kind::Symlink => self.symlink(&path, &place).await,
                Kind::File => {
                    running.push(self.file(path, place, attr.mode));
                    Ok(())
                }
                _ => {
                    let error = io::Error::other("not a file, a directory or a symlink: left out");
                    Err(Failure::Local(place, error))
                }
            };
            is_good &= went_well(done)?;
            if running.len() >= AT_ONCE
                && let Some(result) = running.next().await
            {
                is_good &= went_well(result)?;
            }
        }
        while let Some(result) = running.next().await {
            is_good &= went_well(result)?;
        }
        // Last, because what is not writable could not have been filled.
        for (place, mode) in modes.into_iter().rev() {
            let set = fs::set_permissions(&place, Permissions::from_mode(mode & 0o777));
            is_good &= went_well(set.map_err(Failure::local(&place)))?;
        }
        Ok(is_good)
    }

    async fn symlink(&self, remote: &[u8], local: &Path) -> Result<(), Failure> {
        let target = self.client.readlink(remote).await?;
        if fs::symlink_metadata(local).is_ok_and(|there| !there.is_dir()) {
            fs::remove_file(local).map_err(Failure::local(local))?;
        }
        std::os::unix::fs::symlink(OsStr::from_bytes(&target), local).map_err(Failure::local(local))
    }
}

/// A directory that can be filled.
fn make_directory(place: &Path) -> Result<(), Failure> {
    let made = match fs::create_dir(place) {
        // Not one that a symlink leads to.
        Err(_) if fs::symlink_metadata(place).is_ok_and(|there| there.is_dir()) => {
            part::sweep(place);
            Ok(())
        }
        made => made,
    };
    let opened = made.and_then(|()| fs::set_permissions(place, Permissions::from_mode(0o700)));
    opened.map_err(Failure::local(place))
}

/// The part of a path below another, if it stays below.
fn below<'a>(root: &[u8], path: &'a [u8]) -> Option<&'a Path> {
    let rest = path.strip_prefix(root)?;
    let rest = Path::new(OsStr::from_bytes(rest.strip_prefix(b"/").unwrap_or(rest)));
    rest.components().all(|part| matches!(part, Component::Normal(_))).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_put_outside() {
        assert_eq!(below(b"/w/a", b"/w/a/b/c"), Some(Path::new("b/c")));
        assert_eq!(below(b"/w/a", b"/w/a"), Some(Path::new("")));
        for path in ["/etc/passwd", "/w/a/../../etc/passwd", "/w/a//etc/passwd"] {
            assert_eq!(below(b"/w/a", path.as_bytes()), None, "{path}");
        }
    }
}
