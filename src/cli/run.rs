//! `wsd run`.

use super::{USAGE, complain, configure, signals};
use crate::config::{Defaults, Flags};
use crate::daemon::Daemon;
use crate::mount::Choice;
use clap::Args;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use tokio::process::{Child, Command};

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
        return complain("FUSE_MOUNT: \"none\" is not accepted: a command cannot run in a workspace that is not mounted", USAGE);
    }
    // A command needs the workspace: no mount is a failure here.
    let daemon = match Daemon::start(crate::config::Config { mount: Choice::Fuse, ..config }) {
        Ok(daemon) => daemon,
        Err(error) => return complain(error, 1),
    };
    let status = daemon.block_on(run_command(&args.command, &daemon.config().mount_point));
    let stopped = daemon.stop();
    match (status, stopped) {
        (Ok(status), Ok(())) => exit_code(status),
        (Err(error), _) => complain(format_args!("{:?} cannot be run: {error}", args.command[0]), 127),
        (_, Err(error)) => complain(error, 1),
    }
}

async fn run_command(command: &[OsString], directory: &std::path::Path) -> io::Result<ExitStatus> {
    let mut signals = signals::Signals::new()?;
    let mut child = Command::new(&command[0]).args(&command[1..]).current_dir(directory).spawn()?;
    loop {
        tokio::select! {
            status = child.wait() => return status,
            // An interrupt from the terminal reaches the command by itself.
            is_term = signals.wait() => if is_term { terminate(&child) },
        }
    }
}

fn terminate(child: &Child) {
    let pid = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// As a shell has it: 128 and the signal for a command that was killed.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(code as u8)
}
