//! Connections that the daemon makes itself: a stranger's server is dialled, and drives the workspace over that.

use crate::interop::python;
use crate::support::{Daemon, Place, eventually};
use serde_json::Value;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

const SECRET: &str = "Authorization: Bearer s3cret\r\n";

/// A request with a body.
fn ask(daemon: &Daemon, request: &str, headers: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
    let length = body.len();
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn states(daemon: &Daemon) -> Vec<(u64, String, u64)> {
    let (status, body) = ask(daemon, "GET /connect", SECRET, "");
    assert_eq!(status, 200, "{body}");
    let found: Value = serde_json::from_str(&body).unwrap();
    let calls = found["connections"].as_array().unwrap().iter();
    let one = |call: &Value| {
        (
            call["id"].as_u64().unwrap(),
            call["state"].as_str().unwrap().to_owned(),
            call["attempts"].as_u64().unwrap(),
        )
    };
    calls.map(one).collect()
}

/// The stranger's server, and what it says.
struct Stranger(Child, Lines<BufReader<ChildStdout>>);

impl Stranger {
    fn start(python: &str, place: &Place) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/reverse.py");
        let mut command = Command::new(python);
        command.arg(program).arg("t0ken").arg(&place.point).env("PYTHONDONTWRITEBYTECODE", "1");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self(child, lines)
    }

    fn says(&mut self) -> String {
        self.1.next().unwrap_or_else(|| panic!("the stranger ended")).unwrap()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_that_was_dialled_drives_the_workspace() {
    let Some(python) = python() else { return };
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none"), ("WSD_TOKEN", "s3cret")]);
    let mut stranger = Stranger::start(&python, &place);
    let port = stranger.says();
    let wish = |token: &str| format!("{{\"url\": \"ws://127.0.0.1:{port}/in\", \"token\": \"{token}\"}}");
    assert_eq!(ask(&daemon, "POST /connect", "", &wish("t0ken")).0, 401);
    let (status, body) = ask(&daemon, "POST /connect", SECRET, &wish("t0ken"));
    let call: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, call["id"].as_u64(), call["state"].as_str()), (200, Some(1), Some("connecting")));
    assert_eq!(stranger.says(), "served");
    assert_eq!(stranger.says(), "served again", "a connection that ends is dialled again");
    eventually("the stranger's no is taken for one", || states(&daemon) == [(1, "refused".to_owned(), 2)]);
    // One who does not like the token.
    assert_eq!(ask(&daemon, "POST /connect", SECRET, &wish("other")).0, 200);
    eventually("it is refused", || {
        states(&daemon).iter().any(|(_, state, tries)| state == "refused" && *tries == 1)
    });
    assert_eq!(ask(&daemon, "DELETE /connect", SECRET, "").0, 200);
    assert_eq!(states(&daemon), []);
    daemon.stop();
    assert!(!place.log().contains("t0ken"), "{}", place.log());
}

#[test]
fn nobody_is_dialled_without_sense_nor_without_end() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    let wish = "{\"url\": \"ws://127.0.0.1:9/in\"}";
    for nonsense in [
        "",
        "{}",
        "[]",
        "{\"url\": \"http://127.0.0.1:9\"}",
        "{\"url\": \"ws://\"}",
        "{\"url\": \"ws://a@b\"}",
    ] {
        let (status, body) = ask(&daemon, "POST /connect", "", nonsense);
        assert_eq!(status, 400, "{nonsense}: {body}");
    }
    for method in ["POST", "DELETE"] {
        let page = "Origin: http://example.org\r\n";
        assert_eq!(ask(&daemon, &format!("{method} /connect"), page, wish).0, 403);
    }
    assert_eq!(ask(&daemon, "POST /connect", "", &"x".repeat(20_000)).0, 413);
    for _ in 0..16 {
        assert_eq!(ask(&daemon, "POST /connect", "", wish).0, 200);
    }
    assert_eq!(ask(&daemon, "POST /connect", "", wish).0, 503);
    eventually("it is dialled again and again", || {
        states(&daemon).iter().all(|(_, _, attempts)| *attempts > 1)
    });
    assert_eq!(ask(&daemon, "DELETE /connect?id=16", "", ""), (200, "{\"ended\":1}".to_owned()));
    assert_eq!(ask(&daemon, "DELETE /connect?id=16", "", "").0, 404);
    assert_eq!(ask(&daemon, "DELETE /connect?id=x", "", "").0, 400);
    let (status, next) = ask(&daemon, "POST /connect", "", wish);
    assert!(status == 200 && next.contains("\"id\":17,"), "a number is used once: {next}");
    daemon.stop();
}
