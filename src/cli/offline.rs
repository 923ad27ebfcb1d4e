//! A workspace that no daemon serves: one is started for as long as a command needs it, without a mount, reached by
//! nobody else.

use super::complain;
use super::out::Out;
use super::talk::{Failure, options, talk_to};
use crate::client::{Client, ClientOptions};
use crate::config::{ClientFlags, Config, ConfigError, Defaults, Flags};
use crate::daemon::Daemon;
use crate::store::Location;
use crate::store::error::StoreError;
use clap::Args;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::sync::oneshot;

#[derive(Args)]
pub(super) struct OfflineFlags {
    /// The store's file, for one that no daemon has open
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    db: Option<PathBuf>,
}

/// What becomes of a store that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    IsMade,
    IsRefused,
}

/// Does the work on a running daemon, or on a store.
pub(super) fn work_on(
    remote: &ClientFlags,
    offline: &OfflineFlags,
    missing: Missing,
    work: impl AsyncFnOnce(&Client, &mut Out) -> Result<bool, Failure> + Send,
) -> ExitCode {
    let Some(store) = &offline.db else {
        return match options(remote) {
            Ok(options) => talk_to(options, work),
            Err(code) => code,
        };
    };
    let store = std::path::absolute(store).unwrap_or_else(|_| store.clone());
    if missing == Missing::IsRefused
        && let Err(source) = store.metadata()
    {
        return complain(StoreError::Open { path: store, source }, 1);
    }
    let secret = match secret() {
        Ok(secret) => secret,
        Err(error) => return complain(error, 1),
    };
    let daemon = configure(&store, &secret).map_err(|error| complain(error, super::USAGE));
    let daemon = daemon.and_then(|config| Daemon::start(config).map_err(|error| complain(error, 1)));
    let mut daemon = match daemon {
        Ok(daemon) => daemon,
        Err(code) => return code,
    };
    let url = format!("ws://127.0.0.1:{}/ws", daemon.port());
    let options = ClientOptions { token: Some(secret), ..ClientOptions::new(url) };
    std::thread::scope(|scope| {
        let (end, ended) = oneshot::channel();
        scope.spawn(move || end.send(talk_to(options, work)));
        let done = until_signal(&mut daemon, ended);
        let stopped = daemon.stop();
        match (done, stopped) {
            // The work may wait for its input for ever: it is not waited for.
            (Err(signal), _) => std::process::exit(128 + signal),
            (Ok(code), Ok(())) => code,
            (Ok(_), Err(error)) => complain(error, 1),
        }
    })
}

/// Waits for the work, but no longer than until a signal.
fn until_signal(daemon: &mut Daemon, ended: oneshot::Receiver<ExitCode>) -> Result<ExitCode, i32> {
    let (tell, told) = oneshot::channel();
    let mut tell = Some(tell);
    let first = async {
        tokio::select! {
            code = ended => Ok(code.unwrap_or(ExitCode::FAILURE)),
            is_term = told => Err(if is_term == Ok(true) { libc::SIGTERM } else { libc::SIGINT }),
        }
    };
    daemon.wait_for(first, |is_term| {
        if let Some(tell) = tell.take() {
            let _ = tell.send(is_term);
        }
    })
}

/// The settings of a daemon for this store and one client, with no upstream, whatever the environment says.
fn configure(store: &Path, secret: &str) -> Result<Config, ConfigError> {
    let flags = Flags {
        port: Some("0".into()),
        host: Some("127.0.0.1".into()),
        fuse_mount: Some("none".into()),
        // Not a text, as a setting is: any path of a file will do.
        db: Some("memory".into()),
        token: Some(secret.to_owned()),
        ..Flags::default()
    };
    let mut config = Config::load(&flags, Defaults::RUN)?;
    config.store = Location::File(store.to_path_buf());
    config.sync.upstream = None;
    Ok(config)
}

/// Something that nobody guesses.
fn secret() -> io::Result<String> {
    let mut random = [0; 32];
    rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
