//! Greetings, cursors, watermarks, and what became of a push.

use super::batch::{Parcel, pack_entries};
use super::squeeze::Encoding;
use super::state::{read_id, write_id};
use super::{Wrong, at_most, count, exactly, text, wrong};
use crate::sync::link::{
    BATCH_ENTRIES, BATCH_MOST, Hello, OBJECTS_AT_ONCE, Portion, Pushed, Watermark, Welcome,
};
use crate::sync::{Author, Cursor, Hash, NodeId, Refusal, ReplicaId, Why};
use capnp::struct_list;
use wsd_schema::sync_capnp::{
    Why as WireWhy, cursor, hello, node_id, portion, pushed, refusal, watermark, welcome,
};

/// Longest label and id of a workspace, and most lives that are told.
const LABEL_MAX: usize = 255;
const WORKSPACE_MAX: usize = 64;
const LIVES_MAX: usize = 1024;

/// Most replicas of a hub that are told of.
const REPLICAS_MAX: usize = 65_536;

/// Puts hashes behind each other.
pub fn hashes_of(hashes: &[Hash]) -> Vec<u8> {
    hashes.concat()
}

/// Takes hashes apart.
pub fn hashes(bytes: &[u8]) -> Result<Vec<Hash>, Wrong> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() || hashes.len() > OBJECTS_AT_ONCE {
        return wrong(format!("{} bytes of hashes: 32 each, and at most {OBJECTS_AT_ONCE}", bytes.len()));
    }
    Ok(hashes.to_vec())
}

/// Takes a life off the wire.
pub fn read_life(bytes: &[u8]) -> Result<Author, Wrong> {
    exactly(bytes, "a life").map(Author)
}

/// Puts a cursor on the wire.
pub fn write_cursor(mut to: cursor::Builder<'_>, cursor: Cursor) {
    to.set_life(&cursor.life.0);
    to.set_revision(cursor.revision);
    to.set_listed(cursor.listed);
}

/// Takes a cursor off the wire.
pub fn read_cursor(from: cursor::Reader<'_>) -> Result<Cursor, Wrong> {
    let life = read_life(from.get_life()?)?;
    Ok(Cursor { life, revision: from.get_revision(), listed: from.get_listed() })
}

/// Puts nodes' identities on the wire.
pub fn write_ids(mut to: struct_list::Builder<'_, node_id::Owned>, ids: &[NodeId]) {
    for (index, id) in (0..).zip(ids) {
        write_id(to.reborrow().get(index), *id);
    }
}

/// Takes nodes' identities off the wire.
pub fn read_ids(from: struct_list::Reader<'_, node_id::Owned>) -> Result<Vec<NodeId>, Wrong> {
    at_most(from.len(), BATCH_ENTRIES, "nodes")?;
    from.iter().map(read_id).collect()
}

/// Puts a greeting on the wire.
pub fn write_hello(mut to: hello::Builder<'_>, hello: &Hello) {
    to.set_replica(&hello.replica.0);
    to.set_label(&hello.label[..hello.label.floor_char_boundary(LABEL_MAX)]);
    to.set_workspace(hello.workspace.as_str());
    to.set_empty(hello.empty);
    to.set_merge(hello.merge);
    to.set_zstd(true);
    if let Some(cursor) = hello.cursor {
        write_cursor(to.reborrow().init_cursor(), cursor);
    }
    if let Some(heard) = hello.heard {
        write_cursor(to.reborrow().init_heard(), heard);
    }
    let told = &hello.lives[..hello.lives.len().min(LIVES_MAX)];
    let mut lives = to.init_lives(count(told));
    for (index, (life, since)) in (0..).zip(told) {
        let mut to = lives.reborrow().get(index);
        to.set_life(&life.0);
        to.set_since(*since);
    }
}

/// Takes a greeting off the wire.
pub fn read_hello(from: hello::Reader<'_>) -> Result<Hello, Wrong> {
    let lives = from.get_lives()?;
    at_most(lives.len(), LIVES_MAX, "lives")?;
    Ok(Hello {
        replica: ReplicaId(exactly(from.get_replica()?, "a replica's identity")?),
        label: text(from.get_label(), LABEL_MAX, "a label")?,
        workspace: text(from.get_workspace(), WORKSPACE_MAX, "a workspace's id")?,
        empty: from.get_empty(),
        merge: from.get_merge(),
        cursor: if from.has_cursor() { Some(read_cursor(from.get_cursor()?)?) } else { None },
        heard: if from.has_heard() { Some(read_cursor(from.get_heard()?)?) } else { None },
        lives: lives
            .iter()
            .map(|told| Ok((read_life(told.get_life()?)?, told.get_since())))
            .collect::<Result<_, Wrong>>()?,
    })
}

/// Puts the answer to a greeting on the wire.
pub fn write_welcome(mut to: welcome::Builder<'_>, welcome: &Welcome) {
    to.set_workspace(welcome.workspace.as_str());
    to.set_hub(&welcome.hub.0);
    to.set_resumes(welcome.resumes);
    to.set_stale(welcome.stale);
    to.set_restored(welcome.restored);
    to.set_pushed(welcome.pushed);
    if let Some(taken) = &welcome.taken {
        to.set_taken(taken);
    }
    write_cursor(to.init_current(), welcome.current);
}

/// Takes the answer to a greeting off the wire.
pub fn read_welcome(from: welcome::Reader<'_>) -> Result<Welcome, Wrong> {
    Ok(Welcome {
        workspace: text(from.get_workspace(), WORKSPACE_MAX, "a workspace's id")?,
        hub: ReplicaId(exactly(from.get_hub()?, "a hub's identity")?),
        current: read_cursor(from.get_current()?)?,
        resumes: from.get_resumes(),
        stale: from.get_stale(),
        restored: from.get_restored(),
        pushed: from.get_pushed(),
        taken: from.has_taken().then(|| exactly(from.get_taken()?, "a digest")).transpose()?,
    })
}

