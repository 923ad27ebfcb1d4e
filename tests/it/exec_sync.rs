//! Commands and the upstream: a command that waits for what is new there, and one whose results are to be there.

use crate::support::{self, Daemon, Place, WSD, eventually, sh, text};
use std::fs;
use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn replica(house: &Place, port: u16) -> Daemon {
    house.serve_with(&[("UPSTREAM_URL", &format!("ws://127.0.0.1:{port}")), ("SYNC_GRACE", "1")])
}

fn wsd(daemon: &Daemon, arguments: &[&str]) -> Output {
    let mut command = Command::new(WSD);
    command.args(arguments).env_clear().env("WSD_URL", format!("ws://127.0.0.1:{}/ws", daemon.port));
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).output().unwrap()
}

fn says(daemon: &Daemon, arguments: &[&str], code: i32) -> String {
    let output = wsd(daemon, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout) + &text(&output.stderr)
}

fn can_run() -> bool {
    support::has_fuse() && support::is_root()
}

#[test]
fn a_command_sees_what_was_upstream_and_its_results_are_upstream_when_it_ends() {
    if !can_run() {
        return;
    }
    let houses = (Place::new(), Place::new(), Place::new());
    let hub = houses.0.serve();
    let (a, b) = (replica(&houses.1, hub.port), replica(&houses.2, hub.port));
    for round in 0..30 {
        // What one command has done, from the first byte to the last, the next one finds, at the other end, at once.
        let (one, two) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let make = format!("mkdir d{round} && seq {round} 20000 > d{round}/f && echo {round} >> log");
        assert_eq!(says(one, &["exec", "--push", "-c", "--", &make], 0), "");
        assert!(hub.path(&format!("d{round}/f")).exists(), "upstream has it");
        let look = format!("tail -1 log; seq {round} 20000 | cmp - d{round}/f && mv d{round} seen{round}");
        assert_eq!(says(two, &["exec", "--pull", "--push", "-c", "--", &look], 0), format!("{round}\n"));
        assert!(hub.path(&format!("seen{round}")).exists());
        says(one, &["exec", "--pull", "--", "test", "-d", &format!("seen{round}")], 0);
    }
    // A change that was made upstream itself.
    fs::write(hub.path("from-hub"), "x").unwrap();
    assert_eq!(says(&a, &["exec", "--pull", "--", "cat", "from-hub"], 0), "x");
    // Durable there: it outlives the hub's death.
    assert_eq!(says(&a, &["exec", "--push", "-c", "--", "echo kept > kept; exit 3"], 3), "");
    hub.kill();
    let hub = houses.0.serve();
    assert_eq!(fs::read_to_string(hub.path("kept")).unwrap(), "kept\n");
}

#[test]
fn an_upstream_that_is_away_is_told_of_and_nothing_is_lost() {
    if !can_run() {
        return;
    }
    let houses = (Place::new(), Place::new());
    let hub = houses.0.serve();
    let port = hub.port.to_string();
    let a = replica(&houses.1, hub.port);
    says(&a, &["exec", "--push", "--", "touch", "first"], 0);
    hub.kill();
    let refused = says(&a, &["exec", "--pull", "--sync-timeout", "0.5", "--", "touch", "ran"], 1);
    assert!(refused.contains("ENOTCONN") && refused.contains("0.5 seconds"), "{refused}");
    assert!(!a.path("ran").exists(), "it was not started");
    let begun = Instant::now();
    let told = says(
        &a,
        &["exec", "--id", "away", "--push", "--sync-timeout", "0.5", "-c", "--", "echo x > made; exit 7"],
        7,
    );
    assert!(told.contains("not upstream: not within 0.5 seconds"), "{told}");
    assert!(begun.elapsed() > Duration::from_millis(500) && begun.elapsed() < Duration::from_secs(5));
    let listed = says(&a, &["ps", "--json"], 0);
    assert!(listed.contains("\"notUpstream\":\"not within"), "{listed}");
    // One that may wait as long as it takes ends when the upstream is back.
    let mut waits = Command::new(WSD);
    waits.args(["exec", "--push", "--sync-timeout", "0", "--", "touch", "later"]).env_clear();
    let mut waits = waits.env("WSD_URL", format!("ws://127.0.0.1:{}/ws", a.port)).spawn().unwrap();
    eventually("it has run", || a.path("later").exists());
    assert!(waits.try_wait().unwrap().is_none());
    let hub = houses.0.serve_with(&[("PORT", &port)]);
    assert!(waits.wait().unwrap().success());
    assert!(hub.path("later").exists() && hub.path("made").exists(), "what was not upstream came later");
    // A pause is somebody's will: nobody waits for its end.
    says(&a, &["sync", "pause"], 0);
    let paused = says(&a, &["exec", "--push", "--", "touch", "paused"], 0);
    assert!(paused.contains("not upstream: sync is paused"), "{paused}");
    assert!(says(&a, &["exec", "--pull", "--", "true"], 1).contains("sync is paused"));
    says(&a, &["sync", "resume"], 0);
    says(&a, &["exec", "--pull", "--push", "--", "true"], 0);
    assert!(hub.path("paused").exists());
}

#[test]
fn without_an_upstream_results_are_durable_here() {
    if !can_run() {
        return;
    }
    let house = Place::new();
    let daemon = house.serve();
    assert_eq!(says(&daemon, &["exec", "--pull", "--push", "-c", "--", "echo x > f"], 0), "");
    daemon.kill();
    let daemon = house.serve();
    assert_eq!(sh(&daemon.path(""), "cat f"), "x\n");
}

/// The end of the daemon does not wait for an upstream that is away: it says so, and the results are pushed after the next
/// start.
#[test]
fn a_daemon_that_stops_ends_the_wait() {
    if !can_run() {
        return;
    }
    let house = Place::new();
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let daemon = replica(&house, nowhere);
    says(&daemon, &["exec", "--detach", "--id", "w", "--push", "--sync-timeout", "0", "--", "touch", "f"], 0);
    eventually("it has run", || daemon.path("f").exists());
    assert!(says(&daemon, &["ps"], 0).contains("running"));
    daemon.stop();
    let daemon = replica(&house, nowhere);
    let listed = says(&daemon, &["ps", "--json"], 0);
    assert!(listed.contains("\"code\":0") && listed.contains("it was ended while it waited"), "{listed}");
}
