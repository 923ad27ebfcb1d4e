//! `wsd import`: a whole tree of this machine, or a tar archive, into the workspace, with all that belongs to it: modes,
//! owners, times, symlinks, hard links, extended attributes, holes.

mod source;
mod sparse;

use super::offline;
use super::progress::Progress;
use super::talk::{Done, Failure, join, went_well};
use super::trees::{self, Meta, XattrValue};
use crate::client::{Client, SetTime, WriteOptions, XattrMode};
use crate::config::ClientFlags;
use bytes::Bytes;
use clap::Args;
use source::Source;
use sparse::Sparse;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes that are read and written at a time.
const PORTION: usize = 1 << 20;

/// Zeros of this length, and at a multiple of it, become holes: a chunk of the store.
const HOLE: usize = 64 << 10;

/// What GNU tar calls a directory with a list of what was in it (`tar --incremental`), and a member of several volumes that
/// has begun in the one before.
const DUMPED: u8 = b'D';
const CONTINUED: u8 = b'M';

#[derive(Args)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    #[command(flatten)]
    pub(super) offline: offline::OfflineFlags,
    /// The directory of the workspace that it is put into; made if it is not there
    #[arg(long, value_name = "PATH", default_value = ".")]
    to: OsString,
    /// A directory, a tar archive, or - for a tar archive on standard input
    source: PathBuf,
}

pub(super) async fn import(client: &Client, args: &ImportArgs) -> Done {
    let to = args.to.as_bytes();
    let is_tar = args.source == Path::new("-")
        || !fs::metadata(&args.source).map_err(Failure::local(&args.source))?.is_dir();
    client.mkdir(to, 0o755, true).await?;
    let mut import = Import { client, progress: Progress::new(None), directories: Vec::new(), is_good: true };
    if is_tar {
        import.archive(&args.source, to).await?;
    } else {
        import.tree(&args.source, to).await?;
    }
    import.finish().await
}

struct Import<'a> {
    client: &'a Client,
    progress: Progress,
    /// Directories get theirs last: what is put into one moves its times, and may not be allowed.
    directories: Vec<(Vec<u8>, Meta)>,
    is_good: bool,
}

