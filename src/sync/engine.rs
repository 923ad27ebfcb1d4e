//! What a replica does when: the life of its link, as a state machine.
//!
//! The problem: anything may be cut off at any moment, the answer to anything may be lost, changes come from both sides at
//! any time, and what is applied must not be mixed up with what is being offered. So the machine has three parts that know
//! little of each other:
//!
//! - the *link*: not there, waited for, dialled, up, paused, refused;
//! - the *pull*: nothing, a question under way (a long one, when all is known), or a portion in hand;
//! - the *work*: at most one of applying a portion, reading single nodes, reconciling after a full listing, pushing.
//!
//! Every event changes these parts, and then `go` looks at all of them and starts whatever can be started. An
//! effect carries a number; what answers with another number than the one waited for is not heard.
//!
//! A push that is refused means that upstream has something that is not known here yet: all news are pulled and applied,
//! and if there were none, the nodes in question are read. Then it is pushed again, and with it what the refusal named.

#[cfg(test)]
mod tests;
mod words;
mod work;

pub use words::{Call, Effect, Event};

use super::entry::{Cursor, NodeId};
use super::link::Welcome;
use super::status::{LinkState, Status};
use crate::store::rows::Revision;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often a push is refused in a row before it is left alone for a while.
const PATIENCE: u32 = 3;

/// How patient the engine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long to wait for more after a change here, before it is pushed.
    pub debounce: Duration,
    /// How long the first wait is after something did not work; it doubles from time to time.
    pub backoff_min: Duration,
    /// How long a wait is at most.
    pub backoff_max: Duration,
    /// How long the hub may hold a question for news.
    pub poll: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            debounce: Duration::from_millis(20),
            backoff_min: Duration::from_millis(250),
            backoff_max: Duration::from_secs(30),
            poll: Duration::from_secs(25),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Link {
    Off,
    Waiting(Call),
    Dialling(Call),
    Renewing(Call),
    Up,
    Paused,
    Refused(String),
}

#[derive(Debug, PartialEq, Eq)]
enum Pull {
    Idle,
    Asked(Call),
    Held(Portion),
}

/// A portion in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Portion {
    up_to: Cursor,
    more: bool,
    entries: u64,
    bytes: u64,
    /// It is applied, and the reconciliation is due.
    applied: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Work {
    Idle,
    Applying(Call),
    Reading(Call),
    Recovering(Call),
    Reconciling(Call),
    Pushing(Call),
    /// Something did not work; nothing is started until this comes.
    Resting(Call),
}

/// When what has changed here is to be pushed.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Soon(Call),
    Now,
}

/// A push that was refused.
#[derive(Debug, Default)]
struct Refused {
    ids: Vec<NodeId>,
    /// Whether anything has come since.
    news: bool,
    /// The nodes were read, or need not be.
    settled: bool,
    /// How many times in a row.
    times: u32,
}

/// Something that has not worked since it worked last. What else works meanwhile does not make it good.
#[derive(Debug, Default)]
struct Trouble {
    times: u32,
    error: Option<String>,
}

/// The state machine of a replica.
#[derive(Debug)]
pub struct Engine {
    timing: Timing,
    calls: u64,
    link: Link,
    pull: Pull,
    work: Work,
    due: Due,
    refused: Option<Refused>,
    /// All of upstream's changes up to here are applied.
    cursor: Option<Cursor>,
    /// Everything is being told of from the beginning, and what was not is looked after in the end.
    listing: bool,
    /// All that upstream had when it was asked last is applied.
    caught_up: bool,
    known: bool,
    /// A push was cut off: it has to be found out whether it was taken.
    unanswered: bool,
    upstream: Revision,
    pushed: Revision,
    revision: Revision,
    waiters: BTreeMap<u64, Revision>,
    /// Of those who wait: who wants to know at once that upstream cannot be reached.
    impatient: BTreeSet<u64>,
    /// Who wants to catch up with upstream, and whether upstream was asked since they came.
    catchers: BTreeMap<u64, bool>,
    stopping: bool,
    stopped: bool,
    lost: u32,
    /// Why there is no connection.
    lost_for: Option<String>,
    applying: Trouble,
    /// Reading, and finding out what became of a push.
    reading: Trouble,
    pushing: Trouble,
    conflicts: u64,
    effects: Vec<Effect>,
}

impl Engine {
    /// Does nothing until it is told that it began.
    pub fn new(timing: Timing) -> Self {
        Self {
            timing,
            calls: 0,
            link: Link::Off,
            pull: Pull::Idle,
            work: Work::Idle,
            due: Due::Nothing,
            refused: None,
            cursor: None,
            listing: false,
            caught_up: false,
            known: false,
            unanswered: false,
            upstream: 0,
            pushed: 0,
            revision: 0,
            waiters: BTreeMap::new(),
            impatient: BTreeSet::new(),
            catchers: BTreeMap::new(),
            stopping: false,
            stopped: false,
            lost: 0,
            lost_for: None,
            applying: Trouble::default(),
            reading: Trouble::default(),
            pushing: Trouble::default(),
            conflicts: 0,
            effects: Vec::new(),
        }
    }

