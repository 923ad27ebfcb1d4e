//! Errors as data: a code, a message, what it is about, and whether anything was changed.

use crate::error::FsError;

/// Most bytes of a message, and of a path that is repeated in an error: no valid path is longer.
const MAX_ECHO: usize = 4096;

/// What a call returns.
pub type Outcome<T> = Result<T, Failure>;

/// Whether a call that failed changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing was changed.
    No,
    /// The change was made, at least in part.
    Yes,
    /// Nobody can tell.
    Unknown,
}

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Failure {
    /// A POSIX name, or one of wsd's own (see `schema/common.capnp`).
    pub code: &'static str,
    /// One line for a person.
    pub message: String,
    /// What it is about, as the caller wrote it; empty where no single path is.
    pub path: Vec<u8>,
    /// Whether anything was changed.
    pub applied: Applied,
}

impl Failure {
    /// A failure that changed nothing. A message of several lines, as libraries give them, becomes one, and not a
    /// long one.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.contains('\n') {
            message = message.split_whitespace().collect::<Vec<_>>().join(" ");
        }
        message.truncate(message.floor_char_boundary(MAX_ECHO));
        Self { code, message, path: Vec::new(), applied: Applied::No }
    }

    /// Arguments that make no sense.
    pub fn protocol(message: impl Into<String>) -> Self {
        Self::new("EPROTOCOL", message)
    }

    /// The same, about a path.
    #[must_use]
    pub fn at(mut self, path: &[u8]) -> Self {
        if self.path.is_empty() {
            self.path = path[..path.len().min(MAX_ECHO)].to_vec();
        }
        self
    }

    /// The same, of a call that has changed something.
    #[must_use]
    pub fn after(mut self, applied: Applied) -> Self {
        self.applied = applied;
        self
    }
}

impl From<FsError> for Failure {
    fn from(error: FsError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// Says what an error is about.
pub(super) trait About<T> {
    /// The same result, about a path.
    fn about(self, path: &[u8]) -> Outcome<T>;
}

impl<T, E: Into<Failure>> About<T> for Result<T, E> {
    fn about(self, path: &[u8]) -> Outcome<T> {
        self.map_err(|error| error.into().at(path))
    }
}
