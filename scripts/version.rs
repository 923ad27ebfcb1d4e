//! Build script: which commit this is. `WSD_COMMIT` says it where the sources are not a git checkout.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=WSD_COMMIT");
    println!("cargo::rerun-if-changed=scripts/version.rs");
    let given = std::env::var("WSD_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(checked_out).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=WSD_COMMIT={commit}");
}

/// The commit of the checkout that this package is the top of: not that of one it is merely copied into.
fn checked_out() -> Option<String> {
    let here = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    let top = git(&here, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    let head = git(&here, &["rev-parse", "--symbolic-full-name", "HEAD"])?;
    for name in ["HEAD", &head, "packed-refs"] {
        let file = Path::new(&here).join(git(&here, &["rev-parse", "--git-path", name])?);
        // A file that is not there would have this run at every build.
        if file.exists() {
            println!("cargo::rerun-if-changed={}", file.display());
        }
    }
    git(&here, &["rev-parse", "HEAD"])
}

fn git(directory: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(["-C", directory]).args(arguments).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| said.trim().to_owned())
}