    /// Hears of something. Returns what is to be done, in this order.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        if !self.stopped {
            self.hear(event);
            self.go();
        }
        std::mem::take(&mut self.effects)
    }

    /// Whether all that upstream had when it was asked last is applied.
    pub fn is_caught_up(&self) -> bool {
        self.caught_up
    }

    /// What is known here of the state of sync. The rest of it is the driver's to fill in.
    pub fn status(&self) -> Status {
        let link = match self.link {
            Link::Off => LinkState::Off,
            Link::Waiting(_) | Link::Dialling(_) | Link::Renewing(_) => LinkState::Connecting,
            Link::Up => LinkState::Connected,
            Link::Paused => LinkState::Paused,
            Link::Refused(_) => LinkState::Refused,
        };
        let (incoming_entries, incoming_bytes) = match self.pull {
            Pull::Held(portion) if !portion.applied => (portion.entries, portion.bytes),
            _ => (0, 0),
        };
        Status {
            link,
            last_error: self.last_error().cloned(),
            pulled: self.cursor.map_or(0, |cursor| cursor.revision),
            upstream_revision: self.upstream,
            pushed: self.pushed,
            revision: self.revision,
            incoming_entries,
            incoming_bytes,
            conflicts: self.conflicts,
            ..Status::default()
        }
    }

    fn last_error(&self) -> Option<&String> {
        let work = [&self.applying, &self.pushing, &self.reading];
        self.lost_for.iter().chain(work.into_iter().flat_map(|trouble| &trouble.error)).next()
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Began { cursor, known, unanswered, pushed, revision } => {
                (self.cursor, self.known, self.unanswered) = (cursor, known, unanswered);
                (self.pushed, self.revision) = (pushed, revision);
                self.dial();
            }
            Event::Woke { call } => self.woke(call),
            Event::Welcomed { call, welcome } if self.link == Link::Dialling(call) => self.welcomed(welcome),
            Event::Renewed { call } if self.link == Link::Renewing(call) => self.dial(),
            Event::Lost { call, error, random } if self.waits_for(call) => self.lose(error, random),
            Event::TurnedAway { call, reason } if self.waits_for(call) => self.refuse(reason),
            Event::Failed { call, error, random } if self.waits_for(call) => self.fail(call, error, random),
            Event::Pulled { call, up_to, more, reset, entries, bytes } if self.pull == Pull::Asked(call) => {
                (self.lost, self.lost_for) = (0, None);
                self.upstream = self.upstream.max(up_to.revision);
                if reset {
                    self.pull = Pull::Idle;
                    self.begin_again();
                } else {
                    self.pull = Pull::Held(Portion { up_to, more, entries, bytes, applied: false });
                }
            }
            Event::Applied { call, conflicts } => self.applied(call, conflicts),
            Event::Stale { call } if self.is_working(call) => self.work = Work::Idle,
            Event::Pushed { call, revision, cursor } if self.work == Work::Pushing(call) => {
                self.pushed(revision, cursor);
            }
            Event::PushRefused { call, ids, random } if self.work == Work::Pushing(call) => {
                self.push_refused(ids, random)
            }
            Event::PushLacked { call, random } if self.work == Work::Pushing(call) => {
                self.due = Due::Now;
                self.distrust();
                let times = self.pushing.wait();
                self.rest(times, random);
            }
            Event::LocalChanged { revision } => self.revision = self.revision.max(revision),
            Event::Flush { waiter, revision } => {
                self.revision = self.revision.max(revision);
                self.waiters.insert(waiter, revision);
            }
            Event::Catch { waiter } => self.catch_up(waiter),
            Event::Hurry { waiter } => {
                self.impatient.insert(waiter);
                let waits = |it: &u64| self.waiters.contains_key(it) || self.catchers.contains_key(it);
                self.impatient.retain(waits);
                if matches!(self.link, Link::Waiting(_)) {
                    self.dial();
                }
            }
            Event::Unflush { waiter } => {
                self.impatient.remove(&waiter);
                self.waiters.remove(&waiter);
                self.catchers.remove(&waiter);
            }
            Event::Pause => self.leave(Link::Paused),
            Event::Resume if self.link != Link::Up && self.link != Link::Off => {
                self.hang_up();
                self.dial();
            }
            Event::Stop => self.stopping = true,
            // Too late: it is not waited for any more.
            _ => {}
        }
    }

    fn call(&mut self) -> Call {
        self.calls += 1;
        Call(self.calls)
    }

    fn is_working(&self, call: Call) -> bool {
        match self.work {
            Work::Applying(it) | Work::Reading(it) | Work::Recovering(it) => it == call,
            Work::Reconciling(it) | Work::Pushing(it) => it == call,
            Work::Idle | Work::Resting(_) => false,
        }
    }

    fn waits_for(&self, call: Call) -> bool {
        self.is_working(call)
            || self.pull == Pull::Asked(call)
            || matches!(self.link, Link::Dialling(it) | Link::Renewing(it) if it == call)
    }

    fn woke(&mut self, call: Call) {
        if self.link == Link::Waiting(call) {
            self.dial();
        }
        if self.due == Due::Soon(call) {
            self.due = Due::Now;
        }
        if self.work == Work::Resting(call) {
            self.work = Work::Idle;
        }
    }

    fn wake(&mut self, after: Duration) -> Call {
        let call = self.call();
        self.effects.push(Effect::Wake { call, after });
        call
    }
}

