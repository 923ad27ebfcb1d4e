//! The kernel's requests, each one call into the filesystem.
//!
//! All work is done by inode: there are no handles, because opening a file tells wsd nothing it must know. The
//! kernel learns this from the first `ENOSYS` and saves itself the requests (open, release, flush, opendir; create too: the
//! kernel then makes the node and opens it as any other, without a request). It keeps advisory locks itself, and checks
//! permissions (`default_permissions`).

use super::answer::{Answer, Errno, Listing, Reply};
use super::convert::{caller, fallocate, kind, rename_mode, seek, set_attr, set_xattr};
use super::reflect::{Act, Reflected};
use super::request::{Operation, Request, Set, forgotten};
use super::seeker::Seeker;
use crate::error::{FsError, FsResult};
use crate::store::rows::{CHUNK, Ino, Kind, ROOT};
use crate::vfs::{Attr, Author, Caller, DirEntry, NewNode, Vfs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of a read from which on a program reads a large file from one end to the other: the kernel asks for so many only then.
const LARGE_READ: u32 = 256 << 10;

/// Most bytes one `copy_file_range` is answered with: the reply has 32 bits, and chunks are the grain.
const MAX_COPY: u64 = (1 << 31) / CHUNK as u64 * CHUNK as u64;

/// What a request is answered with.
type Answered = Result<Answer, Errno>;

pub(super) struct Adapter {
    vfs: Arc<Vfs>,
    seeker: Seeker,
    reflected: Arc<Reflected>,
    told_of_ioctl: AtomicBool,
}

impl Adapter {
    pub(super) fn new(vfs: Arc<Vfs>, seeker: Seeker, reflected: Arc<Reflected>) -> Self {
        Self { vfs, seeker, reflected, told_of_ioctl: AtomicBool::new(false) }
    }

    /// Whether it may have to wait until the disk has taken what others wrote.
    pub(super) fn may_wait(&self, request: &Request<'_>) -> bool {
        match request.operation {
            Operation::Fsync | Operation::FsyncDir => true,
            Operation::Write { .. }
            | Operation::Fallocate { .. }
            | Operation::CopyFileRange { .. }
            | Operation::SetXattr { .. } => self.vfs.may_hold_up(),
            Operation::MkNod { .. }
            | Operation::MkDir { .. }
            | Operation::TmpFile { .. }
            | Operation::Symlink { .. }
            | Operation::Link { .. } => self.vfs.may_hold_up_names(),
            _ => false,
        }
    }

    /// Does what is asked, and answers.
    pub(super) fn serve(&self, request: &Request<'_>, reply: Reply) {
        match request.operation {
            Operation::Lseek { offset, whence } => match (seek(whence), u64::try_from(offset)) {
                (Some(what), Ok(offset)) => self.seeker.seek(request.node, offset, what, reply),
                (_, Err(_)) => reply.send(Err(Errno(libc::ENXIO))),
                (None, _) => reply.send(Err(Errno(libc::EINVAL))),
            },
            _ => {
                let answer = self.answer(request);
                if let Ok(Answer::Entry(attr) | Answer::Attributes(attr) | Answer::Statx(attr)) = &answer {
                    self.vfs.shown_to_kernel(attr);
                }
                reply.send(answer);
            }
        }
    }

    fn answer(&self, request: &Request<'_>) -> Answered {
        match request.operation {
            Operation::Lookup { .. }
            | Operation::Forget { .. }
            | Operation::ForgetMany { .. }
            | Operation::ReadDir { .. }
            | Operation::ReadDirPlus { .. } => self.names(request),
            Operation::GetAttr
            | Operation::Statx
            | Operation::SetAttr(_)
            | Operation::StatFs
            | Operation::SetXattr { .. }
            | Operation::GetXattr { .. }
            | Operation::ListXattr { .. }
            | Operation::RemoveXattr { .. } => self.attributes(request),
            Operation::ReadLink
            | Operation::Read { .. }
            | Operation::Write { .. }
            | Operation::Fsync
            | Operation::FsyncDir
            | Operation::Fallocate { .. }
            | Operation::CopyFileRange { .. } => self.content(request),
            Operation::MkNod { .. }
            | Operation::MkDir { .. }
            | Operation::TmpFile { .. }
            | Operation::Symlink { .. }
            | Operation::Unlink { .. }
            | Operation::RmDir { .. }
            | Operation::Rename { .. }
            | Operation::Link { .. } => self.tree(request),
            Operation::Release | Operation::Destroy => Ok(Answer::Done),
            Operation::Ioctl { command } => self.ioctl(command),
            Operation::Lseek { .. } | Operation::Unknown(_) => Err(Errno(libc::ENOSYS)),
            Operation::Malformed(opcode) => {
                tracing::error!(opcode, "a request of the kernel does not have the form of its kind");
                Err(Errno(libc::EIO))
            }
        }
    }

    /// Who changes something.
    fn caller(&self, request: &Request<'_>) -> Caller {
        let by = match self.vfs.author(request.pid) {
            // The kernel changes nothing of itself but what it held.
            Author::Unknown => Author::Program,
            by => by,
        };
        caller(request, by)
    }

    /// What names lead to.
    fn names(&self, request: &Request<'_>) -> Answered {
        let (node, reader) = (request.node, caller(request, Author::Unknown));
        Ok(match request.operation {
            Operation::Lookup { name: b"." } => Answer::Entry(self.vfs.lookup_itself(reader, node)?),
            Operation::Lookup { name: b".." } => Answer::Entry(self.vfs.lookup_parent(reader, node)?),
            Operation::Lookup { name } => match self.vfs.lookup(reader, node, name) {
                Err(FsError::NotFound) => Answer::NoEntry,
                found => Answer::Entry(found?),
            },
            Operation::Forget { count } => {
                self.forget(node, count);
                Answer::None
            }
            Operation::ForgetMany { these } => {
                forgotten(these).for_each(|(node, count)| self.forget(node, count));
                Answer::None
            }
            Operation::ReadDir { offset, size } => {
                Answer::Bytes(self.list(reader, node, offset, Listing::new(size))?)
            }
            Operation::ReadDirPlus { offset, size } => {
                Answer::Bytes(self.list(reader, node, offset, Listing::plus(size))?)
            }
            _ => return Err(Errno(libc::ENOSYS)),
        })
    }

    fn forget(&self, node: Ino, count: u64) {
        self.vfs.forget(node, count);
        self.reflected.forget(node, || self.vfs.is_known_to_kernel(node));
    }

    /// Names of a directory, as many as there is room for.
    fn list(&self, reader: Caller, dir: Ino, offset: u64, mut listing: Listing) -> FsResult<Vec<u8>> {
        let end = self.vfs.listed_to(dir, offset)?;
        let mut is_cut = false;
        let mut add = |listing: &mut Listing, entry: &DirEntry, attr: Option<&Attr>| {
            is_cut = entry.cookie >= end;
            let kind = attr.map_or(entry.kind, |attr| attr.kind);
            let is_added = !is_cut && listing.add(entry.ino, entry.cookie, kind, &entry.name, attr);
            if let (true, Some(attr)) = (is_added, attr) {
                self.vfs.shown_to_kernel(attr);
            }
            is_added
        };
        let listed = if listing.is_plus() {
            self.vfs
                .readdir_plus(reader, dir, offset, &mut |entry, attr| add(&mut listing, entry, Some(attr)))
        } else {
            self.vfs.readdir(dir, offset, &mut |entry| add(&mut listing, entry, None))
        };
        match listed {
            // One node that cannot be read does not hide the names of others.
            Err(FsError::Io(_)) if listing.is_plus() => {
                if listing.is_empty() {
                    self.vfs.readdir(dir, offset, &mut |entry| add(&mut listing, entry, None))?;
                }
            }
            listed => listed?,
        }
        if is_cut && listing.is_empty() {
            self.vfs.drop_listing(dir);
        }
        Ok(listing.into_bytes())
    }

    /// What is known of a node besides its content.
    fn attributes(&self, request: &Request<'_>) -> Answered {
        let node = request.node;
        Ok(match request.operation {
            Operation::GetAttr => Answer::Attributes(self.vfs.getattr(node)?),
            Operation::Statx => Answer::Statx(self.vfs.getattr(node)?),
            Operation::SetAttr(ref set) => Answer::Attributes(self.set(request, set)?),
            Operation::StatFs => Answer::StatFs(self.vfs.statfs()?),
            Operation::SetXattr { name, value, flags } => {
                let how = match set_xattr(flags) {
                    Some(how) => how,
                    // It must and must not be there.
                    None if flags == libc::XATTR_CREATE | libc::XATTR_REPLACE => {
                        self.vfs.getxattr(node, name)?;
                        return Err(Errno(libc::EEXIST));
                    }
                    None => return Err(Errno(libc::EINVAL)),
                };
                self.vfs.setxattr(self.caller(request), node, name, value, how)?;
                Answer::Done
            }
            Operation::GetXattr { name, size } => sized(size, self.vfs.getxattr(node, name)?)?,
            Operation::ListXattr { size } => {
                // As on a local disk, those that only root may read are shown to root only.
                let is_shown = |name: &Vec<u8>| request.uid == 0 || !name.starts_with(b"trusted.");
                let names = self.vfs.listxattr(node)?.into_iter().filter(is_shown);
                sized(size, names.flat_map(|name| [name, vec![0]].concat()).collect())?
            }
            Operation::RemoveXattr { name } => {
                self.vfs.removexattr(self.caller(request), node, name)?;
                Answer::Done
            }
            _ => return Err(Errno(libc::ENOSYS)),
        })
    }

    fn set(&self, request: &Request<'_>, set: &Set) -> FsResult<Attr> {
        // The kernel writes back the times of a file in the name of whoever closes it, or in nobody's.
        let writes_back =
            set.ctime.is_some() && set.mtime.is_some() && set.atime.is_none() && set.size.is_none();
        let is_ours = |act| self.reflected.is_ours(request.pid, request.node, act);
        if is_ours(Act::Reflect) || !writes_back && is_ours(Act::Stamp) {
            let attr = self.vfs.getattr(request.node)?;
            return Ok(Attr { mode: set.mode.map_or(attr.mode, |mode| mode & 0o7777), ..attr });
        }
        let caller =
            if writes_back { caller(request, self.vfs.author(request.pid)) } else { self.caller(request) };
        self.vfs.setattr(caller, request.node, &set_attr(set))
    }

    fn content(&self, request: &Request<'_>) -> Answered {
        let node = request.node;
        Ok(match request.operation {
            Operation::ReadLink => Answer::Bytes(self.vfs.readlink(node)?),
            Operation::Read { offset, size, is_quiet, is_direct } => {
                let read = if is_quiet { Vfs::read_leaving_time } else { Vfs::read };
                let read = || read(&self.vfs, node, offset, size as usize);
                let is_kept = size >= LARGE_READ && !is_direct;
                Answer::Bytes(if is_kept { self.vfs.passing_on(read) } else { read() }?)
            }
            Operation::Write { offset, data, is_cached, is_unprivileged } => {
                if is_cached {
                    self.vfs.write_pages(node, offset, data, is_unprivileged)?;
                } else {
                    self.vfs.write(self.caller(request), node, offset, data, is_unprivileged)?;
                }
                Answer::Written(data.len() as u32)
            }
            Operation::Fsync if self.reflected.is_ours(request.pid, node, Act::Flush) => Answer::Done,
            Operation::Fsync => {
                self.vfs.sync()?;
                return self.reflected.take_untold(node).map_or(Ok(Answer::Done), |why| Err(Errno(why)));
            }
            Operation::FsyncDir => {
                self.vfs.sync()?;
                Answer::Done
            }
            Operation::Fallocate { offset, length, .. }
                if self.reflected.is_ours(request.pid, node, Act::Reflect) =>
            {
                // It may have been cut meanwhile, and whoever did that has told the kernel, or will.
                let is_so_long = self.vfs.getattr(node)?.size >= offset.saturating_add(length);
                return if is_so_long { Ok(Answer::Done) } else { Err(Errno(libc::EAGAIN)) };
            }
            Operation::Fallocate { offset, length, mode } => {
                let what = fallocate(mode).ok_or(Errno(libc::EOPNOTSUPP))?;
                self.vfs.fallocate(self.caller(request), node, what, offset, length)?;
                Answer::Done
            }
            Operation::CopyFileRange { offset, to, to_offset, len } => {
                let (from, to) = ((node, offset), (to, to_offset));
                let copied = self.vfs.copy_range(self.caller(request), from, to, len.min(MAX_COPY))?;
                Answer::Written(copied as u32)
            }
            _ => return Err(Errno(libc::ENOSYS)),
        })
    }

    /// What changes the tree.
    fn tree(&self, request: &Request<'_>) -> Answered {
        let (dir, by) = (request.node, self.caller(request));
        let make = |name: &[u8], new: NewNode| self.vfs.create(by, dir, name, new);
        Ok(match request.operation {
            Operation::MkNod { name, mode, umask, rdev } => {
                let kind = kind(mode).ok_or(Errno(libc::EINVAL))?;
                Answer::Entry(make(name, NewNode { kind, mode, umask, rdev })?)
            }
            Operation::MkDir { name, mode, umask } => {
                Answer::Entry(make(name, NewNode { kind: Kind::Dir, mode, umask, rdev: 0 })?)
            }
            Operation::TmpFile { mode, umask } => {
                let new = NewNode { kind: Kind::File, mode, umask, rdev: 0 };
                Answer::Opened(self.vfs.tmpfile(by, dir, new)?)
            }
            Operation::Symlink { name, target } => Answer::Entry(self.vfs.symlink(by, dir, name, target)?),
            Operation::Unlink { name } => {
                self.vfs.unlink(by, dir, name)?;
                Answer::Done
            }
            Operation::RmDir { name } => {
                self.vfs.rmdir(by, dir, name)?;
                Answer::Done
            }
            Operation::Rename { name, new_parent, new_name, flags } => {
                let mode = rename_mode(flags).ok_or(Errno(libc::EINVAL))?;
                self.vfs.rename(by, (dir, name), (new_parent, new_name), mode)?;
                Answer::Done
            }
            Operation::Link { node, name } => Answer::Entry(self.vfs.link(by, node, dir, name)?),
            _ => return Err(Errno(libc::ENOSYS)),
        })
    }

    fn ioctl(&self, command: u32) -> Answered {
        if !self.told_of_ioctl.swap(true, Ordering::Relaxed) {
            tracing::info!(
                command = format_args!("{command:#x}"),
                "ioctls are not supported: they fail with ENOTTY"
            );
        }
        Err(Errno(libc::ENOTTY))
    }
}

/// A value for somebody who has room for `size` bytes, or, with none, asks how long it is.
fn sized(size: u32, value: Vec<u8>) -> FsResult<Answer> {
    match value.len() {
        length if size == 0 => Ok(Answer::Size(length as u32)),
        length if length > size as usize => Err(FsError::Range),
        _ => Ok(Answer::Bytes(value)),
    }
}

/// The root's number is the kernel's too.
const _: () = assert!(ROOT == 1);
