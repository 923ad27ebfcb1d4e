//! A pass: look where something may have changed, compare with what was agreed on, act, agree.
//!
//! Nothing is locked meanwhile, on either side, so whatever is found to be different when it comes to acting is looked
//! at again in the next pass. What cannot be done now is on the agenda with a time; what one side cannot have is left
//! out, and listed.
//!
//! `sight`: looking. `act`: doing one step. `age`: how long ago something was. `copy`: a file, in portions. `links`: which
//! names are meant. `mapped`: what is written without a sign. `scan`: looking around without being told.

mod act;
mod age;
mod copy;
mod links;
mod mapped;
mod scan;
mod sight;

use self::age::age_of;
use crate::diff::{self, Sight, Sights, Step};
use crate::path;
use crate::shadow::{Shadow, Side};
use crate::tree::{Fault, Kind, Outcome, Path, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long nobody may have written to a file for it to be taken as finished.
const QUIET: Duration = Duration::from_millis(50);

/// How long a file that is written to all the time is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Files of the workspace up to this size are copied at once: that is cheap enough to be done again.
const SMALL: u64 = 1 << 20;

/// Rounds of renames in one pass.
const ROUNDS: usize = 16;

/// How often something that keeps changing is tried before it waits.
const TRIES: u32 = 8;

/// Longest wait before something that failed is tried again.
const LONGEST: Duration = Duration::from_secs(60);

/// Entries of each list in [`Stats`].
const LISTED: usize = 100;

/// Whether files that are being written are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// Until they are settled.
    Patient,
    /// They are taken as they are.
    Now,
}

/// How close to look at a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Depth {
    /// At itself; at what is in it if it is new.
    #[default]
    Itself,
    /// At the names in it too.
    Names,
    /// At everything below it.
    All,
}

/// A place to look at.
#[derive(Clone, Copy, Debug)]
struct Wish {
    depth: Depth,
    /// Not before.
    due: Option<Instant>,
    /// Since when it is waited for.
    since: Instant,
    /// Whoever wrote there is done.
    settled: bool,
    /// The kernel has said so, of a file of the host.
    closed: bool,
    tries: u32,
}

/// What a pass came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Steps that were done.
    pub done: usize,
    /// Something is to be looked at again at once.
    pub again: bool,
    /// Something waits until then.
    pub due: Option<Instant>,
}

/// What there is to see.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Places that both sides agree on.
    pub agreed: usize,
    /// Places that wait to be looked at.
    pub waiting: usize,
    /// Steps towards the host, and towards the workspace, since the start.
    pub to_host: u64,
    /// See `to_host`.
    pub to_work: u64,
    /// Versions of the host that were kept beside the workspace's.
    pub conflicts: u64,
    /// How many places have an owner in the workspace that they do not have on the host.
    pub other_owners: usize,
    /// How many places one side cannot have.
    pub left_out: usize,
    /// The first of them, and why.
    pub left_out_list: Vec<(Path, String)>,
    /// How many places could not be brought in step, and are tried again.
    pub failing: usize,
    /// The first of them, and why.
    pub failing_list: Vec<(Path, String)>,
}

/// Who is told of the places that something is about to be done to, and has to see to it that a crash does not bring back
/// what was agreed on there.
pub type Forget = Box<dyn FnMut(&[Path]) -> Outcome<()> + Send>;

/// Two trees, and what they agreed on.
pub struct Engine {
    forget: Forget,
    work: Arc<dyn Tree>,
    host: Arc<dyn Tree>,
    shadow: Shadow,
    agenda: BTreeMap<Path, Wish>,
    /// Sides of which everything is to be looked at: workspace, host.
    all_of: [bool; 2],
    left_out: BTreeMap<Path, String>,
    failing: BTreeMap<Path, String>,
    scanner: scan::Scanner,
    /// Files of the host that were read, and may change without a sign.
    mapped: BTreeSet<Path>,
    /// Nodes that lost a name in this pass by a removal of ours, which changed them at their other names.
    unlinked: BTreeSet<(u8, u64)>,
    /// Directories that were made for a rename to be followed into; what is in them has still to be looked at.
    made: Vec<Path>,
    stats: Stats,
}

/// A step, where, and what it was decided by: workspace, host.
type Planned = (Path, Step, [Option<Sight>; 2]);

/// What a pass sees.
#[derive(Default)]
struct View {
    work: Sights,
    host: Sights,
    /// Places that could not be looked at, with all that is below them.
    unknown: BTreeSet<Path>,
}

