//! A hub: a tree that judges offers, and tells what has changed.

use super::Dice;
use super::model::Model;
use crate::store::rows::Revision;
use crate::sync::entry::{Author, Cursor, Entry, Hash, NodeId, Offer, ReplicaId};
use crate::sync::judge::judge;
use crate::sync::link::{Pushed, Welcome, digest};
use crate::sync::tree::Verdict;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub(super) enum Request {
    Hello {
        replica: ReplicaId,
        cursor: Option<Cursor>,
        heard: Option<Cursor>,
        lives: Vec<(Author, Revision)>,
    },
    Changes {
        after: Option<Cursor>,
        wait: bool,
    },
    Entries(Vec<NodeId>),
    Push {
        offers: Vec<Offer>,
        up_to: Revision,
        life: Author,
    },
}

#[derive(Clone, Debug)]
pub(super) enum Response {
    Welcome(Welcome),
    Portion {
        entries: Vec<Entry>,
        up_to: Cursor,
        more: bool,
        reset: bool,
        now: Revision,
    },
    Entries(Vec<Entry>, Cursor),
    Pushed(Pushed),
    /// It could not be done, or it was and nobody can say so. `full`: there is no room for what comes.
    Failed {
        full: bool,
    },
}

#[derive(Clone, Debug)]
struct Memory {
    connection: u64,
    pushed: Option<(Author, Revision)>,
    /// What the last push offered, if it was taken.
    taken: Option<Hash>,
}

#[derive(Clone, Debug)]
pub(super) struct Hub {
    pub(super) tree: Model,
    /// Its lives, each with the revision at which it began.
    lives: Vec<(Author, Revision)>,
    /// Whose change was the last one of a node.
    last: BTreeMap<NodeId, ReplicaId>,
    gone: BTreeMap<NodeId, Revision>,
    /// Nobody remembers what was gone by then.
    pruned: Revision,
    replicas: BTreeMap<ReplicaId, Memory>,
    /// Who is at the other end of a connection.
    connections: BTreeMap<u64, ReplicaId>,
}

impl Hub {
    pub(super) fn new() -> Self {
        let life = Author([200; 16]);
        Self {
            tree: Model::new(life),
            lives: vec![(life, 0)],
            last: BTreeMap::new(),
            gone: BTreeMap::new(),
            pruned: 0,
            replicas: BTreeMap::new(),
            connections: BTreeMap::new(),
        }
    }

    pub(super) fn current(&self) -> Cursor {
        let life = self.lives.last().map(|(life, _)| *life).unwrap();
        Cursor { life, revision: self.tree.revision, listed: 0 }
    }

    /// Takes note of what somebody has changed.
    pub(super) fn changed(&mut self, before: &Model, who: Option<ReplicaId>) {
        let revision = self.tree.revision;
        let mut ids: Vec<NodeId> = Vec::new();
        for id in before.nodes.keys().filter(|id| self.tree.state(**id).is_none()) {
            self.gone.insert(*id, revision);
            ids.push(*id);
        }
        for (id, local) in &self.tree.nodes {
            if local.revision == revision && before.nodes.get(id) != Some(local) {
                self.gone.remove(id);
                ids.push(*id);
            }
        }
        for id in ids {
            match who {
                Some(who) => drop(self.last.insert(id, who)),
                None => drop(self.last.remove(&id)),
            }
        }
    }

    fn was_at(&self, seen: Cursor) -> bool {
        let Some(at) = self.lives.iter().position(|(life, _)| *life == seen.life) else { return false };
        seen.revision <= self.lives.get(at + 1).map_or(self.tree.revision, |(_, began)| *began)
    }

    /// Begins another life, as a copy of what it was.
    pub(super) fn restored(mut self, number: u8) -> Self {
        let life = Author([201 + number; 16]);
        self.tree.author = life;
        self.lives.push((life, self.tree.revision));
        self.connections.clear();
        self
    }

    /// Forgets what is gone.
    pub(super) fn prune(&mut self) {
        self.pruned = self.tree.revision;
        self.gone.clear();
    }

