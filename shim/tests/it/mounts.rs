//! Other filesystems that are mounted in the directory, as containers have volumes there: they count their nodes for themselves.

use crate::hostile::engine;
use crate::mem::Mem;
use crate::model::{Host, Shown, User, settle};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use wsd_shim::shadow::Side;

struct Volume(PathBuf);

impl Volume {
    /// `None`: this process may not mount.
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(at).output().ok()?;
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
