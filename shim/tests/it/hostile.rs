//! Whoever writes in the directory may want the shim to write where they cannot.

use crate::mem::Mem;
use crate::model::{Host, Shown, User, settle};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use wsd_shim::shadow::{Shadow, Side};
use wsd_shim::{Attributes, Disk, Engine, Facts, Fault, Haste, Kind, Tree};

const ATTRIBUTES: Attributes = Attributes { mode: 0o644, uid: 0, gid: 0, mtime: 1_000_000_000 };

/// With the owner that this process's files have.
fn attributes() -> Attributes {
    use std::os::unix::fs::MetadataExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    let metadata = file.as_file().metadata().unwrap();
    Attributes { uid: metadata.uid(), gid: metadata.gid(), ..ATTRIBUTES }
}

fn write(disk: &Disk, path: &[u8], bytes: &[u8], replaces: Option<&Facts>) -> Result<Facts, Fault> {
    let mut stage = disk.stage(path)?;
    stage.write(bytes)?;
    stage.place(&attributes(), replaces, true)
}

fn names(dir: &Path) -> Vec<String> {
    let names =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn no_path_leads_out() {
    let dir = tempfile::tempdir().unwrap();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    fs::create_dir(&root).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), b"secret").unwrap();
    symlink(&outside, root.join("link")).unwrap();
    symlink("../outside", root.join("relative")).unwrap();
    symlink(outside.join("secret"), root.join("file")).unwrap();
    let disk = Disk::open(&root, false).unwrap();
    let wide = outside.as_os_str().as_bytes().to_vec();
    let paths = ["../outside/new", "link/new", "relative/new", "a/../../outside/new", "./x", "a//b", "", "."];
    for path in paths.iter().map(|path| path.as_bytes().to_vec()).chain([wide]) {
        assert!(write(&disk, &path, b"x", None).is_err(), "{}", String::from_utf8_lossy(&path));
        assert!(disk.make_dir(&path, &attributes()).is_err());
        assert!(disk.make_symlink(&path, b"t", &attributes(), None).is_err());
        assert!(disk.link(b"file", &path, None).is_err());
    }
    assert_eq!(disk.look(b"link/secret"), Ok(None));
    assert!(disk.list(b"link").is_err() && disk.list(b"..").is_err());
    let secret = disk.look(b"file").unwrap().unwrap();
    assert_eq!(secret.kind, Kind::Symlink);
    assert!(disk.read(b"file", &secret, &mut |_| Ok(())).is_err());
    // Attributes are those of the link, or of nothing.
    let _ = disk.set(b"file", &Attributes { mode: 0o777, ..attributes() }, &secret);
    disk.remove(b"file", &disk.look(b"file").unwrap().unwrap()).unwrap();
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
    assert_eq!(names(&outside), ["secret"]);
    use std::os::unix::fs::PermissionsExt;
    assert_ne!(fs::metadata(outside.join("secret")).unwrap().permissions().mode() & 0o777, 0o777);
}

/// While the shim writes into a directory, somebody puts a symlink in its place, again and again.
#[test]
fn a_symlink_that_is_planted_meanwhile_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    fs::create_dir_all(root.join("d")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), b"untouched").unwrap();
    let stop = AtomicBool::new(false);
    let disk = Disk::open(&root, false).unwrap();
    let mut written = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = fs::rename(root.join("d"), root.join("real"));
                let _ = symlink(&outside, root.join("d"));
                let _ = fs::remove_file(root.join("d"));
                let _ = fs::rename(root.join("real"), root.join("d"));
            }
        });
        for round in 0..20_000u32 {
            written += u32::from(write(&disk, b"d/new", b"x", None).is_ok());
            if let Ok(Some(facts)) = disk.look(b"d/new") {
                let _ = disk.set(b"d/new", &Attributes { mode: 0o600 + round % 8, ..attributes() }, &facts);
                let _ = disk.remove(b"d/new", &facts);
            }
            if let Ok(Some(facts)) = disk.look(b"d/victim") {
                assert_ne!(facts.kind, Kind::File, "it looked outside");
            }
            let _ = disk.make_dir(b"d/dir", &attributes());
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(written > 0, "nothing was ever written");
    assert_eq!(names(&outside), ["victim"]);
    assert_eq!(fs::read(outside.join("victim")).unwrap(), b"untouched");
}

