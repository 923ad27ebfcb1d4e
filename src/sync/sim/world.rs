//! A hub, its replicas, who edits where, and what fails.

use super::Dice;
use super::edits::{Editor, Ledger};
use super::hub::{Hub, Request, Response};
use super::replica::{Disk, Question, Replica};
use crate::clock::Timestamp;
use crate::sync::engine::Event;
use crate::sync::entry::same;
use crate::sync::link::Pushed;
use crate::sync::status::LinkState;
use crate::sync::tree::OnConflict;
use std::collections::BTreeSet;

/// How long everything may take to come to rest when nobody does anything any more.
const PATIENCE: usize = 60_000;

#[derive(Clone, Debug)]
enum Message {
    Question(usize, Question),
    Answer(usize, u64, u64, Response),
}

/// What may go wrong, one in so many times.
#[derive(Debug)]
struct Faults {
    loss: usize,
    duplication: usize,
    crash: usize,
    edits: usize,
}

pub(super) struct World {
    dice: Dice,
    /// Decides when a replica begins to leave things out, or ends it; none: that never happens.
    whims: Option<Dice>,
    /// Decides when the hub is copied, and when the copy is restored; none: that never happens.
    fate: Option<Dice>,
    /// Decides what fails; none: nothing does.
    trouble: Option<Dice>,
    hub_copy: Option<Hub>,
    restored: u8,
    hub: Hub,
    replicas: Vec<Replica>,
    /// Who is cut off.
    cut: BTreeSet<usize>,
    copies: Vec<Option<Disk>>,
    messages: Vec<Message>,
    parked: Vec<(usize, Question)>,
    /// Pushes that were looked at: that happens once.
    pushes: BTreeSet<(usize, u64)>,
    ledger: Ledger,
    faults: Faults,
    /// Microseconds.
    now: u64,
    waiters: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x0123_4567_89ab_cdef) ^ seed);
        let count = 2 + dice.below(4);
        let policy = match dice.below(6) {
            0 => OnConflict::Local,
            1 => OnConflict::Upstream,
            _ => OnConflict::KeepBoth,
        };
        let ignoring = dice.one_in(3);
        let replicas: Vec<Replica> =
            (0..count).map(|i| Replica::new(i as u8, ignoring && dice.one_in(2), policy)).collect();
        let faults = Faults {
            loss: [15, 50, 1_000_000][dice.below(3)],
            duplication: [10, 50, 1_000_000][dice.below(3)],
            crash: [100, 1000, 1_000_000][dice.below(3)],
            edits: 3 + dice.below(20),
        };
        Self {
            dice,
            whims: None,
            fate: None,
            trouble: None,
            hub_copy: None,
            restored: 0,
            hub: Hub::new(),
            copies: replicas.iter().map(|_| None).collect(),
            replicas,
            cut: BTreeSet::new(),
            messages: Vec::new(),
            parked: Vec::new(),
            pushes: BTreeSet::new(),
            ledger: Ledger::default(),
            faults,
            now: 1,
            waiters: 0,
        }
    }

    /// The same, but what replicas leave out changes from time to time.
    pub(super) fn fickle(seed: u64) -> Self {
        Self { whims: Some(Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 1)), ..Self::new(seed) }
    }

    /// The same, but the hub is an old copy of itself from time to time.
    pub(super) fn forgetful(seed: u64) -> Self {
        Self { fate: Some(Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 2)), ..Self::new(seed) }
    }

    /// The same, but what replicas do fails from time to time: for want of room, or of bytes that were told of.
    pub(super) fn failing(seed: u64) -> Self {
        Self { trouble: Some(Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 3)), ..Self::new(seed) }
    }

    /// Lets it go wild, then lets it come to rest, and looks at what has come of it.
    pub(super) fn run(&mut self) {
        let rounds = 1 + self.dice.below(3);
        for _ in 0..rounds {
            let steps = 50 + self.dice.below(500);
            for _ in 0..steps {
                self.disturb();
                self.step(false);
            }
            self.rest();
            self.check();
        }
    }

    fn disturb(&mut self) {
        let at = self.dice.below(self.replicas.len());
        if self.dice.one_in(self.faults.edits) {
            self.edit(at);
        }
        if self.dice.one_in(self.faults.edits * 4) {
            self.edit_hub();
        }
        if self.dice.one_in(20) {
            self.replicas[at].save();
        }
        if self.dice.one_in(self.faults.crash) {
            let disk = self.replicas[at].saved.clone();
            self.restart(at, disk);
        }
        if self.replicas[at].is_applying() && self.fails(4) {
            self.replicas[at].fail(&mut self.dice);
        }
        self.disturb_rarely(at);
        self.disturb_hub();
    }

    fn disturb_rarely(&mut self, at: usize) {
        match self.dice.below(1500) {
            0..5 => drop(self.cut.insert(at)),
            5..20 => drop(self.cut.pop_first()),
            20 => self.hub.prune(),
            21..24 => self.copies[at] = Some(self.replicas[at].saved.clone()),
            24 => {
                if let Some(disk) = self.copies[at].take() {
                    self.restart(at, disk);
                }
            }
            25 => self.replicas[at].events.push_back(Event::Pause),
            26..30 => self.replicas[at].events.push_back(Event::Resume),
            30..40 => {
                self.waiters += 1;
                let (waiter, replica) = (self.waiters, &mut self.replicas[at]);
                let revision = replica.live.tree.revision;
                replica.waiting.insert(waiter, revision);
                replica.events.push_back(Event::Flush { waiter, revision });
            }
            40..50 => self.time_out(),
            _ => {}
        }
    }

    fn fails(&mut self, once_in: usize) -> bool {
        self.trouble.as_mut().is_some_and(|trouble| trouble.one_in(once_in))
    }

    fn disturb_hub(&mut self) {
        let Some(fate) = &mut self.fate else { return };
        if fate.one_in(150) {
            self.hub_copy = Some(self.hub.clone());
        }
        if fate.one_in(300)
            && let Some(copy) = self.hub_copy.take()
        {
            let held: BTreeSet<u64> =
                self.replicas.iter().flat_map(|replica| replica.holds(&self.hub.tree)).collect();
            // What nobody else has yet is nowhere any more.
            let lost = self.hub.tree.contents().filter(|content| !held.contains(content));
            self.ledger.excused.extend(lost);
            self.restored += 1;
            self.hub = copy.restored(self.restored);
            for replica in &mut self.replicas {
                replica.cut(&mut self.dice);
            }
        }
    }

    fn edit(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        let (tree, now) = (&mut replica.live.tree, Timestamp(self.now as i64));
        Editor { tree, dice: &mut self.dice, ledger: &mut self.ledger, now }.edit();
        tree.check().unwrap();
        let revision = tree.revision;
        replica.events.push_back(Event::LocalChanged { revision });
    }

    fn edit_hub(&mut self) {
        let before = self.hub.tree.clone();
        let (tree, now) = (&mut self.hub.tree, Timestamp(self.now as i64));
        Editor { tree, dice: &mut self.dice, ledger: &mut self.ledger, now }.edit();
        self.hub.changed(&before, None);
        self.tell_news();
    }

    /// What was written and not saved is gone, and nobody has promised anything.
    fn restart(&mut self, at: usize, disk: Disk) {
        let replica = &mut self.replicas[at];
        let contents = |disk: &Disk| -> BTreeSet<u64> {
            disk.tree.live().filter_map(|(_, state)| state.content).map(|content| content.size).collect()
        };
        let kept = contents(&disk);
        // What is out of view is nowhere else, and an older disk may have it where it was before.
        let moved = replica.live.tree.live().filter(|(id, state)| {
            disk.tree.state(*id) != Some(*state) || disk.tree.path(*id) != replica.live.tree.path(*id)
        });
        let unseen = moved.filter(|_| replica.live.tree.ignores).filter_map(|(_, state)| state.content);
        self.ledger.excused.extend(unseen.map(|content| content.size));
        self.ledger.excused.extend(contents(&replica.live).difference(&kept));
        let on_a_whim = self.whims.as_mut().is_some_and(|whims| whims.one_in(4));
        let disk = if on_a_whim { disk.leaving_out_something_else() } else { disk };
        replica.restart(disk);
    }

    /// A long question is answered though there is nothing new.
    fn time_out(&mut self) {
        if self.parked.is_empty() {
            return;
        }
        let at = self.dice.below(self.parked.len());
        let (replica, question) = self.parked.swap_remove(at);
        let Request::Changes { after, .. } = question.request else { return };
        let request = Request::Changes { after, wait: false };
        if let Some(answer) = self.hub.answer(question.connection, &request, &mut self.dice) {
            self.messages.push(Message::Answer(replica, question.connection, question.ask, answer));
        }
    }

    /// One thing happens. Returns whether there was any.
    fn step(&mut self, calm: bool) -> bool {
        let count = self.replicas.len();
        for i in 0..count {
            let outbox = std::mem::take(&mut self.replicas[i].outbox);
            self.messages.extend(outbox.into_iter().map(|question| Message::Question(i, question)));
        }
        let first = self.dice.below(count);
        let deliver = !self.messages.is_empty() && self.dice.one_in(2);
        if !deliver {
            for i in (0..count).map(|i| (first + i) % count) {
                if self.replicas[i].progress(self.now, &mut self.dice) {
                    return true;
                }
            }
        }
        if !self.messages.is_empty() {
            let at = self.dice.below(self.messages.len());
            let message = self.messages.swap_remove(at);
            self.deliver(message, calm);
            return true;
        }
        self.pass_time()
    }

    fn pass_time(&mut self) -> bool {
        let timers = self.replicas.iter().enumerate();
        let timers = timers.flat_map(|(i, replica)| replica.timers.iter().map(move |timer| (*timer, i)));
        let Some(((time, call), i)) = timers.min() else { return false };
        self.now = self.now.max(time) + 1;
        self.replicas[i].timers.retain(|timer| *timer != (time, call));
        self.replicas[i].events.push_back(Event::Woke { call });
        true
    }

    fn deliver(&mut self, message: Message, calm: bool) {
        self.now += 1;
        let (Message::Question(at, _) | Message::Answer(at, ..)) = message;
        if !calm && (self.cut.contains(&at) || self.dice.one_in(self.faults.loss)) {
            self.replicas[at].cut(&mut self.dice);
            return;
        }
        if !calm && self.dice.one_in(self.faults.duplication) {
            self.messages.push(message.clone());
        }
        match message {
            Message::Answer(_, connection, ask, answer) => {
                self.replicas[at].hear(connection, ask, answer, &mut self.dice);
            }
            Message::Question(_, question) => self.answer(at, question, calm),
        }
    }

    fn answer(&mut self, at: usize, question: Question, calm: bool) {
        let Question { connection, ask, request } = &question;
        if matches!(request, Request::Push { .. }) && !self.pushes.insert((at, *ask)) {
            return;
        }
        if !calm && matches!(request, Request::Push { .. }) && self.dice.one_in(30) {
            let answer = Response::Pushed(Pushed::Lacks(Vec::new()));
            self.messages.push(Message::Answer(at, *connection, *ask, answer));
            return;
        }
        let is_push = matches!(request, Request::Push { .. });
        if !calm && is_push && self.fails(8) {
            let full = self.fails(2);
            self.messages.push(Message::Answer(at, *connection, *ask, Response::Failed { full }));
            return;
        }
        let before = self.hub.tree.revision;
        match self.hub.answer(*connection, request, &mut self.dice) {
            Some(answer) => {
                let failed = !calm && is_push && self.fails(8);
                let answer = if failed { Response::Failed { full: false } } else { answer };
                self.messages.push(Message::Answer(at, *connection, *ask, answer));
            }
            None if matches!(request, Request::Changes { .. }) => self.parked.push((at, question)),
            None => {}
        }
        if self.hub.tree.revision != before {
            self.tell_news();
        }
    }

    fn tell_news(&mut self) {
        for (at, question) in std::mem::take(&mut self.parked) {
            match self.hub.answer(question.connection, &question.request, &mut self.dice) {
                Some(answer) => {
                    self.messages.push(Message::Answer(at, question.connection, question.ask, answer));
                }
                None => self.parked.push((at, question)),
            }
        }
    }

    /// Nobody does anything any more, and nothing fails.
    fn rest(&mut self) {
        self.cut.clear();
        for replica in &mut self.replicas {
            replica.events.push_back(Event::Resume);
            if replica.connection.is_none() {
                replica.cut(&mut self.dice);
            }
        }
        for _ in 0..PATIENCE {
            if !self.step(true) {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn check(&self) {
        for (i, replica) in self.replicas.iter().enumerate() {
            let status = replica.engine.status();
            assert_eq!(status.link, LinkState::Connected, "replica {i}: {status:?}");
            assert!(replica.is_at_rest(), "replica {i} is busy: {replica:#?}");
            assert_eq!(status.pushed, replica.live.tree.revision, "replica {i} has something to push");
            let ignores = replica.live.tree.ignores;
            let (here, there) = (replica.live.tree.picture(ignores), self.hub.tree.picture(ignores));
            let only = |one: &std::collections::BTreeMap<String, String>,
                        other: &std::collections::BTreeMap<String, String>| {
                one.iter()
                    .filter(|(k, v)| other.get(*k) != Some(v))
                    .map(|(k, v)| format!("{k}: {v}"))
                    .collect::<Vec<_>>()
            };
            assert!(
                here == there,
                "replica {i} has {:#?}\nthe hub {:#?}",
                only(&here, &there),
                only(&there, &here)
            );
        }
        self.check_bases();
        self.check_bytes();
    }

    /// What a replica believes the hub to have is what the hub has.
    fn check_bases(&self) {
        for (i, replica) in self.replicas.iter().enumerate() {
            for (id, local) in &replica.live.tree.nodes {
                let hub = self.hub.tree.state(*id);
                let right = same(local.base.as_ref(), hub);
                assert!(right, "replica {i} is wrong about {id:?}: {local:?} {hub:?}");
            }
            for (id, _) in self.hub.tree.live() {
                assert!(replica.live.tree.nodes.contains_key(&id), "replica {i} does not know of {id:?}");
            }
        }
    }

    fn check_bytes(&self) {
        if self.replicas.iter().any(|replica| replica.on_conflict != OnConflict::KeepBoth) {
            return;
        }
        let trees = self.replicas.iter().map(|replica| &replica.live.tree).chain([&self.hub.tree]);
        let there: BTreeSet<u64> = trees
            .flat_map(|tree| tree.live())
            .filter_map(|(_, state)| state.content)
            .map(|c| c.size)
            .collect();
        let lost: Vec<&u64> = self
            .ledger
            .all
            .iter()
            .filter(|id| !there.contains(id) && !self.ledger.excused.contains(id))
            .collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
    }
}
