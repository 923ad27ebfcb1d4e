//! Commands as an object.

use super::convert::{answer, count, set_change, set_error};
use super::session::{Opened, Session};
use super::streams::Queue;
use crate::exec::{
    Event, ExecError, Execs, Exit, How, Limits, Reader, Running, Said, Spec, Stdin, Words, name_of, signal_of,
};
use crate::service::{Failure, Outcome, change_of};
use capnp::Error;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use wsd_schema::exec_capnp::{self as wire, command, event, events, exec, info, stdin};

/// Longest that a reader waits.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Bytes that a portion of events may have on the wire, roughly.
const PORTION: usize = 512 << 10;

/// Most bytes of one write to a command.
const MAX_INPUT: usize = 4 << 20;

pub(super) struct ExecObject {
    session: Rc<Session>,
}

impl ExecObject {
    pub(super) fn new(session: Rc<Session>) -> Self {
        Self { session }
    }

    /// The objects of a command that is being followed, or of one that could not be.
    fn objects(&self, followed: Outcome<Followed>) -> (events::Client, stdin::Client) {
        let (command, reader) = match followed {
            Ok((command, reader, open)) => (Ok(command), Ok((reader, open))),
            Err(failure) => (Err(failure.clone()), Err(failure)),
        };
        let events = capnp_rpc::new_client(EventsObject::new(&self.session, reader));
        (events, capnp_rpc::new_client(StdinObject { command }))
    }

    fn execs(&self) -> Outcome<&Arc<Execs>> {
        let missing = || Failure::new("ENOTSUP", "the workspace is not mounted: commands cannot run in it");
        self.session.host.execs.as_ref().ok_or_else(missing)
    }
}

/// A command that is being followed.
type Followed = (Arc<Running>, Reader, Opened);

fn failure(error: ExecError) -> Failure {
    let text = error.to_string();
    match error {
        ExecError::Spec(_) => Failure::protocol(text),
        ExecError::Start { path, source } => {
            let code = match source.kind() {
                std::io::ErrorKind::NotFound => "ENOENT",
                std::io::ErrorKind::PermissionDenied => "EACCES",
                std::io::ErrorKind::NotADirectory => "ENOTDIR",
                std::io::ErrorKind::ArgumentListTooLong => "E2BIG",
                _ => "EIO",
            };
            Failure::new(code, text).at(&path)
        }
        ExecError::Unknown(_) => Failure::new("ENOENT", text),
        ExecError::Taken(_) | ExecError::Runs(_) => Failure::new("EEXEC_BUSY", text),
        ExecError::Signal(_) => Failure::new("EINVAL", text),
        ExecError::NoTerminal(_) => Failure::new("ENOTTY", text),
        ExecError::NoInput(_) => Failure::new("EPIPE", text),
        ExecError::Behind(_) | ExecError::Unmounted(_) => Failure::new("ENOTCONN", text),
        ExecError::Closing => Failure::new("ESHUTDOWN", text),
        ExecError::Store(_) => Failure::new("EIO", text),
    }
}

impl exec::Server for ExecObject {
    async fn run(
        self: Rc<Self>,
        params: exec::RunParams,
        mut results: exec::RunResults,
    ) -> Result<(), Error> {
        let spec = spec(params.get()?.get_command()?)?;
        drop(params);
        let begun = self.session.begin("exec.run");
        let started = async {
            let execs = self.execs()?;
            let open = self.session.open()?;
            let (command, reader) = execs.run(spec?).await.map_err(failure)?;
            Ok((command, reader, open))
        };
        let started = begun.end(started.await);
        match &started {
            Ok((command, ..)) => {
                results.get().set_id(command.id.as_str());
                results.get().set_pid(command.pid);
            }
            Err(failure) => set_error(results.get().init_error(), failure),
        }
        let (events, stdin) = self.objects(started);
        results.get().set_events(events);
        results.get().set_stdin(stdin);
        Ok(())
    }

    async fn attach(
        self: Rc<Self>,
        params: exec::AttachParams,
        mut results: exec::AttachResults,
    ) -> Result<(), Error> {
        let (id, after) = (params.get()?.get_id()?.to_string()?, params.get()?.get_after());
        let after = (after != u64::MAX).then_some(after);
        let begun = self.session.begin("exec.attach");
        let attached = self.execs().and_then(|execs| {
            let open = self.session.open()?;
            let (command, reader) = execs.attach(&id, after).map_err(failure)?;
            Ok((command, reader, open))
        });
        let attached = begun.end(attached);
        match &attached {
            Ok((command, ..)) => set_info(results.get().init_info(), command),
            Err(failure) => set_error(results.get().init_error(), failure),
        }
        let (events, stdin) = self.objects(attached);
        results.get().set_events(events);
        results.get().set_stdin(stdin);
        Ok(())
    }

