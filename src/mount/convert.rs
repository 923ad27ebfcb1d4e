//! Between the kernel's words and ours.

use crate::clock::Timestamp;
use crate::error::FsError;
use crate::store::rows::Kind;
use crate::vfs::{Attr, Author, Caller, Fallocate, Origin, Seek, SetTime, SetXattr};
use fuser::{Errno, FileAttr, FileType, INodeNo, Request, TimeOrNow};
use std::time::{SystemTime, UNIX_EPOCH};

pub(super) fn caller(request: &Request, by: Author) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), origin: Origin::Kernel, by }
}

pub(super) fn errno(error: &FsError) -> Errno {
    if matches!(error, FsError::Io(_)) {
        tracing::error!(%error, "an operation of the mount failed");
    }
    Errno::from_i32(error.errno())
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// What `mknod(2)` was asked to make. A mode without type bits means a regular file.
pub(super) fn kind(mode: u32) -> Option<Kind> {
    Some(match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Kind::File,
        libc::S_IFIFO => Kind::Fifo,
        libc::S_IFSOCK => Kind::Socket,
        libc::S_IFCHR => Kind::CharDevice,
        libc::S_IFBLK => Kind::BlockDevice,
        _ => return None,
    })
}

pub(super) fn attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: attr.btime.into(),
        kind: file_type(attr.kind),
        perm: attr.mode as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: 4096,
        flags: 0,
    }
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(time_in(time)),
    }
}

/// A time from the kernel, whose nanoseconds count from the second before. For a time before 1970 fuser 0.18
/// counts them away from the epoch.
pub(super) fn time_in(time: SystemTime) -> Timestamp {
    match UNIX_EPOCH.duration_since(time) {
        Ok(before) => Timestamp::from_parts(-(before.as_secs() as i64), before.subsec_nanos()),
        Err(_) => Timestamp::from(time),
    }
}

/// The mode of `fallocate(2)`; `None` for one that is not supported.
pub(super) fn fallocate(mode: i32) -> Option<Fallocate> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_KEEP: i32 = ZERO | KEEP;
    Some(match mode {
        0 => Fallocate::Allocate,
        KEEP => Fallocate::AllocateKeepSize,
        PUNCH => Fallocate::PunchHole,
        ZERO => Fallocate::ZeroRange,
        ZERO_KEEP => Fallocate::ZeroRangeKeepSize,
        _ => return None,
    })
}

/// The `whence` of `lseek(2)`. The kernel answers the others itself.
pub(super) fn seek(whence: i32) -> Option<Seek> {
    match whence {
        libc::SEEK_DATA => Some(Seek::Data),
        libc::SEEK_HOLE => Some(Seek::Hole),
        _ => None,
    }
}

/// The flags of `setxattr(2)`.
pub(super) fn set_xattr(flags: i32) -> Option<SetXattr> {
    match flags {
        0 => Some(SetXattr::Any),
        libc::XATTR_CREATE => Some(SetXattr::Create),
        libc::XATTR_REPLACE => Some(SetXattr::Replace),
        _ => None,
    }
}
