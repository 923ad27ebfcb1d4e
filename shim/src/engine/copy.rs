//! Copying from one side to the other, in portions, whatever the size.

use super::{Depth, Engine, TRIES, Wish};
use crate::diff::Sight;
use crate::path;
use crate::shadow::Side;
use crate::tree::{Digest, Facts, Fault, Kind, Outcome, UNTRUSTED};
use std::sync::Arc;

impl Engine {
    /// Makes the other side have what this one has at a place. `there`: what the other one has there now.
    pub(super) fn copy(
        &mut self,
        path: &[u8],
        from: Side,
        source: &Facts,
        there: Option<Sight>,
        wish: Option<&Wish>,
    ) -> Outcome<()> {
        let to = from.other();
        let target = Arc::clone(self.tree(to));
        if let Some(reason) = target.unfit(path, source) {
            return Err(Fault::Unfit(reason));
        }
        if let Some(reason) = self.left_out_above(path) {
            return Err(Fault::Unfit(reason));
        }
        let attributes = self.attributes(path, from, source, there.as_ref().map(|there| &there.facts));
        let mut there = there.map(|there| there.facts);
        if let Some(other) = there.filter(|there| there.kind != source.kind) {
            target.remove(path, &other)?;
            there = None;
        }
        match source.kind {
            Kind::Dir => {
                let made = match &there {
                    Some(there) => target.set(path, &attributes, there)?,
                    None => target.make_dir(path, &attributes)?,
                };
                self.agree_between(path, from, *source, made, [0; 32]);
                Ok(())
            }
            Kind::Symlink => {
                let bytes = self.tree(from).target(path)?;
                let made = target.make_symlink(path, &bytes, &attributes, there.as_ref())?;
                self.agree_between(path, from, *source, made, *blake3::hash(&bytes).as_bytes());
                Ok(())
            }
            Kind::File => {
                if self.link(path, from, source, there.as_ref())? {
                    return Ok(());
                }
                self.copy_file(path, from, source, there.as_ref(), wish)
            }
            Kind::Other => Err(Fault::Unfit("a device, fifo or socket".into())),
        }
    }

    /// Why a directory above is only on one side, if it is.
    fn left_out_above(&self, path: &[u8]) -> Option<String> {
        path::above(path).find_map(|dir| self.left_out.get(dir).cloned())
    }

    fn copy_file(
        &mut self,
        path: &[u8],
        from: Side,
        source: &Facts,
        there: Option<&Facts>,
        wish: Option<&Wish>,
    ) -> Outcome<()> {
        let (source_tree, target) = (Arc::clone(self.tree(from)), Arc::clone(self.tree(from.other())));
        let mut hasher = blake3::Hasher::new();
        let mut stage = target.stage(path)?;
        let after = source_tree.read(path, source, &mut |bytes| {
            hasher.update(bytes);
            stage.write(bytes)
        })?;
        let mut seen = *source;
        if !after.still(source) {
            // One that never rests is taken as it is, and looked at again.
            if wish.is_none_or(|wish| wish.tries < TRIES / 2) {
                return Err(Fault::Changed);
            }
            seen.change = UNTRUSTED;
        }
        if from == Side::Host {
            self.was_read(path, source, wish);
        }
        // Written to, or replaced by another one? Only then may other names of the node keep the old bytes.
        let is_same = self.shadow.get(path).is_none_or(|entry| entry.facts(from).id == source.id);
        let keep_node = is_same && there.is_none_or(|there| !self.is_apart(path, from, source, there));
        let attributes = self.attributes(path, from, source, there);
        let copy = stage.place(&attributes, there, keep_node)?;
        let digest = *hasher.finalize().as_bytes();
        self.agree_between(path, from, seen, copy, digest);
        if seen.change == UNTRUSTED {
            self.wait(path, None, None);
        }
        Ok(())
    }

    /// Gives another name to a node that the other side has already, if this is one of those; whether it was.
    fn link(&mut self, path: &[u8], from: Side, source: &Facts, there: Option<&Facts>) -> Outcome<bool> {
        let twins: Vec<_> =
            self.shadow.by_id(from, source.id).filter(|twin| *twin != path).take(4).cloned().collect();
        let (source_tree, target) = (Arc::clone(self.tree(from)), Arc::clone(self.tree(from.other())));
        for twin in twins {
            let Some(mut entry) = self.shadow.get(&twin).copied() else { continue };
            let is_linked = source_tree.look(&twin)?.is_some_and(|now| now.id == source.id);
            let to = from.other();
            if !is_linked || entry.facts(from).size != source.size {
                continue;
            }
            let copy = target.look(&twin)?.filter(|now| {
                // Another name that came or went has touched it.
                let digest = || self.digest(to, &twin, now).is_ok_and(|digest| digest == entry.digest);
                now.still(entry.facts(to)) || now.has_bytes_of(entry.facts(to)) && digest()
            });
            let Some(copy) = copy else { continue };
            if self.digest(from, path, source)? != entry.digest {
                continue;
            }
            let linked = match target.link(&twin, path, there) {
                Err(Fault::Unfit(_)) => return Ok(false),
                linked => linked?,
            };
            if !linked.has_bytes_of(&copy) {
                // Written to, or replaced, since it was looked at: it was not this that both sides agreed on.
                self.agree_between(path, from, *source, Facts { change: UNTRUSTED, ..copy }, entry.digest);
                self.wish(path.to_vec(), Depth::Itself, None, to == Side::Work);
                return Ok(true);
            }
            // The node may have got other attributes since, by any of its names.
            let attributes = self.attributes(&twin, from, source, Some(&linked));
            let are_there = (attributes.mode, attributes.uid, attributes.gid, attributes.mtime)
                == (linked.mode, linked.uid, linked.gid, linked.mtime);
            let linked = if are_there { linked } else { target.set(path, &attributes, &linked)? };
            // What the other side changed of them meanwhile still has to come back, from all names.
            let linked = self.owing(&twin, from, source, linked);
            self.agree_between(path, from, *source, linked, entry.digest);
            // A new name is a change of the node, which is no news at its other names.
            *entry.facts_mut(to) = linked;
            *entry.facts_mut(from) = *source;
            self.shadow.put(twin, entry);
            return Ok(true);
        }
        Ok(false)
    }

    /// What is at a place reads as; `Changed` if it is being written to.
    pub(super) fn digest(&self, side: Side, path: &[u8], facts: &Facts) -> Outcome<Digest> {
        if facts.kind == Kind::Symlink {
            return Ok(*blake3::hash(&self.tree(side).target(path)?).as_bytes());
        }
        let mut hasher = blake3::Hasher::new();
        let after = self.tree(side).read(path, facts, &mut |bytes| {
            hasher.update(bytes);
            Ok(())
        })?;
        if after.still(facts) { Ok(*hasher.finalize().as_bytes()) } else { Err(Fault::Changed) }
    }
}