impl View {
    fn of(&self, side: Side) -> &Sights {
        match side {
            Side::Work => &self.work,
            Side::Host => &self.host,
        }
    }

    fn of_mut(&mut self, side: Side) -> &mut Sights {
        match side {
            Side::Work => &mut self.work,
            Side::Host => &mut self.host,
        }
    }

    fn is_unknown(&self, path: &[u8]) -> bool {
        self.unknown.iter().any(|dir| path == dir || path::is_below(path, dir))
    }
}

impl Engine {
    /// Two trees, and what they agreed on before.
    pub fn new(work: Arc<dyn Tree>, host: Arc<dyn Tree>, shadow: Shadow, forget: Forget) -> Self {
        Self {
            forget,
            work,
            host,
            shadow,
            agenda: BTreeMap::new(),
            all_of: [true, true],
            left_out: BTreeMap::new(),
            failing: BTreeMap::new(),
            scanner: scan::Scanner::default(),
            mapped: BTreeSet::new(),
            unlinked: BTreeSet::new(),
            made: Vec::new(),
            stats: Stats::default(),
        }
    }

    fn tree(&self, side: Side) -> &Arc<dyn Tree> {
        match side {
            Side::Work => &self.work,
            Side::Host => &self.host,
        }
    }

    /// From the next pass on everything on a side is looked at once.
    pub fn look_at_all(&mut self, side: Side) {
        self.all_of[side as usize] = true;
    }

    fn wish(&mut self, path: Path, depth: Depth, due: Option<Instant>, settled: bool) {
        let now = Instant::now();
        let fresh = Wish { depth, due, since: now, settled, closed: false, tries: 0 };
        let wish = self.agenda.entry(path).or_insert(fresh);
        wish.depth = wish.depth.max(depth);
        wish.due = if due.is_none() { None } else { wish.due.and(due) };
        wish.settled = settled;
    }

    /// Puts a place back on the agenda.
    fn wait(&mut self, path: &[u8], before: Option<&Wish>, due: Option<Instant>) {
        let now = Instant::now();
        let fresh = Wish { depth: Depth::Names, due, since: now, settled: false, closed: false, tries: 0 };
        let before = before.copied().unwrap_or(fresh);
        let wish = Wish { due, tries: before.tries + 1, settled: false, ..before };
        self.agenda.entry(path.to_vec()).or_insert(wish);
    }

    fn gather(&mut self) {
        for side in [Side::Work, Side::Host] {
            let changes = self.tree(side).changes();
            if changes.lost {
                self.all_of[side as usize] = true;
            }
            for change in changes.places {
                if side == Side::Host {
                    self.scanner.heat(&change.path);
                }
                let names =
                    change.node.map(|node| self.shadow.by_id(side, node).cloned().collect::<Vec<_>>());
                for name in names.into_iter().flatten() {
                    self.wish(name, Depth::Itself, None, change.settled);
                }
                // A directory may have been away, and what is in it forgotten meanwhile.
                self.wish(change.path.clone(), Depth::All, None, change.settled || side == Side::Work);
                if let (Side::Host, Some(wish)) = (side, self.agenda.get_mut(&change.path)) {
                    wish.closed = change.settled;
                }
            }
        }
    }

    /// One pass over what may have changed.
    pub fn pass(&mut self, haste: Haste) -> Progress {
        self.gather();
        let now = Instant::now();
        let is_due = |wish: &Wish| haste == Haste::Now || wish.due.is_none_or(|due| due <= now);
        let (wishes, later) =
            std::mem::take(&mut self.agenda).into_iter().partition(|(_, wish)| is_due(wish));
        self.agenda = later;
        let all_of = std::mem::take(&mut self.all_of);
        let mut progress = Progress::default();
        if !BTreeMap::is_empty(&wishes) || all_of != [false; 2] {
            progress.done = self.reconcile(&wishes, all_of, haste);
        }
        progress.again = self.agenda.values().any(|wish| wish.due.is_none()) || self.all_of != [false; 2];
        progress.due = self.agenda.values().filter_map(|wish| wish.due).min();
        progress
    }

