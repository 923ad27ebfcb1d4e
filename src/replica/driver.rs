//! One task that tells the engine what happens, and starts what it asks for.

use super::{Dial, Settings};
use crate::clock::Timestamp;
use crate::error::FsResult;
use crate::store::rows::{Ino, Revision};
use crate::store::sync::CursorRow;
use crate::sync::contents::hash;
use crate::sync::engine::{Call, Effect, Engine, Event};
use crate::sync::entry::{ContentId, Cursor, Entry, NodeId, ReplicaId};
use crate::sync::link::{Hello, LinkError, Told, Upstream, Welcome};
use crate::sync::objects::Assembly;
use crate::sync::site::{Sent, Site};
use crate::sync::status::Status;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

/// Lives of the store that a hub is told of.
const LIVES: usize = 256;

/// Who waits for the engine.
pub(super) type Waiter = oneshot::Sender<Result<(), String>>;

/// What the rest of the daemon wants.
pub(super) enum Command {
    Event(Event),
    /// Push up to a revision. `hurry`: say so at once if upstream cannot be reached.
    Flush {
        revision: Revision,
        answer: Waiter,
        hurry: bool,
    },
    /// Pull what upstream has now.
    Catch {
        answer: Waiter,
        hurry: bool,
    },
    Pause,
    Resume,
    Join {
        merge: bool,
    },
    Stop,
}

/// What the tasks of a replica share.
pub(super) struct Shared {
    pub(super) site: Arc<Site>,
    pub(super) settings: Settings,
    /// Goes up whenever a connection ends: what belongs to an earlier one is not applied any more.
    epoch: AtomicU64,
    /// Held while something is applied.
    pub(super) tree: Mutex<()>,
    /// The pull that is under way or came last, and the portion that came last.
    pub(super) portion: Mutex<(Option<Call>, Vec<Told<Entry>>)>,
    /// Files in the making; they outlive the connection that they began on.
    pub(super) assemblies: Mutex<HashMap<ContentId, Assembly>>,
    /// Offers that were sent and not answered.
    pub(super) unanswered: Mutex<Sent>,
    /// Upstream has said that it took them.
    pub(super) taken: AtomicBool,
    /// Upstream has not said whether it did.
    pub(super) unsure: AtomicBool,
    /// Large files that are being written, and since when they are waited for.
    pub(super) waited_for: Mutex<HashMap<Ino, Instant>>,
    /// Nodes that have been told of in a full listing.
    pub(super) told: Mutex<HashSet<NodeId>>,
    status: Mutex<Status>,
    last_contact: AtomicU64,
    upstream: Mutex<Cursor>,
    caught_up: AtomicBool,
    merge: AtomicBool,
}

impl Shared {
    pub(super) fn new(site: Arc<Site>, settings: Settings) -> FsResult<Self> {
        let upstream = Some(settings.upstream.clone());
        Ok(Self {
            site,
            settings,
            epoch: AtomicU64::new(0),
            tree: Mutex::default(),
            portion: Mutex::default(),
            assemblies: Mutex::default(),
            unanswered: Mutex::default(),
            taken: AtomicBool::new(false),
            unsure: AtomicBool::new(false),
            told: Mutex::default(),
            waited_for: Mutex::default(),
            status: Mutex::new(Status { upstream, ..Status::default() }),
            last_contact: AtomicU64::new(0),
            upstream: Mutex::default(),
            caught_up: AtomicBool::new(false),
            merge: AtomicBool::new(false),
        })
    }

    pub(super) fn status(&self) -> Status {
        let mut status = self.status.lock().clone();
        let contact = self.last_contact.load(Ordering::Relaxed);
        status.last_contact = (contact > 0).then_some(contact as i64);
        status
    }

