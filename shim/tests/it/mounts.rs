//! Other filesystems that are mounted in the directory, as containers have volumes there: they count their nodes for themselves.

use crate::hostile::engine;
use crate::mem::Mem;
use crate::model::{Host, Shown, User, settle};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use wsd_shim::shadow::Side;
use wsd_shim::{Options, Shim};

/// What is mounted, until it is dropped.
struct Volume(PathBuf);

impl Volume {
    /// A new tmpfs. `None`: this process may not mount.
    fn mount(at: &Path) -> Option<Self> {
        Self::mounted(&["-t", "tmpfs", "none"], at)
    }

    /// What is at another place, at this one too.
    fn bind(from: &Path, at: &Path) -> Option<Self> {
        Self::mounted(&["--bind", from.to_str().unwrap()], at)
    }

    fn mounted(what: &[&str], at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(what).arg(at).output().ok()?;
        mounted.status.success().then(|| Self(at.to_path_buf()))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Two files of one number and with the same bytes were taken for one with two names: an edit of one reached the other.
#[test]
fn files_of_two_volumes_are_two_files() {
    let dir = tempfile::tempdir().unwrap();
    let (work, host) = (Mem::default(), Host(dir.path().to_path_buf()));
    let volumes = ["one", "other"].map(|name| Volume::mount(&dir.path().join(name)));
    if volumes.iter().any(Option::is_none) {
        return;
    }
    let paths: [&[u8]; 2] = [b"one/file", b"other/file"];
    paths.iter().for_each(|path| host.make(path, &Shown::File(b"same".to_vec(), 0o644)));
    let number = |name: &str| dir.path().join(name).join("file").metadata().unwrap().ino();
    assert_eq!(number("one"), number("other"), "a new tmpfs counts from the start");
    let mut engine = engine(&work, dir.path());
    settle(&mut engine, 0);
    let node = |path: &[u8]| work.state().names[path];
    assert_ne!(node(paths[0]), node(paths[1]));
    host.rewrite(paths[0], b"edited");
    engine.look_at_all(Side::Host);
    settle(&mut engine, 0);
    work.rewrite(paths[1], b"changed");
    settle(&mut engine, 0);
    assert_eq!(work.all(), host.all());
    assert_eq!(work.all()[paths[0]], Shown::File(b"edited".to_vec(), 0o644));
    assert_eq!(host.all()[paths[1]], Shown::File(b"changed".to_vec(), 0o644));
}

/// It was tried for ever.
#[test]
fn a_second_name_on_another_volume_is_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let (work, host) = (Mem::default(), Host(dir.path().to_path_buf()));
    let Some(_volume) = Volume::mount(&dir.path().join("volume")) else { return };
    let mut engine = engine(&work, dir.path());
    work.make(b"file", &Shown::File(b"bytes".to_vec(), 0o644));
    settle(&mut engine, 0);
    work.link(b"file", b"volume/name");
    for _ in 0..20 {
        engine.pass(wsd_shim::Haste::Now);
    }
    assert_eq!(engine.stats().failing_list, []);
    assert_eq!(host.all().get(&b"volume/name"[..]), Some(&Shown::File(b"bytes".to_vec(), 0o644)));
    work.rename(b"file", b"volume/moved");
    settle(&mut engine, 0);
    assert_eq!(work.all(), host.all());
    work.rewrite(b"volume/name", b"again");
    settle(&mut engine, 0);
    assert_eq!(work.all(), host.all());
}

fn file(bytes: &[u8]) -> Shown {
    Shown::File(bytes.to_vec(), 0o644)
}

/// A directory that has something of another filesystem in it, in step with a workspace.
struct Scene {
    volume: Option<Volume>,
    /// Where the filesystem is besides.
    disk: Volume,
    dir: TempDir,
    kept: TempDir,
    work: Mem,
    host: Host,
}

impl Scene {
    /// `None`: this process may not mount.
    fn new() -> Option<Self> {
        let [dir, kept] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let disk = Volume::mount(&kept.path().join("disk"))?;
        let host = Host(dir.path().to_path_buf());
        let mut scene = Self { volume: None, disk, dir, kept, work: Mem::default(), host };
        scene.mount();
        let make = |path: &[u8], bytes: &[u8]| scene.host.make(path, &file(bytes));
        make(b"top/data/kept", b"kept");
        scene.host.make(b"top/data/sub", &Shown::Dir(0o755));
        make(b"top/data/sub/too", b"too");
        make(b"top/plain", b"plain");
        Some(scene)
    }

    fn mount(&mut self) {
        self.volume = Volume::bind(&self.disk.0, &self.dir.path().join("top/data"));
        assert!(self.volume.is_some());
    }

