//! What fails, though the connection is there.

use super::{Asked, Call, Dice, Event, Replica, Request, Task};

impl Replica {
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

    /// Whether something is under way that may fail by itself.
    pub(in crate::sync::sim) fn is_applying(&self) -> bool {
        matches!(self.task, Some(Task::Plan { .. }))
    }
}
