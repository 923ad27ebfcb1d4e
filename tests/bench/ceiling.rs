//! A filesystem in memory behind FUSE, with wsd's own settings and nothing else of it: `ceiling MOUNT_POINT`. What it takes is what
//! the kernel's FUSE takes on this machine at this moment, so `scripts/bench.sh --ceiling` shows it beside wsd. It keeps
//! nothing, forgets nothing and knows no links; it ends when it is unmounted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a measurement that fails is no measurement"
)]

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request,
    SessionACL, TimeOrNow, WriteFlags,
};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

const TTL: Duration = Duration::from_secs(24 * 3600);
const CHUNK: usize = 64 << 10;
const MAX_REQUEST: u32 = 1 << 20;

/// What wsd asks the kernel for.
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

struct Node {
    attr: FileAttr,
    /// Of a directory: names, with the number that stands for each when it is listed.
    names: BTreeMap<OsString, INodeNo>,
    chunks: HashMap<u64, Vec<u8>>,
    target: Vec<u8>,
}

type Shared = Arc<Mutex<Node>>;

struct Ceiling {
    nodes: RwLock<HashMap<u64, Shared>>,
    next: AtomicU64,
}

impl Ceiling {
    fn new() -> Self {
        let ceiling = Self { nodes: RwLock::default(), next: AtomicU64::new(2) };
        ceiling.add(INodeNo(1), FileType::Directory, 0o755, (0, 0));
        ceiling
    }

    fn add(&self, ino: INodeNo, kind: FileType, perm: u16, (uid, gid): (u32, u32)) -> Shared {
        let now = SystemTime::now();
        let attr = FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            kind,
            perm,
            nlink: 1,
            uid,
            gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        let node = Node { attr, names: BTreeMap::new(), chunks: HashMap::new(), target: Vec::new() };
        let node = Arc::new(Mutex::new(node));
        self.nodes.write().insert(ino.0, Arc::clone(&node));
        node
    }

