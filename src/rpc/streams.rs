//! A file's bytes as objects: a source and a sink.

use super::convert::{answer, set_attr};
use super::session::{Opened, Session};
use crate::service::{Failure, Outcome, Sink, Source};
use capnp::Error;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};
use wsd_schema::fs_capnp::{byte_sink, byte_source};

/// Largest portion of a source, bytes.
const PORTION: usize = 1 << 20;

/// Something that calls use one after the other, in the order in which they came. It was opened, or it failed to be and
/// says so to every call.
pub(super) struct Queue<T> {
    state: Result<Arc<Mutex<T>>, Failure>,
    last: RefCell<Option<oneshot::Receiver<()>>>,
    _open: Option<Opened>,
}

/// A call's place in the queue.
pub(super) struct Turn<T> {
    state: Result<Arc<Mutex<T>>, Failure>,
    before: Option<oneshot::Receiver<()>>,
    done: oneshot::Sender<()>,
}

/// It is the call's turn, until this is dropped.
pub(super) struct Now<T> {
    pub(super) state: OwnedMutexGuard<T>,
    _done: oneshot::Sender<()>,
}

impl<T> Queue<T> {
    pub(super) fn new(state: Outcome<(T, Opened)>) -> Self {
        let (state, open) = match state {
            Ok((state, open)) => (Ok(Arc::new(Mutex::new(state))), Some(open)),
            Err(failure) => (Err(failure), None),
        };
        Self { state, last: RefCell::default(), _open: open }
    }

    /// Takes a place; to be called before anything is awaited.
    pub(super) fn turn(&self) -> Turn<T> {
        let (done, after) = oneshot::channel();
        let before = self.last.borrow_mut().replace(after);
        Turn { state: self.state.clone(), before, done }
    }
}

impl<T> Turn<T> {
    /// Waits for those before.
    pub(super) async fn come(self) -> Outcome<Now<T>> {
        let state = self.state?;
        if let Some(before) = self.before {
            // An error means that the one before is gone, which is as good.
            let _ = before.await;
        }
        Ok(Now { state: state.lock_owned().await, _done: self.done })
    }
}

pub(super) struct SourceObject {
    session: Rc<Session>,
    queue: Queue<Source>,
}

impl SourceObject {
    pub(super) fn new(session: &Rc<Session>, source: Outcome<(Source, Opened)>) -> Self {
        Self { session: Rc::clone(session), queue: Queue::new(source) }
    }
}

impl byte_source::Server for SourceObject {
    fn next(
        self: Rc<Self>,
        params: byte_source::NextParams,
        mut results: byte_source::NextResults,
    ) -> impl Future<Output = Result<(), Error>> + 'static {
        let turn = self.queue.turn();
        async move {
            let count = params.get()?.get_count() as usize;
            let _room = self.session.ledger.reserve(count.min(PORTION)).await;
            let outcome = match turn.come().await {
                Ok(mut now) => self.session.run("source.next", move |_, _| now.state.next(count)).await,
                Err(failure) => Err(failure),
            };
            answer!(results, outcome, |(bytes, end)| {
                results.get().set_data(&bytes);
                results.get().set_end(end);
            });
            Ok(())
        }
    }
}

pub(super) struct SinkObject {
    session: Rc<Session>,
    queue: Queue<Sink>,
}

impl SinkObject {
    pub(super) fn new(session: &Rc<Session>, sink: Outcome<(Sink, Opened)>) -> Self {
        Self { session: Rc::clone(session), queue: Queue::new(sink) }
    }
}

impl byte_sink::Server for SinkObject {
    fn write(
        self: Rc<Self>,
        params: byte_sink::WriteParams,
    ) -> impl Future<Output = Result<(), Error>> + 'static {
        let turn = self.queue.turn();
        async move {
            // The message is kept with its copy until that is written, so that the account of the connection has it.
            let bytes = params.get()?.get_bytes()?.to_vec();
            // What goes wrong is kept by the sink, and told at its end.
            if let Ok(mut now) = turn.come().await {
                let _ = self.session.run("sink.write", move |_, _| now.state.write(&bytes)).await;
            }
            Ok(())
        }
    }

    fn done(
        self: Rc<Self>,
        params: byte_sink::DoneParams,
        mut results: byte_sink::DoneResults,
    ) -> impl Future<Output = Result<(), Error>> + 'static {
        let turn = self.queue.turn();
        async move {
            let sync = params.get()?.get_sync();
            let outcome = match turn.come().await {
                Ok(mut now) => self.session.run("sink.done", move |_, _| now.state.done(sync)).await,
                Err(failure) => Err(failure),
            };
            answer!(results, outcome, |attr| set_attr(results.get().init_attr(), &attr));
            Ok(())
        }
    }
}
