//! Giving a file other content, all at once.
//!
//! What comes in a stream is put together in a file without a name, where nobody sees it, and takes its place in one
//! operation: readers see the old bytes or the new ones, and what breaks off leaves nothing.

use super::Vfs;
use super::content::{Slot, allocated_to};
use super::feed::ChangeKind;
use super::io::check_file;
use super::node::Node;
use super::privileges::{Taken, take};
use super::setattr::apply;
use super::types::{Attr, Author, Caller, SetAttr};
use crate::error::{FsError, FsResult};
use crate::store::buf::Buf;
use crate::store::rows::{INLINE_MAX, Ino, Revision};
use std::sync::Arc;

impl Vfs {
    /// Gives `target` the bytes of `from`, shared, not copied. The target stays what it is otherwise: its number, links,
    /// owner, mode and attributes. `None`, and nothing is changed, when `expected` is given and the target is at
    /// another revision.
    pub fn replace_content(
        &self,
        caller: Caller,
        target: Ino,
        from: Ino,
        expected: Option<Revision>,
    ) -> FsResult<Option<Attr>> {
        self.replace_as(caller, target, from, expected, &SetAttr::default())
    }

    /// The same, and `set` attributes in the same operation. A size to set is not looked at.
    pub fn replace_as(
        &self,
        caller: Caller,
        target: Ino,
        from: Ino,
        expected: Option<Revision>,
        set: &SetAttr,
    ) -> FsResult<Option<Attr>> {
        let (source, node) = (self.node(from)?, self.node(target)?);
        check_file(&source)?;
        check_file(&node)?;
        self.admit()?;
        self.pull(from);
        self.pull_for(caller, target);
        self.load_content(&source)?;
        self.load_content(&node)?;
        self.load_xattrs(&node)?;
        let Some(attr) = self.replace_slots(caller.by, &node, &source, expected, set)? else {
            return Ok(None);
        };
        self.tell(caller, |kernel| kernel.content(target));
        Ok(Some(attr))
    }

    fn replace_slots(
        &self,
        by: Author,
        target: &Arc<Node>,
        source: &Arc<Node>,
        expected: Option<Revision>,
        set: &SetAttr,
    ) -> FsResult<Option<Attr>> {
        let mut inline: Option<(Revision, Vec<u8>)> = None;
        loop {
            let op = self.begin(by);
            let (slots, size, revision) = {
                let meta = source.meta.read();
                (meta.content.all_slots(), meta.row.size, meta.row.revision)
            };
            if slots.iter().any(|(_, slot)| matches!(slot, Slot::Patch(_))) {
                // A patch belongs to one file; in the store they are whole.
                drop(op);
                self.commit(false)?;
                continue;
            }
            if slots.iter().any(|(_, slot)| matches!(slot, Slot::Inline))
                && inline.as_ref().is_none_or(|(of, _)| *of != revision)
            {
                drop(op);
                inline = Some((revision, self.read_content(source, 0, INLINE_MAX)?));
                continue;
            }
            let mut meta = target.meta.write();
            if meta.removed {
                return Err(FsError::Stale);
            }
            if expected.is_some_and(|expected| expected != meta.row.revision) {
                return Ok(None);
            }
            self.space.check(meta.row.allocated, allocated_to(slots.len(), size))?;
            if !meta.content.cut(0, &[], &self.gauge) {
                return Err(FsError::Invalid("the content cannot be cut"));
            }
            for (index, slot) in slots {
                let slot = match (slot, &inline) {
                    (Slot::Inline, Some((_, bytes))) => {
                        Slot::Data(Arc::new(Buf::new(bytes.clone(), &self.gauge)))
                    }
                    (slot, _) => slot,
                };
                meta.content.share(index, Some(slot));
            }
            meta.row.size = size;
            meta.row.mtime = op.now;
            meta.row.ctime = op.now;
            take(&mut meta, Taken::Capabilities);
            apply(&mut meta, set, Taken::SetIds, op.now);
            op.changed(target, &mut meta);
            op.note(ChangeKind::Modified, target);
            return Ok(Some(Attr::from(&meta.row)));
        }
    }
}