    async fn kill(
        self: Rc<Self>,
        params: exec::KillParams,
        mut results: exec::KillResults,
    ) -> Result<(), Error> {
        let (id, name, grace) = {
            let params = params.get()?;
            (params.get_id()?.to_string()?, params.get_signal()?.to_string()?, params.get_grace_ms())
        };
        let grace = (grace > 0).then(|| Duration::from_millis(grace.into()));
        let begun = self.session.begin("exec.kill");
        let killed = async {
            let signal = signal_of(&name).ok_or(ExecError::Signal(name)).map_err(failure)?;
            self.execs()?.kill(&id, signal, grace).await.map_err(failure)
        };
        let outcome = begun.end(killed.await);
        answer!(results, outcome, |running| results.get().set_running(running));
        Ok(())
    }

    async fn list(self: Rc<Self>, _: exec::ListParams, mut results: exec::ListResults) -> Result<(), Error> {
        let begun = self.session.begin("exec.list");
        let outcome = begun.end(self.execs().map(|execs| execs.list()));
        answer!(results, outcome, |commands| {
            let mut list = results.get().init_commands(count(&commands));
            for (index, command) in (0..).zip(&commands) {
                set_info(list.reborrow().get(index), command);
            }
        });
        Ok(())
    }

    async fn dispose(
        self: Rc<Self>,
        params: exec::DisposeParams,
        mut results: exec::DisposeResults,
    ) -> Result<(), Error> {
        let id = params.get()?.get_id()?.to_string()?;
        let begun = self.session.begin("exec.dispose");
        let outcome = begun.end(match self.execs() {
            Ok(execs) => execs.dispose(&id).await.map_err(failure),
            Err(failure) => Err(failure),
        });
        answer!(results, outcome, |()| {});
        Ok(())
    }

    async fn resize(
        self: Rc<Self>,
        params: exec::ResizeParams,
        mut results: exec::ResizeResults,
    ) -> Result<(), Error> {
        let (id, rows, columns) = {
            let params = params.get()?;
            (params.get_id()?.to_string()?, params.get_rows(), params.get_columns())
        };
        let begun = self.session.begin("exec.resize");
        let outcome = begun.end(match self.execs().and_then(|execs| execs.get(&id).map_err(failure)) {
            Ok(command) => command.resize(rows, columns).map_err(failure),
            Err(failure) => Err(failure),
        });
        answer!(results, outcome, |()| {});
        Ok(())
    }

    async fn changes(
        self: Rc<Self>,
        params: exec::ChangesParams,
        mut results: exec::ChangesResults,
    ) -> Result<(), Error> {
        let id = params.get()?.get_id()?.to_string()?;
        let outcome = match self.execs().map(Arc::clone) {
            Ok(execs) => {
                self.session.run("exec.changes", move |_, _| execs.changes(&id).map_err(failure)).await
            }
            Err(failure) => Err(failure),
        };
        answer!(results, outcome, |(changes, complete)| {
            results.get().set_complete(complete);
            let known: Vec<_> =
                changes.iter().filter_map(|change| Some((change_of(change.kind)?, change))).collect();
            let mut list = results.get().init_changes(count(&known));
            for (index, (what, change)) in (0..).zip(known) {
                let node = (change.ino, change.node);
                let mut to = list.reborrow().get(index);
                set_change(&mut to, (change.revision, what), node, (&change.path, change.from.as_deref()));
            }
        });
        Ok(())
    }
}

fn spec(from: command::Reader<'_>) -> Result<Outcome<Spec>, Error> {
    let words = match from.which()? {
        command::Shell(line) => Words::Shell(line?.to_vec()),
        command::Argv(argv) => {
            Words::Argv(argv?.iter().map(|word| Ok(word?.to_vec())).collect::<Result<_, Error>>()?)
        }
    };
    let stdin = match from.get_stdin().which()? {
        command::stdin::None(()) => Stdin::None,
        command::stdin::Bytes(bytes) => Stdin::Bytes(bytes?.to_vec()),
        command::stdin::Stream(()) => Stdin::Stream,
    };
    let mut env = Vec::new();
    for variable in from.get_env()? {
        env.push((variable.get_name()?.to_vec(), variable.get_value()?.to_vec()));
    }
    let terminal = from.has_terminal().then(|| from.get_terminal()).transpose()?;
    let limits = from.get_limits()?;
    let some = |value: u64| (value > 0).then_some(value);
    Ok(super::convert::text(from.get_id()?)
        .map(|id| Spec {
            words,
            cwd: Vec::new(),
            env,
            stdin,
            timeout: some(from.get_timeout_ms()).map(Duration::from_millis),
            terminal: terminal.map(|terminal| (terminal.get_rows(), terminal.get_columns())),
            id,
            limits: Limits {
                cpu_seconds: some(limits.get_cpu_seconds()),
                memory_bytes: some(limits.get_memory_bytes()),
                processes: some(limits.get_processes()),
                file_bytes: some(limits.get_file_bytes()),
                open_files: some(limits.get_open_files()),
            },
            output_grace: Duration::from_millis(from.get_output_grace_ms().into()),
            detach: from.get_detach(),
            pull: from.get_pull(),
            push: from.get_push(),
            sync_timeout: some(from.get_sync_timeout_ms()).map(Duration::from_millis),
        })
        .map(|spec| from.get_cwd().map(|cwd| Spec { cwd: cwd.to_vec(), ..spec }))
        .and_then(|spec| spec.map_err(|error| Failure::protocol(error.to_string()))))
}

