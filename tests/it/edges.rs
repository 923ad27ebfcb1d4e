//! Where the mount differed from ext4 in what few programs see.

use crate::support::{Daemon, Place, has, has_fuse, is_root, sh};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

fn mounted(programs: &[&str], test: impl FnOnce(&Daemon)) {
    if !(has_fuse() && is_root() && programs.iter().all(|program| has(program))) {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    test(&daemon);
    daemon.stop();
    place.check();
}

#[test]
fn a_truncation_to_the_present_size_shows_the_same_times_after_a_restart() {
    if !(has_fuse() && has("python3")) {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    let times = |daemon: &Daemon| {
        let file = fs::metadata(daemon.path("file")).unwrap();
        (file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec())
    };
    sh(
        &daemon.path(""),
        "echo hello > file; touch -d 2001-01-01 file; sync file
         python3 -c 'import os; os.truncate(\"file\", 6)'",
    );
    let before = times(&daemon);
    daemon.stop();
    let daemon = place.serve();
    assert_eq!(times(&daemon), before);
    File::options().write(true).open(daemon.path("file")).unwrap().set_len(6).unwrap();
    let moved = times(&daemon);
    assert!(moved > before, "ftruncate moves them");
    daemon.stop();
    let daemon = place.serve();
    assert_eq!(times(&daemon), moved);
    daemon.stop();
    place.check();
}
