//! Names that are of one node on one side and of several on the other.
//!
//! What is written to a node is written at all its names. So before a node is changed because of one name, it has to be
//! known that the other side means all of them.

use super::Engine;
use crate::diff::{Sight, Step};
use crate::shadow::Side;
use crate::tree::{Facts, Kind};

impl Engine {
    /// Makes a copy out of a step that would otherwise change more names than are meant, or leave a name with a node that
    /// it is no name of any more.
    pub(super) fn mind_links(&self, path: &[u8], step: Step, [work, host]: [Option<Sight>; 2]) -> Step {
        let (Some(work), Some(host)) = (work, host) else { return step };
        if work.facts.kind != Kind::File || host.facts.kind != Kind::File {
            return step;
        }
        let needs_own = |from: Side, is_change: bool| {
            let (source, there) = match from {
                Side::Work => (&work.facts, &host.facts),
                Side::Host => (&host.facts, &work.facts),
            };
            let entry = self.shadow.get(path);
            let is_replaced = entry.is_some_and(|entry| entry.facts(from).id != source.id);
            (is_change || is_replaced) && self.is_apart(path, from, source, there)
                || is_replaced && self.is_apart(path, from.other(), there, source)
        };
        match step {
            Step::Set(from) if needs_own(from, true) => Step::Copy(from),
            Step::Agree if needs_own(Side::Host, false) => Step::Copy(Side::Host),
            Step::Agree if needs_own(Side::Work, false) => Step::Copy(Side::Work),
            step => step,
        }
    }

    /// Whether the other side's node at a place has names that are, on this side, of another node.
    pub(super) fn is_apart(&self, path: &[u8], from: Side, source: &Facts, there: &Facts) -> bool {
        let twins = self.shadow.by_id(from.other(), there.id).filter(|twin| *twin != path);
        let mut entries = twins.filter_map(|twin| self.shadow.get(twin));
        entries.any(|entry| entry.facts(from).id != source.id)
    }
}
