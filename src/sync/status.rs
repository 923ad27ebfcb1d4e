//! What sync says of itself.

use super::tree::ConflictKind;
use crate::store::rows::Revision;

/// How the link to the upstream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkState {
    /// There is no upstream.
    #[default]
    Off,
    /// It is being dialled, or waited for until it is dialled again.
    Connecting,
    /// It is there.
    Connected,
    /// Somebody said so.
    Paused,
    /// The upstream refuses, for a reason that somebody has to do something about.
    Refused,
}

impl LinkState {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Paused => "paused",
            Self::Refused => "refused",
        }
    }
}

/// Where a replica is with its upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Where the upstream is, without any secret.
    pub upstream: Option<String>,
    /// How the link is.
    pub link: LinkState,
    /// What went wrong last, until it works again.
    pub last_error: Option<String>,
    /// When the upstream was last heard of; nanoseconds since the epoch.
    pub last_contact: Option<i64>,
    /// Who this replica is, as hexadecimal digits.
    pub replica: String,
    /// The upstream's revision up to which its changes are applied here.
    pub pulled: Revision,
    /// The upstream's last revision, as far as is known.
    pub upstream_revision: Revision,
    /// Our revision up to which our changes are on the upstream's disk.
    pub pushed: Revision,
    /// Our last revision.
    pub revision: Revision,
    /// Nodes that have changed here and are not upstream yet.
    pub pending_entries: u64,
    /// Bytes of their content that may have to be sent.
    pub pending_bytes: u64,
    /// Nodes and bytes that are known to come from upstream and are not applied yet.
    pub incoming_entries: u64,
    /// See `incoming_entries`.
    pub incoming_bytes: u64,
    /// Conflicts since the workspace was made.
    pub conflicts: u64,
    /// The latest of them, newest first.
    pub recent: Vec<ConflictNote>,
}

/// A conflict that was settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictNote {
    /// When; nanoseconds since the epoch.
    pub time: i64,
    /// In what way.
    pub kind: ConflictKind,
    /// Where the node is, from the root.
    pub path: Vec<u8>,
    /// Where the version that lost is, if it is kept.
    pub kept: Option<Vec<u8>>,
}
