//! A change below the kernel is seen above it at once.

use crate::support::{has, has_fuse, is_root, noise};
use rustix::fs::AtFlags;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use wsd::mount::{Choice, Mount, ShimSettings};
use wsd::store::rows::{Ino, Kind, ROOT};
use wsd::store::{Location, Store};
use wsd::vfs::graft::{Becomes, Bytes, Grafted, Scion, Seen};
use wsd::vfs::{Attr, Caller, NewNode, Options, RenameMode, SetAttr, SetXattr, Vfs};

const ME: Caller = Caller::DAEMON;

struct Live {
    vfs: Arc<Vfs>,
    store: Arc<Store>,
    mount: Option<Mount>,
    point: PathBuf,
    _dir: TempDir,
}

impl Live {
    fn new() -> Option<Self> {
        if !has_fuse() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().canonicalize().unwrap().join("mnt");
        let store = Arc::new(Store::open(&Location::Memory, &point).unwrap());
        let vfs = Vfs::open(Arc::clone(&store), Options::default()).unwrap();
        let mount = Mount::start(&vfs, &point, Choice::Fuse, &ShimSettings::default()).unwrap();
        Some(Self { vfs, store, mount: Some(mount), point, _dir: dir })
    }

    fn path(&self, below: &str) -> PathBuf {
        self.point.join(below)
    }

    fn ino(&self, below: &str) -> Ino {
        self.vfs.resolve(below.as_bytes()).unwrap().ino
    }

    /// Makes a file directly, with these bytes.
    fn make(&self, name: &str, bytes: &[u8]) -> Ino {
        let new = NewNode { kind: Kind::File, mode: 0o644, umask: 0, rdev: 0 };
        let ino = self.vfs.create(ME, ROOT, name.as_bytes(), new).unwrap().ino;
        self.vfs.write(ME, ino, 0, bytes, false).unwrap();
        ino
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(mount) = self.mount.take() {
            mount.stop();
        }
        self.vfs.shutdown().unwrap();
        if !std::thread::panicking() {
            let flaws = self.store.check(true).unwrap();
            assert!(flaws.is_empty(), "{flaws:?}");
        }
    }
}

#[test]
fn new_bytes_sizes_and_times_are_seen_by_stat_and_read() {
    let Some(live) = Live::new() else { return };
    let path = live.path("file");
    fs::write(&path, b"old").unwrap();
    let open = File::open(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    let ino = live.ino("file");
    let mut expected = b"old".to_vec();
    for round in 0..20 {
        let more = noise(round, 1000);
        live.vfs.write(ME, ino, expected.len() as u64, &more, false).unwrap();
        expected.extend(more);
        let attr = live.vfs.getattr(ino).unwrap();
        let seen = fs::metadata(&path).unwrap();
        assert_eq!(seen.len(), expected.len() as u64);
        assert_eq!((seen.mtime(), seen.mtime_nsec() as u32), (attr.mtime.sec(), attr.mtime.nsec()));
        assert!(fs::read(&path).unwrap() == expected);
        assert_eq!(open.metadata().unwrap().len(), expected.len() as u64);
    }
    live.vfs.write(ME, ino, 1, b"LD", false).unwrap();
    let mut head = [0; 3];
    open.read_exact_at(&mut head, 0).unwrap();
    assert_eq!(&head, b"oLD");
    live.vfs.setattr(ME, ino, &SetAttr { size: Some(2), ..SetAttr::default() }).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"oL");
    assert_eq!(open.metadata().unwrap().len(), 2);
}

