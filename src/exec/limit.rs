//! Limits of a command, set before its program runs.
//!
//! Between the daemon and the program stands a stage: this program again, which sets the limits of its own process and then
//! becomes the program. The process stays the same, so its number, its session and its descriptors do. Only commands with
//! limits pay for the stage. What the program is was checked before; if it cannot be started all the same, the stage says so
//! on standard error and ends with 127, as a shell does.

use super::spec::Limits;
use rustix::process::{Resource, Rlimit, setrlimit};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The command of this program that is the stage.
pub const LIMIT: &str = "__limit";

/// Exit code of a stage that could not become the program.
const FAILED: u8 = 127;

/// The limits, by the letters that `ulimit` has for them. That of memory is last: what comes after it has none to spare.
const ALL: [(char, Resource); 5] = [
    ('t', Resource::Cpu),
    ('u', Resource::Nproc),
    ('f', Resource::Fsize),
    ('n', Resource::Nofile),
    ('v', Resource::As),
];

impl Limits {
    fn of(&self, letter: char) -> Option<u64> {
        match letter {
            't' => self.cpu_seconds,
            'u' => self.processes,
            'f' => self.file_bytes,
            'n' => self.open_files,
            _ => self.memory_bytes,
        }
    }

    /// Which of them the daemon may not set, if any: only root may go beyond a hard limit.
    pub(super) fn check(&self) -> Result<(), String> {
        if rustix::process::geteuid().is_root() {
            return Ok(());
        }
        for (letter, resource) in ALL {
            let most = rustix::process::getrlimit(resource).maximum;
            if let (Some(limit), Some(most)) = (self.of(letter), most)
                && limit > most
            {
                return Err(format!("the limit {limit} ({resource:?}) is beyond the daemon's own, {most}"));
            }
        }
        Ok(())
    }

    /// The limits as words of a command line.
    pub(super) fn words(&self) -> OsString {
        let words: Vec<String> =
            ALL.iter().filter_map(|(letter, _)| Some(format!("{letter}={}", self.of(*letter)?))).collect();
        words.join(",").into()
    }
}

/// Sets the limits that `Limits::words` has given, and becomes the program. Returns only when that fails: what to say, and
/// the exit code.
pub fn become_limited(limits: &str, program: &[OsString]) -> (String, u8) {
    let Some((name, arguments)) = program.split_first() else {
        return ("there is no program to run".to_owned(), FAILED);
    };
    let mut command = Command::new(name);
    command.args(arguments);
    let set = limits.split(',').filter(|word| !word.is_empty()).try_for_each(set);
    let error = match set {
        Ok(()) => command.exec(),
        Err(error) => error,
    };
    (format!("{name:?} cannot be run with its limits: {error}"), FAILED)
}

fn set(word: &str) -> io::Result<()> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidInput);
    let (letter, value) = word.split_once('=').ok_or_else(wrong)?;
    let (_, resource) = ALL.iter().find(|(known, _)| letter == known.to_string()).ok_or_else(wrong)?;
    let limit = value.parse().map_err(|_| wrong())?;
    Ok(setrlimit(*resource, Rlimit { current: Some(limit), maximum: Some(limit) })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_words_of_a_command_line() {
        let limits = Limits { memory_bytes: Some(5), open_files: Some(7), ..Limits::default() };
        assert_eq!(limits.words(), "n=7,v=5");
        for nonsense in ["x=1", "n", "n=", "n=-1"] {
            assert!(set(nonsense).is_err(), "{nonsense}");
        }
    }
}
