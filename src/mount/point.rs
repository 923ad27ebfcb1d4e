//! Mount points: what is mounted there, who uses it, and whether it may be used.

use super::MountError;
use super::guard::Mark;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountInfo {
    /// Number of the mount, which it keeps wherever it is moved.
    id: u64,
    /// Number of the mounted device, `major:minor`: no two filesystems share one at the same time.
    pub(super) device: String,
    /// Filesystem type.
    pub(super) kind: String,
}

/// What to do where FUSE cannot mount: the lack that is found first.
pub(super) fn advice() -> &'static str {
    let is_root = rustix::process::geteuid().is_root();
    let device = std::fs::File::options().read(true).write(true).open("/dev/fuse");
    match device.map_err(|error| error.kind()) {
        Err(ErrorKind::NotFound) => {
            "there is no /dev/fuse: load the kernel's module fuse, start a container with --device /dev/fuse \
             --cap-add SYS_ADMIN, or go without a mount with FUSE_MOUNT=none"
        }
        Err(_) => {
            "this user may not open /dev/fuse: give it the right to, run as root, or go without a mount with \
             FUSE_MOUNT=none"
        }
        Ok(_) if !is_root && !has_helper() => {
            "an ordinary user needs fusermount3 to mount: install it (Debian: fuse3), run as root, or go without a \
             mount with FUSE_MOUNT=none"
        }
        Ok(_) if is_root && !may_mount() => {
            "mounting needs CAP_SYS_ADMIN: start the container with --cap-add SYS_ADMIN, or go without a mount with \
             FUSE_MOUNT=none"
        }
        Ok(_) => {
            "give another mount point, one that belongs to this user, or go without a mount with FUSE_MOUNT=none"
        }
    }
}

/// Whether the kernel lets this process mount.
fn may_mount() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Whether there is the program by which ordinary users mount.
fn has_helper() -> bool {
    use std::process::{Command, Stdio};
    let asked = Command::new("fusermount3").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok()
}

/// A mount, and where it is now.
struct Line {
    at: PathBuf,
    /// The mount that it is mounted in or over.
    parent: u64,
    info: MountInfo,
}

/// What is mounted exactly here, topmost.
pub(super) fn mounted_at(point: &Path) -> Option<MountInfo> {
    mounts().into_iter().filter(|line| line.at == point).map(|line| line.info).next_back()
}

/// Where a mount is now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// Here, if not where it was made: a directory above it may have been renamed.
    At(PathBuf),
    /// Here, but something else is mounted over it, or over a directory above it: no path leads to it.
    Covered(PathBuf),
    /// Somebody has unmounted it.
    Gone,
}

/// Where a mount is that is listed so and marked so.
pub(super) fn find(mount: &MountInfo, mark: Mark) -> Whereabouts {
    let mounts = mounts();
    let Some(ours) = mounts.iter().find(|line| line.info == *mount) else { return Whereabouts::Gone };
    let at = ours.at.clone();
    let mut way = vec![ours.info.id];
    let mut next = Some(ours);
    while let Some(line) = next.take() {
        next = mounts.iter().find(|above| above.info.id == line.parent && !way.contains(&above.info.id));
        way.extend(next.map(|above| above.info.id));
    }
    // The table tells when it cannot be covered. Only the way there tells that it is. The order of the table tells nothing: a
    // mount that is moved keeps its place in it.
    let may_be = mounts.iter().any(|line| at.starts_with(&line.at) && !way.contains(&line.info.id));
    if may_be && Mark::at(&at).ok() != Some(mark) {
        return Whereabouts::Covered(at);
    }
    Whereabouts::At(at)
}

/// All mounts, in the order in which they were made.
fn mounts() -> Vec<Line> {
    let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    table.split(|byte| *byte == b'\n').filter_map(parse).collect()
}

/// The fields of a line, as proc(5) has them: id, parent, device, root, mount point, options..., `-`, type, ...
fn parse(line: &[u8]) -> Option<Line> {
    let line = String::from_utf8_lossy(line).into_owned();
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ');
    let (id, parent) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let (device, _root, point) = (fields.next()?, fields.next()?, fields.next()?);
    let kind = after.split(' ').next()?;
    let info = MountInfo { id, device: device.to_owned(), kind: kind.to_owned() };
    Some(Line { at: unescape(point), parent, info })
}

/// Undoes the octal escapes of blanks, tabs, newlines and backslashes.
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\').then(|| field.get(at + 1..at + 4)).flatten();
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(plain))
}

/// How long a daemon that is about to mount at the same place is waited for.
const TURN: Duration = Duration::from_secs(5);

/// Keeps other daemons from mounting here for as long as what is returned lives: they would find the directory as empty as we
/// do, and one mount would cover the other. Nothing is returned where the directory cannot be locked.
pub(super) fn keep_others_away(point: &Path) -> Option<OwnedFd> {
    use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(point, flags, Mode::empty()).ok()?;
    let until = Instant::now() + TURN;
    loop {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(directory),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(_) => return None,
        }
    }
}

/// Makes the mount point ready, and refuses whatever is not an empty directory.
pub(super) fn prepare(point: &Path) -> Result<(), MountError> {
    make(point)?;
    let failed = |source| MountError::Point { point: point.to_path_buf(), source };
    let mut entries = std::fs::read_dir(point).map_err(failed)?;
    match entries.next() {
        None => Ok(()),
        Some(entry) => {
            let name = entry.map_err(failed)?.file_name();
            Err(MountError::NotEmpty {
                point: point.to_path_buf(),
                name: name.to_string_lossy().into_owned(),
            })
        }
    }
}

