//! Sync between real daemons with real mounts: a hub and its replicas.

use crate::support::{self, Daemon, Place, eventually, sh};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A daemon whose upstream is another one, or what is in between.
fn replica(house: &Place, port: u16) -> Daemon {
    house.serve_with(&[("UPSTREAM_URL", &format!("ws://127.0.0.1:{port}"))])
}

fn wsd(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_wsd"))
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("WSD_URL", format!("ws://127.0.0.1:{}/ws", daemon.port))
        .output()
        .unwrap();
    let said = support::text(&output.stdout) + &support::text(&output.stderr);
    assert!(output.status.success(), "wsd {arguments:?}: {said}");
    said
}

/// Pushes what is pending on each, and waits until all trees are the same, to the last byte, owner and time.
fn same(daemons: &[&Daemon]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        for daemon in &daemons[1..] {
            wsd(daemon, &["sync", "now"]);
        }
        let mut different = String::new();
        for pair in daemons.windows(2) {
            different += &compare(&pair[0].path(""), &pair[1].path(""));
        }
        if different.is_empty() {
            return;
        }
        let say = |daemon: &&Daemon| {
            wsd(daemon, &["sync", "status"]) + &sh(&daemon.path(""), "stat -c '%n %y %s' * | head -5")
        };
        let states: Vec<String> = daemons.iter().map(say).collect();
        assert!(Instant::now() < deadline, "they differ: {different}\n{}", states.join("\n"));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What rsync would have to do, the times of directories and of symlinks left aside.
fn compare(a: &Path, b: &Path) -> String {
    let script = format!(
        "rsync -aHAXOJn --checksum --delete --itemize-changes {}/ {}/ 2>&1 | grep -v '^.[dL]..t' || true",
        a.display(),
        b.display()
    );
    sh(Path::new("/"), &script)
}

fn can_run() -> bool {
    if support::has_fuse() && support::is_root() {
        return true;
    }
    support::skip("real mounts as root are needed");
    false
}

#[test]
fn a_small_write_is_seen_at_the_other_end_at_once_and_everything_arrives_as_it_was() {
    if !can_run() {
        return;
    }
    let (hub, a, b) = (Place::new(), Place::new(), Place::new());
    let hub = hub.serve();
    let (a, b) = (replica(&a, hub.port), replica(&b, hub.port));
    sh(
        &a.path(""),
        "mkdir -p d/e && echo hello > d/e/f && ln d/e/f d/link && ln -s ../x d/s && head -c 3000000 /dev/urandom > big
         chmod 4750 big && chown 12:34 d/e/f && setfattr -n user.x -v y big && setfacl -m u:77:rw d/e/f
         mkdir full && head -c 19200000 /dev/urandom | split -a 4 -b 16000 - full/
         touch -d '2001-02-03 04:05:06.123456789' big && mkfifo fifo && truncate -s 1G sparse && echo x >> sparse
         printf name > $(printf 'not-utf8-\\377')",
    );
    same(&[&hub, &a, &b]);
    assert!(b.path("sparse").metadata().is_ok_and(|meta| {
        use std::os::unix::fs::MetadataExt;
        meta.blocks() * 512 < 1 << 20 && meta.len() == (1 << 30) + 2
    }));
    // The best of some, because other tests run beside this one.
    let fastest = (0..20)
        .map(|round| {
            let begun = Instant::now();
            let name = format!("ping{round}");
            std::fs::write(a.path(&name), "x").unwrap();
            eventually("it arrives", || b.path(&name).exists());
            begun.elapsed()
        })
        .min();
    assert!(fastest.is_some_and(|fastest| fastest < Duration::from_millis(100)), "{fastest:?}");
    same(&[&hub, &a, &b]);
    // What a program has written to a file that it keeps open is there after `sync now` too.
    let mut open = std::fs::File::create(a.path("open")).unwrap();
    open.write_all(b"not closed").unwrap();
    wsd(&a, &["sync", "now"]);
    wsd(&b, &["sync", "now"]);
    assert_eq!(std::fs::read(b.path("open")).unwrap(), b"not closed");
    drop(open);
    let status = wsd(&a, &["sync", "status", "--json"]);
    assert!(status.contains("connected"), "{status}");
    for daemon in [a, b, hub] {
        daemon.stop();
    }
}

#[test]
fn git_and_npm_work_at_both_ends_at_the_same_time() {
    /// Needs what npm has installed.
    const USE: &str = "node -e 'if(!require(\"semver\").gt(\"2.0.0\",\"1.9.9\")||require(\"yaml\").parse(\"a: 1\").a!==1) process.exit(1)'";
    if !can_run() || !["npm", "node", "git"].iter().all(|program| support::has(program)) {
        return;
    }
    let houses = (Place::new(), Place::new(), Place::new());
    let hub = houses.0.serve();
    let (a, b) = (replica(&houses.1, hub.port), replica(&houses.2, hub.port));
    let (one, two) = (a.path(""), b.path(""));
    let git = "git -c user.name=a -c user.email=a@b -c init.defaultBranch=main -c commit.gpgsign=false";
    let left = std::thread::spawn(move || {
        let script = format!(
            "mkdir origin && cd origin && {git} init -q . && for i in $(seq 40); do echo $i > f$i; {git} add -A; {git} commit -qm $i; done
             cd .. && {git} clone -q origin clone && cd clone && {git} fsck --strict 2>&1"
        );
        sh(&one, &script)
    });
    let cache = houses.2.dir.path().join("npm-cache");
    let right = std::thread::spawn(move || {
        let script = format!(
            "mkdir app && cd app && echo '{{\"name\":\"app\",\"version\":\"1.0.0\",\"private\":true}}' > package.json
             npm install --no-audit --no-fund --loglevel=error --cache {} semver@7 yaml@2 typescript@5 >/dev/null
             {USE} && mkdir ../kept && mv node_modules/typescript ../kept && ls ../kept",
            cache.display()
        );
        sh(&two, &script)
    });
    left.join().unwrap();
    assert_eq!(right.join().unwrap().trim(), "typescript");
    same(&[&hub, &a, &b]);
    let script = format!(
        "cd clone && {git} status --porcelain && {git} fsck --strict 2>&1 && cd ../app && {USE} && ls ../kept"
    );
    for end in [&a, &b] {
        let there = sh(&end.path(""), &script);
        assert!(there.ends_with("typescript\n"), "{there}");
    }
    assert!(!sh(&a.path(""), "find . -name '*.conflict-*'").contains("conflict"), "nothing was in conflict");
    drop((a, b));
    drop(hub);
    houses.0.check();
    houses.1.check();
}

/// A wire that can be slow, and that breaks after so many bytes, again and again.
struct Wire {
    port: u16,
    stop: Arc<AtomicBool>,
    left: Arc<AtomicU64>,
    carried: Arc<AtomicU64>,
}

impl Wire {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Self {
            port: listener.local_addr().unwrap().port(),
            stop: Arc::default(),
            left: Arc::new(AtomicU64::new(u64::MAX)),
            carried: Arc::default(),
        };
        let (stop, left, carried) =
            (Arc::clone(&wire.stop), Arc::clone(&wire.left), Arc::clone(&wire.carried));
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                for (from, to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                    let (left, carried) = (Arc::clone(&left), Arc::clone(&carried));
                    std::thread::spawn(move || carry(from, to, &left, &carried));
                }
            }
        });
        wire
    }

    /// Breaks after so many bytes.
    fn break_after(&self, bytes: u64) {
        self.left.store(bytes, Ordering::Relaxed);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, left: &AtomicU64, carried: &AtomicU64) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        carried.fetch_add(count as u64, Ordering::Relaxed);
        let before = left.load(Ordering::Relaxed);
        if before < count as u64 {
            left.store(u64::MAX, Ordering::Relaxed);
            break;
        }
        if before != u64::MAX {
            left.fetch_sub(count as u64, Ordering::Relaxed);
        }
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}

