//! A driver of the engine over a tree in memory, with a disk that is behind it.

mod trouble;

use super::Dice;
use super::hub::{Request, Response};
use super::model::Model;
use crate::clock::Timestamp;
use crate::store::rows::Revision;
use crate::sync::engine::{Call, Effect, Engine, Event, Timing};
use crate::sync::entry::{Author, Cursor, Entry, NodeId, Offer, ReplicaId};
use crate::sync::link::Pushed;
use crate::sync::offer::offers;
use crate::sync::plan::{Planned, Rules, plan};
use crate::sync::tree::{OnConflict, Plan};
use crate::sync::view::unseen;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What survives a crash, if it was saved.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) tree: Model,
    pub(super) cursor: Option<Cursor>,
    pub(super) pushed: Revision,
    heard: Option<Cursor>,
    unanswered: Vec<Offer>,
    /// Our revision when the last of them were made.
    made_at: Revision,
    id: ReplicaId,
    lives: Vec<(Author, Revision)>,
}

impl Disk {
    /// From now on something else is left out.
    pub(super) fn leaving_out_something_else(mut self) -> Self {
        let known: Vec<NodeId> = self.tree.nodes.keys().copied().collect();
        for id in unseen(&self.tree, known).unwrap() {
            self.tree.set_base(id, None);
        }
        self.tree.ignores = !self.tree.ignores;
        (self.cursor, self.pushed) = (None, 0);
        self
    }
}

#[derive(Debug)]
enum Task {
    Plan {
        call: Call,
        entries: Vec<Entry>,
        ids: Vec<NodeId>,
        cursor: Option<Cursor>,
        end: End,
        ready: Option<(Plan, Revision)>,
        rounds: usize,
    },
    Push {
        call: Call,
        up_to: Revision,
        queue: VecDeque<NodeId>,
        first: usize,
        sent: Vec<Offer>,
        taken: Option<Cursor>,
        /// It has failed, and only makes room.
        fails: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Portion,
    Recovered,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Hello,
    Pull,
    Task,
}

/// A question for the hub.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) connection: u64,
    pub(super) ask: u64,
    pub(super) request: Request,
}

#[derive(Debug)]
pub(super) struct Replica {
    number: u8,
    pub(super) live: Disk,
    pub(super) saved: Disk,
    pub(super) engine: Engine,
    pub(super) on_conflict: OnConflict,
    pub(super) connection: Option<u64>,
    outstanding: BTreeMap<u64, (Call, Asked)>,
    asks: u64,
    ids: u8,
    lives: u8,
    held: Vec<Entry>,
    told: BTreeSet<NodeId>,
    task: Option<Task>,
    /// The hub has said that it took what was not answered.
    has_taken: bool,
    /// The hub has not said whether it did.
    unsure: bool,
    /// Where the hub was when it was heard of last.
    latest: Option<Cursor>,
    pub(super) events: VecDeque<Event>,
    pub(super) timers: Vec<(u64, Call)>,
    pub(super) outbox: Vec<Question>,
    pub(super) waiting: BTreeMap<u64, Revision>,
    pub(super) stopped: bool,
    /// Copies that were made of what had lost.
    pub(super) conflicts: usize,
}

impl Replica {
    pub(super) fn new(number: u8, ignores: bool, on_conflict: OnConflict) -> Self {
        let mut tree = Model::new(Author([number + 1; 16]));
        tree.ignores = ignores;
        let id = ReplicaId([number + 1; 16]);
        let disk = Disk {
            tree,
            cursor: None,
            pushed: 0,
            heard: None,
            unanswered: Vec::new(),
            made_at: 0,
            id,
            lives: Vec::new(),
        };
        let mut replica = Self {
            number,
            live: disk.clone(),
            saved: disk,
            engine: Engine::new(Timing::default()),
            on_conflict,
            connection: None,
            outstanding: BTreeMap::new(),
            asks: 0,
            ids: 0,
            lives: 0,
            held: Vec::new(),
            told: BTreeSet::new(),
            task: None,
            has_taken: false,
            unsure: false,
            latest: None,
            events: VecDeque::new(),
            timers: Vec::new(),
            outbox: Vec::new(),
            waiting: BTreeMap::new(),
            stopped: false,
            conflicts: 0,
        };
        replica.open();
        replica
    }

    /// Puts everything on the disk.
    pub(super) fn save(&mut self) {
        self.saved = self.live.clone();
    }

