//! `wsd export`: the workspace, or a part of it, as a directory of this machine or a tar archive, with all that belongs to
//! it: modes, owners, times, symlinks, hard links, extended attributes, and, in a directory, holes.

mod archive;
mod directory;

use super::offline;
use super::out::Out;
use super::progress::Progress;
use super::talk::{Done, Failure, if_read, went_well};
use super::trees::{Meta, XattrValue};
use crate::client::{Client, FindOptions, Kind, PathEntry};
use crate::config::ClientFlags;
use archive::ToArchive;
use bytes::Bytes;
use clap::Args;
use directory::ToDirectory;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    #[command(flatten)]
    pub(super) offline: offline::OfflineFlags,
    /// The directory of the workspace that is exported
    #[arg(long, value_name = "PATH", default_value = ".")]
    from: OsString,
    /// A directory that is not there or empty; a name that ends in .tar; or - for a tar archive on standard output
    target: PathBuf,
}

/// Where a tree goes to.
enum Target<'a> {
    Directory(ToDirectory),
    Archive(ToArchive<'a>),
}

pub(super) async fn export(client: &Client, out: &mut Out, args: &ExportArgs) -> Done {
    let failed = Failure::local(&args.target);
    let is_out = args.target == Path::new("-");
    let target = if is_out || args.target.extension().is_some_and(|extension| extension == "tar") {
        Target::Archive(ToArchive::new(out, (!is_out).then_some(&*args.target)).map_err(&failed)?)
    } else {
        Target::Directory(ToDirectory::new(&args.target).map_err(&failed)?)
    };
    let export = Export { client, progress: Progress::new(None), linked: HashMap::new() };
    export.tree(args.from.as_bytes(), target).await
}

struct Export<'a> {
    client: &'a Client,
    progress: Progress,
    /// The first name of each file that has several.
    linked: HashMap<u64, Vec<u8>>,
}

impl Export<'_> {
    async fn tree(mut self, from: &[u8], mut target: Target<'_>) -> Done {
        let mut is_good = true;
        let mut root: Option<Vec<u8>> = None;
        let mut found = self.client.find(FindOptions::below(from)).await?;
        while let Some(entry) = found.next().await {
            let Some(entry) = if_read(entry, &mut is_good)? else { continue };
            let root = root.get_or_insert_with(|| entry.path.clone());
            let below = entry.path.strip_prefix(&root[..]).unwrap_or_default();
            let below = below.strip_prefix(b"/").unwrap_or(below).to_owned();
            let put = self.entry(&entry, below, &mut target).await;
            is_good &= went_well(put)?;
        }
        match target {
            Target::Directory(directory) => directory.finish()?,
            Target::Archive(archive) => archive.finish()?,
        }
        Ok(is_good)
    }

    async fn entry(
        &mut self,
        entry: &PathEntry,
        below: Vec<u8>,
        target: &mut Target<'_>,
    ) -> Result<(), Failure> {
        let PathEntry { path, attr } = entry;
        if attr.nlink > 1 && attr.kind != Kind::Dir {
            if let Some(first) = self.linked.get(&attr.ino) {
                return match target {
                    Target::Directory(directory) => directory.hard_link(&below, first),
                    Target::Archive(archive) => archive.hard_link(&below, first),
                };
            }
            self.linked.insert(attr.ino, below.clone());
        }
        let meta = self.meta(entry).await?;
        match attr.kind {
            Kind::Dir => match target {
                Target::Directory(directory) => directory.directory(&below, meta),
                Target::Archive(archive) => archive.directory(&below, &meta),
            },
            Kind::Symlink => {
                let to = self.client.readlink(path).await?;
                match target {
                    Target::Directory(directory) => directory.symlink(&below, &to, &meta),
                    Target::Archive(archive) => archive.symlink(&below, &to, &meta),
                }
            }
            Kind::File => self.file(entry, &below, &meta, target).await,
            _ => {
                let error = io::Error::other("not a file, a directory or a symlink: left out");
                Err(Failure::Local(PathBuf::from(super::trees::os(&below)), error))
            }
        }
    }

    async fn file(
        &self,
        entry: &PathEntry,
        below: &[u8],
        meta: &Meta,
        target: &mut Target<'_>,
    ) -> Result<(), Failure> {
        let mut source = self.client.read_file(&entry.path, 0, None).await?;
        // As large as it is now, not as large as it was when it was found.
        let size = source.attr().size;
        match target {
            Target::Directory(directory) => directory.begin(below)?,
            Target::Archive(archive) => archive.begin(below, meta, size)?,
        }
        let mut left = size;
        let mut read = Ok(());
        while let Some(portion) = source.next().await {
            let portion: Bytes = match portion {
                Ok(portion) => portion,
                Err(error) => {
                    read = Err(error.into());
                    break;
                }
            };
            let portion = portion.slice(..portion.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            left -= portion.len() as u64;
            self.progress.add(portion.len());
            match target {
                Target::Directory(directory) => directory.bytes(&portion)?,
                Target::Archive(archive) => archive.bytes(&portion)?,
            }
        }
        match target {
            Target::Directory(directory) => read.and_then(|()| directory.end(below, meta)),
            Target::Archive(archive) => archive.end(left, read),
        }
    }

    async fn meta(&self, entry: &PathEntry) -> Result<Meta, Failure> {
        let mut xattrs = Vec::new();
        for name in self.client.listxattr(&entry.path, false).await? {
            let value = self.client.getxattr(&entry.path, &name, false).await?;
            xattrs.push(XattrValue { name, value });
        }
        let attr = &entry.attr;
        Ok(Meta {
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            atime: attr.atime,
            mtime: attr.mtime,
            is_symlink: attr.kind == Kind::Symlink,
            xattrs,
        })
    }
}
