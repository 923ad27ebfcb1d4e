//! What a command said, in order, as much of it as is kept.
//!
//! Events are numbered from 1 without gaps. Bytes beyond the limit push the oldest events out, but none that somebody who
//! is attached has not read; the exit stays. Every
//! event counts for a few bytes more than it says, so that many small ones are bounded too.

use bytes::Bytes;
use std::collections::VecDeque;

/// What an event costs beside its bytes.
const OVERHEAD: usize = 32;

/// What one event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Bytes on standard output, or from the pseudo-terminal.
    Stdout(Bytes),
    /// Bytes on standard error.
    Stderr(Bytes),
    /// The last event.
    Exit(Exit),
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// What ended it.
    pub how: How,
    /// It was ended because its time was over.
    pub timed_out: bool,
    /// There may have been more output.
    pub output_cut: bool,
    /// Why its results are not known to be upstream, though they were to be.
    pub not_upstream: Option<String>,
}

impl Exit {
    /// An exit with nothing special about it.
    pub(super) fn of(how: How) -> Self {
        Self { how, timed_out: false, output_cut: false, not_upstream: None }
    }
}

/// What ended a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// The daemon ended while it ran.
    Lost,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// From 1, without gaps.
    pub seq: u64,
    /// What it says.
    pub said: Said,
}

impl Event {
    fn cost(&self) -> usize {
        match &self.said {
            Said::Stdout(bytes) | Said::Stderr(bytes) => bytes.len() + OVERHEAD,
            Said::Exit(_) => 0,
        }
    }
}

/// What was asked for is no longer kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// What to ask for instead: everything after this.
    pub resume: u64,
}

/// The events of one command.
#[derive(Clone, Debug)]
pub(super) struct Log {
    /// Each with what all events up to it cost, those that are gone included.
    events: VecDeque<(Event, usize)>,
    /// Number of the first event that is kept.
    first: u64,
    /// What the events that are gone cost.
    gone: usize,
    limit: usize,
}

