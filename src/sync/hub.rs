//! What a daemon does as the hub of others. It keeps what it is told in memory: a stand-in for the store.

use super::link::{Answer, Hello, LinkError, Object, Portion, Pushed, Told, Watermark, Welcome};
use super::link::{BATCH_ENTRIES, OBJECT_BYTES};
use super::{Author, Cursor, Entry, Hash, NodeId, Offer, Refusal, ReplicaId, State, Why};
use crate::store::rows::Revision;
use parking_lot::Mutex;
use std::collections::HashMap;

const LIFE: Author = Author([0x68; 16]);

#[derive(Default)]
struct Known {
    revision: Revision,
    nodes: HashMap<NodeId, (Revision, ReplicaId, Told<Entry>)>,
    objects: HashMap<Hash, Vec<u8>>,
    replicas: HashMap<ReplicaId, Watermark>,
}

/// The hub of a daemon.
#[derive(Default)]
pub struct Hub {
    known: Mutex<Known>,
}

impl Known {
    fn cursor(&self) -> Cursor {
        Cursor { life: LIFE, revision: self.revision }
    }

    fn state(&self, id: NodeId) -> Option<&State> {
        self.nodes.get(&id).and_then(|(_, _, told)| told.what.state.as_ref())
    }
}

impl Hub {
    /// A replica comes.
    pub fn hello(&self, hello: &Hello) -> Answer<Welcome> {
        let mut known = self.known.lock();
        if !hello.empty && !hello.merge && hello.workspace != "hub" {
            return Err(LinkError::Refused(
                "the two workspaces are not related: wsd sync join --merge".into(),
            ));
        }
        let watermark = Watermark {
            replica: hello.replica,
            label: hello.label.clone(),
            applied: 0,
            pushed: 0,
            last_seen: 1,
        };
        known.replicas.entry(hello.replica).or_insert(watermark);
        Ok(Welcome {
            workspace: "hub".into(),
            hub: ReplicaId([0x68; 16]),
            current: known.cursor(),
            resumes: hello.cursor.is_some_and(|cursor| cursor.life == LIFE),
            stale: false,
        })
    }

    /// What changed after a cursor.
    pub fn changes(&self, replica: ReplicaId, after: Option<Cursor>, ignore: &[String]) -> Answer<Portion> {
        let mut known = self.known.lock();
        let after = after.unwrap_or(Cursor { life: LIFE, revision: 0 });
        let reset = after.life != LIFE;
        if let Some(watermark) = known.replicas.get_mut(&replica) {
            watermark.applied = watermark.applied.max(after.revision);
        }
        let is_new = |(revision, by, told): &&(Revision, ReplicaId, Told<Entry>)| {
            let names = told.what.state.iter().flat_map(|state| &state.places);
            let mut names = names.map(|place| String::from_utf8_lossy(&place.name));
            *revision > after.revision
                && *by != replica
                && !names.any(|name| ignore.contains(&name.into_owned()))
        };
        let mut entries: Vec<_> = known.nodes.values().filter(is_new).cloned().collect();
        entries.sort_by_key(|(revision, _, told)| (*revision, told.what.id));
        // What was taken at once is told at once.
        let end = entries.get(BATCH_ENTRIES).map(|(revision, ..)| *revision);
        entries.retain(|(revision, ..)| !reset && end.is_none_or(|end| *revision < end));
        let up_to = Cursor { revision: end.map_or(known.revision, |end| end - 1), ..known.cursor() };
        let entries = entries.into_iter().map(|(_, _, told)| told).collect();
        Ok(Portion { entries, up_to, more: end.is_some(), reset })
    }

    /// These nodes.
    pub fn read_entries(&self, _: ReplicaId, ids: &[NodeId]) -> Answer<Vec<Told<Entry>>> {
        let known = self.known.lock();
        let gone = |id: &NodeId| Told { what: Entry { id: *id, state: None }, bytes: None };
        Ok(ids.iter().map(|id| known.nodes.get(id).map_or_else(|| gone(id), |node| node.2.clone())).collect())
    }

    /// Which objects are not here.
    pub fn lacks(&self, hashes: &[Hash]) -> Answer<Vec<Hash>> {
        let known = self.known.lock();
        Ok(hashes.iter().filter(|hash| !known.objects.contains_key(*hash)).copied().collect())
    }

    /// The first of these objects.
    pub fn fetch(&self, hashes: &[Hash]) -> Answer<(usize, Vec<Object>)> {
        let known = self.known.lock();
        let (mut looked, mut bytes, mut objects) = (0, 0, Vec::new());
        for hash in hashes {
            if let Some(found) = known.objects.get(hash) {
                bytes += found.len();
                if bytes > OBJECT_BYTES && looked > 0 {
                    break;
                }
                objects.push(Object { hash: *hash, bytes: found.clone() });
            }
            looked += 1;
        }
        Ok((looked, objects))
    }

    /// Objects come.
    pub fn bring(&self, _: ReplicaId, objects: Vec<Object>) -> Answer<()> {
        self.known.lock().objects.extend(objects.into_iter().map(|object| (object.hash, object.bytes)));
        Ok(())
    }

    /// Changes are offered.
    pub fn push(
        &self,
        replica: ReplicaId,
        offers: Vec<Told<Offer>>,
        up_to: Revision,
        _: Author,
    ) -> Answer<Pushed> {
        let mut known = self.known.lock();
        let refused = offers.iter().filter(|offer| known.state(offer.what.id) != offer.what.base.as_ref());
        let refused: Vec<_> = refused.map(|offer| Refusal { id: offer.what.id, why: Why::Changed }).collect();
        if !refused.is_empty() {
            return Ok(Pushed::Refused(refused));
        }
        let needs = |offer: &Told<Offer>| {
            let content = offer.what.state.as_ref().and_then(|state| state.content)?;
            (offer.bytes.is_none() && !known.objects.contains_key(&content.hash)).then_some(content.hash)
        };
        let lacks: Vec<_> = offers.iter().filter_map(needs).collect();
        if !lacks.is_empty() {
            return Ok(Pushed::Lacks(lacks));
        }
        known.revision += 1;
        let revision = known.revision;
        for Told { what: Offer { id, state, .. }, bytes } in offers {
            known.nodes.insert(id, (revision, replica, Told { what: Entry { id, state }, bytes }));
        }
        if let Some(watermark) = known.replicas.get_mut(&replica) {
            watermark.pushed = up_to;
        }
        Ok(Pushed::Taken(known.cursor()))
    }

    /// Everything is where it stays.
    pub fn flush(&self, _: Revision) -> Answer<Cursor> {
        Ok(self.known.lock().cursor())
    }

    /// Who has come so far.
    pub fn watermarks(&self) -> Answer<Vec<Watermark>> {
        Ok(self.known.lock().replicas.values().cloned().collect())
    }
}
