//! Real processes, in a plain directory: a command needs a directory, not a workspace.

use super::*;
use crate::store::{Location, Store};
use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A workspace in which nothing changes, and whose upstream is away.
#[derive(Default)]
pub(super) struct Still {
    /// Held by a test to have the keeper wait where it asks for changes.
    pub(super) held: parking_lot::Mutex<()>,
    pub(super) asked: AtomicUsize,
    pub(super) pushes: AtomicUsize,
}

impl Surroundings for Still {
    fn is_there(&self) -> bool {
        true
    }
    fn settle_out(&self) {}
    fn settle_in(&self) {}

    fn pull(&self, _: Option<Duration>) -> BoxFuture<'static, Result<(), String>> {
        async { Err("nobody is there".to_owned()) }.boxed()
    }
    fn push(&self, _: u64, limit: Option<Duration>) -> BoxFuture<'static, Result<(), String>> {
        self.pushes.fetch_add(1, Ordering::Relaxed);
        match limit {
            Some(limit) => tokio::time::sleep(limit).map(|()| Err("it took too long".to_owned())).boxed(),
            None => std::future::pending().boxed(),
        }
    }
    fn revision(&self) -> u64 {
        7
    }
    fn changes(&self, _: u32, _: u64, _: u64) -> (Vec<Changed>, bool) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        drop(self.held.lock());
        (Vec::new(), true)
    }
}

struct Place {
    runtime: Runtime,
    execs: Arc<Execs>,
    dir: TempDir,
}

fn place(log_bytes: usize) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let execs = open(&runtime, &dir, log_bytes);
    Place { runtime, execs, dir }
}

pub(super) fn store(dir: &TempDir) -> Arc<Store> {
    let point = dir.path().canonicalize().unwrap();
    std::fs::create_dir_all(point.join("ws")).unwrap();
    let location = Location::File(point.join("store.db"));
    Arc::new(Store::open(&location, &point.join("ws")).unwrap())
}

pub(super) fn settings(dir: &TempDir, log_bytes: usize) -> Settings {
    let point = dir.path().canonicalize().unwrap();
    let env = vec![("HOME".into(), "/root".into()), ("X".into(), "from wsd".into())];
    Settings {
        mount_point: point.join("ws"),
        env,
        log_bytes,
        remembered: REMEMBERED,
        age: AGE,
        limiter: "/none".into(),
    }
}

fn open(runtime: &Runtime, dir: &TempDir, log_bytes: usize) -> Arc<Execs> {
    let settings = settings(dir, log_bytes);
    Execs::open(settings, store(dir), Arc::new(Still::default()), runtime.handle().clone()).unwrap()
}

pub(super) fn sh(line: &str) -> Spec {
    Spec::new(Words::Shell(line.as_bytes().to_vec()))
}

/// What a command said until its exit.
#[derive(Default)]
pub(super) struct Heard {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    pub(super) exit: Option<Exit>,
    last: u64,
}

impl Heard {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
    fn code(&self) -> How {
        self.exit.as_ref().unwrap().how
    }
}

pub(super) async fn hear(reader: &mut Reader) -> Heard {
    let mut heard = Heard::default();
    loop {
        let (events, end) = reader.next(100, Duration::from_secs(20)).await.unwrap();
        assert!(end || !events.is_empty(), "nothing was said for 20 seconds");
        for event in events {
            if heard.last > 0 {
                assert_eq!(event.seq, heard.last + 1, "a gap");
            }
            assert!(heard.exit.is_none(), "something after the exit");
            heard.last = event.seq;
            match event.said {
                Said::Stdout(bytes) => heard.stdout.extend(bytes),
                Said::Stderr(bytes) => heard.stderr.extend(bytes),
                Said::Exit(exit) => heard.exit = Some(exit),
            }
        }
        if end {
            return heard;
        }
    }
}

impl Place {
    fn run(&self, spec: Spec) -> Heard {
        self.runtime.block_on(async {
            let (_, mut reader) = self.execs.run(spec).await.unwrap();
            hear(&mut reader).await
        })
    }

    fn refused(&self, spec: Spec) -> ExecError {
        self.runtime.block_on(async { self.execs.run(spec).await.err().unwrap() })
    }
}

fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    // It is dead, or dying and past the end of its program (PF_EXITING).
    stat.rsplit_once(") ").is_some_and(|(_, rest)| {
        let flags: u32 = rest.split(' ').nth(6).unwrap().parse().unwrap();
        !rest.starts_with('Z') && flags & 4 == 0
    })
}

#[test]
fn output_and_exit_are_told_in_order() {
    let place = place(1 << 20);
    let heard = place.run(sh("echo out; echo err >&2; exit 3"));
    assert_eq!(
        (heard.text().as_str(), &heard.stderr[..], heard.code()),
        ("out\n", &b"err\n"[..], How::Code(3))
    );
    assert_eq!(place.run(sh("kill -SEGV $$")).code(), How::Signal(11));
    let argv = Words::Argv([&b"printf"[..], b"%s|", b"a b", b"\xff"].map(<[u8]>::to_vec).to_vec());
    assert_eq!(place.run(Spec::new(argv)).stdout, b"a b|\xff|");
}

#[test]
fn directory_and_environment_are_as_said() {
    let place = place(1 << 20);
    let ws = place.dir.path().canonicalize().unwrap().join("ws");
    std::fs::create_dir(ws.join("sub")).unwrap();
    assert_eq!(place.run(sh("pwd")).text().trim(), ws.to_str().unwrap());
    let below = Spec { cwd: b"sub".to_vec(), ..sh("pwd") };
    assert_eq!(place.run(below).text().trim(), ws.join("sub").to_str().unwrap());
    assert_eq!(place.run(Spec { cwd: b"/tmp".to_vec(), ..sh("pwd") }).text().trim(), "/tmp");
    let env = vec![(b"GIVEN".to_vec(), b"yes".to_vec()), (b"X".to_vec(), b"mine".to_vec())];
    let heard = place.run(Spec { env, ..sh("env") });
    let mut names: Vec<_> =
        heard.text().lines().map(|line| line.split('=').next().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["GIVEN", "HOME", "PATH", "PWD", "WSD_EXEC_ID", "X"]);
    assert!(heard.text().contains("X=mine\n"));
    for (spec, kind) in [
        (Spec { cwd: b"none".to_vec(), ..sh("true") }, std::io::ErrorKind::NotFound),
        (Spec { cwd: b"/etc/passwd".to_vec(), ..sh("true") }, std::io::ErrorKind::NotADirectory),
        (Spec::new(Words::Argv(vec![b"no-such-program".to_vec()])), std::io::ErrorKind::NotFound),
        (Spec::new(Words::Argv(vec![b"/etc/passwd".to_vec()])), std::io::ErrorKind::PermissionDenied),
    ] {
        let refused = place.refused(spec);
        assert!(matches!(&refused, ExecError::Start { source, .. } if source.kind() == kind), "{refused}");
    }
}

