//! What a user is told when something is not as it should be: one line that says what to do.

use crate::support::{Place, WSD, has, has_fuse, is_root, text};
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The one line that a command fails with; the log before it does not count.
fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("wsd: ")).collect();
    assert_eq!(lines.len(), 1, "one line: {said}");
    assert!(said.ends_with(&format!("{}\n", lines[0])), "it is the last one: {said}");
    assert!(!lines[0].contains("os error"), "{said}");
    lines[0].to_owned()
}

fn says(output: &Output, parts: &[&str]) {
    let line = complaint(output);
    parts.iter().for_each(|part| assert!(line.contains(part), "{part:?} is not in {line:?}"));
}

/// Does something without the rights of root, with a copy of wsd that everybody reaches.
fn as_nobody(place: &Place, script: &str) -> Output {
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    open(place.dir.path());
    let program = place.dir.path().join("wsd");
    fs::copy(WSD, &program).unwrap();
    open(&program);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script]);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("PORT", "0");
    command.env("WSD", program).env("WSD_DB", "memory").env("MOUNT_POINT", &place.point);
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_port_in_use() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = place.command().env("PORT", &port).env("FUSE_MOUNT", "none").output().unwrap();
    says(
        &output,
        &["cannot listen on 127.0.0.1", &port, "Address already in use", "another port with --port"],
    );
    let elsewhere = place.command().envs([("HOST", "192.0.2.1"), ("WSD_INSECURE", "1")]).output().unwrap();
    says(&elsewhere, &["192.0.2.1", "this machine has no such address", "--host"]);
    assert!(!place.store.exists(), "nothing was made");
}

/// With the least a panic was told, with a few more that SQLite could not open a file.
#[test]
fn too_few_files_may_be_open() {
    let place = Place::new();
    for most in [6, 24, 63] {
        let limited = format!("ulimit -n {most}; exec \"$0\"");
        let mut command = Command::new("sh");
        command.args(["-c", &limited, WSD]).env_clear().env("PORT", "0").env("FUSE_MOUNT", "none");
        command.env("WSD_DB", &place.store).env("MOUNT_POINT", &place.point);
        let output = command.stdin(Stdio::null()).output().unwrap();
        says(&output, &[&format!("may have {most} files open"), "needs 64", "ulimit -n"]);
    }
    assert!(!place.store.exists(), "nothing was made");
}

#[test]
fn no_right_to_mount() {
    if !(is_root() && has_fuse() && has("setpriv")) {
        return;
    }
    let place = Place::new();
    let output = as_nobody(&place, "FUSE_MOUNT=fuse exec $WSD");
    says(&output, &["the mount point", "cannot be used: Permission denied", "--mount-point"]);
    fs::create_dir(&place.point).unwrap();
    std::os::unix::fs::chown(&place.point, Some(65534), Some(65534)).unwrap();
    let shut = fs::metadata("/dev/fuse").unwrap().permissions().mode() & 0o006 != 0o006;
    let output = as_nobody(&place, "FUSE_MOUNT=fuse PATH=/nowhere exec $WSD");
    let lack = if shut { "may not open /dev/fuse" } else { "needs fusermount3" };
    says(&output, &["FUSE cannot mount at", lack, "FUSE_MOUNT=none"]);
    // Root in a container that may not mount.
    let mut bound = Command::new("setpriv");
    bound.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin", WSD]).env_clear();
    bound.env("PATH", std::env::var_os("PATH").unwrap()).env("PORT", "0").env("WSD_DB", "memory");
    let output = bound.env("MOUNT_POINT", &place.point).env("FUSE_MOUNT", "fuse").output().unwrap();
    says(&output, &["FUSE cannot mount at", "needs CAP_SYS_ADMIN", "--cap-add SYS_ADMIN"]);
}

