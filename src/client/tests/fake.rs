//! A daemon that loses its connections when a test says so.

use crate::wire::{Ledger, Limits, Network, Side};
use bytes::Bytes;
use capnp::Error;
use capnp_rpc::{RpcSystem, new_client};
use futures::{SinkExt, StreamExt};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tokio_tungstenite::tungstenite::Message;
use wsd_schema::fs_capnp::{byte_sink, byte_source, entry_cursor, fs, watch};
use wsd_schema::workspace_capnp::workspace;

type Params<P> = capnp::capability::Params<P>;
type Results<R> = capnp::capability::Results<R>;
type Answered = Result<(), Error>;

/// What the daemon has, and has seen.
#[derive(Default)]
pub(super) struct World {
    pub(super) file: Vec<u8>,
    pub(super) revision: u64,
    pub(super) names: Vec<Vec<u8>>,
    pub(super) changes: Vec<u64>,
    /// How often each method was called.
    pub(super) calls: BTreeMap<&'static str, usize>,
    /// The method whose call of this number is taken but not answered: the connection is cut instead.
    pub(super) cut: Option<(&'static str, usize)>,
    pub(super) connections: usize,
    pub(super) written: Vec<u8>,
    pub(super) appeared: Vec<Vec<u8>>,
}

/// The daemon; it ends with this.
pub(super) struct Fake {
    pub(super) url: String,
    world: Arc<Mutex<World>>,
    _end: oneshot::Sender<()>,
}

impl Fake {
    pub(super) fn new(world: World) -> Self {
        let world = Arc::new(Mutex::new(world));
        let (_end, end) = oneshot::channel();
        let (bound, address) = std::sync::mpsc::channel();
        let shared = Arc::clone(&world);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let serving = async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    spawn_local(serve(stream, Arc::clone(&shared)));
                }
            };
            LocalSet::new().block_on(&runtime, async {
                tokio::select! { () = serving => {}, _ = end => {} }
            });
        });
        let url = format!("ws://{}/ws", address.recv().unwrap());
        Self { url, world, _end }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(super) fn calls(&self, method: &str) -> usize {
        self.world().calls.get(method).copied().unwrap_or(0)
    }
}

