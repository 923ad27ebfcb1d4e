//! What POSIX and Linux promise, in the mount, at the edges that peers get wrong.

use crate::support::{Place, has, has_fuse, has_linux, is_root, mounted, noise, remounted, sh, sh_output};
use rustix::fs::{CWD, FallocateFlags, FileType, RenameFlags, SeekFrom};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn names_and_targets_are_bytes() {
    let name = OsStr::from_bytes(b"caf\xe9 \xff\n");
    remounted(
        |daemon| {
            fs::write(daemon.path("").join(name), b"1").unwrap();
            symlink(name, daemon.path("link")).unwrap();
            fs::write(daemon.path(&"n".repeat(255)), b"").unwrap();
            let long = fs::write(daemon.path(&"n".repeat(256)), b"").unwrap_err();
            assert_eq!(long.raw_os_error(), Some(libc::ENAMETOOLONG));
            symlink("t".repeat(4095), daemon.path("far")).unwrap();
        },
        |daemon| {
            assert_eq!(fs::read_link(daemon.path("link")).unwrap(), Path::new(name));
            assert_eq!(fs::read(daemon.path("link")).unwrap(), b"1");
            assert_eq!(fs::read_link(daemon.path("far")).unwrap().as_os_str().len(), 4095);
            assert!(daemon.path(&"n".repeat(255)).exists());
        },
    );
}

#[test]
fn a_file_that_is_open_outlives_its_name() {
    mounted(|daemon| {
        let path = daemon.path("file");
        fs::write(&path, b"first").unwrap();
        let open = File::options().read(true).write(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"second").unwrap();
        let replaced = File::open(&path).unwrap();
        fs::write(daemon.path("other"), b"third").unwrap();
        fs::rename(daemon.path("other"), &path).unwrap();
        rustix::fs::fsync(&open).unwrap();
        open.write_all_at(b"FIRST and more", 0).unwrap();
        let mut bytes = [0; 14];
        open.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"FIRST and more");
        let mut text = String::new();
        (&replaced).read_to_string(&mut text).unwrap();
        assert_eq!(text, "second");
        assert_eq!((open.metadata().unwrap().nlink(), replaced.metadata().unwrap().nlink()), (0, 0));
        assert_eq!(names(&daemon.path("")), ["file"], "nothing is left in the listing");
    });
}

#[test]
fn files_are_sparse_up_to_16_tib() {
    mounted(|daemon| {
        let file = File::create(daemon.path("sparse")).unwrap();
        let end = 16u64 << 40;
        file.write_all_at(b"x", end - 1).unwrap();
        assert_eq!(file.set_len(end + 1).unwrap_err().raw_os_error(), Some(libc::EFBIG));
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), end);
        file.sync_all().unwrap();
        assert!(fs::metadata(daemon.path("sparse")).unwrap().blocks() <= 128);
    });
}

#[test]
fn hard_links_are_one_file() {
    mounted(|daemon| {
        let (a, b) = (daemon.path("a"), daemon.path("b"));
        fs::write(&a, b"one").unwrap();
        fs::hard_link(&a, &b).unwrap();
        fs::write(&b, b"two").unwrap();
        assert_eq!(fs::read(&a).unwrap(), b"two");
        let (first, second) = (fs::metadata(&a).unwrap(), fs::metadata(&b).unwrap());
        assert_eq!((first.ino(), first.nlink()), (second.ino(), 2));
        fs::remove_file(&a).unwrap();
        assert_eq!(fs::metadata(&b).unwrap().nlink(), 1);
    });
}

#[test]
fn directories_count_their_children_and_move_their_times() {
    mounted(|daemon| {
        fs::create_dir(daemon.path("d")).unwrap();
        assert_eq!(fs::metadata(daemon.path("d")).unwrap().nlink(), 2);
        let before = fs::metadata(daemon.path("d")).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::create_dir(daemon.path("d/e")).unwrap();
        let after = fs::metadata(daemon.path("d")).unwrap();
        assert_eq!(after.nlink(), 3);
        assert!((after.mtime(), after.mtime_nsec()) > (before.mtime(), before.mtime_nsec()));
        assert!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()));
    });
}

