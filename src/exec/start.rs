//! Starting a process without a copy of the daemon.
//!
//! `fork` copies the page tables of whoever calls it, so it takes longer the more the daemon holds: `true` took 2.2 ms in a
//! fresh daemon and 7 to 11 ms in one that held 190 MiB. `posix_spawn` lets the child use the daemon's memory until the
//! program is there. The standard library starts processes so too, except those that need a session of their own, and
//! those of commands do; `nix` cannot name their directory. So this is done here (decision 11).

#![allow(unsafe_code)]

use libc::{c_char, c_int, c_short, mode_t, pid_t};
use parking_lot::Mutex;
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};
use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::ptr;
use std::sync::LazyLock;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What runs a program file that says nothing of how it is run, as `execvp` has it.
const SHELL: &CStr = c"/bin/sh";

/// What is to be started.
pub(super) struct Start<'a> {
    /// The program file; a relative path is taken from `cwd`.
    pub(super) program: &'a Path,
    /// The words that the program is given, its own name first.
    pub(super) argv: &'a [OsString],
    /// All of its environment. Of a name that comes twice the last counts.
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) cwd: &'a Path,
    pub(super) standard: Standard<'a>,
}

/// Its standard input, output and error output.
pub(super) enum Standard<'a> {
    Files([BorrowedFd<'a>; 3]),
    /// A terminal for all three, which comes to control the session.
    Terminal(&'a CStr),
}

/// Processes that somebody will ask for the end of.
static AWAITED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Whether a process's end belongs to somebody who will ask for it.
pub(super) fn is_awaited(pid: u32) -> bool {
    AWAITED.lock().contains(&pid)
}

/// Descriptors that whoever started the daemon left open in it. Those that it has opened itself are closed by the kernel.
static INHERITED: LazyLock<Vec<c_int>> = LazyLock::new(|| {
    let open = std::fs::read_dir("/proc/self/fdinfo").into_iter().flatten().flatten();
    let inherited = open.filter_map(|entry| {
        let file = entry.file_name().to_str()?.parse().ok()?;
        let info = std::fs::read_to_string(entry.path()).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = c_int::from_str_radix(flags.trim(), 8).ok()?;
        (file > libc::STDERR_FILENO && flags & libc::O_CLOEXEC == 0).then_some(file)
    });
    inherited.collect()
});

/// A process that was started and leads a session.
pub(super) struct Child {
    pub(super) pid: Pid,
    ended: Ended,
}

/// What tells that it may have ended.
enum Ended {
    /// Its descriptor, which is readable then.
    Itself(AsyncFd<OwnedFd>),
    /// Some child of the daemon has ended. Where there are no such descriptors: each end wakes all that wait for one.
    Any(Signal),
}

impl Child {
    fn of(pid: Pid, any: Signal) -> Self {
        AWAITED.lock().insert(pid.as_raw_nonzero().get() as u32);
        let itself = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from).and_then(|fd| {
            // SAFETY: an `OwnedFd` gives the same descriptor each time and keeps it open; the `AsyncFd` owns it from now on, and
            // nobody gets at it to put another in its place.
            unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
        });
        let ended = itself.map_or(Ended::Any(any), Ended::Itself);
        Self { pid, ended }
    }

    /// How it ended.
    pub(super) async fn wait(mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some((_, status)) = waitpid(Some(self.pid), WaitOptions::NOHANG)? {
                return Ok(ExitStatus::from_raw(status.as_raw()));
            }
            match &mut self.ended {
                Ended::Itself(fd) => fd.readable().await?.clear_ready(),
                Ended::Any(child) => drop(child.recv().await),
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        AWAITED.lock().remove(&(self.pid.as_raw_nonzero().get() as u32));
    }
}

impl Start<'_> {
    /// Starts it, within a runtime. Returns when the program runs, or the error that kept it from that.
    pub(super) fn run(self) -> io::Result<Child> {
        // Before there is a child, so that no end is missed.
        let any = signal(SignalKind::child())?;
        let program = text(self.program.as_os_str())?;
        let argv = self.argv.iter().map(|word| text(word)).collect::<io::Result<Vec<_>>>()?;
        let env = variables(self.env)?;
        let attributes = Attributes::new()?;
        let mut actions = Actions::new()?;
        actions.change_directory(&text(self.cwd.as_os_str())?)?;
        match self.standard {
            Standard::Files(files) => {
                for (target, file) in (0..).zip(files) {
                    actions.duplicate(file.as_raw_fd(), target)?;
                }
            }
            // The first terminal that the leader of a session opens controls the session.
            Standard::Terminal(path) => {
                actions.open(0, path, libc::O_RDWR)?;
                actions.duplicate(0, 1)?;
                actions.duplicate(0, 2)?;
            }
        }
        for file in &*INHERITED {
            // One beyond the limit of open files, as that is now, cannot be named.
            let _ = actions.close(*file);
        }
        let pid = match spawn(&program, &argv, &env, &actions, &attributes) {
            Err(error) if error.raw_os_error() == Some(libc::ENOEXEC) => {
                let mut argv = argv;
                argv.splice(..argv.len().min(1), [SHELL.to_owned(), program]);
                spawn(SHELL, &argv, &env, &actions, &attributes)?
            }
            other => other?,
        };
        Ok(Child::of(pid, any))
    }
}

fn text(word: &OsStr) -> io::Result<CString> {
    CString::new(word.as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("there is a zero byte in {word:?}")))
}

