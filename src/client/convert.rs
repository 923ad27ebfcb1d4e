//! The types of callers, and how the wire has them.

use super::types::*;
use capnp::Result;
use wsd_schema::common_capnp::{self, attr};
use wsd_schema::exec_capnp;
use wsd_schema::fs_capnp::{
    self, change, dir_entry, find_options, grep_options, match_, path_entry, set_time,
};
use wsd_schema::workspace_capnp::info;

pub(super) fn kind(kind: common_capnp::Kind) -> Kind {
    match kind {
        common_capnp::Kind::File => Kind::File,
        common_capnp::Kind::Dir => Kind::Dir,
        common_capnp::Kind::Symlink => Kind::Symlink,
        common_capnp::Kind::Fifo => Kind::Fifo,
        common_capnp::Kind::Socket => Kind::Socket,
        common_capnp::Kind::CharDevice => Kind::CharDevice,
        common_capnp::Kind::BlockDevice => Kind::BlockDevice,
    }
}

fn wire_kind(kind: Kind) -> common_capnp::Kind {
    match kind {
        Kind::File => common_capnp::Kind::File,
        Kind::Dir => common_capnp::Kind::Dir,
        Kind::Symlink => common_capnp::Kind::Symlink,
        Kind::Fifo => common_capnp::Kind::Fifo,
        Kind::Socket => common_capnp::Kind::Socket,
        Kind::CharDevice => common_capnp::Kind::CharDevice,
        Kind::BlockDevice => common_capnp::Kind::BlockDevice,
    }
}

pub(super) fn attr(attr: attr::Reader<'_>) -> Result<Attr> {
    Ok(Attr {
        ino: attr.get_ino(),
        kind: kind(attr.get_kind()?),
        mode: attr.get_mode(),
        nlink: attr.get_nlink(),
        uid: attr.get_uid(),
        gid: attr.get_gid(),
        rdev: attr.get_rdev(),
        size: attr.get_size(),
        blocks: attr.get_blocks(),
        atime: attr.get_atime(),
        mtime: attr.get_mtime(),
        ctime: attr.get_ctime(),
        btime: attr.get_btime(),
        revision: attr.get_revision(),
    })
}

pub(super) fn dir_entry(entry: dir_entry::Reader<'_>) -> Result<DirEntry> {
    Ok(DirEntry { name: entry.get_name()?.to_vec(), attr: attr(entry.get_attr()?)? })
}

pub(super) fn path_entry(entry: path_entry::Reader<'_>) -> Result<PathEntry> {
    Ok(PathEntry { path: entry.get_path()?.to_vec(), attr: attr(entry.get_attr()?)? })
}

fn text(text: Result<capnp::text::Reader<'_>>) -> Result<String> {
    Ok(String::from_utf8_lossy(text?.as_bytes()).into_owned())
}

pub(super) fn info(info: info::Reader<'_>) -> Result<Info> {
    Ok(Info {
        version: text(info.get_version())?,
        workspace_id: text(info.get_workspace_id())?,
        mount_point: info.get_mount_point()?.to_vec(),
        mount: text(info.get_mount())?,
        mount_reason: text(info.get_mount_reason())?,
        revision: info.get_revision(),
        features: info.get_features()?.iter().map(text).collect::<Result<_>>()?,
    })
}

pub(super) fn set_time(time: SetTime, mut to: set_time::Builder<'_>) {
    match time {
        SetTime::Keep => to.set_keep(()),
        SetTime::Now => to.set_now(()),
        SetTime::At(nanos) => to.set_at(nanos),
    }
}

pub(super) fn rename_mode(mode: RenameMode) -> fs_capnp::RenameMode {
    match mode {
        RenameMode::Replace => fs_capnp::RenameMode::Replace,
        RenameMode::NoReplace => fs_capnp::RenameMode::NoReplace,
        RenameMode::Exchange => fs_capnp::RenameMode::Exchange,
    }
}

pub(super) fn xattr_mode(mode: XattrMode) -> fs_capnp::XattrMode {
    match mode {
        XattrMode::Any => fs_capnp::XattrMode::Any,
        XattrMode::Create => fs_capnp::XattrMode::Create,
        XattrMode::Replace => fs_capnp::XattrMode::Replace,
    }
}

