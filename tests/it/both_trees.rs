//! A tree in which a program is, with its files open and mapped, its directories being listed, and callers from outside
//! change at every step. What one side has done the other one sees next, by whatever it holds.

use crate::support::{has, has_fuse, noise};
use proptest::prelude::*;
use proptest::sample::Index;
use rustix::fs::{CWD, RenameFlags};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;
use wsd::mount::{Choice, Mount, ShimSettings};
use wsd::service::{Files, WriteQuery};
use wsd::store::{Location, Store};
use wsd::vfs::{Caller, Fallocate, Options, RenameMode, Vfs};

/// More than any file has.
const LONGEST: usize = 256 << 10;

/// Names in a directory.
const NAMES: u8 = 4;

/// What a node is called in the model; the root is 0.
type Id = u64;

/// A program in the mount, told line by line what to do.
const PROGRAM: &str = r#"
import ctypes, errno, json, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
LONGEST, page = int(sys.argv[1]), mmap.mmap(-1, int(sys.argv[1]))
held, listing, there = {}, None, {}

class Held:
    def __init__(self, path):
        self.file = os.open(path, os.O_RDWR)
        self.append = os.open(path, os.O_WRONLY | os.O_APPEND)
        self.direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
        self.map = libc.mmap(None, LONGEST, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, self.file, 0)
        assert self.map != ctypes.c_void_p(-1).value
    def close(self):
        libc.munmap(self.map, LONGEST)
        for fd in self.file, self.append, self.direct:
            os.close(fd)
    def look(self):
        is_ = os.fstat(self.file)
        size = is_.st_size
        direct = os.preadv(self.direct, [page], 0)
        return dict(size=size, nlink=is_.st_nlink, mtime=is_.st_mtime_ns, ctime=is_.st_ctime_ns,
            mapped=ctypes.string_at(self.map, size).hex(), read=os.pread(self.file, LONGEST, 0).hex(), direct=page[:direct].hex())

def getdents(fd, room):
    buffer = ctypes.create_string_buffer(room)
    length = libc.syscall(217 if os.uname().machine == 'x86_64' else 61, fd, buffer, room)
    # A directory that is removed has nothing in it, and says so.
    assert length >= 0 or ctypes.get_errno() == errno.ENOENT, ctypes.get_errno()
    names, at = [], 0
    while at < length:
        step = int.from_bytes(buffer.raw[at + 16:at + 18], 'little')
        names.append(buffer.raw[at + 19:at + step].split(b'\0')[0].decode())
        at += step
    return names

def act(op, key=None, path=None, at=None, data=None, size=None):
    global listing
    one = held.get(key)
    data = data and bytes.fromhex(data)
    if op == 'hold': held[key] = Held(path)
    elif op == 'drop': held.pop(key).close()
    elif op == 'write': assert os.pwrite(one.file, data, at) == len(data)
    elif op == 'append': assert os.write(one.append, data) == len(data)
    elif op == 'store': ctypes.memmove(one.map + at, data, len(data))
    elif op == 'truncate': os.ftruncate(one.file, size)
    elif op == 'punch':
        if libc.fallocate(one.file, 3, at, size): raise OSError(ctypes.get_errno(), 'punch')
    elif op == 'sync': os.fsync(one.file)
    elif op == 'look': return one.look()
    elif op == 'enter': os.chdir(path)
    elif op == 'where':
        try: where = os.getcwd()
        except FileNotFoundError: where = None
        return dict(where=where, ino=os.stat('.').st_ino, nlink=os.stat('.').st_nlink, names=sorted(os.listdir('.')))
    elif op == 'stay':
        there[key] = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    elif op == 'leave': os.close(there.pop(key))
    elif op == 'inside':
        return dict(names=sorted(os.listdir(there[key])), nlink=os.fstat(there[key]).st_nlink)
    elif op == 'list': listing = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    elif op == 'next': return dict(names=getdents(listing, 64))
    elif op == 'listed': os.close(listing)
    return {}

