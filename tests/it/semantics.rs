//! `docs/semantics.md`, as it is written: each block in an empty directory of a real mount.

use crate::support::{Place, WSD, has, has_fuse, has_linux, is_root, text};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// What the blocks may use beside the programs of the machine.
const PRELUDE: &str = r#"
set -euo pipefail
refused() {
    local said=$1 got
    shift
    if got=$(LC_ALL=C "$@" 2>&1); then echo "not refused: $*"; return 1; fi
    case $got in *"$said"*) ;; *) echo "$* says: $got"; return 1 ;; esac
}
"#;

#[test]
fn what_is_promised_is_so() {
    if !(has_fuse() && is_root()) {
        return;
    }
    let programs = ["setfattr", "setfacl", "python3", "setpriv", "fallocate", "flock"];
    if !programs.iter().all(|program| has(program)) {
        return;
    }
    let place = Place::new();
    let daemon = place.serve();
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/semantics.md");
    let document = fs::read_to_string(document).unwrap();
    let path = format!("{}:{}", Path::new(WSD).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let is_whole = has_linux(6, 6, "time of birth in FUSE, so the block with that is left out");
    let mut failed = String::new();
    let mut count = 0;
    for (number, rest) in document.split("```sh\n").skip(1).enumerate() {
        let block = rest.split_once("```").unwrap().0;
        if !is_whole && block.contains("born=") {
            continue;
        }
        let directory = daemon.path(&format!("block{number}"));
        fs::create_dir(&directory).unwrap();
        let mut command = Command::new("bash");
        command.args(["-c", &format!("{PRELUDE}{block}")]).current_dir(&directory).stdin(Stdio::null());
        command.env("PATH", &path).env("PORT", daemon.port.to_string()).env_remove("WSD_URL");
        let output = command.output().unwrap();
        if !output.status.success() {
            let said = text(&output.stdout) + &text(&output.stderr);
            failed.push_str(&format!("--- {}\n{said}{block}", output.status));
        }
        count += 1;
    }
    assert!(failed.is_empty(), "{failed}");
    assert!(count >= 12, "{count} blocks were found");
    daemon.stop();
    place.check();
}
