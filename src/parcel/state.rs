//! One node: who it is and what.

use super::{Wrong, count, exactly, wrong};
use crate::clock::Timestamp;
use crate::store::group::Xattrs;
use crate::store::rows::{Kind, NAME_MAX, Name, ROOT, TARGET_MAX};
use crate::sync::link::OBJECT_MAX;
use crate::sync::{Attributes, Author, ContentId, NodeId, Place, State, Times};
use std::collections::BTreeSet;
use std::sync::Arc;
use wsd_schema::common_capnp as common;
use wsd_schema::sync_capnp::{content, node_id, state};

/// Deepest content: more than all that a file can have needs.
const MAX_DEPTH: u8 = 8;

/// Longest name of an extended attribute, and most bytes of a value and of all names, as xattr(7) has them.
const XATTR_NAME_MAX: usize = 255;
const XATTR_MAX: usize = 64 << 10;

pub(super) fn write_id(mut to: node_id::Builder<'_>, id: NodeId) {
    let life = u128::from_le_bytes(id.author.0);
    to.set_life_a(life as u64);
    to.set_life_b((life >> 64) as u64);
    to.set_number(id.ino);
}

pub(super) fn read_id(from: node_id::Reader<'_>) -> Result<NodeId, Wrong> {
    let life = u128::from(from.get_life_a()) | u128::from(from.get_life_b()) << 64;
    let id = NodeId { author: Author(life.to_le_bytes()), ino: from.get_number() };
    // Only the root is of no life.
    if (life == 0) != (id == NodeId::ROOT) || id.ino < ROOT || id.ino > i64::MAX as u64 {
        return wrong(format!("{} of the life {life:x} is no node", id.ino));
    }
    Ok(id)
}

pub(super) fn write_state(mut to: state::Builder<'_>, state: &State) {
    let State { kind, places, attributes, times, content } = state;
    to.set_kind(wire_kind(*kind));
    to.set_mode(attributes.mode);
    to.set_uid(attributes.uid);
    to.set_gid(attributes.gid);
    to.set_rdev(attributes.rdev);
    to.set_atime(times.atime.0);
    to.set_mtime(times.mtime.0);
    to.set_btime(times.btime.0);
    let mut named = to.reborrow().init_places(u32::try_from(places.len()).unwrap_or(u32::MAX));
    for (index, place) in (0..).zip(places) {
        let mut to = named.reborrow().get(index);
        to.set_name(&place.name);
        write_id(to.init_parent(), place.parent);
    }
    if !attributes.xattrs.is_empty() {
        let pairs: Vec<_> = attributes.xattrs.iter().collect();
        let mut xattrs = to.reborrow().init_xattrs(count(&pairs));
        for (index, (name, value)) in (0..).zip(pairs) {
            let mut to = xattrs.reborrow().get(index);
            to.set_name(name);
            to.set_value(value);
        }
    }
    if let Some(content) = content {
        let mut to = to.init_content();
        to.set_size(content.size);
        to.set_depth(content.depth);
        to.set_hash(&content.hash);
    }
}

/// What a node is said to be, if something can be that.
pub(super) fn read_state(from: state::Reader<'_>, id: NodeId) -> Result<State, Wrong> {
    let kind = kind(from.get_kind()?);
    let content = if from.has_content() { Some(read_content(from.get_content()?)?) } else { None };
    let state = State {
        kind,
        places: read_places(from)?,
        attributes: Attributes {
            mode: from.get_mode(),
            uid: from.get_uid(),
            gid: from.get_gid(),
            rdev: from.get_rdev(),
            xattrs: Arc::new(read_xattrs(from)?),
        },
        times: Times {
            atime: Timestamp(from.get_atime()),
            mtime: Timestamp(from.get_mtime()),
            btime: Timestamp(from.get_btime()),
        },
        content,
    };
    sane(&state, id)?;
    Ok(state)
}

/// Whether a node can be so.
fn sane(state: &State, id: NodeId) -> Result<(), Wrong> {
    let State { kind, places, attributes, content, .. } = state;
    if attributes.mode > 0o7777 {
        return wrong(format!("the mode 0o{:o}", attributes.mode));
    }
    if (id == NodeId::ROOT) != places.is_empty() || id == NodeId::ROOT && *kind != Kind::Dir {
        return wrong("the root alone has no name, and is a directory");
    }
    if *kind == Kind::Dir && places.len() > 1 {
        return wrong("a directory with more than one name");
    }
    if places.iter().any(|place| place.parent == id) {
        return wrong("a node within itself");
    }
    match (kind, content) {
        (Kind::Symlink, Some(target)) if target.depth > 0 || target.size > TARGET_MAX as u64 => {
            wrong(format!("a symlink's target of {} bytes, depth {}", target.size, target.depth))
        }
        (Kind::File | Kind::Symlink, Some(_)) => Ok(()),
        (Kind::File | Kind::Symlink, None) => wrong("a file or symlink without content"),
        (_, Some(_)) => wrong("content of a node that has none"),
        (_, None) => Ok(()),
    }
}

fn read_content(from: content::Reader<'_>) -> Result<ContentId, Wrong> {
    let hash = exactly(from.get_hash()?, "a hash")?;
    let content = ContentId { size: from.get_size(), hash, depth: from.get_depth() };
    let most = if content.depth == 0 { OBJECT_MAX as u64 } else { i64::MAX as u64 };
    if content.depth > MAX_DEPTH || content.size > most {
        return wrong(format!("content of {} bytes, depth {}", content.size, content.depth));
    }
    Ok(content)
}

fn read_places(from: state::Reader<'_>) -> Result<BTreeSet<Place>, Wrong> {
    let mut places = BTreeSet::new();
    for place in from.get_places()? {
        let (parent, name) = (read_id(place.get_parent()?)?, read_name(place.get_name()?)?);
        if !places.insert(Place { parent, name }) {
            return wrong("the same place twice");
        }
    }
    Ok(places)
}

fn read_name(name: &[u8]) -> Result<Name, Wrong> {
    let is_good = !matches!(name, b"" | b"." | b"..")
        && name.len() <= NAME_MAX
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
    if is_good { Ok(name.into()) } else { wrong("a name that no node can have") }
}

fn read_xattrs(from: state::Reader<'_>) -> Result<Xattrs, Wrong> {
    let (mut xattrs, mut names) = (Xattrs::new(), 0);
    for xattr in from.get_xattrs()? {
        let (name, value) = (xattr.get_name()?, xattr.get_value()?);
        names += name.len() + 1;
        if name.is_empty() || name.len() > XATTR_NAME_MAX || name.contains(&0) {
            return wrong("a name that no extended attribute can have");
        }
        if value.len() > XATTR_MAX || names > XATTR_MAX {
            return wrong("more extended attributes than there is room for");
        }
        if xattrs.insert(name.to_vec(), value.to_vec()).is_some() {
            return wrong("the same extended attribute twice");
        }
    }
    Ok(xattrs)
}

fn wire_kind(kind: Kind) -> common::Kind {
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

fn kind(kind: common::Kind) -> Kind {
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
