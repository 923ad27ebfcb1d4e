//! Extended attributes.

use super::feed::ChangeKind;
use super::node::Meta;
use super::types::{Caller, SetXattr};
use super::{Vfs, acl};
use crate::error::{FsError, FsResult};
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
        let present = meta.xattrs.clone().unwrap_or_default();
        match (how, present.contains_key(name)) {
            (SetXattr::Create, true) => return Err(FsError::Exists),
            (SetXattr::Replace, false) => return Err(FsError::NoAttribute),
            _ => {}
        }
        let listed: usize = present.keys().map(|name| name.len() + 1).sum();
        if !present.contains_key(name) && listed + name.len() + 1 > LIST_MAX {
            return Err(FsError::NoSpace);
        }
        if !acl::set(&mut meta, name, value, takes_setgid)? {
            meta.set_xattr(name, value);
        }
        meta.row.ctime = op.now;
        op.changed(&node, &mut meta);
        op.note(ChangeKind::Attributes, &node);
        drop(meta);
        drop(op);
        self.tell(caller, |kernel| kernel.attributes(ino));
        Ok(())
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

impl Meta {
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
