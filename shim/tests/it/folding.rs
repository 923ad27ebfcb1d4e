//! A host on which names that differ in case only are the same, and which has no hard links.

use crate::mem::Mem;
use crate::model::{Shown, User, settle};
use std::sync::Arc;
use wsd_shim::shadow::{Shadow, Side};
use wsd_shim::tree::Outcome;
use wsd_shim::{Attributes, Changes, Engine, Facts, Fault, Kind, Stage, Tree};

/// What such a disk answers, over a tree that tells names apart.
#[derive(Clone, Default)]
struct Folding(Mem);

impl Folding {
    /// Fails where the name is there in another spelling.
    fn free(&self, path: &[u8]) -> Outcome<()> {
        let state = self.0.state();
        let is_taken = state.names.keys().any(|name| name != path && name.eq_ignore_ascii_case(path));
        if is_taken { Err(Fault::Exists) } else { Ok(()) }
    }
}

struct FoldingStage<'a>(&'a Folding, Vec<u8>, Box<dyn Stage + 'a>);

impl Stage for FoldingStage<'_> {
    fn write(&mut self, bytes: &[u8]) -> Outcome<()> {
        self.2.write(bytes)
    }
    fn place(self: Box<Self>, a: &Attributes, replaces: Option<&Facts>, keep: bool) -> Outcome<Facts> {
        self.0.free(&self.1)?;
        self.2.place(a, replaces, keep)
    }
}

impl Tree for Folding {
    fn list(&self, dir: &[u8]) -> Outcome<Vec<(Vec<u8>, Facts)>> {
        self.0.list(dir)
    }
    fn look(&self, path: &[u8]) -> Outcome<Option<Facts>> {
        self.0.look(path)
    }
    fn read(&self, path: &[u8], f: &Facts, each: &mut dyn FnMut(&[u8]) -> Outcome<()>) -> Outcome<Facts> {
        self.0.read(path, f, each)
    }
    fn target(&self, path: &[u8]) -> Outcome<Vec<u8>> {
        self.0.target(path)
    }
    fn stage<'a>(&'a self, path: &[u8]) -> Outcome<Box<dyn Stage + 'a>> {
        Ok(Box::new(FoldingStage(self, path.to_vec(), self.0.stage(path)?)))
    }
    fn make_dir(&self, path: &[u8], a: &Attributes) -> Outcome<Facts> {
        self.free(path)?;
        self.0.make_dir(path, a)
    }
    fn make_symlink(&self, path: &[u8], target: &[u8], a: &Attributes, r: Option<&Facts>) -> Outcome<Facts> {
        self.free(path)?;
        self.0.make_symlink(path, target, a, r)
    }
    fn link(&self, _: &[u8], _: &[u8], _: Option<&Facts>) -> Outcome<Facts> {
        Err(Fault::Unfit("there are no hard links here".into()))
    }
    fn rename(&self, from: &[u8], to: &[u8], expected: &Facts) -> Outcome<Facts> {
        if !from.eq_ignore_ascii_case(to) {
            self.free(to)?;
        }
        Tree::rename(&self.0, from, to, expected)
    }
    fn remove(&self, path: &[u8], expected: &Facts) -> Outcome<()> {
        self.0.remove(path, expected)
    }
    fn set(&self, path: &[u8], attributes: &Attributes, expected: &Facts) -> Outcome<Facts> {
        self.0.set(path, attributes, expected)
    }
    fn changes(&self) -> Changes {
        self.0.changes()
    }
    fn sync(&self) -> Outcome<()> {
        Ok(())
    }
    fn unfit(&self, _: &[u8], facts: &Facts) -> Option<String> {
        (facts.kind == Kind::Other).then(|| "a device".into())
    }
}

fn file(bytes: &[u8]) -> Shown {
    Shown::File(bytes.to_vec(), 0o644)
}

#[test]
fn names_that_differ_in_case_only_stay_in_the_workspace_and_are_listed() {
    let (work, host) = (Mem::default(), Folding::default());
    work.make(b"README", &file(b"loud"));
    settle(&mut engine(&work, &host), 0);
    let mut engine = engine(&work, &host);
    work.make(b"Readme", &file(b"plain"));
    work.make(b"src", &Shown::Dir(0o755));
    work.make(b"src/a", &file(b"a"));
    settle(&mut engine, 0);
    work.make(b"SRC", &Shown::Dir(0o755));
    work.make(b"SRC/b", &file(b"b"));
    rest(&mut engine);
    let names = |tree: &Mem| -> Vec<String> {
        tree.all().keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    };
    assert_eq!(names(&host.0), ["README", "src", "src/a"]);
    assert_eq!(names(&work), ["README", "Readme", "SRC", "SRC/b", "src", "src/a"]);
    let stats = engine.stats();
    let listed: Vec<_> = stats.left_out_list.iter().map(|(path, _)| &path[..]).collect();
    assert!(listed.contains(&&b"Readme"[..]) && listed.contains(&&b"SRC"[..]), "{stats:?}");
    // Looking at all of it again changes nothing, and removes nothing.
    engine.look_at_all(Side::Host);
    engine.look_at_all(Side::Work);
    rest(&mut engine);
    assert_eq!((names(&host.0).len(), names(&work).len()), (3, 6));
    // Once the name is free it is written out.
    User::rename(&work, b"README", b"NOTES");
    engine.look_at_all(Side::Work);
    rest(&mut engine);
    assert_eq!(names(&host.0), ["NOTES", "Readme", "src", "src/a"]);
    assert_eq!(host.0.all()[&b"Readme"[..]], file(b"plain"));
}

#[test]
fn without_hard_links_there_are_copies_which_are_kept_equal() {
    let (work, host) = (Mem::default(), Folding::default());
    let mut engine = engine(&work, &host);
    work.make(b"a", &file(b"one"));
    User::link(&work, b"a", b"b");
    settle(&mut engine, 0);
    assert_eq!(host.0.all()[&b"b"[..]], file(b"one"));
    User::rewrite(&work, b"b", b"two!");
    settle(&mut engine, 0);
    assert_eq!((&host.0.all()[&b"a"[..]], &host.0.all()[&b"b"[..]]), (&file(b"two!"), &file(b"two!")));
    // On the host they are two: the edit of one is not that of the other.
    User::rewrite(&host.0, b"a", b"three");
    settle(&mut engine, 0);
    for tree in [&work, &host.0] {
        assert_eq!((&tree.all()[&b"a"[..]], &tree.all()[&b"b"[..]]), (&file(b"three"), &file(b"two!")));
    }
}

/// Until what cannot be done has been tried often enough.
fn rest(engine: &mut Engine) {
    (0..20).for_each(|_| settle(engine, 0));
}

fn engine(work: &Mem, host: &Folding) -> Engine {
    Engine::new(Arc::new(work.clone()), Arc::new(host.clone()), Shadow::default(), Box::new(|_| Ok(())))
}