fn variables(env: Vec<(OsString, OsString)>) -> io::Result<Vec<CString>> {
    let last: std::collections::BTreeMap<_, _> = env.into_iter().collect();
    let joined = last.into_iter().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        text(&OsString::from_vec(name.into_vec()))
    });
    joined.collect()
}

/// The error that one of these functions returns; they leave `errno` alone.
fn done(code: c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

/// What the process is to be before the program runs: leader of a session, with no signal blocked and SIGPIPE deadly again,
/// which the daemon ignores.
struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> io::Result<Self> {
        let mut space = MaybeUninit::uninit();
        // SAFETY: `space` is writable and has the size of what is initialised; it counts as initialised only after success,
        // and is then destroyed exactly once, by `drop`. Neither of these two structures points into itself, so they move.
        let mut this = unsafe {
            done(libc::posix_spawnattr_init(space.as_mut_ptr()))?;
            Self(space.assume_init())
        };
        let mut signals = MaybeUninit::uninit();
        // SAFETY: `sigemptyset` and `sigfillset` initialise all of the set that they are given and cannot fail with a valid
        // pointer; the attributes are initialised, and all three functions copy what they are given.
        unsafe {
            libc::sigemptyset(signals.as_mut_ptr());
            done(libc::posix_spawnattr_setsigmask(&mut this.0, signals.as_ptr()))?;
            // All of them: what the daemon was started to ignore, as by nohup(1), ends its commands as ever.
            libc::sigfillset(signals.as_mut_ptr());
            done(libc::posix_spawnattr_setsigdefault(&mut this.0, signals.as_ptr()))?;
            let flags = libc::POSIX_SPAWN_SETSIGMASK as c_short
                | libc::POSIX_SPAWN_SETSIGDEF as c_short
                | libc::POSIX_SPAWN_SETSID;
            done(libc::posix_spawnattr_setflags(&mut this.0, flags))?;
        }
        Ok(this)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: they were initialised by `new`, and nobody uses them after this.
        unsafe { libc::posix_spawnattr_destroy(&mut self.0) };
    }
}

