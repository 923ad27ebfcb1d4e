//! The processes of a command: finding all of them, signalling all of them, and burying those that nobody else does.
//!
//! A command has a session of its own, and its first process leads it. A process that begins another session has left,
//! but not for good: it is still a descendant of the daemon (who adopts what loses its parent) and has the command's
//! mark in its environment.

use rustix::process::{Pid, Signal, WaitOptions};
use std::collections::HashSet;
use std::fs;

/// The variable that marks the processes of a command with its id.
pub(super) const MARK: &str = "WSD_EXEC_ID";

/// One process, as `/proc/PID/stat` has it.
#[derive(Clone, Copy, Debug)]
struct Process {
    pid: u32,
    group: u32,
    session: u32,
    is_zombie: bool,
}

fn process(pid: u32) -> Option<Process> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything.
    let mut fields = line.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let (_parent, group, session) =
        (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(Process { pid, group, session, is_zombie: matches!(state, "Z" | "X") })
}

/// The children of a process.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids =
        |list: String| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>();
    lists.flat_map(pids).collect()
}

/// The processes of a command that live: those of its session and group, and those with its mark.
fn members(leader: u32, id: &str) -> Vec<Process> {
    let mark = format!("{MARK}={id}");
    let is_marked = |pid: u32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    let mut ahead = children(std::process::id());
    while let Some(pid) = ahead.pop() {
        if !seen.insert(pid) {
            continue;
        }
        ahead.extend(children(pid));
        let Some(process) = process(pid).filter(|process| !process.is_zombie) else { continue };
        if process.session == leader || process.group == leader || is_marked(pid) {
            found.push(process);
        }
    }
    found
}

/// Whether processes of the command live.
pub(super) fn any(leader: u32, id: &str) -> bool {
    !members(leader, id).is_empty()
}

/// Sends a signal to all processes of a command; how many there were.
pub(super) fn signal(leader: u32, id: &str, signal: Signal) -> usize {
    let members = members(leader, id);
    for member in &members {
        if let Some(pid) = Pid::from_raw(member.pid as i32) {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
    members.len()
}

/// Children of ours that have ended and that nobody waits for: processes that lost their parent. A child is given the
/// time between two calls to be waited for by whoever started it. Returns those that may go the next time.
pub(super) fn bury(suspects: &HashSet<u32>) -> HashSet<u32> {
    let zombies =
        children(std::process::id()).into_iter().filter(|pid| process(*pid).is_some_and(|p| p.is_zombie));
    let mut next = HashSet::new();
    for pid in zombies {
        if !suspects.contains(&pid) {
            next.insert(pid);
        } else if let Some(pid) = Pid::from_raw(pid as i32) {
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
    next
}

/// Signals by the names they have without "SIG".
const SIGNALS: &[(&str, Signal)] = &[
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("ILL", Signal::ILL),
    ("TRAP", Signal::TRAP),
    ("ABRT", Signal::ABORT),
    ("BUS", Signal::BUS),
    ("FPE", Signal::FPE),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("SEGV", Signal::SEGV),
    ("USR2", Signal::USR2),
    ("PIPE", Signal::PIPE),
    ("ALRM", Signal::ALARM),
    ("TERM", Signal::TERM),
    ("CHLD", Signal::CHILD),
    ("CONT", Signal::CONT),
    ("STOP", Signal::STOP),
    ("TSTP", Signal::TSTP),
    ("TTIN", Signal::TTIN),
    ("TTOU", Signal::TTOU),
    ("URG", Signal::URG),
    ("XCPU", Signal::XCPU),
    ("XFSZ", Signal::XFSZ),
    ("VTALRM", Signal::VTALARM),
    ("PROF", Signal::PROF),
    ("WINCH", Signal::WINCH),
    ("IO", Signal::IO),
    ("PWR", Signal::POWER),
    ("SYS", Signal::SYS),
];

/// A signal by its name, with or without "SIG", or by its number.
pub fn signal_of(name: &str) -> Option<Signal> {
    if let Ok(number) = name.parse::<i32>() {
        return SIGNALS.iter().map(|(_, signal)| *signal).find(|signal| signal.as_raw() == number);
    }
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    SIGNALS.iter().find(|(known, _)| *known == bare).map(|(_, signal)| *signal)
}

/// The name of a signal.
pub fn name_of(signal: i32) -> String {
    let known = SIGNALS.iter().find(|(_, known)| known.as_raw() == signal);
    known.map_or_else(|| signal.to_string(), |(name, _)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for name in ["TERM", "SIGTERM", "term", "15"] {
            assert_eq!(signal_of(name), Some(Signal::TERM), "{name}");
        }
        assert!(signal_of("NOPE").is_none() && signal_of("0").is_none() && signal_of("").is_none());
        assert_eq!((name_of(9), name_of(64)), ("KILL".to_owned(), "64".to_owned()));
    }
}