impl Log {
    /// An empty log that keeps so many bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { events: VecDeque::new(), first: 1, gone: 0, limit }
    }

    /// A log as it was kept. Events that are numbered otherwise than is said of them count.
    pub(super) fn restored(limit: usize, first: u64, events: impl IntoIterator<Item = Event>) -> Self {
        let mut events = events.into_iter().peekable();
        let first = events.peek().map_or(first, |event| event.seq).clamp(1, i64::MAX as u64);
        let mut log = Self { first, ..Self::new(limit) };
        for event in events {
            let cost = log.cost() + event.cost();
            log.events.push_back((event, cost));
        }
        log
    }

    /// How many bytes it keeps.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Number of the first event that is kept; one more than [`Log::last`] when none is.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Number of the last event; 0 when there is none.
    pub(super) fn last(&self) -> u64 {
        self.first + self.events.len() as u64 - 1
    }

    /// How it ended, if it did.
    pub(super) fn exit(&self) -> Option<&Exit> {
        match &self.events.back()?.0.said {
            Said::Exit(exit) => Some(exit),
            _ => None,
        }
    }

    /// Adds an event, with nobody there who reads.
    pub(super) fn push(&mut self, said: Said) {
        self.push_for(said, u64::MAX);
    }

    /// Adds an event. Of those before it, what the slowest reader has not taken yet stays, whatever the limit: readers hold
    /// the command up before that is much.
    pub(super) fn push_for(&mut self, said: Said, slowest: u64) {
        let event = Event { seq: self.last() + 1, said };
        let cost = self.cost() + event.cost();
        self.events.push_back((event, cost));
        self.trim(slowest);
    }

    /// Drops what is beyond the limit and was taken by the slowest reader.
    pub(super) fn trim(&mut self, slowest: u64) {
        while self.cost() - self.gone > self.limit && self.events.len() > 1 && self.first <= slowest {
            let Some((_, gone)) = self.events.pop_front() else { break };
            self.gone = gone;
            self.first += 1;
        }
    }

    /// What all events cost, those that are gone included.
    fn cost(&self) -> usize {
        self.events.back().map_or(self.gone, |(_, cost)| *cost)
    }

    /// The events after a number, at most so many and so many bytes; at least one if there is one.
    pub(super) fn after(&self, seq: u64, limit: usize, max_bytes: usize) -> Result<Vec<Event>, Truncated> {
        if seq + 1 < self.first {
            return Err(Truncated { resume: self.first - 1 });
        }
        let skip = (seq + 1 - self.first) as usize;
        let (mut found, mut bytes) = (Vec::new(), 0);
        for (event, _) in self.events.range(skip.min(self.events.len())..).take(limit.max(1)) {
            bytes += event.cost();
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push(event.clone());
        }
        Ok(found)
    }

    /// Bytes of the events after a number, and a little for each.
    pub(super) fn unread(&self, seq: u64) -> usize {
        let read = match (seq + 1).saturating_sub(self.first) {
            0 => self.gone,
            kept => self.events.get(kept as usize - 1).map_or(self.cost(), |(_, cost)| *cost),
        };
        self.cost() - read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(text: &str) -> Said {
        Said::Stdout(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn events_are_numbered_without_gaps_and_the_oldest_go_first() {
        let mut log = Log::new(2 * (4 + OVERHEAD));
        assert_eq!((log.first(), log.last(), log.after(0, 9, 99)), (1, 0, Ok(vec![])));
        for text in ["aaaa", "bbbb", "cccc"] {
            log.push(out(text));
        }
        log.push(Said::Exit(Exit::of(How::Code(0))));
        assert_eq!((log.first(), log.last()), (2, 4));
        assert_eq!(log.after(0, 9, 99), Err(Truncated { resume: 1 }));
        let seqs = |events: Vec<Event>| events.iter().map(|event| event.seq).collect::<Vec<_>>();
        assert_eq!(seqs(log.after(1, 9, 99).unwrap()), [2, 3, 4]);
        assert_eq!(seqs(log.after(1, 9, 5).unwrap()), [2], "as many as fit, but at least one");
        assert_eq!(seqs(log.after(3, 9, 5).unwrap()), [4]);
        let each = 4 + OVERHEAD;
        assert_eq!([1, 2, 4, 0].map(|seq| log.unread(seq)), [2 * each, each, 0, 2 * each]);
        assert!(log.exit().is_some());
        let kept = Log::restored(99, log.first(), log.after(1, 9, 99).unwrap());
        assert_eq!((kept.first(), kept.last(), kept.unread(2)), (2, 4, each));
    }

    /// A reader that was there all the time missed the end of a command: what was left in its pipes came at once, and there
    /// was more of that than the log keeps.
    #[test]
    fn what_a_reader_has_not_taken_stays() {
        let mut log = Log::new(2 * (4 + OVERHEAD));
        for text in ["aaaa", "bbbb", "cccc", "dddd"] {
            log.push_for(out(text), 1);
        }
        assert_eq!((log.first(), log.after(1, 9, usize::MAX).unwrap().len()), (2, 3));
        log.trim(4);
        assert_eq!(log.first(), 3, "and goes when it has");
    }

    #[test]
    fn a_log_that_was_kept_with_numbers_that_there_are_not_begins_with_its_first_event() {
        assert_eq!(Log::restored(99, 0, []).last(), 0);
        assert!(Log::restored(99, u64::MAX, []).last() < i64::MAX as u64);
        let event = |seq| Event { seq, said: out("a") };
        for first in [0, 3, u64::MAX] {
            let mut log = Log::restored(99, first, [event(7), event(8)]);
            assert_eq!((log.first(), log.last(), log.after(7, 9, 99)), (7, 8, Ok(vec![event(8)])));
            log.push(out("b"));
            assert_eq!(log.last(), 9);
        }
    }

    #[test]
    fn what_is_larger_than_the_log_is_kept_alone() {
        let mut log = Log::new(3);
        log.push(out("aaaaaaaa"));
        assert_eq!(log.after(0, 1, 1).unwrap().len(), 1);
        log.push(out("b"));
        assert_eq!(log.first(), 2);
    }
}
