//! The power is lost: what is there afterwards is what the disk had, not what the kernel had.
//!
//! The disk is a file behind a loop device. All that the filesystem on it has sent to the disk is in that file, and what it
//! has not sent is not.

use crate::support::{Daemon, Place, eventually, has, has_fuse, is_root, noise, sh};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What the log says where the kernel has lost what the disk had not taken.
const LOST: &str = "stop wsd and start it again";

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

/// A disk that says that it has room, and has not.
struct Thin {
    disks: Disks,
    dir: PathBuf,
    image: PathBuf,
    disk: PathBuf,
    /// How often the daemon began again.
    round: u8,
}

impl Thin {
    fn new() -> Option<Self> {
        let mut disks = Disks::new()?;
        let dir = disks.mount(&["-t", "tmpfs", "-o", "size=100m"], Path::new("none"), "thin");
        let image = dir.join("image");
        make_image(&image, 400, &["-E", "nodiscard,lazy_itable_init=0", "-O", "^has_journal"]);
        let disk = disks.mount(&["-o", "loop,errors=continue"], &image, "disk");
        Some(Self { disks, dir, image, disk, round: 0 })
    }

    fn serve(&self) -> Daemon {
        self.disks.place.serve_with(&[("WSD_DB", self.disk.join("store.db").to_str().unwrap())])
    }

    /// One that fails now, and has a file.
    fn failing() -> Option<(Self, Daemon)> {
        let thin = Self::new()?;
        let daemon = thin.serve();
        sh(&daemon.path(""), "echo before > before; sync before");
        sh(&thin.disk, "sync -f .");
        thin.fail();
        Some((thin, daemon))
    }

    fn fail(&self) {
        let _ =
            Command::new("sh").arg("-c").arg("head -c 1G /dev/zero > filler").current_dir(&self.dir).output();
    }

    fn is_well_again(&self) {
        fs::remove_file(self.dir.join("filler")).unwrap();
    }

    /// What is written to the disk from now on is all that is there of it.
    fn forget(&self, file: &str) {
        let file = File::open(self.disk.join(file)).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }

    /// Ends the daemon, and begins again with what the disk has.
    fn begin_again(&mut self, daemon: Daemon) -> Daemon {
        daemon.kill();
        sh(self.disks.place.dir.path(), &format!("umount -l mnt; umount {}", self.disk.display()));
        self.round += 1;
        self.disk = self.disks.mount(&["-o", "loop"], &self.image, &format!("later{}", self.round));
        self.serve()
    }

    /// Ends the daemon; the store is sound.
    fn end(&self, daemon: Daemon) {
        daemon.stop();
        let store = self.disk.join("store.db");
        let checked = Command::new(crate::support::WSD).args(["check", "--db"]).arg(&store).output().unwrap();
        assert!(checked.status.success(), "{}\n{}", self.log(), crate::support::text(&checked.stdout));
    }

    fn log(&self) -> String {
        self.disks.place.log()
    }
}

fn write_and_sync(path: &Path) -> std::io::Result<()> {
    let file = File::create(path)?;
    file.write_all_at(b"synced after it", 0)?;
    file.sync_all()
}

/// The kernel tells of what could not be written once. What was synced after the disk was well again lay behind a hole. If the
/// kernel has needed the memory meanwhile, nothing may be said to be synced.
#[test]
fn fsync_after_the_disk_has_failed_means_what_it_says() {
    let Some((mut thin, daemon)) = Thin::failing() else { return };
    sh(&daemon.path(""), "head -c 2M /dev/urandom > one; sleep 0.5; sync -f . || true");
    let _ = Command::new("sync").arg("-f").arg(&thin.disk).output();
    let one = File::options().read(true).write(true).open(daemon.path("one")).unwrap();
    let failed =
        (0..3u8).filter(|round| one.write_all_at(&[*round], 0).and_then(|()| one.sync_all()).is_err());
    assert!(failed.count() > 0, "the disk was to fail");
    // What SQLite's own descriptor of the WAL has not heard of yet.
    eventually("the WAL is written again, in vain", || {
        one.sync_all().unwrap_err();
        thin.log().contains("the store's disk: No space left") || thin.log().contains(LOST)
    });
    thin.is_well_again();
    std::thread::sleep(Duration::from_secs(1));
    let synced = ["two", "three"].map(|name| write_and_sync(&daemon.path(name)).is_ok());
    let is_lost = thin.log().contains(LOST);
    assert!(is_lost || synced == [true, true], "{}", thin.log());
    let daemon = thin.begin_again(daemon);
    assert_eq!(sh(&daemon.path(""), "cat before"), "before\n");
    match is_lost {
        true => println!("the kernel has needed the memory of what the disk had not taken"),
        false => assert_eq!(
            sh(&daemon.path(""), "cat two three; stat -c %s one"),
            "synced after itsynced after it2097152\n"
        ),
    }
    thin.end(daemon);
}

