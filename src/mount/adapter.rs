//! The kernel's requests, each one call into the filesystem.
//!
//! All work is done by inode: there are no handles, because opening a file tells wsd nothing it must know. The
//! kernel learns this from the first `ENOSYS` and saves itself the requests (open, release, flush, opendir). It
//! keeps advisory locks itself, and checks permissions (`default_permissions`).

use super::convert::{attr, caller, errno, fallocate, file_type, kind, seek, set_time, set_xattr, time_in};
use super::reflect::{Act, Reflected};
use super::seeker::Seeker;
use crate::error::{FsError, FsResult};
use crate::store::rows::{CHUNK, Kind, ROOT};
use crate::vfs::{Attr, Author, Caller, NewNode, RenameMode, SetAttr, Vfs};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// How long the kernel may believe what it was told. Whatever changes without it, it is told of.
const TTL: Duration = Duration::from_secs(24 * 3600);

/// Inode numbers are never used twice, so no generation is needed to tell their users apart.
const GENERATION: Generation = Generation(0);

/// Bytes of the largest request: what the kernel allows (`fs.fuse.max_pages_limit`).
const MAX_REQUEST: u32 = 1 << 20;

/// Most bytes one `copy_file_range` is answered with: the reply has 32 bits, and chunks are the grain.
const MAX_COPY: u64 = (1 << 31) / CHUNK as u64 * CHUNK as u64;

/// Requests that may be in flight in the background (read-ahead, writeback).
const MAX_BACKGROUND: u16 = 64;

const WISHES: &[InitFlags] = &[
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_BIG_WRITES,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_WRITEBACK_CACHE,
    InitFlags::FUSE_NO_OPEN_SUPPORT,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
];

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

    /// Who changes something.
    fn caller(&self, request: &Request) -> Caller {
        let by = match self.vfs.author(request.pid()) {
            // The kernel changes nothing of itself but what it held.
            Author::Unknown => Author::Program,
            by => by,
        };
        caller(request, by)
    }

    fn create_node(&self, request: &Request, parent: INodeNo, name: &OsStr, new: NewNode) -> FsResult<Attr> {
        self.vfs.create(self.caller(request), parent.0, name.as_bytes(), new)
    }
}

fn entry(reply: ReplyEntry, result: FsResult<Attr>) {
    match result {
        Ok(found) => reply.entry(&TTL, &attr(&found), GENERATION),
        Err(error) => reply.error(errno(&error)),
    }
}

fn attributes(reply: ReplyAttr, result: FsResult<Attr>) {
    match result {
        Ok(found) => reply.attr(&TTL, &attr(&found)),
        Err(error) => reply.error(errno(&error)),
    }
}

