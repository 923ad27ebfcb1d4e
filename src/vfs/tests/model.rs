//! Random operations against the simplest thing that could be right: a map of paths.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    File(u8, u8),
    Dir(u8, u8),
    Write(u8, u8, u32, u16, u8),
    Size(u8, u8, u32),
    Unlink(u8, u8),
    Rmdir(u8, u8),
    Rename(u8, u8, u8, u8, u8),
    Link(u8, u8, u8, u8),
    Copy(u8, u8, u8, u8),
    Sync,
    Restart,
}

/// Directories are `d0` to `d3` below the root, or the root; names in them are `n0` to `n5`.
#[derive(Clone, Debug, Default)]
struct Model {
    /// (directory, name) to node.
    names: BTreeMap<(u8, u8), usize>,
    /// Bytes of a file; `None` for a directory.
    nodes: Vec<Option<Vec<u8>>>,
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..5u8, 0..6u8);
    prop_oneof![
        4 => place().prop_map(|(d, n)| Step::File(d, n)),
        2 => place().prop_map(|(d, n)| Step::Dir(d, n)),
        6 => (place(), 0..200_000u32, any::<u16>(), any::<u8>()).prop_map(|((d, n), o, l, b)| Step::Write(d, n, o, l, b)),
        4 => (place(), 0..50u32, 1..6u16, any::<u8>()).prop_map(|((d, n), o, l, b)| Step::Write(d, n, o * 4096, l * 4096, b)),
        2 => (place(), 0..200_000u32).prop_map(|((d, n), s)| Step::Size(d, n, s)),
        2 => place().prop_map(|(d, n)| Step::Unlink(d, n)),
        1 => place().prop_map(|(d, n)| Step::Rmdir(d, n)),
        4 => (place(), place(), 0..3u8).prop_map(|((a, b), (c, d), m)| Step::Rename(a, b, c, d, m)),
        2 => (place(), place()).prop_map(|((a, b), (c, d))| Step::Link(a, b, c, d)),
        2 => (place(), place()).prop_map(|((a, b), (c, d))| Step::Copy(a, b, c, d)),
        1 => Just(Step::Sync),
        1 => Just(Step::Restart),
    ]
}

struct Run {
    fs: Fixture,
    model: Model,
    dirs: Vec<Ino>,
}

impl Run {
    fn new() -> Self {
        let fs = Fixture::new();
        let mut dirs = vec![ROOT];
        dirs.extend((0..4).map(|number| fs.dir(ROOT, &format!("d{number}")).ino));
        Self { fs, model: Model::default(), dirs }
    }

    fn node(&self, place: (u8, u8)) -> Option<usize> {
        self.model.names.get(&place).copied()
    }

    fn file(&self, place: (u8, u8)) -> Option<(Ino, usize)> {
        let node = self.node(place).filter(|node| self.model.nodes[*node].is_some())?;
        let attr = self.fs.vfs.lookup(ME, self.dirs[place.0 as usize], &name(place.1)).unwrap();
        Some((attr.ino, node))
    }

    fn make(&mut self, place: (u8, u8), kind: Kind) {
        let new = NewNode { kind, mode: 0o755, umask: 0, rdev: 0 };
        let made = self.fs.vfs.create(ME, self.dirs[place.0 as usize], &name(place.1), new);
        assert_eq!(made.is_ok(), self.node(place).is_none());
        if made.is_ok() {
            self.model.names.insert(place, self.model.nodes.len());
            self.model.nodes.push((kind == Kind::File).then(Vec::new));
        }
    }

    fn remove(&mut self, place: (u8, u8), dir: bool) {
        let parent = self.dirs[place.0 as usize];
        let vfs = &self.fs.vfs;
        let result =
            if dir { vfs.rmdir(ME, parent, &name(place.1)) } else { vfs.unlink(ME, parent, &name(place.1)) };
        let there = self.node(place).map(|node| self.model.nodes[node].is_none());
        assert_eq!(result.is_ok(), there == Some(dir), "{result:?}");
        if result.is_ok() {
            self.model.names.remove(&place);
        }
    }