#[test]
fn a_store_on_a_disk_that_cannot_be_written() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    place.serve_with(&[("FUSE_MOUNT", "none")]).stop();
    let (disk, seen) = (place.dir.path().to_owned(), tempfile::tempdir().unwrap());
    let mount = |arguments: &[&str]| {
        let status = Command::new("mount").args(arguments).arg(&disk).arg(seen.path()).status().unwrap();
        assert!(status.success());
    };
    mount(&["--bind", "-o", "ro"]);
    let start = |name: &str| {
        let mut command = place.command();
        command.env("FUSE_MOUNT", "none").env("WSD_DB", seen.path().join(name)).output().unwrap()
    };
    let outputs = [start("store.db"), start("new.db"), start("below/new.db")];
    let offline = |command: &str| {
        Command::new(WSD).args([command, "--db", "store.db"]).current_dir(seen.path()).output().unwrap()
    };
    let (gc, checked) = (offline("gc"), offline("check"));
    let wal = place.dir.path().join("store.db-wal");
    fs::write(&wal, b"of a daemon that was killed").unwrap();
    let unfolded = offline("check");
    fs::remove_file(&wal).unwrap();
    assert!(Command::new("umount").arg(seen.path()).status().unwrap().success());
    for output in outputs.iter().chain([&gc]) {
        says(output, &["cannot open the store", "Read-only file system", "--db (WSD_DB)"]);
    }
    assert!(checked.status.success(), "to look at it is no reason to write: {}", text(&checked.stderr));
    says(&unfolded, &["store.db", "a WAL that would have to be folded into it first", "copy both"]);
    let output = as_nobody(&place, "FUSE_MOUNT=none WSD_DB=/root/no/store.db exec $WSD");
    says(&output, &["/root/no/store.db", "Permission denied", "the right to write"]);
}

/// Others may fill a disk to the last byte.
#[test]
fn a_store_on_a_disk_without_room_to_start() {
    if !is_root() {
        return;
    }
    let (place, disk) = Place::on_disk_of("4M");
    place.serve_with(&[("FUSE_MOUNT", "none")]).stop();
    let all = fs::write(disk.join("others"), vec![0; 8 << 20]).unwrap_err();
    assert_eq!(all.kind(), std::io::ErrorKind::StorageFull);
    let output = place.command().env("FUSE_MOUNT", "none").output().unwrap();
    says(
        &output,
        &["the disk of the store", "is full (0 bytes are free)", "remove something beside the store"],
    );
    place.check();
    fs::remove_file(disk.join("others")).unwrap();
    place.serve_with(&[("FUSE_MOUNT", "none")]).stop();
    place.check();
}

#[test]
fn the_wrong_secret_or_none() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none"), ("WSD_TOKEN", "s3cret")]);
    for arguments in [&["ls"][..], &["stats"], &["exec", "--", "true"], &["watch"]] {
        for token in [None, Some("wrong")] {
            let mut client = Command::new(WSD);
            client.args(arguments).env_clear().env("PORT", daemon.port.to_string());
            client.envs(token.map(|token| ("WSD_TOKEN", token)));
            let output = client.output().unwrap();
            says(&output, &["does not let us in", "set WSD_TOKEN to the secret of that daemon"]);
        }
    }
    daemon.stop();
}

#[test]
fn a_daemon_that_is_down() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    let port = daemon.port.to_string();
    daemon.stop();
    for arguments in [&["ls"][..], &["stats"], &["info"], &["put", "-", "x"]] {
        let mut client = Command::new(WSD);
        let output = client.args(arguments).env_clear().env("PORT", &port).output().unwrap();
        let line = text(&output.stderr);
        assert!(output.status.code() == Some(1) && line.lines().count() == 1, "{line}");
        for part in ["cannot connect to ws://127.0.0.1:", &port, "is the daemon running there?", "--url"] {
            assert!(line.contains(part), "{part:?} is not in {line}");
        }
    }
}