/// Its blocks in the WAL were taken for written the second time, because ext4 had failed to write them the first time.
#[test]
fn what_the_disk_refused_at_first_is_on_it_the_second_time() {
    let Some((mut thin, daemon)) = Thin::failing() else { return };
    // One transaction, more than is looked at for the few frames that are there.
    let bytes = noise(1, 7 << 20);
    let file = File::create(daemon.path("one")).unwrap();
    file.write_all_at(&bytes, 0).and_then(|()| file.sync_all()).unwrap_err();
    thin.is_well_again();
    eventually("the disk takes it", || file.sync_all().is_ok() || thin.log().contains(LOST));
    if thin.log().contains(LOST) {
        println!("the kernel has needed the memory of what the disk had not taken");
        return;
    }
    drop(file);
    let daemon = thin.begin_again(daemon);
    assert!(fs::read(daemon.path("one")).unwrap() == bytes, "{}", thin.log());
    thin.end(daemon);
}

/// It was folded with its holes into the file, which nothing could make sense of afterwards.
#[test]
fn what_the_kernel_has_forgotten_is_not_taken_for_written() {
    let Some((mut thin, daemon)) = Thin::failing() else { return };
    sh(&daemon.path(""), "head -c 2M /dev/urandom > one");
    let wal = thin.disk.join("store.db-wal");
    eventually("the committer has been there", || wal.metadata().unwrap().len() > 2 << 20);
    let _ = Command::new("sync").arg("-f").arg(&thin.disk).output();
    thin.forget("store.db-wal");
    thin.is_well_again();
    eventually("somebody notices", || {
        write_and_sync(&daemon.path("two")).unwrap_err();
        thin.log().contains(LOST)
    });
    write_and_sync(&daemon.path("three")).unwrap_err();
    assert_eq!(daemon.ask("GET /health?ready", "").0, 503);
    assert_eq!(daemon.ask("POST /__wsd/checkpoint", "").0, 500);
    let daemon = thin.begin_again(daemon);
    assert_eq!(sh(&daemon.path(""), "cat before; ls"), "before\nbefore\n");
    write_and_sync(&daemon.path("two")).unwrap();
    let daemon = thin.begin_again(daemon);
    assert_eq!(sh(&daemon.path(""), "cat two"), "synced after it");
    thin.end(daemon);
}

/// Its blocks were written where the disk had failed to before, and ext4 then takes them for unwritten.
#[test]
fn what_was_folded_when_the_disk_failed_is_folded_again() {
    let Some(mut thin) = Thin::new() else { return };
    let daemon = thin.serve();
    // Nothing of it is folded for as long as somebody reads what was before.
    let reader = rusqlite::Connection::open(thin.disk.join("store.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT revision FROM workspace").unwrap();
    sh(&daemon.path(""), "head -c 6M /dev/urandom > one; sync one");
    let sum = sh(&daemon.path(""), "b2sum one");
    sh(&thin.disk, "sync -f .");
    thin.fail();
    drop(reader);
    assert_eq!(daemon.ask("POST /__wsd/checkpoint", "").0, 500, "the disk was to fail");
    thin.is_well_again();
    assert_eq!(daemon.ask("POST /__wsd/checkpoint", "").0, 200, "{}", thin.log());
    assert_eq!(thin.disk.join("store.db-wal").metadata().unwrap().len(), 0);
    let daemon = thin.begin_again(daemon);
    assert_eq!(sh(&daemon.path(""), "b2sum one"), sum);
    thin.end(daemon);
}