#[test]
fn cuts_of_the_wire_and_kills_of_both_ends_lose_nothing() {
    if !can_run() {
        return;
    }
    let houses = (Place::new(), Place::new(), Place::new());
    let mut hub = houses.0.serve();
    let port = hub.port;
    let wire = Wire::to(port);
    let mut a = replica(&houses.1, wire.port);
    let b = replica(&houses.2, hub.port);
    std::fs::write(a.path("first"), "x").unwrap();
    same(&[&hub, &a]);
    for round in 0..6u64 {
        sh(
            &a.path(""),
            &format!(
                "mkdir -p r{round}/x && for i in $(seq 30); do head -c $((i * 4000)) /dev/urandom > r{round}/x/f$i; done
                 head -c 8000000 /dev/urandom > r{round}/large && sync"
            ),
        );
        wire.break_after(1 + round * 700_000);
        std::thread::sleep(Duration::from_millis(150 * (round % 3)));
        match round {
            1 | 4 => {
                a.kill();
                a = replica(&houses.1, wire.port);
            }
            2 | 5 => {
                hub.kill();
                hub = houses.0.serve_with(&[("PORT", &port.to_string())]);
            }
            _ => {}
        }
    }
    wire.break_after(u64::MAX);
    same(&[&hub, &a, &b]);
    let files = sh(&b.path(""), "find . -type f | wc -l");
    assert_eq!(files.trim(), (1 + 6 * 31).to_string(), "no more and no less than was written");
    drop((a, b, wire));
    drop(hub);
    for house in [&houses.0, &houses.1, &houses.2] {
        house.check();
    }
}

