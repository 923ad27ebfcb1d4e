//! Replicas and a hub over real trees, without a wire between them.

mod bytes;
mod chain;
mod ignored;
mod restored;

use super::{Control, Dial, Replica, Settings};
use crate::store::rows::{Ino, Kind, ROOT, Revision};
use crate::store::{Location, Store};
use crate::sync::hub::{Hub, Peer};
use crate::sync::ignore::Ignore;
use crate::sync::link::{
    Answer, Hello, LinkError, Object, Portion, Pushed, Told, Upstream, Watermark, Welcome,
};
use crate::sync::site::Site;
use crate::sync::status::LinkState;
use crate::sync::{Author, Cursor, Entry, Hash, NodeId, Offer};
use crate::vfs::{Caller, NewNode, Options, RenameMode, SetAttr, SetTime, SetXattr, Vfs};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Questions for changes that may be under way at once.
const PULLS: usize = 100;

/// A way to a hub that can be cut.
#[derive(Clone)]
struct Way {
    hub: Arc<Hub>,
    site: Arc<Site>,
    cut: Arc<AtomicBool>,
    /// Calls after which it is cut, if any.
    left: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    /// A push is taken, and nobody hears of it: then it is cut.
    deaf: Arc<AtomicBool>,
    /// A push does not arrive, and it is cut.
    lose: Arc<AtomicBool>,
    /// Has a permit less for each question for changes that is under way.
    pulls: Arc<Semaphore>,
}

struct Link {
    way: Way,
    peer: Mutex<Peer>,
}

impl Dial for Way {
    type Link = Link;
    async fn dial(&self) -> Answer<Link> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(LinkError::Lost("cut".to_owned()));
        }
        self.left.store(u64::MAX, Ordering::Relaxed);
        Ok(Link { way: self.clone(), peer: Mutex::default() })
    }
}

impl Link {
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Hub, Peer) -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let lost = || LinkError::Lost("cut".to_owned());
        if self.way.cut.load(Ordering::Relaxed) {
            return Err(lost());
        }
        let last = self.way.left.fetch_sub(1, Ordering::Relaxed) == 1;
        let (hub, peer) = (Arc::clone(&self.way.hub), *self.peer.lock());
        let answer = tokio::task::spawn_blocking(move || ask(&hub, peer)).await.unwrap();
        // It was done, and nobody hears of it.
        if last || self.way.cut.load(Ordering::Relaxed) { Err(lost()) } else { answer }
    }
}

