//! Why a call failed, and whether it changed anything.

use crate::error::plain_words;
use crate::parcel::Wrong;
use std::borrow::Cow;
use wsd_schema::common_capnp::{self, error};

/// Whether a call that failed changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing was changed.
    No,
    /// The change was made, at least in part.
    Yes,
    /// Nobody can tell: the connection was lost before the answer came.
    Unknown,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The daemon said no.
    #[error("{message}")]
    Refused {
        /// A POSIX name, or one of wsd's own.
        code: String,
        /// One line for a person.
        message: String,
        /// What it is about, as the caller wrote it; may be empty.
        path: Vec<u8>,
        /// Whether anything was changed.
        applied: Applied,
    },
    /// The address makes no sense.
    #[error("{url:?} is not the address of a daemon: {reason}; give one such as ws://127.0.0.1:45678/ws")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answered there, or nobody who speaks our language.
    #[error("cannot connect to {url}: {}; {advice}", plain_words(reason))]
    Connect {
        /// What was tried.
        url: String,
        /// What happened.
        reason: String,
        /// What to do about it.
        advice: &'static str,
        /// Whether it may be otherwise if it is tried again.
        is_temporary: bool,
    },
    /// The daemon did not accept the secret.
    #[error("{url} does not let us in: set WSD_TOKEN to the secret of that daemon")]
    Secret {
        /// What was tried.
        url: String,
    },
    /// The connection went away under a call.
    #[error("the connection to {url} was lost: {}", plain_words(reason))]
    Lost {
        /// To whom.
        url: String,
        /// How it ended.
        reason: String,
        /// Whether anything was changed.
        applied: Applied,
    },
    /// An answer that makes no sense.
    #[error(
        "{url} gave an answer that makes no sense: {}; is it a wsd of another version?",
        plain_words(reason)
    )]
    Protocol {
        /// By whom.
        url: String,
        /// What is wrong with it.
        reason: String,
        /// Whether anything was changed.
        applied: Applied,
    },
    /// The client was closed, or could not start its thread.
    #[error("the client has ended: {0}")]
    Closed(String),
}

impl ClientError {
    /// The code, in the style of errno(3).
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            Self::Url { .. } => "EINVAL",
            Self::Connect { .. } => "ENOTCONN",
            Self::Secret { .. } => "EAUTH",
            Self::Lost { .. } => "ECONNRESET",
            Self::Protocol { .. } => "EPROTOCOL",
            Self::Closed(_) => "ESHUTDOWN",
        }
    }

    /// What it is about, as the caller wrote it; empty where no single path is.
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Refused { path, .. } => path,
            _ => &[],
        }
    }

    /// Whether the call changed anything.
    pub fn applied(&self) -> Applied {
        match self {
            Self::Refused { applied, .. } | Self::Lost { applied, .. } | Self::Protocol { applied, .. } => {
                *applied
            }
            Self::Url { .. } | Self::Connect { .. } | Self::Secret { .. } | Self::Closed(_) => Applied::No,
        }
    }

    /// A refusal of our own, in the daemon's terms.
    pub(super) fn refusal(code: &str, message: impl Into<Cow<'static, str>>, path: &[u8]) -> Self {
        Self::Refused {
            code: code.to_owned(),
            message: message.into().into_owned(),
            path: path.to_owned(),
            applied: Applied::No,
        }
    }
}

/// How a call ended badly, before it is known what that means to the caller.
#[derive(Debug)]
pub(super) enum Failure {
    /// Told as data.
    Told(ClientError),
    /// The call itself did not work.
    Broken(capnp::Error),
}

impl From<capnp::Error> for Failure {
    fn from(error: capnp::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<capnp::NotInSchema> for Failure {
    fn from(error: capnp::NotInSchema) -> Self {
        Self::Broken(error.into())
    }
}

impl From<Wrong> for Failure {
    fn from(wrong: Wrong) -> Self {
        Self::Broken(capnp::Error::failed(wrong.0))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Told(error)
    }
}

/// Looks at the `error` of a result.
pub(super) fn check(error: capnp::Result<error::Reader<'_>>) -> Result<(), Failure> {
    let error = error?;
    // Null, not an error without a code.
    if error.total_size()?.word_count == 0 {
        return Ok(());
    }
    let applied = match error.get_applied()? {
        common_capnp::Applied::No => Applied::No,
        common_capnp::Applied::Yes => Applied::Yes,
        common_capnp::Applied::Unknown => Applied::Unknown,
    };
    let text = |text: capnp::text::Reader<'_>| String::from_utf8_lossy(text.as_bytes()).into_owned();
    Err(Failure::Told(ClientError::Refused {
        code: text(error.get_code()?),
        message: text(error.get_message()?),
        path: error.get_path()?.to_vec(),
        applied,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use capnp::message::Builder;

    #[test]
    fn null_is_success_and_anything_else_is_not() {
        let mut message = Builder::new_default();
        let mut answer = message.init_root::<wsd_schema::fs_capnp::fs::stat_results::Builder<'_>>();
        assert!(check(answer.reborrow().into_reader().get_error()).is_ok());
        answer.reborrow().init_error();
        assert!(
            check(answer.reborrow().into_reader().get_error()).is_err(),
            "an error without a code is one"
        );
        let mut error = answer.reborrow().init_error();
        error.set_code("ENOENT");
        error.set_message("no such file");
        error.set_path(b"/workspace/\xff");
        error.set_applied(common_capnp::Applied::Yes);
        let Err(Failure::Told(told)) = check(answer.into_reader().get_error()) else { panic!("no error") };
        assert_eq!(
            (told.code(), told.to_string().as_str(), told.path()),
            ("ENOENT", "no such file", &b"/workspace/\xff"[..])
        );
        assert_eq!(told.applied(), Applied::Yes);
    }
}
