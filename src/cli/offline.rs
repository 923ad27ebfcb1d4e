//! A workspace that no daemon serves: one is started for as long as a command needs it, without a mount, reached by
//! nobody else.

use super::complain;
use super::out::Out;
use super::talk::{Failure, options, talk_to};
use crate::client::{Client, ClientOptions};
use crate::config::{ClientFlags, Config, Defaults, Flags};
use crate::daemon::Daemon;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct OfflineFlags {
    /// The store's file, for one that no daemon has open
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    db: Option<PathBuf>,
}

/// Does the work on a running daemon, or on a store.
pub(super) fn work_on(
    remote: &ClientFlags,
    offline: &OfflineFlags,
    work: impl AsyncFnOnce(&Client, &mut Out) -> Result<bool, Failure>,
) -> ExitCode {
    let Some(store) = &offline.db else {
        return match options(remote) {
            Ok(options) => talk_to(options, work),
            Err(code) => code,
        };
    };
    let store = std::path::absolute(store).unwrap_or_else(|_| store.clone());
    let secret = match secret() {
        Ok(secret) => secret,
        Err(error) => return complain(error, 1),
    };
    let flags = Flags {
        port: Some("0".into()),
        host: Some("127.0.0.1".into()),
        fuse_mount: Some("none".into()),
        db: Some(store.to_string_lossy().into_owned()),
        token: Some(secret.clone()),
        ..Flags::default()
    };
    let daemon = Config::load(&flags, Defaults::RUN).map_err(|error| complain(error, super::USAGE));
    let daemon = daemon.and_then(|config| Daemon::start(config).map_err(|error| complain(error, 1)));
    let daemon = match daemon {
        Ok(daemon) => daemon,
        Err(code) => return code,
    };
    let url = format!("ws://127.0.0.1:{}/ws", daemon.port());
    let code = talk_to(ClientOptions { token: Some(secret), ..ClientOptions::new(url) }, work);
    match daemon.stop() {
        Ok(()) => code,
        Err(error) => complain(error, 1),
    }
}

/// Something that nobody guesses.
fn secret() -> std::io::Result<String> {
    let mut random = [0; 32];
    rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
