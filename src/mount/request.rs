//! What the kernel asks, read out of the bytes of one request.
//!
//! fuser mounts, greets the kernel and sends it notifications, but passes on only the requests that it knows, and `TMPFILE`
//! and `STATX` are not among them. So requests are read here. Source of every layout: `include/uapi/linux/fuse.h`, protocol
//! 7.40; numbers are in the machine's byte order. Bytes come from the kernel, and are still not believed: what is too short
//! or ends too early is no request.

use crate::clock::Timestamp;
use std::mem::size_of;

/// Bytes of the header that every request begins with.
const HEADER: usize = 40;

/// Bytes before the content of a write.
pub(super) const BEFORE_CONTENT: usize = HEADER + 40;

/// Bits of `fuse_setattr_in.valid`: which of its fields are to be set.
mod valid {
    pub(super) const MODE: u32 = 1;
    pub(super) const UID: u32 = 1 << 1;
    pub(super) const GID: u32 = 1 << 2;
    pub(super) const SIZE: u32 = 1 << 3;
    pub(super) const ATIME: u32 = 1 << 4;
    pub(super) const MTIME: u32 = 1 << 5;
    pub(super) const ATIME_NOW: u32 = 1 << 7;
    pub(super) const MTIME_NOW: u32 = 1 << 8;
    pub(super) const CTIME: u32 = 1 << 10;
    /// A new size takes setuid and setgid away.
    pub(super) const KILL_SUIDGID: u32 = 1 << 11;
}

/// Bits of `fuse_write_in.write_flags`: the bytes are pages of the kernel's; they take setuid and setgid away.
const WRITE_CACHE: u32 = 1;
const WRITE_KILL_SUIDGID: u32 = 1 << 2;

/// One request.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// What its answer is known by.
    pub(super) unique: u64,
    /// The node that it is about; for a name, the directory.
    pub(super) node: u64,
    /// Whose file system ids the caller has, and the number of the thread.
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) pid: u32,
    pub(super) operation: Operation<'a>,
}

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    Now,
    At(Timestamp),
}

/// What is asked. Handles of open files are left out: nothing is opened.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the system calls")]
pub(super) enum Operation<'a> {
    Lookup {
        name: &'a [u8],
    },
    Forget {
        count: u64,
    },
    /// Several at once: nodes and counts, 16 bytes each.
    ForgetMany {
        these: &'a [u8],
    },
    GetAttr,
    Statx,
    SetAttr(Set),
    ReadLink,
    MkNod {
        name: &'a [u8],
        mode: u32,
        umask: u32,
        rdev: u32,
    },
    MkDir {
        name: &'a [u8],
        mode: u32,
        umask: u32,
    },
    TmpFile {
        mode: u32,
        umask: u32,
    },
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    Unlink {
        name: &'a [u8],
    },
    RmDir {
        name: &'a [u8],
    },
    Rename {
        name: &'a [u8],
        new_parent: u64,
        new_name: &'a [u8],
        flags: u32,
    },
    Link {
        node: u64,
        name: &'a [u8],
    },
    Read {
        offset: u64,
        size: u32,
        /// The time of access is to stay (`O_NOATIME`).
        is_quiet: bool,
        /// The kernel does not keep what it gets (`O_DIRECT`).
        is_direct: bool,
    },
    Write {
        offset: u64,
        data: &'a [u8],
        is_cached: bool,
        is_unprivileged: bool,
    },
    Release,
    Fsync,
    FsyncDir,
    ReadDir {
        offset: u64,
        size: u32,
    },
    ReadDirPlus {
        offset: u64,
        size: u32,
    },
    StatFs,
    SetXattr {
        name: &'a [u8],
        value: &'a [u8],
        flags: i32,
    },
    GetXattr {
        name: &'a [u8],
        size: u32,
    },
    ListXattr {
        size: u32,
    },
    RemoveXattr {
        name: &'a [u8],
    },
    Fallocate {
        offset: u64,
        length: u64,
        mode: i32,
    },
    Lseek {
        offset: i64,
        whence: i32,
    },
    CopyFileRange {
        offset: u64,
        to: u64,
        to_offset: u64,
        len: u64,
    },
    Ioctl {
        command: u32,
    },
    /// The mount is about to end.
    Destroy,
    /// Something else, by its number.
    Unknown(u32),
    /// Something known that does not have the form it should have, by its number.
    Malformed(u32),
}

