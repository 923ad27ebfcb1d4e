//! `wsd put`: files of this machine into the workspace.

use super::files::into;
use super::progress::Progress;
use super::talk::{Done, Failure, join, went_well};
use crate::client::{Attr, Client, ClientError, WriteOptions};
use crate::config::ClientFlags;
use bytes::Bytes;
use clap::Args;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::ffi::OsString;
use std::fs::{self, DirEntry, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Files of a tree that are transferred at a time.
pub(super) const AT_ONCE: usize = 8;

/// Bytes that are read at a time.
const PORTION: usize = 1 << 20;

#[derive(Args)]
pub(super) struct PutArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    /// A directory, with all that is in it
    #[arg(short, long)]
    recursive: bool,
    /// REMOTE is the new name itself, even when a directory has it
    #[arg(short = 'T', long)]
    no_target_directory: bool,
    /// Return when it is on the disk
    #[arg(long)]
    sync: bool,
    /// A file of this machine, or - for standard input
    local: PathBuf,
    /// Its name in the workspace, or a directory to put it into
    remote_path: OsString,
}

pub(super) async fn put(client: &Client, args: &PutArgs) -> Done {
    let remote = args.remote_path.as_bytes();
    if args.local == Path::new("-") {
        is_of_a_file(remote)?;
        let progress = Progress::new(None);
        let upload = Upload { client, progress, sync: args.sync };
        upload.bytes(&args.local, io::stdin().lock(), remote, WriteOptions::default()).await?;
        return Ok(true);
    }
    let failed = Failure::local(&args.local);
    let metadata = fs::metadata(&args.local).map_err(&failed)?;
    let remote = if args.no_target_directory {
        remote.to_owned()
    } else {
        // `.` and `..` have a name too.
        let local = fs::canonicalize(&args.local).map_err(&failed)?;
        let named = if args.local.file_name().is_some() { &args.local } else { &local };
        into(client, named.as_os_str().as_bytes(), remote).await?
    };
    if !metadata.is_dir() {
        is_of_a_file(&remote)?;
        let options = WriteOptions { mode: mode_of(&metadata), ..WriteOptions::default() };
        let progress = Progress::new(metadata.is_file().then_some(metadata.len()));
        let upload = Upload { client, progress, sync: args.sync };
        upload.file(&args.local, &remote, options).await?;
        return Ok(true);
    }
    if !args.recursive {
        return Err(Failure::is_directory(args.local.as_os_str().as_bytes()));
    }
    let upload = Upload { client, progress: Progress::new(None), sync: false };
    let is_good = upload.tree(args.local.clone(), remote).await?;
    if args.sync {
        client.sync().await?;
    }
    Ok(is_good)
}

/// A slash at the end is of a directory.
fn is_of_a_file(remote: &[u8]) -> Result<(), Failure> {
    if !remote.ends_with(b"/") {
        return Ok(());
    }
    let remote = String::from_utf8_lossy(remote);
    Err(Failure::Usage(format!(
        "{remote:?} is the name of a directory: say the name that the file is to have"
    )))
}

fn mode_of(metadata: &Metadata) -> u32 {
    metadata.permissions().mode() & 0o7777
}

struct Upload<'a> {
    client: &'a Client,
    progress: Progress,
    sync: bool,
}