    /// Answers; `None`: when there is something to tell.
    pub(super) fn answer(&mut self, connection: u64, request: &Request, dice: &mut Dice) -> Option<Response> {
        match request {
            Request::Hello { replica, cursor, heard, lives } => {
                Some(Response::Welcome(self.welcome(connection, *replica, (*cursor, *heard), lives)))
            }
            Request::Changes { after, wait } => {
                let replica = *self.connections.get(&connection)?;
                self.portion(replica, *after, *wait, dice)
            }
            Request::Entries(ids) => {
                let entry = |id: &NodeId| Entry { id: *id, state: self.tree.state(*id).cloned() };
                Some(Response::Entries(ids.iter().map(entry).collect(), self.current()))
            }
            Request::Push { offers, up_to, life } => self.push(connection, offers, (*life, *up_to)),
        }
    }

    fn welcome(
        &mut self,
        connection: u64,
        replica: ReplicaId,
        (cursor, heard): (Option<Cursor>, Option<Cursor>),
        lives: &[(Author, Revision)],
    ) -> Welcome {
        let memory = self.replicas.entry(replica).or_insert(Memory { connection, pushed: None, taken: None });
        memory.connection = memory.connection.max(connection);
        let (taken, pushed) = (memory.taken, memory.pushed.map_or(0, |(_, up_to)| up_to));
        self.connections.insert(connection, replica);
        let stale = memory.pushed.is_some_and(|(life, up_to)| {
            let position = lives.iter().position(|(it, _)| *it == life);
            let end = |at: usize| if at == 0 { Revision::MAX } else { lives[at - 1].1 };
            position.is_none_or(|at| end(at) < up_to)
        });
        let restored = cursor.iter().chain(&heard).any(|seen| !self.was_at(*seen));
        let resumes = cursor.is_none_or(|cursor| self.knows(cursor));
        let current = self.current();
        let (workspace, hub) = ("w".into(), ReplicaId([9; 16]));
        Welcome { workspace, hub, current, resumes, stale, restored, taken, pushed }
    }

    fn knows(&self, cursor: Cursor) -> bool {
        self.was_at(cursor) && cursor.revision.max(cursor.listed) >= self.pruned
    }

    fn portion(
        &self,
        replica: ReplicaId,
        after: Option<Cursor>,
        wait: bool,
        dice: &mut Dice,
    ) -> Option<Response> {
        if after.is_some_and(|after| !self.knows(after)) {
            let up_to = self.current();
            return Some(Response::Portion {
                entries: Vec::new(),
                up_to,
                more: false,
                reset: true,
                now: up_to.revision,
            });
        }
        let is_new = |revision: Revision| after.is_none_or(|after| revision > after.revision);
        let live = self.tree.live().map(|(id, _)| (self.tree.nodes[&id].revision, id));
        let mut all: Vec<(Revision, NodeId)> =
            live.chain(self.gone.iter().map(|(id, revision)| (*revision, *id))).collect();
        let current = self.current();
        let listed = after.map_or(current.revision, |after| after.listed);
        let is_own = |id: &NodeId| self.last.get(id) == Some(&replica);
        all.retain(|(revision, id)| is_new(*revision) && (*revision <= listed || !is_own(id)));
        all.sort();
        if all.is_empty() && wait {
            return None;
        }
        let limit = 1 + dice.below(6);
        let last = all.get(limit - 1).map(|(revision, _)| *revision);
        let more = last.is_some_and(|last| all.iter().any(|(revision, _)| *revision > last));
        let up_to = match last {
            Some(revision) if more => Cursor { revision, listed, ..current },
            _ => Cursor { listed, ..current },
        };
        all.retain(|(revision, _)| *revision <= up_to.revision);
        let entries = all.iter().map(|(_, id)| Entry { id: *id, state: self.tree.state(*id).cloned() });
        Some(Response::Portion {
            entries: entries.collect(),
            up_to,
            more,
            reset: false,
            now: self.tree.revision,
        })
    }

    fn push(&mut self, connection: u64, offers: &[Offer], up_to: (Author, Revision)) -> Option<Response> {
        let replica = *self.connections.get(&connection)?;
        let memory = self.replicas.get_mut(&replica)?;
        if memory.connection != connection {
            return None;
        }
        let plan = match judge(&self.tree, offers).unwrap() {
            Verdict::Refuse(refusals) => return Some(Response::Pushed(Pushed::Refused(refusals))),
            Verdict::Accept(plan) => plan,
        };
        (memory.pushed, memory.taken) = (Some(up_to), digest(offers));
        if !plan.steps.is_empty() {
            let before = self.tree.clone();
            self.tree.apply(&plan).unwrap();
            self.changed(&before, Some(replica));
        }
        Some(Response::Pushed(Pushed::Taken(self.current())))
    }
}
