//! Names below a path, parents first.

use super::super::failure::About;
use super::super::path::Last;
use super::super::tree::{Named, Stopped};
use super::super::{Failure, Files, MAX_ENTRIES, Outcome, PORTION};
use super::rules::{Excluded, Wanted};
use crate::error::FsError;
use crate::store::rows::{Ino, Kind};
use crate::vfs::Attr;
use std::collections::VecDeque;

/// Largest `.gitignore` that is read, bytes.
const MAX_GITIGNORE: usize = 128 << 10;

/// What to look for, and where.
#[derive(Clone, Debug)]
pub struct FindQuery {
    /// Where.
    pub path: Vec<u8>,
    /// Any of these must match; none: all do.
    pub globs: Vec<String>,
    /// Left out, with all below, in the syntax of `.gitignore`.
    pub excludes: Vec<String>,
    /// Only these kinds; none: all.
    pub kinds: Vec<Kind>,
    /// How far below the path.
    pub max_depth: u32,
    /// Names that begin with a dot too.
    pub hidden: bool,
    /// What `.gitignore` files exclude is left out.
    pub gitignore: bool,
}

impl Default for FindQuery {
    fn default() -> Self {
        Self {
            path: Vec::new(),
            globs: Vec::new(),
            excludes: Vec::new(),
            kinds: Vec::new(),
            max_depth: u32::MAX,
            hidden: true,
            gitignore: false,
        }
    }
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// As on the wire.
    pub path: Vec<u8>,
    /// What is there.
    pub attr: Attr,
}

/// A search under way.
pub struct Find {
    files: Files,
    query: FindQuery,
    wanted: Wanted,
    excluded: Excluded,
    /// The path that was asked for, without a slash at its end.
    root: Vec<u8>,
    start: Option<Attr>,
    /// From the start down to where the search is.
    frames: Vec<Frame>,
    /// What could not be read. It is told after what was found before; then it is gone on.
    unreadable: Option<Failure>,
}

/// A directory that is being looked through.
struct Frame {
    dir: Ino,
    /// Below the start, with a slash at its end unless it is the start.
    below: Vec<u8>,
    page: VecDeque<Named>,
    after: u64,
    gitignore: Option<Excluded>,
}

impl Files {
    /// Looks for names.
    pub fn find(&self, query: FindQuery) -> Outcome<Find> {
        let start = self.node_at(&query.path, Last::Keep)?;
        let (wanted, excluded) = (Wanted::new(&query.globs)?, Excluded::of_query(&query.excludes)?);
        let root = self.wire_path(&self.asked(&query.path)?);
        Ok(Find {
            files: self.clone(),
            query,
            wanted,
            excluded,
            root,
            start: Some(start),
            frames: Vec::new(),
            unreadable: None,
        })
    }
}

impl Find {
    /// The next entries, at most `limit`, and whether there are no more. Waits for at least one.
    pub fn next(&mut self, limit: usize, stopped: Stopped<'_>) -> Outcome<(Vec<Found>, bool)> {
        let limit = limit.clamp(1, MAX_ENTRIES);
        let (mut found, mut bytes) = (Vec::new(), 0);
        while found.len() < limit && bytes < PORTION && self.unreadable.is_none() {
            if stopped() {
                return Err(Failure::new("ECANCELED", "nobody waits for this any more"));
            }
            match self.step() {
                Ok(Step::Found(entry)) => {
                    bytes += entry.path.len() + size_of::<Attr>();
                    found.push(entry);
                }
                Ok(Step::Nothing) => {}
                Ok(Step::End) => return Ok((found, true)),
                Err(failure) => self.unreadable = Some(failure),
            }
        }
        if let Some(failure) = self.unreadable.take_if(|_| found.is_empty()) {
            return Err(failure);
        }
        Ok((found, false))
    }

    /// After a failure the search goes on with what comes next.
    pub(super) fn step(&mut self) -> Outcome<Step> {
        if let Some(start) = self.start.take() {
            if start.kind == Kind::Dir && self.query.max_depth > 0 {
                self.enter(start.ino, Vec::new());
            }
            let name = self.root.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
            return self.offer(b"", &name, start.ino, start.kind);
        }
        let Some(frame) = self.frames.last_mut() else { return Ok(Step::End) };
        let Some((name, ino, kind)) = frame.page.pop_front() else {
            return self.refill();
        };
        let below = [&frame.below[..], &name[..]].concat();
        if self.is_excluded(&below, &name, kind == Kind::Dir) {
            return Ok(Step::Nothing);
        }
        let depth = self.frames.len();
        if kind == Kind::Dir && depth < self.query.max_depth as usize {
            self.enter(ino, [&below[..], b"/"].concat());
        }
        self.offer(&below, &name, ino, kind)
    }

    /// More names of the directory where the search is; or it is done with, also when they cannot be read.
    fn refill(&mut self) -> Outcome<Step> {
        let Some(mut frame) = self.frames.pop() else { return Ok(Step::End) };
        let here = frame.below.strip_suffix(b"/").unwrap_or_default();
        let (names, next) = self.files.names(frame.dir, frame.after).about(&self.path_of(here))?;
        if !names.is_empty() {
            (frame.page, frame.after) = (names.into(), next);
            self.frames.push(frame);
        }
        Ok(Step::Nothing)
    }

    fn enter(&mut self, dir: Ino, below: Vec<u8>) {
        let gitignore = if self.query.gitignore { self.gitignore_in(dir) } else { None };
        self.frames.push(Frame { dir, below, page: VecDeque::new(), after: 0, gitignore });
    }

    fn gitignore_in(&self, dir: Ino) -> Option<Excluded> {
        let (vfs, caller) = (&self.files.vfs, self.files.caller);
        let file = vfs.lookup(caller, dir, b".gitignore").ok()?;
        vfs.pull(file.ino);
        Some(Excluded::of_file(&vfs.read(file.ino, 0, MAX_GITIGNORE).ok()?))
    }

    fn is_excluded(&self, below: &[u8], name: &[u8], is_dir: bool) -> bool {
        if !self.query.hidden && name.first() == Some(&b'.') {
            return true;
        }
        if self.excluded.says(below, is_dir) == Some(true) {
            return true;
        }
        if self.query.gitignore && is_dir && name == b".git" {
            return true;
        }
        // The nearest file that speaks of it decides.
        let nearest = self.frames.iter().rev().find_map(|frame| {
            let within = below.get(frame.below.len()..)?;
            frame.gitignore.as_ref()?.says(within, is_dir)
        });
        nearest == Some(true)
    }

    fn offer(&self, below: &[u8], name: &[u8], ino: Ino, kind: Kind) -> Outcome<Step> {
        let of_kind = self.query.kinds.is_empty() || self.query.kinds.contains(&kind);
        if !of_kind || !self.wanted.matches(below, name) {
            return Ok(Step::Nothing);
        }
        match self.files.vfs.attr_now(ino) {
            Ok(attr) => Ok(Step::Found(Found { path: self.path_of(below), attr })),
            // Gone meanwhile.
            Err(FsError::Stale | FsError::NotFound) => Ok(Step::Nothing),
            Err(error) => Err(error).about(&self.path_of(below)),
        }
    }

    fn path_of(&self, below: &[u8]) -> Vec<u8> {
        let mut path = self.root.clone();
        if !below.is_empty() {
            if path.last() != Some(&b'/') {
                path.push(b'/');
            }
            path.extend_from_slice(below);
        }
        path
    }
}

/// What one step brought.
pub(super) enum Step {
    Found(Found),
    Nothing,
    End,
}