fn empty(reply: ReplyEmpty, result: FsResult<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

fn xattr(reply: ReplyXattr, size: u32, result: FsResult<Vec<u8>>) {
    match result {
        Ok(bytes) if size == 0 => reply.size(bytes.len() as u32),
        Ok(bytes) if bytes.len() > size as usize => reply.error(errno(&FsError::Range)),
        Ok(bytes) => reply.data(&bytes),
        Err(error) => reply.error(errno(&error)),
    }
}

/// The answer to a lookup that lets the kernel remember that there is no such name.
fn no_entry() -> FileAttr {
    let never = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: never,
        mtime: never,
        ctime: never,
        crtime: never,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wish in WISHES {
            if let Err(missing) = config.add_capabilities(*wish) {
                tracing::debug!(?missing, "this kernel does not offer all that would help");
            }
        }
        let _ = config.set_max_write(MAX_REQUEST);
        if let Err(most) = config.set_max_readahead(MAX_REQUEST) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.vfs.lookup(caller(request, Author::Unknown), parent.0, name.as_bytes()) {
            Err(FsError::NotFound) => reply.entry(&TTL, &no_entry(), GENERATION),
            result => entry(reply, result),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.vfs.forget(ino.0, count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        attributes(reply, self.vfs.getattr(ino.0));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if self.reflected.is_ours(request.pid(), ino.0, Act::Reflect) {
            return attributes(reply, self.vfs.getattr(ino.0));
        }
        let set = SetAttr {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
            ctime: ctime.map(time_in),
        };
        // The kernel writes back the times of a file in the name of whoever closes it, or in nobody's.
        let writes_back = ctime.is_some() && mtime.is_some() && atime.is_none() && size.is_none();
        let caller =
            if writes_back { caller(request, self.vfs.author(request.pid())) } else { self.caller(request) };
        attributes(reply, self.vfs.setattr(caller, ino.0, &set));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.vfs.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let Some(kind) = kind(mode) else { return reply.error(Errno::EINVAL) };
        entry(reply, self.create_node(request, parent, name, NewNode { kind, mode, umask, rdev }));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let new = NewNode { kind: Kind::Dir, mode, umask, rdev: 0 };
        entry(reply, self.create_node(request, parent, name, new));
    }

    /// The kernel then makes the node and opens it as any other, without a request: one less, because what was
    /// not opened need not be released.
    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(Errno::ENOSYS);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.vfs.unlink(self.caller(request), parent.0, name.as_bytes()));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.vfs.rmdir(self.caller(request), parent.0, name.as_bytes()));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        entry(reply, self.vfs.symlink(self.caller(request), parent.0, name.as_bytes(), target));
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            none if none.is_empty() => RenameMode::Replace,
            RenameFlags::RENAME_NOREPLACE => RenameMode::NoReplace,
            RenameFlags::RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        let (from, to) = ((parent.0, name.as_bytes()), (new_parent.0, new_name.as_bytes()));
        empty(reply, self.vfs.rename(self.caller(request), from, to, mode));
    }

    fn link(&self, request: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.vfs.link(self.caller(request), ino.0, parent.0, name.as_bytes()));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.vfs.read(ino.0, offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let unprivileged = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let written = if flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
            self.vfs.write_pages(ino.0, offset, data, unprivileged)
        } else {
            self.vfs.write(self.caller(request), ino.0, offset, data, unprivileged)
        };
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn fsync(&self, request: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        if self.reflected.is_ours(request.pid(), ino.0, Act::Flush) {
            return reply.ok();
        }
        empty(reply, self.vfs.sync());
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        empty(reply, self.vfs.sync());
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let result = self.vfs.readdir(ino.0, offset, &mut |entry| {
            let name = OsStr::from_bytes(&entry.name);
            !reply.add(INodeNo(entry.ino), entry.cookie, file_type(entry.kind), name)
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let result =
            self.vfs.readdir_plus(caller(request, Author::Unknown), ino.0, offset, &mut |entry, found| {
                let name = OsStr::from_bytes(&entry.name);
                !reply.add(INodeNo(entry.ino), entry.cookie, name, &TTL, &attr(found), GENERATION)
            });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        const BLOCK: u32 = 4096;
        match self.vfs.statfs() {
            Ok(stat) => {
                let (total, free) = (stat.total / u64::from(BLOCK), stat.free / u64::from(BLOCK));
                // A node needs space, not a slot in a table: there are as many left as fit.
                let nodes_left = stat.free / 512;
                reply.statfs(total, free, free, stat.nodes + nodes_left, nodes_left, BLOCK, 255, BLOCK);
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let Some(how) = set_xattr(flags) else { return reply.error(Errno::EINVAL) };
        empty(reply, self.vfs.setxattr(self.caller(request), ino.0, name.as_bytes(), value, how));
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        xattr(reply, size, self.vfs.getxattr(ino.0, name.as_bytes()));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.vfs.listxattr(ino.0);
        xattr(
            reply,
            size,
            names.map(|names| names.into_iter().flat_map(|name| [name, vec![0]].concat()).collect()),
        );
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.vfs.removexattr(self.caller(request), ino.0, name.as_bytes()));
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(what) = fallocate(mode) else { return reply.error(Errno::EOPNOTSUPP) };
        empty(reply, self.vfs.fallocate(self.caller(request), ino.0, what, offset, length));
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match (seek(whence), u64::try_from(offset)) {
            (Some(what), Ok(offset)) => self.seeker.seek(ino.0, offset, what, reply),
            (_, Err(_)) => reply.error(Errno::ENXIO),
            (None, _) => reply.error(Errno::EINVAL),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        from: INodeNo,
        _: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _: FileHandle,
        to_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let len = len.min(MAX_COPY);
        match self.vfs.copy_range(self.caller(request), (from.0, from_offset), (to.0, to_offset), len) {
            Ok(copied) => reply.written(copied as u32),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        command: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        if !self.told_of_ioctl.swap(true, Ordering::Relaxed) {
            tracing::info!(
                command = format_args!("{command:#x}"),
                "ioctls are not supported: they fail with ENOTTY"
            );
        }
        reply.error(Errno::ENOTTY);
    }
}

/// The root's number is the kernel's too.
const _: () = assert!(ROOT == 1);
