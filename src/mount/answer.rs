//! What the kernel is answered, as the bytes it expects.
//!
//! Source of every layout: `include/uapi/linux/fuse.h`, protocol 7.40; numbers are in the machine's byte order.

use crate::clock::Timestamp;
use crate::store::rows::{Ino, Kind};
use crate::vfs::{Attr, StatFs};
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Seconds that the kernel may believe what it was told. Whatever changes without it, it is told of.
const TTL: u64 = 24 * 3600;

/// Bytes of a block, for those who count in blocks.
const BLOCK: u32 = 4096;

/// A file that comes with its answer is closed by a request that says nothing, and what the kernel has of it stays.
const OPEN_FLAGS: u32 = KEEP_CACHE | NO_FLUSH;
const KEEP_CACHE: u32 = 1 << 1;
const NO_FLUSH: u32 = 1 << 5;

/// Bits of `statx(2)`: all that `stat(2)` tells, and the birth time.
const STATX_BASIC: u32 = 0x7ff;
const STATX_BTIME: u32 = 0x800;

/// The answer to a request that succeeded.
#[derive(Debug)]
pub(super) enum Answer {
    /// Nothing is expected.
    None,
    /// Done.
    Done,
    /// A name and what it leads to.
    Entry(Attr),
    /// There is no such name, and the kernel may remember that.
    NoEntry,
    /// A file that was made, and is open.
    Opened(Attr),
    Attributes(Attr),
    /// Attributes with the birth time.
    Statx(Attr),
    /// Content, names, values.
    Bytes(Vec<u8>),
    Written(u32),
    /// How many bytes there would be.
    Size(u32),
    Offset(u64),
    StatFs(StatFs),
}

/// What the kernel is told instead of an answer: an error of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Errno(pub(super) i32);

/// Where an answer goes. One that is given up without an answer answers that: the program would wait for ever.
#[derive(Debug)]
pub(super) struct Reply {
    device: Arc<OwnedFd>,
    unique: u64,
    is_open: bool,
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.is_open {
            self.write(-libc::EIO, &[]);
        }
    }
}

impl Reply {
    pub(super) fn new(device: &Arc<OwnedFd>, unique: u64) -> Self {
        Self { device: Arc::clone(device), unique, is_open: true }
    }

    /// Answers, if an answer is expected.
    pub(super) fn send(mut self, result: Result<Answer, Errno>) {
        self.is_open = false;
        match result {
            Ok(Answer::None) => {}
            Ok(Answer::Bytes(bytes)) => self.write(0, &bytes),
            Ok(answer) => {
                let mut body = Body(Vec::with_capacity(STATX));
                body.answer(&answer);
                self.write(0, &body.0);
            }
            Err(Errno(errno)) => self.write(-errno, &[]),
        }
    }

    fn write(&self, error: i32, body: &[u8]) {
        let mut header = Body(Vec::with_capacity(16));
        header.u32(16 + body.len() as u32);
        header.u32(error as u32);
        header.u64(self.unique);
        let parts = [IoSlice::new(&header.0), IoSlice::new(body)];
        // An answer that the kernel does not take is one to a program that was killed while it waited.
        if let Err(error) = rustix::io::writev(&*self.device, &parts) {
            tracing::trace!(unique = self.unique, %error, "the kernel did not take an answer");
        }
    }
}

/// Bytes of an answer.
#[derive(Debug)]
struct Body(Vec<u8>);