/// A directory that is moved out of the tree while a file in it is being written.
#[test]
fn a_directory_that_leaves_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("d")).unwrap();
    let disk = Disk::open(&root, false).unwrap();
    let mut stage = disk.stage(b"d/file").unwrap();
    stage.write(b"x").unwrap();
    fs::rename(root.join("d"), dir.path().join("away")).unwrap();
    fs::create_dir(root.join("d")).unwrap();
    assert_eq!(stage.place(&attributes(), None, true), Err(Fault::Changed));
    assert!(!dir.path().join("away/file").exists() && !root.join("d/file").exists());
    assert_eq!(names(&dir.path().join("away")), Vec::<String>::new());
}

#[test]
fn what_was_edited_at_the_last_moment_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path(), false).unwrap();
    let facts = write(&disk, b"file", b"agreed", None).unwrap();
    fs::write(dir.path().join("file"), b"edited by somebody").unwrap();
    assert_eq!(write(&disk, b"file", b"newer", Some(&facts)), Err(Fault::Changed));
    assert_eq!(disk.remove(b"file", &facts), Err(Fault::Changed));
    assert_eq!(write(&disk, b"file", b"other", None), Err(Fault::Exists));
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"edited by somebody");
    assert_eq!(names(dir.path()), ["file"], "something of the shim's own is left");
}

#[test]
fn a_fifo_in_the_place_of_a_file_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path(), false).unwrap();
    let facts = write(&disk, b"file", b"x", None).unwrap();
    fs::remove_file(dir.path().join("file")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(dir.path().join("file")).status().unwrap();
    assert!(made.success());
    assert_eq!(disk.read(b"file", &facts, &mut |_| Ok(())), Err(Fault::Changed));
}

pub(crate) fn engine(work: &Mem, root: &Path) -> Engine {
    let disk = Arc::new(Disk::open(root, false).unwrap());
    Engine::new(Arc::new(work.clone()), disk, Shadow::default(), Box::new(|_| Ok(())))
}

#[test]
fn names_of_all_kinds_go_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let (work, host) = (Mem::default(), Host(dir.path().to_path_buf()));
    let mut engine = engine(&work, dir.path());
    let long = vec![b'l'; 255];
    let odd: [&[u8]; 9] = [
        b"caf\xe9",
        b"\xff\xfe",
        b" ",
        b"-rf",
        b"new\nline",
        b"...",
        b"a\\b",
        b"*?[",
        "\u{1f980}".as_bytes(),
    ];
    for (number, name) in odd.into_iter().chain([&long[..]]).enumerate() {
        let (there, here) = ([name, b"1"].concat(), [name, b"2"].concat());
        let bytes = format!("{number}").into_bytes();
        if name.len() < 255 {
            host.make(&there, &Shown::File(bytes.clone(), 0o644));
            work.make(&here, &Shown::File(bytes, 0o644));
        } else {
            host.make(name, &Shown::File(bytes.clone(), 0o644));
            work.make(b"deep", &Shown::Dir(0o755));
            work.make(&[b"deep/", name].concat(), &Shown::File(bytes, 0o644));
        }
    }
    // Longer than the kernel takes in one piece.
    let mut deep = b"deep".to_vec();
    for _ in 0..18 {
        deep = [&deep[..], b"/", &[b'd'; 255][..]].concat();
        work.make(&deep, &Shown::Dir(0o755));
    }
    engine.look_at_all(Side::Host);
    settle(&mut engine, 0);
    let all = work.all();
    assert!(all.len() > 30);
    for (path, shown) in &all {
        if path.len() < 4000 {
            let facts = Disk::open(dir.path(), false).unwrap().look(path).unwrap();
            assert!(facts.is_some(), "{:?} {shown:?}", String::from_utf8_lossy(path));
        }
    }
    assert_eq!(Disk::open(dir.path(), false).unwrap().look(&deep).unwrap().unwrap().kind, Kind::Dir);
    assert_eq!(engine.stats().failing, 0, "{:?}", engine.stats());
}