for line in sys.stdin:
    try: said = act(**json.loads(line))
    except Exception as error: said = dict(error=repr(error))
    print(json.dumps(said), flush=True)
"#;

struct Program {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Program {
    fn start() -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", PROGRAM, &LONGEST.to_string()]).current_dir("/");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, to, from }
    }

    fn act(&mut self, what: Value) -> Value {
        writeln!(self.to, "{what}").unwrap();
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        let said: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{}: {line:?}: {error}", what["op"]));
        assert!(said.get("error").is_none(), "{}: {said}", what["op"]);
        said
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Debug)]
enum Thing {
    File(Vec<u8>),
    Dir(BTreeMap<u8, Id>),
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Put { len: usize },
    Write { at: usize, len: usize },
    Append { len: usize },
    Truncate { size: usize },
    Punch { at: usize, len: usize },
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Make {
        dir: Index,
        name: u8,
        is_dir: bool,
    },
    Change {
        file: Index,
        change: Change,
    },
    Copy {
        from: Index,
        to: Index,
    },
    CopyRange {
        from: Index,
        at: usize,
        to: Index,
        to_at: usize,
        len: usize,
    },
    Move {
        what: Index,
        dir: Index,
        name: u8,
        exchange: bool,
    },
    Link {
        file: Index,
        dir: Index,
        name: u8,
    },
    Remove {
        what: Index,
    },
    RemoveAll {
        dir: Index,
    },
    /// By a program that has the file open and mapped.
    Hold {
        file: Index,
    },
    Held {
        which: Index,
        change: Change,
    },
    Store {
        which: Index,
        at: Index,
        len: usize,
    },
    Sync {
        which: Index,
    },
    Drop {
        which: Index,
    },
    Enter {
        dir: Index,
    },
    Stay {
        dir: Index,
    },
    List {
        dir: Index,
    },
    Next,
    Commit,
}

/// A listing that a program has begun.
#[derive(Default)]
struct Listing {
    dir: Id,
    /// What was there when it began, and has been ever since.
    stays: BTreeSet<u8>,
    seen: Vec<String>,
}

struct Live {
    files: Files,
    vfs: Arc<Vfs>,
    mount: Option<Mount>,
    program: Program,
    point: PathBuf,
    things: BTreeMap<Id, Thing>,
    held: BTreeSet<Id>,
    /// Directories that the program has open.
    stays: BTreeSet<Id>,
    place: Option<Id>,
    listing: Option<Listing>,
    _dir: TempDir,
}

