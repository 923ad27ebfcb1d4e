//! A stranger's implementation of Cap'n Proto drives every method, by the schema alone (`tests/interop/`).

use crate::support::{Place, has, has_fuse, skip, text};
use std::path::Path;
use std::process::Command;

/// The interpreter that has what the strangers' programs need.
pub(crate) fn python() -> Option<String> {
    python_with("blake3, capnp, websockets, zstandard")
}

/// The interpreter that has these modules: that of `WSD_TEST_PYTHON`, else the one on the path.
pub(crate) fn python_with(modules: &str) -> Option<String> {
    let python = std::env::var("WSD_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if !has(&python) {
        return None;
    }
    let found = Command::new(&python).args(["-c", &format!("import {modules}")]).output().unwrap();
    if !found.status.success() {
        skip(&format!("not all of {modules} is installed for {python}"));
        return None;
    }
    Some(python)
}

fn drive(settings: &[(&str, &str)], token: Option<&str>, cases: &[&str]) {
    let Some(python) = python().filter(|_| has_fuse()) else { return };
    let place = Place::new();
    let daemon = place.serve_with(settings);
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/run.py");
    let mut command = Command::new(python);
    command.arg(program).arg(daemon.port.to_string()).arg(&place.point);
    command.args(token).args(cases).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = command.output().unwrap();
    let said = format!("{}\n{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}\n{}", place.log());
    println!("{said}");
    assert!(!place.log().contains("panicked"), "{}", place.log());
    daemon.stop();
    place.check();
}

#[test]
fn a_second_implementation_drives_every_method() {
    drive(&[], None, &[]);
}

#[test]
fn a_second_implementation_bears_the_secret() {
    let cases = ["info", "attributes", "one_request_for_everything", "the_secret"];
    drive(&[("WSD_TOKEN", "s3cret")], Some("s3cret"), &cases);
}
