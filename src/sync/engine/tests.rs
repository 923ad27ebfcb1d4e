use super::*;
use crate::sync::Author;
use crate::sync::entry::ReplicaId;

fn at(revision: Revision) -> Cursor {
    Cursor { life: Author([1; 16]), revision, listed: 0 }
}

/// The number of the question for changes among the effects, and whether it may be held.
fn asked(effects: &[Effect]) -> Option<(Call, bool)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Pull { call, wait, .. } => Some((*call, wait.is_some())),
        _ => None,
    })
}

fn released(effects: &[Effect]) -> Vec<(u64, bool)> {
    let released = |effect: &Effect| match effect {
        Effect::Release { waiter, outcome } => Some((*waiter, outcome.is_ok())),
        _ => None,
    };
    effects.iter().filter_map(released).collect()
}

/// What a hub says to one that it knows.
fn welcome() -> Welcome {
    Welcome {
        workspace: "w".into(),
        hub: ReplicaId([2; 16]),
        current: at(5),
        resumes: true,
        stale: false,
        restored: false,
        taken: None,
        pushed: 0,
    }
}

/// An engine that has been told of everything, and its question that the hub holds.
fn up() -> (Engine, Call) {
    let mut engine = Engine::new(Timing::default());
    let began = Event::Began { cursor: Some(at(5)), known: true, unanswered: false, pushed: 9, revision: 9 };
    let effects = engine.on(began);
    let Some(Effect::Dial { call, .. }) = effects.first() else { panic!("{effects:?}") };
    let (call, held) = asked(&engine.on(Event::Welcomed { call: *call, welcome: welcome() })).unwrap();
    assert!(!held);
    let effects = tell(&mut engine, call, 5, 0, false);
    let (call, held) = asked(&effects).unwrap();
    assert!(held && engine.is_caught_up());
    (engine, call)
}

/// A portion comes and is applied.
fn tell(engine: &mut Engine, call: Call, up_to: Revision, entries: u64, more: bool) -> Vec<Effect> {
    let portion = Event::Pulled { call, up_to: at(up_to), more, reset: false, entries, bytes: 0 };
    let effects = engine.on(portion);
    let apply = effects.iter().find_map(|effect| match effect {
        Effect::Apply { call, .. } => Some(*call),
        _ => None,
    });
    engine.on(Event::Applied { call: apply.unwrap(), conflicts: 0 })
}

#[test]
fn who_catches_up_waits_for_the_answer_to_a_new_question() {
    let (mut engine, held) = up();
    let effects = engine.on(Event::Catch { waiter: 1 });
    let (call, may_be_held) = asked(&effects).unwrap();
    assert!(!may_be_held && released(&effects).is_empty() && call != held);
    assert!(
        engine
            .on(Event::Pulled { call: held, up_to: at(5), more: false, reset: false, entries: 0, bytes: 0 })
            .is_empty()
    );
    // All portions of it, not the first one.
    let effects = tell(&mut engine, call, 7, 3, true);
    assert!(released(&effects).is_empty() && !engine.is_caught_up());
    let effects = tell(&mut engine, asked(&effects).unwrap().0, 8, 1, false);
    assert_eq!(released(&effects), [(1, true)]);
    assert!(engine.is_caught_up() && asked(&effects).unwrap().1);
}

#[test]
fn what_is_in_hand_was_asked_for_before() {
    let (mut engine, held) = up();
    let portion = Event::Pulled { call: held, up_to: at(6), more: false, reset: false, entries: 1, bytes: 0 };
    let effects = engine.on(portion);
    let Some(Effect::Apply { call, .. }) = effects.first() else { panic!("{effects:?}") };
    assert!(engine.on(Event::Catch { waiter: 1 }).is_empty());
    let effects = engine.on(Event::Applied { call: *call, conflicts: 0 });
    assert!(released(&effects).is_empty());
    let effects = tell(&mut engine, asked(&effects).unwrap().0, 6, 0, false);
    assert_eq!(released(&effects), [(1, true)]);
}

#[test]
fn who_catches_up_hears_when_there_is_no_use_waiting_and_waits_through_a_cut() {
    let (mut engine, _) = up();
    let call = asked(&engine.on(Event::Catch { waiter: 1 })).unwrap().0;
    let effects = engine.on(Event::Lost { call, error: "gone".into(), random: 0 });
    assert!(released(&effects).is_empty());
    engine.on(Event::Catch { waiter: 2 });
    engine.on(Event::Unflush { waiter: 2 });
    assert_eq!(released(&engine.on(Event::Pause)), [(1, false)]);
    assert_eq!(released(&engine.on(Event::Catch { waiter: 3 })), [(3, false)]);
}

