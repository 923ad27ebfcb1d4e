//! The one error of the filesystem, and its two faces: an errno for the kernel, a code for the wire.

use std::sync::Arc;

/// What an error says first if there is no room: older replicas and hubs know it by that.
pub const NO_SPACE: &str = "no space left";

/// Why a filesystem operation failed. Every variant has exactly one errno and one wire code.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what the variant means")]
pub enum FsError {
    #[error("no such file or directory")]
    NotFound,
    #[error("the name exists already")]
    Exists,
    #[error("not a directory")]
    NotDir,
    #[error("is a directory")]
    IsDir,
    #[error("the directory is not empty")]
    NotEmpty,
    #[error("a name is longer than 255 bytes, or a symlink target longer than 4095")]
    NameTooLong,
    #[error("permission denied")]
    Access,
    #[error("operation not permitted")]
    NotPermitted,
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    #[error("the file would be larger than 16 TiB")]
    FileTooBig,
    #[error("too many links to one file")]
    TooManyLinks,
    #[error("too many levels of symbolic links")]
    Loop,
    #[error("no space left: the workspace's quota or the store's disk is full")]
    NoSpace,
    /// The same, of much at once.
    #[error("no space left: {more} bytes more are needed, and the workspace's quota leaves {free}")]
    NoRoom { more: u64, free: u64 },
    #[error("no such attribute")]
    NoAttribute,
    #[error("the value does not fit the buffer")]
    Range,
    #[error("the value is too large")]
    TooBig,
    #[error("no data or hole at or after this offset")]
    NoSuchOffset,
    #[error("the file handle is stale: the node is gone")]
    Stale,
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    #[error("the workspace is shutting down")]
    ShuttingDown,
    /// The store could not read or write. The text is for the log and the wire; the kernel sees `EIO`.
    #[error("store: {0}")]
    Io(Arc<str>),
}

/// The system's words for an error, in one line, without its number.
pub fn plain(error: &std::io::Error) -> String {
    plain_words(&error.to_string())
}

/// The same for what has come as text, wherever in it the number is.
pub fn plain_words(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let first = parts.next().unwrap_or_default().to_owned();
    let words = parts.fold(first, |text, part| text + part.split_once(')').map_or("", |(_, rest)| rest));
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a filesystem operation returns.
pub type FsResult<T> = Result<T, FsError>;

impl FsError {
    /// The errno the kernel answers a program with (`errno(3)`).
    pub fn errno(&self) -> i32 {
        self.pair().0
    }

    /// The name of that errno, which is the code on the wire.
    pub fn code(&self) -> &'static str {
        self.pair().1
    }

    fn pair(&self) -> (i32, &'static str) {
        match self {
            Self::NotFound => (libc::ENOENT, "ENOENT"),
            Self::Exists => (libc::EEXIST, "EEXIST"),
            Self::NotDir => (libc::ENOTDIR, "ENOTDIR"),
            Self::IsDir => (libc::EISDIR, "EISDIR"),
            Self::NotEmpty => (libc::ENOTEMPTY, "ENOTEMPTY"),
            Self::NameTooLong => (libc::ENAMETOOLONG, "ENAMETOOLONG"),
            Self::Access => (libc::EACCES, "EACCES"),
            Self::NotPermitted => (libc::EPERM, "EPERM"),
            Self::Invalid(_) => (libc::EINVAL, "EINVAL"),
            Self::FileTooBig => (libc::EFBIG, "EFBIG"),
            Self::TooManyLinks => (libc::EMLINK, "EMLINK"),
            Self::Loop => (libc::ELOOP, "ELOOP"),
            Self::NoSpace | Self::NoRoom { .. } => (libc::ENOSPC, "ENOSPC"),
            Self::NoAttribute => (libc::ENODATA, "ENODATA"),
            Self::Range => (libc::ERANGE, "ERANGE"),
            Self::TooBig => (libc::E2BIG, "E2BIG"),
            Self::NoSuchOffset => (libc::ENXIO, "ENXIO"),
            Self::Stale => (libc::ESTALE, "ESTALE"),
            Self::NotSupported(_) => (libc::EOPNOTSUPP, "EOPNOTSUPP"),
            Self::ShuttingDown => (libc::ESHUTDOWN, "ESHUTDOWN"),
            Self::Io(_) => (libc::EIO, "EIO"),
        }
    }
}