#[test]
fn what_a_crash_left_is_cleared_away_and_an_edit_in_it_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (work, host) = (Mem::default(), Host(dir.path().to_path_buf()));
    let mut engine = engine(&work, dir.path());
    for name in [b"same", b"edit"] {
        host.make(name, &Shown::File(name.to_vec(), 0o644));
    }
    settle(&mut engine, 0);
    fs::rename(dir.path().join("same"), dir.path().join(".wsd-shim.1-1")).unwrap();
    fs::rename(dir.path().join("edit"), dir.path().join(".wsd-shim.1-2")).unwrap();
    fs::write(dir.path().join(".wsd-shim.1-2"), b"edited at the last moment").unwrap();
    fs::write(dir.path().join(".wsd-shim.1-3"), b"half of a fi").unwrap();
    let disk = Disk::open(dir.path(), false).unwrap();
    disk.clear_leftovers(engine.shadow()).unwrap();
    let left = names(dir.path());
    assert!(left.len() == 1 && left[0].starts_with("edit.conflict-host-"), "{left:?}");
    assert_eq!(fs::read(dir.path().join(&left[0])).unwrap(), b"edited at the last moment");
}

#[test]
fn hard_links_stay_links() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let (work, host) = (Mem::default(), Host(dir.path().to_path_buf()));
    let mut engine = engine(&work, dir.path());
    work.make(b"a", &Shown::File(b"one".to_vec(), 0o644));
    User::link(&work, b"a", b"b");
    settle(&mut engine, 0);
    let number = |name: &str| fs::metadata(dir.path().join(name)).unwrap().ino();
    assert_eq!(number("a"), number("b"));
    host.link(b"a", b"c");
    engine.look_at_all(Side::Host);
    settle(&mut engine, 0);
    let nodes = |work: &Mem| {
        let state = work.state();
        state.names.values().copied().collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(nodes(&work), 1);
    // Written to by one name, seen by all.
    User::rewrite(&work, b"c", b"three");
    settle(&mut engine, 0);
    assert!(number("a") == number("b") && number("b") == number("c"));
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"three");
    // Replaced by one name: the others keep what they had.
    fs::write(dir.path().join("tmp"), b"alone").unwrap();
    fs::rename(dir.path().join("tmp"), dir.path().join("a")).unwrap();
    engine.look_at_all(Side::Host);
    settle(&mut engine, 0);
    assert_eq!(work.all()[&b"b"[..]], Shown::File(b"three".to_vec(), 0o644));
    assert_eq!(work.all()[&b"a"[..]], Shown::File(b"alone".to_vec(), 0o644));
    assert_eq!(nodes(&work), 2);
}

#[test]
fn a_file_that_is_being_written_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (work, host) = (Mem::default(), Host(dir.path().to_path_buf()));
    let mut engine = engine(&work, dir.path());
    engine.pass(Haste::Patient);
    host.make(b"file", &Shown::File(b"half".to_vec(), 0o644));
    engine.look_at_all(Side::Host);
    let progress = engine.pass(Haste::Patient);
    assert!(progress.due.is_some() && work.all().is_empty(), "{progress:?}");
    host.rewrite(b"file", b"whole");
    std::thread::sleep(std::time::Duration::from_millis(60));
    engine.pass(Haste::Patient);
    assert_eq!(work.all()[&b"file"[..]], Shown::File(b"whole".to_vec(), 0o644));
    assert_eq!(engine.stats().conflicts, 0);
}

/// Bytes of the same number, written while attributes are set: they would have the time that is set with them.
#[test]
fn what_is_written_while_a_time_is_set_is_not_taken_for_known() {
    const ROUNDS: u64 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, 0u64.to_le_bytes()).unwrap();
    let disk = Disk::open(dir.path(), false).unwrap();
    let (begun, written) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut missed = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = fs::File::options().write(true).open(&path).unwrap();
            for round in 1..=ROUNDS {
                while begun.load(Ordering::Acquire) < round {
                    std::hint::spin_loop();
                }
                (0..round % 97 * 4).for_each(|_| std::hint::spin_loop());
                file.write_at(&round.to_le_bytes(), 0).unwrap();
                written.store(round, Ordering::Release);
            }
        });
        for round in 1..=ROUNDS {
            let expected = disk.look(b"file").unwrap().unwrap();
            begun.store(round, Ordering::Release);
            let set =
                disk.set(b"file", &Attributes { mtime: round.cast_signed(), ..attributes() }, &expected);
            while written.load(Ordering::Acquire) < round {
                std::thread::yield_now();
            }
            let now = disk.look(b"file").unwrap().unwrap();
            // As it says that nothing happened since, nobody would look at the bytes that have just been written.
            missed += u64::from(set.is_ok_and(|after| now.still(&after)));
        }
    });
    assert_eq!(missed, 0);
}
