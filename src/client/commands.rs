//! Commands: running them, following them over as many connections as it takes.
//!
//! A command belongs to the daemon and has an id. The client chooses the id itself, so that a command whose start was
//! answered by nothing but a lost connection can be found again, or be known not to have been started.

use super::convert;
use super::error::check;
use super::link::Link;
use super::vat::{Effect, TRIES, Vat, losses_with};
use super::{Change, Client, ClientError, Command, CommandExit, CommandInfo, Failure, Stdin, Words};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use wsd_schema::exec_capnp::{self as wire, command, event, events, exec, stdin};

/// Most events at a time.
const LIMIT: u32 = 256;

/// How long the daemon waits for one before it says that there was none.
const WAIT_MS: u32 = 30_000;

/// Most bytes of one write to a command.
const INPUT: usize = 64 << 10;

/// Writes that may be under way at once.
const AHEAD: usize = 16;

/// What a command says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandEvent {
    /// Bytes on standard output, or from its terminal.
    Stdout(Bytes),
    /// Bytes on standard error.
    Stderr(Bytes),
    /// Events up to this one are no longer kept; those after it follow.
    Dropped(u64),
    /// The last event.
    Exit(CommandExit),
}

/// A command that is being followed. While it is there and not read, the command is held up.
#[derive(Debug)]
pub struct Attached {
    /// Its id.
    pub id: String,
    /// Its standard input.
    pub input: CommandInput,
    events: mpsc::Receiver<Result<CommandEvent, ClientError>>,
    _client: Client,
}

/// The standard input of a command. It is closed when this is dropped.
#[derive(Clone, Debug)]
pub struct CommandInput(mpsc::Sender<Bytes>);

impl CommandInput {
    /// Writes to it; false when nobody takes it any more. Waits while the command does not read.
    pub async fn write(&self, bytes: Bytes) -> bool {
        self.0.send(bytes).await.is_ok()
    }
}

impl Attached {
    /// What it says next; none after its exit, or after an error.
    pub async fn next(&mut self) -> Option<Result<CommandEvent, ClientError>> {
        self.events.recv().await
    }

    /// Its standard input, and what it says, to be used side by side.
    pub fn split(self) -> (CommandInput, AttachedEvents) {
        (self.input, AttachedEvents { events: self.events, _client: self._client })
    }
}

/// What a command says.
#[derive(Debug)]
pub struct AttachedEvents {
    events: mpsc::Receiver<Result<CommandEvent, ClientError>>,
    _client: Client,
}

impl AttachedEvents {
    /// What it says next; none after its exit, or after an error.
    pub async fn next(&mut self) -> Option<Result<CommandEvent, ClientError>> {
        self.events.recv().await
    }
}

impl Client {
    /// Starts a command, and follows it from its first event.
    pub async fn exec(&self, command: Command) -> Result<Attached, ClientError> {
        let mut command = command;
        let is_ours = command.id.is_empty();
        if is_ours {
            command.id = format!("c{:016x}", RandomState::new().hash_one(0));
        }
        let client = self.clone();
        let has_input = command.stdin == Stdin::Stream;
        self.run(move |vat| async move {
            let following = Following { vat, id: command.id.clone(), after: 0 };
            // One that the caller has chosen may be an older command's.
            let is_free = is_ours || following.is_unknown().await?;
            let open = following.start(&command, is_free).await?;
            Ok(following.follow(open, has_input, client))
        })
        .await
    }

    /// Follows a command after an event; `None`: only what is to come.
    pub async fn attach(&self, id: &str, after: Option<u64>) -> Result<Attached, ClientError> {
        let (id, client) = (id.to_owned(), self.clone());
        self.run(move |vat| async move {
            let mut following = Following { vat, id, after: after.unwrap_or(u64::MAX) };
            let open = following.attach().await?;
            if after.is_none() {
                following.after = open.last;
            }
            Ok(following.follow(open, true, client))
        })
        .await
    }