impl Upstream for Link {
    async fn hello(&self, hello: Hello) -> Answer<Welcome> {
        let (welcome, peer) = self.ask(move |hub, _| hub.hello(&hello)).await?;
        *self.peer.lock() = peer;
        Ok(welcome)
    }
    async fn changes(
        &self,
        after: Option<Cursor>,
        ignore: Vec<String>,
        wait: Option<Duration>,
    ) -> Answer<Portion> {
        let deadline = Instant::now() + wait.unwrap_or_default();
        let _under_way = self.way.pulls.acquire().await.unwrap();
        loop {
            let (ignore, before) = (ignore.clone(), self.way.site.revision());
            let portion = self.ask(move |hub, peer| hub.changes(peer, after, &ignore)).await?;
            if !portion.entries.is_empty() || portion.more || portion.reset || Instant::now() >= deadline {
                return Ok(portion);
            }
            while self.way.site.revision() == before && Instant::now() < deadline {
                if self.way.cut.load(Ordering::Relaxed) {
                    return Err(LinkError::Lost("cut".to_owned()));
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
    async fn read_entries(&self, ids: Vec<NodeId>) -> Answer<(Vec<Told<Entry>>, Cursor)> {
        self.ask(move |hub, _| hub.read_entries(&ids)).await
    }
    async fn lacks(&self, hashes: Vec<Hash>) -> Answer<Vec<Hash>> {
        self.ask(move |hub, _| hub.lacks(&hashes)).await
    }
    async fn fetch(&self, hashes: Vec<Hash>) -> Answer<(usize, Vec<Object>)> {
        let (looked_for, objects) = self.ask(move |hub, _| hub.fetch(&hashes)).await?;
        self.way.count(&objects);
        Ok((looked_for, objects))
    }
    async fn bring(&self, objects: Vec<Object>) -> Answer<()> {
        self.way.count(&objects);
        self.ask(move |hub, peer| hub.bring(peer.id, objects)).await
    }
    async fn push(&self, offers: Vec<Told<Offer>>, up_to: Revision, life: Author) -> Answer<Pushed> {
        if self.way.lose.swap(false, Ordering::Relaxed) {
            self.way.cut.store(true, Ordering::Relaxed);
        }
        let answer = self.ask(move |hub, peer| hub.push(peer, offers, up_to, life)).await;
        if matches!(answer, Ok(Pushed::Taken(_))) && self.way.deaf.swap(false, Ordering::Relaxed) {
            self.way.cut.store(true, Ordering::Relaxed);
            return Err(LinkError::Lost("cut".to_owned()));
        }
        answer
    }
    async fn flush(&self, revision: Revision) -> Answer<Cursor> {
        self.ask(move |hub, _| hub.flush(revision)).await
    }
    async fn watermarks(&self) -> Answer<Vec<Watermark>> {
        self.ask(|hub, _| hub.watermarks()).await
    }
}

impl Way {
    fn to(site: &Arc<Site>) -> Self {
        Self {
            hub: Arc::new(Hub::new(Arc::clone(site))),
            site: Arc::clone(site),
            cut: Arc::default(),
            left: Arc::new(AtomicU64::new(u64::MAX)),
            bytes: Arc::default(),
            deaf: Arc::default(),
            lose: Arc::default(),
            pulls: Arc::new(Semaphore::new(PULLS)),
        }
    }

    fn count(&self, objects: &[Object]) {
        let bytes: usize = objects.iter().map(|object| object.bytes.len()).sum();
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

fn site(location: &Location) -> Arc<Site> {
    let store = Arc::new(Store::open(location, Path::new("/nowhere")).unwrap());
    let vfs = Vfs::open(Arc::clone(&store), Options::default()).unwrap();
    Arc::new(Site::open(vfs, store).unwrap())
}

fn replica(site: &Arc<Site>, way: &Way) -> Replica {
    replica_with(site, way, Settings::default())
}

fn replica_with(site: &Arc<Site>, way: &Way, settings: Settings) -> Replica {
    Replica::start(Arc::clone(site), way.clone(), settings).unwrap()
}

/// A tree in memory, handled by path.
struct Tree<'a>(&'a Site);

impl Tree<'_> {
    fn ino(&self, path: &str) -> Ino {
        self.0.vfs.resolve(path.as_bytes()).unwrap_or_else(|error| panic!("{path}: {error}")).ino
    }
    fn has(&self, path: &str) -> bool {
        self.0.vfs.resolve(path.as_bytes()).is_ok()
    }
    fn split<'p>(&self, path: &'p str) -> (Ino, &'p [u8]) {
        match path.rsplit_once('/') {
            Some((dir, name)) => (self.ino(dir), name.as_bytes()),
            None => (ROOT, path.as_bytes()),
        }
    }
    fn mkdir(&self, path: &str) {
        let (dir, name) = self.split(path);
        let new = NewNode { kind: Kind::Dir, mode: 0o755, umask: 0, rdev: 0 };
        self.0.vfs.create(Caller::DAEMON, dir, name, new).unwrap();
    }
    fn write(&self, path: &str, bytes: &[u8]) {
        let (dir, name) = self.split(path);
        if !self.has(path) {
            let new = NewNode { kind: Kind::File, mode: 0o644, umask: 0, rdev: 0 };
            self.0.vfs.create(Caller::DAEMON, dir, name, new).unwrap();
        }
        let ino = self.ino(path);
        self.0.vfs.write(Caller::DAEMON, ino, 0, bytes, false).unwrap();
        let set = SetAttr { size: Some(bytes.len() as u64), ..SetAttr::default() };
        self.0.vfs.setattr(Caller::DAEMON, ino, &set).unwrap();
    }
    fn read(&self, path: &str) -> Vec<u8> {
        self.0.vfs.read_quietly(self.ino(path), 0, 1 << 30).unwrap()
    }
    fn remove(&self, path: &str) {
        let (dir, name) = self.split(path);
        match self.0.vfs.resolve(path.as_bytes()).unwrap().kind {
            Kind::Dir => self.0.vfs.rmdir(Caller::DAEMON, dir, name).unwrap(),
            _ => self.0.vfs.unlink(Caller::DAEMON, dir, name).unwrap(),
        }
    }
    fn rename(&self, from: &str, to: &str) {
        let (from, to) = (self.split(from), self.split(to));
        self.0.vfs.rename(Caller::DAEMON, from, to, RenameMode::Replace).unwrap();
    }
    /// All there is: a line for each name, with everything that travels.
    fn dump(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        let mut inodes = BTreeMap::new();
        self.dump_dir(ROOT, "", &mut all, &mut inodes);
        all
    }
    fn dump_dir(
        &self,
        dir: Ino,
        path: &str,
        all: &mut BTreeMap<String, String>,
        first: &mut BTreeMap<Ino, String>,
    ) {
        self.0.vfs.commit_now().unwrap();
        for entry in self.0.store.dirents(self.0.ws, dir).unwrap() {
            let at = format!("{path}/{}", entry.name.escape_ascii());
            // It may have gone since it was listed.
            let Ok(attr) = self.0.vfs.getattr(entry.ino) else { continue };
            let link = first.entry(entry.ino).or_insert_with(|| at.clone()).clone();
            let xattrs = self.0.store.xattrs(self.0.ws, entry.ino).unwrap();
            let bytes = match attr.kind {
                Kind::File => self.0.vfs.read_quietly(entry.ino, 0, 1 << 30).unwrap_or_default(),
                Kind::Symlink => self.0.vfs.readlink(entry.ino).unwrap(),
                _ => Vec::new(),
            };
            let mtime = if attr.kind == Kind::Dir { 0 } else { attr.mtime.0 };
            let line = format!(
                "{:?} {:o} {}:{} {} {mtime} {} {link} {xattrs:?} {}",
                attr.kind,
                attr.mode,
                attr.uid,
                attr.gid,
                attr.rdev,
                attr.btime.0,
                blake3::hash(&bytes).to_hex()
            );
            all.insert(at.clone(), line);
            if attr.kind == Kind::Dir {
                self.dump_dir(entry.ino, &at, all, first);
            }
        }
    }
}

/// Returns once all are the same, and all that is pending is done.
async fn in_step(sites: &[&Arc<Site>], controls: &[&Control]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        for control in controls {
            control.now().await.unwrap();
        }
        let dumps: Vec<_> = sites.iter().map(|site| Tree(site).dump()).collect();
        if dumps.windows(2).all(|pair| pair[0] == pair[1]) {
            break;
        }
        if Instant::now() > deadline {
            let (a, b) = (&dumps[0], dumps.iter().find(|dump| **dump != dumps[0]).unwrap());
            let only = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| {
                a.iter()
                    .filter(|(path, line)| b.get(*path) != Some(line))
                    .map(|(p, l)| format!("{p}: {l}"))
                    .collect::<Vec<_>>()
            };
            let states: Vec<_> = controls.iter().map(|control| control.status()).collect();
            panic!("not in step: {:#?}\n{:#?}\n{states:#?}", only(a, b), only(b, a));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for site in sites {
        site.vfs.sync().unwrap();
        assert_eq!(site.store.check(true).unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_a_tree_can_hold_arrives_both_ways() {
    let hub = site(&Location::Memory);
    let (a, b) = (site(&Location::Memory), site(&Location::Memory));
    let way = Way::to(&hub);
    let tree = Tree(&a);
    tree.mkdir("d");
    tree.mkdir("d/e");
    tree.write("d/e/small", b"hello");
    tree.write("large", &vec![7; 1_000_000]);
    tree.write("empty", b"");
    let vfs = &a.vfs;
    vfs.symlink(Caller::DAEMON, ROOT, b"link", b"d/e/small").unwrap();
    vfs.link(Caller::DAEMON, tree.ino("large"), tree.ino("d"), b"same").unwrap();
    vfs.link(Caller::DAEMON, tree.ino("d/e/small"), ROOT, b"not-utf8-\xff\xfe").unwrap();
    let fifo = NewNode { kind: Kind::Fifo, mode: 0o600, umask: 0, rdev: 0 };
    vfs.create(Caller::DAEMON, ROOT, b"fifo", fifo).unwrap();
    let device = NewNode { kind: Kind::CharDevice, mode: 0o600, umask: 0, rdev: 0x0103 };
    vfs.create(Caller::DAEMON, ROOT, b"null", device).unwrap();
    vfs.setxattr(Caller::DAEMON, tree.ino("empty"), b"user.x", b"y", SetXattr::Any).unwrap();
    let set = SetAttr {
        mode: Some(0o4751),
        uid: Some(12),
        gid: Some(34),
        mtime: Some(SetTime::At(crate::clock::Timestamp(123_456_789_012_345_678))),
        ..SetAttr::default()
    };
    vfs.setattr(Caller::DAEMON, tree.ino("empty"), &set).unwrap();
    let (ra, rb) = (replica(&a, &way), replica(&b, &way));
    in_step(&[&a, &hub, &b], &[&ra.control(), &rb.control()]).await;
    Tree(&b).rename("d", "moved");
    Tree(&b).write("moved/e/small", b"other");
    Tree(&b).remove("fifo");
    Tree(&hub).write("from-hub", b"hub");
    in_step(&[&a, &hub, &b], &[&ra.control(), &rb.control()]).await;
    assert_eq!(tree.read("moved/e/small"), b"other");
    assert_eq!(tree.read("from-hub"), b"hub");
    assert!(!tree.has("fifo") && !tree.has("d"));
    for control in [ra.control(), rb.control()] {
        let deadline = Instant::now() + Duration::from_secs(5);
        while control.status().pending_entries > 0 {
            assert!(Instant::now() < deadline, "{:#?}", control.status());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!((control.status().link, control.status().conflicts), (LinkState::Connected, 0));
    }
    ra.stop(Duration::from_secs(5)).await;
    rb.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_is_replaced_does_not_go_on() {
    let (hub, a) = (site(&Location::Memory), site(&Location::Memory));
    let way = Way::to(&hub);
    let ra = replica(&a, &way);
    for _ in 0..8 {
        ra.control().now().await.unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while PULLS - way.pulls.available_permits() != 1 {
        assert!(Instant::now() < deadline, "{} are under way", PULLS - way.pulls.available_permits());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_both_changed_is_kept_twice_and_nothing_else_is() {
    let hub = site(&Location::Memory);
    let (a, b) = (site(&Location::Memory), site(&Location::Memory));
    let way = Way::to(&hub);
    let (ta, tb) = (Tree(&a), Tree(&b));
    ta.write("both", b"base");
    ta.write("same", b"base");
    ta.write("mode", b"base");
    ta.mkdir("gone");
    ta.write("gone/kept", b"base");
    let (ra, rb) = (replica(&a, &way), replica(&b, &way));
    in_step(&[&a, &hub, &b], &[&ra.control(), &rb.control()]).await;
    rb.control().pause();
    while rb.control().status().link != LinkState::Paused {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    ta.write("both", b"by a");
    tb.write("both", b"by b");
    let now = crate::clock::Timestamp(1_700_000_000_000_000_000);
    for tree in [&ta, &tb] {
        tree.write("same", b"alike");
        let set = SetAttr { mtime: Some(SetTime::At(now)), ..SetAttr::default() };
        tree.0.vfs.setattr(Caller::DAEMON, tree.ino("same"), &set).unwrap();
    }
    ta.write("mode", b"new bytes");
    let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    b.vfs.setattr(Caller::DAEMON, tb.ino("mode"), &set).unwrap();
    ta.remove("gone/kept");
    ta.remove("gone");
    tb.write("gone/kept", b"changed meanwhile");
    ta.mkdir("type");
    ta.write("type/x", b"x");
    tb.write("type", b"a file");
    ra.control().now().await.unwrap();
    rb.control().resume();
    in_step(&[&a, &hub, &b], &[&ra.control(), &rb.control()]).await;
    assert_eq!(ta.read("both"), b"by a");
    let conflicts = rb.control().status();
    assert_eq!(conflicts.conflicts, 3, "{conflicts:#?}");
    let kept: Vec<_> = conflicts.recent.iter().filter_map(|note| note.kept.clone()).collect();
    let kept: Vec<String> = kept.into_iter().map(|kept| String::from_utf8(kept).unwrap()).collect();
    let copy = kept.iter().find(|kept| kept.starts_with("both.conflict-")).unwrap();
    assert_eq!(ta.read(copy), b"by b");
    let file = kept.iter().find(|kept| kept.starts_with("type.conflict-")).unwrap();
    assert_eq!((ta.read(file), ta.read("type/x")), (b"a file".to_vec(), b"x".to_vec()));
    assert_eq!(ta.read("gone/kept"), b"changed meanwhile");
    assert_eq!(ta.read("mode"), b"new bytes");
    assert_eq!(a.vfs.getattr(ta.ino("mode")).unwrap().mode, 0o600);
    assert_eq!(tb.dump().keys().filter(|path| path.contains("conflict")).count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_until_somebody_says_so() {
    let hub = site(&Location::Memory);
    let a = site(&Location::Memory);
    Tree(&hub).write("hub", b"x");
    Tree(&a).write("mine", b"x");
    let way = Way::to(&hub);
    let ra = replica(&a, &way);
    let error = ra.control().now().await.unwrap_err();
    assert!(error.to_string().contains("wsd sync join --merge"), "{error}");
    assert_eq!(ra.control().status().link, LinkState::Refused);
    ra.control().join(true).await.unwrap();
    in_step(&[&a, &hub], &[&ra.control()]).await;
    assert!(Tree(&hub).has("mine") && Tree(&a).has("hub"));
    assert_eq!(a.workspace().unwrap(), hub.workspace().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_was_new_awaits_an_upstream_and_only_until_it_has_met_one() {
    let hubs = [site(&Location::Memory), site(&Location::Memory)];
    hubs.iter().for_each(|hub| Tree(hub).write("hub", b"x"));
    let a = site(&Location::Memory);
    a.store.await_upstream(a.ws).unwrap();
    Tree(&a).write("mine", b"x");
    a.vfs.commit_now().unwrap();
    a.store.await_upstream(a.ws).unwrap();
    let ra = replica(&a, &Way::to(&hubs[0]));
    in_step(&[&a, &hubs[0]], &[&ra.control()]).await;
    assert!(Tree(&hubs[0]).has("mine") && Tree(&a).has("hub"));
    ra.stop(Duration::from_secs(5)).await;
    let ra = replica(&a, &Way::to(&hubs[1]));
    assert!(ra.control().now().await.unwrap_err().to_string().contains("neither is empty"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_at_any_call_are_made_good() {
    let hub = site(&Location::Memory);
    let (a, b) = (site(&Location::Memory), site(&Location::Memory));
    let (to_a, to_b) = (Way::to(&hub), Way::to(&hub));
    let timing = crate::sync::engine::Timing {
        backoff_min: Duration::from_millis(2),
        backoff_max: Duration::from_millis(10),
        ..Default::default()
    };
    let settings = || Settings { timing, ..Settings::default() };
    let (ra, rb) = (replica_with(&a, &to_a, settings()), replica_with(&b, &to_b, settings()));
    let trees = [Tree(&a), Tree(&b)];
    for round in 0..60u64 {
        let tree = &trees[(round % 2) as usize];
        let dir = format!("d{}", round % 7);
        if !tree.has(&dir) {
            tree.mkdir(&dir);
        }
        tree.write(&format!("{dir}/f{round}"), &vec![round as u8; 100 + 7000 * (round as usize % 30)]);
        if round % 5 == 4 && tree.has(&dir) {
            tree.rename(&dir, &format!("e{round}"));
        }
        to_a.left.store(1 + round % 6, Ordering::Relaxed);
        to_b.left.store(1 + round / 6 % 6, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    to_a.left.store(u64::MAX, Ordering::Relaxed);
    to_b.left.store(u64::MAX, Ordering::Relaxed);
    in_step(&[&a, &hub, &b], &[&ra.control(), &rb.control()]).await;
    let files = Tree(&a).dump().keys().filter(|path| path.contains("/f")).count();
    assert_eq!(files, 60, "all that was written is there, under one name or another");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_and_removed_before_we_hear_of_either_does_not_come_back() {
    let (hub, a) = (site(&Location::Memory), site(&Location::Memory));
    let way = Way::to(&hub);
    let ra = replica(&a, &way);
    in_step(&[&hub, &a], &[&ra.control()]).await;
    way.deaf.store(true, Ordering::Relaxed);
    Tree(&a).write("file", b"x");
    let deadline = Instant::now() + Duration::from_secs(5);
    while !way.cut.load(Ordering::Relaxed) {
        assert!(Instant::now() < deadline, "nothing was pushed");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Tree(&hub).remove("file");
    way.cut.store(false, Ordering::Relaxed);
    in_step(&[&hub, &a], &[&ra.control()]).await;
    assert!(!Tree(&hub).has("file") && !Tree(&a).has("file"));
}