/// As a shell starts it, and with nothing of the daemon's but what is said.
#[test]
fn a_program_starts_in_a_session_of_its_own_with_nothing_blocked_or_open() {
    let place = place(1 << 20);
    let ws = place.dir.path().canonicalize().unwrap().join("ws");
    let heard = place.run(sh("cut -d' ' -f6 /proc/$$/stat; echo $$; ls -l /proc/$$/fd"));
    let (session, rest) = heard.text().split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!(rest.starts_with(&format!("{session}\n")), "{rest}");
    assert!(!rest.contains("store.db") && !rest.contains("eventpoll"), "{rest}");
    let signals = place.run(sh("grep -E 'Sig(Blk|Ign)' /proc/self/status")).text();
    // Two that are the C library's own are ignored.
    let has_none = |line: &str| u64::from_str_radix(&line[8..], 16).unwrap() & 0x7fff_ffff == 0;
    assert!(signals.lines().count() == 2 && signals.lines().all(has_none), "{signals}");
    // A script that does not say what runs it, found through the caller's PATH, which is relative.
    std::fs::create_dir(ws.join("bin")).unwrap();
    std::fs::write(ws.join("bin/script"), "echo $0 $1").unwrap();
    std::fs::set_permissions(ws.join("bin/script"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let words = |words: &[&[u8]]| Words::Argv(words.iter().map(|word| word.to_vec()).collect());
    let env = vec![(b"PATH".to_vec(), b"none:bin".to_vec())];
    let spec = Spec { env, ..Spec::new(words(&[b"script", b"a b"])) };
    assert_eq!(place.run(spec).text().trim(), format!("{} a b", ws.join("bin/script").display()));
    let spec = Spec { cwd: b"bin".to_vec(), ..Spec::new(words(&[b"./script", b"x"])) };
    assert_eq!(place.run(spec).text(), "./script x\n");
    // Its first word is the name that it was called by.
    assert_eq!(place.run(Spec::new(words(&[b"sh", b"-c", b"echo $0"]))).text(), "sh\n");
}

#[test]
fn standard_input_is_nothing_bytes_or_a_stream() {
    let place = place(8 << 20);
    assert_eq!(place.run(sh("cat; echo end")).text(), "end\n");
    let bytes = vec![b'x'; 1 << 20];
    let heard = place.run(Spec { stdin: Stdin::Bytes(bytes.clone()), ..sh("cat") });
    assert!(heard.stdout == bytes);
    place.runtime.block_on(async {
        let (command, mut reader) =
            place.execs.run(Spec { stdin: Stdin::Stream, ..sh("cat") }).await.unwrap();
        for word in ["one ", "two"] {
            assert!(command.feed(word.as_bytes()).await);
        }
        assert!(command.close_input().await && !command.close_input().await);
        assert_eq!(hear(&mut reader).await.text(), "one two");
        assert!(!command.feed(b"late").await);
    });
}

/// Peer defect: a command that printed 200 KB at its end killed the daemon, because its log was finished at the exit of
/// the process and not at the end of its output.
#[test]
fn much_output_at_once_arrives_whole() {
    let place = place(1 << 20);
    for count in [200_000u32, 400_000] {
        let heard = place.run(sh(&format!("seq 1 {count}")));
        let lines: Vec<u32> = heard.text().lines().map(|line| line.parse().unwrap()).collect();
        assert!(lines.iter().copied().eq(1..=count));
        assert_eq!(heard.code(), How::Code(0));
    }
}

/// Peer defect: so did a child in the background that wrote after the shell had ended.
#[test]
fn the_end_of_the_shell_is_not_the_end_of_the_output() {
    let place = place(1 << 20);
    let heard = place.run(sh("(sleep 0.3; echo late) & echo early"));
    assert_eq!(heard.text(), "early\nlate\n");
    assert!(!heard.exit.unwrap().output_cut);
    let begun = Instant::now();
    let silent = Spec { output_grace: Duration::from_millis(300), ..sh("sleep 60 & echo $!") };
    let heard = place.run(silent);
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(heard.exit.as_ref().unwrap().output_cut && heard.code() == How::Code(0));
    assert!(!lives(&heard.text()), "nothing is left behind");
}

/// Peer defect: the time was over for the shell only, and what it had started went on.
#[test]
fn time_and_kill_reach_children_and_grandchildren() {
    let place = place(1 << 20);
    let line = "sh -c 'sleep 60 & echo $!; wait' & setsid sh -c 'echo $$; exec sleep 60' & echo $$; wait";
    let heard = place.run(Spec { timeout: Some(Duration::from_millis(500)), ..sh(line) });
    assert!(heard.exit.as_ref().unwrap().timed_out);
    assert_eq!(heard.code(), How::Signal(15));
    assert_eq!(heard.text().lines().count(), 3);
    for pid in heard.text().lines() {
        assert!(!lives(pid), "{pid}");
    }
    place.runtime.block_on(async {
        let stubborn = "trap '' TERM; sh -c 'trap \"\" TERM; sleep 60' & echo $!; wait; wait; wait";
        let (command, mut reader) = place.execs.run(sh(stubborn)).await.unwrap();
        let (events, _) = reader.next(1, Duration::from_secs(5)).await.unwrap();
        let Said::Stdout(pid) = &events[0].said else { panic!("{events:?}") };
        let pid = String::from_utf8_lossy(pid).into_owned();
        let grace = Some(Duration::from_millis(200));
        assert!(place.execs.kill(&command.id, Signal::TERM, grace).await.unwrap());
        assert_eq!(hear(&mut reader).await.code(), How::Signal(9));
        assert!(!lives(&pid));
        assert!(!place.execs.kill(&command.id, Signal::TERM, None).await.unwrap(), "it has ended");
    });
}

/// A process that has left the session, lost its parent and cleared its environment is in the control group still.
#[test]
fn a_process_that_hides_is_found() {
    let place = place(1 << 20);
    if super::cgroup::Groups::open().is_none() {
        return;
    }
    let hide = "env -i setsid sh -c 'echo $$; exec 1>&- 2>&-; sleep 60; true' & sleep 0.3";
    let heard = place.run(sh(hide));
    assert_eq!(heard.text().lines().count(), 1, "{}", heard.text());
    assert!(!lives(&heard.text()));
}

#[test]
fn what_is_detached_outlives_its_command() {
    let place = place(1 << 20);
    let heard = place.run(Spec { detach: true, ..sh("sleep 60 > /dev/null 2>&1 & echo $!") });
    assert!(lives(&heard.text()));
    let pid = rustix::process::Pid::from_raw(heard.text().trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::path::Path::new(&format!("/proc/{}", heard.text().trim())).exists() {
        assert!(Instant::now() < deadline, "it stays a zombie");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_reader_that_does_not_read_holds_the_command_up() {
    let place = place(64 << 10);
    place.runtime.block_on(async {
        let (command, reader) = place.execs.run(sh("head -c 20000000 /dev/zero; echo end")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(command.exit().is_none() && command.kept().1 < 100, "{:?}", command.kept());
        let (_, mut other) = place.execs.attach(&command.id, None).unwrap();
        drop(reader);
        // Nobody needs what is dropped now, but for the one who came later and reads.
        let heard = hear(&mut other).await;
        assert!(heard.text().ends_with("end\n"));
        let (_, mut late) = place.execs.attach(&command.id, Some(0)).unwrap();
        let truncated = late.next(1, Duration::ZERO).await.unwrap_err();
        let (_, mut resumed) = place.execs.attach(&command.id, Some(truncated.resume)).unwrap();
        let heard = hear(&mut resumed).await;
        assert!(heard.text().ends_with("end\n") && heard.stdout.len() <= 64 << 10);
    });
}

#[test]
fn several_readers_read_at_once_each_from_where_it_wants() {
    let place = place(8 << 20);
    place.runtime.block_on(async {
        let line = "for i in $(seq 40); do echo line $i; sleep 0.01; done";
        let (command, mut first) = place.execs.run(sh(line)).await.unwrap();
        while command.kept().1 < 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let attach = |after| place.execs.attach(&command.id, after).unwrap().1;
        let (mut whole, mut middle, mut tail) = (attach(Some(0)), attach(Some(5)), attach(None));
        let (first, whole, middle, tail) =
            tokio::join!(hear(&mut first), hear(&mut whole), hear(&mut middle), hear(&mut tail));
        assert_eq!((&first.stdout, first.last), (&whole.stdout, whole.last));
        assert_eq!(whole.text().lines().count(), 40);
        assert!(middle.text().len() < whole.text().len() && whole.text().ends_with(&middle.text()));
        assert!(tail.text().len() < middle.text().len() && middle.text().ends_with(&tail.text()));
        for heard in [&first, &whole, &middle, &tail] {
            assert_eq!((heard.code(), heard.last), (How::Code(0), first.last));
        }
    });
}

#[test]
fn a_terminal_is_one() {
    let place = place(1 << 20);
    let spec = Spec {
        terminal: Some((33, 101)),
        ..sh("tty; stty size; echo mine >/dev/tty; read line; echo got $line; stty size; cat")
    };
    place.runtime.block_on(async {
        let (command, mut reader) = place.execs.run(spec).await.unwrap();
        let mut seen = String::new();
        let expect = async |reader: &mut Reader, seen: &mut String, text: &str| {
            while !seen.contains(text) {
                let (events, end) = reader.next(1, Duration::from_secs(10)).await.unwrap();
                assert!(!end && !events.is_empty(), "{text:?} did not come: {seen:?}");
                for event in events {
                    let Said::Stdout(bytes) = event.said else { panic!("{event:?}") };
                    seen.push_str(&String::from_utf8_lossy(&bytes));
                }
            }
        };
        expect(&mut reader, &mut seen, "33 101").await;
        assert!(seen.contains("/dev/pts/"), "{seen}");
        expect(&mut reader, &mut seen, "mine").await;
        command.resize(40, 120).unwrap();
        assert!(command.feed(b"hello\n").await);
        expect(&mut reader, &mut seen, "got hello").await;
        expect(&mut reader, &mut seen, "40 120").await;
        assert!(command.close_input().await);
        assert_eq!(hear(&mut reader).await.code(), How::Code(0));
    });
    let refused = place.runtime.block_on(async {
        let (command, _reader) = place.execs.run(sh("sleep 1")).await.unwrap();
        command.resize(1, 1).unwrap_err()
    });
    assert!(matches!(refused, ExecError::NoTerminal(_)));
}

#[test]
fn many_at_once_lose_nothing() {
    let place = place(1 << 20);
    place.runtime.block_on(async {
        let runs = (0..500).map(|number| {
            let execs = Arc::clone(&place.execs);
            async move {
                let (_, mut reader) =
                    execs.run(sh(&format!("echo {number}; exit {}", number % 7))).await.unwrap();
                let heard = hear(&mut reader).await;
                assert_eq!((heard.text(), heard.code()), (format!("{number}\n"), How::Code(number % 7)));
            }
        });
        futures::future::join_all(runs).await;
        assert_eq!(place.execs.list().len(), 500);
    });
}

#[test]
fn ids_are_the_callers_or_ours() {
    let place = place(1 << 20);
    place.runtime.block_on(async {
        let (command, mut reader) =
            place.execs.run(Spec { id: "mine".into(), ..sh("sleep 0.2") }).await.unwrap();
        assert_eq!(command.id, "mine");
        let again = Spec { id: "mine".into(), ..sh("true") };
        assert!(matches!(place.execs.run(again.clone()).await.err(), Some(ExecError::Taken(_))));
        assert!(matches!(place.execs.dispose("mine").await, Err(ExecError::Runs(_))));
        hear(&mut reader).await;
        assert!(matches!(place.execs.run(again.clone()).await.err(), Some(ExecError::Taken(_))));
        place.execs.dispose("mine").await.unwrap();
        assert!(matches!(place.execs.attach("mine", None).err(), Some(ExecError::Unknown(_))));
        assert!(place.execs.run(again).await.is_ok());
    });
}

/// Both were started once, and the one that lost took the processes of the other with it: they have the same mark.
#[test]
fn of_two_with_the_same_id_at_once_one_runs_undisturbed() {
    let place = place(1 << 20);
    place.runtime.block_on(async {
        for round in 0..20 {
            let spec = Spec { id: format!("both{round}"), ..sh("sleep 0.05; echo done") };
            let (one, two) = tokio::join!(place.execs.run(spec.clone()), place.execs.run(spec));
            let (ran, refused) = if one.is_ok() { (one, two) } else { (two, one) };
            assert!(matches!(refused.err(), Some(ExecError::Taken(_))));
            let heard = hear(&mut ran.unwrap().1).await;
            assert_eq!((heard.text().as_str(), heard.code()), ("done\n", How::Code(0)));
        }
    });
}

#[test]
fn what_was_said_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let execs = open(&runtime, &dir, 1 << 20);
    runtime.block_on(async {
        let spec = Spec { id: "done".into(), ..sh("echo kept; exit 4") };
        hear(&mut execs.run(spec).await.unwrap().1).await;
        let spec = Spec { id: "running".into(), ..sh("echo begun; sleep 60") };
        let (_, mut reader) = execs.run(spec).await.unwrap();
        reader.next(1, Duration::from_secs(5)).await.unwrap();
        execs.close().await;
        assert!(matches!(execs.run(sh("true")).await.err(), Some(ExecError::Closing)));
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    drop(execs);
    let runtime = Runtime::new().unwrap();
    let execs = open(&runtime, &dir, 1 << 20);
    runtime.block_on(async {
        let heard = hear(&mut execs.attach("done", Some(0)).unwrap().1).await;
        assert_eq!((heard.text().as_str(), heard.code()), ("kept\n", How::Code(4)));
        let heard = hear(&mut execs.attach("running", Some(0)).unwrap().1).await;
        assert_eq!((heard.text().as_str(), heard.code()), ("begun\n", How::Signal(15)));
        assert_eq!(execs.list().len(), 2);
        assert_eq!(execs.changes("done").unwrap(), (Vec::new(), true));
    });
}