#[test]
fn who_is_in_a_hurry_has_it_tried_at_once_and_hears_that_it_did_not_work() {
    let (mut engine, _) = up();
    engine.on(Event::LocalChanged { revision: 12 });
    let call = asked(&engine.on(Event::Catch { waiter: 1 })).unwrap().0;
    engine.on(Event::Lost { call, error: "gone".into(), random: 0 });
    // One that is patient, and one that is not.
    engine.on(Event::Flush { waiter: 2, revision: 12 });
    engine.on(Event::Flush { waiter: 3, revision: 12 });
    let effects = engine.on(Event::Hurry { waiter: 3 });
    let Some(Effect::Dial { call, .. }) = effects.first() else { panic!("{effects:?}") };
    let effects = engine.on(Event::Lost { call: *call, error: "refused".into(), random: 0 });
    assert_eq!(released(&effects), [(3, false)]);
    assert!(
        effects.iter().any(|effect| matches!(effect, Effect::Wake { .. })),
        "it goes on trying: {effects:?}"
    );
}

/// What is told of a push that is under way: it fails. Returns how long nothing is done, and what comes after.
fn fail(engine: &mut Engine, effects: &[Effect]) -> (Duration, Vec<Effect>) {
    let push = effects.iter().find_map(|effect| match effect {
        Effect::Push { call, .. } => Some(*call),
        _ => None,
    });
    let effects = engine.on(Event::Failed { call: push.unwrap(), error: "full".into(), random: 0 });
    let [Effect::Wake { call, after }] = effects[..] else { panic!("{effects:?}") };
    let (pull, held) = asked(&engine.on(Event::Woke { call })).unwrap();
    assert!(!held);
    (after, tell(engine, pull, 5, 0, false))
}

#[test]
fn what_became_of_a_push_that_failed_is_found_out_before_the_next() {
    let (mut engine, _) = up();
    engine.on(Event::LocalChanged { revision: 10 });
    let mut effects = engine.on(Event::Flush { waiter: 1, revision: 10 });
    let mut waited = Duration::ZERO;
    for _ in 0..5 {
        let (after, then) = fail(&mut engine, &effects);
        assert!(after > waited, "it is tried more often");
        waited = after;
        let recover = then.iter().find_map(|effect| match effect {
            Effect::Recover { call } => Some(*call),
            _ => None,
        });
        effects = engine.on(Event::Applied { call: recover.expect("nothing is found out"), conflicts: 0 });
        assert_eq!(engine.status().last_error.as_deref(), Some("full"));
    }
}

#[test]
fn pushing_does_not_make_good_that_applying_fails() {
    let (mut engine, mut held) = up();
    let mut waited = Duration::ZERO;
    for round in 0..5 {
        let portion =
            Event::Pulled { call: held, up_to: at(9), more: false, reset: false, entries: 1, bytes: 0 };
        let effects = engine.on(portion);
        let Some(Effect::Apply { call, .. }) = effects.first() else { panic!("{effects:?}") };
        let failed = Event::Failed { call: *call, error: "no room here".into(), random: 0 };
        let effects = engine.on(failed);
        let [Effect::Wake { call: rested, after }] = effects[..] else { panic!("{effects:?}") };
        assert!(after > waited, "it is tried more often");
        waited = after;
        engine.on(Event::LocalChanged { revision: 10 + round });
        engine.on(Event::Flush { waiter: 1, revision: 10 + round });
        let effects = engine.on(Event::Woke { call: rested });
        let push = effects.iter().find_map(|effect| match effect {
            Effect::Push { call, .. } => Some(*call),
            _ => None,
        });
        let pushed = Event::Pushed { call: push.unwrap(), revision: 10 + round, cursor: Some(at(9)) };
        held = asked(&engine.on(pushed)).unwrap().0;
        assert_eq!(engine.status().last_error.as_deref(), Some("no room here"));
    }
}

/// Nodes that a push was refused for cannot be read, the connection is lost, and then news say what had to be known.
#[test]
fn what_need_not_be_read_any_more_is_no_trouble() {
    let (mut engine, _) = up();
    let find = |effects: &[Effect], wanted: fn(&Effect) -> Option<Call>| effects.iter().find_map(wanted);
    let push = |effects: &[Effect]| {
        find(effects, |effect| match effect {
            Effect::Push { call, .. } => Some(*call),
            _ => None,
        })
    };
    engine.on(Event::LocalChanged { revision: 10 });
    let call = push(&engine.on(Event::Flush { waiter: 1, revision: 10 })).unwrap();
    let effects = engine.on(Event::PushRefused { call, ids: vec![NodeId::ROOT], random: 0 });
    let effects = tell(&mut engine, asked(&effects).unwrap().0, 5, 0, false);
    let read = find(&effects, |effect| match effect {
        Effect::Read { call, .. } => Some(*call),
        _ => None,
    });
    let effects = engine.on(Event::Failed { call: read.unwrap(), error: "unreadable".into(), random: 0 });
    let held = asked(&effects);
    assert_eq!((held, engine.status().last_error.as_deref()), (None, Some("unreadable")));
    engine.on(Event::Pause);
    let effects = engine.on(Event::Resume);
    let Some(Effect::Dial { call, .. }) = effects.last() else { panic!("{effects:?}") };
    let pull = asked(&engine.on(Event::Welcomed { call: *call, welcome: welcome() })).unwrap().0;
    let call = push(&tell(&mut engine, pull, 6, 1, false)).unwrap();
    engine.on(Event::Pushed { call, revision: 10, cursor: Some(at(7)) });
    assert_eq!(engine.status().last_error, None);
}
