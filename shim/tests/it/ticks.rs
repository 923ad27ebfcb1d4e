//! A host whose clock ticks once a second, as ext4 with small inodes and FAT have it.

use crate::mem::Mem;
use crate::model::{Shown, User, settle};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wsd_shim::shadow::{Shadow, Side};
use wsd_shim::{Engine, Haste, Tree};

/// A second in which there is time for all that is to be done in one.
fn early_in_a_second() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    if now.subsec_millis() > 300 {
        std::thread::sleep(Duration::from_millis(1001 - u64::from(now.subsec_millis())));
    }
}

/// The second write moved no time, and what it wrote never came to the workspace.
#[test]
fn a_file_that_is_written_twice_in_a_second_is_read_twice() {
    for (from_work, haste) in
        [(false, Haste::Patient), (false, Haste::Now), (true, Haste::Patient), (true, Haste::Now)]
    {
        let (work, host) = (Mem::default(), Mem::default());
        host.state().is_coarse = true;
        let trees: [Arc<dyn Tree>; 2] = [Arc::new(work.clone()), Arc::new(host.clone())];
        let [one, other] = trees;
        let mut engine = Engine::new(one, other, Shadow::default(), Box::new(|_| Ok(())));
        settle(&mut engine, 0);
        early_in_a_second();
        let first = if from_work { &work } else { &host };
        first.make(b"file", &Shown::File(b"one".to_vec(), 0o644));
        settle(&mut engine, 0);
        host.state().rewrite(b"file", b"two");
        // Whoever waits for the two to be in step looks at all there is.
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until && work.all() != host.all() {
            if haste == Haste::Now {
                engine.look_at_all(Side::Host);
            }
            engine.pass(haste);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(
            work.all().get(&b"file"[..]),
            Some(&Shown::File(b"two".to_vec(), 0o644)),
            "{from_work} {haste:?}"
        );
        let waits = Instant::now() + Duration::from_secs(5);
        while engine.stats().waiting > 0 {
            engine.pass(Haste::Patient);
            std::thread::sleep(Duration::from_millis(20));
            assert!(Instant::now() < waits, "it comes to rest");
        }
    }
}