#[test]
fn names_made_moved_and_removed_are_seen_by_stat_and_readdir() {
    let Some(live) = Live::new() else { return };
    let names = || {
        let entries = fs::read_dir(&live.point).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert!(names().is_empty() && !live.path("a").exists());
    live.make("a", b"1");
    assert_eq!((names(), fs::read(live.path("a")).unwrap()), (vec!["a".to_owned()], b"1".to_vec()));
    assert!(!live.path("b").exists());
    live.vfs.rename(ME, (ROOT, b"a"), (ROOT, b"b"), RenameMode::Replace).unwrap();
    assert!(!live.path("a").exists());
    assert_eq!((names(), fs::read(live.path("b")).unwrap()), (vec!["b".to_owned()], b"1".to_vec()));
    live.make("c", b"2");
    live.vfs.rename(ME, (ROOT, b"c"), (ROOT, b"b"), RenameMode::Replace).unwrap();
    assert_eq!((names(), fs::read(live.path("b")).unwrap()), (vec!["b".to_owned()], b"2".to_vec()));
    let dir =
        live.vfs.create(ME, ROOT, b"d", NewNode { kind: Kind::Dir, mode: 0o755, umask: 0, rdev: 0 }).unwrap();
    assert_eq!(fs::read_dir(live.path("d")).unwrap().count(), 0);
    live.vfs.link(ME, live.ino("b"), dir.ino, b"e").unwrap();
    assert_eq!(fs::metadata(live.path("d/e")).unwrap().nlink(), 2);
    assert_eq!(fs::read_dir(live.path("d")).unwrap().count(), 1);
    live.vfs.unlink(ME, ROOT, b"b").unwrap();
    assert_eq!(names(), ["d"]);
    assert!(!live.path("b").exists());
}

#[test]
fn modes_and_targets_are_seen() {
    let Some(live) = Live::new() else { return };
    let ino = live.make("f", b"");
    assert_eq!(fs::metadata(live.path("f")).unwrap().permissions().mode() & 0o777, 0o644);
    live.vfs.setattr(ME, ino, &SetAttr { mode: Some(0o600), uid: Some(7), ..SetAttr::default() }).unwrap();
    let seen = fs::metadata(live.path("f")).unwrap();
    assert_eq!((seen.permissions().mode() & 0o777, seen.uid()), (0o600, 7));
    live.vfs.symlink(ME, ROOT, b"l", b"f").unwrap();
    assert_eq!(fs::read_link(live.path("l")).unwrap().to_str(), Some("f"));
    live.vfs.unlink(ME, ROOT, b"l").unwrap();
    live.vfs.symlink(ME, ROOT, b"l", b"g").unwrap();
    assert_eq!(fs::read_link(live.path("l")).unwrap().to_str(), Some("g"));
}

#[test]
fn an_existing_mapping_sees_new_bytes() {
    let Some(live) = Live::new() else { return };
    if !has("python3") {
        return;
    }
    let ino = live.make("m", &noise(3, 300_000));
    let script = "
import mmap, sys
f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
for line in sys.stdin:
    at = int(line); print(m[at:at + 8].hex(), flush=True)";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(live.path("m")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut ask, mut answers) =
        (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
    for round in 0..10u64 {
        let at = round * 29_000;
        let bytes = noise(100 + round, 8);
        writeln!(ask, "{at}").unwrap();
        let before = answers.next().unwrap().unwrap();
        live.vfs.write(ME, ino, at, &bytes, false).unwrap();
        writeln!(ask, "{at}").unwrap();
        let after = answers.next().unwrap().unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_ne!(before, after);
        assert_eq!(after, hex);
    }
    drop(ask);
    child.wait().unwrap();
}

#[test]
fn what_the_kernel_still_holds_is_brought_in_and_kept() {
    let Some(live) = Live::new() else { return };
    let file = File::create(live.path("f")).unwrap();
    file.write_all_at(&[b'k'; 10_000], 0).unwrap();
    let ino = live.ino("f");
    live.vfs.pull(ino);
    assert_eq!(
        live.vfs.read(ino, 0, 20_000).unwrap(),
        [b'k'; 10_000],
        "written, not flushed, and read past the kernel"
    );
    file.write_all_at(b"KERNEL", 100).unwrap();
    live.vfs.write(ME, ino, 200, b"DIRECT", false).unwrap();
    let bytes = fs::read(live.path("f")).unwrap();
    assert_eq!((&bytes[100..106], &bytes[200..206]), (&b"KERNEL"[..], &b"DIRECT"[..]));
    file.sync_all().unwrap();
    let bytes = live.vfs.read(ino, 0, 20_000).unwrap();
    assert_eq!((&bytes[100..106], &bytes[200..206], bytes.len()), (&b"KERNEL"[..], &b"DIRECT"[..], 10_000));
}

#[test]
fn both_sides_at_once_end_in_the_same_place() {
    let Some(live) = Live::new() else { return };
    let ino = live.make("shared", &[0; 64 << 10]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..200u64 {
                live.vfs.write(ME, ino, (round % 16) * 4096, &noise(round, 4096), false).unwrap();
                live.make(&format!("direct{round}"), b"d");
            }
        });
        scope.spawn(|| {
            let file = File::options().read(true).write(true).open(live.path("shared")).unwrap();
            for round in 0..200u64 {
                file.write_all_at(&noise(1000 + round, 4096), (32 << 10) + (round % 8) * 4096).unwrap();
                fs::write(live.path(&format!("kernel{round}")), b"k").unwrap();
            }
        });
    });
    live.vfs.pull(ino);
    assert!(fs::read(live.path("shared")).unwrap() == live.vfs.read(ino, 0, 1 << 20).unwrap());
    assert_eq!(fs::read_dir(&live.point).unwrap().count(), 401);
}

