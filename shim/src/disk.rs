//! A directory of the host as a tree.
//!
//! Whoever else writes in the directory may be hostile: may put a symlink where a directory was a moment ago, to have
//! us write where they cannot. So no path is ever given to the kernel to follow: a directory is opened below the root
//! with no symlink on the way (`resolve`), and all else is done in it, by name, without following. What is replaced or
//! removed is taken away first and looked at then (`swap`): an edit that came at the last moment is put back, or kept
//! beside. Files are written under a name of our own and get theirs when they are whole (`place`); what a crash leaves
//! of those is cleared away at the start (`leftovers`).

mod along;
mod leftovers;
mod place;
mod resolve;
mod swap;

use crate::path;
use crate::tree::{
    Attributes, Changes, Facts, Fault, Kind, Outcome, Path, Stage, Tree, UNTRUSTED, number_of,
};
use crate::triggers::Triggers;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path as HostPath, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// Bytes that are read at a time.
const PORTION: usize = 256 << 10;

/// What a file is opened with to be read: a fifo that was put in its place must not hold us up.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// The host's directory.
pub struct Disk {
    root: OwnedFd,
    path: PathBuf,
    /// The filesystem that the directory itself is on.
    device: u64,
    /// Whether owners can be given.
    gives_owners: bool,
    /// Whether names that differ in case only are the same.
    folds_case: bool,
    triggers: Triggers,
    counter: AtomicU64,
}

impl Disk {
    /// Opens a directory. With `events` the kernel is asked to tell of changes; where it does not, that is no failure.
    pub fn open(at: &HostPath, events: bool) -> std::io::Result<Self> {
        let path = at.canonicalize()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty())?;
        let device = rustix::fs::fstat(&root)?.st_dev;
        let mut disk = Self {
            root,
            device,
            gives_owners: rustix::process::geteuid().is_root(),
            folds_case: false,
            triggers: Triggers::none(),
            path,
            counter: AtomicU64::new(0),
        };
        disk.folds_case = disk.probe_case()?;
        if events {
            disk.triggers = Triggers::start(&disk.path);
        }
        Ok(disk)
    }

    /// Calls `wake` whenever there is something new in [`Tree::changes`]. It must return at once.
    pub fn on_change(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.triggers.on_change(Box::new(wake));
    }

    /// Whether the kernel tells of changes.
    pub fn has_events(&self) -> bool {
        self.triggers.work()
    }

    /// Whether the path still leads to the directory.
    pub fn is_there(&self) -> bool {
        let opened = rustix::fs::fstat(&self.root);
        let Ok((there, opened)) = std::fs::metadata(&self.path).and_then(|there| Ok((there, opened?))) else {
            return false;
        };
        opened.st_nlink > 0 && (there.ino(), there.dev()) == (opened.st_ino, opened.st_dev)
    }

    /// What tells this directory from another one at the same path: a directory that was removed and made again, or
    /// whose disk is not mounted, must not be taken for one that was emptied.
    pub fn identity(&self) -> std::io::Result<Vec<u8>> {
        let metadata = std::fs::metadata(&self.path)?;
        let born = metadata.created().ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        Ok(format!("{}:{}", metadata.ino(), born.map_or(0, |born| born.as_nanos())).into_bytes())
    }

    /// Whether there is nothing in it that is not the shim's own.
    pub fn first_name(&self) -> Outcome<Option<Vec<u8>>> {
        let names = self.list(b"")?;
        Ok(names.into_iter().next().map(|(name, _)| name))
    }

    fn probe_case(&self) -> std::io::Result<bool> {
        let (name, other) = (".wsd-shim.Probe", ".WSD-SHIM.pROBE");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.root, name, flags, Mode::RUSR)?;
        let folds = rustix::fs::statat(&self.root, other, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        rustix::fs::unlinkat(&self.root, name, AtFlags::empty())?;
        Ok(folds)
    }

    /// A name for what nobody is to see yet.
    fn own_name(&self) -> Vec<u8> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let pid = rustix::process::getpid().as_raw_nonzero();
        [path::OWN_PREFIX, format!("{pid}-{number}").as_bytes()].concat()
    }

    fn stat(&self, dir: &OwnedFd, name: &[u8]) -> Outcome<Option<Facts>> {
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(self.facts(&stat))),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Ok(None),
            Err(error) => Err(fault(error)),
        }
    }

    /// What stat(2) says. Filesystems count their nodes each for itself, and others may be mounted in the directory.
    fn facts(&self, stat: &Stat) -> Facts {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Symlink,
            _ => Kind::Other,
        };
        let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        let change = nanos(stat.st_ctime, stat.st_ctime_nsec.cast_signed()).cast_unsigned();
        Facts {
            id: number_of(stat.st_ino, stat.st_dev ^ self.device),
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size.cast_unsigned(),
            mtime: nanos(stat.st_mtime, stat.st_mtime_nsec.cast_signed()),
            change: change.max(UNTRUSTED + 1),
        }
    }

    /// What is at a name now, which must be what is expected.
    fn expect(&self, dir: &OwnedFd, name: &[u8], expected: &Facts) -> Outcome<()> {
        let there = self.stat(dir, name)?.ok_or(Fault::Changed)?;
        let same = if there.kind == Kind::Dir { there.id == expected.id } else { there == *expected };
        if same && there.kind == expected.kind { Ok(()) } else { Err(Fault::Changed) }
    }

    /// On a disk that folds case: whether the name is spelled so.
    fn is_spelled(&self, parent: &[u8], name: &[u8]) -> Outcome<bool> {
        let mut dir = Dir::read_from(self.dir(parent)?).map_err(fault)?;
        let found = dir.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_bytes() == name));
        Ok(found)
    }
}

