//! `wsd exec`.

use super::out::Out;
use super::talk::Failure;
use crate::client::{
    AttachedEvents, Client, Command, CommandEvent, CommandExit, CommandInput, CommandLimits,
};
use crate::client::{Stdin, Words};
use crate::config::ClientFlags;
use crate::daemon::{Hangup, hangup};
use bytes::Bytes;
use clap::Args;
use rustix::termios::{self, OptionalActions, Termios};
use std::ffi::OsString;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Bytes that are read from standard input at a time.
const PORTION: usize = 64 << 10;

/// Exit code of a command of which nobody knows how it ended.
const LOST: u8 = 255;

/// How long an interrupted command has to end before it is killed.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(super) struct ExecArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    /// Start it, print its id, and leave it running; `wsd logs -f ID` follows it
    #[arg(short, long)]
    detach: bool,
    /// Where it runs: below the mount point, or an absolute path
    #[arg(long, value_name = "DIRECTORY", default_value = "")]
    cwd: OsString,
    /// A variable of its environment
    #[arg(short = 'e', long = "env", value_name = "NAME=VALUE")]
    env: Vec<OsString>,
    /// Give it a pseudo-terminal, and let it have this one
    #[arg(short, long)]
    tty: bool,
    /// End it after so many seconds; 0: never
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    /// Its id; one is chosen if none is given
    #[arg(long, default_value = "")]
    id: String,
    /// Most seconds of processor time of each of its processes
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    limit_cpu: u64,
    /// Most bytes of address space of each of its processes
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    limit_memory: u64,
    /// Most processes and threads of the user, these among them
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    limit_processes: u64,
    /// Most bytes of each file that it writes
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    limit_file: u64,
    /// Most files that each of its processes has open
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    limit_open: u64,
    /// Start it when all that upstream has is here; if that cannot be, do not start it
    #[arg(long)]
    pull: bool,
    /// Have it end when what it did is upstream and durable there, or say why it is not
    #[arg(long)]
    push: bool,
    /// Wait for upstream no longer than this, each time; 0: as long as it takes
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    sync_timeout: f64,
    /// Run one word by /bin/sh -c
    #[arg(short = 'c', long)]
    shell: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl ExecArgs {
    fn command(&self) -> Result<Command, Failure> {
        let words: Vec<Vec<u8>> = self.command.iter().map(|word| word.as_bytes().to_vec()).collect();
        let words = if self.shell { Words::Shell(words.join(&b' ')) } else { Words::Argv(words) };
        let mut env = Vec::new();
        for variable in &self.env {
            let bytes = variable.clone().into_vec();
            let Some(equals) = bytes.iter().position(|byte| *byte == b'=') else {
                return Err(Failure::Usage(format!("-e {variable:?}: give NAME=VALUE")));
            };
            env.push((bytes[..equals].to_vec(), bytes[equals + 1..].to_vec()));
        }
        let timeout = self.timeout.map(Duration::try_from_secs_f64).transpose();
        let timeout = timeout.map_err(|error| Failure::Usage(format!("--timeout: {error}")))?;
        let sync_timeout = Duration::try_from_secs_f64(self.sync_timeout)
            .map_err(|error| Failure::Usage(format!("--sync-timeout: {error}")))?;
        let takes_input = !self.detach;
        Ok(Command {
            cwd: self.cwd.as_bytes().to_vec(),
            env,
            stdin: if takes_input { Stdin::Stream } else { Stdin::None },
            timeout: timeout.filter(|timeout| !timeout.is_zero()),
            terminal: self.tty.then(|| size().unwrap_or((24, 80))),
            id: self.id.clone(),
            limits: CommandLimits {
                cpu_seconds: self.limit_cpu,
                memory_bytes: self.limit_memory,
                processes: self.limit_processes,
                file_bytes: self.limit_file,
                open_files: self.limit_open,
            },
            pull: self.pull,
            push: self.push,
            sync_timeout: (!sync_timeout.is_zero()).then_some(sync_timeout),
            ..Command::new(words)
        })
    }
}

/// Runs it; the exit code is the command's.
pub(super) async fn exec(client: &Client, out: &mut Out, args: &ExecArgs) -> Result<u8, Failure> {
    let command = args.command()?;
    if args.detach {
        let attached = client.exec(command).await?;
        out.line(attached.id.as_bytes())?;
        return Ok(0);
    }
    let mut signals = Signals::new().map_err(|error| Failure::Local("signals".into(), error))?;
    let attached = tokio::select! {
        attached = client.exec(command) => attached?,
        code = signals.before_start(args.pull) => return Ok(code),
    };
    let id = attached.id.clone();
    let raw = if args.tty { Raw::enter() } else { None };
    let (input, mut events) = attached.split();
    tokio::spawn(send_input(input));
    let exit = follow(client, &id, out, &mut events, (&mut signals, args.tty)).await;
    drop(raw);
    if let Err(Failure::Out(_)) = &exit {
        // It writes to nobody: as a pipe tells a program here.
        let _ = client.kill(&id, "PIPE", Some(GRACE)).await;
    }
    exit.map(code)
}

