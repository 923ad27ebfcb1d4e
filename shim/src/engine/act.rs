//! Doing one step, and remembering what came of it.

use super::age::{TICK, age_of, tick_of};
use super::{Depth, Engine, Wish};
use crate::diff::{Move, Sight, Step};
use crate::path;
use crate::shadow::{Entry, Side};
use crate::tree::{Attributes, Digest, Facts, Fault, Kind, Outcome, UNTRUSTED};
use std::time::{Instant, SystemTime};

/// What a directory reads as.
const NOTHING: Digest = [0; 32];

/// How many conflicts of one name there can be in one second.
const CONFLICTS: u32 = 1000;

impl Engine {
    /// Does a step; whether that changed a side.
    pub(super) fn act(
        &mut self,
        path: &[u8],
        step: Step,
        sights: [Option<Sight>; 2],
        wish: Option<&Wish>,
    ) -> bool {
        let sight = |side: Side| sights[side as usize];
        let step = self.mind_links(path, step, sights);
        let done = match step {
            Step::Rest => Ok(()),
            Step::Forget => {
                self.shadow.remove(path);
                Ok(())
            }
            Step::Agree => self.agree_on(path, sights),
            Step::Remove(side) => self.remove(path, side, sight(side)),
            Step::Set(side) => self.set(path, side, sights),
            Step::Copy(side) => match sight(side) {
                Some(source) => self.copy(path, side, &source.facts, sight(side.other()), wish),
                None => Ok(()),
            },
            Step::Aside => self.put_aside(path, sight(Side::Host)),
        };
        match done {
            Ok(()) => {}
            Err(Fault::NotEmpty) if !matches!(step, Step::Remove(_)) => {
                self.is_new(path);
                return false;
            }
            Err(fault) => {
                self.failed(path, fault, wish);
                return false;
            }
        }
        self.settled(path);
        match step {
            Step::Copy(Side::Work) | Step::Set(Side::Work) | Step::Remove(Side::Host) => {
                self.scanner.remember(path);
                self.stats.to_host += 1;
            }
            Step::Copy(Side::Host) | Step::Set(Side::Host) | Step::Remove(Side::Work) => {
                self.stats.to_work += 1;
            }
            Step::Aside => self.stats.conflicts += 1,
            Step::Rest | Step::Agree | Step::Forget => return false,
        }
        true
    }

    fn agree_on(&mut self, path: &[u8], [work, host]: [Option<Sight>; 2]) -> Outcome<()> {
        let (Some(work), Some(host)) = (work, host) else { return Ok(()) };
        let before = self.shadow.get(path).map(|entry| entry.digest);
        let digest = work.digest.or(host.digest).or(before).unwrap_or(NOTHING);
        let host = self.trusted(path, host.facts);
        self.agree(path, work.facts, host, digest);
        Ok(())
    }

    /// Remembers that both sides are equal, as they were seen.
    pub(super) fn agree(&mut self, path: &[u8], work: Facts, host: Facts, digest: Digest) {
        self.shadow.put(path.to_vec(), Entry { work, host, digest });
    }

    /// A file of the host that was read so shortly after it was written that the next write may not show.
    pub(super) fn trusted(&mut self, path: &[u8], host: Facts) -> Facts {
        let tick = tick_of(&host);
        let is_young = age_of(host.mtime.max(0).cast_unsigned()).is_some_and(|age| age < tick);
        if host.kind != Kind::File || !is_young {
            return host;
        }
        self.wish(path.to_vec(), Depth::Itself, Some(Instant::now() + tick + TICK), false);
        Facts { change: UNTRUSTED, ..host }
    }

    fn remove(&mut self, path: &[u8], side: Side, sight: Option<Sight>) -> Outcome<()> {
        if let Some(Sight { facts, .. }) = sight {
            match self.remove_name(path, side, facts) {
                // Somebody else was faster.
                Err(Fault::NotFound) => {}
                done => done?,
            }
        }
        self.shadow.remove(path);
        Ok(())
    }

    fn remove_name(&mut self, path: &[u8], side: Side, expected: Facts) -> Outcome<()> {
        let node = (side as u8, expected.id);
        let known = self.unlinked.contains(&node);
        let expected = if known { self.after_unlinking(path, side, expected)? } else { expected };
        self.tree(side).remove(path, &expected)?;
        self.unlinked.insert(node);
        Ok(())
    }

    /// The facts of a node after another of its names was removed: that is to be the only difference.
    fn after_unlinking(&self, path: &[u8], side: Side, before: Facts) -> Outcome<Facts> {
        let now = self.tree(side).look(path)?.ok_or(Fault::NotFound)?;
        let same = Facts { change: before.change, ..now } == before;
        if same { Ok(now) } else { Err(Fault::Changed) }
    }

    fn set(&mut self, path: &[u8], side: Side, sights: [Option<Sight>; 2]) -> Outcome<()> {
        let [Some(from), Some(to)] = [sights[side as usize], sights[side.other() as usize]] else {
            return Ok(());
        };
        // By another name of the node it may have got attributes in this very pass.
        let now = self.tree(side).look(path)?.ok_or(Fault::NotFound)?;
        if !now.looks_like(&from.facts) {
            return Err(Fault::Changed);
        }
        let attributes = self.attributes(path, side, &from.facts, Some(&to.facts));
        let after = self.tree(side.other()).set(path, &attributes, &to.facts)?;
        let before = self.shadow.get(path).map(|entry| entry.digest);
        let digest = from.digest.or(to.digest).or(before).unwrap_or(NOTHING);
        self.agree_between(path, side, from.facts, after, digest);
        Ok(())
    }