/// What the kernel holds of an open file, and has not written back, outlives changes of the file that bring no bytes.
#[test]
fn a_change_of_attributes_and_names_leaves_what_the_kernel_holds() {
    let Some(live) = Live::new() else { return };
    let ino = live.make("file", b"old");
    let mut file = File::options().append(true).open(live.path("file")).unwrap();
    let mut expected = b"old".to_vec();
    let changes: [(&str, &dyn Fn()); 6] = [
        ("setxattr", &|| live.vfs.setxattr(ME, ino, b"user.a", b"1", SetXattr::Any).unwrap()),
        ("removexattr", &|| live.vfs.removexattr(ME, ino, b"user.a").unwrap()),
        ("link", &|| live.vfs.link(ME, ino, ROOT, b"other").map(drop).unwrap()),
        ("unlink", &|| live.vfs.unlink(ME, ROOT, b"other").unwrap()),
        ("rename", &|| live.vfs.rename(ME, (ROOT, b"file"), (ROOT, b"moved"), RenameMode::Replace).unwrap()),
        ("chmod", &|| {
            let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
            live.vfs.setattr(ME, ino, &mode).map(drop).unwrap();
        }),
    ];
    for (what, change) in changes {
        file.write_all(what.as_bytes()).unwrap();
        expected.extend(what.as_bytes());
        change();
        let name = if live.path("moved").exists() { "moved" } else { "file" };
        let seen = fs::read(live.path(name)).unwrap();
        assert_eq!(String::from_utf8_lossy(&seen), String::from_utf8_lossy(&expected), "after {what}");
    }
}

/// The kernel lets nobody change the size of what runs.
#[test]
fn a_program_that_runs_has_its_new_size_when_it_has_ended() {
    let Some(live) = Live::new() else { return };
    let path = live.path("program");
    fs::copy("/bin/sleep", &path).unwrap();
    let old = fs::metadata(&path).unwrap().len();
    let mut program = Command::new(&path).arg("60").spawn().unwrap();
    let (ino, new) = (live.ino("program"), noise(1, old as usize + 100_000));
    live.vfs.write(ME, ino, 0, &new, false).unwrap();
    assert_eq!(live.vfs.attr_now(ino).unwrap().size, new.len() as u64);
    assert_eq!(fs::metadata(&path).unwrap().len(), old);
    let _ = program.kill();
    program.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::metadata(&path).unwrap().len() == old && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(fs::read(&path).unwrap() == new);
}

