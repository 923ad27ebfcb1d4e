//! What a peer has running with us, and what we keep for it.
//!
//! Cap'n Proto lets a peer ask without end, and obliges us to keep most answers until the peer says that it is done
//! with them (`Finish`). So four things are counted, by looking at the messages that pass: bytes of calls that came
//! and are not done, calls that run, bytes that wait for the socket, and answers that are kept with their bytes. While
//! one of the first three is at its limit no further message is taken from the connection, so that the peer is slowed
//! by its own socket; answers with much in them wait for room ([`Ledger::reserve`]); and a peer that leaves too many
//! answers unfinished is cut off.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// How long a call waits for the answer that it is pipelined on.
const PATIENCE: Duration = Duration::from_millis(250);

/// How much a peer may have with us.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of messages that came and are still in use.
    pub incoming_bytes: usize,
    /// Calls that run.
    pub calls: usize,
    /// Answers that the peer has not said to be done with.
    pub answers: usize,
    /// Bytes of these answers, and of what waits for the socket: beyond it answers with much in them wait. Small ones
    /// do not, and four times as much is the end.
    pub answer_bytes: usize,
    /// Whether an answer that is larger than that by itself comes when there is no other.
    pub oversize: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            incoming_bytes: 16 << 20,
            calls: 4096,
            answers: 16_384,
            answer_bytes: 16 << 20,
            oversize: true,
        }
    }
}

/// Calls on answers that have not come, one upon the other: the vat resolves them by recursion.
const MAX_DEPTH: usize = 64;

#[derive(Clone, Copy, Debug)]
enum Answer {
    /// Upon so many others that have not come.
    Running(usize),
    Kept(usize),
}

/// The account of one connection.
#[derive(Debug, Default)]
pub struct Ledger {
    limits: Limits,
    incoming: Cell<usize>,
    running: Cell<usize>,
    kept: Cell<usize>,
    queued: Cell<usize>,
    /// A question that has kept calls waiting for too long.
    slow: Cell<Option<u32>>,
    answers: RefCell<HashMap<u32, Answer>>,
    changed: Notify,
    /// Something waits for room for answers, and how much there is of that is no longer limited.
    pressed: Notify,
    lifted: Cell<bool>,
}

/// The bytes of a message that came, until it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    ledger: Rc<Ledger>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        let ledger = &self.ledger;
        ledger.incoming.set(ledger.incoming.get() - self.bytes);
        ledger.changed.notify_waiters();
    }
}

/// Room for an answer, until the answer is on its way.
#[derive(Debug)]
pub struct Reserved {
    ledger: Rc<Ledger>,
    bytes: usize,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let ledger = &self.ledger;
        ledger.kept.set(ledger.kept.get() - self.bytes);
        ledger.changed.notify_waiters();
    }
}

impl Ledger {
    /// An empty account.
    pub fn new(limits: Limits) -> Rc<Self> {
        Rc::new(Self { limits, ..Self::default() })
    }

    /// Calls that run.
    pub fn running(&self) -> usize {
        self.running.get()
    }

    /// Waits until there is room for an answer of so many bytes. One that exceeds the limit by itself waits until
    /// nothing else is kept (`oversize`), or until there is no limit.
    pub async fn reserve(self: &Rc<Self>, bytes: usize) -> Reserved {
        loop {
            let changed = self.changed.notified();
            let there = self.kept.get() + self.queued.get();
            if (there == 0 && self.limits.oversize) || there.saturating_add(bytes) <= self.room() {
                self.kept.set(self.kept.get() + bytes);
                return Reserved { ledger: Rc::clone(self), bytes };
            }
            self.pressed.notify_one();
            changed.await;
        }
    }

    fn room(&self) -> usize {
        if self.lifted.get() { usize::MAX } else { self.limits.answer_bytes }
    }

    /// Returns when something waits for room for answers.
    pub async fn pressed(&self) {
        self.pressed.notified().await;
    }

    /// Answers have all the room from now on.
    pub fn lift(&self) {
        self.lifted.set(true);
        self.changed.notify_waiters();
    }

    /// Waits until another message may be taken.
    pub(super) async fn admit(&self) {
        loop {
            let changed = self.changed.notified();
            let is_taken = self.queued.get() < self.room();
            let has_room = is_taken && self.incoming.get() < self.limits.incoming_bytes;
            if has_room && self.running.get() < self.limits.calls {
                return;
            }
            if !is_taken {
                self.pressed.notify_one();
            }
            changed.await;
        }
    }

    pub(super) fn hold(self: &Rc<Self>, bytes: usize) -> Held {
        self.incoming.set(self.incoming.get() + bytes);
        Held { ledger: Rc::clone(self), bytes }
    }