    pub(super) fn is_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Relaxed)
    }

    pub(super) fn upstream(&self) -> Cursor {
        *self.upstream.lock()
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The upstream has answered.
    pub(super) fn heard(&self, at: Option<Cursor>) {
        self.last_contact.store(Timestamp::now().0.max(0).unsigned_abs(), Ordering::Relaxed);
        if let Some(at) = at {
            let mut upstream = self.upstream.lock();
            if at.life != upstream.life || at.revision > upstream.revision {
                *upstream = at;
            }
        }
    }

    /// Where upstream was when it was heard of last.
    pub(super) fn latest(&self) -> Option<Cursor> {
        let latest = *self.upstream.lock();
        (latest.life != crate::sync::Author::default()).then_some(latest)
    }

    /// A few digits that tell this replica from others, for names.
    pub(super) fn short_name(&self) -> FsResult<String> {
        Ok(self.site.replica()?.to_string().chars().take(8).collect())
    }

    /// Upstream has answered to hello.
    pub(super) fn welcomed(&self, welcome: &Welcome) {
        let sent = self.unanswered.lock();
        self.taken.store(welcome.has_taken(&sent.offers, sent.made_at), Ordering::Relaxed);
        self.unsure.store(false, Ordering::Relaxed);
    }

    pub(super) fn hello(&self, cursor: Option<Cursor>) -> FsResult<Hello> {
        let site = &self.site;
        let lives = site.lives(LIVES);
        let state = site.state()?;
        Ok(Hello {
            replica: ReplicaId(state.replica),
            label: self.settings.label.clone(),
            workspace: site.workspace()?,
            empty: site.is_fresh()?,
            merge: self.merge.load(Ordering::Relaxed) || state.awaits_upstream(),
            cursor,
            heard: state.heard.map(|(life, revision)| Cursor {
                life: crate::sync::Author(life),
                revision,
                listed: 0,
            }),
            lives,
        })
    }
}

/// A cursor, as it is stored.
pub(super) fn cursor(row: CursorRow) -> Cursor {
    Cursor { life: crate::sync::Author(row.life), revision: row.revision, listed: row.listed }
}

/// A number drawn by chance, for jitter.
fn chance() -> u32 {
    let now = std::time::Instant::now();
    let hash = hash(format!("{now:?}{:?}", std::thread::current().id()).as_bytes());
    u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]])
}

/// What went wrong, as the engine hears it.
pub(super) fn trouble(call: Call, error: LinkError) -> Event {
    let random = chance();
    match error {
        LinkError::Lost(error) => Event::Lost { call, error, random },
        LinkError::Refused(reason) => Event::TurnedAway { call, reason },
        LinkError::Failed(error) | LinkError::Full(error) => Event::Failed { call, error, random },
    }
}

pub(super) fn refused(call: Call, ids: Vec<NodeId>) -> Event {
    Event::PushRefused { call, ids, random: chance() }
}

pub(super) fn lacked(call: Call) -> Event {
    Event::PushLacked { call, random: chance() }
}

/// Does what waits for memory, the store or the kernel where that may be waited for.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> FsResult<T> + Send + 'static,
) -> Result<T, LinkError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(LinkError::from),
        Err(_) => Err(LinkError::Failed("the work was broken off".to_owned())),
    }
}

struct Loop<D: Dial> {
    shared: Arc<Shared>,
    dial: Arc<D>,
    link: Option<Arc<D::Link>>,
    engine: Engine,
    commands: mpsc::UnboundedSender<Command>,
    /// What needs the connection.
    tasks: JoinSet<()>,
    /// The pull among them that came last.
    pull: Option<AbortHandle>,
    waiters: HashMap<u64, Waiter>,
    next_waiter: u64,
    links: mpsc::UnboundedSender<(Call, u64, D::Link, Event)>,
}

/// Runs until it is told to stop.
pub(super) async fn run<D: Dial>(
    shared: Arc<Shared>,
    dial: D,
    commands: mpsc::UnboundedSender<Command>,
    mut inbox: mpsc::UnboundedReceiver<Command>,
) {
    let (links, mut dialled) = mpsc::unbounded_channel();
    let mut it = Loop {
        engine: Engine::new(shared.settings.timing),
        shared: Arc::clone(&shared),
        dial: Arc::new(dial),
        link: None,
        commands,
        tasks: JoinSet::new(),
        pull: None,
        waiters: HashMap::new(),
        next_waiter: 0,
        links,
    };
    let changed = Arc::new(Notify::new());
    let waker = Arc::clone(&changed);
    shared.site.on_change(move || waker.notify_one());
    let Some(began) = it.begin().await else { return };
    if it.hear(began) {
        return;
    }
    loop {
        let stopped = tokio::select! {
            command = inbox.recv() => match command {
                Some(command) => it.command(command),
                None => return,
            },
            Some((_, epoch, link, event)) = dialled.recv() => {
                if epoch == it.shared.epoch() {
                    it.link = Some(Arc::new(link));
                    it.hear(event)
                } else {
                    false
                }
            }
            () = changed.notified() => {
                let revision = it.shared.site.revision();
                it.hear(Event::LocalChanged { revision })
            }
            Some(_) = it.tasks.join_next() => false,
        };
        if stopped {
            return;
        }
    }
}

