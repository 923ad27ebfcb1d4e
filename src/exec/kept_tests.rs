//! How long commands are remembered, and what they wait for: real processes, in a plain directory.

use super::tests::{Still, hear, settings, sh, store};
use super::*;
use crate::store::Store;
use futures::FutureExt;
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tempfile::TempDir;
use tokio::runtime::Runtime;

struct House {
    runtime: Runtime,
    execs: Arc<Execs>,
    still: Arc<Still>,
    store: Arc<Store>,
    dir: TempDir,
}

impl House {
    fn new(remembered: usize, age: Duration) -> Self {
        let (dir, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
        let store = store(&dir);
        let settings = Settings { remembered, age, ..settings(&dir, 1 << 20) };
        let still = Arc::new(Still::default());
        let around = Arc::clone(&still) as Arc<dyn Surroundings>;
        let execs = Execs::open(settings, Arc::clone(&store), around, runtime.handle().clone()).unwrap();
        Self { runtime, execs, still, store, dir }
    }

    fn run(&self, id: &str) {
        self.runtime.block_on(async {
            let spec = Spec { id: id.to_owned(), ..sh("echo said") };
            hear(&mut self.execs.run(spec).await.unwrap().1).await;
        });
    }

    /// Sorted: the clock of a machine that is busy may go back.
    fn known(&self) -> Vec<String> {
        let mut known: Vec<String> = self.execs.list().iter().map(|command| command.id.clone()).collect();
        known.sort();
        known
    }

    /// The commands in the store.
    fn stored(&self) -> Vec<String> {
        self.store.execs(self.store.workspace()).unwrap().into_iter().map(|row| row.id).collect()
    }

    fn has_output_of(&self, id: &str) -> bool {
        !self.store.exec_events(self.store.workspace(), id).unwrap().is_empty()
    }

    fn eventually(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}: {:?}, {:?}", self.known(), self.stored());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn so_many_are_remembered_and_the_oldest_go_first() {
    let house = House::new(2, AGE);
    for id in ["a", "b", "c", "d"] {
        house.run(id);
    }
    house.eventually("two are left", || house.known() == ["c", "d"] && house.stored() == ["c", "d"]);
    assert!(!house.has_output_of("b") && house.has_output_of("c"));
    let old = Spec { id: "old".into(), ..sh("sleep 60") };
    house.runtime.block_on(async { house.execs.run(old).await.unwrap() });
    for id in ["e", "f"] {
        house.run(id);
    }
    house.eventually("what runs is kept beside them", || house.known() == ["e", "f", "old"]);
    house.runtime.block_on(house.execs.close());
}

#[test]
fn what_ended_long_ago_is_forgotten_even_if_nothing_happens() {
    let house = House::new(REMEMBERED, Duration::from_millis(700));
    house.run("short");
    house.eventually("it is stored", || house.stored() == ["short"]);
    house.eventually("it is forgotten", || house.known().is_empty() && house.stored().is_empty());
    // Ended longer ago than that when the daemon starts.
    house.run("older");
    house.eventually("it is stored", || house.stored() == ["older"]);
    house.runtime.block_on(house.execs.close());
    std::thread::sleep(Duration::from_millis(700));
    let settings = Settings { age: Duration::from_millis(700), ..settings(&house.dir, 1 << 20) };
    let around = Arc::clone(&house.still) as Arc<dyn Surroundings>;
    let execs =
        Execs::open(settings, Arc::clone(&house.store), around, house.runtime.handle().clone()).unwrap();
    house.eventually("it is forgotten", || execs.list().is_empty() && house.stored().is_empty());
}

/// The keeper had taken note of the end of a command and was about to store it; meanwhile the command was disposed of, and
/// was there again after the next start.
#[test]
fn what_is_disposed_of_at_its_end_does_not_come_back() {
    let house = House::new(REMEMBERED, AGE);
    for round in 0..3 {
        let held = house.still.held.lock();
        let before = house.still.asked.load(Ordering::Relaxed);
        let id = format!("gone{round}");
        house.run(&id);
        house.eventually("the keeper is at it", || house.still.asked.load(Ordering::Relaxed) > before);
        let execs = Arc::clone(&house.execs);
        let disposing = house.runtime.spawn(async move { execs.dispose(&id).await });
        std::thread::sleep(Duration::from_millis(50));
        drop(held);
        house.runtime.block_on(disposing).unwrap().unwrap();
    }
    house.run("last");
    house.eventually("the last is stored", || house.stored().contains(&"last".to_owned()));
    assert_eq!((house.known(), house.stored()), (vec!["last".to_owned()], vec!["last".to_owned()]));
    assert!(!house.has_output_of("gone0"));
    let twice = house
        .runtime
        .block_on(async { tokio::join!(house.execs.dispose("last"), house.execs.dispose("last")) });
    assert!(matches!(twice, (Ok(()), Err(ExecError::Unknown(_))) | (Err(ExecError::Unknown(_)), Ok(()))));
}

#[test]
fn who_cannot_pull_does_not_run_and_who_cannot_push_is_told() {
    let house = House::new(REMEMBERED, AGE);
    house.runtime.block_on(async {
        let pull = Spec { pull: true, id: "p".into(), ..sh("touch ran") };
        assert!(matches!(house.execs.run(pull).await.err(), Some(ExecError::Behind(why)) if why.contains("nobody")));
        assert!(!house.dir.path().join("ws/ran").exists() && house.execs.list().is_empty());
        let push = Spec { push: true, sync_timeout: Some(Duration::from_millis(200)), ..sh("exit 3") };
        let exit = hear(&mut house.execs.run(push).await.unwrap().1).await.exit.unwrap();
        assert_eq!((exit.how, exit.not_upstream.as_deref()), (How::Code(3), Some("it took too long")));
        // Without a limit it waits until somebody has had enough.
        let push = Spec { push: true, sync_timeout: None, id: "waits".into(), ..sh("exit 4") };
        let (command, mut reader) = house.execs.run(push).await.unwrap();
        while house.still.pushes.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(command.exit().is_none(), "it counts as running");
        assert!(house.execs.kill("waits", Signal::TERM, None).await.unwrap());
        let exit = hear(&mut reader).await.exit.unwrap();
        assert!(exit.how == How::Code(4) && exit.not_upstream.unwrap().contains("was ended"));
    });
    house.eventually("it is stored", || house.stored().len() == 2);
    house.runtime.block_on(house.execs.close());
    let again = Execs::open(
        settings(&house.dir, 1 << 20),
        Arc::clone(&house.store),
        Arc::clone(&house.still) as Arc<dyn Surroundings>,
        house.runtime.handle().clone(),
    );
    let exit = again.unwrap().get("waits").unwrap().exit().unwrap();
    assert!(exit.how == How::Code(4) && exit.not_upstream.unwrap().contains("was ended"), "it is kept");
}

/// A process that was being started for somebody who left was no command's: it was not listed, and `kill` did not reach it.
#[test]
fn who_leaves_while_a_command_starts_or_is_killed_leaves_nothing_half_done() {
    let house = House::new(REMEMBERED, AGE);
    house.runtime.block_on(async {
        for round in 0..20 {
            let spec =
                Spec { id: format!("left{round:02}"), ..sh("trap '' TERM; touch $WSD_EXEC_ID; sleep 60") };
            assert!(house.execs.run(spec).now_or_never().is_none());
        }
    });
    let ran = |id: &String| house.dir.path().join("ws").join(id).exists();
    house.eventually("all are commands and run", || {
        house.known().len() == 20 && house.known().iter().all(ran)
    });
    house.runtime.block_on(async {
        for id in house.known() {
            let grace = Some(Duration::from_secs(1));
            assert!(house.execs.kill(&id, Signal::TERM, grace).now_or_never().is_none());
        }
    });
    house.eventually("all are ended", || house.execs.count() == (20, 0));
}

/// It was ended by the first thing that it said, because nobody read that.
#[test]
fn what_is_left_running_may_say_something_but_not_outlive_its_time() {
    let house = House::new(REMEMBERED, AGE);
    let place = house.dir.path().join("ws");
    let detached = |line: &str| Spec { detach: true, output_grace: Duration::from_millis(200), ..sh(line) };
    house.runtime.block_on(async {
        let line = "(until [ -e go ]; do sleep 0.1; done; head -c 200000 /dev/zero; touch said) & echo left";
        let exit = hear(&mut house.execs.run(detached(line)).await.unwrap().1).await.exit.unwrap();
        assert!(exit.output_cut);
        std::fs::write(place.join("go"), "").unwrap();
        // What does not hear and holds no output open.
        let line = "(trap '' TERM; exec >/dev/null 2>&1; echo $$ >deaf; sleep 600) & sleep 600";
        for timeout in [Some(Duration::from_millis(500)), None] {
            let spec = Spec { timeout, id: "deaf".to_owned(), ..detached(line) };
            let (_, mut reader) = house.execs.run(spec).await.unwrap();
            while !place.join("deaf").exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if timeout.is_none() {
                house.execs.kill("deaf", Signal::TERM, Some(Duration::from_millis(500))).await.unwrap();
            }
            assert_eq!(hear(&mut reader).await.exit.unwrap().how, How::Signal(15));
            let command = house.execs.get("deaf").unwrap();
            tokio::time::timeout(Duration::from_secs(5), command.see_off(AGE)).await.unwrap();
            house.execs.dispose("deaf").await.unwrap();
            std::fs::remove_file(place.join("deaf")).unwrap();
        }
    });
    house.eventually("all of it was said", || place.join("said").exists());
}

/// The next command of that id was taken for what was left of the one that had been killed.
#[test]
fn a_command_that_is_killed_takes_no_other_with_it_that_has_its_id_later() {
    let house = House::new(REMEMBERED, AGE);
    let named = |line: &str| Spec { id: "again".to_owned(), ..sh(line) };
    house.runtime.block_on(async {
        let line = "trap 'sleep 0.4; exit' TERM; echo ready; while :; do sleep 0.01; done";
        let (_, mut reader) = house.execs.run(named(line)).await.unwrap();
        reader.next(1, Duration::from_secs(20)).await.unwrap();
        house.execs.kill("again", Signal::TERM, Some(Duration::from_secs(2))).await.unwrap();
        assert!(hear(&mut reader).await.exit.is_some());
        house.execs.dispose("again").await.unwrap();
        let (_, mut reader) = house.execs.run(named("sleep 3")).await.unwrap();
        assert_eq!(hear(&mut reader).await.exit.unwrap().how, How::Code(0));
    });
}

/// All that it had said was held for as long as what it had left running held its output open.
#[test]
fn what_is_left_running_holds_nothing_of_a_command_that_is_forgotten() {
    let house = House::new(REMEMBERED, AGE);
    let line = "sleep 600 & echo $! >left";
    let spec =
        Spec { detach: true, output_grace: Duration::from_millis(100), id: "left".to_owned(), ..sh(line) };
    let command = house.runtime.block_on(async {
        let (command, mut reader) = house.execs.run(spec).await.unwrap();
        assert!(hear(&mut reader).await.exit.unwrap().output_cut);
        house.execs.dispose("left").await.unwrap();
        Arc::downgrade(&command)
    });
    house.eventually("it is let go of", || command.upgrade().is_none());
    let left = std::fs::read_to_string(house.dir.path().join("ws/left")).unwrap();
    let left = rustix::process::Pid::from_raw(left.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(left, Signal::KILL).unwrap();
}