    /// Sends a signal to all processes of a command, and ends them after `grace` if one is given. False when it had
    /// ended already.
    pub async fn kill(&self, id: &str, signal: &str, grace: Option<Duration>) -> Result<bool, ClientError> {
        let (id, signal) = (id.to_owned(), signal.to_owned());
        self.ask(Effect::Changes, move |link| {
            let mut request = exec_of(link).kill_request();
            let mut params = request.get();
            params.set_id(id.as_str());
            params.set_signal(signal.as_str());
            params.set_grace_ms(millis(grace).try_into().unwrap_or(u32::MAX));
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(answer.get_running())
            }
        })
        .await
    }

    /// All commands that the daemon knows, oldest first.
    pub async fn commands(&self) -> Result<Vec<CommandInfo>, ClientError> {
        self.ask(Effect::Reads, |link| {
            let asked = exec_of(link).list_request().send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(answer.get_commands()?.iter().map(convert::command_info).collect::<Result<_, _>>()?)
            }
        })
        .await
    }

    /// Forgets a command that has ended.
    pub async fn dispose(&self, id: &str) -> Result<(), ClientError> {
        let id = id.to_owned();
        self.ask(Effect::Changes, move |link| {
            let mut request = exec_of(link).dispose_request();
            request.get().set_id(id.as_str());
            let asked = request.send().promise;
            async move { check(asked.await?.get()?.get_error()) }
        })
        .await
    }

    /// Sets the size of a command's terminal.
    pub async fn resize(&self, id: &str, rows: u16, columns: u16) -> Result<(), ClientError> {
        let id = id.to_owned();
        self.ask(Effect::Changes, move |link| {
            let mut request = exec_of(link).resize_request();
            let mut params = request.get();
            params.set_id(id.as_str());
            params.set_rows(rows);
            params.set_columns(columns);
            let asked = request.send().promise;
            async move { check(asked.await?.get()?.get_error()) }
        })
        .await
    }

    /// What a command changed in the workspace, and whether that is all.
    pub async fn command_changes(&self, id: &str) -> Result<(Vec<Change>, bool), ClientError> {
        let id = id.to_owned();
        self.ask(Effect::Reads, move |link| {
            let mut request = exec_of(link).changes_request();
            request.get().set_id(id.as_str());
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                let changes = answer.get_changes()?.iter().map(convert::change).collect::<Result<_, _>>()?;
                Ok((changes, answer.get_complete()))
            }
        })
        .await
    }
}

/// The commands behind a connection.
fn exec_of(link: &Link) -> exec::Client {
    link.workspace.exec_request().send().pipeline.get_exec()
}

/// A command that is being followed, where the connection is.
struct Following {
    vat: Rc<Vat>,
    id: String,
    /// The last event that was delivered.
    after: u64,
}

/// A reader, the input, and the connection that they die with.
struct Open {
    events: events::Client,
    stdin: stdin::Client,
    link: Rc<Link>,
    /// The last event when it was opened.
    last: u64,
}

/// The input, and the connection that it dies with.
type Inlet = (stdin::Client, Rc<Link>);

impl Open {
    fn inlet(&self) -> Inlet {
        (self.stdin.clone(), Rc::clone(&self.link))
    }
}

impl Following {
    /// Whether the daemon has no command of this id.
    async fn is_unknown(&self) -> Result<bool, ClientError> {
        match self.attach().await {
            Err(ClientError::Refused { code, .. }) => Ok(code == "ENOENT"),
            found => found.map(|_| false),
        }
    }