    /// Starts from what is on the disk, which may be an older copy.
    pub(super) fn restart(&mut self, disk: Disk) {
        self.saved = disk.clone();
        self.live = disk;
        self.engine = Engine::new(Timing::default());
        self.connection = None;
        self.outstanding.clear();
        self.held.clear();
        self.told.clear();
        self.task = None;
        (self.latest, self.has_taken) = (None, false);
        self.events.clear();
        self.timers.clear();
        self.outbox.clear();
        self.waiting.clear();
        self.open();
    }

    fn open(&mut self) {
        self.lives += 1;
        let mut life = [self.number + 1; 16];
        life[1] = self.lives;
        self.live.tree.author = Author(life);
        self.live.lives.insert(0, (Author(life), self.live.tree.revision));
        self.save();
        self.events.push_back(Event::Began {
            cursor: self.live.cursor,
            known: self.live.tree.nodes.values().any(|local| local.base.is_some()),
            unanswered: !self.live.unanswered.is_empty(),
            pushed: self.live.pushed,
            revision: self.live.tree.revision,
        });
    }

    /// Whether there is nothing to do, unless the hub says something.
    pub(super) fn is_at_rest(&self) -> bool {
        let polls = self.outstanding.values().filter(|(_, asked)| *asked == Asked::Pull).count();
        self.events.is_empty()
            && self.timers.is_empty()
            && self.task.is_none()
            && polls == 1
            && self.outstanding.len() == 1
    }

    /// Does the next thing that needs nobody else. Returns whether there was one.
    pub(super) fn progress(&mut self, now: u64, dice: &mut Dice) -> bool {
        if let Some(event) = self.events.pop_front() {
            for effect in self.engine.on(event) {
                self.carry_out(effect, now, dice);
            }
            return true;
        }
        if matches!(self.task, Some(Task::Plan { ready: Some(_), .. })) {
            self.commit();
            return true;
        }
        false
    }

    fn ask(&mut self, call: Call, asked: Asked, request: Request, dice: &mut Dice) {
        self.asks += 1;
        self.outstanding.insert(self.asks, (call, asked));
        match self.connection {
            Some(connection) => self.outbox.push(Question { connection, ask: self.asks, request }),
            None => self.cut(dice),
        }
    }

    fn carry_out(&mut self, effect: Effect, now: u64, dice: &mut Dice) {
        match effect {
            Effect::Dial { call, cursor } => {
                self.asks += 1;
                self.connection = Some(u64::from(self.lives) << 40 | self.asks << 8 | u64::from(self.number));
                let (replica, lives, heard) = (self.live.id, self.live.lives.clone(), self.live.heard);
                self.ask(call, Asked::Hello, Request::Hello { replica, cursor, heard, lives }, dice);
            }
            Effect::HangUp => {
                self.connection = None;
                self.outstanding.clear();
                self.held.clear();
                self.task = None;
            }
            Effect::Join { .. } => {}
            Effect::Renew { call } => {
                self.ids += 1;
                self.live.id.0[1] = self.ids;
                self.live.id.0[2] = self.lives;
                self.save();
                self.events.push_back(Event::Renewed { call });
            }
            Effect::Forget { call } => {
                let known: Vec<NodeId> = self.live.tree.nodes.keys().copied().collect();
                for id in known {
                    self.live.tree.set_base(id, None);
                }
                (self.live.cursor, self.live.heard, self.live.pushed) = (None, None, 0);
                self.latest = None;
                self.live.unanswered.clear();
                self.save();
                self.events.push_back(Event::Renewed { call });
            }
            Effect::Wake { call, after } => self.timers.push((now + after.as_micros() as u64, call)),
            Effect::Pull { call, after, wait } => {
                self.outstanding.retain(|_, (_, asked)| *asked != Asked::Pull);
                self.held.clear();
                self.ask(call, Asked::Pull, Request::Changes { after, wait: wait.is_some() }, dice);
            }
            Effect::Apply { call, cursor } => {
                self.begin(call, self.held.clone(), Vec::new(), cursor, End::Portion, dice);
            }
            Effect::Read { call, ids } => self.begin(call, Vec::new(), ids, None, End::Other, dice),
            Effect::Recover { call } => {
                let ids = self.live.unanswered.iter().map(|offer| offer.id).collect();
                self.begin(call, Vec::new(), ids, None, End::Recovered, dice);
            }
            Effect::BeginListing => self.told.clear(),
            Effect::Reconcile { call, cursor } => {
                let known = self.live.tree.nodes.iter().filter(|(_, local)| local.base.is_some());
                let ids = known.map(|(id, _)| *id).filter(|id| !self.told.contains(id)).collect();
                self.begin(call, Vec::new(), ids, Some(cursor), End::Other, dice);
            }
            Effect::Push { call, up_to, also } => self.begin_push(call, up_to, also, dice),
            Effect::Release { waiter, outcome } => {
                let revision = self.waiting.remove(&waiter).expect("nobody waits");
                assert!(outcome.is_err() || self.live.pushed >= revision, "not upstream yet");
            }
            Effect::Stopped => self.stopped = true,
        }
    }

