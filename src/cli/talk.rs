//! Commands that talk to a daemon: connecting, and saying what went wrong.

use super::out::{Out, escape};
use super::{USAGE, complain};
use crate::client::{Applied, Client, ClientError, ClientOptions};
use crate::config::{ClientConfig, ClientFlags};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The exit code of most commands that fail.
pub(super) const FAILURE: u8 = 1;

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The daemon refused, or was not there.
    Client(ClientError),
    /// A file of this machine.
    Local(PathBuf, io::Error),
    /// Standard output.
    Out(io::Error),
    /// An archive that is written: what comes after what is missing in it would make no sense.
    Archive(PathBuf, io::Error),
    /// The arguments together make no sense.
    Usage(String),
}

/// How a command ended; false is exit code 1 without another word.
pub(super) type Done = Result<bool, Failure>;

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl Failure {
    /// A directory where a file is wanted.
    pub(super) fn is_directory(path: &[u8]) -> Self {
        Self::Client(ClientError::Refused {
            code: "EISDIR".to_owned(),
            message: "is a directory: use -r".to_owned(),
            path: path.to_owned(),
            applied: Applied::No,
        })
    }

    /// Of a local file.
    pub(super) fn local(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |error| Self::Local(path.clone(), error)
    }

    /// Whether nothing would go better after it.
    pub(super) fn is_last(&self) -> bool {
        match self {
            Self::Out(_) | Self::Archive(..) | Self::Usage(_) => true,
            Self::Client(error) => !matches!(error, ClientError::Refused { .. }),
            _ => false,
        }
    }

    /// Says it in one line; the exit code.
    pub(super) fn report(&self) -> u8 {
        match self {
            Self::Out(error) if error.kind() == io::ErrorKind::BrokenPipe => return 0,
            Self::Usage(message) => {
                eprintln!("wsd: {message}");
                return USAGE;
            }
            Self::Client(error) => {
                let hint = match error.applied() {
                    Applied::No => "",
                    Applied::Yes => "; a part of it was done",
                    Applied::Unknown => "; it may have been done or not",
                };
                say(error.path(), &format!("{error}{hint}"), error.code());
            }
            Self::Local(path, error) | Self::Archive(path, error) => {
                say_io(path.as_os_str().as_bytes(), error)
            }
            Self::Out(error) => say_io(b"standard output", error),
        }
        FAILURE
    }
}

fn say(path: &[u8], message: &str, code: &str) {
    let about = if path.is_empty() { "" } else { ": " };
    let path = String::from_utf8_lossy(&escape(path)).into_owned();
    let message = String::from_utf8_lossy(&escape(message.as_bytes())).into_owned();
    eprintln!("wsd: {path}{about}{message} ({code})");
}

fn say_io(path: &[u8], error: &io::Error) {
    let text = error.to_string();
    let message = text.split(" (os error").next().unwrap_or_default();
    let code = match error.kind() {
        io::ErrorKind::NotFound => "ENOENT",
        io::ErrorKind::PermissionDenied => "EACCES",
        io::ErrorKind::AlreadyExists => "EEXIST",
        io::ErrorKind::IsADirectory => "EISDIR",
        io::ErrorKind::NotADirectory => "ENOTDIR",
        io::ErrorKind::DirectoryNotEmpty => "ENOTEMPTY",
        io::ErrorKind::StorageFull => "ENOSPC",
        io::ErrorKind::ReadOnlyFilesystem => "EROFS",
        io::ErrorKind::InvalidInput => "EINVAL",
        _ => "EIO",
    };
    say(path, message, code);
}

/// Whom to talk to.
pub(super) fn options(flags: &ClientFlags) -> Result<ClientOptions, ExitCode> {
    let ClientConfig { url, token } = ClientConfig::load(flags).map_err(|error| complain(error, USAGE))?;
    Ok(ClientOptions { token, ..ClientOptions::new(url) })
}

/// Connects, does the work, and says how it ended.
pub(super) fn talk(flags: &ClientFlags, work: impl AsyncFnOnce(&Client, &mut Out) -> Done) -> ExitCode {
    talk_code(flags, FAILURE, async |client, out| work(client, out).await.map(code_of))
}

/// The same for work that has exit codes of its own: `failed` when it could not be done.
pub(super) fn talk_code(
    flags: &ClientFlags,
    failed: u8,
    work: impl AsyncFnOnce(&Client, &mut Out) -> Result<u8, Failure>,
) -> ExitCode {
    let options = match options(flags) {
        Ok(options) => options,
        Err(code) => return code,
    };
    finish_code(failed, async |out| work(&Client::connect(options).await?, out).await)
}

/// The same with a daemon that is known already.
pub(super) fn talk_to(options: ClientOptions, work: impl AsyncFnOnce(&Client, &mut Out) -> Done) -> ExitCode {
    finish(async |out| work(&Client::connect(options).await?, out).await)
}

fn code_of(is_good: bool) -> u8 {
    u8::from(!is_good)
}

/// Does work that prints something, and says how it ended.
pub(super) fn finish(work: impl AsyncFnOnce(&mut Out) -> Done) -> ExitCode {
    finish_code(FAILURE, async |out| work(out).await.map(code_of))
}

fn finish_code(failed: u8, work: impl AsyncFnOnce(&mut Out) -> Result<u8, Failure>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(error, 1),
    };
    let mut out = Out::new();
    let done = runtime.block_on(work(&mut out));
    let done = out.flush().and(done);
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => match failure.report() {
            FAILURE => ExitCode::from(failed),
            code => ExitCode::from(code),
        },
    }
}

/// Whether one of several went well; one that did not is reported, and the others go on.
pub(super) fn went_well(result: Result<(), Failure>) -> Done {
    match result {
        Ok(()) => Ok(true),
        Err(failure) if failure.is_last() => Err(failure),
        Err(failure) => {
            failure.report();
            Ok(false)
        }
    }
}

/// One of several that are looked for. One that could not be read is reported, is not good, and the others come after it.
pub(super) fn if_read<T>(found: Result<T, ClientError>, is_good: &mut bool) -> Result<Option<T>, Failure> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) => {
            *is_good &= went_well(Err(error.into()))?;
            Ok(None)
        }
    }
}

/// A name in a directory.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_owned();
    if !path.is_empty() && !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The last name of a path.
pub(super) fn base_name(path: &[u8]) -> Option<&[u8]> {
    Path::new(OsStr::from_bytes(path)).file_name().map(OsStr::as_bytes)
}

/// Paths of the command line, or the mount point.
pub(super) fn paths_or_root(paths: &[OsString]) -> Vec<&[u8]> {
    if paths.is_empty() {
        return vec![b"."];
    }
    paths.iter().map(|path| path.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_put_together_and_taken_apart() {
        assert_eq!(join(b"/w", b"a"), b"/w/a");
        assert_eq!(join(b"/w/", b"a"), b"/w/a");
        assert_eq!(join(b"", b"a"), b"a");
        assert_eq!(base_name(b"/w/a\xff/"), Some(&b"a\xff"[..]));
        assert_eq!(base_name(b"/"), None);
        assert_eq!(base_name(b"a/.."), None);
    }
}
