//! What a replica is told that comes while something of it is under way.

use super::*;
use crate::store::sync::SyncChange;
use crate::store::{Location, Store};
use crate::vfs::{Options, Vfs};
use std::path::Path;
use std::time::{Duration, Instant};

/// It is restored from an old copy while the hub is still busy with what it has pushed. It would never be told of that.
#[test]
fn a_copy_that_says_hello_during_the_last_push_of_its_original_is_found_out() {
    let store = Arc::new(Store::open(&Location::Memory, Path::new("/nowhere")).unwrap());
    let vfs = Vfs::open(Arc::clone(&store), Options::default()).unwrap();
    let hub = Hub::new(Arc::new(Site::open(vfs, store).unwrap()));
    let (old, new) = (Author([1; 16]), Author([2; 16]));
    let hello = Hello {
        replica: ReplicaId([7; 16]),
        label: "original".to_owned(),
        workspace: String::new(),
        empty: true,
        merge: false,
        cursor: None,
        heard: None,
        lives: vec![(old, 0)],
    };
    let (_, peer) = hub.hello(&hello).unwrap();
    let pushing = hub.pushing.lock();
    let copy = Hello { label: "copy".to_owned(), lives: vec![(new, 5), (old, 0)], ..hello };
    std::thread::scope(|scope| {
        let met = scope.spawn(|| hub.hello(&copy).unwrap());
        // There it waits for the push.
        let deadline = Instant::now() + Duration::from_millis(200);
        while Instant::now() < deadline && !met.is_finished() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let taken = TakenRow { pushed: 9, life: old.0, taken: None, seen: 0 };
        let id = hub.known(peer.id).unwrap().unwrap().id;
        let change = SyncChange { taken: [(id, taken)].into(), ..SyncChange::default() };
        hub.site.vfs.note_sync(change);
        drop(pushing);
        let (welcome, _) = met.join().unwrap();
        assert!(welcome.stale, "{welcome:?}");
    });
}
