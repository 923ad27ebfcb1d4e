//! The power is lost: what is there afterwards is what the disk had, not what the kernel had.
//!
//! The disk is a file behind a loop device. All that the filesystem on it has sent to the disk is in that file, and what it
//! has not sent is not.

use crate::support::{Place, has, has_fuse, is_root, sh};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Filesystems on images, unmounted at the end.
struct Disks {
    place: Place,
    mounted: Vec<PathBuf>,
}

impl Disks {
    /// `None`, after saying so: there are none here.
    fn new() -> Option<Self> {
        if !has_fuse() || !is_root() {
            return None;
        }
        let disks = Self { place: Place::new(), mounted: Vec::new() };
        if !has("mkfs.ext4") {
            return None;
        }
        let device = Command::new("losetup").arg("-f").stderr(Stdio::null()).stdout(Stdio::null()).status();
        if !device.is_ok_and(|status| status.success()) {
            // A container has none as a rule, and cannot be given one by installing something.
            println!("SKIPPED power: there are no loop devices");
            return None;
        }
        Some(disks)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.dir.path().join(name)
    }

    /// Mounts `what` at a new directory.
    fn mount(&mut self, options: &[&str], what: &Path, name: &str) -> PathBuf {
        let point = self.path(name);
        fs::create_dir(&point).unwrap();
        let mounted = Command::new("mount").args(options).arg(what).arg(&point).status().unwrap();
        assert!(mounted.success(), "{options:?} {what:?}");
        self.mounted.push(point.clone());
        point
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for point in [&self.place.point].into_iter().chain(self.mounted.iter().rev()) {
            let _ = Command::new("umount").arg("-l").arg(point).stderr(Stdio::null()).status();
        }
    }
}

fn make_image(path: &Path, megabytes: u64, more: &[&str]) {
    File::create(path).unwrap().set_len(megabytes << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).args(more).arg(path).status().unwrap();
    assert!(made.success());
}

/// It was not: SQLite waits for nothing in a transaction that changes nothing.
#[test]
fn fsync_of_what_has_been_committed_already_waits_for_the_disk() {
    let Some(mut disks) = Disks::new() else { return };
    let (image, copy) = (disks.path("image"), disks.path("copy"));
    make_image(&image, 64, &[]);
    let disk = disks.mount(&["-o", "loop"], &image, "disk");
    let store = disk.join("store.db");
    let daemon = disks.place.serve_with(&[("WSD_DB", store.to_str().unwrap())]);
    sh(&daemon.path(""), "echo first > first; sync first");
    sh(&disk, "sync -f .");
    sh(&daemon.path(""), "mkdir dir; echo important > dir/file; mv first dir/renamed");
    // So the committer has been there.
    std::thread::sleep(Duration::from_millis(400));
    for path in ["dir/file", "dir"] {
        File::open(daemon.path(path)).unwrap().sync_all().unwrap();
    }
    sh(disks.place.dir.path(), "cp --sparse=always image copy");
    daemon.stop();
    let disk = disks.mount(&["-o", "loop"], &copy, "later");
    let store = disk.join("store.db");
    let daemon = disks.place.serve_with(&[("WSD_DB", store.to_str().unwrap())]);
    assert_eq!(sh(&daemon.path(""), "cat dir/file dir/renamed; ls"), "important\nfirst\ndir\n");
    daemon.stop();
}

/// The kernel tells of what could not be written once. What was synced after the disk was well again lay behind a hole.
#[test]
fn fsync_after_the_disk_has_failed_means_what_it_says() {
    let Some(mut disks) = Disks::new() else { return };
    let thin = disks.mount(&["-t", "tmpfs", "-o", "size=100m"], Path::new("none"), "thin");
    let image = thin.join("image");
    make_image(&image, 400, &["-E", "nodiscard,lazy_itable_init=0", "-O", "^has_journal"]);
    let disk = disks.mount(&["-o", "loop,errors=continue"], &image, "disk");
    let store = disk.join("store.db");
    let daemon = disks.place.serve_with(&[("WSD_DB", store.to_str().unwrap())]);
    sh(&daemon.path(""), "echo before > before; sync before");
    sh(&disk, "sync -f .");
    // The disk says that it has room, and has not.
    let _ = Command::new("sh").arg("-c").arg("head -c 1G /dev/zero > filler").current_dir(&thin).output();
    sh(&daemon.path(""), "head -c 2M /dev/urandom > one; sleep 0.5; sync -f . || true");
    let _ = Command::new("sync").arg("-f").arg(&disk).output();
    let one = File::options().read(true).write(true).open(daemon.path("one")).unwrap();
    let failed =
        (0..3u8).filter(|round| one.write_all_at(&[*round], 0).and_then(|()| one.sync_all()).is_err());
    assert!(failed.count() > 0, "the disk was to fail");
    fs::remove_file(thin.join("filler")).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    for name in ["two", "three"] {
        let file =
            File::create(daemon.path(name)).unwrap_or_else(|error| panic!("{error}\n{}", disks.place.log()));
        let synced = file.write_all_at(b"synced after it", 0).and_then(|()| file.sync_all());
        synced.unwrap_or_else(|error| panic!("{error}\n{}", disks.place.log()));
    }
    daemon.kill();
    sh(disks.place.dir.path(), "umount -l mnt; umount disk");
    let disk = disks.mount(&["-o", "loop"], &image, "later");
    let store = disk.join("store.db");
    let daemon = disks.place.serve_with(&[("WSD_DB", store.to_str().unwrap())]);
    assert_eq!(
        sh(&daemon.path(""), "cat two three; stat -c %s one"),
        "synced after itsynced after it2097152\n"
    );
    daemon.stop();
    let checked = Command::new(crate::support::WSD).args(["check", "--db"]).arg(&store).output().unwrap();
    assert!(checked.status.success(), "{}", crate::support::text(&checked.stdout));
}
