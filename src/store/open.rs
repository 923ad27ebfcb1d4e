//! Opening a store, and the reasons not to.
//!
//! Everything that could speak against the file is looked at before a byte of it, or beside it, is written.

use super::error::{ROOM_TO_START, StoreError, StoreResult};
use super::rows::{FIRST_COOKIE, ROOT};
use super::wal;
use crate::clock::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, OpenFlags, params};
use rusqlite_migration::{M, Migrations};
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, FileType};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// In the header of every store ("wsd" and a version of the format's family).
const APPLICATION_ID: i32 = 0x7773_6401;

/// Bytes of a page. From 4 to 64 KiB whole workloads differ by less than the noise; small pages make small
/// commits cheaper, and 8 KiB pages write chunks a fifth faster than 4 KiB ones.
pub(super) const PAGE_SIZE: u32 = 8192;

const STEPS: &[M<'static>] = &[
    M::up(include_str!("migrations/0001_init.sql")),
    M::up(include_str!("migrations/0002_exec.sql")),
    M::up(include_str!("migrations/0003_sync.sql")),
    M::up(include_str!("migrations/0004_heard.sql")),
    M::up(include_str!("migrations/0005_version.sql")),
    M::up(include_str!("migrations/0006_taken.sql")),
];
const MIGRATIONS: Migrations<'static> = Migrations::from_slice(STEPS);

/// How long the lock of a process that is gone may last: a child that it was just starting has it until it begins
/// its own program. One that has only just taken the lock writes down who it is long before.
const INHERITED: Duration = Duration::from_secs(3);

/// How long another program may keep the store locked, as who looks into it with SQLite's shell may, until a commit fails.
const STRANGER: Duration = Duration::from_secs(60);

/// Bytes free on the disk from which on room is kept for the next start.
const PLENTY: u64 = 16 * ROOM_TO_START;

/// The lock on a store: held by the one daemon that has it open.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Has the disk keep room behind the lock's bytes, if it has plenty. Who takes the lock next gives it up: without any SQLite cannot
    /// even read, and whoever would empty the workspace on a disk that others have filled could not. Most filesystems can do that.
    pub(super) fn keep_room(&self) {
        use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
        let plenty = fstatvfs(&self.file).is_ok_and(|is| is.f_bavail.saturating_mul(is.f_frsize) > PLENTY);
        if plenty {
            let _ = fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, ROOM_TO_START);
        }
    }

    /// Gives up the room behind the lock's bytes.
    pub(super) fn give_room(&self) {
        let _ = self.file.metadata().and_then(|is| self.file.set_len(is.len()));
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.keep_room();
    }
}

fn open_error(path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_path_buf();
    move |source| StoreError::Open { path, source }
}

/// Refuses a path that cannot be a store's.
pub(super) fn check_path(path: &Path, mount_point: Option<&Path>) -> StoreResult<()> {
    if !path.is_absolute() {
        return Err(StoreError::NotAbsolute(path.to_path_buf()));
    }
    let Some(mount_point) = mount_point else { return Ok(()) };
    // A dead mount cannot be looked at, so its path is taken as it is written.
    let real_mount = mount_point.canonicalize().unwrap_or_else(|_| mount_point.to_path_buf());
    if real(path).starts_with(&real_mount) || path.starts_with(mount_point) {
        return Err(StoreError::InsideMount {
            store: path.to_path_buf(),
            mount_point: mount_point.to_path_buf(),
        });
    }
    Ok(())
}

/// The path with the symlinks of that part of it that exists followed.
pub(super) fn real(path: &Path) -> PathBuf {
    // Not `join`ed with nothing, which would make a directory of it.
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    for ancestor in path.ancestors().skip(1) {
        if let Ok(real) = ancestor.canonicalize() {
            return path.strip_prefix(ancestor).map_or_else(|_| path.to_path_buf(), |rest| real.join(rest));
        }
    }
    path.to_path_buf()
}

