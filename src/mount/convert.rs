//! Between the kernel's words and ours.

use super::answer::Errno;
use super::request::{Moment, Request, Set};
use crate::error::FsError;
use crate::store::rows::Kind;
use crate::vfs::{Author, Caller, Fallocate, Origin, RenameMode, Seek, SetAttr, SetTime, SetXattr};

pub(super) fn caller(request: &Request<'_>, by: Author) -> Caller {
    Caller { uid: request.uid, gid: request.gid, origin: Origin::Kernel, by, process: request.pid }
}

impl From<FsError> for Errno {
    fn from(error: FsError) -> Self {
        if matches!(error, FsError::Io(_)) {
            tracing::error!(%error, "an operation of the mount failed");
        }
        Self(error.errno())
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

pub(super) fn set_attr(set: &Set) -> SetAttr {
    let time = |moment| match moment {
        Moment::Now => SetTime::Now,
        Moment::At(time) => SetTime::At(time),
    };
    SetAttr {
        mode: set.mode,
        uid: set.uid,
        gid: set.gid,
        size: set.size,
        atime: set.atime.map(time),
        mtime: set.mtime.map(time),
        ctime: set.ctime,
        unprivileged: Some(set.is_unprivileged),
    }
}

/// The flags of `renameat2(2)`; `None` for one that is not supported.
pub(super) fn rename_mode(flags: u32) -> Option<RenameMode> {
    const WHITEOUT_NO_REPLACE: u32 = libc::RENAME_WHITEOUT | libc::RENAME_NOREPLACE;
    Some(match flags {
        0 => RenameMode::Replace,
        libc::RENAME_NOREPLACE => RenameMode::NoReplace,
        libc::RENAME_EXCHANGE => RenameMode::Exchange,
        libc::RENAME_WHITEOUT => RenameMode::Whiteout { replace: true },
        WHITEOUT_NO_REPLACE => RenameMode::Whiteout { replace: false },
        _ => return None,
    })
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
