//! What commands have of the daemon's environment.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Variables that are passed on. Nothing else is: the environment of a daemon holds secrets.
const PASSED: [&str; 8] = ["PATH", "HOME", "USER", "SHELL", "TMPDIR", "TZ", "LANG", "TERM"];

/// Variables with this prefix are passed on without it.
const PREFIX: &[u8] = b"WSD_VAR_";

/// The environment of commands, from that of the daemon.
pub(super) fn environment(all: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let (mut passed, mut given) = (Vec::new(), Vec::new());
    for (name, value) in all {
        let bytes = name.as_bytes();
        if let Some(bare) = bytes.strip_prefix(PREFIX).filter(|bare| !bare.is_empty()) {
            given.push((OsString::from_vec(bare.to_vec()), value));
        } else if bytes.starts_with(b"LC_") || PASSED.iter().any(|passed| passed.as_bytes() == bytes) {
            passed.push((name, value));
        }
    }
    passed.extend(given);
    passed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_or_given_is_passed_on() {
        let all = [
            ("WSD_VAR_HOME", "/given"),
            ("HOME", "/root"),
            ("LC_ALL", "C"),
            ("WSD_TOKEN", "secret"),
            ("AWS_SECRET", "x"),
            ("WSD_VAR_", "nothing"),
            ("WSD_VAR_API", "1"),
        ];
        let all = all.into_iter().map(|(name, value)| (name.into(), value.into()));
        let expected = [("HOME", "/root"), ("LC_ALL", "C"), ("HOME", "/given"), ("API", "1")];
        let expected: Vec<(OsString, OsString)> =
            expected.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        assert_eq!(environment(all), expected, "what is given comes last, and wins");
    }
}