impl Import<'_> {
    async fn finish(mut self) -> Done {
        for (path, meta) in std::mem::take(&mut self.directories).into_iter().rev() {
            let set = self.attributes(&path, &meta).await;
            self.note(set)?;
        }
        self.client.sync().await?;
        Ok(self.is_good)
    }

    /// What could not be put is reported, and the rest goes on.
    fn note(&mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        self.is_good &= went_well(result)?;
        Ok(())
    }

    async fn tree(&mut self, source: &Path, to: &[u8]) -> Result<(), Failure> {
        let mut linked: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
        let mut pending = vec![(source.to_owned(), to.to_owned())];
        while let Some((local, remote)) = pending.pop() {
            let metadata = fs::symlink_metadata(&local).map_err(Failure::local(&local));
            // What is named on the command line may be a symlink to a directory.
            let metadata =
                if local == source { fs::metadata(&local).map_err(Failure::local(&local)) } else { metadata };
            let metadata = match metadata {
                Ok(metadata) => metadata,
                Err(failure) => {
                    self.note(Err(failure))?;
                    continue;
                }
            };
            if metadata.nlink() > 1 && !metadata.is_dir() {
                let known = linked.entry((metadata.dev(), metadata.ino()));
                if let std::collections::hash_map::Entry::Occupied(first) = &known {
                    let made = self.hard_link(first.get(), &remote).await;
                    self.note(made)?;
                    continue;
                }
                known.or_insert_with(|| remote.clone());
            }
            let put = self.entry(&local, &metadata, &remote).await;
            self.note(put)?;
            if metadata.is_dir() {
                let listed = fs::read_dir(&local).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
                match listed.map_err(Failure::local(&local)) {
                    Ok(entries) => pending.extend(
                        entries
                            .iter()
                            .map(|entry| (entry.path(), join(&remote, entry.file_name().as_bytes()))),
                    ),
                    Err(failure) => self.note(Err(failure))?,
                }
            }
        }
        Ok(())
    }

    async fn entry(&mut self, local: &Path, metadata: &fs::Metadata, remote: &[u8]) -> Result<(), Failure> {
        let failed = Failure::local(local);
        let meta = Meta::of(local, metadata).map_err(&failed)?;
        if metadata.is_dir() {
            return self.directory(remote, meta).await;
        }
        if metadata.is_symlink() {
            let target = fs::read_link(local).map_err(&failed)?;
            return self.symlink(target.as_os_str().as_bytes(), remote, &meta).await;
        }
        if !metadata.is_file() {
            return Err(failed(io::Error::other("not a file, a directory or a symlink: left out")));
        }
        let mut file = File::open(local).map_err(&failed)?;
        let is_sparse = metadata.blocks() * 512 < metadata.len();
        let mut data = if is_sparse {
            trees::data_of(&file).map_err(&failed)?
        } else {
            std::iter::once(0..metadata.len()).collect()
        };
        data.retain(|range| !range.is_empty());
        self.begin(remote, &meta).await?;
        for range in data {
            file.seek(SeekFrom::Start(range.start)).map_err(&failed)?;
            let part = file.by_ref().take(range.end - range.start);
            self.bytes(local, part, remote, range.start).await?;
        }
        self.client.truncate(remote, metadata.len()).await?;
        self.attributes(remote, &meta).await
    }

    async fn archive(&mut self, source: &Path, to: &[u8]) -> Result<(), Failure> {
        let failed = Failure::local(source);
        let source = Source::open(source)?;
        let mut archive = tar::Archive::new(source.clone());
        for entry in archive.entries().map_err(&failed)? {
            let mut entry = entry.map_err(&failed)?;
            let headers = source.member(stored(&entry).map_err(&failed)?, entry.raw_header_position());
            // What the archive says of all that is in it.
            if entry.header().entry_type().is_pax_global_extensions() {
                continue;
            }
            let mut name = entry.path_bytes().into_owned();
            let sparse = Sparse::of_oldest(&entry, &headers);
            let sparse = sparse
                .and_then(|sparse| sparse.map_or_else(|| Sparse::of(&mut entry), |sparse| Ok(Some(sparse))));
            let mut sparse = match sparse.map_err(Failure::local(Path::new(trees::os(&name)))) {
                Ok(sparse) => sparse,
                Err(failure) => {
                    self.note(Err(failure))?;
                    continue;
                }
            };
            if let Some(real) = sparse.as_mut().and_then(|sparse| sparse.name.take()) {
                name = real;
            }
            let Some(remote) = trees::inside(to, &name) else {
                let error = io::Error::other("a name that leads out of the archive: left out");
                self.note(Err(Failure::Local(PathBuf::from(trees::os(&name)), error)))?;
                continue;
            };
            let put = self.member((&mut entry, &source), (&name, sparse), to, remote).await;
            self.note(put)?;
        }
        Ok(())
    }

    async fn member<R: Read>(
        &mut self,
        (entry, source): (&mut tar::Entry<'_, R>, &Source),
        (name, sparse): (&[u8], Option<Sparse>),
        to: &[u8],
        remote: Vec<u8>,
    ) -> Result<(), Failure> {
        let name = Path::new(trees::os(name));
        let failed = Failure::local(name);
        let kind = entry.header().entry_type();
        if kind.as_byte() == CONTINUED {
            let text = "begun in another volume: put the volumes together with tar first; left out";
            return Err(failed(io::Error::other(text)));
        }
        let meta = Meta::of_member(entry).map_err(&failed)?;
        let target = entry.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
        // Archives may leave out the directories on the way.
        let is_dir = kind.is_dir()
            || kind.as_byte() == DUMPED
            || (kind.is_file() && name.as_os_str().as_bytes().ends_with(b"/"));
        if let Some(parent) = Path::new(&trees::os(&remote)).parent().filter(|_| !is_dir) {
            self.client.mkdir(parent.as_os_str().as_bytes(), 0o755, true).await?;
        }
        if is_dir {
            self.directory(&remote, meta).await
        } else if kind.is_symlink() {
            self.symlink(&target, &remote, &meta).await
        } else if kind.is_hard_link() {
            let outside = || failed(io::Error::other("a link to what is not in the archive: left out"));
            self.hard_link(&trees::inside(to, &target).ok_or_else(outside)?, &remote).await
        } else if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
            let stored = stored(entry).map_err(&failed)?;
            let size = sparse.as_ref().map_or(entry.size(), |sparse| sparse.size);
            let parts = match sparse {
                None => std::iter::once(0..size).collect(),
                Some(sparse) => sparse.parts(entry, stored).map_err(&failed)?,
            };
            let mut past;
            let bytes: &mut dyn Read = if kind.is_gnu_sparse() {
                past = source.past_archive();
                &mut past
            } else {
                entry
            };
            self.begin(&remote, &meta).await?;
            for part in parts.into_iter().filter(|part| !part.is_empty()) {
                let wanted = part.end - part.start;
                let read = self.bytes(name, Read::take(&mut *bytes, wanted), &remote, part.start).await?;
                if read < wanted {
                    self.client.truncate(&remote, size).await?;
                    return Err(failed(io::Error::other("the archive ends in it: the rest is zeros")));
                }
            }
            self.client.truncate(&remote, size).await?;
            self.attributes(&remote, &meta).await
        } else {
            Err(failed(io::Error::other("not a file, a directory or a link: left out")))
        }
    }

    async fn directory(&mut self, remote: &[u8], meta: Meta) -> Result<(), Failure> {
        self.client.mkdir(remote, 0o700, true).await?;
        self.directories.push((remote.to_owned(), meta));
        Ok(())
    }

    async fn symlink(&self, target: &[u8], remote: &[u8], meta: &Meta) -> Result<(), Failure> {
        self.client.rm(remote, false, true).await?;
        self.client.symlink(target, remote).await?;
        self.attributes(remote, meta).await
    }

    async fn hard_link(&self, first: &[u8], remote: &[u8]) -> Result<(), Failure> {
        self.client.rm(remote, false, true).await?;
        self.client.link(first, remote).await?;
        Ok(())
    }

    /// An empty file of its own: one that is there may have other names.
    async fn begin(&self, remote: &[u8], meta: &Meta) -> Result<(), Failure> {
        self.client.rm(remote, false, true).await?;
        let options = WriteOptions { mode: meta.mode & 0o777 | 0o600, ..WriteOptions::default() };
        self.client.write_file(remote, options).await?.finish(false).await?;
        Ok(())
    }

    /// Bytes to a place in a file, and how many they were; runs of zeros are left out.
    async fn bytes(
        &self,
        local: &Path,
        mut from: impl Read,
        remote: &[u8],
        start: u64,
    ) -> Result<u64, Failure> {
        let mut at = start;
        loop {
            let mut portion = Vec::with_capacity(PORTION);
            // To a multiple of the portion, so that holes are found where they can be.
            let wanted = PORTION as u64 - at % PORTION as u64;
            let read = from.by_ref().take(wanted).read_to_end(&mut portion).map_err(Failure::local(local))?;
            if read == 0 {
                return Ok(at - start);
            }
            for run in trees::runs(&portion, HOLE) {
                let data = Bytes::copy_from_slice(&portion[run.clone()]);
                self.client.write(remote, at + run.start as u64, data).await?;
            }
            at += read as u64;
            self.progress.add(read);
        }
    }

    /// Owner, mode, extended attributes and times, in the order in which none takes another away.
    async fn attributes(&self, remote: &[u8], meta: &Meta) -> Result<(), Failure> {
        let now = self.client.lstat(remote).await?;
        if (now.uid, now.gid) != (meta.uid, meta.gid) {
            match self.client.chown(remote, Some(meta.uid), Some(meta.gid), false).await {
                // A daemon of an ordinary user: everything belongs to that user.
                Err(error) if error.code() == "EPERM" => {}
                done => drop(done?),
            }
        }
        if !meta.is_symlink {
            self.client.chmod(remote, meta.mode).await?;
        }
        for XattrValue { name, value } in &meta.xattrs {
            self.client.setxattr(remote, name, value, XattrMode::Any, false).await?;
        }
        let at = |time| SetTime::At(time);
        self.client.utimes(remote, at(meta.atime), at(meta.mtime), false).await?;
        Ok(())
    }
}

/// How many bytes a member has in the archive. A file with holes has more of its own.
fn stored<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<u64> {
    let header = entry.header();
    if header.entry_type().is_gnu_sparse() { header.entry_size() } else { Ok(entry.size()) }
}