async fn serve(stream: TcpStream, world: Arc<Mutex<World>>) {
    let stream = stream.into_std().unwrap();
    let wire = stream.try_clone().unwrap();
    let stream = TcpStream::from_std(stream).unwrap();
    let (mut sink, stream) = tokio_tungstenite::accept_async(stream).await.unwrap().split();
    world.lock().unwrap().connections += 1;
    let frames = stream.filter_map(async |message| match message {
        Ok(Message::Binary(frame)) => Some(Ok(frame)),
        Ok(_) => None,
        Err(error) => Some(Err(Error::disconnected(error.to_string()))),
    });
    let (outgoing, mut queue) = mpsc::unbounded_channel::<Bytes>();
    let ledger = Ledger::new(Limits { answer_bytes: usize::MAX, ..Limits::default() });
    let network = Network::new(frames, outgoing, ledger, Side::Server);
    let cut = Rc::new(Notify::new());
    let session = Session { world, cut: Rc::clone(&cut) };
    let bootstrap: workspace::Client = new_client(session);
    let system = RpcSystem::new(Box::new(network), Some(bootstrap.client));
    let sending = async {
        while let Some(frame) = queue.recv().await {
            if sink.send(Message::Binary(frame)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = system => {}
        () = sending => {}
        () = cut.notified() => {}
    }
    let _ = wire.shutdown(std::net::Shutdown::Both);
}

#[derive(Clone)]
struct Session {
    world: Arc<Mutex<World>>,
    cut: Rc<Notify>,
}

impl Session {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Counts a call; cuts the connection if this is the one.
    async fn note(&self, method: &'static str) {
        let is_cut = {
            let mut world = self.world();
            let calls = world.calls.entry(method).or_default();
            *calls += 1;
            let calls = *calls;
            world.cut.take_if(|cut| *cut == (method, calls)).is_some()
        };
        if is_cut {
            self.cut.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

impl workspace::Server for Session {
    async fn fs(
        self: Rc<Self>,
        _: Params<workspace::fs_params::Owned>,
        mut results: Results<workspace::fs_results::Owned>,
    ) -> Answered {
        results.get().set_fs(new_client((*self).clone()));
        Ok(())
    }
}

impl fs::Server for Session {
    async fn stat(
        self: Rc<Self>,
        params: Params<fs::stat_params::Owned>,
        mut results: Results<fs::stat_results::Owned>,
    ) -> Answered {
        self.note("stat").await;
        if params.get()?.get_path()? == b"missing" {
            let mut error = results.get().init_error();
            error.set_code("ENOENT");
            error.set_message("no such file or directory");
            error.set_path(b"missing");
            return Ok(());
        }
        results.get().init_attr().set_size(self.world().file.len() as u64);
        Ok(())
    }

    async fn mkdir(
        self: Rc<Self>,
        _: Params<fs::mkdir_params::Owned>,
        mut results: Results<fs::mkdir_results::Owned>,
    ) -> Answered {
        self.note("mkdir").await;
        results.get().init_attr();
        Ok(())
    }

    async fn read_file(
        self: Rc<Self>,
        params: Params<fs::read_file_params::Owned>,
        mut results: Results<fs::read_file_results::Owned>,
    ) -> Answered {
        self.note("readFile").await;
        let offset = params.get()?.get_offset() as usize;
        let (size, revision) = {
            let world = self.world();
            (world.file.len(), world.revision)
        };
        let mut attr = results.get().init_attr();
        attr.set_size(size as u64);
        attr.set_revision(revision);
        let source = Source { session: (*self).clone(), offset: offset.into() };
        results.get().set_source(new_client(source));
        Ok(())
    }

    async fn write_file(
        self: Rc<Self>,
        _: Params<fs::write_file_params::Owned>,
        mut results: Results<fs::write_file_results::Owned>,
    ) -> Answered {
        self.world().written.clear();
        results.get().set_sink(new_client(Sink { session: (*self).clone() }));
        Ok(())
    }

    async fn find(
        self: Rc<Self>,
        _: Params<fs::find_params::Owned>,
        mut results: Results<fs::find_results::Owned>,
    ) -> Answered {
        results.get().set_cursor(new_client(Entries { session: (*self).clone(), at: 0.into() }));
        Ok(())
    }

    async fn watch(
        self: Rc<Self>,
        params: Params<fs::watch_params::Owned>,
        mut results: Results<fs::watch_results::Owned>,
    ) -> Answered {
        let last = self.world().changes.last().copied().unwrap_or(0);
        let after = params.get()?.get_after().min(last);
        results.get().set_revision(after);
        results.get().set_watch(new_client(Watch { session: (*self).clone(), after: after.into() }));
        Ok(())
    }
}

struct Source {
    session: Session,
    offset: std::cell::Cell<usize>,
}

impl byte_source::Server for Source {
    async fn next(
        self: Rc<Self>,
        params: Params<byte_source::next_params::Owned>,
        mut results: Results<byte_source::next_results::Owned>,
    ) -> Answered {
        self.session.note("next").await;
        let world = self.session.world();
        let from = self.offset.get();
        let to = (from + params.get()?.get_count() as usize).min(world.file.len());
        self.offset.set(to);
        results.get().set_data(&world.file[from..to]);
        results.get().set_end(to == world.file.len());
        Ok(())
    }
}

struct Sink {
    session: Session,
}

impl byte_sink::Server for Sink {
    async fn write(self: Rc<Self>, params: Params<byte_sink::write_params::Owned>) -> Answered {
        self.session.note("write").await;
        self.session.world().written.extend_from_slice(params.get()?.get_bytes()?);
        Ok(())
    }

    async fn done(
        self: Rc<Self>,
        _: Params<byte_sink::done_params::Owned>,
        mut results: Results<byte_sink::done_results::Owned>,
    ) -> Answered {
        self.session.note("done").await;
        let mut world = self.session.world();
        let written = std::mem::take(&mut world.written);
        results.get().init_attr().set_size(written.len() as u64);
        world.appeared.push(written);
        Ok(())
    }
}

struct Entries {
    session: Session,
    at: std::cell::Cell<usize>,
}

impl entry_cursor::Server for Entries {
    async fn next(
        self: Rc<Self>,
        params: Params<entry_cursor::next_params::Owned>,
        mut results: Results<entry_cursor::next_results::Owned>,
    ) -> Answered {
        self.session.note("entries").await;
        let world = self.session.world();
        let from = self.at.get();
        let to = (from + params.get()?.get_limit() as usize).min(world.names.len());
        self.at.set(to);
        let mut entries = results.get().init_entries((to - from) as u32);
        for (index, name) in world.names[from..to].iter().enumerate() {
            entries.reborrow().get(index as u32).set_path(name);
        }
        results.get().set_end(to == world.names.len());
        Ok(())
    }
}

struct Watch {
    session: Session,
    after: std::cell::Cell<u64>,
}

impl watch::Server for Watch {
    async fn next(
        self: Rc<Self>,
        _: Params<watch::next_params::Owned>,
        mut results: Results<watch::next_results::Owned>,
    ) -> Answered {
        // Two at a time; the cut comes when the daemon has already moved on.
        let news: Vec<u64> = loop {
            let after = self.after.get();
            let news =
                self.session.world().changes.iter().copied().filter(|of| *of > after).take(2).collect();
            if !Vec::is_empty(&news) {
                break news;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        };
        self.after.set(news.last().copied().unwrap_or(0));
        self.session.note("changes").await;
        let mut changes = results.get().init_changes(news.len() as u32);
        for (index, revision) in news.iter().enumerate() {
            changes.reborrow().get(index as u32).set_revision(*revision);
        }
        results.get().set_up_to(self.after.get());
        Ok(())
    }
}