#[test]
fn modes_owners_times_and_kinds_are_kept() {
    if !is_root() {
        return;
    }
    remounted(
        |daemon| {
            let script = "
                touch file; chown 1000:1001 file; chmod 6755 file
                mkdir sticky; chmod 1777 sticky
                mkfifo fifo; mknod char c 1 3; mknod block b 7 9
                touch -a -d '2001-02-03 04:05:06.123456789 UTC' file
                touch -m -d '1969-12-31 23:59:59.987654321 UTC' file
                python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'";
            sh(&daemon.path(""), script);
        },
        |daemon| {
            let shown = sh(&daemon.path(""), "LC_ALL=C stat -c '%n %A %u:%g %t,%T' *");
            let expected = "block brw-r--r-- 0:0 7,9\nchar crw-r--r-- 0:0 1,3\nfifo prw-r--r-- 0:0 0,0\n\
                            file -rwsr-sr-x 1000:1001 0,0\nsocket srwxr-xr-x 0:0 0,0\nsticky drwxrwxrwt 0:0 0,0\n";
            assert_eq!(shown, expected);
            let file = fs::metadata(daemon.path("file")).unwrap();
            assert_eq!((file.atime(), file.atime_nsec()), (981_173_106, 123_456_789));
            assert_eq!((file.mtime(), file.mtime_nsec()), (-1, 987_654_321));
            assert_eq!(
                sh(&daemon.path(""), "head -c 4 char | wc -c"),
                "0\n",
                "the device works: it is /dev/null"
            );
        },
    );
}

#[test]
fn xattrs_and_acls_are_kept() {
    if !(is_root() && has("setfacl") && has("setfattr")) {
        return;
    }
    remounted(
        |daemon| {
            let script = "
                touch file; mkdir d
                setfattr -n user.note -v hello file; setfattr -n trusted.t -v 1 file; setfattr -n security.s -v 2 file
                ! setfattr -n nonsense.x -v 1 file 2>/dev/null
                setfacl -m u:1000:rw,g:1001:r file; setfacl -d -m u:1000:rwx,g::r-x,o::- d; touch d/child";
            sh(&daemon.path(""), script);
        },
        |daemon| {
            let shown = sh(&daemon.path(""), "getfattr --absolute-names -m - -d file | grep -v ^# | grep .");
            for attribute in ["user.note=\"hello\"", "trusted.t=\"1\"", "security.s=\"2\""] {
                assert!(shown.contains(attribute), "{shown}");
            }
            let acl = sh(&daemon.path(""), "getfacl -cEn file d/child");
            assert!(acl.contains("user:1000:rw-") && acl.contains("group:1001:r--"), "{acl}");
            assert!(acl.contains("user:1000:rwx\t#effective:rw-") || acl.contains("user:1000:rwx"), "{acl}");
            assert_eq!(fs::metadata(daemon.path("d/child")).unwrap().permissions().mode() & 0o777, 0o660);
        },
    );
}

#[test]
fn renames_can_refuse_exchange_and_leave_a_whiteout() {
    mounted(|daemon| {
        let (a, b) = (daemon.path("a"), daemon.path("b"));
        fs::write(&a, b"a").unwrap();
        fs::create_dir(&b).unwrap();
        fs::write(b.join("inside"), b"").unwrap();
        let refused = rustix::fs::renameat_with(CWD, &a, CWD, &b, RenameFlags::NOREPLACE);
        assert_eq!(refused, Err(Errno::EXIST));
        rustix::fs::renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
        assert_eq!(fs::read(&b).unwrap(), b"a");
        assert_eq!(names(&a), ["inside"]);
        rustix::fs::renameat_with(CWD, &b, CWD, daemon.path("c"), RenameFlags::WHITEOUT).unwrap();
        assert_eq!(fs::read(daemon.path("c")).unwrap(), b"a");
        let left = rustix::fs::lstat(&b).unwrap();
        assert_eq!((FileType::from_raw_mode(left.st_mode), left.st_rdev), (FileType::CharacterDevice, 0));
        let both = RenameFlags::WHITEOUT | RenameFlags::NOREPLACE;
        assert_eq!(rustix::fs::renameat_with(CWD, daemon.path("c"), CWD, &b, both), Err(Errno::EXIST));
        fs::remove_file(&b).unwrap();
    });
}

