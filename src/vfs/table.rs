//! The nodes in memory, and who else holds them.
//!
//! A cache over the store that is also the truth about everything not yet stored: dirty nodes and orphans stay
//! in it, clean ones may go. It also counts the pins: how often the kernel (or a handle) was told of a node. A
//! pin does not keep a node in memory; it keeps a node without a name alive.

use super::node::Node;
use crate::store::rows::Ino;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const SHARDS: usize = 64;

#[derive(Debug)]
pub(super) struct NodeTable {
    shards: Vec<Mutex<Shard>>,
    nodes: AtomicUsize,
}

#[derive(Debug, Default)]
struct Shard {
    nodes: HashMap<Ino, Arc<Node>>,
    pins: HashMap<Ino, Pins>,
    /// Counts evictions. What was read from the store before one may be stale after it.
    evictions: u64,
}

/// Who holds a node.
#[derive(Clone, Copy, Debug, Default)]
struct Pins {
    /// How often the kernel was told of it.
    kernel: u64,
    /// How many handles of ours there are.
    handles: u64,
}

impl NodeTable {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), nodes: AtomicUsize::new(0) }
    }

    fn shard(&self, ino: Ino) -> &Mutex<Shard> {
        &self.shards[ino as usize % SHARDS]
    }

    pub(super) fn get(&self, ino: Ino) -> Option<Arc<Node>> {
        let node = self.shard(ino).lock().nodes.get(&ino).cloned()?;
        node.used.store(true, Ordering::Relaxed);
        Some(node)
    }

    /// To be read before the store is, and given to [`NodeTable::insert_stored`].
    pub(super) fn evictions(&self, ino: Ino) -> u64 {
        self.shard(ino).lock().evictions
    }

    /// Adds a node made of what the store had. Returns the one that was there already, if one was; `None` when
    /// what was read may be stale.
    pub(super) fn insert_stored(&self, node: Node, evictions: u64) -> Option<Arc<Node>> {
        let mut shard = self.shard(node.ino).lock();
        if let Some(present) = shard.nodes.get(&node.ino) {
            return Some(Arc::clone(present));
        }
        (shard.evictions == evictions).then(|| self.add(&mut shard, Arc::new(node)))
    }

    pub(super) fn insert_new(&self, node: Node) -> Arc<Node> {
        let mut shard = self.shard(node.ino).lock();
        self.add(&mut shard, Arc::new(node))
    }

    /// Adds a node that somebody made.
    pub(super) fn insert_made(&self, node: &Arc<Node>) {
        let mut shard = self.shard(node.ino).lock();
        self.add(&mut shard, Arc::clone(node));
    }

    fn add(&self, shard: &mut Shard, node: Arc<Node>) -> Arc<Node> {
        self.nodes.fetch_add(1, Ordering::Relaxed);
        shard.nodes.insert(node.ino, Arc::clone(&node));
        node
    }

    /// Forgets a node that is gone from the store too.
    pub(super) fn remove(&self, ino: Ino) {
        let mut shard = self.shard(ino).lock();
        if shard.nodes.remove(&ino).is_some() {
            shard.evictions += 1;
            self.nodes.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.load(Ordering::Relaxed)
    }

    /// The kernel was told of the node.
    pub(super) fn pin(&self, ino: Ino) {
        self.shard(ino).lock().pins.entry(ino).or_default().kernel += 1;
    }

    /// Takes back `count` pins of the kernel; true when nobody holds the node any more.
    pub(super) fn unpin(&self, ino: Ino, count: u64) -> bool {
        self.let_go(ino, |pins| pins.kernel = pins.kernel.saturating_sub(count))
    }

    /// A handle of ours.
    pub(super) fn hold(&self, ino: Ino) {
        self.shard(ino).lock().pins.entry(ino).or_default().handles += 1;
    }

    /// Takes back a handle; true when nobody holds the node any more.
    pub(super) fn release(&self, ino: Ino) -> bool {
        self.let_go(ino, |pins| pins.handles = pins.handles.saturating_sub(1))
    }

    fn let_go(&self, ino: Ino, change: impl FnOnce(&mut Pins)) -> bool {
        let mut shard = self.shard(ino).lock();
        let Some(pins) = shard.pins.get_mut(&ino) else { return true };
        change(pins);
        if pins.kernel > 0 || pins.handles > 0 {
            return false;
        }
        shard.pins.remove(&ino);
        true
    }

    /// Whether anybody holds the node.
    pub(super) fn is_pinned(&self, ino: Ino) -> bool {
        self.shard(ino).lock().pins.contains_key(&ino)
    }

    /// Whether the kernel was told of the node and has not forgotten it.
    pub(super) fn is_known(&self, ino: Ino) -> bool {
        self.shard(ino).lock().pins.get(&ino).is_some_and(|pins| pins.kernel > 0)
    }

    pub(super) fn pinned(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().pins.len()).sum()
    }

    /// Lets go of clean nodes that nobody uses, until about `excess` bytes are free: first of those that were
    /// not looked at since the last time. Returns how many could not be freed.
    pub(super) fn evict(&self, mut excess: usize) -> usize {
        for shard in self.shards.iter().chain(&self.shards) {
            let mut shard = shard.lock();
            let before = shard.nodes.len();
            shard.nodes.retain(|_, node| {
                let idle = excess > 0 && !node.used.swap(false, Ordering::Relaxed);
                let evict = idle && Arc::strong_count(node) == 1 && node.is_clean();
                if evict {
                    excess = excess.saturating_sub(node.footprint());
                }
                !evict
            });
            let evicted = before - shard.nodes.len();
            shard.evictions += evicted as u64;
            self.nodes.fetch_sub(evicted, Ordering::Relaxed);
            if shard.nodes.capacity() > 4 * shard.nodes.len() + 1024 {
                shard.nodes.shrink_to_fit();
            }
            if excess == 0 {
                break;
            }
        }
        excess
    }

    /// Approximate memory of all nodes, bytes; looks at every node, so not for hot paths.
    pub(super) fn footprint(&self) -> usize {
        let of_shard = |shard: &Mutex<Shard>| -> usize {
            let shard = shard.lock();
            shard.nodes.values().map(|node| node.footprint()).sum::<usize>() + shard.pins.len() * 24
        };
        self.shards.iter().map(of_shard).sum()
    }
}
