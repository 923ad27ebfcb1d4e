//! Starting the first process of a command.

use super::limit::LIMIT;
use super::process::MARK;
use super::spec::Spec;
use super::{ExecError, Settings};
use futures::FutureExt;
use futures::future::BoxFuture;
use process_wrap::tokio::{CommandWrap, ProcessSession};
use pty_process::{OwnedWritePty, Size};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use tokio::io::{AsyncRead, AsyncWrite};

/// Where programs are looked for when the daemon's environment does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Which output it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A command that has just been started.
pub(super) struct Spawned {
    pub(super) pid: u32,
    pub(super) ended: BoxFuture<'static, io::Result<ExitStatus>>,
    pub(super) outputs: Vec<(Stream, Reader)>,
    pub(super) input: Input,
}

/// Its standard input.
pub(super) enum Input {
    Pipe(Option<Writer>),
    Terminal(OwnedWritePty),
}

/// The directory that a command is to run in.
pub(super) fn directory(spec: &Spec, mount_point: &Path) -> PathBuf {
    mount_point.join(OsStr::from_bytes(&spec.cwd))
}

/// Starts it. Takes as long as the program file and the directory take to be found, which may be in the workspace: to be
/// called with no lock held, in a thread that may wait, within a runtime.
pub(super) fn spawn(spec: &Spec, id: &str, settings: &Settings) -> Result<Spawned, ExecError> {
    let cwd = directory(spec, &settings.mount_point);
    let at = |path: &Path| {
        let path = path.as_os_str().as_bytes().to_vec();
        move |source| ExecError::Start { path, source }
    };
    let is_dir = std::fs::metadata(&cwd).map_err(at(&cwd))?.is_dir();
    if !is_dir {
        return Err(at(&cwd)(io::ErrorKind::NotADirectory.into()));
    }
    let mut argv: Vec<OsString> = spec.argv().into_iter().map(OsString::from_vec).collect();
    let env = environment(spec, id, settings);
    let wanted = argv.first().cloned().unwrap_or_default();
    if spec.limits.any() {
        spec.limits.check().map_err(ExecError::Spec)?;
        look_for(&wanted, &cwd, &env).map_err(at(Path::new(&wanted)))?;
        let stage = [settings.limiter.clone().into(), LIMIT.into(), spec.limits.words(), "--".into()];
        argv.splice(0..0, stage);
    }
    let Some((program, arguments)) = argv.split_first() else {
        return Err(ExecError::Spec("there is no program to run".into()));
    };
    let spawned = match spec.terminal {
        Some(size) => in_terminal(program, arguments, &cwd, env, size),
        None => with_pipes(program, arguments, &cwd, env, spec),
    };
    spawned.map_err(at(Path::new(&wanted)))
}

/// Fails as the start of a program would that is not there, or may not be run.
fn look_for(program: &OsStr, cwd: &Path, env: &[(OsString, OsString)]) -> io::Result<()> {
    let runs = |path: &Path| {
        let meta = std::fs::metadata(path)?;
        let may_run = rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
        if meta.is_file() && may_run { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    };
    if program.as_bytes().contains(&b'/') {
        return runs(&cwd.join(program));
    }
    let paths = env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, paths)| paths.clone());
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for place in std::env::split_paths(&paths.unwrap_or_default()) {
        match runs(&cwd.join(place).join(program)) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => failure = error,
            Err(_) => {}
        }
    }
    Err(failure)
}

fn with_pipes(
    program: &OsStr,
    arguments: &[OsString],
    cwd: &Path,
    env: Vec<(OsString, OsString)>,
    spec: &Spec,
) -> io::Result<Spawned> {
    let stdin = if spec.stdin == super::spec::Stdin::None { Stdio::null() } else { Stdio::piped() };
    let mut command = CommandWrap::with_new(program, |command| {
        command.args(arguments).current_dir(cwd).env_clear().envs(env);
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
    });
    let mut child = command.wrap(ProcessSession).spawn()?.into_inner();
    let pid = child.id().ok_or_else(|| io::Error::other("it ended before it was seen"))?;
    let mut outputs: Vec<(Stream, Reader)> = Vec::new();
    if let Some(stdout) = child.stdout().take() {
        outputs.push((Stream::Stdout, Box::new(stdout)));
    }
    if let Some(stderr) = child.stderr().take() {
        outputs.push((Stream::Stderr, Box::new(stderr)));
    }
    let input = Input::Pipe(child.stdin().take().map(|stdin| Box::new(stdin) as Writer));
    let ended = async move { child.wait().await }.boxed();
    Ok(Spawned { pid, ended, outputs, input })
}

fn in_terminal(
    program: &OsStr,
    arguments: &[OsString],
    cwd: &Path,
    env: Vec<(OsString, OsString)>,
    (rows, columns): (u16, u16),
) -> io::Result<Spawned> {
    let failed = io::Error::other;
    let (pty, pts) = pty_process::open().map_err(failed)?;
    pty.resize(Size::new(rows, columns)).map_err(failed)?;
    let command = pty_process::Command::new(program).args(arguments).current_dir(cwd).env_clear().envs(env);
    let mut child = command.spawn(pts).map_err(|error| match error {
        pty_process::Error::Io(error) => error,
        other => failed(other),
    })?;
    let pid = child.id().ok_or_else(|| io::Error::other("it ended before it was seen"))?;
    let (output, input) = pty.into_split();
    let ended = async move { child.wait().await }.boxed();
    Ok(Spawned {
        pid,
        ended,
        outputs: vec![(Stream::Stdout, Box::new(output))],
        input: Input::Terminal(input),
    })
}

/// What the daemon lets through, what the caller gives, and the mark.
fn environment(spec: &Spec, id: &str, settings: &Settings) -> Vec<(OsString, OsString)> {
    let mut env = vec![(OsString::from("PATH"), OsString::from(PATH))];
    env.extend(settings.env.iter().cloned());
    if spec.terminal.is_some() {
        env.push(("TERM".into(), "xterm-256color".into()));
    }
    let given = spec.env.iter().cloned();
    env.extend(given.map(|(name, value)| (OsString::from_vec(name), OsString::from_vec(value))));
    env.push((MARK.into(), id.into()));
    env
}
