//! Looking around on the host without being told: what events miss, or all there is where there are none.
//!
//! To ask for the facts of a file takes 1.5 microseconds, so to look at 50,000 of them four times a second would take a
//! third of a core for nothing. So looking around has a share of the processor's time, and what it takes beyond that it
//! does without the next times. It spends it where news is most likely:
//!
//! - directories in which something changed in the last seconds are listed every time;
//! - the files that changed last are looked at once a second: what was edited is edited again;
//! - all directories are looked at round and round, for their time of modification, which shows names that came and went;
//! - all places are looked at round and round. Each time some directories are listed whatever their time says, because
//!   not every filesystem keeps it.

use super::age::{age_of, tick_of};
use super::{Depth, Engine};
use crate::path;
use crate::shadow::Entry;
use crate::tree::{Facts, Kind, Outcome, Path};
use rustix::time::{ClockId, clock_gettime};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Directories that are listed every time, and for how long.
const HOT: usize = 32;
const HOT_FOR: Duration = Duration::from_secs(20);

/// Files that are looked at once in a while.
const RECENT: usize = 256;
const RECENT_EVERY: Duration = Duration::from_secs(1);

/// Rounds in which every directory is listed once.
const LISTED_IN: u64 = 16;

/// Places after which the clock is looked at.
const AT_A_TIME: u32 = 32;

/// How much of its share can be spent in advance, in times.
const DEBT: u32 = 16;

#[derive(Default)]
pub(super) struct Scanner {
    hot: VecDeque<(Path, Instant)>,
    /// The latest one is the last one.
    recent: VecDeque<Path>,
    recent_at: Option<Instant>,
    /// When directories were modified, before they were listed last.
    modified: HashMap<Path, i64>,
    /// Where the rounds over directories and over all are.
    dirs: Path,
    all: Path,
    rounds: u64,
    /// What was spent beyond the share.
    debt: Duration,
}

/// Time that this thread was busy for; a part of that in which it waited for a disk counts too.
struct Clock(Instant, Duration);

impl Clock {
    fn start() -> Self {
        Self(Instant::now(), Self::busy())
    }

    fn busy() -> Duration {
        Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
    }

    fn elapsed(&self) -> Duration {
        Self::busy().saturating_sub(self.1).max(self.0.elapsed() / 16)
    }
}

/// What there is to do after a look at some places.
#[derive(Default)]
struct Found {
    moved: Vec<Path>,
    dirs: Vec<(Path, Facts)>,
}

impl Found {
    fn take(&mut self, scanner: &Scanner, path: &Path, expected: &Facts, now: Outcome<Option<Facts>>) {
        let now = now.ok().flatten();
        if now.is_none_or(|now| !now.still(expected)) {
            self.moved.push(path.clone());
        }
        if let Some(dir) = now.filter(|now| now.kind == Kind::Dir)
            && scanner.modified.get(path) != Some(&dir.mtime)
        {
            self.dirs.push((path.clone(), dir));
        }
    }
}

impl Scanner {
    /// Something changed here.
    pub(super) fn heat(&mut self, place: &[u8]) {
        let dir = path::split(place).0;
        self.hot.retain(|(hot, _)| hot != dir);
        self.hot.push_back((dir.to_vec(), Instant::now()));
        if self.hot.len() > HOT {
            self.hot.pop_front();
        }
        self.remember(place);
    }

    /// Something may soon change here again.
    pub(super) fn remember(&mut self, place: &[u8]) {
        if self.recent.back().is_some_and(|last| last == place) {
            return;
        }
        self.recent.retain(|recent| recent != place);
        self.recent.push_back(place.to_vec());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }

    /// A directory is going to be listed. One that was modified just now may be modified again at the same time.
    pub(super) fn lists(&mut self, dir: &[u8], facts: &Facts) {
        if age_of(facts.mtime.max(0).cast_unsigned()).is_some_and(|age| age > tick_of(facts)) {
            self.modified.insert(dir.to_vec(), facts.mtime);
        } else {
            self.modified.remove(dir);
        }
    }

    /// Whether it is a directory's turn to be listed, whatever its time says.
    fn is_turn_of(&self, dir: &[u8]) -> bool {
        let hash = dir.iter().fold(0u64, |hash, byte| hash.wrapping_mul(31).wrapping_add((*byte).into()));
        hash.wrapping_add(self.rounds).is_multiple_of(LISTED_IN)
    }
}

impl Engine {
    /// Looks around for about as long as it may take.
    pub fn look_around(&mut self, budget: Duration) {
        self.list_hot(budget);
        let clock = Clock::start();
        self.look_at_recent();
        let left = |engine: &Self| budget.saturating_sub(engine.scanner.debt + clock.elapsed());
        let for_dirs = left(self) / 4;
        if !for_dirs.is_zero() {
            self.go_round_dirs(for_dirs);
        }
        let for_all = left(self);
        if !for_all.is_zero() {
            self.go_round_all(for_all);
        }
        let spent = self.scanner.debt + clock.elapsed();
        self.scanner.debt = spent.saturating_sub(budget).min(budget * DEBT);
    }

    fn list_hot(&mut self, budget: Duration) {
        self.scanner.hot.retain(|(_, since)| since.elapsed() < HOT_FOR);
        let hot: Vec<Path> = self.scanner.hot.iter().rev().map(|(dir, _)| dir.clone()).collect();
        let clock = Clock::start();
        for dir in hot {
            self.look_into(&dir, None);
            if clock.elapsed() > budget {
                break;
            }
        }
    }