/// Nobody, somebody else, and a daemon that is spoken to in the wrong way: what it was, and what to do.
#[test]
fn an_address_that_leads_to_no_daemon() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    // Takes connections and hangs up.
    let rude = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let rude_port = rude.local_addr().unwrap().port();
    std::thread::spawn(move || rude.incoming().for_each(drop));
    let at = |port: u16, scheme: &str| format!("{scheme}://127.0.0.1:{port}/ws");
    let cases: [(String, &[&str]); 6] = [
        (at(1, "ws"), &["Connection refused", "is the daemon running there?", "--url"]),
        ("ws://no-such-host.invalid:45678/ws".to_owned(), &["no-such-host.invalid", "lookup", "--url"]),
        (at(rude_port, "ws"), &["cannot connect to", "is it a wsd?"]),
        (
            at(daemon.port, "wss"),
            &["cannot connect to wss://", "is its certificate one that this machine trusts?"],
        ),
        (format!("ws://127.0.0.1:{}/elsewhere", daemon.port), &["cannot connect to", "404"]),
        ("127.0.0.1:45678".to_owned(), &["is not the address of a daemon", "ws://127.0.0.1:45678/ws"]),
    ];
    for (url, parts) in cases {
        let mut client = Command::new(WSD);
        client.args(["ls"]).env_clear().env("WSD_URL", &url);
        says(&client.output().unwrap(), parts);
    }
    daemon.stop();
}

/// The daemon works without its upstream; the log says what is wrong and what to do, once, and so does `wsd sync`.
#[test]
fn an_upstream_that_is_down_or_wants_another_secret() {
    let hub_place = Place::new();
    let hub = hub_place.serve_with(&[("FUSE_MOUNT", "none"), ("WSD_TOKEN", "s3cret")]);
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let cases = [(nowhere, "is the daemon running there?"), (hub.port, "set UPSTREAM_TOKEN")];
    for (port, advice) in cases {
        let place = Place::new();
        let url = format!("ws://127.0.0.1:{port}");
        let daemon = place.serve_with(&[("FUSE_MOUNT", "none"), ("UPSTREAM_URL", &url), ("SYNC_GRACE", "0")]);
        crate::support::eventually(advice, || place.log().contains(advice));
        let told = place.log();
        let lines: Vec<&str> = told.lines().filter(|line| line.contains(" sync: ")).collect();
        assert!(lines.iter().all(|line| line.contains(&url) && !line.contains("os error")), "{told}");
        let mut client = Command::new(WSD);
        let output = client.args(["sync"]).env_clear().env("PORT", daemon.port.to_string()).output();
        let status = text(&output.unwrap().stdout);
        assert!(status.contains(advice) && !status.contains("os error"), "{status}");
        daemon.stop();
    }
    hub.stop();
}

#[test]
fn a_log_file_that_cannot_be_written() {
    let place = Place::new();
    let output = place.command().env("LOG_FILE", "/proc/no/log").env("FUSE_MOUNT", "none").output().unwrap();
    says(&output, &["the log file \"/proc/no/log\" cannot be written", "LOG_FILE"]);
}

/// Of a library that logs the whole request when it is asked to log all.
#[test]
fn no_filter_has_a_secret_logged() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = format!("ws://{}", listener.local_addr().unwrap());
    let place = Place::new();
    let daemon = place.serve_with(&[
        ("FUSE_MOUNT", "none"),
        ("UPSTREAM_URL", &upstream),
        ("UPSTREAM_TOKEN", "s3cret"),
        ("SYNC_GRACE", "0"),
        ("WSD_LOG", "trace,tungstenite::handshake::client=trace"),
    ]);
    let mut head = [0; 512];
    let read = listener.accept().unwrap().0.read(&mut head).unwrap();
    assert!(text(&head[..read]).contains("s3cret"), "{}", text(&head));
    daemon.stop();
    let log = place.log();
    assert!(log.contains("TRACE") && !log.contains("s3cret"), "{log}");
}
