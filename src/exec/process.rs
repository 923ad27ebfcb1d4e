//! The processes of a command: finding all of them, signalling all of them, and burying those that nobody else does.
//!
//! A command has a session of its own, and its first process leads it. A process that begins another session has left,
//! but not for good: it is still in the command's control group, where there is one, or else a descendant of the daemon
//! (who adopts what loses its parent) with the command's mark in its environment.

use super::cgroup::Group;
use super::start::is_awaited;
use rustix::process::{Pid, Signal, WaitOptions};
use std::collections::HashSet;
use std::fs;

/// The variable that marks the processes of a command with its id.
pub(super) const MARK: &str = "WSD_EXEC_ID";

/// One process or thread, as `/proc/PID/status` has it.
///
/// Not `/proc/PID/stat`: recent kernels (6.18.44) make whoever reads that wait while the process becomes another program, and close
/// its files meanwhile; the process may then be waiting for the very thread of ours that asks about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    pid: u32,
    pub(super) parent: u32,
    group: u32,
    pub(super) session: u32,
    is_zombie: bool,
    /// It is a thread of the kernel.
    pub(super) is_kernel: bool,
}

/// The parent of the kernel's threads, where they can be seen.
const KTHREADD: u32 = 2;

impl Process {
    /// `None`: there is none with this number.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let status = fs::read(format!("/proc/{pid}/status")).ok()?;
        let status = String::from_utf8_lossy(&status);
        // The name is the first line, and has its line ends escaped.
        let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
        let parent = line("PPid")?.parse().ok()?;
        let is_zombie = line("State")?.starts_with(['Z', 'X']);
        let is_kernel = match line("Kthread") {
            Some(is) => is == "1",
            // Before Linux 6.8.
            None => [pid, parent].contains(&KTHREADD) && line("VmSize").is_none(),
        };
        // Of numbers in several namespaces the first one is that in ours.
        let number = |key| line(key)?.split_ascii_whitespace().next()?.parse().ok();
        let (group, session) = number("NSpgid").zip(number("NSsid")).or_else(|| group_and_session(pid))?;
        Some(Self { pid, parent, group, session, is_zombie, is_kernel })
    }
}

/// For kernels that do not say so in `/proc/PID/status`, as gVisor, and let everybody read this.
fn group_and_session(pid: u32) -> Option<(u32, u32)> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything. Before these are its state and its parent.
    let mut fields = line.rsplit_once(')')?.1.split_ascii_whitespace().skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Whether it is this process, or a thread of it.
pub(super) fn is_own(thread: u32) -> bool {
    thread == std::process::id() || fs::exists(format!("/proc/self/task/{thread}")).unwrap_or(false)
}

/// The children of a process.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids =
        |list: String| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>();
    lists.flat_map(pids).collect()
}

/// How the processes of a command are known.
#[derive(Debug)]
pub(super) struct Family {
    /// The first of them, which leads their session.
    pub(super) leader: u32,
    /// The command's.
    pub(super) id: String,
    pub(super) group: Option<Group>,
}

impl Family {
    /// Whether any of them live.
    pub(super) fn any(&self) -> bool {
        !self.in_group().is_empty() || !descendants(self.leader, &self.id, Look::Once).is_empty()
    }

    /// Sends a signal to all of them; how many there were.
    pub(super) fn signal(&self, signal: Signal) -> usize {
        let members = self.members();
        let is_in_group = |pid: &u32| Process::of(*pid).is_some_and(|process| process.group == self.leader);
        let (together, apart): (Vec<u32>, Vec<u32>) = members.iter().partition(|pid| is_in_group(pid));
        // Those of its process group at once: one that has lost its child by this must not get on before its own comes.
        if let (false, Some(group)) = (together.is_empty(), Pid::from_raw(self.leader as i32)) {
            let _ = rustix::process::kill_process_group(group, signal);
        }
        for pid in apart.into_iter().filter_map(|pid| Pid::from_raw(pid as i32)) {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(pid, signal);
        }
        if signal == Signal::KILL
            && let Some(group) = &self.group
        {
            group.kill();
        }
        members.len()
    }

    /// Those that live.
    fn members(&self) -> HashSet<u32> {
        let mut members = self.in_group();
        let descendants = descendants(self.leader, &self.id, Look::Twice);
        members.extend(descendants.into_iter().map(|process| process.pid));
        members
    }

    /// Those that live and are in the control group, where there is one.
    fn in_group(&self) -> HashSet<u32> {
        let in_group = self.group.as_ref().map(Group::processes).unwrap_or_default();
        let is_alive = |pid: &u32| Process::of(*pid).is_some_and(|process| !process.is_zombie);
        in_group.into_iter().filter(is_alive).collect()
    }
}

/// How thoroughly processes are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Until it is known whether there are any: one that is overlooked had a parent that was seen alive, or that went
    /// meanwhile. Only then it is looked again. The daemon's children are in a file for each of its threads, so a look costs
    /// several milliseconds when there are hundreds.
    Once,
    /// Until all are found.
    Twice,
}

/// The processes below the daemon that are of a session or group, have a mark, or descend from one that does.
///
/// What loses its parent while this looks moves up to the daemon, past what was seen already: so the daemon's own children
/// are looked at again where it matters.
fn descendants(leader: u32, id: &str, look: Look) -> Vec<Process> {
    let mark = format!("{MARK}={id}");
    let is_marked = |pid: u32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    let (mut found, mut seen, mut again) = (Vec::new(), HashSet::new(), true);
    for _ in 0..2 {
        if !std::mem::replace(&mut again, look == Look::Twice) {
            break;
        }
        let ours = children(std::process::id()).into_iter().filter(|pid| !seen.contains(pid));
        let mut ahead: Vec<(u32, bool)> = ours.map(|pid| (pid, false)).collect();
        while let Some((pid, parent_is_one)) = ahead.pop() {
            if !seen.insert(pid) {
                continue;
            }
            let process = Process::of(pid);
            again |= process.is_none_or(|process| process.is_zombie);
            let has_sign = |it: Process| it.session == leader || it.group == leader;
            let is_one = parent_is_one || process.is_some_and(has_sign) || is_marked(pid);
            ahead.extend(children(pid).into_iter().map(|child| (child, is_one)));
            found.extend(process.filter(|process| is_one && !process.is_zombie));
        }
    }
    found
}

/// Children of ours that have ended and that nobody waits for: processes that lost their parent. A child that is no command
/// is given the time between two calls to be waited for by whoever started it. Returns those that may go the next time.
pub(super) fn bury(suspects: &HashSet<u32>) -> HashSet<u32> {
    let is_left = |pid: &u32| Process::of(*pid).is_some_and(|it| it.is_zombie) && !is_awaited(*pid);
    let zombies = children(std::process::id()).into_iter().filter(is_left);
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

    #[test]
    fn both_files_of_a_process_say_the_same() {
        for pid in [std::process::id(), std::os::unix::process::parent_id()] {
            let it = Process::of(pid).unwrap();
            assert_eq!(group_and_session(pid), Some((it.group, it.session)));
            assert!(it.pid == pid && !it.is_zombie && !it.is_kernel);
        }
        assert!(Process::of(u32::MAX).is_none() && group_and_session(u32::MAX).is_none());
    }
}
