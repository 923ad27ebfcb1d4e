//! Between the wire's types and the service's.

use crate::clock::Timestamp;
use crate::service::{Applied, Failure, IfExists, Outcome, WriteQuery};
use crate::store::rows::Kind;
use crate::vfs::{Attr, ChangeKind, RenameMode, SetTime, SetXattr};
use wsd_schema::{common_capnp as common, fs_capnp as fs};

/// Fills the results of a call: with its value, or with its error.
macro_rules! answer {
    ($results:ident, $outcome:expr, |$value:pat_param| $fill:expr) => {
        match $outcome {
            Ok($value) => $fill,
            Err(failure) => $crate::rpc::convert::set_error($results.get().init_error(), &failure),
        }
    };
}
pub(super) use answer;

pub(super) fn set_error(mut error: common::error::Builder<'_>, failure: &Failure) {
    error.set_code(failure.code);
    error.set_message(failure.message.as_str());
    error.set_path(&failure.path);
    error.set_applied(match failure.applied {
        Applied::No => common::Applied::No,
        Applied::Yes => common::Applied::Yes,
        Applied::Unknown => common::Applied::Unknown,
    });
}

pub(super) fn set_attr(mut to: common::attr::Builder<'_>, attr: &Attr) {
    to.set_ino(attr.ino);
    to.set_kind(kind(attr.kind));
    to.set_mode(attr.mode);
    to.set_nlink(attr.nlink);
    to.set_uid(attr.uid);
    to.set_gid(attr.gid);
    to.set_rdev(attr.rdev);
    to.set_size(attr.size);
    to.set_blocks(attr.blocks);
    to.set_atime(attr.atime.0);
    to.set_mtime(attr.mtime.0);
    to.set_ctime(attr.ctime.0);
    to.set_btime(attr.btime.0);
    to.set_revision(attr.revision);
}

pub(super) fn kind(kind: Kind) -> common::Kind {
    match kind {
        Kind::File => common::Kind::File,
        Kind::Dir => common::Kind::Dir,
        Kind::Symlink => common::Kind::Symlink,
        Kind::Fifo => common::Kind::Fifo,
        Kind::Socket => common::Kind::Socket,
        Kind::CharDevice => common::Kind::CharDevice,
        Kind::BlockDevice => common::Kind::BlockDevice,
    }
}

pub(super) fn kind_in(kind: common::Kind) -> Kind {
    match kind {
        common::Kind::File => Kind::File,
        common::Kind::Dir => Kind::Dir,
        common::Kind::Symlink => Kind::Symlink,
        common::Kind::Fifo => Kind::Fifo,
        common::Kind::Socket => Kind::Socket,
        common::Kind::CharDevice => Kind::CharDevice,
        common::Kind::BlockDevice => Kind::BlockDevice,
    }
}

pub(super) fn rename_mode(mode: fs::RenameMode) -> RenameMode {
    match mode {
        fs::RenameMode::Replace => RenameMode::Replace,
        fs::RenameMode::NoReplace => RenameMode::NoReplace,
        fs::RenameMode::Exchange => RenameMode::Exchange,
    }
}

pub(super) fn xattr_mode(mode: fs::XattrMode) -> SetXattr {
    match mode {
        fs::XattrMode::Any => SetXattr::Any,
        fs::XattrMode::Create => SetXattr::Create,
        fs::XattrMode::Replace => SetXattr::Replace,
    }
}

pub(super) fn set_time(time: fs::set_time::Reader<'_>) -> capnp::Result<Option<SetTime>> {
    Ok(match time.which()? {
        fs::set_time::Keep(()) => None,
        fs::set_time::Now(()) => Some(SetTime::Now),
        fs::set_time::At(nanos) => Some(SetTime::At(Timestamp(nanos))),
    })
}

pub(super) fn write_query(options: fs::write_options::Reader<'_>) -> capnp::Result<WriteQuery> {
    use fs::write_options::IfExists as Wire;
    let if_exists = match options.get_if_exists()? {
        Wire::Replace => IfExists::Replace,
        Wire::Fail => IfExists::Fail,
        Wire::Require => IfExists::Require,
    };
    Ok(WriteQuery {
        mode: options.get_mode(),
        if_exists,
        make_dirs: options.get_make_dirs(),
        set_mode: options.get_set_mode(),
    })
}

fn change_kind(kind: ChangeKind) -> fs::ChangeKind {
    match kind {
        ChangeKind::Created => fs::ChangeKind::Created,
        ChangeKind::Modified => fs::ChangeKind::Modified,
        ChangeKind::Attributes => fs::ChangeKind::Attributes,
        ChangeKind::Removed => fs::ChangeKind::Removed,
        ChangeKind::Renamed => fs::ChangeKind::Renamed,
    }
}

/// A change: at which revision and what, of which node, where it is and where it was.
pub(super) fn set_change(
    to: &mut fs::change::Builder<'_>,
    (revision, what): (u64, ChangeKind),
    (ino, node): (u64, Kind),
    (path, from): (&[u8], Option<&[u8]>),
) {
    to.set_revision(revision);
    to.set_kind(change_kind(what));
    to.set_node(kind(node));
    to.set_ino(ino);
    to.set_path(path);
    if let Some(from) = from {
        to.set_from(from);
    }
}

/// A number of entries that fits the wire.
pub(super) fn count<T>(list: &[T]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}

/// 0xffffffff leaves an owner as it is.
pub(super) fn owner(id: u32) -> Option<u32> {
    (id != u32::MAX).then_some(id)
}

/// Text from the wire.
pub(super) fn text(reader: capnp::text::Reader<'_>) -> Outcome<String> {
    reader.to_string().map_err(|_| Failure::protocol("a text is not UTF-8"))
}