    /// A question came, upon the answer to `target` if that is given; or why it must not be taken.
    pub(super) fn asked(&self, question: u32, target: Option<u32>) -> Result<(), &'static str> {
        let mut answers = self.answers.borrow_mut();
        let depth = match target.and_then(|target| answers.get(&target)) {
            Some(Answer::Running(depth)) => depth + 1,
            _ => 0,
        };
        match answers.insert(question, Answer::Running(depth)) {
            // The vat will refuse it.
            Some(Answer::Running(_)) => {}
            Some(Answer::Kept(bytes)) => {
                self.kept.set(self.kept.get() - bytes);
                self.running.set(self.running.get() + 1);
            }
            None => self.running.set(self.running.get() + 1),
        }
        if answers.len() > self.limits.answers || self.kept.get() / 4 > self.room() {
            return Err("too many answers were left unfinished");
        }
        if depth > MAX_DEPTH { Err("too many calls upon answers that have not come") } else { Ok(()) }
    }

    /// Bytes wait for the socket.
    pub(super) fn queue(&self, bytes: usize) {
        self.queued.set(self.queued.get() + bytes);
    }

    /// Bytes were taken by the socket.
    pub fn sent(&self, bytes: usize) {
        self.queued.set(self.queued.get().saturating_sub(bytes));
        self.changed.notify_waiters();
    }

    /// Waits until a question has its answer, or is no longer one; a short while, and not again for one that has taken
    /// longer.
    pub(super) async fn settled(&self, question: u32) {
        if self.slow.get() == Some(question) {
            return;
        }
        if tokio::time::timeout(PATIENCE, self.answer_of(question)).await.is_err() {
            self.slow.set(Some(question));
        }
    }

    async fn answer_of(&self, question: u32) {
        loop {
            let changed = self.changed.notified();
            if !matches!(self.answers.borrow().get(&question), Some(Answer::Running(_))) {
                break;
            }
            changed.await;
        }
        // What the vat does with the answer once it is on its way, it does in its next turn.
        tokio::task::yield_now().await;
    }

    /// Our answer is on its way.
    pub(super) fn answered(&self, question: u32, bytes: usize) {
        if let Some(answer @ Answer::Running(_)) = self.answers.borrow_mut().get_mut(&question) {
            *answer = Answer::Kept(bytes);
            self.running.set(self.running.get() - 1);
            self.kept.set(self.kept.get() + bytes);
            self.changed.notify_waiters();
        }
    }

    /// The peer is done with the answer, or does not want it any more.
    pub(super) fn finished(&self, question: u32) {
        match self.answers.borrow_mut().remove(&question) {
            Some(Answer::Running(_)) => self.running.set(self.running.get() - 1),
            Some(Answer::Kept(bytes)) => self.kept.set(self.kept.get() - bytes),
            None => return,
        }
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn the_account_is_even_when_all_is_done() {
        let limits = Limits { incoming_bytes: 100, calls: 2, answers: 3, answer_bytes: 50, oversize: true };
        let ledger = Ledger::new(limits);
        let held = ledger.hold(100);
        assert!(ledger.admit().now_or_never().is_none());
        drop(held);
        assert!(ledger.admit().now_or_never().is_some());
        assert!(ledger.asked(1, None).is_ok() && ledger.asked(2, Some(1)).is_ok());
        assert!(ledger.admit().now_or_never().is_none());
        ledger.answered(1, 40);
        assert!(ledger.admit().now_or_never().is_some());
        assert!(ledger.reserve(20).now_or_never().is_none(), "40 of 50 are kept");
        ledger.finished(1);
        let reserved = ledger.reserve(60).now_or_never();
        assert!(reserved.is_some(), "what is too large by itself goes when nothing else is there");
        ledger.finished(2);
        ledger.finished(2);
        ledger.answered(2, 7);
        drop(reserved);
        assert_eq!((ledger.running.get(), ledger.kept.get(), ledger.incoming.get()), (0, 0, 0));
        assert!(
            (1..4).all(|question| ledger.asked(question, None).is_ok()) && ledger.asked(4, None).is_err()
        );
        ledger.finished(1);
        ledger.finished(2);
        ledger.finished(3);
        ledger.queue(50);
        assert!(ledger.admit().now_or_never().is_none(), "the peer does not take what it asked for");
        ledger.sent(50);
        assert!(ledger.admit().now_or_never().is_some());
    }

    #[test]
    fn calls_upon_calls_end_somewhere() {
        let ledger = Ledger::new(Limits::default());
        assert!(ledger.asked(0, None).is_ok());
        let last = MAX_DEPTH as u32;
        assert!((0..last).all(|question| ledger.asked(question + 1, Some(question)).is_ok()));
        assert!(ledger.asked(last + 1, Some(last)).is_err());
        // What has come is no longer waited for.
        ledger.answered(last, 1);
        assert!(ledger.asked(last + 2, Some(last)).is_ok());
    }
}