    fn reconcile(&mut self, wishes: &BTreeMap<Path, Wish>, all_of: [bool; 2], haste: Haste) -> usize {
        let mut done = 0;
        let mut looked: BTreeMap<Path, Depth> =
            wishes.iter().map(|(path, wish)| (path.clone(), wish.depth)).collect();
        let mut view = self.observe(&looked, all_of);
        for _ in 0..ROUNDS {
            let moves = diff::moves(&self.shadow, &view.work, &view.host);
            let moved = moves.iter().flat_map(|one| self.shadow.below(&one.from).map(|(path, _)| &path[..]));
            let moved: Vec<Path> =
                moved.chain(moves.iter().map(|one| &one.from[..])).map(<[u8]>::to_vec).collect();
            let may = self.may_touch(moved.iter().map(|path| &path[..]));
            let made: Vec<_> = moves.into_iter().filter(|one| may && self.follow(one)).collect();
            looked.extend(std::mem::take(&mut self.made).into_iter().map(|dir| (dir, Depth::All)));
            if made.is_empty() {
                break;
            }
            done += made.len();
            for one in made {
                looked.entry(one.from).or_default();
                looked.insert(one.to, Depth::All);
            }
            view = self.observe(&looked, all_of);
        }
        let steps = self.steps(&view, wishes, haste);
        let touched = steps.iter().filter(|(_, step, _)| !matches!(step, Step::Agree | Step::Forget));
        if !self.may_touch(touched.map(|(path, _, _)| &path[..])) {
            let due = Some(Instant::now() + Duration::from_secs(1));
            steps.iter().for_each(|(path, _, _)| self.wait(path, wishes.get(path), due));
            return done;
        }
        self.unlinked.clear();
        for (path, step, sights) in steps {
            done += usize::from(self.act(&path, step, sights, wishes.get(&path)));
        }
        done
    }

