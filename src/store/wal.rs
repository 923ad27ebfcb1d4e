//! SQLite's writes to the WAL, gathered into few large ones.
//!
//! SQLite writes each page of a transaction to the WAL by two system calls, 24 bytes that describe it and the page itself:
//! 65,000 of them for 256 MiB, most of what a commit cost. So all connections of a daemon have a VFS of wsd's, which is
//! SQLite's own except that it keeps what is appended to the WAL until a transaction ends, something else is done with the
//! file, or [`MOST`] bytes are there. Nobody can tell: frames are read by others only once SQLite has published their
//! transaction, and before the call that hands over the last byte of one returns, all of it is in the file, or that call
//! fails. The WAL's index is kept in memory by the way, where a reader reads is noted (`passed`), and SQLite does not count its
//! memory. Figures: `docs/decisions/0013-wal.md`. Sources: <https://sqlite.org/vfs.html>, <https://sqlite.org/fileformat2.html#walformat>.

#![allow(unsafe_code)]

use super::passed;
use rusqlite::Connection;
use rusqlite::ffi::{
    self, SQLITE_CANTOPEN, SQLITE_IOERR, SQLITE_IOERR_CORRUPTFS, SQLITE_IOERR_READ, SQLITE_OK,
    SQLITE_OPEN_MAIN_DB, SQLITE_OPEN_WAL, SQLITE_SHM_UNLOCK, sqlite3_file, sqlite3_int64, sqlite3_io_methods,
    sqlite3_vfs,
};
use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

/// The name of the VFS.
const NAME: &CStr = c"wsd";

/// Most bytes that are kept: SQLite's VFS for Unix takes less than 128 KiB at once. Four times as many would gain a tenth.
const MOST: usize = (128 << 10) - 1;

/// Bytes of a frame's header, which begins with the number of its page and, in the last frame of a transaction, the pages that
/// the database then has; 0 in all others.
const FRAME_HEADER: usize = 24;

/// SQLite's VFS, which does the work.
static BELOW: OnceLock<Option<Below>> = OnceLock::new();

#[derive(Clone, Copy)]
struct Below(*mut sqlite3_vfs);

// SAFETY: SQLite's own VFS lives as long as the process, and may be used by any thread.
unsafe impl Send for Below {}
// SAFETY: as above.
unsafe impl Sync for Below {}

/// The name of the VFS for a connection. `None`: SQLite's VFS is not one that can be put below it, so it is used
/// as it is.
pub(super) fn vfs() -> Option<&'static CStr> {
    BELOW.get_or_init(register).map(|_| NAME)
}

fn register() -> Option<Below> {
    // Not to count what it has in memory, which would take a lock for each allocation that all connections share.
    // SAFETY: it takes one number more. The first store that is opened has this done before it has a connection. If SQLite is in use
    // all the same, by another one, it refuses, and goes on counting.
    unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MEMSTATUS, 0 as c_int) };
    // SAFETY: `sqlite3_vfs_find` with no name gives the default VFS, which is never freed, or nothing.
    let below = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
    // SAFETY: it is one, if it is not null.
    let mut ours = *unsafe { below.as_ref() }?;
    ours.xOpen?;
    ours.szOsFile += size_of::<File>() as c_int;
    ours.zName = NAME.as_ptr();
    ours.pNext = ptr::null_mut();
    ours.xOpen = Some(open);
    // SAFETY: SQLite keeps the pointer for the rest of the process, and so the table is never freed. Its other methods are those
    // of the VFS below, whose data it has too.
    let registered = unsafe { ffi::sqlite3_vfs_register(Box::into_raw(Box::new(ours)), 0) };
    (registered == SQLITE_OK).then_some(Below(below))
}

/// Has the WAL's descriptor of a connection tell of what is over. The kernel tells each descriptor of an error once, the next time
/// that it syncs.
pub(super) fn tell(connection: &Connection) {
    let mut wal: *mut sqlite3_file = ptr::null_mut();
    // SAFETY: the connection is open, and used by this thread alone. SQLite writes a pointer to where it is asked to, to a file
    // that is open for as long as the connection is, or to one that has no methods.
    unsafe {
        let (main, what) = (c"main".as_ptr(), ffi::SQLITE_FCNTL_JOURNAL_POINTER);
        ffi::sqlite3_file_control(connection.handle(), main, what, (&raw mut wal).cast());
        let methods = wal.as_ref().and_then(|file| file.pMethods.as_ref());
        if let Some(sync) = methods.and_then(|methods| methods.xSync) {
            sync(wal, ffi::SQLITE_SYNC_NORMAL);
        }
    }
}