/// Removes what a dead daemon left there, and creates the directory if there is none.
pub(super) fn make(point: &Path) -> Result<(), MountError> {
    let failed = |source| MountError::Point { point: point.to_path_buf(), source };
    // As the mount table has it, which knows no symlinks.
    let real = point.canonicalize().unwrap_or_else(|_| point.to_path_buf());
    for _ in 0..16 {
        match look(&real) {
            Ok(metadata) if metadata.is_dir() => break,
            Ok(_) => return Err(MountError::NotADirectory(point.to_path_buf())),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                std::fs::create_dir_all(point).map_err(failed)?;
                break;
            }
            // "Transport endpoint is not connected": the daemon that mounted this is gone.
            Err(error) if is_dead(&error) => {
                remove_dead(&real).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
    }
    if let Some(info) = mounted_at(&real).filter(|info| info.kind.starts_with("fuse")) {
        return Err(MountError::InUse { point: point.to_path_buf(), kind: info.kind });
    }
    Ok(())
}

/// Removes a mount whose daemon is gone. Others that start here may be about to do the same: by the time it is their turn the mount
/// may be one that is served.
fn remove_dead(point: &Path) -> std::io::Result<()> {
    let _alone = point.parent().and_then(keep_others_away);
    if look(point).is_err_and(|error| is_dead(&error)) {
        tracing::warn!(?point, "a mount whose daemon is gone was left here: removing it");
        detach(point)?;
    }
    Ok(())
}

fn is_dead(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
}

/// What is at the mount point. A mount whose daemon is gone is an error, even if the kernel remembers its root: the state
/// of a filesystem is nothing that it remembers.
fn look(point: &Path) -> std::io::Result<std::fs::Metadata> {
    let metadata = std::fs::metadata(point)?;
    if mounted_at(point).is_some_and(|info| info.kind.starts_with("fuse")) {
        rustix::fs::statfs(point)?;
    }
    Ok(metadata)
}

/// Takes the topmost mount away from here at once, whoever uses it.
pub(super) fn detach(point: &Path) -> std::io::Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    match unmount(point, UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => fusermount(&[OsStr::new("-u"), OsStr::new("-z"), point.as_os_str()]),
        Err(error) => Err(error.into()),
    }
}

/// Takes the mount away if nobody uses it; false when somebody does.
pub(super) fn unmount(point: &Path) -> std::io::Result<bool> {
    match rustix::mount::unmount(point, rustix::mount::UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::BUSY) => Ok(false),
        Err(rustix::io::Errno::PERM) => Ok(fusermount(&[OsStr::new("-u"), point.as_os_str()]).is_ok()),
        Err(error) => Err(error.into()),
    }
}

fn fusermount(arguments: &[&OsStr]) -> std::io::Result<()> {
    let output = std::process::Command::new("fusermount3").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Who uses the mount: programs that have something of it open, run from it or are in it, `name (pid)` each, and what is mounted
/// in it.
pub(super) fn holders(point: &Path) -> Vec<String> {
    let within = mounts().into_iter().filter(|line| line.at != point && line.at.starts_with(point));
    let mut holders: Vec<_> =
        within.map(|line| format!("a {} mount at {:?}", line.info.kind, line.at)).collect();
    let Ok(processes) = std::fs::read_dir("/proc") else { return holders };
    let own = std::process::id().to_string();
    for process in processes.flatten() {
        let pid = process.file_name().to_string_lossy().into_owned();
        if pid == own || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        if holds(&process.path(), point) {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            holders.push(format!("{} ({pid})", name.trim()));
        }
    }
    holders
}

fn holds(process: &Path, point: &Path) -> bool {
    let inside = |link: PathBuf| std::fs::read_link(link).is_ok_and(|target| target.starts_with(point));
    if ["cwd", "root", "exe"].iter().any(|link| inside(process.join(link))) {
        return true;
    }
    let files = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    if files.map(|file| file.path()).any(inside) {
        return true;
    }
    let maps = std::fs::read(process.join("maps")).unwrap_or_default();
    let mut needle = point.as_os_str().as_bytes().to_vec();
    needle.push(b'/');
    maps.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_mount_table_are_read() {
        let line =
            br"36 35 98:0 /mnt1 /mnt/with\040blank rw,noatime master:1 - fuse.wsd wsd rw,errors=continue";
        let Line { at, parent, info } = parse(line).unwrap();
        assert_eq!((at.as_path(), parent), (Path::new("/mnt/with blank"), 35));
        assert_eq!(info, MountInfo { id: 36, device: "98:0".into(), kind: "fuse.wsd".into() });
        assert!(parse(b"").is_none());
        assert!(parse(b"36 35 - x").is_none());
        assert_eq!(unescape(r"a\\b\1"), Path::new(r"a\\b\1"));
    }

    #[test]
    fn only_an_empty_directory_can_be_a_mount_point() {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().join("new/point");
        prepare(&point).unwrap();
        assert!(point.is_dir());
        prepare(&point).unwrap();
        std::fs::write(point.join("file"), b"").unwrap();
        assert!(prepare(&point).unwrap_err().to_string().contains("file"));
        let refused = prepare(&point.join("file")).unwrap_err();
        assert!(matches!(refused, MountError::NotADirectory(_)), "{refused}");
    }

    #[test]
    fn who_holds_a_directory_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut child =
            std::process::Command::new("sleep").arg("60").current_dir(dir.path()).spawn().unwrap();
        let found = holders(&dir.path().canonicalize().unwrap());
        assert_eq!(found, [format!("sleep ({})", child.id())]);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
