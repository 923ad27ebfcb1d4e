//! What the engine is told, and what it has done.

use crate::store::rows::Revision;
use crate::sync::entry::{Cursor, NodeId, ReplicaId};
use crate::sync::link::Welcome;
use std::time::Duration;

/// The number of an effect that has an answer. Each is used once; an answer to what the engine no longer waits for (of a
/// connection before this one, say) is ignored, so answers may be late, lost or doubled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call(pub u64);

/// What happens. Those with a `call` answer the effect that has that number.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields that are what their names say")]
pub enum Event {
    /// Comes first, once.
    Began {
        /// The cursor that was stored with what was applied last.
        cursor: Option<Cursor>,
        /// Whether there is any node here that upstream is known to have (a base).
        known: bool,
        /// Whether offers are stored as unanswered (see [`Effect::Push`]).
        unanswered: bool,
        /// Our revision up to which upstream has everything, as stored.
        pushed: Revision,
        /// Our last revision.
        revision: Revision,
    },
    /// The time of a [`Effect::Wake`] has come.
    Woke { call: Call },
    /// The hub has answered to hello.
    Welcomed { call: Call, welcome: Welcome },
    /// The replica has a new identity, or has forgotten what it believed of the upstream, and has stored that.
    Renewed { call: Call },
    /// There is no connection (any more). May answer any effect that needs one; one such answer is enough.
    Lost {
        call: Call,
        error: String,
        /// Drawn by chance, for jitter.
        random: u32,
    },
    /// The hub refuses, and will until somebody does something. May answer any effect that needs a connection.
    TurnedAway { call: Call, reason: String },
    /// The hub, or this side, could not do it, and may be able to later. May answer any effect that has an answer.
    Failed { call: Call, error: String, random: u32 },
    /// A portion has come, and is kept until the next [`Effect::Pull`] or [`Effect::HangUp`].
    Pulled {
        call: Call,
        up_to: Cursor,
        more: bool,
        reset: bool,
        /// How many entries are in it.
        entries: u64,
        /// Bytes that may have to be fetched for it.
        bytes: u64,
    },
    /// What was to be applied is applied, and with it the cursor, if there was one, is stored.
    Applied { call: Call, conflicts: u64 },
    /// The tree has changed since the plan was made; nothing was applied. It is tried again at once.
    Stale { call: Call },
    /// All our changes up to this revision, which is stored as pushed, are on the hub's disk.
    Pushed {
        call: Call,
        revision: Revision,
        /// Where the hub was then; `None`: nothing had to be offered.
        cursor: Option<Cursor>,
    },
    /// The hub has refused offers, which are about these nodes ([`Refusal::ids`](crate::sync::Refusal::ids)).
    PushRefused { call: Call, ids: Vec<NodeId>, random: u32 },
    /// The hub lacked objects, again, after they were brought. It is tried again a little later.
    PushLacked { call: Call, random: u32 },
    /// This is our last revision now.
    LocalChanged { revision: Revision },
    /// Somebody wants to know when this revision is upstream; answered once with [`Effect::Release`].
    Flush { waiter: u64, revision: Revision },
    /// Somebody wants to know when all that upstream has at this moment is here; answered once with
    /// [`Effect::Release`].
    Catch { waiter: u64 },
    /// That one does not want to wait until upstream can be reached: it is tried at once, and once.
    Hurry { waiter: u64 },
    /// That one does not want to know any more.
    Unflush { waiter: u64 },
    /// Leave the upstream alone.
    Pause,
    /// Go on; also tries again at once where the upstream refused, or is waited for.
    Resume,
    /// Push what is left, then end.
    Stop,
}

/// What is to be done. Those with a `call` are to be answered, once each; the others are not.
///
/// Of what needs a connection, [`Effect::Pull`] and one other thing may be under way at once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields that are what their names say")]
pub enum Effect {
    /// Connect, and say hello with this cursor: `Welcomed`, `Lost`, `TurnedAway`, `Failed`.
    Dial { call: Call, cursor: Option<Cursor> },
    /// End the connection, whatever is under way on it, and forget the portion that is kept.
    HangUp,
    /// The hub has let us in: store this workspace and hub as ours.
    Join { workspace: String, hub: ReplicaId },
    /// Take a new identity as a replica, and store it: `Renewed`, `Failed`.
    Renew { call: Call },
    /// The upstream is an old copy of itself: forget what was agreed on with it, offers, cursor and what was pushed, durably:
    /// `Renewed`, `Failed`.
    Forget { call: Call },
    /// Wait: `Woke`.
    Wake { call: Call, after: Duration },
    /// Ask for changes after the cursor; with `wait`, for that long: `Pulled`, `Lost`, `TurnedAway`, `Failed`. If another
    /// pull is under way, it is dropped.
    Pull { call: Call, after: Option<Cursor>, wait: Option<Duration> },
    /// Plan with the portion that is kept (reading what the planner needs), fetch bytes, carry the plan out; store the
    /// cursor, if there is one, with it: `Applied`, `Stale`, `Lost`, `TurnedAway`, `Failed`.
    Apply { call: Call, cursor: Option<Cursor> },
    /// Read these nodes and apply them as above, without a cursor: the same answers.
    Read { call: Call, ids: Vec<NodeId> },
    /// Everything is going to be told of from the beginning: from now on remember which nodes are told of in portions
    /// that are applied.
    BeginListing,
    /// All has been told. Read and apply every node here that has a base and was not told of since
    /// [`Effect::BeginListing`], then store the cursor: the same answers as to `Apply`.
    Reconcile { call: Call, cursor: Cursor },
    /// A push was cut off: read and apply the nodes of the offers that are stored as unanswered, and forget these then: the
    /// same answers as to `Apply`. The hub does not tell a replica of the replica's own changes, so nobody else will.
    Recover { call: Call },
    /// Offer, in batches, all that has changed here up to this revision: `Pushed`, `PushRefused`, `PushLacked`, `Lost`,
    /// `TurnedAway`, `Failed`. `also` is in the first batch, all of it.
    ///
    /// What is offered must be durable here before. A batch is stored as unanswered before it is sent, durably (see
    /// [`Rules::unanswered`](crate::sync::Rules::unanswered)); when it is taken, it is stored as base, and not as unanswered
    /// any more; when it is refused, it is forgotten. A node that has gone since, and is not remembered, is remembered then as
    /// gone, with that base, and counts as changed.
    Push { call: Call, up_to: Revision, also: Vec<NodeId> },
    /// Tell who waits for a flush that all is upstream, or who wants to catch up that all is here; or why it won't be.
    Release { waiter: u64, outcome: Result<(), String> },
    /// Everything that could be pushed is, or there is no use waiting: the end.
    Stopped,
}