impl Live {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().canonicalize().unwrap().join("mnt");
        let store = Arc::new(Store::open(&Location::Memory, &point).unwrap());
        let vfs = Vfs::open(store, Options::default()).unwrap();
        let mount = Some(Mount::start(&vfs, &point, Choice::Fuse, &ShimSettings::default()).unwrap());
        let files = Files::new(Arc::clone(&vfs), &point);
        let things = BTreeMap::from([(0, Thing::Dir(BTreeMap::new()))]);
        let (held, stays, program) = (BTreeSet::new(), BTreeSet::new(), Program::start());
        Self { files, vfs, mount, program, point, things, held, stays, place: None, listing: None, _dir: dir }
    }

    /// All that has a name, with its path, parent and name.
    fn named(&self) -> Vec<(Id, PathBuf, Id, u8)> {
        let (mut all, mut ahead) = (Vec::new(), vec![(0, self.point.clone())]);
        while let Some((dir, path)) = ahead.pop() {
            let Thing::Dir(names) = &self.things[&dir] else { continue };
            for (name, id) in names {
                let path = path.join(format!("n{name}"));
                all.push((*id, path.clone(), dir, *name));
                ahead.push((*id, path));
            }
        }
        all.sort_by(|one, other| one.1.cmp(&other.1));
        all
    }

    fn is_dir(&self, id: Id) -> bool {
        matches!(self.things[&id], Thing::Dir(_))
    }

    fn pick(&self, which: Index, is_right: impl Fn(Id) -> bool) -> Option<(Id, PathBuf, Id, u8)> {
        let mut named = self.named();
        named.retain(|(id, ..)| is_right(*id));
        (!named.is_empty()).then(|| named.swap_remove(which.index(named.len())))
    }

    fn file(&self, which: Index) -> Option<(Id, PathBuf)> {
        self.pick(which, |id| !self.is_dir(id)).map(|(id, path, ..)| (id, path))
    }

    fn dir(&self, which: Index) -> (Id, PathBuf) {
        let mut dirs = self.named();
        dirs.retain(|(id, ..)| self.is_dir(*id));
        match which.index(dirs.len() + 1) {
            0 => (0, self.point.clone()),
            at => (dirs[at - 1].0, dirs[at - 1].1.clone()),
        }
    }

    fn names(&mut self, dir: Id) -> &mut BTreeMap<u8, Id> {
        match self.things.get_mut(&dir) {
            Some(Thing::Dir(names)) => names,
            other => panic!("{dir}: {other:?}"),
        }
    }

    fn bytes(&mut self, file: Id) -> &mut Vec<u8> {
        match self.things.get_mut(&file) {
            Some(Thing::File(bytes)) => bytes,
            other => panic!("{file}: {other:?}"),
        }
    }

    fn set(&mut self, dir: Id, name: u8, id: Option<Id>) {
        if let Some(listing) = self.listing.as_mut().filter(|listing| listing.dir == dir) {
            listing.stays.remove(&name);
        }
        match id {
            Some(id) => self.names(dir).insert(name, id),
            None => self.names(dir).remove(&name),
        };
    }

    fn take(&mut self, inside: bool, step: Step, seed: u64) {
        match step {
            Step::Make { dir, name, is_dir } => self.make(inside, dir, name, is_dir, seed),
            Step::Change { file, change } => {
                if let Some((id, path)) = self.file(file) {
                    self.change(inside, id, &path, change, seed);
                }
            }
            Step::Copy { from, to } => self.copy(from, to),
            Step::CopyRange { from, at, to, to_at, len } => {
                self.copy_range(inside, (from, at), (to, to_at), len)
            }
            Step::Move { what, dir, name, exchange } => self.rename(inside, what, dir, name, exchange),
            Step::Link { file, dir, name } => self.link(inside, file, dir, name),
            Step::Remove { what } => self.remove(inside, what),
            Step::RemoveAll { dir } => self.remove_all(inside, dir),
            Step::Commit => self.vfs.sync().unwrap(),
            step => self.hold(step, seed),
        }
        let mut kept: BTreeSet<Id> = self.named().iter().map(|(id, ..)| *id).collect();
        kept.extend(self.held.iter().chain(&self.stays).chain(&self.place));
        kept.extend(self.listing.as_ref().map(|listing| listing.dir));
        self.things.retain(|id, _| *id == 0 || kept.contains(id));
    }

    fn make(&mut self, inside: bool, dir: Index, name: u8, is_dir: bool, seed: u64) {
        let (dir, path) = self.dir(dir);
        let path = path.join(format!("n{name}"));
        let is_free = !self.names(dir).contains_key(&name);
        let bytes = noise(seed, seed as usize * 977 % 50_000);
        let made = match (inside, is_dir) {
            (true, true) => fs::create_dir(&path).is_ok(),
            (false, true) => self.files.mkdir(&wire(&path), 0o755, false).is_ok(),
            (true, false) => File::create_new(&path).and_then(|file| file.write_all_at(&bytes, 0)).is_ok(),
            (false, false) if is_free => {
                self.put(&path, &bytes);
                true
            }
            (false, false) => false,
        };
        assert_eq!(made, is_free, "{path:?}");
        if is_free {
            self.set(dir, name, Some(seed));
            self.things.insert(seed, if is_dir { Thing::Dir(BTreeMap::new()) } else { Thing::File(bytes) });
        }
    }

    fn put(&self, path: &Path, bytes: &[u8]) {
        let mut sink = self.files.write_file(&wire(path), WriteQuery::default()).unwrap();
        bytes.chunks(50_000).for_each(|portion| sink.write(portion).unwrap());
        sink.done(false).unwrap();
    }

    fn change(&mut self, inside: bool, id: Id, path: &Path, change: Change, seed: u64) {
        let (wire, open) = (wire(path), || File::options().read(true).write(true).open(path).unwrap());
        let files = self.files.clone();
        match change {
            Change::Put { len } if inside => fs::write(path, noise(seed, len)).unwrap(),
            Change::Put { len } => self.put(path, &noise(seed, len)),
            Change::Write { at, len } if inside => open().write_all_at(&noise(seed, len), at as u64).unwrap(),
            Change::Write { at, len } => drop(files.write(&wire, at as u64, &noise(seed, len)).unwrap()),
            Change::Append { len } if inside => {
                let mut file = File::options().append(true).open(path).unwrap();
                file.write_all(&noise(seed, len)).unwrap();
            }
            Change::Append { len } => drop(files.append(&wire, &noise(seed, len), None).unwrap()),
            Change::Truncate { size } if inside => open().set_len(size as u64).unwrap(),
            Change::Truncate { size } => drop(files.truncate(&wire, size as u64).unwrap()),
            Change::Punch { at, len } if inside => {
                use rustix::fs::{FallocateFlags as Flags, fallocate};
                fallocate(open(), Flags::PUNCH_HOLE | Flags::KEEP_SIZE, at as u64, len as u64).unwrap();
            }
            Change::Punch { at, len } => {
                let ino = files.stat(&wire).unwrap().ino;
                self.vfs.fallocate(Caller::DAEMON, ino, Fallocate::PunchHole, at as u64, len as u64).unwrap();
            }
        }
        self.changed(id, change, seed);
    }

    /// What a change makes of the bytes.
    fn changed(&mut self, id: Id, change: Change, seed: u64) {
        let bytes = self.bytes(id);
        let put = |bytes: &mut Vec<u8>, at: usize, len: usize| {
            bytes.resize(bytes.len().max(at + len), 0);
            bytes[at..at + len].copy_from_slice(&noise(seed, len));
        };
        match change {
            Change::Put { len } => *bytes = noise(seed, len),
            Change::Write { at, len } => put(bytes, at, len),
            Change::Append { len } => put(bytes, bytes.len(), len),
            Change::Truncate { size } => bytes.resize(size, 0),
            Change::Punch { at, len } => {
                let end = bytes.len().min(at + len);
                bytes[at.min(end)..end].fill(0);
            }
        }
    }

    fn copy(&mut self, from: Index, to: Index) {
        let (Some((from, source)), Some((to, target))) = (self.file(from), self.file(to)) else { return };
        if from != to {
            self.files.copy(&wire(&source), &wire(&target), false, true, &|| false).unwrap();
            *self.bytes(to) = self.bytes(from).clone();
        }
    }

    fn copy_range(
        &mut self,
        inside: bool,
        (from, at): (Index, usize),
        (to, to_at): (Index, usize),
        len: usize,
    ) {
        let (Some((from, source)), Some((to, target))) = (self.file(from), self.file(to)) else { return };
        let rest = self.bytes(from).len().saturating_sub(at).min(len);
        if from == to || rest == 0 {
            return;
        }
        let (mut done, mut at, mut to_at) = (0, at as u64, to_at as u64);
        let first = (at as usize, to_at as usize);
        let inos = [&source, &target].map(|path| self.files.stat(&wire(path)).unwrap().ino);
        let open = |path| File::options().read(true).write(true).open(path).unwrap();
        let (source, target) = (open(&source), open(&target));
        while done < rest {
            let left = rest - done;
            let copied = if inside {
                rustix::fs::copy_file_range(&source, Some(&mut at), &target, Some(&mut to_at), left).unwrap()
            } else {
                let (from, to) = ((inos[0], at), (inos[1], to_at));
                let copied = self.vfs.copy_range(Caller::DAEMON, from, to, left as u64).unwrap();
                (at, to_at) = (at + copied, to_at + copied);
                copied as usize
            };
            assert!(copied > 0, "{left} bytes are left");
            done += copied;
        }
        let copied = self.bytes(from)[first.0..first.0 + rest].to_vec();
        let bytes = self.bytes(to);
        bytes.resize(bytes.len().max(first.1 + rest), 0);
        bytes[first.1..first.1 + rest].copy_from_slice(&copied);
    }

    fn rename(&mut self, inside: bool, what: Index, dir: Index, name: u8, exchange: bool) {
        let Some((id, from, parent, old)) = self.pick(what, |_| true) else { return };
        let (dir, to) = self.dir(dir);
        let to = to.join(format!("n{name}"));
        let there = self.names(dir).get(&name).copied();
        let (below, above) = (to.starts_with(&from) && to != from, from.starts_with(&to) && to != from);
        let may = match there {
            _ if below => false,
            None => !exchange,
            Some(there) if there == id => true,
            Some(_) if exchange => !above,
            Some(there) => match &self.things[&there] {
                Thing::Dir(names) => self.is_dir(id) && names.is_empty(),
                Thing::File(_) => !self.is_dir(id),
            },
        };
        let done = if inside {
            let flags = if exchange { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
            rustix::fs::renameat_with(CWD, &from, CWD, &to, flags).is_ok()
        } else {
            let mode = if exchange { RenameMode::Exchange } else { RenameMode::Replace };
            self.files.rename(&wire(&from), &wire(&to), mode).is_ok()
        };
        assert_eq!(done, may, "{from:?} to {to:?}");
        if may && there != Some(id) {
            self.set(parent, old, there.filter(|_| exchange));
            self.set(dir, name, Some(id));
        }
    }

    fn link(&mut self, inside: bool, file: Index, dir: Index, name: u8) {
        let Some((id, from)) = self.file(file) else { return };
        let (dir, to) = self.dir(dir);
        let to = to.join(format!("n{name}"));
        let is_free = !self.names(dir).contains_key(&name);
        let made = if inside {
            fs::hard_link(&from, &to).is_ok()
        } else {
            self.files.link(&wire(&from), &wire(&to)).is_ok()
        };
        assert_eq!(made, is_free, "{to:?}");
        if is_free {
            self.set(dir, name, Some(id));
        }
    }

    fn remove(&mut self, inside: bool, what: Index) {
        let Some((id, path, dir, name)) = self.pick(what, |_| true) else { return };
        let may = !matches!(&self.things[&id], Thing::Dir(names) if !names.is_empty());
        let done = match (inside, self.is_dir(id)) {
            (true, true) => fs::remove_dir(&path).is_ok(),
            (true, false) => fs::remove_file(&path).is_ok(),
            (false, _) => self.files.rm(&wire(&path), false, false, &|| false).is_ok(),
        };
        // A caller's `rm` needs a word more for directories.
        let may = may && (inside || !self.is_dir(id) || done);
        assert_eq!(done, may, "{path:?}");
        if done {
            self.set(dir, name, None);
        }
    }

    fn remove_all(&mut self, inside: bool, dir: Index) {
        let Some((id, path, dir, name)) = self.pick(dir, |id| self.is_dir(id)) else { return };
        if inside {
            fs::remove_dir_all(&path).unwrap();
        } else {
            self.files.rm(&wire(&path), true, false, &|| false).unwrap();
        }
        let mut ahead = vec![id];
        while let Some(id) = ahead.pop() {
            if self.is_dir(id) {
                let names = std::mem::take(self.names(id));
                ahead.extend(names.values());
                if let Some(listing) = self.listing.as_mut().filter(|listing| listing.dir == id) {
                    listing.stays.clear();
                }
            }
        }
        self.set(dir, name, None);
    }

    fn which(&self, which: Index) -> Option<Id> {
        let held: Vec<Id> = self.held.iter().copied().collect();
        (!held.is_empty()).then(|| held[which.index(held.len())])
    }

    /// What the program does with what it holds.
    fn hold(&mut self, step: Step, seed: u64) {
        match step {
            Step::Hold { file } => {
                let Some((id, path)) = self.file(file) else { return };
                if self.held.insert(id) {
                    self.program.act(json!({"op": "hold", "key": id, "path": path}));
                }
            }
            Step::Held { which, change } => {
                let Some(id) = self.which(which) else { return };
                let hex = |len| hex(&noise(seed, len));
                match change {
                    Change::Put { len } | Change::Append { len } => {
                        self.program.act(json!({"op": "append", "key": id, "data": hex(len)}));
                        return self.changed(id, Change::Append { len }, seed);
                    }
                    Change::Write { at, len } => {
                        self.program.act(json!({"op": "write", "key": id, "at": at, "data": hex(len)}))
                    }
                    Change::Truncate { size } => {
                        self.program.act(json!({"op": "truncate", "key": id, "size": size}))
                    }
                    Change::Punch { at, len } => {
                        self.program.act(json!({"op": "punch", "key": id, "at": at, "size": len}))
                    }
                };
                self.changed(id, change, seed);
            }
            Step::Store { which, at, len } => {
                let Some(id) = self.which(which) else { return };
                let size = self.bytes(id).len();
                if size > 0 {
                    let at = at.index(size);
                    let len = len.min(size - at);
                    self.program
                        .act(json!({"op": "store", "key": id, "at": at, "data": hex(&noise(seed, len))}));
                    self.changed(id, Change::Write { at, len }, seed);
                }
            }
            Step::Sync { which } => {
                if let Some(id) = self.which(which) {
                    self.program.act(json!({"op": "sync", "key": id}));
                }
            }
            Step::Drop { which } => {
                if let Some(id) = self.which(which) {
                    self.program.act(json!({"op": "drop", "key": id}));
                    self.held.remove(&id);
                }
            }
            step => self.be(step),
        }
    }

    /// Where the program is, and what it lists.
    fn be(&mut self, step: Step) {
        match step {
            Step::Enter { dir } => {
                let (id, path) = self.dir(dir);
                self.program.act(json!({"op": "enter", "path": path}));
                self.place = Some(id);
            }
            Step::Stay { dir } => {
                let (id, path) = self.dir(dir);
                if self.stays.insert(id) {
                    self.program.act(json!({"op": "stay", "key": id, "path": path}));
                } else {
                    self.program.act(json!({"op": "leave", "key": id}));
                    self.stays.remove(&id);
                }
            }
            Step::List { dir } if self.listing.is_none() => {
                let (dir, path) = self.dir(dir);
                self.program.act(json!({"op": "list", "path": path}));
                let stays = self.names(dir).keys().copied().collect();
                self.listing = Some(Listing { dir, stays, seen: Vec::new() });
            }
            Step::Next | Step::List { .. } => {
                let Some(listing) = &mut self.listing else { return };
                let said = self.program.act(json!({"op": "next"}));
                let names = said["names"].as_array().unwrap();
                listing.seen.extend(names.iter().map(|name| name.as_str().unwrap().to_owned()));
                if names.is_empty() {
                    self.program.act(json!({"op": "listed"}));
                    for name in &listing.stays {
                        let times = listing.seen.iter().filter(|seen| **seen == format!("n{name}")).count();
                        assert_eq!(times, 1, "n{name} in {:?}", listing.seen);
                    }
                    self.listing = None;
                }
            }
            step => unreachable!("{step:?}"),
        }
    }

    /// Both sides see what the model says.
    fn compare(&mut self) {
        let named = self.named();
        let dirs = named.iter().filter(|(id, ..)| self.is_dir(*id)).map(|(id, path, ..)| (*id, path.clone()));
        let dirs: Vec<(Id, PathBuf)> = dirs.chain([(0, self.point.clone())]).collect();
        for (id, path) in &dirs {
            let (expected, nlink) = self.inside(*id);
            let mut names: Vec<String> = fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            assert_eq!(names, expected, "the mount's listing of {path:?}");
            let page = self.files.readdir(&wire(path), 0, 100).unwrap();
            let mut names: Vec<String> =
                page.entries.iter().map(|entry| String::from_utf8(entry.name.clone()).unwrap()).collect();
            names.sort();
            assert_eq!(names, expected, "the listing of {path:?} from outside");
            self.agree(path, 0, nlink);
        }
        for (id, path, ..) in named.iter().filter(|(id, ..)| !self.is_dir(*id)) {
            let nlink = named.iter().filter(|(other, ..)| other == id).count() as u64;
            let Thing::File(bytes) = &self.things[id] else { unreachable!() };
            self.agree(path, bytes.len() as u64, nlink);
            let (read, _) = self.files.read(&wire(path), 0, LONGEST).unwrap();
            assert!(read == *bytes, "the bytes of {path:?} from outside");
            assert!(fs::read(path).unwrap() == *bytes, "the bytes of {path:?} inside");
        }
        self.compare_held(&named);
        self.compare_places(&dirs);
    }

    fn agree(&self, path: &Path, size: u64, nlink: u64) {
        let (outside, inside) = (self.files.stat(&wire(path)).unwrap(), fs::metadata(path).unwrap());
        assert_eq!((outside.size, outside.nlink.into()), (size, nlink), "{path:?} from outside");
        let is_dir = inside.is_dir();
        assert_eq!((if is_dir { 0 } else { inside.len() }, inside.nlink()), (size, nlink), "{path:?} inside");
        assert_eq!(outside.ino, inside.ino(), "{path:?}");
        let times = [
            inside.mtime() * 1_000_000_000 + inside.mtime_nsec(),
            inside.ctime() * 1_000_000_000 + inside.ctime_nsec(),
        ];
        assert_eq!([outside.mtime.0, outside.ctime.0], times, "the times of {path:?}");
    }

    /// The names in a directory, and how many links it has.
    fn inside(&self, id: Id) -> (Vec<String>, u64) {
        let Thing::Dir(names) = &self.things[&id] else { unreachable!() };
        let dirs = names.values().filter(|id| self.is_dir(**id)).count() as u64;
        (names.keys().map(|name| format!("n{name}")).collect(), 2 + dirs)
    }

    fn compare_held(&mut self, named: &[(Id, PathBuf, Id, u8)]) {
        for id in self.held.clone() {
            let said = self.program.act(json!({"op": "look", "key": id}));
            let nlink = named.iter().filter(|(other, ..)| *other == id).count();
            let bytes = self.bytes(id);
            assert_eq!(said["size"], bytes.len(), "the size of what is held, {id}");
            assert_eq!(said["nlink"], nlink, "the links of what is held, {id}");
            for how in ["read", "mapped", "direct"] {
                assert!(said[how] == hex(bytes), "the bytes of what is held, {id}, {how}");
            }
        }
    }

    fn compare_places(&mut self, dirs: &[(Id, PathBuf)]) {
        for id in self.stays.clone() {
            let said = self.program.act(json!({"op": "inside", "key": id}));
            let (names, nlink) = self.inside(id);
            assert_eq!(said["names"], json!(names), "the names in what is open, {id}");
            let nlink = if dirs.iter().any(|(dir, _)| *dir == id) { nlink } else { 0 };
            assert_eq!(said["nlink"], nlink, "the links of what is open, {id}");
        }
        let Some(id) = self.place else { return };
        let said = self.program.act(json!({"op": "where"}));
        let path = dirs.iter().find(|(dir, _)| *dir == id).map(|(_, path)| path);
        assert_eq!(said["where"], json!(path), "where the program is");
        let (names, nlink) = self.inside(id);
        assert_eq!(said["names"], json!(names), "what is where the program is");
        assert_eq!(
            said["nlink"],
            if path.is_some() { nlink } else { 0 },
            "the links of where the program is"
        );
    }
}

