//! A large tree in which next to nothing happens, and nobody tells: how soon it is seen, and what that costs.

use crate::hostile::engine;
use crate::mem::Mem;
use crate::model::{Shown, settle};
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use wsd_shim::{Engine, Haste};

const DIRS: usize = 400;
const FILES: usize = 25;

/// What a tick of 250 ms may take at 8.5 per mille.
const BUDGET: Duration = Duration::from_micros(2125);

fn busy() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

fn dir(root: &Path, number: usize) -> std::path::PathBuf {
    root.join(format!("d{}/e{number}", number % 20))
}

fn file(root: &Path, number: usize) -> std::path::PathBuf {
    dir(root, number / FILES).join(format!("f{}", number % FILES))
}

/// Looks around until the workspace has something; how often it looked, and how long that took altogether.
fn until(engine: &mut Engine, is_so: impl Fn() -> bool) -> (u32, Duration) {
    let (mut ticks, mut spent) = (0, Duration::ZERO);
    while !is_so() {
        let begin = busy();
        engine.look_around(BUDGET);
        spent += busy() - begin;
        ticks += 1;
        engine.pass(Haste::Now);
        assert!(ticks < 400, "it is not seen");
    }
    (ticks, spent)
}

#[test]
fn an_edit_in_place_and_a_new_name_are_seen_soon_at_a_fixed_cost() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path();
    for number in 0..DIRS {
        fs::create_dir_all(dir(root, number)).unwrap();
        (0..FILES).for_each(|at| fs::write(file(root, number * FILES + at), b"before").unwrap());
    }
    // Older than what may still be written to in the same tick of the clock.
    std::thread::sleep(Duration::from_millis(50));
    let work = Mem::default();
    let mut engine = engine(&work, root);
    settle(&mut engine, 0);
    let has = |path: &str, bytes: &[u8]| {
        let state = work.state();
        let node = state.names.get(path.as_bytes()).map(|id| &state.nodes[id]);
        node.is_some_and(|node| node.bytes == bytes)
    };
    let path = |number: usize| file(Path::new(""), number).to_str().unwrap().to_owned();
    // Nothing to see, and no more spent than there is to spend. Rounds that are slower than they should be are for when
    // others need the machine, so there is some room.
    let begin = busy();
    (0..100).for_each(|_| engine.look_around(BUDGET));
    assert!(busy() - begin < 130 * BUDGET, "{:?}", (busy() - begin) / 100);
    assert!(!engine.pass(Haste::Now).again && engine.stats().waiting == 0);
    for (round, number) in [4_321, 9_999, 0].into_iter().enumerate() {
        let mut edited = fs::File::options().write(true).open(file(root, number)).unwrap();
        edited.write_all(b"after!").unwrap();
        drop(edited);
        // 10,000 files, 2 us each, at 1.6 ms a tick: thirteen, and as many again for those that were passed already.
        let (ticks, _) = until(&mut engine, || has(&path(number), b"after!"));
        assert!(ticks < 80, "an edit in place was seen after {ticks} ticks");
        let name = dir(root, 77 + round).join("new");
        fs::write(&name, b"new").unwrap();
        let relative = name.strip_prefix(root).unwrap().to_str().unwrap();
        let (ticks, _) = until(&mut engine, || has(relative, b"new"));
        assert!(ticks < 20, "a new name was seen after {ticks} ticks");
    }
    assert_eq!(Shown::File(b"after!".to_vec(), 0o644), crate::model::User::all(&work)[path(0).as_bytes()]);
    // What was edited is edited again: that is looked at once a second.
    std::thread::sleep(Duration::from_millis(1100));
    fs::write(file(root, 4_321), b"again!").unwrap();
    let (ticks, _) = until(&mut engine, || has(&path(4_321), b"again!"));
    assert!(ticks <= 2, "{ticks} ticks");
}
