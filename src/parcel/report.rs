//! How a replica is in step with its upstream.

use super::{Wrong, at_most, count, text};
use crate::sync::ConflictKind;
use crate::sync::status::{ConflictNote, LinkState, Status};
use serde_json::{Value, json};
use wsd_schema::sync_capnp::{ConflictKind as WireKind, Link as WireLink, conflict, status};

/// Longest text of a status, and most conflicts that are told.
const TEXT_MAX: usize = 64 << 10;
const CONFLICTS_MAX: usize = 10_000;

/// Puts a status on the wire.
pub fn write_status(mut to: status::Builder<'_>, status: &Status) {
    to.set_upstream(status.upstream.as_deref().unwrap_or_default());
    to.set_link(match status.link {
        LinkState::Off => WireLink::Off,
        LinkState::Connecting => WireLink::Connecting,
        LinkState::Connected => WireLink::Connected,
        LinkState::Paused => WireLink::Paused,
        LinkState::Refused => WireLink::Refused,
    });
    to.set_last_error(status.last_error.as_deref().unwrap_or_default());
    to.set_last_contact(status.last_contact.unwrap_or_default());
    to.set_replica(status.replica.as_str());
    to.set_pulled(status.pulled);
    to.set_upstream_revision(status.upstream_revision);
    to.set_pushed(status.pushed);
    to.set_revision(status.revision);
    to.set_pending_entries(status.pending_entries);
    to.set_pending_bytes(status.pending_bytes);
    to.set_incoming_entries(status.incoming_entries);
    to.set_incoming_bytes(status.incoming_bytes);
    to.set_conflicts(status.conflicts);
    let recent = &status.recent[..status.recent.len().min(CONFLICTS_MAX)];
    let mut list = to.init_recent(count(recent));
    for (index, note) in (0..).zip(recent) {
        let mut to = list.reborrow().get(index);
        to.set_time(note.time);
        to.set_kind(wire_kind(note.kind));
        to.set_path(&note.path);
        to.set_kept(note.kept.as_deref().unwrap_or_default());
    }
}

/// Takes a status off the wire.
pub fn read_status(from: status::Reader<'_>) -> Result<Status, Wrong> {
    let recent = from.get_recent()?;
    at_most(recent.len(), CONFLICTS_MAX, "conflicts")?;
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(Status {
        upstream: given(text(from.get_upstream(), TEXT_MAX, "an address")?),
        link: match from.get_link()? {
            WireLink::Off => LinkState::Off,
            WireLink::Connecting => LinkState::Connecting,
            WireLink::Connected => LinkState::Connected,
            WireLink::Paused => LinkState::Paused,
            WireLink::Refused => LinkState::Refused,
        },
        last_error: given(text(from.get_last_error(), TEXT_MAX, "an error")?),
        last_contact: Some(from.get_last_contact()).filter(|time| *time != 0),
        replica: text(from.get_replica(), TEXT_MAX, "a replica's identity")?,
        pulled: from.get_pulled(),
        upstream_revision: from.get_upstream_revision(),
        pushed: from.get_pushed(),
        revision: from.get_revision(),
        pending_entries: from.get_pending_entries(),
        pending_bytes: from.get_pending_bytes(),
        incoming_entries: from.get_incoming_entries(),
        incoming_bytes: from.get_incoming_bytes(),
        conflicts: from.get_conflicts(),
        recent: recent.iter().map(read_note).collect::<Result<_, _>>()?,
    })
}

/// A status as JSON has it, without its conflicts.
pub fn status_json(status: &Status) -> Value {
    json!({
        "upstream": status.upstream,
        "link": status.link.word(),
        "lastError": status.last_error,
        "lastContact": status.last_contact,
        "replica": status.replica,
        "push": {
            "revision": status.revision,
            "durableUpstream": status.pushed,
            "pendingEntries": status.pending_entries,
            "pendingBytes": status.pending_bytes,
        },
        "pull": {
            "upstreamRevision": status.upstream_revision,
            "applied": status.pulled,
            "pendingEntries": status.incoming_entries,
            "pendingBytes": status.incoming_bytes,
        },
        "conflicts": status.conflicts,
    })
}

fn read_note(from: conflict::Reader<'_>) -> Result<ConflictNote, Wrong> {
    let kept = from.get_kept()?;
    Ok(ConflictNote {
        time: from.get_time(),
        kind: kind(from.get_kind()?),
        path: from.get_path()?.to_vec(),
        kept: (!kept.is_empty()).then(|| kept.to_vec()),
    })
}

fn wire_kind(kind: ConflictKind) -> WireKind {
    match kind {
        ConflictKind::Content => WireKind::Content,
        ConflictKind::Name => WireKind::Name,
        ConflictKind::Move => WireKind::Move,
        ConflictKind::Removal => WireKind::Removal,
        ConflictKind::Attributes => WireKind::Attributes,
    }
}

fn kind(kind: WireKind) -> ConflictKind {
    match kind {
        WireKind::Content => ConflictKind::Content,
        WireKind::Name => ConflictKind::Name,
        WireKind::Move => ConflictKind::Move,
        WireKind::Removal => ConflictKind::Removal,
        WireKind::Attributes => ConflictKind::Attributes,
    }
}
