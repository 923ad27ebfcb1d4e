//! A daemon for one test, and how a test says that it cannot run here.

use proptest::prelude::ProptestConfig;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The binary under test.
pub(crate) const WSD: &str = env!("CARGO_BIN_EXE_wsd");

/// Says that a test cannot run here, and why. Where everything must run (`WSD_TEST_ALL=1`) that is a failure.
pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os("WSD_TEST_ALL").is_none(), "this test must run here, but: {why}");
    excuse(why);
}

/// The same for what cannot be installed: that is a failure nowhere.
pub(crate) fn excuse(why: &str) {
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    println!("SKIPPED {name}: {why}");
    if let Some(list) = std::env::var_os("WSD_TEST_SKIPPED") {
        let mut list = fs::File::options().create(true).append(true).open(list).unwrap();
        writeln!(list, "SKIPPED {name}: {why}").unwrap();
    }
}

/// For histories of which each takes half a second: an eighth of what `PROPTEST_CASES` says.
pub(crate) fn few_cases() -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig { cases: config.cases.div_ceil(8), max_shrink_iters: 400, ..config }
}

/// Whether a kernel mount can be made here.
pub(crate) fn has_fuse() -> bool {
    let works = fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !works {
        skip("/dev/fuse cannot be opened");
    }
    works
}

/// Whether the kernel is this version of Linux, in which `what` has been seen, or a later one.
pub(crate) fn has_linux(major: u32, minor: u32, what: &str) -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    let is_there = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor);
    if !is_there {
        skip(&format!("Linux {release} has no {what}, Linux {major}.{minor} has"));
    }
    is_there
}

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("it needs root");
    }
    root
}

/// Whether a program is installed.
pub(crate) fn has(program: &str) -> bool {
    let found =
        Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap().status.success();
    if !found {
        skip(&format!("{program} is not installed"));
    }
    found
}

/// A directory with a store and a mount point in it, and maybe a daemon that serves them.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) store: PathBuf,
    pub(crate) point: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::of(tempfile::tempdir().unwrap())
    }

    /// One that is not in memory, as the directory for what is temporary may be.
    pub(crate) fn on_disk() -> Self {
        let above = env!("CARGO_TARGET_TMPDIR");
        fs::create_dir_all(above).unwrap();
        Self::of(tempfile::tempdir_in(above).unwrap())
    }

    /// One whose store is on a disk of this size, as mount(8) has it, and that disk. For root.
    pub(crate) fn on_disk_of(size: &str) -> (Self, PathBuf) {
        let mut place = Self::new();
        let disk = place.disk();
        fs::create_dir(&disk).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(&disk);
        assert!(mount.status().unwrap().success());
        place.store = disk.join("store.db");
        (place, disk)
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn of(dir: TempDir) -> Self {
        let root = dir.path().canonicalize().unwrap();
        Self { store: root.join("store.db"), point: root.join("mnt"), dir }
    }

    /// `wsd` with this place's settings and nothing else in its environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(WSD);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("PORT", "0").env("WSD_DB", &self.store).env("MOUNT_POINT", &self.point);
        command
    }

    /// Starts a daemon and waits until it has mounted.
    pub(crate) fn serve(&self) -> Daemon {
        self.serve_with(&[])
    }

    pub(crate) fn serve_with(&self, settings: &[(&str, &str)]) -> Daemon {
        let mut command = self.command();
        command.envs(settings.iter().copied());
        self.start(command)
    }

    /// Starts a daemon with a command that runs one.
    pub(crate) fn start(&self, command: Command) -> Daemon {
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        self.start_saying_to(command, log)
    }

    /// The same, with something else for its standard error.
    pub(crate) fn start_saying_to(&self, mut command: Command, stderr: impl Into<Stdio>) -> Daemon {
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let port = port.unwrap_or_else(|| panic!("the daemon did not start: {line:?}\n{}", self.log()));
        Daemon { child, port, point: self.point.clone() }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The guards over this place's mount, by number.
    pub(crate) fn guards(&self) -> Vec<String> {
        let guards = |process: fs::DirEntry| {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = text(&line);
            let is_one = line.contains("__guard") && line.contains(self.point.to_str().unwrap());
            is_one.then(|| process.file_name().to_string_lossy().into_owned())
        };
        fs::read_dir("/proc").unwrap().flatten().filter_map(guards).collect()
    }

    fn mounted(&self, test: impl FnOnce(&Daemon)) {
        let daemon = self.serve();
        test(&daemon);
        daemon.stop();
        self.check();
    }

    /// `wsd check` finds nothing.
    pub(crate) fn check(&self) {
        let output = Command::new(WSD).args(["check", "--db"]).arg(&self.store).output().unwrap();
        assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What a killed daemon left, and what was mounted for the store.
        for mounted in
            [&self.point, &self.disk()].into_iter().filter(|place| fs::exists(place).unwrap_or(true))
        {
            let _ = Command::new("umount").args(["-l"]).arg(mounted).stderr(Stdio::null()).status();
        }
    }
}

/// Runs one half in a mount, and the other after a restart; checks the store after each.
pub(crate) fn remounted(before: impl FnOnce(&Daemon), after: impl FnOnce(&Daemon)) {
    if has_fuse() {
        let place = Place::new();
        place.mounted(before);
        place.mounted(after);
    }
}

/// Runs a test in a mount, and checks the store afterwards.
pub(crate) fn mounted(test: impl FnOnce(&Daemon)) {
    if has_fuse() {
        Place::new().mounted(test);
    }
}

/// A daemon that runs.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) port: u16,
    point: PathBuf,
}

impl Daemon {
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.point.join(below)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop, and waits.
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// One HTTP request; the status line, the headers and the body.
    pub(crate) fn ask(&self, request: &str, headers: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let host = if headers.to_lowercase().starts_with("host:") { "" } else { "Host: localhost\r\n" };
        write!(stream, "{request} HTTP/1.1\r\n{host}{headers}Connection: close\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }

    /// A number of `/__wsd/stats`.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let (status, _, body) = self.ask("GET /__wsd/stats", "");
        assert_eq!(status, 200, "{body}");
        let stats: serde_json::Value = serde_json::from_str(&body).unwrap();
        stats.pointer(name).and_then(serde_json::Value::as_u64).unwrap_or_else(|| panic!("{name} in {body}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a shell script that must succeed; what it printed.
pub(crate) fn sh(directory: &Path, script: &str) -> String {
    let output = sh_output(directory, script, &[]);
    assert!(output.status.success(), "{script}\n{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

pub(crate) fn sh_output(directory: &Path, script: &str, variables: &[(&str, &OsStr)]) -> Output {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(directory);
    command.envs(variables.iter().copied()).output().unwrap()
}

/// Waits for something that happens elsewhere.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Reproducible bytes that do not compress.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut bytes = vec![0; len];
    reader.fill(&mut bytes);
    bytes
}
