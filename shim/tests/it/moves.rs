//! Directories that leave and come back while a pass is under way.

use crate::hostile::engine;
use crate::mem::Mem;
use crate::model::{Host, Shown, User, settle};
use wsd_shim::shadow::Side;

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
