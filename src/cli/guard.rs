//! `wsd __guard`: started by the daemon, see [`crate::mount::guard`].

use super::complain;
use crate::mount::guard::Post;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Args)]
pub(super) struct GuardArgs {
    daemon: u32,
    point: PathBuf,
    mount: u64,
}

pub(super) fn guard(args: GuardArgs) -> ExitCode {
    let post = Post { daemon: args.daemon, point: args.point, mount: args.mount };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let watched = runtime.and_then(|runtime| runtime.block_on(watch(&post)));
    match watched.and_then(|()| post.relieve()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(format!("the mount {:?} of a daemon that ended: {error}", post.point), 1),
    }
}

/// Returns when the daemon has ended.
async fn watch(post: &Post) -> std::io::Result<()> {
    let kind = SignalKind::user_defined1();
    let mut told = signal(kind)?;
    // Who stops a whole group of processes means the daemon, which unmounts by itself.
    let mut terminated = signal(SignalKind::terminate())?;
    let mut alive = post.take(kind.as_raw_value())?;
    while alive {
        tokio::select! {
            _ = told.recv() => {}
            _ = terminated.recv() => {}
        }
        alive = post.daemon_lives();
    }
    Ok(())
}
