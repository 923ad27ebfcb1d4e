//! Where the mount differed from ext4 in what few programs see.

use crate::support::{Daemon, Place, eventually, has, has_fuse, is_root, mounted, sh};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

fn mounted_with(programs: &[&str], test: impl FnOnce(&Daemon)) {
    if is_root() && programs.iter().all(|program| has(program)) {
        mounted(test);
    }
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

/// Both in one page: the kernel drops the page after a copy that was made below it.
#[test]
fn a_copy_into_a_part_of_a_page_loses_no_store_through_a_mapping() {
    mounted_with(&["python3"], |daemon| {
        let script = r#"
python3 - <<'END'
import mmap, os, struct, time
open("target", "wb").write(bytes(16384)); open("source", "wb").write(b"S" * 16384)
end = time.time() + 2
if os.fork() == 0:
    source, target = os.open("source", os.O_RDONLY), os.open("target", os.O_RDWR)
    while time.time() < end:
        assert os.copy_file_range(source, target, 2000, 0, 0) == 2000
        assert os.copy_file_range(source, target, 2000, 0, 12384) == 2000
        # Whole pages, where they are that small.
        assert os.copy_file_range(source, target, 4096, 0, 4096) == 4096
    os._exit(0)
memory, lost, number = mmap.mmap(os.open("target", os.O_RDWR), 16384), 0, 0
while time.time() < end:
    number = (number + 1) % 65536
    memory[3000:3002] = memory[12300:12302] = struct.pack("H", number)
    for _ in range(20):
        lost += memory[3000:3002] != struct.pack("H", number) or memory[12300:12302] != struct.pack("H", number)
assert os.wait()[1] == 0 and lost == 0, lost
END
head -c 300000 /dev/urandom > a; head -c 500000 /dev/urandom > b
(head -c 8192 b; head -c 200001 a; tail -c +208194 b) > expected
python3 - <<'END'
import os
a, b, at = os.open("a", os.O_RDONLY), os.open("b", os.O_RDWR), 0
while at < 200001:
    at += os.copy_file_range(a, b, 200001 - at, at, 8192 + at)
END
cmp b expected"#;
        sh(&daemon.path(""), script);
    });
}

#[test]
fn only_root_is_shown_trusted_attributes() {
    mounted_with(&["setfattr", "getfattr", "setpriv"], |daemon| {
        let open = |path: &std::path::Path| {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        open(daemon.path("").parent().unwrap());
        open(&daemon.path(""));
        let script = "echo x > f; setfattr -n trusted.t -v 1 f; setfattr -n user.u -v 2 f
            [ \"$(getfattr -m - f | grep -c '^[tu]')\" = 2 ]
            [ \"$(setpriv --reuid 65534 --clear-groups getfattr -m - f | grep '^[tu]')\" = user.u ]";
        sh(&daemon.path(""), script);
    });
}

#[test]
fn a_handle_leads_to_its_file_when_the_kernel_has_forgotten_it() {
    mounted_with(&["python3"], |daemon| {
        let script = r#"
python3 - <<'END'
import ctypes, errno, os, struct
libc = ctypes.CDLL(None, use_errno=True)
def handle(path):
    room = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    mount = ctypes.c_int()
    assert libc.name_to_handle_at(-100, path.encode(), room, ctypes.byref(mount), 0) == 0
    return room
def opened(room):
    fd = libc.open_by_handle_at(root, room, os.O_RDONLY)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "open_by_handle_at")
    return fd
def forget():
    os.sync()
    open("/proc/sys/vm/drop_caches", "w").write("2")
root = os.open(".", os.O_RDONLY)
os.makedirs("d/e"); open("d/e/f", "w").write("hello"); open("gone", "w").write("x")
file, directory, gone = handle("d/e/f"), handle("d/e"), handle("gone")
os.unlink("gone")
for _ in range(3):
    forget()
    assert os.read(opened(file), 9) == b"hello"
    forget()
    fd = opened(directory)
    assert os.listdir(fd) == ["f"] and os.readlink(f"/proc/self/fd/{fd}").endswith("/d/e")
    try:
        opened(gone)
    except OSError as error:
        assert error.errno == errno.ESTALE, error
    else:
        raise AssertionError("it is gone")
END"#;
        sh(&daemon.path(""), script);
    });
}

#[test]
fn a_reader_may_leave_the_time_of_access() {
    mounted_with(&["python3"], |daemon| {
        let script = r#"
python3 - <<'END'
import os
def atime_after(flags):
    open("f", "wb").write(b"x" * 100000)
    fd = os.open("f", os.O_RDONLY | flags)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.utime("f", ns=(10**18, 10**18))
    os.read(fd, 10)
    return os.stat("f").st_atime_ns
assert atime_after(os.O_NOATIME) == 10**18
assert atime_after(0) > 10**18
END"#;
        sh(&daemon.path(""), script);
    });
}

#[test]
fn attributes_are_refused_with_the_numbers_of_a_local_disk() {
    mounted_with(&["python3"], |daemon| {
        let script = r#"
python3 - <<'END'
import errno, os
def refused(code, call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        assert error.errno == code, (error, arguments)
    else:
        raise AssertionError(arguments)
open("f", "w")
both = os.XATTR_CREATE | os.XATTR_REPLACE
refused(errno.ENODATA, os.setxattr, "f", "user.a", b"1", both)
os.setxattr("f", "user.a", b"1")
refused(errno.EEXIST, os.setxattr, "f", "user.a", b"1", both)
for prefix in "user.", "trusted.", "security.":
    refused(errno.EINVAL, os.setxattr, "f", prefix, b"1")
    refused(errno.EINVAL, os.getxattr, "f", prefix)
    refused(errno.EINVAL, os.removexattr, "f", prefix)
refused(errno.EOPNOTSUPP, os.getxattr, "f", "other.a")
refused(errno.ENODATA, os.removexattr, "f", "user.b")
os.removexattr("f", "system.posix_acl_access")
refused(errno.ENODATA, os.getxattr, "f", "system.posix_acl_access")
END"#;
        sh(&daemon.path(""), script);
    });
}

/// Keeps a file open, 10 MiB written, until its standard input ends. `sys.argv[2]`: whether it is on the disk.
const HOLDER: &str = "
import os, sys
file = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)
os.write(file, os.urandom(10 << 20))
sys.argv[2] == 'synced' and os.fsync(file)
print(flush=True)
sys.stdin.read()";

/// Until a file is closed, the kernel believes what it was told last of the blocks that are allocated to it. GNU tar takes a file
/// without any for one hole: of a database that was open it stored zeros.
#[test]
fn what_is_written_is_allocated_while_the_file_is_open() {
    mounted_with(&["python3"], |daemon| {
        let archive = tempfile::tempdir().unwrap();
        for name in ["synced", "unsynced"] {
            let path = daemon.path(name);
            let mut holder = Command::new("python3");
            holder.args(["-c", HOLDER]).arg(&path).arg(name).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut holder = holder.spawn().unwrap();
            BufReader::new(holder.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
            assert!(fs::metadata(&path).unwrap().blocks() > 0);
            let script =
                format!("tar -cSf {name}.tar -C {} {name}; tar -xf {name}.tar", daemon.path("").display());
            sh(archive.path(), &script);
            assert!(fs::read(archive.path().join(name)).unwrap() == fs::read(&path).unwrap(), "{name}");
            eventually("the kernel knows what is allocated", || {
                fs::metadata(&path).unwrap().blocks() == 20 << 10
            });
            drop(holder.stdin.take());
            assert!(holder.wait().unwrap().success());
        }
    });
}