/// An open file, in memory of SQLite's: ours first, and the file of the VFS below after it.
#[repr(C)]
struct File {
    /// What SQLite knows of it. Must be the first.
    base: sqlite3_file,
    methods: sqlite3_io_methods,
    below: *mut sqlite3_file,
    /// Of a database: the WAL of the same connection, while it is open. Of a WAL: its database.
    other: *mut File,
    is_wal: bool,
    /// What was appended and is not in the file yet.
    held: Vec<u8>,
    /// Where in the file that begins.
    at: sqlite3_int64,
    /// The frame that was begun last is the last one of a transaction.
    ends: bool,
}

impl File {
    /// Keeps what is written to a WAL, or passes all that is kept on.
    fn gather(&mut self, bytes: &[u8], at: sqlite3_int64) -> c_int {
        let goes_on = at == self.at + self.held.len() as sqlite3_int64;
        if !goes_on || self.held.len() + bytes.len() > MOST {
            let flushed = self.flush();
            if flushed != SQLITE_OK {
                return flushed;
            }
        }
        let first = self.held.is_empty();
        if first {
            self.at = at;
        }
        self.held.extend_from_slice(bytes);
        match bytes {
            [_, _, _, _, pages @ ..] if bytes.len() == FRAME_HEADER => self.ends = pages[..4] != [0; 4],
            _ if at == 0 => self.ends = false,
            _ => {}
        }
        // SQLite writes a header that is not followed by its page when it corrects checksums, after having read the frame.
        let complete = self.ends && (first || bytes.len() != FRAME_HEADER);
        if complete || self.held.len() == MOST { self.flush() } else { SQLITE_OK }
    }

    /// Passes on what is kept. What cannot be written is forgotten, and its transaction fails.
    fn flush(&mut self) -> c_int {
        if self.held.is_empty() {
            return SQLITE_OK;
        }
        let (bytes, length) = (self.held.as_ptr().cast::<c_void>(), self.held.len() as c_int);
        // SAFETY: the file below is open for as long as this one is, and so has methods; the bytes are valid for the call.
        let written = unsafe {
            match (*(*self.below).pMethods).xWrite {
                Some(write) => write(self.below, bytes, length, self.at),
                None => SQLITE_IOERR,
            }
        };
        self.held.clear();
        written
    }
}

/// The file that SQLite means.
///
/// # Safety
/// `file` is one that [`open`] has made and that is not closed; nobody else uses it during the call.
unsafe fn of<'a>(file: *mut sqlite3_file) -> &'a mut File {
    // SAFETY: by the caller's word; `File` begins with what SQLite knows of it.
    unsafe { &mut *file.cast::<File>() }
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let Some(Some(Below(vfs))) = BELOW.get() else { return SQLITE_CANTOPEN };
    // SAFETY: the VFS below was looked at when ours was registered, and lives on.
    let Some(open) = (unsafe { (**vfs).xOpen }) else { return SQLITE_CANTOPEN };
    let is_wal = flags & SQLITE_OPEN_WAL != 0;
    if !is_wal && flags & SQLITE_OPEN_MAIN_DB == 0 {
        // SAFETY: SQLite's own arguments, and more room for the file than it needs.
        return unsafe { open(*vfs, name, file, flags, out) };
    }
    // SAFETY: SQLite has reserved `szOsFile` bytes, which are ours and then those of the VFS below, aligned for either.
    let below = unsafe { file.cast::<File>().add(1).cast::<sqlite3_file>() };
    // SAFETY: SQLite's own arguments, and the room for the file. The VFS below fills in its methods if there is something to be
    // closed.
    let (opened, methods) = unsafe {
        (*below).pMethods = ptr::null();
        (open(*vfs, name, below, flags, out), (*below).pMethods.as_ref())
    };
    let Some(methods) = methods else {
        // SAFETY: the room is SQLite's, and null says that there is nothing to be closed.
        unsafe { (*file).pMethods = ptr::null() };
        return if opened == SQLITE_OK { SQLITE_CANTOPEN } else { opened };
    };
    let other = match is_wal {
        // SAFETY: SQLite gives a WAL's name in the form that this function takes. The database is opened before its WAL, by
        // this VFS, and closed after it.
        true => unsafe { ffi::sqlite3_database_file_object(name).cast::<File>() },
        false => ptr::null_mut(),
    };
    let ours = File {
        base: sqlite3_file { pMethods: ptr::null() },
        methods: sqlite3_io_methods { iVersion: methods.iVersion, ..METHODS },
        below,
        other,
        is_wal,
        held: Vec::new(),
        at: 0,
        ends: false,
    };
    let this = file.cast::<File>();
    // SAFETY: the room is SQLite's, large enough and not in use. It does not move while the file is open, so that the table of
    // methods may be in it.
    unsafe {
        this.write(ours);
        (*this).base.pMethods = &raw const (*this).methods;
        if let Some(database) = other.as_mut() {
            database.other = this;
        }
    }
    opened
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite closes what it has opened, once.
    unsafe {
        let this = of(file);
        // What is kept is of no transaction that has ended.
        this.held.clear();
        if let Some(other) = this.other.as_mut() {
            other.other = ptr::null_mut();
        }
        let below = this.below;
        let closed = match (*(*below).pMethods).xClose {
            Some(close) => close(below),
            None => SQLITE_IOERR,
        };
        ptr::drop_in_place(file.cast::<File>());
        closed
    }
}

unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    into: *mut c_void,
    length: c_int,
    at: sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite's file and arguments.
    unsafe {
        if !of(file).is_wal {
            passed::note(at as u64);
        }
        match read_below(file, into, length, at) {
            // What the disk cannot read now SQLite would call damaged; it may be there the next time.
            SQLITE_IOERR_CORRUPTFS => SQLITE_IOERR_READ,
            read => read,
        }
    }
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    bytes: *const c_void,
    length: c_int,
    at: sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite's file, and its bytes, `length` of them.
    unsafe {
        let this = of(file);
        if this.is_wal {
            return this.gather(std::slice::from_raw_parts(bytes.cast::<u8>(), length as usize), at);
        }
        match (*(*this.below).pMethods).xWrite {
            Some(write) => write(this.below, bytes, length, at),
            None => SQLITE_IOERR,
        }
    }
}

unsafe extern "C" fn shm_lock(file: *mut sqlite3_file, first: c_int, count: c_int, flags: c_int) -> c_int {
    // SAFETY: SQLite's file, and the WAL that belongs to it, which are used by one thread at a time.
    unsafe {
        let this = of(file);
        // Frames of a transaction that was given up, which nobody reads; but another connection may be the next to write there.
        if let (Some(wal), true) = (this.other.as_mut(), flags & SQLITE_SHM_UNLOCK != 0) {
            let _ = wal.flush();
        }
        match (*(*this.below).pMethods).xShmLock {
            Some(lock) => lock(this.below, first, count, flags),
            None => SQLITE_IOERR,
        }
    }
}

/// Keeps the WAL's index in memory, as far as this process may. The kernel forgets pages of a file that it could not write
/// when it needs their memory, and SQLite would not find frames that are there.
unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    memory: *mut *mut c_void,
) -> c_int {
    // SAFETY: SQLite's file and arguments. The VFS below has mapped `size` bytes where it says so, which are locked until they
    // are unmapped.
    unsafe {
        let below = of(file).below;
        let Some(map) = (*(*below).pMethods).xShmMap else { return SQLITE_IOERR };
        let mapped = map(below, region, size, extend, memory);
        if mapped == SQLITE_OK && !(*memory).is_null() {
            libc::mlock(*memory, size as usize);
        }
        mapped
    }
}

unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    // SAFETY: SQLite's file.
    unsafe {
        let below = of(file).below;
        if let Some(barrier) = (*(*below).pMethods).xShmBarrier {
            barrier(below);
        }
    }
}

/// Methods of the VFS below. With `flushed`, what is kept is passed on first.
macro_rules! below {
    ($($name:ident = $method:ident($($argument:ident: $type:ty),*) $($flushed:ident)?;)*) => {$(
        unsafe extern "C" fn $name(file: *mut sqlite3_file, $($argument: $type),*) -> c_int {
            // SAFETY: SQLite's file and arguments.
            unsafe {
                let this = of(file);
                $(
                    let $flushed = this.flush();
                    if $flushed != SQLITE_OK {
                        return $flushed;
                    }
                )?
                match (*(*this.below).pMethods).$method {
                    Some(method) => method(this.below, $($argument),*),
                    None => SQLITE_IOERR,
                }
            }
        }
    )*};
}

below! {
    read_below = xRead(into: *mut c_void, length: c_int, at: sqlite3_int64) flushed;
    truncate = xTruncate(size: sqlite3_int64) flushed;
    sync = xSync(flags: c_int) flushed;
    file_size = xFileSize(size: *mut sqlite3_int64) flushed;
    lock = xLock(level: c_int) flushed;
    unlock = xUnlock(level: c_int) flushed;
    check_reserved_lock = xCheckReservedLock(result: *mut c_int) flushed;
    file_control = xFileControl(operation: c_int, argument: *mut c_void) flushed;
    sector_size = xSectorSize();
    device_characteristics = xDeviceCharacteristics();
    shm_unmap = xShmUnmap(delete: c_int);
    fetch = xFetch(at: sqlite3_int64, length: c_int, memory: *mut *mut c_void) flushed;
    unfetch = xUnfetch(at: sqlite3_int64, memory: *mut c_void) flushed;
}

const METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 3,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: Some(fetch),
    xUnfetch: Some(unfetch),
};

#[cfg(test)]
mod tests;
