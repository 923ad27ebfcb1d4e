//! `wsd run`.

use super::{USAGE, complain, configure};
use crate::config::{Defaults, Flags};
use crate::daemon::{Daemon, ECHO};
use crate::mount::Choice;
use clap::Args;
use rustix::process::{Signal, kill_process};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Instant;
use tokio::sync::oneshot;

#[derive(Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    flags: Flags,
    /// The command and its arguments; it runs in the workspace
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(super) fn run(args: &RunArgs) -> ExitCode {
    let config = match configure(&args.flags, Defaults::RUN) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if config.mount == Choice::None {
        return complain(
            "FUSE_MOUNT: \"none\" is not accepted: a command cannot run in a workspace that is not mounted",
            USAGE,
        );
    }
    let mut daemon = match Daemon::start(config) {
        Ok(daemon) => daemon,
        Err(error) => return complain(error, 1),
    };
    let status = run_command(&mut daemon, &args.command);
    let stopped = daemon.stop();
    match (status, stopped) {
        (Ok(status), Ok(())) => exit_code(status),
        (Err(error), _) => {
            // As a shell has it.
            let code = if error.kind() == io::ErrorKind::PermissionDenied { 126 } else { 127 };
            complain(format_args!("{:?} cannot be run: {error}", args.command[0]), code)
        }
        (_, Err(error)) => complain(error, 1),
    }
}

fn run_command(daemon: &mut Daemon, command: &[OsString]) -> io::Result<ExitStatus> {
    let config = daemon.config();
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .current_dir(&config.mount_point)
        .envs(config.exec_env.iter().map(|(name, value)| (name, value)))
        .env_remove("WSD_TOKEN")
        .env_remove("UPSTREAM_TOKEN")
        .spawn()?;
    let pid = rustix::process::Pid::from_child(&child);
    let (end, ended) = oneshot::channel();
    std::thread::spawn(move || end.send(child.wait()));
    let mut first = None;
    let status = daemon.wait_for(ended, |is_term| {
        let signal = match (is_term, first) {
            (false, _) if is_in_foreground() => return,
            (false, _) => Signal::INT,
            (true, None) => Signal::TERM,
            (true, Some(at)) if Instant::now() < at + ECHO => return,
            (true, Some(_)) => Signal::KILL,
        };
        if is_term {
            first = first.or_else(|| Some(Instant::now()));
        }
        let _ = kill_process(pid, signal);
    });
    status.unwrap_or_else(|_| Err(io::Error::other("the thread that waited for it ended")))
}

/// Whether an interrupt reaches the command by itself: the terminal sends it to all processes in its foreground.
fn is_in_foreground() -> bool {
    let terminal = std::fs::File::open("/dev/tty");
    terminal.is_ok_and(|terminal| rustix::termios::tcgetpgrp(terminal) == Ok(rustix::process::getpgrp()))
}

/// As a shell has it: 128 and the signal for a command that was killed.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(code as u8)
}
