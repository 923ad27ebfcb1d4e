//! Directories that leave and come back while a pass is under way.

use crate::hostile::engine;
use crate::mem::Mem;
use crate::model::{Host, Shown, User, settle};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wsd_shim::shadow::Side;
use wsd_shim::{Options, Shim};

fn file(bytes: &[u8]) -> Shown {
    Shown::File(bytes.to_vec(), 0o644)
}

/// It was gone when the pass looked, so what was in it was removed from the host. It was back before it could be made anew,
/// the very directory that had been agreed on, and nobody looked into it.
#[test]
fn what_is_in_a_directory_that_comes_back_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (work, host) = (Mem::default(), Host(dir.path().to_path_buf()));
    let mut engine = engine(&work, dir.path());
    work.make(b"d", &Shown::Dir(0o755));
    work.make(b"d/kept", &file(b"kept"));
    work.make(b"d/sub", &Shown::Dir(0o755));
    work.make(b"d/sub/plain", &file(b"plain"));
    settle(&mut engine, 0);
    // Both have something at its new name, so the host's cannot be renamed, and it has a change that stays.
    work.rename(b"d", b"e");
    host.make(b"e", &file(b"in the way"));
    host.chmod(b"d/kept", 0o600);
    work.before("make_dir", |state| state.rename_over(b"e", b"d"));
    engine.look_at_all(Side::Host);
    settle(&mut engine, 0);
    assert_eq!(work.all(), host.all());
    assert_eq!(host.all().get(&b"d/sub/plain"[..]), Some(&file(b"plain")));
}

/// It was looked for once a second, and until then, or when the kernel told of something in between, what was removed elsewhere
/// was removed from the workspace too.
#[test]
fn what_is_removed_from_a_directory_that_was_moved_away_stays_in_the_workspace() {
    for waits in [Duration::ZERO, Duration::from_millis(1500)] {
        let dir = tempfile::tempdir().unwrap();
        let (root, away) = (dir.path().join("root"), dir.path().join("away"));
        fs::create_dir(&root).unwrap();
        let (work, host) = (Mem::default(), Host(root.clone()));
        (0..20).for_each(|number| work.make(format!("file {number}").as_bytes(), &file(b"bytes")));
        let options = Options {
            poll: Duration::from_millis(50),
            events: true,
            adopt: false,
            shadow: None,
            identity: Vec::new(),
            newest: u64::MAX,
        };
        let shim = Shim::start(Arc::new(work.clone()), &root, &options, |_| {}).unwrap();
        let before = work.all();
        assert_eq!(host.all(), before);
        fs::rename(&root, &away).unwrap();
        std::thread::sleep(waits);
        (0..10).for_each(|number| fs::remove_file(away.join(format!("file {number}"))).unwrap());
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!shim.is_alive());
        assert_eq!(work.all(), before, "after {waits:?}");
        // Where it is back, it is the directory that the workspace is in.
        fs::rename(&away, &root).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while work.all() != host.all() {
            assert!(Instant::now() < until, "it is in step again");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(work.all().len(), 10);
        shim.stop();
    }
}