    /// Agrees on what came from one side and is on the other one now.
    pub(super) fn agree_between(
        &mut self,
        path: &[u8],
        from: Side,
        source: Facts,
        copy: Facts,
        digest: Digest,
    ) {
        let copy = self.owing(path, from, &source, copy);
        // What was done to a node was done at all its names.
        let twins = self.shadow.by_id(from.other(), copy.id).filter(|twin| *twin != path);
        for twin in twins.cloned().collect::<Vec<_>>() {
            self.wish(twin, Depth::Itself, None, true);
        }
        match from {
            Side::Work => {
                let is_coarse = tick_of(&copy) != TICK;
                let copy = if is_coarse { self.trusted(path, copy) } else { copy };
                self.agree(path, source, copy, digest);
            }
            Side::Host => {
                let source = self.trusted(path, source);
                self.agree(path, copy, source, digest);
            }
        }
    }

    /// What the other side changed of the attributes meanwhile, it keeps; it is remembered as it was before, so that
    /// this is seen as a change of that side, which still has to come back.
    pub(super) fn owing(&mut self, path: &[u8], from: Side, source: &Facts, mut copy: Facts) -> Facts {
        let Some(entry) = self.shadow.get(path) else { return copy };
        let (before, there) = (*entry.facts(from), *entry.facts(from.other()));
        let mut owes = false;
        let pairs = [
            (source.mode == before.mode, &mut copy.mode, there.mode),
            (source.uid == before.uid, &mut copy.uid, there.uid),
            (source.gid == before.gid, &mut copy.gid, there.gid),
        ];
        for (is_kept, now, then) in pairs {
            if is_kept && *now != then {
                *now = then;
                owes = true;
            }
        }
        if owes {
            self.wish(path.to_vec(), Depth::Itself, None, true);
        }
        copy
    }

    /// The attributes that what comes from one side gets on the other. What did not change since the agreement is left
    /// there as it is: the other side may not be able to have it.
    pub(super) fn attributes(
        &self,
        path: &[u8],
        from: Side,
        source: &Facts,
        there: Option<&Facts>,
    ) -> Attributes {
        let plain = Attributes { mode: source.mode, uid: source.uid, gid: source.gid, mtime: source.mtime };
        let (Some(entry), Some(there)) = (self.shadow.get(path), there) else { return plain };
        let before = entry.facts(from);
        let pick = |now: u32, before: u32, there: u32| if now == before { there } else { now };
        Attributes {
            mode: pick(source.mode, before.mode, there.mode),
            uid: pick(source.uid, before.uid, there.uid),
            gid: pick(source.gid, before.gid, there.gid),
            mtime: source.mtime,
        }
    }

    /// Gives the host's version another name, under which it is something new.
    fn put_aside(&mut self, path: &[u8], sight: Option<Sight>) -> Outcome<()> {
        let Some(sight) = sight else { return Ok(()) };
        let now = SystemTime::now();
        for number in 1..CONFLICTS {
            let beside = path::conflict(path, now, number);
            if self.shadow.get(&beside).is_some() || self.work.look(&beside)?.is_some() {
                continue;
            }
            match self.host.rename(path, &beside, &sight.facts) {
                Err(Fault::Exists) => {}
                Ok(_) => {
                    let (name, kept) = (String::from_utf8_lossy(path), String::from_utf8_lossy(&beside));
                    tracing::warn!(path = %name, %kept, "changed on both sides: the host's version is kept beside");
                    self.shadow.remove(path);
                    self.wish(path.to_vec(), Depth::Names, None, true);
                    self.wish(beside, Depth::All, None, true);
                    return Ok(());
                }
                Err(fault) => return Err(fault),
            }
        }
        Err(Fault::Exists)
    }

    /// Has one side follow a rename of the other; whether it could.
    pub(super) fn follow(&mut self, one: &Move) -> bool {
        let to = one.by.other();
        let tree = std::sync::Arc::clone(self.tree(to));
        let renamed = self.make_way(one.by, &one.to).and_then(|()| {
            let before = tree.look(&one.from)?.ok_or(Fault::NotFound)?;
            let known = self.shadow.get(&one.from).ok_or(Fault::NotFound)?;
            let still = before.still(known.facts(to));
            let after = tree.rename(&one.from, &one.to, &before)?;
            Ok((still && after.has_bytes_of(&before)).then_some(after))
        });
        let after = match renamed {
            Ok(after) => after,
            Err(fault) => {
                tracing::debug!(%fault, "a rename is not followed: it becomes a copy and a removal");
                return false;
            }
        };
        self.shadow.rename(&one.from, &one.to);
        if let (Some(after), Some(entry)) = (after, self.shadow.get(&one.to).copied()) {
            let mut entry = entry;
            *entry.facts_mut(to) = after;
            self.shadow.put(one.to.clone(), entry);
        }
        match to {
            Side::Work => self.stats.to_work += 1,
            Side::Host => self.stats.to_host += 1,
        }
        true
    }

    /// Makes the directories above a place that only one side has yet.
    fn make_way(&mut self, from: Side, place: &[u8]) -> Outcome<()> {
        for dir in path::above(place) {
            if self.shadow.get(dir).is_some() || self.tree(from.other()).look(dir)?.is_some() {
                continue;
            }
            let source = self.tree(from).look(dir)?.ok_or(Fault::NotFound)?;
            self.copy(dir, from, &source, None, None)?;
            self.made.push(dir.to_vec());
        }
        Ok(())
    }
}