impl Upload<'_> {
    async fn file(&self, local: &Path, remote: &[u8], options: WriteOptions) -> Result<(), Failure> {
        let file = File::open(local).map_err(Failure::local(local))?;
        self.bytes(local, file, remote, options).await
    }

    async fn bytes(
        &self,
        local: &Path,
        mut from: impl Read,
        remote: &[u8],
        options: WriteOptions,
    ) -> Result<(), Failure> {
        let mut writer = self.client.write_file(remote, options).await?;
        loop {
            let mut portion = Vec::with_capacity(PORTION);
            let read = from.by_ref().take(PORTION as u64).read_to_end(&mut portion);
            let read = read.map_err(Failure::local(local))?;
            if read == 0 {
                break;
            }
            writer.write(Bytes::from(portion)).await?;
            self.progress.add(read);
        }
        writer.finish(self.sync).await?;
        Ok(())
    }

    /// A directory; whether everything in it could be put.
    async fn tree(&self, local: PathBuf, remote: Vec<u8>) -> Done {
        let mut is_good = true;
        let mut modes = Vec::new();
        let mut running = FuturesUnordered::new();
        let mut pending = vec![(local, remote)];
        while let Some((local, remote)) = pending.pop() {
            let listed = self.directory(&local, &remote, &mut modes, &mut is_good).await;
            let entries = match listed {
                Ok(entries) => entries,
                Err(failure) => {
                    is_good &= went_well(Err(failure))?;
                    continue;
                }
            };
            for (local, metadata) in entries {
                let name = local.file_name().map_or(&[][..], OsStrExt::as_bytes);
                let remote = join(&remote, name);
                if metadata.is_dir() {
                    pending.push((local, remote));
                    continue;
                }
                if running.len() >= AT_ONCE
                    && let Some(result) = running.next().await
                {
                    is_good &= went_well(result)?;
                }
                running.push(self.entry(local, metadata, remote));
            }
        }
        while let Some(result) = running.next().await {
            is_good &= went_well(result)?;
        }
        // Last, because what is not writable could not have been filled.
        for (remote, mode) in modes.into_iter().rev() {
            let set = self.client.chmod(&remote, mode).await;
            is_good &= went_well(set.map(drop).map_err(Failure::from))?;
        }
        Ok(is_good)
    }

    /// Makes a directory; what is in it on this side.
    async fn directory(
        &self,
        local: &Path,
        remote: &[u8],
        modes: &mut Vec<(Vec<u8>, u32)>,
        is_good: &mut bool,
    ) -> Result<Vec<(PathBuf, Metadata)>, Failure> {
        let failed = Failure::local(local);
        let mode = mode_of(&fs::metadata(local).map_err(&failed)?);
        let listed = fs::read_dir(local).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let (entries, is_whole) = look_at(listed.map_err(&failed)?)?;
        *is_good &= is_whole;
        let made: Attr = self.client.mkdir(remote, mode | 0o700, true).await?;
        if made.mode != mode {
            modes.push((remote.to_owned(), mode));
        }
        Ok(entries)
    }

    async fn entry(&self, local: PathBuf, metadata: Metadata, remote: Vec<u8>) -> Result<(), Failure> {
        if metadata.is_symlink() {
            let target = fs::read_link(&local).map_err(Failure::local(&local))?;
            return Ok(self.symlink(target.as_os_str().as_bytes(), &remote).await?);
        }
        if !metadata.is_file() {
            let error = io::Error::other("not a file, a directory or a symlink: left out");
            return Err(Failure::Local(local, error));
        }
        let options = WriteOptions { mode: mode_of(&metadata), set_mode: true, ..WriteOptions::default() };
        self.file(&local, &remote, options).await
    }

    /// Makes a symlink; one that is there already goes.
    async fn symlink(&self, target: &[u8], remote: &[u8]) -> Result<(), ClientError> {
        match self.client.symlink(target, remote).await {
            Err(error) if error.code() == "EEXIST" => {
                self.client.rm(remote, false, false).await?;
                self.client.symlink(target, remote).await.map(drop)
            }
            made => made.map(drop),
        }
    }
}

/// What is behind the names of a directory, and whether that could be told of each: others may remove some meanwhile.
fn look_at(listed: Vec<DirEntry>) -> Result<(Vec<(PathBuf, Metadata)>, bool), Failure> {
    let (mut entries, mut is_good) = (Vec::with_capacity(listed.len()), true);
    for entry in listed {
        let path = entry.path();
        match entry.metadata().map_err(Failure::local(&path)) {
            Ok(metadata) => entries.push((path, metadata)),
            Err(failure) => is_good &= went_well(Err(failure))?,
        }
    }
    Ok((entries, is_good))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of the directory was left out.
    #[test]
    fn what_vanishes_takes_no_other_with_it() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["goes", "stays"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let listed = fs::read_dir(dir.path()).unwrap().collect::<io::Result<Vec<_>>>().unwrap();
        fs::remove_file(dir.path().join("goes")).unwrap();
        let (entries, is_good) = look_at(listed).unwrap();
        let paths: Vec<_> = entries.into_iter().map(|(path, _)| path).collect();
        assert_eq!((paths, is_good), (vec![dir.path().join("stays")], false));
    }
}
