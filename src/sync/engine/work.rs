//! What is started when, and what comes of it.

use super::{Call, Cursor, NodeId, Revision};
use super::{Due, Effect, Engine, Link, PATIENCE, Portion, Pull, Refused, Trouble, Work};

impl Engine {
    /// Starts what can be started.
    pub(super) fn go(&mut self) {
        self.release();
        self.arm();
        if self.link == Link::Up {
            if self.work == Work::Idle {
                self.start();
            }
            if self.pull == Pull::Idle && !matches!(self.work, Work::Resting(_) | Work::Reconciling(_)) {
                self.ask();
            }
        }
        let hopeless = matches!(self.link, Link::Off | Link::Paused | Link::Refused(_));
        if self.stopping && (hopeless || (self.pushed >= self.revision && self.work == Work::Idle)) {
            self.hang_up();
            self.stopped = true;
            let catchers = std::mem::take(&mut self.catchers).into_keys();
            for waiter in std::mem::take(&mut self.waiters).into_keys().chain(catchers) {
                let outcome = Err("the workspace is shutting down".to_owned());
                self.effects.push(Effect::Release { waiter, outcome });
            }
            self.effects.push(Effect::Stopped);
        }
    }

    /// Lets those go who wait for what is upstream now, or never will be.
    fn release(&mut self) {
        let never = match &self.link {
            Link::Off => Some("there is no upstream".to_owned()),
            Link::Paused => Some("sync is paused".to_owned()),
            Link::Refused(reason) => Some(reason.clone()),
            _ => None,
        };
        let pushed = self.pushed;
        let ready = |revision: Revision| revision <= pushed || never.is_some();
        for (waiter, revision) in self.waiters.extract_if(.., |_, revision| ready(*revision)) {
            let outcome = match &never {
                Some(reason) if revision > pushed => Err(reason.clone()),
                _ => Ok(()),
            };
            self.effects.push(Effect::Release { waiter, outcome });
        }
        if let Some(reason) = never {
            for waiter in std::mem::take(&mut self.catchers).into_keys() {
                self.effects.push(Effect::Release { waiter, outcome: Err(reason.clone()) });
            }
        }
    }

    /// Tells those who are impatient that upstream cannot be reached.
    pub(super) fn disappoint(&mut self, why: &str) {
        for waiter in std::mem::take(&mut self.impatient) {
            let waited = self.waiters.remove(&waiter).is_some() | self.catchers.remove(&waiter).is_some();
            if waited {
                self.effects.push(Effect::Release { waiter, outcome: Err(why.to_owned()) });
            }
        }
    }

    /// Somebody wants all that upstream has now. What was asked for before may be less: it is asked for anew.
    pub(super) fn catch_up(&mut self, waiter: u64) {
        self.catchers.insert(waiter, false);
        self.caught_up = false;
        if matches!(self.pull, Pull::Asked(_)) {
            self.distrust();
        }
    }

    /// Sees to it that what has changed here will be pushed.
    fn arm(&mut self) {
        if self.revision <= self.pushed {
            return;
        }
        if self.stopping || !self.waiters.is_empty() {
            self.due = Due::Now;
        } else if self.due == Due::Nothing && !matches!(self.work, Work::Pushing(_)) {
            self.due = Due::Soon(self.wake(self.timing.debounce));
        }
    }