/// What is done in the process, in this order, before the program runs.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Self> {
        let mut space = MaybeUninit::uninit();
        // SAFETY: as in `Attributes::new`.
        unsafe {
            done(libc::posix_spawn_file_actions_init(space.as_mut_ptr()))?;
            Ok(Self(space.assume_init()))
        }
    }

    fn change_directory(&mut self, path: &CStr) -> io::Result<()> {
        // SAFETY: the actions are initialised, and the path ends with a zero byte and is copied.
        done(unsafe { libc::posix_spawn_file_actions_addchdir_np(&mut self.0, path.as_ptr()) })
    }

    fn duplicate(&mut self, file: c_int, target: c_int) -> io::Result<()> {
        // SAFETY: the actions are initialised; descriptors are plain numbers, which are looked up in the child.
        done(unsafe { libc::posix_spawn_file_actions_adddup2(&mut self.0, file, target) })
    }

    fn close(&mut self, file: c_int) -> io::Result<()> {
        // SAFETY: the actions are initialised; one that is not open in the child is passed over.
        done(unsafe { libc::posix_spawn_file_actions_addclose(&mut self.0, file) })
    }

    fn open(&mut self, target: c_int, path: &CStr, flags: c_int) -> io::Result<()> {
        let mode: mode_t = 0;
        // SAFETY: the actions are initialised, and the path ends with a zero byte and is copied.
        done(unsafe {
            libc::posix_spawn_file_actions_addopen(&mut self.0, target, path.as_ptr(), flags, mode)
        })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: they were initialised by `new`, and nobody uses them after this.
        unsafe { libc::posix_spawn_file_actions_destroy(&mut self.0) };
    }
}

fn spawn(
    program: &CStr,
    argv: &[CString],
    env: &[CString],
    actions: &Actions,
    attributes: &Attributes,
) -> io::Result<Pid> {
    let pointers = |words: &[CString]| -> Vec<*mut c_char> {
        words.iter().map(|word| word.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    let mut pid: pid_t = 0;
    // SAFETY: the program's path, and each word of both lists, end with a zero byte, and both lists with a null pointer;
    // all of them, the actions and the attributes outlive the call, which reads them and writes only `pid`. Nothing of
    // Rust runs in the child: the C library does what was asked and executes the program, or ends the child.
    done(unsafe {
        libc::posix_spawn(&mut pid, program.as_ptr(), &actions.0, &attributes.0, argv.as_ptr(), env.as_ptr())
    })?;
    Pid::from_raw(pid).ok_or_else(|| io::Error::other("a process was started that has no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Child {
        let null = std::fs::File::open("/dev/null").unwrap();
        let argv = ["sh", "-c", line].map(OsString::from);
        let standard = Standard::Files([(); 3].map(|()| std::os::fd::AsFd::as_fd(&null)));
        Start { program: Path::new("/bin/sh"), argv: &argv, env: Vec::new(), cwd: Path::new("/"), standard }
            .run()
            .unwrap()
    }

    #[test]
    fn an_end_is_told_to_who_waits_with_and_without_a_descriptor_however_late() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let by_signal =
                |child: &mut Child| child.ended = Ended::Any(signal(SignalKind::child()).unwrap());
            for has_descriptor in [true, false] {
                for line in ["exit 7", "sleep 0.1; exit 7"] {
                    let mut child = shell(line);
                    if !has_descriptor {
                        by_signal(&mut child);
                    }
                    assert_eq!(child.wait().await.unwrap().code(), Some(7));
                }
            }
            // Nobody else buries what is waited for; what is not, is buried.
            let (child, gone) = (shell("exit 7"), shell("exit 7"));
            let (pid, its) = (child.pid, gone.pid.as_raw_nonzero().get() as u32);
            drop(gone);
            let mut suspects = Default::default();
            while std::fs::exists(format!("/proc/{its}")).unwrap() {
                suspects = crate::exec::process::bury(&suspects);
            }
            assert!(is_awaited(pid.as_raw_nonzero().get() as u32) && !is_awaited(its));
            assert_eq!(child.wait().await.unwrap().code(), Some(7));
            assert!(!is_awaited(pid.as_raw_nonzero().get() as u32));
        });
    }

    /// A daemon that nohup(1) had started, or a shell in the background, had commands that a hangup or a quit did not reach.
    #[test]
    fn what_we_ignore_a_program_does_not() {
        // SAFETY: it is ignored, so nothing is run when it comes; nobody else has anything to do with it.
        unsafe { libc::signal(libc::SIGPWR, libc::SIG_IGN) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let status = runtime.block_on(async { shell("kill -PWR $$; exit 7").wait().await.unwrap() });
        assert_eq!(status.signal(), Some(libc::SIGPWR));
    }
}