    fn look_at_recent(&mut self) {
        if self.scanner.recent_at.is_some_and(|at| at.elapsed() < RECENT_EVERY) {
            return;
        }
        if self.scanner.recent_at.replace(Instant::now()).is_none() {
            self.modified_last().iter().for_each(|path| self.scanner.remember(path));
        }
        let mut places: Vec<&Path> = self.scanner.recent.iter().collect();
        places.sort_unstable();
        let entries = places.into_iter().filter_map(|path| self.shadow.get_key_value(path));
        let (found, _) = self.look_along(entries, Duration::MAX);
        self.follow_up(found);
    }

    /// The files that were modified last, the latest one at the end.
    fn modified_last(&self) -> Vec<Path> {
        let files = self.shadow.iter().filter(|(_, entry)| entry.host.kind == Kind::File);
        let mut files: Vec<_> = files.map(|(path, entry)| (entry.host.mtime, path)).collect();
        files.sort_unstable();
        files[files.len().saturating_sub(RECENT)..].iter().map(|(_, path)| (*path).clone()).collect()
    }

    /// Goes on with the round over directories.
    fn go_round_dirs(&mut self, budget: Duration) {
        let from = std::mem::take(&mut self.scanner.dirs);
        let (mut found, stopped) = self.look_along(self.shadow.dirs_starting_at(&from), budget);
        // The root is in no directory.
        if let (true, Ok(Some(root))) = (from.is_empty(), self.host.look(b""))
            && self.scanner.modified.get(&from) != Some(&root.mtime)
        {
            found.dirs.push((Vec::new(), root));
        }
        self.scanner.dirs = stopped.unwrap_or_default();
        self.follow_up(found);
    }

    /// Goes on with the round over all places.
    fn go_round_all(&mut self, budget: Duration) {
        let from = std::mem::take(&mut self.scanner.all);
        let (found, stopped) = self.look_along(self.shadow.starting_at(&from), budget);
        let until = stopped.clone();
        let seen = self.shadow.dirs_starting_at(&from);
        let seen = seen.take_while(|(dir, _)| until.as_ref().is_none_or(|until| *dir < until));
        let mut turn: Vec<Path> =
            seen.filter(|(dir, _)| self.scanner.is_turn_of(dir)).map(|(dir, _)| dir.clone()).collect();
        if from.is_empty() && self.scanner.is_turn_of(b"") {
            turn.push(Vec::new());
        }
        if stopped.is_none() {
            self.scanner.rounds += 1;
            let shadow = &self.shadow;
            self.scanner.modified.retain(|dir, _| dir.is_empty() || shadow.get(dir).is_some());
        }
        self.scanner.all = stopped.unwrap_or_default();
        self.follow_up(found);
        turn.iter().for_each(|dir| self.look_into(dir, None));
    }

    /// Looks at places until the time is up; what is odd, and where it stopped.
    fn look_along<'a>(
        &'a self,
        places: impl Iterator<Item = (&'a Path, &'a Entry)>,
        budget: Duration,
    ) -> (Found, Option<Path>) {
        let (clock, mut count) = (Clock::start(), 0);
        let (mut found, mut stopped) = (Found::default(), None);
        let mut in_time = places.map(|(path, entry)| (path, &entry.host)).take_while(|(path, _)| {
            count += 1;
            let is_up = count % AT_A_TIME == 0 && clock.elapsed() > budget;
            stopped = is_up.then(|| (*path).clone());
            !is_up
        });
        self.host.look_along(&mut in_time, &mut |path, expected, now| {
            found.take(&self.scanner, path, expected, now);
        });
        drop(in_time);
        (found, stopped)
    }

    fn follow_up(&mut self, found: Found) {
        for path in found.moved {
            self.is_odd(path);
        }
        for (dir, facts) in found.dirs {
            self.look_into(&dir, Some(&facts));
        }
    }

    /// Has a place looked at by the next pass.
    fn is_odd(&mut self, path: Path) {
        self.scanner.heat(&path);
        if !self.agenda.contains_key(&path) {
            self.wish(path, Depth::Itself, None, false);
        }
    }

    /// Has what is not as agreed in a directory looked at by the next pass. `facts`: its own, if they are known.
    fn look_into(&mut self, dir: &[u8], facts: Option<&Facts>) {
        if let Some(facts) = facts {
            self.scanner.lists(dir, facts);
        }
        let Ok(names) = self.host.list(dir) else {
            return self.wish(dir.to_vec(), Depth::Itself, None, false);
        };
        let known = self.shadow.names(dir);
        let is_known = |path: &[u8]| known.binary_search_by(|(known, _)| known[..].cmp(path));
        let mut moved = Vec::new();
        let mut count = 0;
        for (name, facts) in names {
            let path = path::join(dir, &name);
            match is_known(&path) {
                Ok(at) => {
                    count += 1;
                    if !facts.still(&known[at].1.host) {
                        moved.push(path);
                    }
                }
                Err(_) if self.left_out.contains_key(&path) => {}
                Err(_) => moved.push(path),
            }
        }
        if count < known.len() {
            self.wish(dir.to_vec(), Depth::Names, None, false);
        }
        moved.into_iter().for_each(|path| self.is_odd(path));
    }
}