    fn get(&self, ino: INodeNo) -> Result<Shared, Errno> {
        self.nodes.read().get(&ino.0).cloned().ok_or(Errno::ENOENT)
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> Result<Shared, Errno> {
        let ino = self.get(parent)?.lock().names.get(name).copied();
        self.get(ino.ok_or(Errno::ENOENT)?)
    }

    fn make(
        &self,
        by: &Request,
        parent: INodeNo,
        name: &OsStr,
        kind: FileType,
        mode: u32,
    ) -> Result<Shared, Errno> {
        let ino = INodeNo(self.next.fetch_add(1, Ordering::Relaxed));
        let node = self.add(ino, kind, (mode & 0o7777) as u16, (by.uid(), by.gid()));
        self.get(parent)?.lock().names.insert(name.to_owned(), ino);
        Ok(node)
    }

    fn take(&self, parent: INodeNo, name: &OsStr) -> Result<INodeNo, Errno> {
        self.get(parent)?.lock().names.remove(name).ok_or(Errno::ENOENT)
    }

    fn remove(&self, parent: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let ino = self.take(parent, name)?;
        self.nodes.write().remove(&ino.0);
        Ok(())
    }

    fn list(&self, ino: INodeNo, offset: u64) -> Result<Vec<(u64, OsString, Shared)>, Errno> {
        let names = self.get(ino)?.lock().names.clone();
        let rest = names.into_iter().enumerate().skip(offset as usize);
        Ok(rest.filter_map(|(at, (name, ino))| Some((at as u64 + 1, name, self.get(ino).ok()?))).collect())
    }
}

fn entry(reply: ReplyEntry, result: Result<Shared, Errno>) {
    match result {
        Ok(node) => reply.entry(&TTL, &node.lock().attr, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn time(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

impl Filesystem for Ceiling {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wish in WISHES {
            let _ = config.add_capabilities(*wish);
        }
        let _ = config.set_max_write(MAX_REQUEST);
        let _ = config.set_max_readahead(MAX_REQUEST);
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.child(parent, name) {
            Err(Errno::ENOENT) => {
                let mut none = self.get(INodeNo(1)).unwrap().lock().attr;
                none.ino = INodeNo(0);
                reply.entry(&TTL, &none, Generation(0));
            }
            result => entry(reply, result),
        }
    }

    fn forget(&self, _: &Request, _: INodeNo, _: u64) {}

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.get(ino) {
            Ok(node) => reply.attr(&TTL, &node.lock().attr),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
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
        let node = match self.get(ino) {
            Ok(node) => node,
            Err(error) => return reply.error(error),
        };
        let mut node = node.lock();
        if let Some(size) = size {
            node.chunks.retain(|index, _| index * (CHUNK as u64) < size);
        }
        let attr = &mut node.attr;
        attr.perm = mode.map_or(attr.perm, |mode| (mode & 0o7777) as u16);
        (attr.uid, attr.gid) = (uid.unwrap_or(attr.uid), gid.unwrap_or(attr.gid));
        attr.size = size.unwrap_or(attr.size);
        attr.atime = atime.map_or(attr.atime, time);
        attr.mtime = mtime.map_or(attr.mtime, time);
        attr.ctime = ctime.unwrap_or_else(SystemTime::now);
        reply.attr(&TTL, attr);
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.get(ino) {
            Ok(node) => reply.data(&node.lock().target),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(
        &self,
        by: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        entry(reply, self.make(by, parent, name, FileType::RegularFile, mode & !umask));
    }

    fn mkdir(&self, by: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        entry(reply, self.make(by, parent, name, FileType::Directory, mode & !umask));
    }

    fn symlink(&self, by: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let made = self.make(by, parent, name, FileType::Symlink, 0o777);
        if let Ok(node) = &made {
            let mut node = node.lock();
            node.target = target.as_os_str().to_owned().into_vec();
            node.attr.size = target.as_os_str().as_bytes().len() as u64;
        }
        entry(reply, made);
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(Errno::ENOSYS);
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

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.remove(parent, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let full = self.child(parent, name).is_ok_and(|node| !node.lock().names.is_empty());
        empty(reply, if full { Err(Errno::ENOTEMPTY) } else { self.remove(parent, name) });
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let moved = self.take(parent, name).and_then(|ino| {
            self.get(new_parent)?.lock().names.insert(new_name.to_owned(), ino);
            Ok(())
        });
        empty(reply, moved);
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
        let node = match self.get(ino) {
            Ok(node) => node,
            Err(error) => return reply.error(error),
        };
        let node = node.lock();
        let end = (offset + u64::from(size)).min(node.attr.size);
        let mut bytes = Vec::with_capacity(end.saturating_sub(offset) as usize);
        let mut at = offset;
        while at < end {
            let (index, from) = (at / CHUNK as u64, (at % CHUNK as u64) as usize);
            let to = CHUNK.min(from + (end - at) as usize);
            match node.chunks.get(&index) {
                Some(chunk) => bytes.extend_from_slice(&chunk[from..to]),
                None => bytes.resize(bytes.len() + to - from, 0),
            }
            at += (to - from) as u64;
        }
        reply.data(&bytes);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let node = match self.get(ino) {
            Ok(node) => node,
            Err(error) => return reply.error(error),
        };
        let mut node = node.lock();
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let (index, from) = (at / CHUNK as u64, (at % CHUNK as u64) as usize);
            let (piece, later) = rest.split_at(rest.len().min(CHUNK - from));
            match node.chunks.get_mut(&index) {
                None if piece.len() == CHUNK => drop(node.chunks.insert(index, piece.to_vec())),
                None => {
                    let mut chunk = vec![0; CHUNK];
                    chunk[from..from + piece.len()].copy_from_slice(piece);
                    node.chunks.insert(index, chunk);
                }
                Some(chunk) => chunk[from..from + piece.len()].copy_from_slice(piece),
            }
            (at, rest) = (at + piece.len() as u64, later);
        }
        node.attr.size = node.attr.size.max(at);
        node.attr.blocks = node.attr.size.div_ceil(512);
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Ok(list) = self.list(ino, offset) else { return reply.error(Errno::ENOENT) };
        for (cookie, name, node) in list {
            let attr = node.lock().attr;
            if reply.add(attr.ino, cookie, attr.kind, &name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Ok(list) = self.list(ino, offset) else { return reply.error(Errno::ENOENT) };
        for (cookie, name, node) in list {
            let attr = node.lock().attr;
            if reply.add(attr.ino, cookie, &name, &TTL, &attr, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENODATA);
    }
}

fn main() {
    let point = std::env::args_os().nth(1).expect("ceiling MOUNT_POINT");
    let mut config = Config::default();
    (config.n_threads, config.clone_fd, config.acl) = (Some(4), true, SessionACL::All);
    config.mount_options = vec![MountOption::FSName("ceiling".into()), MountOption::DefaultPermissions];
    fuser::Session::new(Ceiling::new(), point, &config).unwrap().spawn().unwrap().join().unwrap();
}