#[test]
fn ranges_are_allocated_punched_and_zeroed() {
    if !has_linux(6, 1, "FALLOC_FL_ZERO_RANGE in FUSE") {
        return;
    }
    mounted(|daemon| {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(daemon.path("f"))
            .unwrap();
        let bytes = noise(1, 1 << 20);
        file.write_all_at(&bytes, 0).unwrap();
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, punch, 100_000, 500_000).unwrap();
        rustix::fs::fallocate(&file, FallocateFlags::ZERO_RANGE, 700_000, 1000).unwrap();
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 2 << 20).unwrap();
        rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 4 << 20).unwrap();
        let collapse = rustix::fs::fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096);
        assert_eq!(collapse, Err(Errno::OPNOTSUPP));
        let mut expected = bytes;
        expected[100_000..600_000].fill(0);
        expected[700_000..701_000].fill(0);
        expected.resize(2 << 20, 0);
        assert!(fs::read(daemon.path("f")).unwrap() == expected);
    });
}

#[test]
fn data_and_holes_are_found_before_they_are_written_back() {
    mounted(|daemon| {
        let file = File::create(daemon.path("f")).unwrap();
        file.set_len(4 << 20).unwrap();
        file.write_all_at(b"data", 1 << 20).unwrap();
        let seek = |from| rustix::fs::seek(&file, from);
        assert_eq!(seek(SeekFrom::Data(0)), Ok(1 << 20), "the kernel holds these bytes");
        assert_eq!(seek(SeekFrom::Hole(0)), Ok(0));
        let hole = seek(SeekFrom::Hole(1 << 20)).unwrap();
        assert!(hole > 1 << 20 && hole <= (1 << 20) + 65_536, "{hole}");
        assert_eq!(seek(SeekFrom::Data(hole)), Err(Errno::NXIO));
        assert_eq!(seek(SeekFrom::Hole(4 << 20)), Err(Errno::NXIO));
    });
}

#[test]
fn a_copy_shares_its_chunks() {
    mounted(|daemon| {
        let bytes = noise(2, 32 << 20);
        fs::write(daemon.path("a"), &bytes).unwrap();
        File::open(daemon.path("a")).unwrap().sync_all().unwrap();
        let before = daemon.stat("/store/chunks");
        let (from, to) = (File::open(daemon.path("a")).unwrap(), File::create(daemon.path("b")).unwrap());
        let (mut at_from, mut at_to) = (0, 0);
        while at_to < bytes.len() as u64 {
            let rest = bytes.len() - at_to as usize;
            let copied =
                rustix::fs::copy_file_range(&from, Some(&mut at_from), &to, Some(&mut at_to), rest).unwrap();
            assert!(copied > 0);
        }
        to.sync_all().unwrap();
        assert_eq!(daemon.stat("/store/chunks"), before, "no byte was stored again");
        assert!(fs::read(daemon.path("b")).unwrap() == bytes);
        fs::write(daemon.path("a"), b"other").unwrap();
        assert!(fs::read(daemon.path("b")).unwrap() == bytes);
    });
}

#[test]
fn locks_hold_between_processes() {
    if !has("python3") {
        return;
    }
    mounted(|daemon| {
        let script = r#"
python3 - <<'END'
import fcntl, os, struct
a = open("lock", "w")
fcntl.flock(a, fcntl.LOCK_EX)
fcntl.lockf(open("posix", "w"), fcntl.LOCK_UN)
p = open("posix", "r+")
fcntl.lockf(p, fcntl.LOCK_EX, 10, 5)
if os.fork() == 0:
    b = open("lock", "w")
    try:
        fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB); os._exit(1)
    except BlockingIOError: pass
    q = open("posix", "r+")
    fcntl.lockf(q, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)
    try:
        fcntl.lockf(q, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0); os._exit(2)
    except BlockingIOError: pass
    os._exit(0)
assert os.wait()[1] == 0
END"#;
        sh(&daemon.path(""), script);
    });
}

#[test]
fn mappings_are_shared_and_writable() {
    if !has("python3") {
        return;
    }
    mounted(|daemon| {
        let script = r#"
python3 - <<'END'
import mmap, os
fd = os.open("m", os.O_CREAT | os.O_RDWR)
os.ftruncate(fd, 300000)
a = mmap.mmap(fd, 300000); b = mmap.mmap(os.open("m", os.O_RDWR), 300000)
a[100:105] = b"first"; assert b[100:105] == b"first"
os.pwrite(fd, b"second", 200000); assert b[200000:200006] == b"second"
assert os.pread(fd, 5, 100) == b"first"
a.flush(); os.fsync(fd)
END"#;
        sh(&daemon.path(""), script);
        let bytes = fs::read(daemon.path("m")).unwrap();
        assert_eq!((&bytes[100..105], &bytes[200_000..200_006]), (&b"first"[..], &b"second"[..]));
    });
}

