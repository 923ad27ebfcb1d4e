//! Pages of the store's file that are read to be passed on to the kernel, for its cache of the mount.
//!
//! What a program reads of a large file through the mount is in the kernel's cache as pages of that file, and the pages of the store that
//! it came from are there as well. Twice the memory is dear where memory is: in a container with a limit, and on a virtual machine
//! which gives what is free back to its host and has to fetch it again. So the kernel is told to forget pages of the store
//! when they have been passed on.
//!
//! And it is told which ones will be needed, where it cannot guess that: it reads ahead of who reads forward, but SQLite moves pages from the
//! end of the file to free ones so that a chunk's often lie backward. Figures: `docs/decisions/0018-read-once.md`.

use super::durable::{Files, PIECE};
use super::open::PAGE_SIZE;
use super::{Doubt, Store};
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A piece of which so much has been passed on is of no use any more, bytes.
const MOST: u64 = PIECE / 4 * 3;

/// So many pieces stay, those passed on last: several threads read side by side, and the kernel reads ahead of them.
const RECENT: usize = 4;

/// Pieces of which it is counted how much has been passed on, at most.
const COUNTED: usize = 4096;

/// Bytes that are asked for at a time where pages do not follow each other.
const WINDOW: u64 = 1 << 20;

/// So many windows are not asked for again, those asked for last.
const ASKED: usize = 64;

/// Pages of a read from which on it is looked at how they lie.
const ENOUGH: usize = 32;

thread_local! {
    /// What this thread reads, while it reads what is passed on.
    static READING: Cell<Option<Reading>> = const { Cell::new(None) };
}

struct Reading {
    /// Where each page was.
    places: Vec<u64>,
    /// Has the windows fetched that pages are in.
    ahead: Option<Arc<Passing>>,
}

/// The current thread is about to read a page of a store's file.
pub(super) fn note(place: u64) {
    READING.with(|reading| {
        let Some(mut now) = reading.take() else { return };
        now.places.push(place);
        if let Some(passing) = &now.ahead {
            passing.ask(place - place % WINDOW);
        }
        reading.set(Some(now));
    });
}

/// Whether so many pages that do not follow each other are near enough to be fetched together.
fn are_scattered(places: &[u64]) -> bool {
    let following = places.windows(2).filter(|pair| pair[1] == pair[0] + u64::from(PAGE_SIZE)).count();
    let mut windows: Vec<u64> = places.iter().map(|place| place / WINDOW).collect();
    windows.sort_unstable();
    windows.dedup();
    places.len() >= ENOUGH && following < places.len() / 2 && windows.len() <= places.len().div_ceil(ENOUGH)
}

/// Of a store that is in a file.
#[derive(Debug)]
pub(super) struct Passing {
    files: Arc<Files>,
    doubt: Doubt,
    passed: Mutex<Passed>,
    /// Windows that were asked for.
    asked: Mutex<VecDeque<u64>>,
    /// What was read last lay so that the kernel cannot guess what comes next.
    is_scattered: AtomicBool,
}

/// How much of which pieces has been passed on.
#[derive(Debug, Default)]
struct Passed {
    bytes: HashMap<u64, u64>,
    recent: VecDeque<u64>,
}

impl Passed {
    /// Counts reads of a page each; the beginnings of pieces to be forgotten.
    fn count(&mut self, places: &[u64]) -> Vec<u64> {
        let mut spent = Vec::new();
        for place in places {
            let piece = place - place % PIECE;
            let bytes = self.bytes.entry(piece).or_default();
            let had_most = *bytes >= MOST;
            *bytes += u64::from(PAGE_SIZE);
            if !had_most && *bytes >= MOST {
                self.recent.push_back(piece);
            }
        }
        while self.recent.len() > RECENT
            && let Some(piece) = self.recent.pop_front()
        {
            self.bytes.remove(&piece);
            spent.push(piece);
        }
        if self.bytes.len() > COUNTED {
            self.bytes.retain(|piece, _| self.recent.contains(piece));
        }
        spent
    }
}

impl Passing {
    pub(super) fn new(files: Arc<Files>, doubt: Doubt) -> Self {
        Self {
            files,
            doubt,
            passed: Mutex::default(),
            asked: Mutex::default(),
            is_scattered: AtomicBool::new(false),
        }
    }

    /// What was read last lay so.
    #[cfg(test)]
    pub(super) fn looks_scattered(&self) -> bool {
        self.is_scattered.load(Ordering::Relaxed)
    }

    /// Windows that were asked for not long ago.
    #[cfg(test)]
    pub(super) fn asked_for(&self) -> usize {
        self.asked.lock().len()
    }

    /// Has the kernel fetch a window, unless it was asked to a moment ago.
    fn ask(&self, window: u64) {
        let mut asked = self.asked.lock();
        if asked.contains(&window) {
            return;
        }
        asked.push_back(window);
        if asked.len() > ASKED {
            asked.pop_front();
        }
        drop(asked);
        // Without it there is only more to wait for.
        let _ = self.files.fetch(window, WINDOW);
    }

    /// These pages have been read and passed on.
    fn have_passed(&self, places: &[u64]) {
        if places.len() >= ENOUGH {
            self.is_scattered.store(are_scattered(places), Ordering::Relaxed);
        }
        // A disk that failed may not have what the kernel does.
        if self.doubt.is_raised() {
            return;
        }
        let spent = self.passed.lock().count(places);
        for piece in spent {
            self.asked.lock().retain(|window| window - window % PIECE != piece);
            // Without it there is only less memory.
            let _ = self.files.forget(piece);
        }
    }
}

impl Store {
    /// Does something that reads chunks which the kernel is to keep as a part of another file, so that it can forget where they come from.
    pub fn passing_on<T>(&self, read: impl FnOnce() -> T) -> T {
        let Some(passing) = &self.passing else { return read() };
        let ahead = passing.is_scattered.load(Ordering::Relaxed).then(|| Arc::clone(passing));
        READING.set(Some(Reading { places: Vec::new(), ahead }));
        let result = read();
        if let Some(reading) = READING.take() {
            passing.have_passed(&reading.places);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = PAGE_SIZE as u64;

    fn pages(piece: u64, count: u64) -> Vec<u64> {
        (0..count).map(|page| piece * PIECE + page * PAGE).collect()
    }

    #[test]
    fn pieces_are_forgotten_some_time_after_they_were_passed_on() {
        let mut passed = Passed::default();
        for piece in 0..RECENT as u64 {
            assert!(passed.count(&pages(piece, PIECE / PAGE)).is_empty());
        }
        assert_eq!(passed.count(&pages(9, PIECE / PAGE)), [0]);
        assert_eq!(passed.count(&pages(8, PIECE / PAGE)), [PIECE]);
        // What was forgotten counts from nothing.
        assert!(passed.count(&pages(0, 1)).is_empty());
    }

    #[test]
    fn pieces_of_which_little_was_passed_on_stay() {
        let mut passed = Passed::default();
        for piece in 0..2 * COUNTED as u64 {
            assert!(passed.count(&pages(piece, MOST / PAGE - 1)).is_empty());
        }
        assert!(passed.bytes.len() <= COUNTED);
    }

    #[test]
    fn pages_are_scattered_when_few_follow_each_other_and_they_are_near() {
        let (forward, few) = (pages(3, 128), pages(3, 8));
        let backward: Vec<u64> = forward.iter().rev().copied().collect();
        let far: Vec<u64> = (0..128).map(|page| page * 3 * WINDOW).collect();
        let scattered = [&forward, &backward, &far, &few].map(|places| are_scattered(places));
        assert_eq!(scattered, [false, true, false, false]);
    }
}