/// The fields that `SETATTR` sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) size: Option<u64>,
    pub(super) atime: Option<Moment>,
    pub(super) mtime: Option<Moment>,
    pub(super) ctime: Option<Timestamp>,
    /// A new size takes setuid and setgid away.
    pub(super) is_unprivileged: bool,
}

impl<'a> Request<'a> {
    /// The request that `bytes` are; `None` if they are none that could be answered.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut header = Fields(bytes.get(..HEADER)?);
        let (len, opcode, unique) = (header.u32()?, header.u32()?, header.u64()?);
        let (node, uid, gid, pid) = (header.u64()?, header.u32()?, header.u32()?, header.u32()?);
        let body = bytes.get(HEADER..len as usize)?;
        let operation = operation(opcode, Fields(body)).unwrap_or(Operation::Malformed(opcode));
        Some(Self { unique, node, uid, gid, pid, operation })
    }
}

fn operation<'a>(opcode: u32, mut body: Fields<'a>) -> Option<Operation<'a>> {
    Some(match opcode {
        1 => Operation::Lookup { name: body.name()? },
        2 => Operation::Forget { count: body.u64()? },
        3 => Operation::GetAttr,
        4 => Operation::SetAttr(set(body)?),
        5 => Operation::ReadLink,
        6 => Operation::Symlink { name: body.name()?, target: body.name()? },
        8 => {
            let (mode, rdev, umask, _) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
            Operation::MkNod { name: body.name()?, mode, umask, rdev }
        }
        9 => {
            let (mode, umask) = (body.u32()?, body.u32()?);
            Operation::MkDir { name: body.name()?, mode, umask }
        }
        10 => Operation::Unlink { name: body.name()? },
        11 => Operation::RmDir { name: body.name()? },
        12 => {
            let new_parent = body.u64()?;
            Operation::Rename { name: body.name()?, new_parent, new_name: body.name()?, flags: 0 }
        }
        13 => {
            let node = body.u64()?;
            Operation::Link { node, name: body.name()? }
        }
        15 | 28 | 44 => read(opcode, body)?,
        16 => write(body)?,
        17 => Operation::StatFs,
        18 | 29 => Operation::Release,
        20 => Operation::Fsync,
        21 => {
            let (size, flags) = (body.u32()?, body.i32()?);
            let name = body.name()?;
            Operation::SetXattr { name, value: body.0.get(..size as usize)?, flags }
        }
        22 => {
            let (size, _) = (body.u32()?, body.u32()?);
            Operation::GetXattr { name: body.name()?, size }
        }
        23 => Operation::ListXattr { size: body.u32()? },
        24 => Operation::RemoveXattr { name: body.name()? },
        30 => Operation::FsyncDir,
        38 => Operation::Destroy,
        39 => {
            let (_handle, _flags) = (body.u64()?, body.u32()?);
            Operation::Ioctl { command: body.u32()? }
        }
        42 => {
            let (count, _) = (body.u32()?, body.u32()?);
            Operation::ForgetMany { these: body.0.get(..(count as usize).checked_mul(16)?)? }
        }
        43 => {
            let (_handle, offset, length) = (body.u64()?, body.u64()?, body.u64()?);
            Operation::Fallocate { offset, length, mode: body.i32()? }
        }
        45 => {
            let (new_parent, flags, _) = (body.u64()?, body.u32()?, body.u32()?);
            Operation::Rename { name: body.name()?, new_parent, new_name: body.name()?, flags }
        }
        46 => {
            let (_handle, offset) = (body.u64()?, body.u64()?);
            Operation::Lseek { offset: offset as i64, whence: body.i32()? }
        }
        47 => {
            let (_handle, offset, to) = (body.u64()?, body.u64()?, body.u64()?);
            let (_handle, to_offset, len) = (body.u64()?, body.u64()?, body.u64()?);
            Operation::CopyFileRange { offset, to, to_offset, len }
        }
        51 => {
            let (_flags, mode, umask) = (body.u32()?, body.u32()?, body.u32()?);
            Operation::TmpFile { mode, umask }
        }
        52 => Operation::Statx,
        other => Operation::Unknown(other),
    })
}