fn wire(path: &Path) -> Vec<u8> {
    path.as_os_str().as_encoded_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.program.child.kill();
        let _ = self.program.child.wait();
        if let Some(mount) = self.mount.take() {
            mount.stop();
        }
        self.vfs.shutdown().unwrap();
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        1 => (0..90_000usize).prop_map(|len| Change::Put { len }),
        3 => (0..90_000usize, 1..9000usize).prop_map(|(at, len)| Change::Write { at, len }),
        2 => (1..5000usize).prop_map(|len| Change::Append { len }),
        2 => (0..90_000usize).prop_map(|size| Change::Truncate { size }),
        1 => (0..90_000usize, 1..80_000usize).prop_map(|(at, len)| Change::Punch { at, len }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let one = any::<Index>;
    let name = || 0..NAMES;
    prop_oneof![
        6 => (one(), name(), any::<bool>()).prop_map(|(dir, name, is_dir)| Step::Make { dir, name, is_dir }),
        6 => (one(), change()).prop_map(|(file, change)| Step::Change { file, change }),
        1 => (one(), one()).prop_map(|(from, to)| Step::Copy { from, to }),
        1 => (one(), 0..90_000usize, one(), 0..90_000usize, 1..90_000usize)
            .prop_map(|(from, at, to, to_at, len)| Step::CopyRange { from, at, to, to_at, len }),
        1 => (one(), 0..2usize, one(), 0..2usize, 1..90_000usize).prop_map(|(from, at, to, to_at, len)| {
            Step::CopyRange { from, at: at << 16, to, to_at: to_at << 16, len }
        }),
        4 => (one(), one(), name(), prop::bool::weighted(0.3))
            .prop_map(|(what, dir, name, exchange)| Step::Move { what, dir, name, exchange }),
        2 => (one(), one(), name()).prop_map(|(file, dir, name)| Step::Link { file, dir, name }),
        2 => one().prop_map(|what| Step::Remove { what }),
        1 => one().prop_map(|dir| Step::RemoveAll { dir }),
        4 => one().prop_map(|file| Step::Hold { file }),
        5 => (one(), change()).prop_map(|(which, change)| Step::Held { which, change }),
        4 => (one(), one(), 1..9000usize).prop_map(|(which, at, len)| Step::Store { which, at, len }),
        1 => one().prop_map(|which| Step::Sync { which }),
        1 => one().prop_map(|which| Step::Drop { which }),
        2 => one().prop_map(|dir| Step::Enter { dir }),
        2 => one().prop_map(|dir| Step::Stay { dir }),
        2 => one().prop_map(|dir| Step::List { dir }),
        3 => Just(Step::Next),
        1 => Just(Step::Commit),
    ]
}

/// An eighth of what `PROPTEST_CASES` says: each takes half a second.
fn few() -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig { cases: config.cases.div_ceil(8), max_shrink_iters: 400, ..config }
}

proptest! {
    #![proptest_config(few())]
    #[test]
    fn what_a_program_holds_is_what_others_have_made_of_it(
        steps in prop::collection::vec((any::<bool>(), step(), prop::bool::weighted(0.3)), 1..60),
    ) {
        if !has_fuse() || !has("python3") {
            return Ok(());
        }
        let mut live = Live::new();
        for (seed, (inside, step, look)) in (1..).zip(steps) {
            live.take(inside, step, seed);
            if look {
                live.compare();
            }
        }
        live.compare();
    }
}
