//! The routes, and who may use them.

use crate::support::Place;
use serde_json::Value;

#[test]
fn the_routes_answer() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    let (status, head, body) = daemon.ask("GET /", "");
    assert_eq!((status, body.as_str()), (200, "{}"));
    assert!(head.contains("application/json"), "{head}");
    let (status, _, body) = daemon.ask("GET /health", "");
    assert_eq!((status, body.as_str()), (200, "ok\n"));
    let (status, _, body) = daemon.ask("GET /health?ready", "");
    assert_eq!((status, body.as_str()), (200, "ok\n"));
    let info: Value = serde_json::from_str(&daemon.ask("GET /__wsd/info", "").2).unwrap();
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(info["mount"]["backend"], "none");
    assert_eq!(info["mountPoint"], place.point.to_str().unwrap());
    assert_eq!(info["store"], place.store.to_str().unwrap());
    assert_eq!(info["port"], daemon.port);
    assert_eq!(info["workspace"].as_str().unwrap().len(), 32);
    assert_eq!(daemon.stat("/store/inodes"), 1);
    assert!(daemon.stat("/rssBytes") > 1 << 20);
    let report: Value = serde_json::from_str(&daemon.ask("POST /__wsd/checkpoint", "").2).unwrap();
    assert!(report["walFrames"].is_i64() && report["sizeBytes"].as_u64() > Some(0), "{report}");
    daemon.stop();
}

#[test]
fn what_is_not_there_is_said_in_text() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    let (status, head, _) = daemon.ask("GET /nothing", "");
    assert!(status == 404 && head.contains("text/plain"), "{head}");
    for request in ["POST /", "DELETE /__wsd/info", "GET /__wsd/checkpoint"] {
        let (status, head, _) = daemon.ask(request, "");
        assert!(status == 405 && head.contains("text/plain") && head.contains("allow: "), "{head}");
    }
}

#[test]
fn the_secret_guards_everything_but_health() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none"), ("WSD_TOKEN", "s3cret")]);
    assert_eq!(daemon.ask("GET /health", "").0, 200);
    for path in ["GET /", "GET /__wsd/info", "GET /nothing"] {
        assert_eq!(daemon.ask(path, "").0, 401, "{path}");
        assert_eq!(daemon.ask(path, "Authorization: Bearer wrong\r\n").0, 401, "{path}");
    }
    assert_eq!(daemon.ask("GET /__wsd/info", "Authorization: Bearer s3cret\r\n").0, 200);
}

#[test]
fn a_web_page_cannot_reach_it() {
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none"), ("WSD_ALLOWED_HOSTS", "box.internal")]);
    assert_eq!(daemon.ask("GET /", "Host: evil.example\r\n").0, 421);
    assert_eq!(daemon.ask("GET /", "Host: box.internal:45678\r\n").0, 200);
    assert_eq!(daemon.ask("POST /__wsd/checkpoint", "Origin: https://evil.example\r\n").0, 403);
    assert_eq!(daemon.ask("POST /__wsd/checkpoint", "Origin: http://localhost:3000\r\n").0, 200);
}
