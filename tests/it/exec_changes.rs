//! Whose a change is, when commands, other programs and callers from outside change the workspace at the same time.

use crate::support::{Daemon, Place, WSD, eventually, has_fuse, sh, text};
use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct House {
    place: Place,
    daemon: Daemon,
}

impl House {
    fn new(settings: &[(&str, &str)]) -> Self {
        let place = Place::new();
        let daemon = place.serve_with(settings);
        Self { place, daemon }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(WSD);
        command.args(arguments).env_clear().env("WSD_URL", format!("ws://127.0.0.1:{}/ws", self.daemon.port));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn says(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn start(&self, id: &str, script: &str) -> Child {
        self.command(&["exec", "--id", id, "-c", "--", script]).spawn().unwrap()
    }

    /// The files that a command is said to have changed, by name.
    fn changed(&self, id: &str) -> BTreeSet<String> {
        let point = format!("{}/", self.place.point.display());
        let said = self.says(&["ps", "--changes", id]);
        said.lines()
            .flat_map(|line| line.split(&point).skip(1))
            .map(|name| name.trim_end_matches(" -> ").into())
            .collect()
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// All that can be done to a tree, again and again, each in a directory of its own, until `stop` is there.
const WORK: &str = "
    exec 3>> $ME-log
    while [ ! -e stop ]; do
        mkdir $ME-d; echo a > $ME-d/f; echo b >> $ME-d/f; ln $ME-d/f $ME-d/l; ln -s x $ME-d/s; mkfifo $ME-d/p
        mv $ME-d/f $ME-d/g; chmod 600 $ME-d/g; truncate -s 5 $ME-d/g; touch -d 2001-01-01 $ME-d/l
        cp $ME-d/g $ME-d/h; dd if=/dev/zero of=$ME-d/h bs=4096 count=2 conv=notrunc status=none
        echo line >> $ME-old; (echo late; env -i sh -c 'echo child') >&3; rm -r $ME-d
    done";

#[test]
fn of_what_happens_at_the_same_time_a_command_is_told_its_own() {
    if !has_fuse() {
        return;
    }
    let house = House::new(&[]);
    let point = house.place.point.clone();
    sh(&point, "echo x > a-old; echo x > b-old; echo x > c-old");
    let mut commands: Vec<Child> =
        ["a", "b"].map(|me| house.start(me, &format!("ME={me}; {WORK}"))).into_iter().collect();
    // A program that no command has started, and a caller from outside.
    let mut program =
        Command::new("sh").args(["-c", &format!("ME=c; {WORK}")]).current_dir(&point).spawn().unwrap();
    eventually("all are at work", || ["a-d", "b-d", "c-d"].iter().all(|name| point.join(name).exists()));
    for round in 0..20 {
        let source = point.parent().unwrap().join("source");
        std::fs::write(&source, format!("{round}")).unwrap();
        let name = format!("rpc{}", round % 3);
        house.says(&["put", source.to_str().unwrap(), &name]);
        house.says(&["put", source.to_str().unwrap(), "c-old"]);
        house.says(&["mv", &name, "moved"]);
        house.says(&["rm", "moved"]);
    }
    house.says(&["put", "/dev/null", "stop"]);
    program.wait().unwrap();
    for command in &mut commands {
        assert!(command.wait().unwrap().success());
    }
    for me in ["a", "b"] {
        let own =
            ["d", "d/f", "d/g", "d/h", "d/l", "d/p", "d/s", "log", "old"].map(|name| format!("{me}-{name}"));
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        assert_eq!(house.changed(me), names(&own), "right after its end");
    }
    let (a, b) = (house.changed("a"), house.changed("b"));
    house.daemon.stop();
    let daemon = house.place.serve();
    let house = House { place: house.place, daemon };
    assert_eq!((house.changed("a"), house.changed("b")), (a, b), "and after a restart");
}

/// Of the bytes in the kernel's cache nobody says whose they are; of the close of the file somebody does.
#[test]
fn bytes_are_of_who_closed_or_unmapped_the_file() {
    if !has_fuse() {
        return;
    }
    let house = House::new(&[]);
    let point = house.place.point.clone();
    sh(&point, "for f in appended mapped kept other; do head -c 8192 /dev/zero > $f; done");
    let other = house.start("other", "while [ ! -e stop ]; do echo x >> other; sleep 0.01; done");
    let mapped = "import mmap\nwith open('mapped', 'r+b') as file:\n  map = mmap.mmap(file.fileno(), 8192)\n\
                  map[0:2] = b'me'\nmap.close()\n";
    std::fs::write(house.place.dir.path().join("map.py"), mapped).unwrap();
    let script = format!(
        "echo x >> appended; exec 3>> kept; echo x >&3; sh -c 'setsid sh -c \"echo x >> session\"'; python3 {}/map.py",
        house.place.dir.path().display()
    );
    assert!(house.start("bytes", &script).wait().unwrap().success());
    assert_eq!(house.changed("bytes"), names(&["appended", "kept", "mapped", "session"]));
    house.says(&["put", "/dev/null", "stop"]);
    assert!(other.wait_with_output().unwrap().status.success());
    assert_eq!(house.changed("other"), names(&["other"]));
}

/// The kernel writes back what an earlier command has written to a file that it keeps open.
#[test]
fn bytes_of_a_file_that_another_command_has_made_are_not_of_one_that_came_later() {
    if !has_fuse() {
        return;
    }
    let house = House::new(&[]);
    let point = house.place.point.clone();
    let wait = |name: &str| format!("until [ -e {name} ]; do sleep 0.01; done");
    // A shell would close a copy of the descriptor after each line, and the kernel writes back what is closed.
    let script = "import os, time\nfile = os.open('a', os.O_CREAT | os.O_WRONLY)\nos.write(file, b'x')\n\
                  os.mkdir('ready')\nwhile not os.path.exists('stop'):\n  time.sleep(0.01)\n";
    std::fs::write(house.place.dir.path().join("keep.py"), script).unwrap();
    let first = house.start("first", &format!("python3 {}/keep.py", house.place.dir.path().display()));
    eventually("the first has written", || point.join("ready").exists());
    let second = house.start("second", &format!("echo x > b; {}", wait("enough")));
    eventually("the second is at work", || point.join("b").exists());
    sh(&point, "sync -f .");
    house.says(&["put", "/dev/null", "enough"]);
    assert!(second.wait_with_output().unwrap().status.success());
    assert_eq!(house.changed("second"), names(&["b"]));
    house.says(&["put", "/dev/null", "stop"]);
    assert!(first.wait_with_output().unwrap().status.success());
    assert_eq!(house.changed("first"), names(&["a", "ready"]));
}

/// Without FUSE nobody is known but who calls from outside.
#[test]
fn without_fuse_only_callers_are_left_out() {
    let house = House::new(&[("FUSE_MOUNT", "shim")]);
    let mut command = house.start("shim", "echo x > own; while [ ! -e stop ]; do sleep 0.01; done");
    eventually("it is at work", || house.place.point.join("own").exists());
    house.says(&["put", "/dev/null", "rpc"]);
    house.says(&["put", "/dev/null", "stop"]);
    assert!(command.wait().unwrap().success());
    assert_eq!(house.changed("shim"), names(&["own"]));
}

/// The kernel hands over what a program has written, and when, when one that it starts becomes another program, and lets nobody
/// read `/proc/PID/stat` of it meanwhile. The daemon did, to know whose that was, and both waited for each other.
#[test]
fn a_program_that_is_started_by_one_with_an_open_file_runs() {
    if !has_fuse() {
        return;
    }
    let house = House::new(&[]);
    let script = "import os, time\nfor name in range(20):\n  file = os.open(f'f{name}', os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC)\n  \
                  time.sleep(0.02)\n  os.write(file, b'x')\n  child = os.fork()\n  if child == 0:\n    os.execvp('true', ['true'])\n  \
                  assert os.waitpid(child, 0)[1] == 0\n";
    std::fs::write(house.place.dir.path().join("start.py"), script).unwrap();
    let line = format!("python3 {}/start.py", house.place.dir.path().display());
    let mut command = house.start("starts", &line);
    let begin = Instant::now();
    while command.try_wait().unwrap().is_none() {
        if begin.elapsed() > Duration::from_secs(30) {
            // Or neither this test nor those that look for processes would come to an end.
            house.daemon.kill();
            panic!("it waits for the daemon, and the daemon for it");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(command.wait().unwrap().success());
    let files: Vec<String> = (0..20).map(|name| format!("f{name}")).collect();
    assert_eq!(house.changed("starts"), files.into_iter().collect());
    house.daemon.stop();
    house.place.check();
}
