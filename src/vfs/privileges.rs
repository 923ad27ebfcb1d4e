//! What a change of a program takes from it: its capabilities, and often setuid and setgid.
//!
//! The kernel leaves this to us (`FUSE_HANDLE_KILLPRIV_V2`). It says of a write and a new size whether the caller is
//! privileged, and nothing of other changes; and it names one group of the caller only. What it does not say is read from
//! `/proc`, and only where something hangs on it.

use super::Vfs;
use super::node::{Meta, Node};
use super::types::{Caller, Origin};

/// `S_ISUID`, `S_ISGID` and `S_IXGRP`.
const SETUID: u32 = 0o4000;
pub(super) const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

/// The file capabilities of a program.
const CAPABILITY: &[u8] = b"security.capability";

/// The capability to leave setuid and setgid where they are.
const CAP_FSETID: u32 = 4;

/// What a change takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// File capabilities.
    Capabilities,
    /// Setuid too, and setgid where the group may execute.
    SetIds,
    /// Setuid and setgid too.
    AllSetIds,
}

impl Vfs {
    /// What a change of the file's bytes by this caller takes. `unprivileged`: what is known of the caller already.
    pub(super) fn taken(&self, node: &Node, caller: Caller, unprivileged: Option<bool>) -> Taken {
        let (mode, gid) = mode_and_group(node);
        if mode & (SETUID | SETGID) == 0 || !unprivileged.unwrap_or_else(|| !is_privileged(caller)) {
            return Taken::Capabilities;
        }
        if mode & GROUP_EXECUTE == 0 && is_foreign(mode, gid, caller) {
            Taken::AllSetIds
        } else {
            Taken::SetIds
        }
    }

    /// What a change of owner by this caller takes.
    pub(super) fn taken_by_chown(&self, node: &Node, caller: Caller) -> Taken {
        let (mode, gid) = mode_and_group(node);
        if is_foreign(mode, gid, caller) && !is_privileged(caller) { Taken::AllSetIds } else { Taken::SetIds }
    }

    /// Whether a new access ACL from this caller takes setgid, which a mode from them would not have either.
    pub(super) fn is_setgid_taken_by_acl(&self, node: &Node, caller: Caller) -> bool {
        let (mode, gid) = mode_and_group(node);
        is_foreign(mode, gid, caller) && !is_privileged(caller)
    }

    /// Tells the kernel that a change took setuid or setgid: whoever made the change through it believes in the bits it
    /// knows. With no lock held.
    pub(super) fn tell_of_privileges(&self, node: &Node) {
        if let Some(kernel) = self.invalidator() {
            kernel.forget_attributes(node.ino);
        }
    }
}

fn mode_and_group(node: &Node) -> (u32, u32) {
    let meta = node.meta.read();
    (meta.row.mode, meta.row.gid)
}

/// Whether setgid stands for a group that the caller is not in.
fn is_foreign(mode: u32, gid: u32, caller: Caller) -> bool {
    mode & SETGID != 0 && caller.gid != gid && !status(caller).is_some_and(|status| in_group(&status, gid))
}

/// Whether the caller may leave setuid and setgid where they are. Somebody else than root who has the capability, which
/// is rare, and may have it in a user namespace only, is taken for one who may not.
fn is_privileged(caller: Caller) -> bool {
    let is_capable = || status(caller).is_none_or(|status| has_fsetid(&status));
    caller.uid == 0 && (caller.origin == Origin::Direct || is_capable())
}

/// What the system says of the caller's process; `None` if it is not known, or gone.
fn status(caller: Caller) -> Option<String> {
    if caller.process == 0 {
        return None;
    }
    let bytes = std::fs::read(format!("/proc/{}/status", caller.process)).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

fn in_group(status: &str, gid: u32) -> bool {
    let groups = field(status, "Groups").unwrap_or_default();
    groups.split_whitespace().any(|group| group.parse() == Ok(gid))
}

fn has_fsetid(status: &str) -> bool {
    let effective = field(status, "CapEff").unwrap_or_default();
    u64::from_str_radix(effective.trim(), 16).is_ok_and(|set| set >> CAP_FSETID & 1 == 1)
}

/// Takes it. The attributes must have been loaded. True when setuid or setgid went.
pub(super) fn take(meta: &mut Meta, taken: Taken) -> bool {
    let before = meta.row.mode;
    match taken {
        Taken::Capabilities => {}
        Taken::SetIds => meta.row.mode &= !SETUID,
        Taken::AllSetIds => meta.row.mode &= !(SETUID | SETGID),
    }
    if taken == Taken::SetIds && before & GROUP_EXECUTE != 0 {
        meta.row.mode &= !SETGID;
    }
    if meta.row.has_xattrs {
        meta.remove_xattr(CAPABILITY);
    }
    meta.row.mode != before
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nGid:\t7\t7\t7\t7\nGroups:\t10 2345 \nCapEff:\t000001ffffffffef\n";

    #[test]
    fn groups_and_the_capability_are_read() {
        assert!(in_group(STATUS, 2345) && in_group(STATUS, 10));
        assert!(!in_group(STATUS, 7) && !in_group(STATUS, 234) && !in_group("", 0));
        assert!(!has_fsetid(STATUS) && !has_fsetid("") && has_fsetid("CapEff:\t0000000000000010\n"));
    }
}