/// What lies over a file has its path, and may have its number too.
#[test]
fn a_file_that_is_mounted_over_is_not_mistaken_for_what_is_there() {
    if !is_root() {
        return;
    }
    let Some(live) = Live::new() else { return };
    fs::create_dir(live.path("dir")).unwrap();
    fs::write(live.path("dir/file"), b"below").unwrap();
    let ino = live.ino("dir/file");
    let mount = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).arg(live.path("dir")).status().unwrap();
        assert!(status.success(), "{program}");
    };
    mount("mount", &["-t", "tmpfs", "none"]);
    let same = (0..100).map(|number| live.path(&format!("dir/{number}"))).find(|path| {
        fs::write(path, b"precious").unwrap();
        fs::metadata(path).unwrap().ino() >= ino
    });
    fs::rename(same.unwrap(), live.path("dir/file")).unwrap();
    assert_eq!(fs::metadata(live.path("dir/file")).unwrap().ino(), ino);
    live.vfs.setattr(ME, ino, &SetAttr { size: Some(3), ..SetAttr::default() }).unwrap();
    let above = fs::read(live.path("dir/file")).unwrap();
    mount("umount", &[]);
    assert_eq!(String::from_utf8_lossy(&above), "precious");
    assert_eq!(live.vfs.read(ino, 0, 9).unwrap(), b"bel");
}

/// Another directory of the workspace is as well, though it is on the same device.
#[test]
fn a_file_that_another_directory_is_mounted_over_keeps_nobody_waiting() {
    if !is_root() {
        return;
    }
    let Some(live) = Live::new() else { return };
    fs::create_dir(live.path("dir")).unwrap();
    fs::create_dir(live.path("other")).unwrap();
    fs::write(live.path("dir/file"), b"below").unwrap();
    let ino = live.ino("dir/file");
    let over = live.path("dir");
    assert!(
        Command::new("mount").arg("--bind").arg(live.path("other")).arg(&over).status().unwrap().success()
    );
    let since = Instant::now();
    live.vfs.setattr(ME, ino, &SetAttr { size: Some(3), ..SetAttr::default() }).unwrap();
    let took = since.elapsed();
    assert!(Command::new("umount").arg(&over).status().unwrap().success());
    assert!(took < Duration::from_millis(200), "{took:?}");
}

/// A program appends while others write before that, set attributes, and give the file other names.
#[test]
fn what_a_program_appends_stays_whatever_changes_meanwhile() {
    let Some(live) = Live::new() else { return };
    let ino = live.make("log", &[0; 64 << 10]);
    let lines: Vec<u8> = (0..4000).flat_map(|number| format!("{number:099}\n").into_bytes()).collect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = File::options().append(true).open(live.path("log")).unwrap();
            for line in lines.chunks(100) {
                log.write_all(line).unwrap();
                std::thread::sleep(Duration::from_micros(50));
            }
            is_over.store(true, Ordering::Release);
        });
        for round in 0.. {
            live.vfs.write(ME, ino, (round % 16) * 4096, &noise(round, 4096), false).unwrap();
            live.vfs.setxattr(ME, ino, b"user.round", b"1", SetXattr::Any).unwrap();
            live.vfs.link(ME, ino, ROOT, b"other").unwrap();
            live.vfs.unlink(ME, ROOT, b"other").unwrap();
            if is_over.load(Ordering::Acquire) {
                break;
            }
        }
    });
    assert!(fs::read(live.path("log")).unwrap()[64 << 10..] == lines, "through the mount");
    live.vfs.pull(ino);
    assert!(live.vfs.read(ino, 64 << 10, 1 << 20).unwrap() == lines, "past it");
}