    /// Starts the command. When the answer is lost, the command is looked for by its id, if that was free before.
    async fn start(&self, command: &Command, is_free: bool) -> Result<Open, ClientError> {
        let started = self.vat.ask(Effect::Changes, |link| {
            let mut request = exec_of(link).run_request();
            set_command(request.get().init_command(), command);
            let (asked, link) = (request.send().promise, Rc::clone(link));
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(Open { events: answer.get_events()?, stdin: answer.get_stdin()?, link, last: 0 })
            }
        });
        match started.await {
            Err(lost @ ClientError::Lost { .. }) if is_free => self.attach().await.map_err(|_| lost),
            started => started,
        }
    }

    async fn attach(&self) -> Result<Open, ClientError> {
        let attached = self.vat.ask(Effect::Reads, |link| {
            let mut request = exec_of(link).attach_request();
            request.get().set_id(self.id.as_str());
            request.get().set_after(self.after);
            let (asked, link) = (request.send().promise, Rc::clone(link));
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                let last = answer.get_info()?.get_last_seq();
                Ok(Open { events: answer.get_events()?, stdin: answer.get_stdin()?, link, last })
            }
        });
        attached.await
    }

    /// From now on events come and input goes.
    fn follow(self, open: Open, has_input: bool, client: Client) -> Attached {
        let (send, events) = mpsc::channel(4);
        let (input, bytes) = mpsc::channel(4);
        let (vat, id) = (Rc::clone(&self.vat), self.id.clone());
        let (renew, inlet) = watch::channel(open.inlet());
        let (report, failed) = oneshot::channel();
        if has_input {
            tokio::task::spawn_local(async move {
                if let Err(error) = feed(&vat, inlet, bytes).await {
                    let _ = report.send(error);
                }
            });
        }
        tokio::task::spawn_local(async move {
            let mut following = self;
            let ended = tokio::select! {
                ended = following.run(open, renew, &send) => ended,
                Ok(error) = failed => Err(error),
                () = send.closed() => Ok(()),
            };
            if let Err(error) = ended {
                drop(send.send(Err(error)).await);
            }
        });
        Attached { id, input: CommandInput(input), events, _client: client }
    }

    async fn run(
        &mut self,
        mut open: Open,
        renew: watch::Sender<Inlet>,
        send: &mpsc::Sender<Result<CommandEvent, ClientError>>,
    ) -> Result<(), ClientError> {
        let mut losses = 0;
        loop {
            match next(&open.events).await {
                Ok(Portion::Events(events, end)) => {
                    losses = 0;
                    for (seq, event) in events {
                        self.after = seq;
                        if send.send(Ok(event)).await.is_err() {
                            return Ok(());
                        }
                    }
                    if end {
                        return Ok(());
                    }
                }
                Ok(Portion::Truncated(resume)) => {
                    self.after = resume;
                    if send.send(Ok(CommandEvent::Dropped(resume))).await.is_err() {
                        return Ok(());
                    }
                    open = self.attach().await?;
                    renew.send_replace(open.inlet());
                }
                Err(failure) => match self.vat.judge(&open.link, failure, Effect::Reads) {
                    ClientError::Lost { .. } if losses < TRIES => {
                        losses = losses_with(losses, &open.link);
                        open = self.attach().await?;
                        renew.send_replace(open.inlet());
                    }
                    error => return Err(error),
                },
            }
        }
    }
}

/// Writes what comes to a command, and closes its input at the end, over as many connections as that takes. Bytes whose
/// answer was lost are not sent again: nobody can tell whether the command has them, so that is the end of it.
async fn feed(
    vat: &Vat,
    mut inlet: watch::Receiver<Inlet>,
    mut bytes: mpsc::Receiver<Bytes>,
) -> Result<(), ClientError> {
    let mut last = Rc::clone(&inlet.borrow().1);
    let mut sent = FuturesOrdered::new();
    loop {
        let portion = tokio::select! {
            biased;
            Some(answer) = sent.next() => { answer?; continue; }
            portion = bytes.recv() => portion,
        };
        let Some(portion) = portion else { break };
        for part in portion.chunks(INPUT) {
            let Some((stdin, link)) = live(&mut inlet).await else { return Ok(()) };
            let ahead = if Rc::ptr_eq(&link, &last) { AHEAD } else { 1 };
            while sent.len() >= ahead {
                sent.next().await.transpose()?;
            }
            last = Rc::clone(&link);
            let mut request = stdin.write_request();
            request.get().set_bytes(part);
            // Not as a stream, so that it is known of each whether it came.
            let answer = request.hook.send().promise;
            sent.push_back(async move {
                answer.await.map(drop).map_err(|error| vat.judge(&link, error.into(), Effect::Changes))
            });
        }
    }
    while let Some(answer) = sent.next().await {
        answer?;
    }
    while let Some((stdin, link)) = live(&mut inlet).await {
        // Closed twice is closed.
        let closed = stdin.close_request().send().promise.await;
        let failure = closed.err().map(|error| vat.judge(&link, error.into(), Effect::Reads));
        if !matches!(failure, Some(ClientError::Lost { .. })) {
            break;
        }
    }
    Ok(())
}