    fn begin(
        &mut self,
        call: Call,
        entries: Vec<Entry>,
        ids: Vec<NodeId>,
        cursor: Option<Cursor>,
        end: End,
        dice: &mut Dice,
    ) {
        assert!(self.task.is_none(), "two things at once");
        self.task = Some(Task::Plan { call, entries, ids, cursor, end, ready: None, rounds: 0 });
        self.make_sure(call, dice);
    }

    fn plan(&mut self, dice: &mut Dice) {
        let Some(Task::Plan { call, entries, ready, rounds, .. }) = &mut self.task else { return };
        let (call, label) = (*call, format!("r{}", self.number));
        let unanswered = &self.live.unanswered;
        let now = Timestamp(1_000_000_000_000);
        let rules =
            Rules { on_conflict: self.on_conflict, replica: &label, now, unanswered, taken: self.has_taken };
        *rounds += 1;
        assert!(*rounds < 500, "asks without end");
        let planned = plan(&self.live.tree, entries, &rules).unwrap();
        match planned {
            Planned::Ready(plan) => *ready = Some((plan, self.live.tree.revision)),
            Planned::Needs(ids) => {
                assert!(!ids.is_empty());
                self.ask(call, Asked::Task, Request::Entries(ids), dice);
            }
        }
    }

    fn commit(&mut self) {
        let Some(Task::Plan { call, ids, entries, cursor, end, ready, .. }) = self.task.take() else {
            return;
        };
        let Some((plan, revision)) = ready else { return };
        if let Err(why) = self.live.tree.apply(&plan) {
            assert!(
                revision != self.live.tree.revision,
                "a plan that cannot be carried out: {why}\n{plan:#?}"
            );
            self.events.push_back(Event::Stale { call });
            return;
        }
        self.conflicts += plan.copies.len();
        self.told.extend(ids);
        if end == End::Portion {
            self.told.extend(entries.iter().map(|entry| entry.id));
        }
        if end == End::Recovered {
            self.live.unanswered.clear();
        }
        if cursor.is_some() {
            self.live.cursor = cursor;
        }
        self.live.heard = self.latest.or(self.live.heard);
        self.save();
        self.events.push_back(Event::LocalChanged { revision: self.live.tree.revision });
        self.events.push_back(Event::Applied { call, conflicts: plan.conflicts.len() as u64 });
    }

    fn begin_push(&mut self, call: Call, up_to: Revision, also: Vec<NodeId>, dice: &mut Dice) {
        assert!(self.task.is_none(), "two things at once");
        self.save();
        let changed = self.live.tree.nodes.iter();
        let mut changed: Vec<(Revision, NodeId)> =
            changed.map(|(id, local)| (local.revision, *id)).filter(|(r, _)| *r > self.live.pushed).collect();
        changed.retain(|(revision, id)| *revision <= up_to && !also.contains(id));
        changed.sort();
        let first = also.len();
        let queue = also.into_iter().chain(changed.into_iter().map(|(_, id)| id)).collect();
        self.task =
            Some(Task::Push { call, up_to, queue, first, sent: Vec::new(), taken: None, fails: false });
        self.push(dice);
    }