impl Body {
    fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_ne_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_ne_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_ne_bytes());
    }

    fn zeros(&mut self, count: usize) {
        self.0.resize(self.0.len() + count, 0);
    }

    fn answer(&mut self, answer: &Answer) {
        match answer {
            Answer::None | Answer::Done | Answer::Bytes(_) => {}
            Answer::Entry(attr) => self.entry(attr.ino, attr),
            Answer::NoEntry => {
                self.u64(0);
                self.u64(0);
                self.u64(TTL);
                self.zeros(8 + 4 + 4 + ATTR);
            }
            Answer::Opened(attr) => {
                self.entry(attr.ino, attr);
                self.u64(0);
                self.u32(OPEN_FLAGS);
                self.u32(0);
            }
            Answer::Attributes(attr) => {
                self.u64(TTL);
                self.zeros(8);
                self.attr(attr);
            }
            Answer::Statx(attr) => self.statx(attr),
            Answer::Written(size) | Answer::Size(size) => {
                self.u32(*size);
                self.u32(0);
            }
            Answer::Offset(offset) => self.u64(*offset),
            Answer::StatFs(stat) => self.statfs(stat),
        }
    }

    /// `fuse_entry_out`. Numbers of nodes are never used twice, so no generation tells their users apart.
    fn entry(&mut self, node: Ino, attr: &Attr) {
        self.u64(node);
        self.u64(0);
        self.u64(TTL);
        self.u64(TTL);
        self.zeros(8);
        self.attr(attr);
    }

    /// `fuse_attr`.
    fn attr(&mut self, attr: &Attr) {
        let times = [attr.atime, attr.mtime, attr.ctime];
        [attr.ino, attr.size, blocks(attr)].into_iter().for_each(|value| self.u64(value));
        times.into_iter().for_each(|time| self.u64(time.sec() as u64));
        times.into_iter().for_each(|time| self.u32(time.nsec()));
        let mode = format(attr.kind) | attr.mode;
        [mode, attr.nlink, attr.uid, attr.gid, attr.rdev, BLOCK, 0]
            .into_iter()
            .for_each(|value| self.u32(value));
    }

    /// `fuse_statx_out`.
    fn statx(&mut self, attr: &Attr) {
        self.u64(TTL);
        self.zeros(4 + 4 + 16);
        self.u32(STATX_BASIC | STATX_BTIME);
        self.u32(BLOCK);
        self.u64(0);
        [attr.nlink, attr.uid, attr.gid].into_iter().for_each(|value| self.u32(value));
        self.u16((format(attr.kind) | attr.mode) as u16);
        self.u16(0);
        [attr.ino, attr.size, blocks(attr), 0].into_iter().for_each(|value| self.u64(value));
        [attr.atime, attr.btime, attr.ctime, attr.mtime].into_iter().for_each(|time| self.time(time));
        // A device as the kernel packs it into 32 bits.
        let (major, minor) = ((attr.rdev >> 8) & 0xfff, (attr.rdev & 0xff) | ((attr.rdev >> 12) & 0xf_ff00));
        [major, minor, 0, 0].into_iter().for_each(|value| self.u32(value));
        self.zeros(14 * 8);
    }

    fn time(&mut self, time: Timestamp) {
        self.u64(time.sec() as u64);
        self.u32(time.nsec());
        self.u32(0);
    }

    /// `fuse_kstatfs`. A node needs space, not a slot in a table: there are as many left as fit.
    fn statfs(&mut self, stat: &StatFs) {
        let (total, free) = (stat.total / u64::from(BLOCK), stat.free / u64::from(BLOCK));
        let nodes_left = stat.free / 512;
        [total, free, free, stat.nodes + nodes_left, nodes_left]
            .into_iter()
            .for_each(|value| self.u64(value));
        [BLOCK, 255, BLOCK].into_iter().for_each(|value| self.u32(value));
        self.zeros(4 + 6 * 4);
    }
}

/// Bytes of a `fuse_attr`, and of the largest answer that is no content, a `fuse_statx_out`.
const ATTR: usize = 88;
const STATX: usize = 288;

/// What is said to be allocated. Of a file it is never nothing: there may be bytes that the kernel has not written back yet, and
/// for a file with a size and no blocks tar stores zeros, without a look at it. (So ext4 does with what is in its inodes.)
fn blocks(attr: &Attr) -> u64 {
    attr.blocks.max(u64::from(attr.kind == Kind::File))
}

/// The bits of a mode that say what a node is.
fn format(kind: Kind) -> u32 {
    match kind {
        Kind::File => libc::S_IFREG,
        Kind::Dir => libc::S_IFDIR,
        Kind::Symlink => libc::S_IFLNK,
        Kind::Fifo => libc::S_IFIFO,
        Kind::Socket => libc::S_IFSOCK,
        Kind::CharDevice => libc::S_IFCHR,
        Kind::BlockDevice => libc::S_IFBLK,
    }
}

/// The names of a directory, as many as the kernel has room for.
#[derive(Debug)]
pub(super) struct Listing {
    bytes: Body,
    room: usize,
    /// Whether each name comes with the attributes of what it leads to.
    is_plus: bool,
}

impl Listing {
    /// `room`: bytes that the kernel has for it.
    pub(super) fn new(room: u32) -> Self {
        let bytes = Body(Vec::with_capacity(room.min(32 << 10) as usize));
        Self { bytes, room: room as usize, is_plus: false }
    }

    /// One with attributes.
    pub(super) fn plus(room: u32) -> Self {
        Self { is_plus: true, ..Self::new(room) }
    }

    pub(super) fn is_plus(&self) -> bool {
        self.is_plus
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.0.is_empty()
    }

    /// Adds `fuse_dirent`, after `fuse_entry_out` where attributes are due; false when there is no room for it. Without
    /// attributes that are due the kernel asks for them by the name, when somebody wants them.
    pub(super) fn add(
        &mut self,
        ino: Ino,
        cookie: u64,
        kind: Kind,
        name: &[u8],
        attr: Option<&Attr>,
    ) -> bool {
        const DIRENT: usize = 24;
        let plus = if self.is_plus { 40 + ATTR } else { 0 };
        let length = (plus + DIRENT + name.len()).next_multiple_of(8);
        let end = self.bytes.0.len() + length;
        if end > self.room {
            return false;
        }
        match attr {
            Some(attr) if self.is_plus => self.bytes.entry(ino, attr),
            _ => self.bytes.zeros(plus),
        }
        self.bytes.u64(ino);
        self.bytes.u64(cookie);
        self.bytes.u32(name.len() as u32);
        self.bytes.u32(format(kind) >> 12);
        self.bytes.0.extend_from_slice(name);
        self.bytes.0.resize(end, 0);
        true
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes.0
    }
}

#[cfg(test)]
mod tests;
