//! Looking around on the host without being told: what events miss, or all there is where there are none.
//!
//! Looking at 50,000 files four times a second would take a third of a core for nothing. So a little is looked at each
//! time, round and round: directories by their time of modification, which shows names that came and went, and all
//! files. Where something changed lately more is likely to come, so those directories are looked at every time.

use super::{Depth, Engine};
use crate::path;
use crate::tree::{Kind, Path};
use std::collections::{HashMap, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant};

/// Directories that are looked at every time, and for how long.
const HOT: usize = 32;
const HOT_FOR: Duration = Duration::from_secs(20);

#[derive(Default)]
pub(super) struct Scanner {
    hot: VecDeque<(Path, Instant)>,
    /// Where the rounds over directories and over files are.
    dirs: Option<Path>,
    files: Option<Path>,
    /// When directories were modified, as seen last.
    modified: HashMap<Path, i64>,
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
    }
}

impl Engine {
    /// Looks around for about as long as it may take.
    pub fn look_around(&mut self, budget: Duration) {
        self.scanner.hot.retain(|(_, since)| since.elapsed() < HOT_FOR);
        let hot: Vec<Path> = self.scanner.hot.iter().map(|(dir, _)| dir.clone()).collect();
        let begin = Instant::now();
        for dir in hot {
            self.look_into(&dir);
            if begin.elapsed() > budget {
                break;
            }
        }
        let (dirs, files) = (self.scanner.dirs.take(), self.scanner.files.take());
        self.scanner.dirs = self.go_round(dirs, budget / 2, Self::check_times);
        self.scanner.files = self.go_round(files, budget / 2, Self::look_into);
    }

    /// Goes on with a round over all directories; where it was when the time was up, or `None` when it was done.
    fn go_round(
        &mut self,
        mut at: Option<Path>,
        budget: Duration,
        look: fn(&mut Self, &[u8]),
    ) -> Option<Path> {
        let begin = Instant::now();
        while let Some(dir) = self.next_dir(at) {
            look(self, &dir);
            if begin.elapsed() > budget {
                return Some(dir);
            }
            at = Some(dir);
        }
        None
    }

    /// The directory after this one; the root is the first.
    fn next_dir(&self, after: Option<Path>) -> Option<Path> {
        let Some(after) = after else { return Some(Vec::new()) };
        let bounds = (Bound::Excluded(&after[..]), Bound::Unbounded);
        let mut rest = self.shadow.range(bounds);
        rest.find(|(_, entry)| entry.host.kind == Kind::Dir).map(|(path, _)| path.clone())
    }

    fn check_times(&mut self, dir: &[u8]) {
        let Ok(Some(facts)) = self.host.look(dir) else {
            return self.wish(dir.to_vec(), Depth::Itself, None, false);
        };
        let before = self.scanner.modified.insert(dir.to_vec(), facts.mtime);
        if before.is_some_and(|before| before != facts.mtime) {
            self.look_into(dir);
        }
    }

    /// Has a directory looked at by the next pass, if something in it is not as agreed.
    fn look_into(&mut self, dir: &[u8]) {
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
        for path in moved {
            self.scanner.heat(&path);
            if !self.agenda.contains_key(&path) {
                self.wish(path, Depth::Itself, None, false);
            }
        }
    }
}
