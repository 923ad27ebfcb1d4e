//! Sync: a workspace in step with its upstream, which is another wsd.
//!
//! A star: the upstream (hub) orders, and any number of replicas are in step with it. What travels is states, not
//! operations: the latest state of each node that changed after a cursor. Every node has an identity that is the same
//! everywhere, so a rename is one entry, whatever is below. A replica remembers of every node the state that it and
//! the hub agreed on last; so it can tell what changed here, what changed there, and where both did.
//!
//! All decisions about conflicts are made by replicas, in the planner: a replica applies what the hub has, merged with what
//! it has itself, and then offers what is left of its own changes. The hub takes an offer only if it was made from what
//! the hub has (the judge); otherwise the replica has something to pull first.
//!
//! - [`entry`]: the nouns: identities, states, entries, offers. [`tree`]: a replica's tree as the planner sees it.
//! - [`plan`](mod@plan): what becomes of a replica's tree, told what upstream has. [`offer`]: what a replica wants upstream.
//!   [`judge`](mod@judge): what the hub says to that. `view`: what of a tree is in sync at all.
//! - [`engine`]: when what is done: the life of a link, as a state machine.
//! - [`site`]: a workspace as sync needs it; [`local`]: one moment of it, as a tree; [`carry`]: plans are carried out.
//!   [`lives`]: who nodes are. [`contents`], [`objects`]: bytes as they travel. [`ignore`](mod@ignore): what does not.
//! - [`hub`]: the side that is asked.
//! - [`link`]: what replica and hub say to each other. [`status`]: what sync says of itself.
//!
//! Planner, judge, offers and engine are pure: they do nothing, and know of no clock and no chance but what they are told.
//! `sim` runs them, against all that can go wrong.

pub mod carry;
pub mod contents;
pub mod engine;
pub mod entry;
pub mod hub;
pub mod ignore;
pub mod judge;
pub mod link;
pub mod lives;
pub mod local;
pub mod objects;
pub mod offer;
pub mod plan;
pub mod site;
pub mod status;
#[cfg(test)]
mod tests;
pub mod tree;
mod view;

#[cfg(test)]
mod sim;

pub use engine::{Effect, Engine, Event};
pub use entry::{
    Attributes, Author, ContentId, Cursor, Entry, Hash, NodeId, Offer, Place, ReplicaId, State, Times,
};
pub use hub::Hub;
pub use judge::judge;
pub use offer::{Offering, offers};
pub use plan::{Planned, Rules, plan};
pub use tree::{
    Bytes, Conflict, ConflictKind, KeptCopy, Local, OnConflict, Plan, Refusal, Step, Tree, Verdict, Why,
};
