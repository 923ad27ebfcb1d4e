//! Whose a process is: asked about each change that comes through the mount while commands run.
//!
//! A command's processes are the daemon's descendants. The one right below the daemon is the command's first process, which
//! leads a session whose number is its own; so a process is known by its session, else by its ancestors. What has lost its
//! parent is below the daemon itself: it still has the session, or, if it has begun one of its own, the control group.
//!
//! Whoever asks is answering the kernel, and the process in question waits for the answer, maybe with its memory map locked, or
//! while it becomes another program. So nothing is read here that waits for either: neither its command line nor its
//! environment, nor `/proc/PID/stat`.

use super::process::{Process, is_own};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long it is believed whose a process is: not so long that its number could be another's meanwhile.
const BELIEVED: Duration = Duration::from_secs(1);

/// Processes that are remembered at most.
const REMEMBERED: usize = 4096;

/// Most generations between a process and the first one of its command.
const GENERATIONS: usize = 100;

/// Whose a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The kernel's, or the daemon's own: what it does it does for somebody else.
    Nobody,
    /// No command's.
    Others,
    /// That of the command with this first process.
    Command(u32),
}

/// Knows whose a process is, as long as commands run.
#[derive(Debug, Default)]
pub struct Lineage {
    /// Commands that run or are being started.
    commands: AtomicUsize,
    /// The first processes of commands with a control group, by id.
    leaders: Mutex<HashMap<String, u32>>,
    known: Mutex<HashMap<u32, (Instant, Whose)>>,
}

impl Lineage {
    /// A command is being started: from now on processes are looked at.
    pub(super) fn begin(&self) {
        self.commands.fetch_add(1, Ordering::Relaxed);
    }

    /// It has a control group that its id leads to.
    pub(super) fn grouped(&self, id: &str, leader: u32) {
        self.leaders.lock().insert(id.to_owned(), leader);
    }

    /// It has ended, or could not be started.
    pub(super) fn end(&self, id: &str) {
        self.leaders.lock().remove(id);
        if self.commands.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.known.lock().clear();
        }
    }

    /// Whose a process or thread is; 0 is none. With no command running nobody is looked at.
    pub fn whose(&self, process: u32) -> Whose {
        if self.commands.load(Ordering::Relaxed) == 0 {
            return Whose::Others;
        }
        if process == 0 {
            return Whose::Nobody;
        }
        let now = Instant::now();
        if let Some(whose) = self.remembered(process, now) {
            return whose;
        }
        let whose = self.look(process, now);
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.retain(|_, (at, _)| now.duration_since(*at) < BELIEVED);
        }
        if known.len() < REMEMBERED {
            known.insert(process, (now, whose));
        }
        whose
    }

    fn remembered(&self, process: u32, now: Instant) -> Option<Whose> {
        let known = self.known.lock();
        known.get(&process).filter(|(at, _)| now.duration_since(*at) < BELIEVED).map(|(_, whose)| *whose)
    }

    fn look(&self, process: u32, now: Instant) -> Whose {
        let daemon = std::process::id();
        let Some(mut kin) = Process::of(process) else { return Whose::Others };
        let of_our_parent =
            rustix::process::getppid().map_or(0, |parent| parent.as_raw_nonzero().get() as u32);
        if kin.is_kernel || (kin.parent == of_our_parent && is_own(process)) {
            return Whose::Nobody;
        }
        let mut at = process;
        for _ in 0..GENERATIONS {
            if kin.parent == daemon {
                // The first process of a command, or one that has lost its parent.
                let grouped = (kin.session != at).then(|| self.by_group(process)).flatten();
                return Whose::Command(grouped.unwrap_or(kin.session));
            }
            if let Some(command @ Whose::Command(_)) = self.remembered(kin.parent, now) {
                return command;
            }
            at = kin.parent;
            match Process::of(at) {
                Some(parent) if at > 1 => kin = parent,
                _ => return Whose::Others,
            }
        }
        Whose::Others
    }

    fn by_group(&self, process: u32) -> Option<u32> {
        let id = super::cgroup::command_of(process)?;
        self.leaders.lock().get(&id).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_is_its_commands_wherever_it_is_below_it() {
        let lineage = Lineage::default();
        let me = std::process::id();
        assert_eq!(lineage.whose(me), Whose::Others, "nobody looks while no command runs");
        lineage.begin();
        assert_eq!((lineage.whose(me), lineage.whose(0)), (Whose::Nobody, Whose::Nobody));
        assert_eq!(lineage.whose(1), Whose::Others);
        let script = "setsid sh -c 'echo $$; exec sleep 5' & sh -c 'echo $$; exec sleep 5' & echo $$; wait";
        let mut child =
            Command::new("setsid").args(["sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut pids = Vec::new();
        for _ in 0..3 {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut said, &mut line).unwrap();
            pids.push(line.trim().parse().unwrap());
        }
        for pid in &pids {
            assert_eq!(lineage.whose(*pid), Whose::Command(child.id()), "{pid}");
        }
        let kernel = std::fs::read_to_string("/proc/2/stat").is_ok_and(|stat| stat.contains("(kthreadd)"));
        assert!(!kernel || lineage.whose(2) == Whose::Nobody);
        for pid in pids {
            let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        child.wait().unwrap();
        lineage.end("");
        assert_eq!(lineage.whose(me), Whose::Others);
    }
}
