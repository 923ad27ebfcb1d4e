//! What newer kernels ask of a FUSE server: files without a name, and the time of birth.

use crate::support::{Daemon, eventually, has_linux, mounted, noise, remounted, sh};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};

const TMPFILE: &str = "O_TMPFILE in FUSE";

#[test]
fn a_file_without_a_name_is_a_file_and_may_get_a_name() {
    if !has_linux(6, 1, TMPFILE) {
        return;
    }
    let text = noise(1, 300_000);
    let after = |daemon: &Daemon| {
        assert_eq!(fs::read(daemon.path("named")).unwrap(), noise(1, 300_000));
        assert_eq!(fs::metadata(daemon.path("named")).unwrap().nlink(), 1);
        assert_eq!(fs::read_dir(daemon.path("")).unwrap().count(), 1);
    };
    let before = |daemon: &Daemon| {
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        let open = |flags| rustix::fs::open(daemon.path(""), OFlags::TMPFILE | OFlags::RDWR | flags, mode);
        let name = |file: &File, name: &str| {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            rustix::fs::linkat(CWD, path, CWD, daemon.path(name), AtFlags::SYMLINK_FOLLOW)
        };
        let file = File::from(open(OFlags::empty()).unwrap());
        file.write_all_at(&text, 0).unwrap();
        file.sync_all().unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.nlink(), metadata.len(), metadata.mode() & 0o777), (0, 300_000, 0o640));
        assert_eq!(fs::read_dir(daemon.path("")).unwrap().count(), 0, "nobody sees it");
        name(&file, "named").unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 1);
        assert_eq!(fs::metadata(daemon.path("named")).unwrap().ino(), metadata.ino());
        let never = File::from(open(OFlags::EXCL).unwrap());
        never.write_all_at(&text, 0).unwrap();
        assert_eq!(name(&never, "never"), Err(Errno::NOENT), "O_EXCL: it never gets one");
        let nobodys = File::from(open(OFlags::empty()).unwrap());
        nobodys.write_all_at(&noise(2, 1 << 20), 0).unwrap();
        nobodys.sync_all().unwrap();
    };
    remounted(before, after);
}

#[test]
fn files_without_a_name_leave_nothing_behind() {
    if !has_linux(6, 1, TMPFILE) {
        return;
    }
    mounted(|daemon| {
        for _ in 0..100 {
            let open = rustix::fs::open(daemon.path(""), OFlags::TMPFILE | OFlags::WRONLY, Mode::RUSR);
            File::from(open.unwrap()).write_all(b"some bytes").unwrap();
        }
        eventually("only the root is left", || daemon.stat("/store/inodes") == 1);
    });
}

#[test]
fn the_time_of_birth_stays() {
    if !has_linux(6, 6, "time of birth in FUSE") {
        return;
    }
    let birth = |daemon: &Daemon| fs::metadata(daemon.path("file")).unwrap().created().unwrap();
    let first = std::cell::Cell::new(None);
    remounted(
        |daemon| {
            let begin = std::time::SystemTime::now();
            fs::write(daemon.path("file"), b"x").unwrap();
            let born = birth(daemon);
            let slack = std::time::Duration::from_millis(20);
            assert!(born + slack >= begin && born <= std::time::SystemTime::now(), "{begin:?} {born:?}");
            sh(
                &daemon.path(""),
                "touch -d 1969-06-01 file; chmod 600 file; echo more >> file; mv file other; mv other file",
            );
            assert_eq!(birth(daemon), born);
            first.set(Some(born));
        },
        |daemon| assert_eq!(Some(birth(daemon)), first.get()),
    );
}