    fn start(&mut self) {
        if let Pull::Held(Portion { up_to, applied, .. }) = self.pull {
            let call = self.call();
            if applied {
                self.work = Work::Reconciling(call);
                self.effects.push(Effect::Reconcile { call, cursor: up_to });
            } else {
                self.work = Work::Applying(call);
                let cursor = (!self.listing).then_some(up_to);
                self.effects.push(Effect::Apply { call, cursor });
            }
            return;
        }
        if !self.caught_up {
            return;
        }
        if self.unanswered {
            let call = self.call();
            self.work = Work::Recovering(call);
            self.effects.push(Effect::Recover { call });
            return;
        }
        let unsettled = self.refused.as_ref().filter(|refused| !refused.settled);
        if let Some(ids) = unsettled.map(|refused| refused.ids.clone()) {
            let call = self.call();
            self.work = Work::Reading(call);
            self.effects.push(Effect::Read { call, ids });
        } else if self.due == Due::Now || self.refused.is_some() {
            let call = self.call();
            let also = self.refused.as_ref().map(|refused| refused.ids.clone()).unwrap_or_default();
            (self.work, self.due) = (Work::Pushing(call), Due::Nothing);
            self.effects.push(Effect::Push { call, up_to: self.revision, also });
        }
    }

    fn ask(&mut self) {
        let call = self.call();
        self.catchers.values_mut().for_each(|asked| *asked = true);
        self.pull = Pull::Asked(call);
        let wait = self.caught_up.then_some(self.timing.poll);
        self.effects.push(Effect::Pull { call, after: self.cursor, wait });
    }

    pub(super) fn applied(&mut self, call: Call, conflicts: u64) {
        if !self.is_working(call) || matches!(self.work, Work::Pushing(_)) {
            return;
        }
        let work = std::mem::replace(&mut self.work, Work::Idle);
        self.lost_for = None;
        match work {
            Work::Reading(_) | Work::Recovering(_) => self.reading = Trouble::default(),
            _ => self.applying = Trouble::default(),
        }
        self.conflicts += conflicts;
        self.known = true;
        if let Work::Recovering(_) = work {
            self.unanswered = false;
            return;
        }
        if let Work::Reading(_) = work {
            if let Some(refused) = &mut self.refused {
                refused.settled = true;
            }
            return;
        }
        let Pull::Held(portion) = &mut self.pull else { return };
        let Portion { up_to, more, entries, .. } = *portion;
        self.cursor = Some(up_to);
        if let Work::Reconciling(_) = work {
            self.listing = false;
        } else if self.listing && !more {
            portion.applied = true;
            return;
        }
        self.pull = Pull::Idle;
        self.caught_up = !more && self.catchers.values().all(|asked| *asked);
        if !more {
            for (waiter, _) in self.catchers.extract_if(.., |_, asked| *asked) {
                self.effects.push(Effect::Release { waiter, outcome: Ok(()) });
            }
        }
        if let Some(refused) = &mut self.refused {
            refused.news |= entries > 0;
            // News most often are what was in the way. If it is refused again, the nodes are read.
            refused.settled |= !more && refused.news && refused.times == 1;
        }
    }

    pub(super) fn pushed(&mut self, revision: Revision, cursor: Option<Cursor>) {
        self.work = Work::Idle;
        self.refused = None;
        if cursor.is_some() {
            self.distrust();
        }
        // Nothing is to be read any more either, nor to be found out.
        (self.lost_for, self.pushing, self.reading) = (None, Trouble::default(), Trouble::default());
        self.known = true;
        self.pushed = self.pushed.max(revision);
        self.upstream = self.upstream.max(cursor.map_or(0, |cursor| cursor.revision));
    }

    /// What was asked before a push was taken may have been answered before too: it would undo what was pushed.
    pub(super) fn distrust(&mut self) {
        self.pull = Pull::Idle;
    }

    pub(super) fn push_refused(&mut self, ids: Vec<NodeId>, random: u32) {
        let before = self.refused.take().unwrap_or_default();
        let times = before.times + 1;
        let mut all = before.ids;
        for id in ids {
            if !all.contains(&id) {
                all.push(id);
            }
        }
        self.refused = Some(Refused { ids: all, times, ..Refused::default() });
        self.work = Work::Idle;
        self.due = Due::Now;
        self.caught_up = false;
        self.distrust();
        if times > PATIENCE {
            let after = self.backoff(times - PATIENCE, random);
            self.work = Work::Resting(self.wake(after));
        }
    }
}