    fn unmount(&mut self) {
        self.volume = None;
    }

    fn start(&self) -> Shim {
        let options = Options {
            poll: Duration::from_millis(50),
            events: true,
            adopt: true,
            shadow: Some(self.kept.path().join("shadow")),
            identity: Vec::new(),
            newest: u64::MAX,
        };
        let shim = Shim::start(Arc::new(self.work.clone()), self.dir.path(), &options, |_| {}).unwrap();
        assert_eq!(shim.stats().failing > 0, self.volume.is_none());
        shim
    }

    fn becomes_equal(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.work.all() != self.host.all() {
            assert!(Instant::now() < until, "it is in step: {:?}, {:?}", self.work.all(), self.host.all());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn a_while() {
    std::thread::sleep(Duration::from_millis(1500));
}

/// It looked like a directory that somebody had emptied, so everything was removed from the workspace.
#[test]
fn what_is_on_a_volume_that_is_not_mounted_at_a_start_stays_in_the_workspace() {
    let Some(mut scene) = Scene::new() else { return };
    let shim = scene.start();
    let before = scene.work.all();
    assert_eq!(before, scene.host.all());
    shim.stop();
    scene.unmount();
    let shim = scene.start();
    a_while();
    assert_eq!(scene.work.all(), before);
    shim.stop();
    scene.mount();
    let shim = scene.start();
    assert_eq!((scene.work.all(), scene.host.all()), (before.clone(), before));
    shim.stop();
}

/// The same while the directory is watched. What happens to both meanwhile comes in step when the volume is back.
#[test]
fn a_volume_may_be_away_for_a_while() {
    let Some(mut scene) = Scene::new() else { return };
    let shim = scene.start();
    let mut before = scene.work.all();
    scene.unmount();
    // It goes on without its volume, and does not know.
    scene.host.make(b"top/data/log", &file(b"log"));
    a_while();
    assert_eq!(scene.work.all(), before);
    assert_eq!(shim.stats().failing_list.len(), 1);
    scene.work.rewrite(b"top/data/sub/too", b"changed");
    scene.work.remove_all(b"top/data/kept");
    scene.work.make(b"top/data/made", &file(b"made"));
    scene.work.rewrite(b"top/plain", b"as ever");
    fs::write(scene.disk.0.join("sub/new"), b"new").unwrap();
    a_while();
    assert_eq!(fs::read_dir(scene.dir.path().join("top/data")).unwrap().count(), 1, "the log alone");
    assert_eq!(fs::read(scene.dir.path().join("top/plain")).unwrap(), b"as ever");
    scene.mount();
    scene.becomes_equal();
    before.remove(&b"top/data/kept"[..]);
    before.insert(b"top/data/sub/too".to_vec(), file(b"changed"));
    before.insert(b"top/data/made".to_vec(), file(b"made"));
    before.insert(b"top/plain".to_vec(), file(b"as ever"));
    before.insert(b"top/data/sub/new".to_vec(), file(b"new"));
    assert_eq!(scene.work.all(), before);
    assert_eq!(shim.stats().failing_list, []);
    shim.stop();
}

/// It is not mounted again: whoever removes the directory that it was in means it.
#[test]
fn what_was_on_a_volume_goes_with_the_directory() {
    let Some(mut scene) = Scene::new() else { return };
    let shim = scene.start();
    scene.unmount();
    a_while();
    fs::remove_dir(scene.dir.path().join("top/data")).unwrap();
    scene.becomes_equal();
    assert_eq!(scene.work.all().keys().collect::<Vec<_>>(), [&b"top"[..], b"top/plain"]);
    shim.stop();
}

/// A volume in a volume: both are on another filesystem than the directory that is kept in step.
#[test]
fn a_volume_in_a_volume_may_be_away_too() {
    let Some(mut scene) = Scene::new() else { return };
    let inner = Volume::mount(&scene.dir.path().join("top/data/inner")).unwrap();
    scene.host.make(b"top/data/inner/file", &file(b"bytes"));
    let shim = scene.start();
    let before = scene.work.all();
    drop(inner);
    a_while();
    assert_eq!(scene.work.all(), before);
    // What is removed from the volume that is there is removed.
    scene.host.remove_all(b"top/data/kept");
    let until = Instant::now() + Duration::from_secs(20);
    while scene.work.all().contains_key(&b"top/data/kept"[..]) {
        assert!(Instant::now() < until);
    }
    assert_eq!(scene.work.all().len(), before.len() - 1);
    shim.stop();
    scene.unmount();
}
