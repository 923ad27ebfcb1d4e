//! What docs/operations.md says of backups is so.

use crate::support::{Place, WSD, has, noise, text};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

fn block() -> String {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let document = fs::read_to_string(document).unwrap();
    let (_, after) = document.split_once("## Backup and restore\n").unwrap();
    let (_, block) = after.split_once("```sh\n").unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

fn wsd(port: u16, arguments: &[&str], input: &Path) -> String {
    let mut command = Command::new(WSD);
    command.args(arguments).env_clear().env("PORT", port.to_string());
    let output = command.stdin(fs::File::open(input).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_backup_of_a_running_daemon_is_whole_and_a_copy_of_the_file_is_not() {
    if !has("sqlite3") {
        return;
    }
    let place = Place::new();
    let daemon = place.serve_with(&[("FUSE_MOUNT", "none")]);
    let content = place.dir.path().join("content");
    fs::write(&content, noise(1, 300_000)).unwrap();
    let put = |name: &str| wsd(daemon.port, &["put", "-", name], &content);
    put("first");
    // Until it is in the store, which the daemon does by itself.
    crate::support::eventually("the commit", || {
        daemon.stat("/committedRevision") == daemon.stat("/revision")
    });
    let copies = ["backup.db", "copied.db"].map(|name| place.dir.path().join(name));
    fs::copy(&place.store, &copies[1]).unwrap();
    let mut backup = Command::new("bash");
    backup.args(["-c", &format!("set -e\n{}", block())]).env("WSD_DB", &place.store).env("COPY", &copies[0]);
    let output = backup.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    put("second");
    daemon.stop();
    let files = |store: &Path| {
        let other = Place::new();
        fs::copy(store, &other.store).unwrap();
        let daemon = other.serve_with(&[("FUSE_MOUNT", "none")]);
        let listed = wsd(daemon.port, &["ls"], &content);
        daemon.stop();
        other.check();
        listed
    };
    assert_eq!(files(&copies[0]), "first\n");
    assert_eq!(
        files(&place.store),
        "first\nsecond\n",
        "a daemon that has stopped leaves all of it in the file"
    );
    let is_whole =
        Command::new(WSD).args(["check", "--db"]).arg(&copies[1]).output().unwrap().status.success();
    assert!(!is_whole || files(&copies[1]) != "first\n", "the WAL was not copied");
}