/// Takes the lock that keeps a second daemon away, of a file that may be opened or made. The lock file stays; only the lock on it
/// means something.
pub(super) fn lock(path: &Path) -> StoreResult<Lock> {
    let beside = beside(path, ".lock");
    match check_file(path) {
        // Another daemon may be making it at this moment: then there is its lock.
        Err(StoreError::NotAStore(_)) if beside.exists() => {}
        looked => looked?,
    }
    // Modes of the files in the workspace mean nothing to who can read the store.
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(open_error(path))?;
    }
    let mut private = File::options();
    private.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = private.open(&beside).map_err(open_error(path))?;
    wait_for_lock(path, &mut file, FlockOperation::NonBlockingLockExclusive)?;
    // Whoever had the lock until now may have made it, or left something else.
    check_file(path)?;
    // SQLite gives what it makes beside a database the mode of that. Before it opens it, or its locks would be gone.
    drop(private.open(path).map_err(open_error(path))?);
    let write = |file: &mut File| {
        // With the room that the disk kept behind it.
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(open_error(path))?;
    Ok(Lock { file })
}

/// The file of a store with this name after its own.
pub(super) fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(what);
    name.into()
}

/// Waits for as long as whoever has the lock is gone, or has not said yet who it is.
fn wait_for_lock(path: &Path, file: &mut File, how: FlockOperation) -> StoreResult<()> {
    let deadline = Instant::now() + INHERITED;
    while flock(&*file, how).is_err() {
        let mut pid = String::new();
        let known = file.rewind().is_ok() && file.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
        let is_there = known && Path::new("/proc").join(pid.trim()).exists();
        if is_there || Instant::now() > deadline {
            let pid = if known { pid.trim().to_owned() } else { "unknown".to_owned() };
            return Err(StoreError::InUse { path: path.to_path_buf(), pid });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Refuses a file that is something else, or too new, without touching it.
fn check_file(path: &Path) -> StoreResult<()> {
    // Before it is opened: that of a fifo waits until somebody writes into it, and that of a device may do anything.
    let metadata = match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        metadata => metadata.map_err(open_error(path))?,
    };
    if !metadata.is_file() {
        return Err(StoreError::NotAFile { path: path.to_path_buf(), kind: kind_of(metadata.file_type()) });
    }
    if metadata.len() > 0 {
        check_header(path)?;
    }
    // Its WAL would be beside another name than the one that was opened last, and a second daemon would have a second lock.
    if metadata.nlink() > 1 {
        return Err(StoreError::Linked(path.to_path_buf()));
    }
    Ok(())
}

fn check_header(path: &Path) -> StoreResult<()> {
    let mut header = [0; 100];
    let mut file = File::open(path).map_err(open_error(path))?;
    file.read_exact(&mut header).map_err(|_| StoreError::NotAStore(path.to_path_buf()))?;
    // Offsets of the SQLite file format, section 1.3: magic 0, user version 60, application id 68.
    let field = |at: usize| i32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if !header.starts_with(b"SQLite format 3\0") || field(68) != APPLICATION_ID {
        return Err(StoreError::NotAStore(path.to_path_buf()));
    }
    refuse_newer(path, i64::from(field(60)))
}

/// What there is in place of a file, for whoever reads the message.
fn kind_of(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "directory",
        kind if kind.is_fifo() => "fifo",
        kind if kind.is_socket() => "socket",
        _ => "device",
    }
}

fn refuse_newer(path: &Path, found: i64) -> StoreResult<()> {
    let known = STEPS.len() as i64;
    if found > known {
        return Err(StoreError::Newer { path: path.to_path_buf(), found, known });
    }
    Ok(())
}

/// The connection that writes, with the tables up to date. `None`: a store in memory.
pub(super) fn writer(path: Option<&Path>) -> StoreResult<Connection> {
    let mut connection = match path {
        Some(path) => connect(path, OpenFlags::default())?,
        None => Connection::open_in_memory()?,
    };
    // What was left in the WAL is folded when it is known what of it the disk has.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "page_size", PAGE_SIZE)?;
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if id != APPLICATION_ID {
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        // Before there is a WAL, so that it is in the file itself, where the next start looks for it.
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.busy_timeout(STRANGER)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.pragma_update(None, "cache_size", -16_384)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(64);
    if let Some(path) = path {
        // The header may lag behind the WAL.
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        refuse_newer(path, version)?;
    }
    MIGRATIONS.to_latest(&mut connection)?;
    Ok(connection)
}

/// A connection through our VFS, if it can be had.
fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    match wal::vfs() {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs),
        None => Connection::open_with_flags(path, flags),
    }
}

