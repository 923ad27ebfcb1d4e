//! Commands from the command line, against a real daemon with a real mount.

use crate::support::{Daemon, Place, WSD, eventually, has, has_fuse, is_root, text};
use std::fs;
use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

/// A daemon, and `wsd` talking to it.
struct Served {
    place: Place,
    daemon: Option<Daemon>,
    port: u16,
}

impl Served {
    fn new() -> Option<Self> {
        if !has_fuse() {
            return None;
        }
        let place = Place::new();
        let daemon = place.serve_with(&[("WSD_VAR_GIVEN", "by the daemon"), ("SECRET", "not for commands")]);
        Some(Self { port: daemon.port, place, daemon: Some(daemon) })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(WSD);
        command.args(arguments).env_clear().env("WSD_URL", format!("ws://127.0.0.1:{}/ws", self.port));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn wsd(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn says(&self, arguments: &[&str], code: i32) -> String {
        let output = self.wsd(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }
}

/// What is left there is a plain directory: it ran in that, and what it wrote was nobody's.
#[test]
fn nothing_runs_where_the_workspace_was_until_somebody_unmounted_it() {
    let Some(served) = Served::new() else { return };
    let point = &served.place.point;
    assert!(Command::new("umount").arg(point).status().unwrap().success());
    let output = served.wsd(&["exec", "--", "touch", "made"]);
    assert_ne!(output.status.code(), Some(0));
    let said = text(&output.stderr);
    assert!(said.contains("not mounted at") && said.contains(point.to_str().unwrap()), "{said}");
    assert_eq!(fs::read_dir(point).unwrap().count(), 0);
}

#[test]
fn a_command_runs_in_the_workspace_and_its_code_is_ours() {
    let Some(served) = Served::new() else { return };
    let point = served.place.point.to_str().unwrap().to_owned();
    let output = served.wsd(&[
        "exec",
        "--",
        "sh",
        "-c",
        "pwd; echo $GIVEN$SECRET; echo oh >&2; echo x > made; exit 3",
    ]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        (text(&output.stdout), text(&output.stderr)),
        (format!("{point}\nby the daemon\n"), "oh\n".into())
    );
    assert_eq!(fs::read(served.place.point.join("made")).unwrap(), b"x\n");
    assert_eq!(
        served.says(&["exec", "-e", "A=b c", "--cwd", "/", "-c", "--", "pwd; echo $A"], 0),
        "/\nb c\n"
    );
    assert_eq!(served.says(&["exec", "--", "sh", "-c", "kill -KILL $$"], 137), "");
    assert_eq!(served.says(&["exec", "--timeout", "0.2", "--", "sleep", "60"], 143), "");
    let missing = served.wsd(&["exec", "--", "no-such-program"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("no-such-program") && text(&missing.stderr).contains("ENOENT"));
    assert_eq!(served.wsd(&["exec"]).status.code(), Some(2));
    assert_eq!(served.wsd(&["exec", "-e", "novalue", "--", "true"]).status.code(), Some(2));
}

#[test]
fn standard_input_goes_in_and_much_comes_out() {
    let Some(served) = Served::new() else { return };
    let mut child = served.command(&["exec", "--", "wc", "-c"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&vec![b'x'; 3_000_000]).unwrap();
    drop(stdin);
    assert_eq!(text(&child.wait_with_output().unwrap().stdout).trim(), "3000000");
    let lines = served.says(&["exec", "--", "seq", "1", "400000"], 0);
    assert!(lines.lines().map(|line| line.parse::<u32>().unwrap()).eq(1..=400_000));
}

#[test]
fn a_command_is_left_followed_listed_and_ended() {
    let Some(served) = Served::new() else { return };
    let id = served.says(&["exec", "--detach", "--", "sh", "-c", "echo a > f; mv f g; echo said; exit 7"], 0);
    let id = id.trim();
    assert_eq!(served.says(&["logs", "-f", id], 7), "said\n");
    assert_eq!(served.says(&["logs", id], 0), "said\n");
    let changes = served.says(&["ps", "--changes", id], 0);
    let point = served.place.point.to_str().unwrap();
    assert!(changes.contains(&format!("created {point}/f\n")), "{changes}");
    assert!(changes.contains(&format!("renamed {point}/f -> {point}/g\n")), "{changes}");
    let sleeper = served.says(&["exec", "--detach", "--id", "sleeper", "--", "sleep", "60"], 0);
    assert_eq!(sleeper, "sleeper\n");
    let taken = served.wsd(&["exec", "--detach", "--id", "sleeper", "--", "true"]);
    assert!(text(&taken.stderr).contains("EEXEC_BUSY"), "{}", text(&taken.stderr));
    assert!(
        served.says(&["ps"], 0).lines().any(|line| line.starts_with("sleeper") && line.contains("running"))
    );
    assert!(text(&served.wsd(&["kill", "-s", "NOPE", "sleeper"]).stderr).contains("EINVAL"));
    assert!(text(&served.wsd(&["kill", "nobody"]).stderr).contains("ENOENT"));
    served.says(&["kill", "sleeper"], 0);
    served.says(&["logs", "-f", "sleeper"], 143);
    let listed = served.says(&["ps", "--json"], 0);
    let last: serde_json::Value = serde_json::from_str(listed.lines().last().unwrap()).unwrap();
    assert_eq!((last["id"].as_str(), last["exit"]["signal"].as_str()), (Some("sleeper"), Some("TERM")));
    served.says(&["kill", "--dispose", "sleeper"], 0);
    assert!(!served.says(&["ps"], 0).contains("sleeper"));
}

/// Whatever the daemon was started with: a lock on the file would have been held by its commands too.
#[test]
fn commands_have_no_files_of_who_started_the_daemon() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let mut command = Command::new("sh");
    command.args(["-c", "exec 7</dev/zero 8</dev/zero; exec \"$0\"", WSD]).env("PORT", "0");
    command.env("WSD_DB", &place.store).env("MOUNT_POINT", &place.point);
    let daemon = place.start(command);
    let served = Served { port: daemon.port, place, daemon: Some(daemon) };
    let open = served.says(&["exec", "--", "ls", "-l", "/proc/self/fd"], 0);
    assert!(open.contains(" 0 -> ") && !open.contains("zero"), "{open}");
}

/// It went on for ever, as fast as it could, with nobody who read it.
#[test]
fn who_writes_to_nobody_is_ended() {
    let Some(served) = Served::new() else { return };
    let mut child = served.start(&["exec", "--id", "endless", "--", "yes"]);
    let mut stdout = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut stdout, &mut [0; 1000]).unwrap();
    drop(stdout);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    eventually("it has ended", || served.says(&["ps"], 0).contains("SIGPIPE"));
}

#[test]
fn one_that_is_not_there_is_no_reason_to_spare_the_others() {
    let Some(served) = Served::new() else { return };
    let line = "trap '' TERM; echo ready; while :; do sleep 1; done";
    served.says(&["exec", "-d", "--id", "stubborn", "-c", "--", line], 0);
    eventually("it is at it", || served.says(&["logs", "stubborn"], 0) == "ready\n");
    let killed = served.wsd(&["kill", "--grace", "0", "nobody", "stubborn"]);
    assert_eq!((killed.status.code(), text(&killed.stderr).matches("ENOENT").count()), (Some(1), 1));
    served.says(&["logs", "-f", "stubborn"], 137);
}

/// Once they were larger together than a message may be, none was listed any more.
#[test]
fn long_commands_and_long_paths_can_be_told() {
    let Some(served) = Served::new() else { return };
    let line = format!(": {}", "x".repeat(120_000));
    for _ in 0..80 {
        served.says(&["exec", "-c", "--", &line], 0);
    }
    let listed = served.says(&["ps"], 0);
    assert!(listed.lines().count() == 80 && listed.len() < 80 * 2200, "{}", listed.len());
    let (_, _, page) = served.daemon.as_ref().unwrap().ask("GET /__wsd/ui/commands", "");
    assert!(page.contains(": xxx") && page.len() < 80 * 500, "{}", page.len());
    let line = "for i in 1 2 3 4 5 6 7 8 9 0; do d=$(printf \"$i%.0s\" $(seq 120)); mkdir $d; cd $d; done; \
                seq -f 'f%g' 1 4500 | xargs touch";
    served.says(&["exec", "--id", "deep", "-c", "--", line], 0);
    let told = served.wsd(&["ps", "--changes", "deep"]);
    assert!(told.status.success() && told.stdout.len() > 1 << 20, "{}", text(&told.stderr));
    assert!(text(&told.stderr).contains("there were more changes"), "{}", text(&told.stderr));
}

#[test]
fn a_daemon_that_is_killed_loses_its_commands_and_says_so() {
    let Some(mut served) = Served::new() else { return };
    let done = served.says(&["exec", "--detach", "--", "echo", "kept"], 0);
    served.says(&["logs", "-f", done.trim()], 0);
    let mut watcher = served.start(&["exec", "--id", "cut", "--", "sh", "-c", "echo begun; exec sleep 60"]);
    eventually("the start of the command", || text(&served.wsd(&["logs", "cut"]).stdout) == "begun\n");
    // What was said goes to the store a few times a second.
    let in_store = |served: &Served| {
        let store = rusqlite::Connection::open(&served.place.store).unwrap();
        let count = "SELECT count(*) FROM exec_event WHERE exec = 'cut'";
        store.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap() > 0
    };
    eventually("the output in the store", || in_store(&served));
    served.daemon.take().unwrap().kill();
    let port = served.port.to_string();
    served.daemon = Some(served.place.serve_with(&[("PORT", &port)]));
    assert_eq!(watcher.wait().unwrap().code(), Some(255), "it was told that nobody knows");
    assert_eq!(served.says(&["logs", "cut"], 0), "begun\n");
    assert!(served.says(&["ps"], 0).lines().any(|line| line.starts_with("cut") && line.contains("lost")));
    assert_eq!(served.says(&["logs", done.trim()], 0), "kept\n");
}

/// A daemon that holds a lock while it starts a child in its own mount waits for itself: the child's first steps are
/// requests to the mount. Peers have met that.
#[test]
fn commands_start_in_the_mount_while_it_is_busy() {
    let Some(served) = Served::new() else { return };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let path = served.place.point.join(format!("busy{writer}"));
                scope.spawn(move || {
                    for _ in 0..40 {
                        fs::write(&path, vec![writer; 4 << 20]).unwrap();
                        fs::File::open(&path).unwrap().sync_all().unwrap();
                    }
                })
            })
            .collect();
        for number in 0..40 {
            let name = format!("d{}", number % 5);
            fs::create_dir_all(served.place.point.join(&name)).unwrap();
            let line = "cp /bin/true ./t && ./t && echo ok";
            assert_eq!(served.says(&["exec", "--cwd", &name, "-c", "--", line], 0), "ok\n");
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
}

#[test]
fn a_daemon_that_stops_ends_its_commands() {
    let Some(mut served) = Served::new() else { return };
    let mut child = served.start(&["exec", "--id", "long", "-c", "--", "sleep 61 & wait"]);
    eventually("the start of the command", || served.says(&["ps"], 0).contains("running"));
    served.daemon.take().unwrap().stop();
    assert!(!child.wait().unwrap().success());
    let left = Command::new("pgrep").args(["-f", "^sleep 61$"]).output().unwrap();
    assert_eq!(text(&left.stdout), "");
}

/// 100 MB at 10 MB a second to a reader that is not faster than that.
#[test]
fn a_slow_reader_costs_no_memory() {
    let Some(served) = Served::new() else { return };
    served.says(&["exec", "--", "true"], 0);
    let daemon = served.daemon.as_ref().unwrap();
    let before = daemon.stat("/rssBytes");
    let mut child = served.start(&["exec", "--", "head", "-c", "100000000", "/dev/zero"]);
    let mut stdout = child.stdout.take().unwrap();
    let (mut total, mut most) = (0, 0);
    let mut buffer = vec![0; 1_000_000];
    let begun = std::time::Instant::now();
    loop {
        let count = std::io::Read::read(&mut stdout, &mut buffer).unwrap();
        if count == 0 {
            break;
        }
        total += count;
        while begun.elapsed().as_secs_f64() < total as f64 / 10e6 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        most = most.max(daemon.stat("/rssBytes"));
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(total, 100_000_000);
    assert!(most < before + (32 << 20), "{} MiB more", (most - before) >> 20);
}

/// In a container the daemon is process 1: whatever loses its parent is its child, and nobody else buries it.
#[test]
fn as_process_one_it_leaves_no_zombies() {
    if !(has_fuse() && is_root() && has("unshare")) {
        return;
    }
    let place = Place::new();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", WSD, "serve"]).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap());
    command.env("PORT", "0").env("WSD_DB", &place.store).env("MOUNT_POINT", &place.point);
    let daemon = place.start(command);
    let port = daemon.port;
    let served = Served { place, daemon: Some(daemon), port };
    let orphans = "for i in 1 2 3 4 5; do (setsid sh -c 'sleep 0.2; exit 3' &) ; done; echo $$";
    served.says(&["exec", "--detach", "-c", "--", orphans], 0);
    served.says(&["exec", "-c", "--", "(sleep 0.1 &); true"], 0);
    let zombies = || {
        let stats = "cat /proc/[0-9]*/stat | sed 's/.*) //' | grep -c '^Z'; true";
        served.says(&["exec", "-c", "--", stats], 0).trim().parse::<u32>().unwrap()
    };
    eventually("the burial of all orphans", || zombies() == 0);
    served.says(&["exec", "-c", "--", "kill -0 1"], 0);
}

/// The limits are there before the program is: one that was set from outside, after the start, came too late now and then.
#[test]
fn a_program_has_its_limits_from_its_first_instruction() {
    let Some(served) = Served::new() else { return };
    let all = ["--limit-cpu", "7", "--limit-file", "1024", "--limit-open", "99", "--limit-processes", "5000"];
    let memory = ["--limit-memory", "1073741824"];
    let run = [&["exec"][..], &all[..], &memory[..], &["--"]].concat();
    let say = "grep -E 'cpu time|file size|open files|processes|address space' /proc/self/limits";
    let said = served.says(&[&run[..], &["sh", "-c", say]].concat(), 0);
    for (name, limit) in [
        ("Max cpu time", "7"),
        ("Max file size", "1024"),
        ("Max open files", "99"),
        ("Max processes", "5000"),
        ("Max address space", "1073741824"),
    ] {
        let line = said.lines().find(|line| line.starts_with(name)).unwrap();
        let words: Vec<&str> = line[name.len()..].split_whitespace().collect();
        assert_eq!(words[..2], [limit, limit], "{line}");
    }
    let many = "for i in $(seq 100); do wsd exec --limit-open 99 -- sh -c 'ulimit -n'; done | sort | uniq -c";
    let many = many.replace("wsd", WSD);
    let url = format!("ws://127.0.0.1:{}/ws", served.port);
    let counted = crate::support::sh_output(&served.place.point, &many, &[("WSD_URL", url.as_ref())]);
    assert_eq!(text(&counted.stdout).split_whitespace().collect::<Vec<_>>(), ["100", "99"]);
    assert_eq!(served.says(&["exec", "--limit-cpu", "1", "-c", "--", "while :; do :; done"], 137), "");
    let cut = "head -c 5000 /dev/zero > big; wc -c < big";
    assert_eq!(served.says(&["exec", "--limit-file", "1000", "-c", "--", cut], 0).trim(), "1000");
    // What cannot be started is told as without limits, and the environment is the caller's.
    let missing = served.wsd(&["exec", "--limit-cpu", "7", "--", "no-such-program"]);
    assert!(missing.status.code() == Some(1) && text(&missing.stderr).contains("ENOENT"));
    let denied = served.wsd(&["exec", "--limit-cpu", "7", "--", "/etc/passwd"]);
    assert!(denied.status.code() == Some(1) && text(&denied.stderr).contains("EACCES"));
    let env = ["exec", "-e", "PORT=nonsense", "--limit-cpu", "7", "--", "sh", "-c", "echo $PORT $0; exit 6"];
    assert_eq!(served.says(&env, 6), "nonsense sh\n");
}

/// Whoever does not read holds up the one command that it does not read.
#[test]
fn a_reader_that_is_stuck_holds_up_nobody_else() {
    let Some(served) = Served::new() else { return };
    let much = "head -c 100000000 /dev/zero; touch over";
    let mut stuck: Vec<Child> = (0..4).map(|_| served.start(&["exec", "-c", "--", much])).collect();
    eventually("all have begun", || served.says(&["ps"], 0).matches("running").count() == 4);
    for number in 0..20 {
        let begun = std::time::Instant::now();
        assert_eq!(served.says(&["exec", "--", "echo", &number.to_string()], 0), format!("{number}\n"));
        served.says(&["ls", "."], 0);
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    }
    assert!(!served.place.point.join("over").exists(), "they are held up");
    for child in &mut stuck {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    eventually("without a reader they go on", || !served.says(&["ps"], 0).contains("running"));
    assert!(served.place.point.join("over").exists());
}

/// A hangup, and SIGQUIT, ended `wsd exec` alone: the command ran on, and nobody was told.
#[test]
fn a_command_does_not_outlive_who_waits_for_it() {
    let Some(served) = Served::new() else { return };
    for (signal, code) in [("HUP", 129), ("QUIT", 131), ("INT", 130), ("TERM", 143)] {
        let mut child = served.start(&["exec", "--id", signal, "--", "sleep", "600"]);
        eventually("it runs", || served.says(&["ps"], 0).contains(signal));
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}");
        let listed = served.says(&["ps"], 0);
        let line = listed.lines().find(|line| line.starts_with(signal)).unwrap();
        assert!(line.contains(&format!("SIG{signal}")), "{line}");
    }
    // As nohup(1) has it.
    let script = format!("trap '' HUP; exec {WSD} exec --id kept -- sh -c 'sleep 1; echo done'");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env_clear().env("WSD_URL", format!("ws://127.0.0.1:{}/ws", served.port));
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    eventually("it runs", || served.says(&["ps"], 0).contains("kept"));
    assert!(Command::new("kill").args(["-s", "HUP", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(text(&child.wait_with_output().unwrap().stdout), "done\n");
}