pub(super) fn write_options(options: &WriteOptions, mut to: fs_capnp::write_options::Builder<'_>) {
    use fs_capnp::write_options::IfExists as Wire;
    to.set_mode(options.mode);
    to.set_if_exists(match options.if_exists {
        IfExists::Replace => Wire::Replace,
        IfExists::Fail => Wire::Fail,
        IfExists::Require => Wire::Require,
    });
    to.set_make_dirs(options.make_dirs);
    to.set_set_mode(options.set_mode);
}

pub(super) fn find_options(options: &FindOptions, mut to: find_options::Builder<'_>) {
    to.set_path(&options.path);
    let mut globs = to.reborrow().init_globs(options.globs.len() as u32);
    for (index, glob) in options.globs.iter().enumerate() {
        globs.set(index as u32, glob);
    }
    let mut excludes = to.reborrow().init_excludes(options.excludes.len() as u32);
    for (index, exclude) in options.excludes.iter().enumerate() {
        excludes.set(index as u32, exclude);
    }
    let mut kinds = to.reborrow().init_kinds(options.kinds.len() as u32);
    for (index, kind) in options.kinds.iter().enumerate() {
        kinds.set(index as u32, wire_kind(*kind));
    }
    to.set_max_depth(options.max_depth);
    to.set_hidden(options.hidden);
    to.set_gitignore(options.gitignore);
}

pub(super) fn grep_options(options: &GrepOptions, mut to: grep_options::Builder<'_>) {
    find_options(&options.within, to.reborrow().init_in());
    to.set_pattern(&options.pattern);
    to.set_literal(options.literal);
    to.set_ignore_case(options.ignore_case);
    to.set_word(options.word);
    to.set_before(options.before);
    to.set_after(options.after);
    to.set_max_per_file(options.max_per_file);
    to.set_multiline(options.multiline);
}

pub(super) fn found(found: match_::Reader<'_>) -> Result<Match> {
    Ok(Match {
        path: found.get_path()?.to_vec(),
        line: found.get_line(),
        offset: found.get_offset(),
        text: found.get_text()?.to_vec(),
        context: found.get_context(),
        spans: found.get_spans()?.iter().map(|span| (span.get_start(), span.get_end())).collect(),
    })
}

pub(super) fn change(change: change::Reader<'_>) -> Result<Change> {
    Ok(Change {
        revision: change.get_revision(),
        kind: match change.get_kind()? {
            fs_capnp::ChangeKind::Created => ChangeKind::Created,
            fs_capnp::ChangeKind::Modified => ChangeKind::Modified,
            fs_capnp::ChangeKind::Attributes => ChangeKind::Attributes,
            fs_capnp::ChangeKind::Removed => ChangeKind::Removed,
            fs_capnp::ChangeKind::Renamed => ChangeKind::Renamed,
        },
        node: kind(change.get_node()?),
        ino: change.get_ino(),
        path: change.get_path()?.to_vec(),
        from: change.get_from()?.to_vec(),
    })
}

pub(super) fn command_exit(exit: exec_capnp::exit::Reader<'_>) -> Result<CommandExit> {
    let mut told = CommandExit {
        code: None,
        signal: None,
        lost: false,
        timed_out: exit.get_timed_out(),
        output_cut: exit.get_output_cut(),
        not_upstream: Some(exit.get_not_upstream()?.to_string()?).filter(|reason| !reason.is_empty()),
    };
    match exit.which()? {
        exec_capnp::exit::Code(code) => told.code = Some(code),
        exec_capnp::exit::Signal(signal) => told.signal = Some(signal?.to_string()?),
        exec_capnp::exit::Lost(()) => told.lost = true,
    }
    Ok(told)
}

pub(super) fn command_info(info: exec_capnp::info::Reader<'_>) -> Result<CommandInfo> {
    let has_ended = info.get_state()? == exec_capnp::State::Ended;
    Ok(CommandInfo {
        id: info.get_id()?.to_string()?,
        command: info.get_command()?.to_vec(),
        cwd: info.get_cwd()?.to_vec(),
        pid: info.get_pid(),
        exit: if has_ended { Some(command_exit(info.get_exit()?)?) } else { None },
        started: info.get_started(),
        ended: info.get_ended(),
        start_revision: info.get_start_revision(),
        end_revision: info.get_end_revision(),
        first_seq: info.get_first_seq(),
        last_seq: info.get_last_seq(),
    })
}
