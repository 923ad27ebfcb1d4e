//! `wsd __guard`: started by the daemon, see [`crate::mount::guard`].

use super::complain;
use crate::mount::guard::{Mark, Post};
use clap::Args;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

/// How often it is looked whether the daemon has ended, after the kernel has said so.
const LOOKS: u32 = 500;

/// The time between two looks.
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Args)]
pub(super) struct GuardArgs {
    daemon: u32,
    point: PathBuf,
    number: u64,
    /// The number is the device's.
    #[arg(long)]
    device: bool,
}

pub(super) fn guard(args: GuardArgs) -> ExitCode {
    let mark = if args.device { Mark::Device(args.number) } else { Mark::Mount(args.number) };
    let post = Post { daemon: args.daemon, point: args.point.clone(), mark };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(watch(post))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(format!("the guard of the mount {:?}: {error}", args.point), 1),
    }
}

/// Returns when the daemon has ended and its connection has been aborted.
async fn watch(post: Post) -> std::io::Result<()> {
    let kind = SignalKind::user_defined1();
    let mut told = signal(kind)?;
    // Who stops a whole group of processes means the daemon, which unmounts by itself.
    let mut terminated = signal(SignalKind::terminate())?;
    let Some(watchman) = post.take(kind.as_raw_value())? else { return Ok(()) };
    // The daemon waits for that.
    let _ = writeln!(std::io::stdout());
    let mut looks = 0;
    while watchman.daemon_lives() {
        tokio::select! {
            // Or somebody else has sent it.
            _ = told.recv() => looks = LOOKS,
            _ = terminated.recv() => {}
            () = sleep(PAUSE), if looks > 0 => looks -= 1,
        }
    }
    watchman.relieve()
}
