//! POSIX ACLs: how they and the mode follow each other.
//!
//! The kernel stores ACLs as two extended attributes (format: `linux/posix_acl_xattr.h`) and checks access by
//! them; keeping them in step with the mode, and handing the default ACL down to new nodes, is the filesystem's
//! part (`acl(5)`).

use super::node::Meta;
use super::privileges::SETGID;
use super::types::NewNode;
use crate::error::{FsError, FsResult};
use crate::store::group::Xattrs;
use crate::store::rows::Kind;

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const VERSION: u32 = 2;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AclEntry {
    tag: u16,
    perm: u16,
    id: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Acl(Vec<AclEntry>);

/// What a new node gets from its directory.
pub(super) struct Inherited {
    pub(super) mode: u32,
    pub(super) xattrs: Xattrs,
}

pub(super) fn is_access(name: &[u8]) -> bool {
    name == ACCESS
}

pub(super) fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

impl Acl {
    fn parse(value: &[u8]) -> FsResult<Self> {
        let malformed = FsError::Invalid("a malformed POSIX ACL");
        let Some((version, rest)) = value.split_first_chunk::<4>() else { return Err(malformed) };
        if u32::from_le_bytes(*version) != VERSION || !rest.len().is_multiple_of(8) {
            return Err(malformed);
        }
        let entry = |bytes: &[u8]| {
            let (tag, rest) = bytes.split_first_chunk::<2>()?;
            let (perm, rest) = rest.split_first_chunk::<2>()?;
            let (id, _) = rest.split_first_chunk::<4>()?;
            let entry = AclEntry {
                tag: u16::from_le_bytes(*tag),
                perm: u16::from_le_bytes(*perm),
                id: u32::from_le_bytes(*id),
            };
            (entry.perm <= 7 && [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER].contains(&entry.tag))
                .then_some(entry)
        };
        rest.chunks(8).map(entry).collect::<Option<Vec<_>>>().map(Self).ok_or(malformed)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for AclEntry { tag, perm, id } in &self.0 {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(perm.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    fn get(&mut self, tag: u16) -> Option<&mut AclEntry> {
        self.0.iter_mut().find(|entry| entry.tag == tag)
    }

    /// Whether it says no more than a mode can.
    fn is_minimal(&self) -> bool {
        self.0.iter().all(|entry| matches!(entry.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    /// The entries behind the three digits of a mode.
    fn of_mode(&mut self) -> [(Option<&mut AclEntry>, u32); 3] {
        let class = if self.get(MASK).is_some() { MASK } else { GROUP_OBJ };
        let (mut user, mut group, mut other) = (None, None, None);
        for entry in &mut self.0 {
            match entry.tag {
                USER_OBJ => user = Some(entry),
                OTHER => other = Some(entry),
                tag if tag == class => group = Some(entry),
                _ => {}
            }
        }
        [(user, 6), (group, 3), (other, 0)]
    }

    fn mode(&mut self) -> u32 {
        let digits = self.of_mode();
        digits.into_iter().filter_map(|(entry, shift)| Some(u32::from(entry?.perm) << shift)).sum()
    }

    /// Takes the permissions of a mode.
    fn follow(&mut self, mode: u32) {
        for (entry, shift) in self.of_mode() {
            if let Some(entry) = entry {
                entry.perm = (mode >> shift & 7) as u16;
            }
        }
    }
}

/// The mode and ACLs of a new node in a directory with these attributes.
pub(super) fn inherit(directory: &Xattrs, new: &NewNode) -> Inherited {
    let default = directory.get(DEFAULT).filter(|_| new.kind != Kind::Symlink);
    let Some(mut acl) = default.and_then(|value| Acl::parse(value).ok()) else {
        return Inherited { mode: new.mode & !new.umask, xattrs: Xattrs::new() };
    };
    let mut xattrs = Xattrs::new();
    if new.kind == Kind::Dir {
        xattrs.insert(DEFAULT.to_vec(), acl.to_bytes());
    }
    let mode = new.mode & (acl.mode() | !0o777);
    acl.follow(mode);
    if !acl.is_minimal() {
        xattrs.insert(ACCESS.to_vec(), acl.to_bytes());
    }
    Inherited { mode, xattrs }
}

/// Lets the access ACL, if there is one, follow a mode that was set.
pub(super) fn follow_mode(meta: &mut Meta) {
    let value = meta.xattrs.as_ref().and_then(|xattrs| xattrs.get(ACCESS));
    let Some(mut acl) = value.and_then(|value| Acl::parse(value).ok()) else { return };
    acl.follow(meta.row.mode);
    meta.set_xattr(ACCESS, &acl.to_bytes());
}

/// Lets the mode follow an access ACL that is being set, and lose setgid with `takes_setgid`. True when the mode says it
/// all, and there is nothing left to store.
pub(super) fn set(meta: &mut Meta, name: &[u8], value: &[u8], takes_setgid: bool) -> FsResult<bool> {
    if !is_acl(name) {
        return Ok(false);
    }
    let mut acl = Acl::parse(value)?;
    if name == DEFAULT {
        return if meta.row.kind == Kind::Dir { Ok(false) } else { Err(FsError::Access) };
    }
    let replaced = if takes_setgid { SETGID | 0o777 } else { 0o777 };
    meta.row.mode = meta.row.mode & !replaced | acl.mode();
    if acl.is_minimal() {
        meta.remove_xattr(ACCESS);
        return Ok(true);
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16)]) -> Acl {
        Acl(entries.iter().map(|(tag, perm)| AclEntry { tag: *tag, perm: *perm, id: u32::MAX }).collect())
    }

    #[test]
    fn an_acl_round_trips_and_garbage_is_refused() {
        let value = acl(&[(USER_OBJ, 7), (GROUP_OBJ, 5), (OTHER, 0)]).to_bytes();
        assert_eq!(Acl::parse(&value).unwrap().to_bytes(), value);
        for bad in [&b""[..], &value[..7], &[1, 0, 0, 0], &[2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(Acl::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_default_acl_replaces_the_umask_and_masks_the_mode() {
        let default = acl(&[(USER_OBJ, 7), (USER, 7), (GROUP_OBJ, 7), (MASK, 7), (OTHER, 5)]);
        let directory = Xattrs::from([(DEFAULT.to_vec(), default.to_bytes())]);
        let file = NewNode { kind: Kind::File, mode: 0o664, umask: 0o077, rdev: 0 };
        let inherited = inherit(&directory, &file);
        assert_eq!(inherited.mode, 0o664);
        let access = Acl::parse(&inherited.xattrs[ACCESS]).unwrap();
        assert_eq!(access, acl(&[(USER_OBJ, 6), (USER, 7), (GROUP_OBJ, 7), (MASK, 6), (OTHER, 4)]));
        assert!(!inherited.xattrs.contains_key(DEFAULT));
        let dir = inherit(&directory, &NewNode { kind: Kind::Dir, ..file });
        assert!(dir.xattrs.contains_key(DEFAULT));
    }

    #[test]
    fn without_a_default_acl_the_umask_holds() {
        let new = NewNode { kind: Kind::File, mode: 0o666, umask: 0o022, rdev: 0 };
        assert_eq!(inherit(&Xattrs::new(), &new).mode, 0o644);
    }
}