/// The link.
impl Engine {
    fn dial(&mut self) {
        let call = self.call();
        self.link = Link::Dialling(call);
        self.effects.push(Effect::Dial { call, cursor: self.cursor });
    }

    fn welcomed(&mut self, welcome: Welcome) {
        self.upstream = self.upstream.max(welcome.current.revision);
        if welcome.stale {
            self.hang_up();
            let call = self.call();
            self.link = Link::Renewing(call);
            self.effects.push(Effect::Renew { call });
            return;
        }
        if welcome.restored {
            self.hang_up();
            (self.cursor, self.known, self.unanswered, self.pushed) = (None, false, false, 0);
            self.listing = false;
            let call = self.call();
            self.link = Link::Renewing(call);
            self.effects.push(Effect::Forget { call });
            return;
        }
        self.link = Link::Up;
        self.effects.push(Effect::Join { workspace: welcome.workspace, hub: welcome.hub });
        if !welcome.resumes || self.cursor.is_none() {
            self.upstream = welcome.current.revision;
            self.begin_again();
        }
    }

    /// Has everything told from the beginning.
    fn begin_again(&mut self) {
        self.cursor = None;
        self.listing = self.known;
        if self.listing {
            self.effects.push(Effect::BeginListing);
        }
    }

    fn hang_up(&mut self) {
        self.effects.push(Effect::HangUp);
        self.unanswered |= matches!(self.work, Work::Pushing(_));
        (self.pull, self.work) = (Pull::Idle, Work::Idle);
        self.caught_up = false;
        if let Some(refused) = &mut self.refused {
            (refused.news, refused.settled) = (false, false);
        }
        if self.revision > self.pushed {
            self.due = Due::Now;
        }
    }

    fn lose(&mut self, error: String, random: u32) {
        if matches!(self.link, Link::Dialling(_) | Link::Renewing(_)) {
            self.disappoint(&error);
        }
        self.hang_up();
        self.lost_for = Some(error);
        let after = self.backoff(self.lost, random);
        self.lost = self.lost.saturating_add(1);
        self.link = Link::Waiting(self.wake(after));
    }

    fn refuse(&mut self, reason: String) {
        self.lost_for = Some(reason.clone());
        self.leave(Link::Refused(reason));
    }

    fn leave(&mut self, link: Link) {
        if self.link != Link::Off {
            self.hang_up();
            self.link = link;
        }
    }

    /// Half of it is certain, the other half up to chance, so that replicas of a hub that was away do not all come at once.
    fn backoff(&self, tries: u32, random: u32) -> Duration {
        let whole = self.timing.backoff_min.saturating_mul(1 << tries.min(16)).min(self.timing.backoff_max);
        whole / 2 + (whole / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    fn fail(&mut self, call: Call, error: String, random: u32) {
        if !self.is_working(call) {
            return self.lose(error, random);
        }
        match self.work {
            // It may have been taken all the same.
            Work::Pushing(_) => {
                (self.due, self.unanswered, self.caught_up) = (Due::Now, true, false);
                self.distrust();
            }
            // What it tells of may not be there any more.
            Work::Applying(_) => self.distrust(),
            _ => {}
        }
        let trouble = match self.work {
            Work::Pushing(_) => &mut self.pushing,
            Work::Reading(_) | Work::Recovering(_) => &mut self.reading,
            _ => &mut self.applying,
        };
        trouble.error = Some(error);
        let times = trouble.wait();
        self.rest(times, random);
    }

    fn rest(&mut self, times: u32, random: u32) {
        let after = self.backoff(times, random);
        self.work = Work::Resting(self.wake(after));
    }
}

impl Trouble {
    /// It is left alone for a while: how often it was before.
    fn wait(&mut self) -> u32 {
        let before = self.times;
        self.times = before.saturating_add(1);
        before
    }
}