    fn rename(&mut self, from: (u8, u8), to: (u8, u8), mode: u8) {
        let mode = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][mode as usize];
        let (from_name, to_name) = (name(from.1), name(to.1));
        let (source, target) =
            ((self.dirs[from.0 as usize], &from_name[..]), (self.dirs[to.0 as usize], &to_name[..]));
        let result = self.fs.vfs.rename(ME, source, target, mode);
        let is_dir = |node: usize| self.model.nodes[node].is_none();
        let may = match (self.node(from), self.node(to), mode) {
            (None, ..) | (_, None, RenameMode::Exchange) | (_, Some(_), RenameMode::NoReplace) => false,
            (Some(a), Some(b), RenameMode::Replace) => is_dir(a) == is_dir(b),
            _ => true,
        };
        assert_eq!(result.is_ok(), may, "{result:?}");
        let (Some(moved), true) = (self.node(from), may) else { return };
        match self.node(to) {
            Some(there) if there == moved => {}
            Some(there) if mode == RenameMode::Exchange => {
                self.model.names.insert(from, there);
                self.model.names.insert(to, moved);
            }
            _ => {
                self.model.names.remove(&from);
                self.model.names.insert(to, moved);
            }
        }
    }

    fn content(&mut self, step: &Step) {
        match *step {
            Step::Write(d, n, offset, len, byte) => {
                let Some((ino, node)) = self.file((d, n)) else { return };
                let data: Vec<u8> = (0..len).map(|at| byte.wrapping_add(at as u8)).collect();
                self.fs.vfs.write(ME, ino, u64::from(offset), &data, false).unwrap();
                let bytes = self.model.nodes[node].as_mut().unwrap();
                let end = offset as usize + data.len();
                if !data.is_empty() && bytes.len() < end {
                    bytes.resize(end, 0);
                }
                if !data.is_empty() {
                    bytes[offset as usize..end].copy_from_slice(&data);
                }
            }
            Step::Size(d, n, size) => {
                let Some((ino, node)) = self.file((d, n)) else { return };
                let set = SetAttr { size: Some(u64::from(size)), ..SetAttr::default() };
                self.fs.vfs.setattr(ME, ino, &set).unwrap();
                self.model.nodes[node].as_mut().unwrap().resize(size as usize, 0);
            }
            Step::Copy(a, b, c, d) => {
                let (Some((from, source)), Some((to, target))) = (self.file((a, b)), self.file((c, d)))
                else {
                    return;
                };
                if source == target {
                    return;
                }
                let bytes = self.model.nodes[source].clone().unwrap();
                let mut at = 0;
                while at < bytes.len() as u64 {
                    at += self.fs.vfs.copy_range(ME, (from, at), (to, at), u64::MAX / 4).unwrap();
                }
                let into = self.model.nodes[target].as_mut().unwrap();
                into.resize(into.len().max(bytes.len()), 0);
                into[..bytes.len()].copy_from_slice(&bytes);
            }
            _ => {}
        }
    }

    fn link(&mut self, from: (u8, u8), to: (u8, u8)) {
        let Some((ino, node)) = self.file(from) else { return };
        let result = self.fs.vfs.link(ME, ino, self.dirs[to.0 as usize], &name(to.1));
        assert_eq!(result.is_ok(), self.node(to).is_none());
        if result.is_ok() {
            self.model.names.insert(to, node);
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::File(d, n) => self.make((d, n), Kind::File),
            Step::Dir(d, n) => self.make((d, n), Kind::Dir),
            Step::Unlink(d, n) => self.remove((d, n), false),
            Step::Rmdir(d, n) => self.remove((d, n), true),
            Step::Rename(a, b, c, d, mode) => self.rename((a, b), (c, d), mode),
            Step::Link(a, b, c, d) => self.link((a, b), (c, d)),
            Step::Sync => self.fs.vfs.sync().unwrap(),
            Step::Restart => self.fs.reopen(),
            Step::Write(..) | Step::Size(..) | Step::Copy(..) => self.content(step),
        }
    }

    fn compare(&self) {
        for ((d, n), node) in &self.model.names {
            let attr = self.fs.vfs.lookup(ME, self.dirs[*d as usize], &name(*n)).unwrap();
            let Some(bytes) = &self.model.nodes[*node] else {
                assert_eq!(attr.kind, Kind::Dir);
                continue;
            };
            let links = self.model.names.values().filter(|other| *other == node).count();
            assert_eq!((attr.size, attr.nlink as usize), (bytes.len() as u64, links));
            assert!(self.fs.read(attr.ino) == *bytes, "the bytes of d{d}/n{n} differ");
        }
        let listed: usize = self.dirs.iter().map(|dir| self.fs.names(*dir).len() - 2).sum();
        assert_eq!(listed, self.model.names.len() + 4);
    }
}

fn name(number: u8) -> Vec<u8> {
    format!("n{number}").into_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn the_filesystem_is_what_the_model_is(steps in proptest::collection::vec(step(), 1..60)) {
        let mut run = Run::new();
        for step in &steps {
            run.take(step);
        }
        run.compare();
        run.fs.check();
        run.fs.reopen();
        run.compare();
    }
}
