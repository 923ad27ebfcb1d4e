//! Starting the first process of a command.

use super::input::{Input, Window};
use super::limit::LIMIT;
use super::process::MARK;
use super::spec::{Spec, Stdin};
use super::start::{Child, Standard, Start};
use super::{ExecError, Settings};
use futures::FutureExt;
use futures::future::BoxFuture;
use pty_process::Size;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe;

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
    pub(super) window: Window,
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
    let Some(wanted) = argv.first().cloned() else {
        return Err(ExecError::Spec("there is no program to run".into()));
    };
    let mut program = look_for(&wanted, &cwd, &env).map_err(at(Path::new(&wanted)))?;
    if spec.limits.any() {
        spec.limits.check().map_err(ExecError::Spec)?;
        program = settings.limiter.clone();
        let stage = [program.clone().into(), LIMIT.into(), spec.limits.words(), "--".into()];
        argv.splice(0..0, stage);
    }
    let start = |standard: Standard<'_>| {
        let start = Start { program: &program, argv: &argv, env, cwd: &cwd, standard };
        start.run()
    };
    let spawned = match spec.terminal {
        Some(size) => in_terminal(start, size),
        None => with_pipes(start, &spec.stdin),
    };
    spawned.map_err(at(Path::new(&wanted)))
}

/// The program file of a name, looked for as `execvp` does, with the command's own `PATH` and from its own directory.
fn look_for(program: &OsStr, cwd: &Path, env: &[(OsString, OsString)]) -> io::Result<PathBuf> {
    let runs = |path: &Path| {
        let meta = std::fs::metadata(path)?;
        let may_run = rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
        if meta.is_file() && may_run { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    };
    if program.as_bytes().contains(&b'/') {
        return runs(&cwd.join(program)).map(|()| program.into());
    }
    let paths = env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, paths)| paths.clone());
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for place in std::env::split_paths(&paths.unwrap_or_default()) {
        let path = cwd.join(place).join(program);
        match runs(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => failure = error,
            Err(_) => {}
        }
    }
    Err(failure)
}

fn with_pipes(start: impl FnOnce(Standard<'_>) -> io::Result<Child>, stdin: &Stdin) -> io::Result<Spawned> {
    let (input, its_input): (Option<Writer>, OwnedFd) = match stdin {
        Stdin::None => (None, File::open("/dev/null")?.into()),
        _ => {
            let (ours, its) = pipe::pipe()?;
            (Some(Box::new(ours)), its.into_blocking_fd()?)
        }
    };
    let output = || -> io::Result<(OwnedFd, Reader)> {
        let (its, ours) = pipe::pipe()?;
        Ok((its.into_blocking_fd()?, Box::new(ours)))
    };
    let ((its_stdout, stdout), (its_stderr, stderr)) = (output()?, output()?);
    let child = start(Standard::Files([its_input.as_fd(), its_stdout.as_fd(), its_stderr.as_fd()]))?;
    let outputs = vec![(Stream::Stdout, stdout), (Stream::Stderr, stderr)];
    Ok(spawned(child, outputs, (Input::Pipe(input), Window::None)))
}

fn in_terminal(
    start: impl FnOnce(Standard<'_>) -> io::Result<Child>,
    (rows, columns): (u16, u16),
) -> io::Result<Spawned> {
    // What is given back with it is the terminal opened by the daemon; it stays open until the command has its own.
    let (pty, _pts) = pty_process::open().map_err(io::Error::other)?;
    pty.resize(Size::new(rows, columns)).map_err(io::Error::other)?;
    let path = rustix::pty::ptsname(&pty, Vec::new())?;
    let window = Window::Open(pty.as_fd().try_clone_to_owned()?);
    let child = start(Standard::Terminal(&path))?;
    let (output, input) = pty.into_split();
    let outputs: Vec<(Stream, Reader)> = vec![(Stream::Stdout, Box::new(output))];
    Ok(spawned(child, outputs, (Input::Terminal(input), window)))
}

fn spawned(child: Child, outputs: Vec<(Stream, Reader)>, (input, window): (Input, Window)) -> Spawned {
    let pid = child.pid.as_raw_nonzero().get() as u32;
    Spawned { pid, ended: child.wait().boxed(), outputs, input, window }
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