    /// Has places forgotten before something is done to them.
    fn may_touch<'a>(&mut self, places: impl Iterator<Item = &'a [u8]>) -> bool {
        let known = self.shadow.forgetting(places);
        if known.is_empty() {
            return true;
        }
        let forgotten = (self.forget)(&known);
        if let Err(fault) = forgotten {
            tracing::error!(%fault, "nothing is brought in step: what was agreed on cannot be kept");
            return false;
        }
        true
    }

    /// What is to be done, in the order in which it can be: what makes room first, directories before what is in them.
    fn steps(&mut self, view: &View, wishes: &BTreeMap<Path, Wish>, haste: Haste) -> Vec<Planned> {
        let mut steps = Vec::new();
        let paths: BTreeSet<&Path> = view.work.keys().chain(view.host.keys()).collect();
        for path in paths {
            if path.is_empty() || view.is_unknown(path) {
                continue;
            }
            let Some(sights) = self.look_closer(view, path, wishes.get(path), haste) else { continue };
            let step = diff::decide(self.shadow.get(path), sights[0].as_ref(), sights[1].as_ref());
            if step == Step::Rest {
                self.settled(path);
            } else {
                steps.push((path.clone(), step, sights));
            }
        }
        keep_what_is_needed(&mut steps);
        let rank = |step: &Step| match step {
            Step::Aside => 0,
            Step::Remove(_) => 1,
            _ => 2,
        };
        steps.sort_by(|(a, first, _), (b, second, _)| {
            let order = rank(first).cmp(&rank(second));
            order.then_with(|| if rank(first) == 1 { b.cmp(a) } else { a.cmp(b) })
        });
        steps
    }

    /// Reads what has to be read to tell; `None` when that has to wait.
    fn look_closer(
        &mut self,
        view: &View,
        path: &[u8],
        wish: Option<&Wish>,
        haste: Haste,
    ) -> Option<[Option<Sight>; 2]> {
        let facts = |side: Side| view.of(side).get(path).copied().flatten();
        let (work, host) = (facts(Side::Work), facts(Side::Host));
        if haste == Haste::Patient
            && let Some(due) = self.unsettled(path, view, wish)
        {
            self.wait(path, wish, Some(due));
            return None;
        }
        let needs = diff::needs_digest(self.shadow.get(path), work.as_ref(), host.as_ref());
        let mut sights = [None, None];
        let each = [(Side::Work, work, needs.0), (Side::Host, host, needs.1)];
        for (sight, (side, facts, needed)) in sights.iter_mut().zip(each) {
            let Some(facts) = facts else { continue };
            let digest = if needed { Some(self.digest(side, path, &facts)) } else { None };
            match digest.transpose() {
                Ok(digest) => *sight = Some(Sight { facts, digest }),
                Err(fault) => {
                    self.failed(path, fault, wish);
                    return None;
                }
            }
        }
        Some(sights)
    }

    /// When to look again at a file that may be half written.
    fn unsettled(&self, path: &[u8], view: &View, wish: Option<&Wish>) -> Option<Instant> {
        if wish.is_some_and(|wish| wish.settled || wish.since.elapsed() > PATIENCE) {
            return None;
        }
        let entry = self.shadow.get(path);
        [Side::Work, Side::Host].into_iter().find_map(|side| {
            let facts = (*view.of(side).get(path)?)?;
            let moved = entry.is_none_or(|entry| !facts.still(entry.facts(side)));
            let counts = facts.kind == Kind::File && moved && (side == Side::Host || facts.size > SMALL);
            let touched = match side {
                Side::Host => facts.change,
                Side::Work => facts.mtime.max(0).cast_unsigned(),
            };
            let age = counts.then(|| age_of(touched)).flatten()?;
            (age < QUIET).then(|| Instant::now() + (QUIET - age))
        })
    }

    fn settled(&mut self, path: &[u8]) {
        self.failing.remove(path);
        self.left_out.remove(path);
    }

    /// Something could not be done.
    fn failed(&mut self, path: &[u8], fault: Fault, wish: Option<&Wish>) {
        let tries = wish.map_or(0, |wish| wish.tries);
        match fault {
            Fault::NotFound | Fault::Changed | Fault::Exists | Fault::NotEmpty if tries < TRIES => {
                let due = (tries > 1).then(|| Instant::now() + QUIET.mul_f64(f64::from(tries) / 2.0));
                self.wait(path, wish, due);
                if matches!(fault, Fault::NotEmpty | Fault::Exists) {
                    // Something in it was not known, or has not gone yet; or it came when nobody looked.
                    self.wish(path.to_vec(), Depth::All, due, true);
                }
                let parent = path::split(path).0;
                if fault == Fault::NotFound && !parent.is_empty() {
                    self.wish(parent.to_vec(), Depth::Itself, due, true);
                }
            }
            Fault::NotEmpty => self.is_new(path),
            Fault::Unfit(reason) => {
                self.left_out.insert(path.to_vec(), reason);
            }
            Fault::Exists => {
                self.left_out.insert(path.to_vec(), "the other side takes the name for another one".into());
            }
            fault => {
                tracing::debug!(path = %String::from_utf8_lossy(path), %fault, "not brought in step yet");
                self.failing.insert(path.to_vec(), fault.to_string());
                let pause = Duration::from_millis(250) * 2u32.saturating_pow(tries.min(10));
                self.wait(path, wish, Some(Instant::now() + pause.min(LONGEST)));
            }
        }
    }

    /// A directory that cannot be emptied is not removed, it is as if it had come just now, with all that is in it.
    fn is_new(&mut self, path: &[u8]) {
        self.shadow.remove(path);
        self.wish(path.to_vec(), Depth::All, None, true);
    }

    /// What was agreed on.
    pub fn shadow(&mut self) -> &mut Shadow {
        &mut self.shadow
    }

    /// What there is to see.
    pub fn stats(&self) -> Stats {
        let list = |all: &BTreeMap<Path, String>| -> Vec<(Path, String)> {
            all.iter().take(LISTED).map(|(path, why)| (path.clone(), why.clone())).collect()
        };
        Stats {
            agreed: self.shadow.len(),
            other_owners: self.shadow.iter().filter(|(_, entry)| entry.has_other_owners()).count(),
            waiting: self.agenda.len(),
            left_out: self.left_out.len(),
            left_out_list: list(&self.left_out),
            failing: self.failing.len(),
            failing_list: list(&self.failing),
            ..self.stats.clone()
        }
    }
}

/// A directory that one side removed, and in which the other one has something that stays, stays too.
fn keep_what_is_needed(steps: &mut [Planned]) {
    let mut kept = BTreeSet::new();
    for (path, step, _) in steps.iter() {
        if let Step::Copy(side) = step {
            let mut dir = path::split(path).0;
            while !dir.is_empty() && kept.insert((dir.to_vec(), *side as u8)) {
                dir = path::split(dir).0;
            }
        }
    }
    for (path, step, _) in steps.iter_mut() {
        if let Step::Remove(side) = *step
            && kept.contains(&(path.clone(), side as u8))
        {
            *step = Step::Copy(side);
        }
    }
}