impl<D: Dial> Loop<D> {
    async fn begin(&self) -> Option<Event> {
        let shared = Arc::clone(&self.shared);
        let began = blocking(move || {
            let site = &shared.site;
            site.leave_out(&shared.settings.ignore)?;
            let state = site.state()?;
            let cursor = state.cursor.map(cursor);
            let sent = site.unanswered()?;
            let unanswered = !sent.offers.is_empty();
            *shared.unanswered.lock() = sent;
            let known = site.has_bases()?;
            Ok(Event::Began { cursor, known, unanswered, pushed: state.pushed, revision: site.revision() })
        });
        began
            .await
            .inspect_err(|error| tracing::error!(%error, "sync cannot begin: its state cannot be read"))
            .ok()
    }

    /// Returns whether it is over.
    fn command(&mut self, command: Command) -> bool {
        let event = match command {
            Command::Event(event) => event,
            Command::Pause => Event::Pause,
            Command::Resume => Event::Resume,
            Command::Stop => Event::Stop,
            Command::Join { merge } => {
                self.shared.merge.store(merge, Ordering::Relaxed);
                Event::Resume
            }
            Command::Flush { revision, answer, hurry } => {
                let revision = revision.min(self.shared.site.revision());
                let waiter = self.waits(answer);
                return self.wait_for(Event::Flush { waiter, revision }, hurry.then_some(waiter));
            }
            Command::Catch { answer, hurry } => {
                let waiter = self.waits(answer);
                return self.wait_for(Event::Catch { waiter }, hurry.then_some(waiter));
            }
        };
        self.hear(event)
    }

    fn wait_for(&mut self, event: Event, hurried: Option<u64>) -> bool {
        let stopped = self.hear(event);
        hurried.is_some_and(|waiter| self.hear(Event::Hurry { waiter })) || stopped
    }

    /// Somebody waits, under a number. Those that have stopped to are forgotten.
    fn waits(&mut self, answer: Waiter) -> u64 {
        let gone: Vec<u64> =
            self.waiters.extract_if(|_, answer| answer.is_closed()).map(|(it, _)| it).collect();
        for waiter in gone {
            self.hear(Event::Unflush { waiter });
        }
        self.next_waiter += 1;
        self.waiters.insert(self.next_waiter, answer);
        self.next_waiter
    }

    fn hear(&mut self, event: Event) -> bool {
        tracing::trace!(?event, "sync");
        let effects = self.engine.on(event);
        // Whoever is told of something finds it in the status too.
        self.show();
        let mut stopped = false;
        for effect in effects {
            tracing::trace!(?effect, "sync");
            stopped |= matches!(effect, Effect::Stopped);
            self.start(effect);
        }
        stopped
    }

    fn show(&self) {
        let now = self.engine.status();
        let mut status = self.shared.status.lock();
        if now.last_error != status.last_error
            && let Some(error) = &now.last_error
        {
            tracing::warn!(upstream = %self.shared.settings.upstream, "sync: {error}");
        }
        if self.engine.is_caught_up() {
            self.shared.caught_up.store(true, Ordering::Relaxed);
        }
        *status = Status { upstream: status.upstream.take(), ..now };
    }

