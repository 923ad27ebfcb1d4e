//! Extended attributes.

use super::feed::ChangeKind;
use super::node::Meta;
use super::types::{Caller, SetXattr};
use super::{Vfs, acl};
use crate::error::{FsError, FsResult};
use crate::store::group::{Unstored, Xattrs};
use crate::store::rows::Ino;
use std::sync::Arc;

/// Limits of `xattr(7)`, bytes.
const NAME_MAX: usize = 255;
const VALUE_MAX: usize = 64 * 1024;
/// All names of one node together, as `listxattr(2)` returns them.
const LIST_MAX: usize = 64 * 1024;

impl Vfs {
    /// The value of an attribute.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> FsResult<Vec<u8>> {
        check_name(name)?;
        let node = self.node(ino)?;
        if !node.meta.read().row.has_xattrs {
            return Err(FsError::NoAttribute);
        }
        self.load_xattrs(&node)?.get(name).cloned().ok_or(FsError::NoAttribute)
    }

    /// The names of all attributes.
    pub fn listxattr(&self, ino: Ino) -> FsResult<Vec<Vec<u8>>> {
        let node = self.node(ino)?;
        Ok(self.load_xattrs(&node)?.keys().cloned().collect())
    }

    /// Sets an attribute. Setting an access ACL sets the mode with it.
    pub fn setxattr(
        &self,
        caller: Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        how: SetXattr,
    ) -> FsResult<()> {
        check_name(name)?;
        if value.len() > VALUE_MAX {
            return Err(FsError::TooBig);
        }
        let node = self.node(ino)?;
        self.admit()?;
        self.load_xattrs(&node)?;
        let takes_setgid = acl::is_access(name) && self.is_setgid_taken_by_acl(&node, caller);
        let op = self.begin(caller.by);
        let mut meta = node.meta.write();
        if meta.removed {
            return Err(FsError::Stale);
        }
        self.check_xattr(&meta, name, value, how)?;
        let before = meta.xattr_footprint();
        if !acl::set(&mut meta, name, value, takes_setgid)? {
            meta.set_xattr(name, value);
        }
        self.grew(meta.xattr_footprint().saturating_sub(before));
        meta.row.ctime = op.now;
        op.changed(&node, &mut meta);
        op.note(ChangeKind::Attributes, &node);
        drop(meta);
        drop(op);
        self.tell(caller, |kernel| kernel.attributes(ino));
        Ok(())
    }

    /// Whether an attribute may be set.
    fn check_xattr(&self, meta: &Meta, name: &[u8], value: &[u8], how: SetXattr) -> FsResult<()> {
        let present = || meta.xattrs.iter().flat_map(|xattrs| xattrs.iter());
        let before = present().find(|(present, _)| *present == name);
        match (how, before) {
            (SetXattr::Create, Some(_)) => return Err(FsError::Exists),
            (SetXattr::Replace, None) => return Err(FsError::NoAttribute),
            _ => {}
        }
        let listed: usize = present().map(|(name, _)| name.len() + 1).sum();
        if before.is_none() && listed + name.len() + 1 > LIST_MAX {
            return Err(FsError::NoSpace);
        }
        let bytes = |value: &[u8]| (name.len() + value.len()) as u64;
        self.space.check(before.map_or(0, |(_, value)| bytes(value)), bytes(value))
    }

    /// Removes an attribute.
    pub fn removexattr(&self, caller: Caller, ino: Ino, name: &[u8]) -> FsResult<()> {
        check_name(name)?;
        let node = self.node(ino)?;
        self.load_xattrs(&node)?;
        let op = self.begin(caller.by);
        let mut meta = node.meta.write();
        if !meta.remove_xattr(name) {
            // A mode without an ACL is one that says the same.
            if acl::is_acl(name) {
                return Ok(());
            }
            return Err(FsError::NoAttribute);
        }
        meta.row.ctime = op.now;
        op.changed(&node, &mut meta);
        op.note(ChangeKind::Attributes, &node);
        drop(meta);
        drop(op);
        self.tell(caller, |kernel| kernel.attributes(ino));
        Ok(())
    }
}

fn check_name(name: &[u8]) -> FsResult<()> {
    if name.len() > NAME_MAX {
        return Err(FsError::Range);
    }
    let rest =
        [&b"user."[..], b"trusted.", b"security."].iter().find_map(|prefix| name.strip_prefix(*prefix));
    match rest {
        Some(b"") => Err(FsError::Invalid("the name of an attribute ends with its namespace")),
        None if !acl::is_acl(name) => {
            Err(FsError::NotSupported("attributes other than user., trusted., security. and POSIX ACLs"))
        }
        _ => Ok(()),
    }
}

/// Bytes that attributes take: their names and values.
pub(super) fn bytes_of(xattrs: &Xattrs) -> u64 {
    xattrs.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum()
}

/// Approximate memory of attributes, bytes: their own, those of their allocations, and the first node of the map.
pub(super) fn footprint_of(xattrs: &Xattrs) -> usize {
    if xattrs.is_empty() { 0 } else { bytes_of(xattrs) as usize + xattrs.len() * 32 + 560 }
}

impl Meta {
    /// Approximate memory of the attributes that are loaded, bytes.
    pub(super) fn xattr_footprint(&self) -> usize {
        self.xattrs.as_deref().map_or(0, footprint_of)
    }

    /// All attributes, when any of them changed since the last cut.
    pub(super) fn take_xattrs(&mut self) -> Option<Unstored> {
        let weight = self.xattr_weight.take();
        let changed = std::mem::take(&mut self.xattrs_changed);
        let xattrs = self.xattrs.as_ref().filter(|_| changed)?;
        Some(Unstored::new(Arc::clone(xattrs), weight))
    }

    /// Takes the attributes that the store has, unless somebody was faster.
    pub(super) fn take_stored_xattrs(&mut self, stored: Arc<Xattrs>) -> Arc<Xattrs> {
        let xattrs = self.xattrs.get_or_insert_with(|| {
            self.xattr_bytes = bytes_of(&stored);
            stored
        });
        Arc::clone(xattrs)
    }

    /// Forgets all attributes of a node that is going away, if they are known.
    pub(super) fn clear_xattrs(&mut self) {
        self.xattrs = Some(Arc::default());
        self.xattrs_changed = true;
    }

    pub(super) fn set_xattr(&mut self, name: &[u8], value: &[u8]) {
        let xattrs = Arc::make_mut(self.xattrs.get_or_insert_default());
        xattrs.insert(name.to_vec(), value.to_vec());
        self.row.has_xattrs = true;
        self.xattrs_changed = true;
    }

    /// False when there was none. The attributes must have been loaded.
    pub(super) fn remove_xattr(&mut self, name: &[u8]) -> bool {
        let Some(xattrs) = self.xattrs.as_mut().filter(|xattrs| xattrs.contains_key(name)) else {
            return false;
        };
        let xattrs = Arc::make_mut(xattrs);
        xattrs.remove(name);
        self.row.has_xattrs = !xattrs.is_empty();
        self.xattrs_changed = true;
        true
    }
}