fn fault(error: Errno) -> Fault {
    match error {
        // A symlink, or what is no directory, on the way: then the place is not there.
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV => Fault::NotFound,
        Errno::EXIST => Fault::Exists,
        Errno::NOTEMPTY => Fault::NotEmpty,
        Errno::NAMETOOLONG => Fault::Unfit("the name is too long for the host".into()),
        Errno::ILSEQ => Fault::Unfit("the host takes no names that are not UTF-8".into()),
        error => Fault::Io(std::io::Error::from(error).to_string()),
    }
}

fn io(error: std::io::Error) -> Fault {
    error
        .raw_os_error()
        .map_or_else(|| Fault::Io(error.to_string()), |code| fault(Errno::from_raw_os_error(code)))
}

fn times(mtime: i64) -> Timestamps {
    let seconds = mtime.div_euclid(1_000_000_000);
    let nanos = mtime.rem_euclid(1_000_000_000);
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos },
    }
}

impl Tree for Disk {
    fn list(&self, dir: &[u8]) -> Outcome<Vec<(Vec<u8>, Facts)>> {
        let dir = self.dir(dir)?;
        let mut found = Vec::new();
        for entry in Dir::read_from(&dir).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || name.starts_with(path::OWN_PREFIX) {
                continue;
            }
            if let Some(facts) = self.stat(&dir, name)? {
                found.push((name.to_vec(), facts));
            }
        }
        Ok(found)
    }

    fn look(&self, path: &[u8]) -> Outcome<Option<Facts>> {
        if path.is_empty() {
            return Ok(Some(self.facts(&rustix::fs::fstat(&self.root).map_err(fault)?)));
        }
        if path::is_own(path) {
            return Ok(None);
        }
        let (parent, name) = path::split(path);
        let found = match self.place(parent) {
            Ok(dir) => self.stat(&dir, name)?,
            Err(Fault::NotFound | Fault::Unfit(_)) => None,
            Err(fault) => return Err(fault),
        };
        if found.is_some() && self.folds_case && !self.is_spelled(parent, name)? {
            return Ok(None);
        }
        Ok(found)
    }

    fn look_along<'a>(
        &self,
        places: &mut dyn Iterator<Item = (&'a Path, &'a Facts)>,
        each: &mut dyn FnMut(&'a Path, &'a Facts, Outcome<Option<Facts>>),
    ) {
        let mut way = along::Way::new(self);
        for (path, expected) in places {
            each(path, expected, way.look(path));
        }
    }

    fn read(
        &self,
        path: &[u8],
        expected: &Facts,
        each: &mut dyn FnMut(&[u8]) -> Outcome<()>,
    ) -> Outcome<Facts> {
        let (parent, name) = path::split(path);
        let file = rustix::fs::openat(self.place(parent)?, name, READ, Mode::empty()).map_err(fault)?;
        let before = self.facts(&rustix::fs::fstat(&file).map_err(fault)?);
        if before.kind != Kind::File || before.id != expected.id {
            return Err(Fault::Changed);
        }
        let mut file = std::fs::File::from(file);
        let mut portion = vec![0; PORTION.min(before.size as usize + 1)];
        loop {
            match file.read(&mut portion).map_err(io)? {
                0 => break,
                count => each(&portion[..count])?,
            }
        }
        Ok(self.facts(&rustix::fs::fstat(&file).map_err(fault)?))
    }

    fn target(&self, path: &[u8]) -> Outcome<Vec<u8>> {
        let (parent, name) = path::split(path);
        let target = rustix::fs::readlinkat(self.place(parent)?, name, Vec::new());
        match target {
            Ok(target) => Ok(target.into_bytes()),
            Err(Errno::INVAL) => Err(Fault::Changed),
            Err(error) => Err(fault(error)),
        }
    }

    fn stage<'a>(&'a self, path: &[u8]) -> Outcome<Box<dyn Stage + 'a>> {
        Ok(Box::new(place::Staged::new(self, path)?))
    }

    fn make_dir(&self, path: &[u8], attributes: &Attributes) -> Outcome<Facts> {
        let made = self.in_parent(path, |dir, name| {
            rustix::fs::mkdirat(dir, name, Mode::RWXU)?;
            rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        })?;
        self.set(path, attributes, &self.facts(&made))
    }

    fn make_symlink(
        &self,
        path: &[u8],
        target: &[u8],
        attributes: &Attributes,
        replaces: Option<&Facts>,
    ) -> Outcome<Facts> {
        let own = self.own_name();
        let dir = self.in_parent(path, |dir, _| {
            rustix::fs::symlinkat(target, dir, &own[..])?;
            rustix::io::fcntl_dupfd_cloexec(dir, 0)
        })?;
        if self.gives_owners {
            let (uid, gid) = place::owner(attributes);
            place::if_possible(rustix::fs::chownat(&dir, &own[..], uid, gid, AtFlags::SYMLINK_NOFOLLOW))?;
        }
        self.enter(&dir, &own, path, replaces)
    }

    fn link(&self, existing: &[u8], path: &[u8], replaces: Option<&Facts>) -> Outcome<Facts> {
        let own = self.own_name();
        let (parent, name) = path::split(existing);
        let source = self.place(parent)?;
        let dir = self.in_parent(path, |dir, _| {
            match rustix::fs::linkat(&source, name, dir, &own[..], AtFlags::empty()) {
                // That is another filesystem: no names of one node.
                Err(Errno::XDEV) => Ok(None),
                linked => linked.and_then(|()| rustix::io::fcntl_dupfd_cloexec(dir, 0)).map(Some),
            }
        });
        match dir.and_then(|dir| dir.ok_or_else(|| Fault::Unfit("it is on another filesystem".into()))) {
            Ok(dir) => self.enter(&dir, &own, path, replaces),
            // No hard links here, or not of this file.
            Err(Fault::Io(reason)) => Err(Fault::Unfit(reason)),
            Err(fault) => Err(fault),
        }
    }

    fn rename(&self, from: &[u8], to: &[u8], expected: &Facts) -> Outcome<Facts> {
        let (parent, name) = path::split(from);
        let source = self.place(parent)?;
        self.expect(&source, name, expected)?;
        let (target_parent, target_name) = path::split(to);
        let target = self.place(target_parent)?;
        self.open_up(&source, || {
            self.opened(&target, || swap::move_to(&source, name, &target, target_name))
        })?;
        self.stat(&target, target_name)?.ok_or(Fault::Changed)
    }

    fn remove(&self, path: &[u8], expected: &Facts) -> Outcome<()> {
        let (parent, name) = path::split(path);
        let dir = self.place(parent)?;
        self.expect(&dir, name, expected)?;
        if expected.kind == Kind::Dir {
            return self.open_up(&dir, || rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR));
        }
        self.take_away(&dir, path, expected)
    }

    fn set(&self, path: &[u8], attributes: &Attributes, expected: &Facts) -> Outcome<Facts> {
        let (parent, name) = path::split(path);
        let dir = self.place(parent)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = rustix::fs::openat(&dir, name, flags, Mode::empty()).map_err(fault)?;
        let now = || Ok(self.facts(&rustix::fs::fstat(&node).map_err(fault)?));
        if !now()?.looks_like(expected) {
            return Err(Fault::Changed);
        }
        if self.gives_owners {
            let (uid, gid) = place::owner(attributes);
            place::if_possible(rustix::fs::chownat(&node, "", uid, gid, AtFlags::EMPTY_PATH))?;
        }
        if expected.kind == Kind::Symlink {
            return now();
        }
        // The way to change what a descriptor of this kind is of; a symlink it cannot be.
        let this = format!("/proc/self/fd/{}", node.as_raw_fd());
        rustix::fs::chmod(&this, Mode::from_raw_mode(attributes.mode)).map_err(fault)?;
        if expected.kind == Kind::Dir {
            return now();
        }
        // Bytes that were written in between do not show where the time is set.
        let is_timed = attributes.mtime != expected.mtime;
        if is_timed {
            let times = times(attributes.mtime);
            rustix::fs::utimensat(rustix::fs::CWD, &this, &times, AtFlags::empty()).map_err(fault)?;
        }
        let after = now()?;
        let untouched = !is_timed && after.has_bytes_of(expected);
        Ok(if untouched { after } else { Facts { change: UNTRUSTED, ..after } })
    }

    fn changes(&self) -> Changes {
        self.triggers.take()
    }

    fn sync(&self) -> Outcome<()> {
        rustix::fs::syncfs(&self.root).map_err(fault)
    }

    fn unfit(&self, path: &[u8], facts: &Facts) -> Option<String> {
        if facts.kind == Kind::Other {
            return Some("a device, fifo or socket".into());
        }
        path::is_own(path).then(|| "the name is one that the shim uses for itself".into())
    }
}

impl Disk {
    /// Files and symlinks that are under a name of our own, everywhere.
    pub fn leftovers(&self) -> Outcome<Vec<(Path, Facts)>> {
        leftovers::find(self)
    }
}
