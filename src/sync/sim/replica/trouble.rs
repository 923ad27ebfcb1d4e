//! What fails, with the connection or though it is there.

use super::{Asked, Call, Dice, Event, Replica, Request, Task};
use crate::sync::link::Welcome;
use crate::sync::sim::model::Model;
use std::collections::BTreeSet;

impl Replica {
    /// The connection is gone.
    pub(in crate::sync::sim) fn cut(&mut self, dice: &mut Dice) {
        self.connection = None;
        for (call, _) in std::mem::take(&mut self.outstanding).into_values() {
            self.events.push_back(Event::Lost { call, error: "cut".into(), random: dice.next() as u32 });
        }
    }

    /// What is under way does not work out.
    pub(in crate::sync::sim) fn fail(&mut self, dice: &mut Dice) {
        let Some(Task::Plan { call, .. } | Task::Push { call, .. }) = self.task.take() else { return };
        self.outstanding.retain(|_, (_, asked)| *asked != Asked::Task);
        self.events.push_back(Event::Failed { call, error: "failed".into(), random: dice.next() as u32 });
    }

    /// There is no room for a push: what it takes away goes alone.
    pub(super) fn make_room(&mut self, call: Call, dice: &mut Dice) {
        let Some(Task::Push { sent, fails, .. }) = &mut self.task else { return };
        sent.retain(|offer| offer.state.is_none());
        if *fails || sent.is_empty() {
            return self.fail(dice);
        }
        *fails = true;
        let (offers, up_to, life) = (sent.clone(), self.live.tree.revision, self.live.tree.author);
        self.ask(call, Asked::Task, Request::Push { offers, up_to, life }, dice);
    }

    /// Asks first whether the hub took what it did not answer, if it has not said so on this connection.
    pub(super) fn make_sure(&mut self, call: Call, dice: &mut Dice) {
        if !self.unsure || self.live.unanswered.is_empty() {
            return self.look(call, dice);
        }
        let (replica, lives) = (self.live.id, self.live.lives.clone());
        let (cursor, heard) = (self.live.cursor, self.live.heard);
        self.ask(call, Asked::Task, Request::Hello { replica, cursor, heard, lives }, dice);
    }

    pub(super) fn reassured(&mut self, call: Call, welcome: &Welcome, dice: &mut Dice) {
        if welcome.stale || welcome.restored {
            let (error, random) = ("to be met anew".into(), dice.next() as u32);
            return self.events.push_back(Event::Lost { call, error, random });
        }
        self.look(call, dice);
    }

    /// Reads what is to be read before planning.
    fn look(&mut self, call: Call, dice: &mut Dice) {
        match &self.task {
            Some(Task::Plan { ids, .. }) if !ids.is_empty() => {
                self.ask(call, Asked::Task, Request::Entries(ids.clone()), dice);
            }
            _ => self.plan(dice),
        }
    }

    /// The contents here, without those that may be about to go: upstream has them out of our view by now, and what it has told
    /// last is in hand. That is applied though upstream is an old copy of itself in the next moment, as it was told before.
    pub(in crate::sync::sim) fn holds(&self, upstream: &Model) -> BTreeSet<u64> {
        let tree = &self.live.tree;
        let has_news = tree.ignores && (!self.held.is_empty() || self.is_applying());
        let stays = tree.live().filter(|(id, _)| !(has_news && upstream.is_out_of_view(*id)));
        stays.filter_map(|(_, state)| state.content).map(|content| content.size).collect()
    }

    /// Whether something is under way that may fail by itself.
    pub(in crate::sync::sim) fn is_applying(&self) -> bool {
        matches!(self.task, Some(Task::Plan { .. }))
    }
}