fn set_exit(to: wire::exit::Builder<'_>, exit: &Exit) {
    let mut to = to;
    match exit.how {
        How::Code(code) => to.set_code(code),
        How::Signal(signal) => to.set_signal(name_of(signal).as_str()),
        How::Lost => to.set_lost(()),
    }
    to.set_timed_out(exit.timed_out);
    to.set_output_cut(exit.output_cut);
    if let Some(reason) = &exit.not_upstream {
        to.set_not_upstream(reason.as_str());
    }
}

fn set_info(mut to: info::Builder<'_>, command: &Running) {
    to.set_id(command.id.as_str());
    to.set_command(&command.shown);
    to.set_cwd(command.cwd.as_os_str().as_bytes());
    to.set_pid(command.pid);
    to.set_started(command.started.0);
    to.set_start_revision(command.start_revision);
    let (first, last) = command.kept();
    to.set_first_seq(first);
    to.set_last_seq(last);
    to.set_state(wire::State::Running);
    if let (Some(exit), Some((ended, revision))) = (command.exit(), command.ended()) {
        to.set_state(wire::State::Ended);
        to.set_ended(ended.0);
        to.set_end_revision(revision);
        set_exit(to.init_exit(), &exit);
    }
}

struct EventsObject {
    session: Rc<Session>,
    queue: Queue<Reader>,
}

impl EventsObject {
    fn new(session: &Rc<Session>, reader: Outcome<(Reader, Opened)>) -> Self {
        Self { session: Rc::clone(session), queue: Queue::new(reader) }
    }
}

impl events::Server for EventsObject {
    fn next(
        self: Rc<Self>,
        params: events::NextParams,
        mut results: events::NextResults,
    ) -> impl Future<Output = Result<(), Error>> + 'static {
        let turn = self.queue.turn();
        async move {
            let (limit, wait) = (params.get()?.get_limit() as usize, params.get()?.get_wait_ms());
            let mut now = match turn.come().await {
                Ok(now) => now,
                Err(failure) => {
                    set_error(results.get().init_error(), &failure);
                    return Ok(());
                }
            };
            now.state.wait(Duration::from_millis(wait.into()).min(MAX_WAIT)).await;
            // Not before: those who only wait would leave no room for anybody else.
            let _room = self.session.ledger.reserve(PORTION).await;
            match now.state.take(limit) {
                Ok((found, end)) => {
                    results.get().set_end(end);
                    let mut list = results.get().init_events(count(&found));
                    for (index, event) in (0..).zip(&found) {
                        set_event(list.reborrow().get(index), event);
                    }
                }
                Err(truncated) => {
                    let text = format!("the events up to {} are no longer kept", truncated.resume);
                    set_error(results.get().init_error(), &Failure::new("ELOG_TRUNCATED", text));
                    results.get().set_resume(truncated.resume);
                }
            }
            Ok(())
        }
    }
}

fn set_event(mut to: event::Builder<'_>, event: &Event) {
    to.set_seq(event.seq);
    match &event.said {
        Said::Stdout(bytes) => to.set_stdout(bytes),
        Said::Stderr(bytes) => to.set_stderr(bytes),
        Said::Exit(exit) => set_exit(to.init_exit(), exit),
    }
}

struct StdinObject {
    command: Outcome<Arc<Running>>,
}

impl stdin::Server for StdinObject {
    async fn write(self: Rc<Self>, params: stdin::WriteParams) -> Result<(), Error> {
        let bytes = params.get()?.get_bytes()?;
        if bytes.len() > MAX_INPUT {
            return Err(Error::failed(format!("EPROTOCOL: at most {MAX_INPUT} bytes a call")));
        }
        if let Ok(command) = &self.command {
            command.feed(bytes).await;
        }
        Ok(())
    }

    async fn close(
        self: Rc<Self>,
        _: stdin::CloseParams,
        mut results: stdin::CloseResults,
    ) -> Result<(), Error> {
        match &self.command {
            Ok(command) => {
                if !command.close_input().await {
                    set_error(results.get().init_error(), &failure(ExecError::NoInput(command.id.clone())));
                }
            }
            Err(failure) => set_error(results.get().init_error(), failure),
        }
        Ok(())
    }
}