#[test]
fn appends_and_direct_io_work() {
    mounted(|daemon| {
        let open = || File::options().append(true).create(true).open(daemon.path("log")).unwrap();
        let (mut a, mut b) = (open(), open());
        for _ in 0..100 {
            a.write_all(b"aa").unwrap();
            b.write_all(b"bbb").unwrap();
        }
        assert_eq!(fs::read(daemon.path("log")).unwrap(), b"aabbb".repeat(100));
        let script = "dd if=/dev/urandom of=x bs=1M count=4 status=none
            dd if=x of=y bs=64k iflag=direct oflag=direct status=none; cmp x y
            dd if=x of=z bs=4k oflag=sync count=3 status=none; cmp -n 12288 x z";
        sh(&daemon.path(""), script);
    });
}

#[test]
fn the_quota_is_what_df_shows_and_enospc_ends_it() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let daemon = place.serve_with(&[("WSD_MAX_BYTES", "8M")]);
    assert_eq!(sh(&daemon.path(""), "df -B1 --output=size . | tail -1").trim(), "8388608");
    let script = "dd if=/dev/urandom of=big bs=1M count=20 conv=fsync status=none";
    let failed = sh_output(&daemon.path(""), script, &[]);
    assert!(!failed.status.success());
    assert!(String::from_utf8_lossy(&failed.stderr).contains("No space left"), "{failed:?}");
    sh(&daemon.path(""), "rm big; dd if=/dev/urandom of=small bs=1M count=6 conv=fsync status=none");
    daemon.stop();
    place.check();
}

#[test]
fn a_listing_loses_nothing_while_it_is_emptied() {
    mounted(|daemon| {
        let dir = daemon.path("many");
        fs::create_dir(&dir).unwrap();
        for number in 0..3000 {
            fs::write(dir.join(format!("f{number}")), b"").unwrap();
        }
        let mut seen = 0;
        for entry in fs::read_dir(&dir).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
            seen += 1;
        }
        assert_eq!(seen, 3000);
        fs::remove_dir(&dir).unwrap();
    });
}

#[test]
fn new_files_belong_to_whoever_makes_them() {
    if !(is_root() && has("setpriv")) {
        return;
    }
    mounted(|daemon| {
        fs::set_permissions(daemon.path(""), fs::Permissions::from_mode(0o777)).unwrap();
        let place = daemon.path("");
        fs::set_permissions(place.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        let as_other = "setpriv --reuid 1234 --regid 2345 --clear-groups";
        sh(
            &place,
            &format!(
                "{as_other} sh -c 'umask 027; echo hi > mine; mkdir d'; echo secret > root; chmod 600 root"
            ),
        );
        assert_eq!(sh(&place, "stat -c '%u:%g %a' mine d"), "1234:2345 640\n1234:2345 750\n");
        sh(
            &place,
            &format!(
                "! {as_other} cat root 2>/dev/null; ! {as_other} rm -f root/x 2>/dev/null; {as_other} cat mine"
            ),
        );
    });
}

#[test]
fn chgrp_alone_leaves_the_owner() {
    if !is_root() {
        return;
    }
    mounted(|daemon| {
        sh(&daemon.path(""), "touch f; chown 7 f; chgrp 8 f; rm f; touch f");
        std::os::unix::fs::chown(daemon.path("f"), None, Some(9)).unwrap();
        let metadata = fs::metadata(daemon.path("f")).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (0, 9));
    });
}

#[test]
fn what_the_mount_cannot_do_it_says_precisely() {
    mounted(|daemon| {
        let (from, to) = (daemon.path("from"), File::create(daemon.path("to")).unwrap());
        fs::write(&from, b"bytes").unwrap();
        assert_eq!(rustix::fs::ioctl_ficlone(&to, File::open(from).unwrap()), Err(Errno::OPNOTSUPP));
    });
}

#[test]
fn a_truncation_takes_setuid_away_unless_the_capability_is_there() {
    if !(is_root() && has("setpriv")) {
        return;
    }
    mounted(|daemon| {
        sh(
            &daemon.path(""),
            "set -e; for file in lacks has; do echo text > $file; chmod 6777 $file; done
             setpriv --bounding-set -fsetid --inh-caps -fsetid truncate -s 1 lacks
             setpriv --reuid 1234 --regid 1234 --clear-groups --inh-caps +fsetid --ambient-caps +fsetid truncate -s 1 has
             [ $(stat -c %a lacks) = 777 ] && [ $(stat -c %a has) = 6777 ]",
        );
    });
}