/// A program gives the file another name again and again, while others write to it.
#[test]
fn a_file_that_is_renamed_meanwhile_has_its_new_size_and_bytes() {
    let Some(live) = Live::new() else { return };
    let ino = live.make("one", b"");
    let open = File::open(live.path("one")).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                fs::rename(live.path("one"), live.path("two")).unwrap();
                fs::rename(live.path("two"), live.path("one")).unwrap();
            }
        });
        let wrong = (0..500u64).find(|round| {
            live.vfs.write(ME, ino, round * 100, &noise(*round, 100), false).unwrap();
            open.metadata().unwrap().len() != (round + 1) * 100
        });
        is_over.store(true, Ordering::Release);
        assert_eq!(wrong, None, "the size after this write");
    });
}

/// Several callers change one file at once.
#[test]
fn both_sides_end_with_the_same_times() {
    let Some(live) = Live::new() else { return };
    let ino = live.make("file", b"");
    for round in 0..200u32 {
        let seen = fs::metadata(live.path("file")).unwrap();
        assert_eq!(seen.mtime_nsec() as u32, live.vfs.getattr(ino).unwrap().mtime.nsec(), "{round}");
        std::thread::scope(|scope| {
            for side in 0..3u64 {
                let live = &live;
                scope.spawn(move || live.vfs.write(ME, ino, side, b"1", false).unwrap());
            }
        });
    }
}

/// A program is in a directory that others move.
#[test]
fn a_directory_that_is_in_use_leads_to_where_it_was_moved() {
    let Some(live) = Live::new() else { return };
    fs::create_dir_all(live.path("from/dir/below")).unwrap();
    fs::create_dir(live.path("to")).unwrap();
    let (dir, below) =
        (File::open(live.path("from/dir")).unwrap(), File::open(live.path("from/dir/below")).unwrap());
    let name = |file: &File| fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    let (from, to) = (live.ino("from"), live.ino("to"));
    live.vfs.rename(ME, (from, b"dir"), (to, b"moved"), RenameMode::Replace).unwrap();
    let above = rustix::fs::statat(&dir, "..", AtFlags::empty()).unwrap();
    assert_eq!(above.st_ino, to, "what is above it");
    assert_eq!((name(&dir), name(&below)), (live.path("to/moved"), live.path("to/moved/below")));
}

/// A graft may give a symlink another target, while a program reads it.
#[test]
fn the_new_target_of_a_symlink_is_seen() {
    let Some(live) = Live::new() else { return };
    let link = live.vfs.symlink(ME, ROOT, b"link", b"0").unwrap().ino;
    let target = || fs::read_link(live.path("link")).unwrap().into_os_string().into_string().unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                target();
            }
        });
        let wrong = (1..300).map(|round| round.to_string()).find(|expected| {
            let bytes = Bytes::These(expected.clone().into_bytes());
            let attr = live.vfs.getattr(link).unwrap();
            let grafted =
                live.vfs.graft(&[becomes(&attr, "link", bytes)], |_, _| Default::default()).unwrap();
            matches!(grafted, Grafted::Done(_)) && target() != *expected
        });
        is_over.store(true, Ordering::Release);
        assert_eq!(wrong, None);
    });
}

/// What is at this name in the root gets other bytes, and stays what it is otherwise.
fn becomes(attr: &Attr, name: &str, bytes: Bytes) -> Scion {
    let places = BTreeSet::from([(ROOT, name.as_bytes().into())]);
    let access = (attr.mode, attr.uid, attr.gid);
    let becomes = Becomes {
        kind: attr.kind,
        places: places.clone(),
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        xattrs: Arc::default(),
        atime: attr.atime,
        mtime: attr.mtime,
        btime: attr.btime,
        bytes,
    };
    let seen = Seen { revision: attr.revision, access, xattrs: Arc::default(), places };
    Scion { ino: attr.ino, seen: Some(seen), becomes: Some(becomes) }
}
