//! Why the store refused, or could not.

use crate::error::{FsError, plain};
use std::fmt::Display;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Bytes on the disk that SQLite can begin with, and more: the WAL's index, and frames enough to remove things with.
pub(super) const ROOM_TO_START: u64 = 1 << 20;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what the variant means")]
pub enum StoreError {
    #[error("the store path {0:?} is not absolute: give the full path of a file, or `memory`")]
    NotAbsolute(PathBuf),
    #[error("the store {store:?} would be inside the mount point {mount_point:?}: put it elsewhere")]
    InsideMount { store: PathBuf, mount_point: PathBuf },
    #[error("{0:?} is not a wsd store: it is left as it is; give another path")]
    NotAStore(PathBuf),
    #[error("{path:?} is a {kind}, and a store is a file: give the path of one, or of none yet")]
    NotAFile { path: PathBuf, kind: &'static str },
    #[error(
        "the store {0:?} has a second name (a hard link), which would tear it from its WAL: find that with `find -samefile`, and \
         remove it"
    )]
    Linked(PathBuf),
    #[error(
        "{path:?} was written by a newer wsd (store version {found}); this one knows versions up to {known}: upgrade wsd"
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("the store {path:?} is in use by another wsd (process {pid}): stop it, or give another path")]
    InUse { path: PathBuf, pid: String },
    #[error("cannot open the store {path:?}: {}; {}", plain(source), advice(source.kind()))]
    Open { path: PathBuf, source: std::io::Error },
    #[error("the disk of the store is full")]
    Full,
    #[error(
        "the disk of the store {path:?} is full ({free} bytes are free): remove something beside the store, a megabyte is enough to \
         start with; all that was in it is there"
    )]
    NoRoom { path: PathBuf, free: u64 },
    #[error(
        "the store {0:?} cannot be written, and has a WAL that would have to be folded into it first: copy both, FILE and \
         FILE-wal, to a disk that can be written"
    )]
    Unfolded(PathBuf),
    #[error(
        "{path:?} was written by an older wsd (store version {found}; this one writes {known}) and cannot be written, so it is not \
         brought up to date: copy it to a disk that can be written"
    )]
    Older { path: PathBuf, found: i64, known: i64 },
    #[error("another program keeps the store locked: end what it does there")]
    Busy,
    #[error("the store cannot be written; {}", advice(ErrorKind::ReadOnlyFilesystem))]
    ReadOnly,
    #[error("the store's tables could not be brought up to date: {0}")]
    Migration(#[from] rusqlite_migration::Error),
    #[error("the store holds a value that no wsd has written: {0}; `wsd check` names all that is wrong")]
    Corrupt(String),
    #[error(
        "the file of the store{} is damaged ({source}): `wsd check` names what is wrong; restore a copy of it",
        named(store)
    )]
    Damaged { store: Option<PathBuf>, source: rusqlite::Error },
    #[error(
        "the disk of the store failed, and what was written meanwhile and not synced is gone from it and from the kernel's memory: \
         stop wsd and start it again, which goes back to the last moment that is whole"
    )]
    Lost,
    #[error("SQLite: {0}")]
    Sqlite(rusqlite::Error),
    #[error("the store's disk: {0}")]
    Disk(#[from] std::io::Error),
}

/// What to do where a store cannot be opened.
fn advice(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::PermissionDenied => {
            "give this user the right to write the file and its directory, or put the store elsewhere with --db (WSD_DB)"
        }
        ErrorKind::ReadOnlyFilesystem => {
            "put it on a disk that can be written with --db (WSD_DB), or use --db memory to keep nothing"
        }
        ErrorKind::StorageFull => "make room, or put the store elsewhere with --db (WSD_DB)",
        _ => "give another path with --db (WSD_DB)",
    }
}

fn named(store: &Option<PathBuf>) -> String {
    store.as_ref().map(|store| format!(" {store:?}")).unwrap_or_default()
}

impl StoreError {
    /// The same, of this store.
    pub(super) fn of(mut self, path: Option<&Path>) -> Self {
        if let Self::Damaged { store, .. } = &mut self {
            *store = store.take().or_else(|| path.map(Path::to_path_buf));
        }
        self
    }

    /// The same of a store that could not be opened, on a disk with so much room.
    pub(super) fn on_opening(self, path: Option<&Path>, free: u64) -> Self {
        let may_be_for_room =
            matches!(&self, Self::Sqlite(_) | Self::Migration(_) | Self::Full | Self::Disk(_));
        match path {
            Some(path) if may_be_for_room && free < ROOM_TO_START => {
                Self::NoRoom { path: path.to_path_buf(), free }
            }
            path => self.of(path),
        }
    }

    /// Whether it is only that the store cannot be written.
    pub(super) fn is_of_writing(&self) -> bool {
        let kind = match self {
            Self::Open { source, .. } => source.kind(),
            Self::ReadOnly | Self::NoRoom { .. } => return true,
            _ => return false,
        };
        matches!(kind, ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull)
    }

    /// The same of a value that is there.
    pub(super) fn at(self, place: impl Display) -> Self {
        use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType};
        match self {
            Self::Corrupt(why) => Self::Corrupt(format!("{place}: {why}")),
            Self::Sqlite(
                why @ (FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..)),
            ) => Self::Corrupt(format!("{place}: {why}")),
            other => other,
        }
    }
}

/// What the store returns.
pub type StoreResult<T> = Result<T, StoreError>;

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
            Some(rusqlite::ErrorCode::DatabaseBusy) => Self::Busy,
            Some(rusqlite::ErrorCode::ReadOnly) => Self::ReadOnly,
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                Self::Damaged { store: None, source: error }
            }
            _ => Self::Sqlite(error),
        }
    }
}

impl From<StoreError> for FsError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::NoSpace,
            other => Self::Io(other.to_string().into()),
        }
    }
}