/// The input over a connection that is there; none when there will not be another.
async fn live(inlet: &mut watch::Receiver<Inlet>) -> Option<Inlet> {
    loop {
        let (stdin, link) = inlet.borrow_and_update().clone();
        if link.loss().is_none() {
            return Some((stdin, link));
        }
        inlet.changed().await.ok()?;
    }
}

enum Portion {
    Events(Vec<(u64, CommandEvent)>, bool),
    Truncated(u64),
}

async fn next(events: &events::Client) -> Result<Portion, Failure> {
    let mut request = events.next_request();
    request.get().set_limit(LIMIT);
    request.get().set_wait_ms(WAIT_MS);
    let answer = request.send().promise.await?;
    let answer = answer.get()?;
    match check(answer.get_error()) {
        Err(Failure::Told(error)) if error.code() == "ELOG_TRUNCATED" => {
            return Ok(Portion::Truncated(answer.get_resume()));
        }
        checked => checked?,
    }
    let mut said = Vec::new();
    for event in answer.get_events()? {
        let what = match event.which()? {
            event::Stdout(bytes) => CommandEvent::Stdout(Bytes::copy_from_slice(bytes?)),
            event::Stderr(bytes) => CommandEvent::Stderr(Bytes::copy_from_slice(bytes?)),
            event::Exit(exit) => CommandEvent::Exit(convert::command_exit(exit?)?),
        };
        said.push((event.get_seq(), what));
    }
    Ok(Portion::Events(said, answer.get_end()))
}

/// As the wire has it, where 0 is none: what is shorter than a millisecond is one.
fn millis(time: Option<Duration>) -> u64 {
    time.map_or(0, |time| time.as_millis().clamp(1, u64::MAX.into()) as u64)
}

fn set_command(mut to: command::Builder<'_>, command: &Command) {
    match &command.words {
        Words::Shell(line) => to.set_shell(line),
        Words::Argv(argv) => {
            let mut words = to.reborrow().init_argv(argv.len() as u32);
            for (index, word) in (0..).zip(argv) {
                words.set(index, word);
            }
        }
    }
    to.set_cwd(&command.cwd);
    let mut env = to.reborrow().init_env(command.env.len() as u32);
    for (index, (name, value)) in (0..).zip(&command.env) {
        let mut variable = env.reborrow().get(index);
        variable.set_name(name);
        variable.set_value(value);
    }
    match &command.stdin {
        Stdin::None => to.reborrow().get_stdin().set_none(()),
        Stdin::Bytes(bytes) => to.reborrow().get_stdin().set_bytes(bytes),
        Stdin::Stream => to.reborrow().get_stdin().set_stream(()),
    }
    to.set_timeout_ms(millis(command.timeout));
    if let Some((rows, columns)) = command.terminal {
        let mut terminal = to.reborrow().init_terminal();
        terminal.set_rows(rows);
        terminal.set_columns(columns);
    }
    to.set_id(command.id.as_str());
    to.set_detach(command.detach);
    to.set_pull(command.pull);
    to.set_push(command.push);
    to.set_sync_timeout_ms(millis(command.sync_timeout));
    to.set_output_grace_ms(command.output_grace.as_millis().try_into().unwrap_or(u32::MAX));
    let mut limits: wire::limits::Builder<'_> = to.init_limits();
    limits.set_cpu_seconds(command.limits.cpu_seconds);
    limits.set_memory_bytes(command.limits.memory_bytes);
    limits.set_processes(command.limits.processes);
    limits.set_file_bytes(command.limits.file_bytes);
    limits.set_open_files(command.limits.open_files);
}