    fn push(&mut self, dice: &mut Dice) {
        let Some(Task::Push { call, up_to, queue, first, sent, taken, .. }) = &mut self.task else { return };
        let (call, up_to, taken) = (*call, *up_to, *taken);
        while !queue.is_empty() {
            let size = (*first).max(1 + dice.below(6)).min(queue.len());
            *first = 0;
            let batch: Vec<NodeId> = queue.drain(..size).collect();
            let offering = offers(&self.live.tree, &batch).unwrap();
            if !offering.apart.is_empty() {
                self.task = None;
                let (ids, random) = (offering.apart, dice.next() as u32);
                return self.events.push_back(Event::PushRefused { call, ids, random });
            }
            for id in offering.more {
                self.live.tree.revision += 1;
                if let Some(local) = self.live.tree.nodes.get_mut(&id) {
                    local.revision = self.live.tree.revision;
                }
                self.events.push_back(Event::LocalChanged { revision: self.live.tree.revision });
                queue.retain(|queued| *queued != id);
                queue.push_back(id);
            }
            if offering.offers.is_empty() {
                continue;
            }
            *sent = offering.offers.clone();
            let is_sent = |offer: &Offer| offering.offers.iter().any(|sent| sent.id == offer.id);
            self.live.unanswered.retain(|offer| !is_sent(offer));
            self.live.unanswered.extend(offering.offers.clone());
            (self.has_taken, self.unsure, self.live.made_at) = (false, true, self.live.tree.revision);
            self.save();
            let request = Request::Push {
                offers: offering.offers,
                up_to: self.live.tree.revision,
                life: self.live.tree.author,
            };
            return self.ask(call, Asked::Task, request, dice);
        }
        self.task = None;
        self.live.pushed = self.live.pushed.max(up_to);
        self.save();
        self.events.push_back(Event::Pushed { call, revision: up_to, cursor: taken });
    }

    fn pushed(&mut self, answer: Pushed, dice: &mut Dice) {
        let Some(Task::Push { call, sent, taken, fails, .. }) = &mut self.task else { return };
        let (call, fails, sent) = (*call, *fails, std::mem::take(sent));
        self.live.unanswered.retain(|offer| !sent.iter().any(|sent| sent.id == offer.id));
        match answer {
            Pushed::Taken(cursor) => {
                *taken = Some(cursor);
                self.latest = Some(cursor);
                self.live.heard = Some(cursor);
                for offer in sent {
                    let tree = &mut self.live.tree;
                    if !tree.nodes.contains_key(&offer.id) && offer.state.is_some() {
                        tree.revision += 1;
                        tree.set(offer.id, None);
                        self.events.push_back(Event::LocalChanged { revision: tree.revision });
                    }
                    tree.set_base(offer.id, offer.state);
                }
                self.save();
                if fails { self.fail(dice) } else { self.push(dice) }
            }
            _ if fails => self.fail(dice),
            Pushed::Refused(refusals) => {
                self.save();
                self.task = None;
                let ids = refusals.iter().flat_map(|refusal| refusal.ids()).collect();
                self.events.push_back(Event::PushRefused { call, ids, random: dice.next() as u32 });
            }
            Pushed::Lacks(_) => {
                self.task = None;
                self.events.push_back(Event::PushLacked { call, random: dice.next() as u32 });
            }
        }
    }

    fn hear_of(&mut self, at: Cursor) {
        if self.latest.is_none_or(|latest| latest.life != at.life || at.revision > latest.revision) {
            self.latest = Some(at);
        }
    }

    /// Hears from the hub.
    pub(super) fn hear(&mut self, connection: u64, ask: u64, response: Response, dice: &mut Dice) {
        if self.connection != Some(connection) {
            return;
        }
        let Some((call, asked)) = self.outstanding.remove(&ask) else { return };
        match response {
            Response::Welcome(welcome) => {
                self.has_taken = welcome.has_taken(&self.live.unanswered, self.live.made_at);
                self.unsure = false;
                match asked {
                    Asked::Task => self.reassured(call, &welcome, dice),
                    _ => self.events.push_back(Event::Welcomed { call, welcome }),
                }
            }
            Response::Portion { entries, up_to, more, reset, now } => {
                self.hear_of(Cursor { revision: now, ..up_to });
                assert_eq!(asked, Asked::Pull);
                let count = entries.len() as u64;
                self.held = entries;
                self.events.push_back(Event::Pulled { call, up_to, more, reset, entries: count, bytes: 0 });
            }
            Response::Entries(read, at) => {
                self.hear_of(at);
                if let Some(Task::Plan { entries, .. }) = &mut self.task {
                    entries.extend(read);
                    self.plan(dice);
                }
            }
            Response::Pushed(answer) => self.pushed(answer, dice),
            Response::Failed { full: true } => self.make_room(call, dice),
            Response::Failed { full: false } => self.fail(dice),
        }
    }
}