/// Signals that are the command's: it does not outlive who waits for it here.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    hangup: Hangup,
    /// One that came before there was a command.
    came: Option<(&'static str, i32)>,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            hangup: hangup()?,
            came: None,
        })
    }

    /// The next one's name and number.
    async fn next(&mut self) -> (&'static str, i32) {
        if let Some(came) = self.came.take() {
            return came;
        }
        tokio::select! {
            _ = self.interrupt.recv() => ("INT", libc::SIGINT),
            _ = self.terminate.recv() => ("TERM", libc::SIGTERM),
            _ = self.quit.recv() => ("QUIT", libc::SIGQUIT),
            () = self.hangup.come() => ("HUP", libc::SIGHUP),
        }
    }

    /// Returns when the start is not waited for any more, with the exit code. One that waits for upstream is called off by
    /// that; else there will be a command soon, if at all.
    async fn before_start(&mut self, pulls: bool) -> u8 {
        let came = self.next().await;
        self.came = Some(came);
        if !pulls {
            tokio::time::sleep(GRACE).await;
        }
        128 + came.1 as u8
    }
}

/// Prints what a command says; how it ended.
async fn follow(
    client: &Client,
    id: &str,
    out: &mut Out,
    events: &mut AttachedEvents,
    (signals, has_terminal): (&mut Signals, bool),
) -> Result<CommandExit, Failure> {
    let mut resize =
        signal(SignalKind::window_change()).map_err(|error| Failure::Local("signals".into(), error))?;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => {
                    if let Some(exit) = show(out, event?)? {
                        return Ok(exit);
                    }
                }
                None => return Ok(lost()),
            },
            (name, _) = signals.next() => drop(client.kill(id, name, Some(GRACE)).await?),
            _ = resize.recv(), if has_terminal => {
                if let Some((rows, columns)) = size() {
                    // It may be over; its exit says more.
                    let _ = client.resize(id, rows, columns).await;
                }
            }
        }
    }
}

/// Prints one event; the exit, if it was that.
pub(super) fn show(out: &mut Out, event: CommandEvent) -> Result<Option<CommandExit>, Failure> {
    match event {
        CommandEvent::Stdout(bytes) => {
            out.raw(&bytes)?;
            out.flush()?;
        }
        CommandEvent::Stderr(bytes) => {
            // Nobody may be there to read it; that is no reason to end the command.
            let _ = std::io::stderr().write_all(&bytes);
        }
        CommandEvent::Dropped(seq) => eprintln!("wsd: the output up to event {seq} is no longer kept"),
        CommandEvent::Exit(exit) => {
            if exit.output_cut {
                eprintln!(
                    "wsd: processes that it left behind held its output open; there may have been more"
                );
            }
            if let Some(reason) = &exit.not_upstream {
                eprintln!("wsd: what it did is not upstream: {reason}");
            }
            return Ok(Some(exit));
        }
    }
    Ok(None)
}

fn lost() -> CommandExit {
    CommandExit {
        code: None,
        signal: None,
        lost: true,
        timed_out: false,
        output_cut: false,
        not_upstream: None,
    }
}

/// The exit code that says how a command ended, as a shell has it.
pub(super) fn code(exit: CommandExit) -> u8 {
    if exit.timed_out {
        eprintln!("wsd: its time was over");
    }
    match (exit.code, exit.signal) {
        (Some(code), _) => code as u8,
        (None, Some(name)) => 128 + crate::exec::signal_of(&name).map_or(0, |signal| signal.as_raw() as u8),
        (None, None) => {
            eprintln!("wsd: the daemon ended while it ran: nobody knows how it ended");
            LOST
        }
    }
}

/// Sends standard input to the command until its end.
async fn send_input(input: CommandInput) {
    let (send, mut portions) = mpsc::channel::<Bytes>(4);
    // A read from a terminal cannot be called off; the thread ends with the process.
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; PORTION];
        while let Ok(count @ 1..) = stdin.read(&mut buffer) {
            if send.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                return;
            }
        }
    });
    while let Some(portion) = portions.recv().await {
        if !input.write(portion).await {
            return;
        }
    }
}

/// The size of this terminal, if standard output is one.
fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}

/// This terminal, giving every key to the command; as it was when dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = termios::tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