#[test]
fn nothing_changed_costs_next_to_nothing_and_a_byte_in_a_large_file_little() {
    if !can_run() {
        return;
    }
    let houses = (Place::new(), Place::new());
    let hub = houses.0.serve();
    let wire = Wire::to(hub.port);
    let a = replica(&houses.1, wire.port);
    let large = support::noise(7, 64 << 20);
    std::fs::write(a.path("large"), &large).unwrap();
    sh(&a.path(""), "mkdir many && cd many && for i in $(seq 3000); do echo $i > f$i; done");
    same(&[&hub, &a]);
    a.stop();
    let before = wire.carried.load(Ordering::Relaxed);
    let a = replica(&houses.1, wire.port);
    wsd(&a, &["sync", "now"]);
    let start = wire.carried.load(Ordering::Relaxed) - before;
    assert!(start < 10_000, "{start} bytes for a start with nothing new");
    let mut longer = b"!".to_vec();
    longer.extend_from_slice(&large);
    let before = wire.carried.load(Ordering::Relaxed);
    std::fs::write(a.path("large"), &longer).unwrap();
    same(&[&hub, &a]);
    let edit = wire.carried.load(Ordering::Relaxed) - before;
    assert!(edit < 600 << 10, "{edit} bytes for one");
    let before = wire.carried.load(Ordering::Relaxed);
    sh(&a.path(""), "mv many moved");
    same(&[&hub, &a]);
    let rename = wire.carried.load(Ordering::Relaxed) - before;
    assert!(rename < 10_000, "{rename} bytes for the rename of a directory");
    let before = wire.carried.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_secs(3));
    let idle = wire.carried.load(Ordering::Relaxed) - before;
    assert!(idle < 500, "{idle} bytes in three idle seconds");
}

#[test]
fn a_hub_that_is_down_holds_nobody_up_and_a_stop_says_what_is_left() {
    if !can_run() {
        return;
    }
    let house = Place::new();
    // Nobody listens there.
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let daemon =
        house.serve_with(&[("UPSTREAM_URL", &format!("ws://127.0.0.1:{nowhere}")), ("SYNC_GRACE", "1")]);
    let begun = Instant::now();
    sh(&daemon.path(""), "for i in $(seq 200); do echo $i > f$i; done; sync");
    assert!(begun.elapsed() < Duration::from_secs(10));
    let (code, _, body) = daemon.ask("GET /health?ready", "");
    assert!(code == 503 && body.contains("first sync"), "{code} {body}");
    eventually("it is known what is pending", || {
        let status = wsd(&daemon, &["sync", "status", "--json"]);
        status.contains("\"pendingEntries\": 201") || status.contains("\"pendingEntries\":201")
    });
    let begun = Instant::now();
    let now = std::process::Command::new(env!("CARGO_BIN_EXE_wsd"))
        .args(["sync", "now"])
        .env("WSD_URL", format!("ws://127.0.0.1:{}/ws", daemon.port))
        .output()
        .unwrap();
    let said = support::text(&now.stderr);
    assert!(now.status.code() == Some(1) && said.contains(&nowhere.to_string()), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(10), "it says so at once");
    daemon.stop();
    assert!(house.log().contains("not all changes could be pushed"), "{}", house.log());
}

/// Who begins to work before the hub answers, and is killed before it does, has not made a workspace of its own by that.
#[test]
fn a_workspace_that_was_made_as_a_replica_joins_whatever_was_written_before_it_met_its_hub() {
    if !can_run() {
        return;
    }
    let places = [Place::new(), Place::new(), Place::new()];
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (place, upstream) in [(&places[1], Some(nowhere)), (&places[2], None)] {
        let early = upstream.map_or_else(|| place.serve(), |port| replica(place, port));
        sh(
            &early.path(""),
            "echo early > mine; mkdir both; echo early > both/early; sync mine both both/early .",
        );
        early.kill();
    }
    let hub = places[0].serve();
    sh(&hub.path(""), "echo hub > theirs; mkdir both; echo hub > both/hub");
    let (joins, own) = (replica(&places[1], hub.port), replica(&places[2], hub.port));
    eventually("it is refused", || wsd(&own, &["sync", "status"]).contains("and neither is empty"));
    same(&[&hub, &joins]);
    assert_eq!(sh(&hub.path(""), "cat mine theirs both/*"), "early\nhub\nearly\nhub\n");
    for daemon in [joins, own, hub] {
        daemon.stop();
    }
    places.iter().for_each(Place::check);
}