fn read<'a>(opcode: u32, mut body: Fields<'a>) -> Option<Operation<'a>> {
    let (_handle, offset, size) = (body.u64()?, body.u64()?, body.u32()?);
    Some(match opcode {
        28 => Operation::ReadDir { offset, size },
        44 => Operation::ReadDirPlus { offset, size },
        _ => {
            let (_flags, _lock_owner) = (body.u32()?, body.u64()?);
            let flags = body.i32()?;
            let is_quiet = flags & libc::O_NOATIME != 0;
            Operation::Read { offset, size, is_quiet, is_direct: flags & libc::O_DIRECT != 0 }
        }
    })
}

fn write(mut body: Fields<'_>) -> Option<Operation<'_>> {
    let (_handle, offset, size, flags) = (body.u64()?, body.u64()?, body.u32()?, body.u32()?);
    let (_lock_owner, _open_flags, _) = (body.u64()?, body.u32()?, body.u32()?);
    Some(Operation::Write {
        offset,
        data: body.0.get(..size as usize)?,
        is_cached: flags & WRITE_CACHE != 0,
        is_unprivileged: flags & WRITE_KILL_SUIDGID != 0,
    })
}

fn set(mut body: Fields<'_>) -> Option<Set> {
    let (valid, _) = (body.u32()?, body.u32()?);
    let (_handle, size, _lock_owner) = (body.u64()?, body.u64()?, body.u64()?);
    let seconds = [body.u64()?, body.u64()?, body.u64()?];
    let nanos = [body.u32()?, body.u32()?, body.u32()?];
    let (mode, _) = (body.u32()?, body.u32()?);
    let (uid, gid) = (body.u32()?, body.u32()?);
    let given = |bit: u32| valid & bit != 0;
    let time = |at: usize| Timestamp::from_parts(seconds[at] as i64, nanos[at]);
    let moment = |at: usize, bit: u32, now: u32| {
        given(bit).then(|| if given(now) { Moment::Now } else { Moment::At(time(at)) })
    };
    Some(Set {
        mode: given(valid::MODE).then_some(mode),
        uid: given(valid::UID).then_some(uid),
        gid: given(valid::GID).then_some(gid),
        size: given(valid::SIZE).then_some(size),
        atime: moment(0, valid::ATIME, valid::ATIME_NOW),
        mtime: moment(1, valid::MTIME, valid::MTIME_NOW),
        ctime: given(valid::CTIME).then(|| time(2)),
        is_unprivileged: given(valid::KILL_SUIDGID),
    })
}

/// The nodes and counts of a [`Operation::ForgetMany`].
pub(super) fn forgotten(these: &[u8]) -> impl Iterator<Item = (u64, u64)> + '_ {
    these.chunks_exact(16).filter_map(|one| {
        let mut one = Fields(one);
        Some((one.u64()?, one.u64()?))
    })
}

/// What of a request has not been read yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (these, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*these)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take::<{ size_of::<u32>() }>().map(u32::from_ne_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.u32().map(|value| value as i32)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take::<{ size_of::<u64>() }>().map(u64::from_ne_bytes)
    }

    /// Bytes up to a zero, which is there.
    fn name(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(0, self.0)?;
        let name = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Some(name)
    }
}

#[cfg(test)]
mod tests;
