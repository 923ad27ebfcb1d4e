//! Looking at many places that are near each other: what was opened on the way to one is used for the next.
//!
//! Finding a directory anew for each file takes longer than asking for the file's facts. So the directories above the
//! last place are held open, for the moment that this takes: one that is moved meanwhile is seen where it was.

use super::{Disk, Facts, Fault, Outcome, Tree, fault, path};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};

/// Directories that are held open at most; those below are found from the root.
const DEEPEST: usize = 32;

/// From the root to a directory.
pub(super) struct Way<'a> {
    disk: &'a Disk,
    /// Each is in the one before it.
    held: Vec<(Vec<u8>, OwnedFd)>,
}

impl<'a> Way<'a> {
    pub(super) fn new(disk: &'a Disk) -> Self {
        Self { disk, held: Vec::new() }
    }

    /// What is at a place, if anything.
    pub(super) fn look(&mut self, at: &[u8]) -> Outcome<Option<Facts>> {
        let ((parent, name), disk) = (path::split(at), self.disk);
        if disk.folds_case || !path::is_name(name) {
            return disk.look(at);
        }
        if let Some((_, dir)) = self.held.last().filter(|(held, _)| held == parent) {
            return disk.stat(dir, name);
        }
        if path::depth(at) >= DEEPEST {
            return disk.look(at);
        }
        match self.go_to(parent) {
            Ok(dir) => disk.stat(dir, name),
            Err(Fault::NotFound | Fault::Unfit(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn go_to(&mut self, dir: &[u8]) -> Outcome<&OwnedFd> {
        let leads = |held: &[u8]| held == dir || path::is_below(dir, held);
        while self.held.last().is_some_and(|(held, _)| !leads(held)) {
            self.held.pop();
        }
        if self.held.is_empty() {
            self.held.push((Vec::new(), self.disk.place(b"")?));
        }
        // No symlink is followed, so nothing leads out of the directory.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        while let Some((at, above)) = self.held.last().filter(|(held, _)| held != dir) {
            let from = if at.is_empty() { 0 } else { at.len() + 1 };
            let name = dir[from..].split(|byte| *byte == b'/').next().unwrap_or_default();
            if !path::is_name(name) {
                return Err(Fault::Unfit("the path is not made of names".into()));
            }
            let below = rustix::fs::openat(above, name, flags, Mode::empty()).map_err(fault)?;
            let next = path::join(at, name);
            self.held.push((next, below));
        }
        self.held.last().map(|(_, dir)| dir).ok_or(Fault::NotFound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// In any order, the same as one by one; through a symlink it does not go.
    #[test]
    fn it_sees_what_looking_sees() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::create_dir_all(root.join("a-b")).unwrap();
        fs::create_dir_all(root.join(vec!["x"; 40].join("/"))).unwrap();
        for file in ["top", "a/1", "a/b/2", "a/b/c/3", "a-b/4"] {
            fs::write(root.join(file), file).unwrap();
        }
        std::os::unix::fs::symlink("a/b", root.join("link")).unwrap();
        let disk = Disk::open(root, false).unwrap();
        let deep = vec!["x"; 39].join("/");
        let places = [
            "a/b/c/3",
            "top",
            "a",
            "a-b/4",
            "a/b/2",
            "a/b/c",
            "a/1/no",
            "a/no/3",
            "link",
            "link/2",
            "a/1",
            "",
            &deep,
            "a/b/c/3",
            "../escaped",
            "a//1",
        ];
        let mut way = Way::new(&disk);
        for place in places {
            let place = place.as_bytes();
            assert_eq!(way.look(place), disk.look(place), "{}", String::from_utf8_lossy(place));
        }
        assert_eq!(way.look(b"link/2"), Ok(None));
        fs::rename(root.join("a"), root.join("b")).unwrap();
        assert_eq!(Way::new(&disk).look(b"a/b/2"), Ok(None));
        assert!(Way::new(&disk).look(b"b/b/2").unwrap().is_some());
    }
}