    fn start(&mut self, effect: Effect) {
        match effect {
            Effect::Dial { call, cursor } => self.dial(call, cursor),
            Effect::HangUp => {
                self.shared.epoch.fetch_add(1, Ordering::AcqRel);
                self.tasks.abort_all();
                self.link = None;
                *self.shared.portion.lock() = (None, Vec::new());
            }
            Effect::Join { workspace, hub } => {
                self.shared.merge.store(false, Ordering::Relaxed);
                if let Err(error) = self.shared.site.join(&workspace, hub) {
                    tracing::error!(%error, "it cannot be noted which upstream this workspace has joined");
                }
            }
            Effect::Renew { call } => {
                tracing::warn!(
                    "this store is a copy of one that has gone on since: it takes a new identity and is compared with its upstream"
                );
                let shared = Arc::clone(&self.shared);
                self.answer(call, async move {
                    blocking(move || shared.site.renew()).await?;
                    Ok(Event::Renewed { call })
                });
            }
            Effect::Forget { call } => {
                tracing::warn!(
                    "the upstream is another one than before, or a copy of an older state: everything is compared with it, and what it lacks is offered"
                );
                let shared = Arc::clone(&self.shared);
                self.answer(call, async move {
                    blocking(move || {
                        shared.site.forget_agreement()?;
                        *shared.unanswered.lock() = Sent::default();
                        Ok(())
                    })
                    .await?;
                    Ok(Event::Renewed { call })
                });
            }
            Effect::Wake { call, after } => {
                let commands = self.commands.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    let _ = commands.send(Command::Event(Event::Woke { call }));
                });
            }
            Effect::Pull { call, after, wait } => {
                let (shared, link) = (Arc::clone(&self.shared), self.link.clone());
                if let Some(replaced) = self.pull.take() {
                    replaced.abort();
                }
                shared.portion.lock().0 = Some(call);
                let pull = async move { shared.pull(connected(link)?, call, after, wait).await };
                self.pull = Some(self.answer(call, pull));
            }
            Effect::Apply { call, cursor } => {
                let (shared, link) = (Arc::clone(&self.shared), self.link.clone());
                self.answer(call, async move { shared.apply(connected(link)?, call, cursor).await });
            }
            Effect::Read { call, ids } => {
                let (shared, link) = (Arc::clone(&self.shared), self.link.clone());
                self.answer(call, async move { shared.read(connected(link)?, call, ids).await });
            }
            Effect::Recover { call } => {
                let (shared, link) = (Arc::clone(&self.shared), self.link.clone());
                self.answer(call, async move { shared.recover(connected(link)?, call).await });
            }
            Effect::BeginListing => self.shared.told.lock().clear(),
            Effect::Reconcile { call, cursor } => {
                let (shared, link) = (Arc::clone(&self.shared), self.link.clone());
                self.answer(call, async move { shared.reconcile(connected(link)?, call, cursor).await });
            }
            Effect::Push { call, up_to, also } => {
                let (shared, link) = (Arc::clone(&self.shared), self.link.clone());
                self.answer(call, async move { shared.push(connected(link)?, call, up_to, also).await });
            }
            Effect::Release { waiter, outcome } => {
                if let Some(answer) = self.waiters.remove(&waiter) {
                    // Who asked may have gone.
                    let _ = answer.send(outcome);
                }
            }
            Effect::Stopped => self.tasks.abort_all(),
        }
    }

    fn dial(&mut self, call: Call, cursor: Option<Cursor>) {
        let (shared, dial, links) = (Arc::clone(&self.shared), Arc::clone(&self.dial), self.links.clone());
        let commands = self.commands.clone();
        let epoch = shared.epoch();
        self.tasks.spawn(async move {
            let met = async {
                let hello = {
                    let shared = Arc::clone(&shared);
                    blocking(move || shared.hello(cursor)).await?
                };
                let link = dial.dial().await?;
                let welcome = link.hello(hello).await?;
                shared.welcomed(&welcome);
                Ok((link, welcome))
            };
            match met.await {
                Ok((link, welcome)) => {
                    shared.heard(Some(welcome.current));
                    let _ = links.send((call, epoch, link, Event::Welcomed { call, welcome }));
                }
                Err(error) => {
                    let _ = commands.send(Command::Event(trouble(call, error)));
                }
            }
        });
    }

    /// Does something that has an answer, and gives it to the engine.
    fn answer(
        &mut self,
        call: Call,
        work: impl Future<Output = Result<Event, LinkError>> + Send + 'static,
    ) -> AbortHandle {
        let commands = self.commands.clone();
        self.tasks.spawn(async move {
            let event = work.await.unwrap_or_else(|error| trouble(call, error));
            let _ = commands.send(Command::Event(event));
        })
    }
}

fn connected<L>(link: Option<Arc<L>>) -> Result<Arc<L>, LinkError> {
    link.ok_or_else(|| LinkError::Lost("there is no connection to the upstream".to_owned()))
}
