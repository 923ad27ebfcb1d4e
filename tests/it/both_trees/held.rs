//! What the program does with what it holds, and where it is.

use super::step::{Change, Step};
use super::{Id, Listing, Live, hex};
use crate::support::noise;
use proptest::sample::Index;
use serde_json::json;

impl Live {
    fn which(&self, which: Index) -> Option<Id> {
        let held: Vec<Id> = self.held.iter().copied().collect();
        (!held.is_empty()).then(|| held[which.index(held.len())])
    }

    /// What the program does with what it holds.
    pub(super) fn hold(&mut self, step: Step, seed: u64) {
        match step {
            Step::Hold { file } => {
                let Some((id, path)) = self.file(file) else { return };
                if self.held.insert(id) {
                    self.program.act(json!({"op": "hold", "key": id, "path": path}));
                }
            }
            Step::Held { which, change } => {
                let Some(id) = self.which(which) else { return };
                let hex = |len| hex(&noise(seed, len));
                match change {
                    Change::Put { len } | Change::Append { len } => {
                        self.program.act(json!({"op": "append", "key": id, "data": hex(len)}));
                        return self.changed(id, Change::Append { len }, seed);
                    }
                    Change::Write { at, len } => {
                        self.program.act(json!({"op": "write", "key": id, "at": at, "data": hex(len)}))
                    }
                    Change::Truncate { size } => {
                        self.program.act(json!({"op": "truncate", "key": id, "size": size}))
                    }
                    Change::Punch { at, len } => {
                        self.program.act(json!({"op": "punch", "key": id, "at": at, "size": len}))
                    }
                };
                self.changed(id, change, seed);
            }
            Step::Store { which, at, len } => {
                let Some(id) = self.which(which) else { return };
                let size = self.bytes(id).len();
                if size > 0 {
                    let at = at.index(size);
                    let len = len.min(size - at);
                    self.program
                        .act(json!({"op": "store", "key": id, "at": at, "data": hex(&noise(seed, len))}));
                    self.changed(id, Change::Write { at, len }, seed);
                }
            }
            Step::Sync { which } => {
                if let Some(id) = self.which(which) {
                    self.program.act(json!({"op": "sync", "key": id}));
                }
            }
            Step::Drop { which } => {
                if let Some(id) = self.which(which) {
                    self.program.act(json!({"op": "drop", "key": id}));
                    self.held.remove(&id);
                }
            }
            step => self.be(step),
        }
    }

    /// Where the program is, and what it lists.
    fn be(&mut self, step: Step) {
        match step {
            Step::Enter { dir } => {
                let (id, path) = self.dir(dir);
                self.program.act(json!({"op": "enter", "path": path}));
                self.place = Some(id);
            }
            Step::Stay { dir } => {
                let (id, path) = self.dir(dir);
                if self.stays.insert(id) {
                    self.program.act(json!({"op": "stay", "key": id, "path": path}));
                } else {
                    self.program.act(json!({"op": "leave", "key": id}));
                    self.stays.remove(&id);
                }
            }
            Step::List { dir } if self.listing.is_none() => {
                let (dir, path) = self.dir(dir);
                self.program.act(json!({"op": "list", "path": path}));
                let stays = self.names(dir).keys().copied().collect();
                self.listing = Some(Listing { dir, stays, seen: Vec::new() });
            }
            Step::Next | Step::List { .. } => {
                let Some(listing) = &mut self.listing else { return };
                let said = self.program.act(json!({"op": "next"}));
                let names = said["names"].as_array().unwrap();
                listing.seen.extend(names.iter().map(|name| name.as_str().unwrap().to_owned()));
                if names.is_empty() {
                    self.program.act(json!({"op": "listed"}));
                    for name in &listing.stays {
                        let times = listing.seen.iter().filter(|seen| **seen == format!("n{name}")).count();
                        assert_eq!(times, 1, "n{name} in {:?}", listing.seen);
                    }
                    self.listing = None;
                }
            }
            step => unreachable!("{step:?}"),
        }
    }
}