/// A portion of changes, its entries still packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedPortion {
    /// Its entries; none when there are none.
    pub entries: Option<Parcel>,
    /// Where to go on.
    pub up_to: Cursor,
    /// There is more at once.
    pub more: bool,
    /// The hub does not go on from the cursor.
    pub reset: bool,
    /// The hub's last revision.
    pub now: crate::store::rows::Revision,
}

impl PackedPortion {
    /// Packs a portion.
    pub fn pack(portion: &Portion, wanted: Encoding) -> Result<Self, Wrong> {
        let Portion { entries, up_to, more, reset, now } = portion;
        let packed = if entries.is_empty() { None } else { Some(pack_entries(entries, wanted)?) };
        Ok(Self { entries: packed, up_to: *up_to, more: *more, reset: *reset, now: *now })
    }

    /// Whether there is anything to tell.
    pub fn is_news(&self) -> bool {
        self.entries.is_some() || self.more || self.reset
    }

    /// Puts it on the wire.
    pub fn write(&self, mut to: portion::Builder<'_>) {
        if let Some(entries) = &self.entries {
            entries.write(to.reborrow().init_entries());
        }
        to.set_more(self.more);
        to.set_reset(self.reset);
        to.set_now(self.now);
        write_cursor(to.init_up_to(), self.up_to);
    }

    /// Takes it off the wire.
    pub fn read(from: portion::Reader<'_>) -> Result<Self, Wrong> {
        Ok(Self {
            entries: if from.has_entries() { Some(Parcel::read(from.get_entries()?)?) } else { None },
            up_to: read_cursor(from.get_up_to()?)?,
            more: from.get_more(),
            reset: from.get_reset(),
            now: from.get_now(),
        })
    }
}

/// Puts what became of a push on the wire.
pub fn write_pushed(mut to: pushed::Builder<'_>, pushed: &Pushed) {
    match pushed {
        Pushed::Taken(cursor) => write_cursor(to.init_taken(), *cursor),
        Pushed::Lacks(hashes) => to.set_lacks(&hashes_of(hashes)),
        Pushed::Refused(refusals) => {
            let mut list = to.init_refused(count(refusals));
            for (index, refusal) in (0..).zip(refusals) {
                write_refusal(list.reborrow().get(index), refusal);
            }
        }
    }
}

fn write_refusal(mut to: refusal::Builder<'_>, refusal: &Refusal) {
    write_id(to.reborrow().init_id(), refusal.id);
    let (why, other) = match refusal.why {
        Why::Changed => (WireWhy::Changed, None),
        Why::Taken(other) => (WireWhy::Taken, Some(other)),
        Why::NoParent(other) => (WireWhy::NoParent, Some(other)),
        Why::NotEmpty(other) => (WireWhy::NotEmpty, Some(other)),
        Why::Cycle(other) => (WireWhy::Cycle, Some(other)),
    };
    to.set_why(why);
    if let Some(other) = other {
        write_id(to.init_other(), other);
    }
}

/// Takes what became of a push off the wire.
pub fn read_pushed(from: pushed::Reader<'_>) -> Result<Pushed, Wrong> {
    Ok(match from.which()? {
        pushed::Taken(cursor) => Pushed::Taken(read_cursor(cursor?)?),
        pushed::Lacks(bytes) => Pushed::Lacks(hashes(bytes?)?),
        pushed::Refused(list) => {
            let list = list?;
            at_most(list.len(), BATCH_MOST, "refusals")?;
            Pushed::Refused(list.iter().map(read_refusal).collect::<Result<_, _>>()?)
        }
    })
}

fn read_refusal(from: refusal::Reader<'_>) -> Result<Refusal, Wrong> {
    let other = || read_id(from.get_other()?);
    let why = match from.get_why()? {
        WireWhy::Changed => Why::Changed,
        WireWhy::Taken => Why::Taken(other()?),
        WireWhy::NoParent => Why::NoParent(other()?),
        WireWhy::NotEmpty => Why::NotEmpty(other()?),
        WireWhy::Cycle => Why::Cycle(other()?),
    };
    Ok(Refusal { id: read_id(from.get_id()?)?, why })
}

/// Puts watermarks on the wire.
pub fn write_watermarks(mut to: struct_list::Builder<'_, watermark::Owned>, watermarks: &[Watermark]) {
    for (index, watermark) in (0..).zip(watermarks) {
        let mut to = to.reborrow().get(index);
        to.set_replica(&watermark.replica.0);
        to.set_label(watermark.label.as_str());
        to.set_applied(watermark.applied);
        to.set_pushed(watermark.pushed);
        to.set_last_seen(watermark.last_seen);
    }
}

/// Takes watermarks off the wire.
pub fn read_watermarks(from: struct_list::Reader<'_, watermark::Owned>) -> Result<Vec<Watermark>, Wrong> {
    at_most(from.len(), REPLICAS_MAX, "replicas")?;
    let read = |from: watermark::Reader<'_>| {
        Ok(Watermark {
            replica: ReplicaId(exactly(from.get_replica()?, "a replica's identity")?),
            label: text(from.get_label(), LABEL_MAX, "a label")?,
            applied: from.get_applied(),
            pushed: from.get_pushed(),
            last_seen: from.get_last_seen(),
        })
    };
    from.iter().map(read).collect()
}