/// The tables of a store that nobody has used.
pub(super) fn fresh() -> StoreResult<Connection> {
    let mut connection = Connection::open_in_memory()?;
    MIGRATIONS.to_latest(&mut connection)?;
    Ok(connection)
}

/// A connection that reads.
pub(super) fn reader(path: &Path) -> StoreResult<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = connect(path, flags)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "cache_size", -2048)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// The connection that folds the WAL.
pub(super) fn folder(path: &Path) -> StoreResult<Connection> {
    let connection = connect(path, OpenFlags::default())?;
    connection.busy_timeout(super::READERS)?;
    connection.pragma_update(None, "cache_size", -256)?;
    Ok(connection)
}

/// A connection that looks for flaws, with views of the rows as they are now.
pub(super) fn checker(path: &Path) -> StoreResult<Connection> {
    let connection = connect(path, OpenFlags::default())?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

/// A connection that looks at a store which this process may not write, and the lock, if there is one, that keeps daemons from
/// it meanwhile. Nothing is made beside the store, so that a WAL could not be read with it.
pub(super) fn frozen(path: &Path) -> StoreResult<(Connection, Option<Lock>)> {
    check_file(path)?;
    let lock = match File::open(beside(path, ".lock")) {
        Ok(mut file) => {
            wait_for_lock(path, &mut file, FlockOperation::NonBlockingLockShared)?;
            Some(Lock { file })
        }
        // No daemon had it here.
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(open_error(path)(error)),
    };
    if beside(path, "-wal").metadata().is_ok_and(|wal| wal.len() > 0) {
        return Err(StoreError::Unfolded(path.to_path_buf()));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let escaped = percent_encode(path.as_os_str().as_bytes(), NON_ALPHANUMERIC);
    let connection = Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    let (found, known) =
        (connection.pragma_query_value(None, "user_version", |row| row.get(0))?, STEPS.len() as i64);
    if found < known {
        return Err(StoreError::Older { path: path.to_path_buf(), found, known });
    }
    Ok((connection, lock))
}

/// Makes the workspace of a new store: a root directory that belongs to whoever runs the daemon.
pub(super) fn found_workspace(connection: &mut Connection) -> StoreResult<()> {
    let transaction = connection.transaction()?;
    if transaction.query_row("SELECT count(*) FROM workspace", [], |row| row.get::<_, i64>(0))? == 0 {
        if transaction.prepare("SELECT 1 FROM inode")?.exists([])? {
            return Err(StoreError::Corrupt("there are nodes, but no workspace".into()));
        }
        let now = Timestamp::now().0;
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        transaction.execute(
            "INSERT INTO workspace (id, uuid, revision, next_ino, created) VALUES (1, lower(hex(randomblob(16))), 1, ?1, ?2)",
            params![ROOT as i64 + 1, now],
        )?;
        transaction.execute(
            "INSERT INTO inode (ws, ino, since, rev, kind, mode, uid, gid, rdev, nlink, size, allocated,
                                atime, mtime, ctime, btime, parent, next_cookie, storage, has_xattrs)
             VALUES (1, ?1, 0, 1, 2, ?2, ?3, ?4, 0, 2, 0, 0, ?5, ?5, ?5, ?5, ?1, ?6, 0, 0)",
            params![ROOT as i64, 0o755, uid, gid, now, FIRST_COOKIE as i64],
        )?;
    }
    transaction.commit()?;
    Ok(())
}
