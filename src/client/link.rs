//! One connection: a WebSocket below, capabilities above.

use super::ClientOptions;
use super::dial::{CONNECT, Duplex, Target, Unreachable};
use super::error::ClientError;
use crate::wire::{Ledger, Limits, MAX_FRAME, Network, Side};
use bytes::Bytes;
use capnp_rpc::RpcSystem;
use futures::future::{Either, select};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, Stream, StreamExt};
use std::cell::{Cell, OnceCell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval_at, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use wsd_schema::fs_capnp::fs;
use wsd_schema::sync_capnp::sync;
use wsd_schema::workspace_capnp::workspace;

type Socket = WebSocketStream<Box<dyn Duplex>>;

/// How long a closing connection may take to say so.
const CLOSE: Duration = Duration::from_secs(1);

/// A connection. What it gave dies with it, so whoever has something of it keeps it.
pub(super) struct Link {
    pub(super) workspace: workspace::Client,
    pub(super) fs: fs::Client,
    sync: OnceCell<sync::Client>,
    since: Instant,
    loss: Loss,
    pump: Cell<Option<JoinHandle<()>>>,
    _end: oneshot::Sender<()>,
}

/// How the connection ended; the first reason stays.
#[derive(Clone, Default)]
struct Loss(Rc<RefCell<Option<String>>>);

impl Loss {
    fn note(&self, reason: impl ToString) {
        self.0.borrow_mut().get_or_insert_with(|| reason.to_string());
    }
}

impl Link {
    /// Connects, and gets the files to be sure that a wsd answers.
    pub(super) async fn connect(target: &Target, options: &ClientOptions) -> Result<Self, Unreachable> {
        let late = |_| target.unreachable("no answer in time", "is it a wsd?");
        let socket = timeout(CONNECT, open(target)).await.map_err(late)??;
        let (sink, stream) = socket.split();
        let (outgoing, queue) = mpsc::unbounded_channel();
        let loss = Loss::default();
        let frames = frames(stream, options.silence, loss.clone());
        // We always take answers, however much we have to send: a daemon that waits for us to do so must not wait
        // for ever.
        let ledger = Ledger::new(Limits { answer_bytes: usize::MAX, ..Limits::default() });
        let network = Network::new(frames, outgoing, ledger, Side::Client);
        let mut system = RpcSystem::new(Box::new(network), None);
        let workspace: workspace::Client = system.bootstrap(Side::Server);
        let pump = tokio::task::spawn_local(pump(sink, queue, options.silence / 3, loss.clone()));
        let (_end, end) = oneshot::channel();
        tokio::task::spawn_local(drive(system, end, loss.clone()));
        let pump = Cell::new(Some(pump));
        let asked = workspace.fs_request().send().promise;
        let fs = async { asked.await?.get()?.get_fs() };
        match timeout(CONNECT, fs).await.map_err(late)? {
            Ok(fs) => {
                Ok(Self { workspace, fs, sync: OnceCell::new(), since: Instant::now(), loss, pump, _end })
            }
            Err(error) => Err(target.unreachable(error.extra, "is it a wsd of another version?")),
        }
    }

    /// The workspace in step with others.
    pub(super) fn sync(&self) -> &sync::Client {
        self.sync.get_or_init(|| self.workspace.sync_request().send().pipeline.get_sync())
    }

    /// How it was lost, if it was.
    pub(super) fn loss(&self) -> Option<String> {
        self.loss.0.borrow().clone()
    }

    /// How long it has been there.
    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Takes note that it no longer works.
    pub(super) fn give_up(&self, reason: &str) {
        self.loss.note(reason);
    }

    /// Says goodbye.
    pub(super) async fn close(self: Rc<Self>) {
        let pump = self.pump.take();
        drop(self);
        if let Some(pump) = pump {
            let _ = timeout(CLOSE, pump).await;
        }
    }
}

/// Drives the vat until the connection ends, or nobody has the link any more. A vat that is only dropped keeps its
/// connection, because the two own each other.
async fn drive(system: RpcSystem<Side>, end: oneshot::Receiver<()>, loss: Loss) {
    let disconnector = system.get_disconnector();
    let system = pin!(system);
    match select(system, end).await {
        Either::Left((Ok(()), _)) => loss.note("the daemon closed it"),
        Either::Left((Err(error), _)) => loss.note(error.extra),
        Either::Right((_, system)) => {
            loss.note("it was closed");
            select(disconnector, system).await;
        }
    }
}

/// A WebSocket to the daemon.
async fn open(target: &Target) -> Result<Socket, Unreachable> {
    let wrong = |error: Error| ClientError::Url { url: target.url.clone(), reason: error.to_string() };
    let mut request = target.uri.clone().into_client_request().map_err(wrong)?;
    if let Some(bearer) = &target.bearer {
        request.headers_mut().insert(header::AUTHORIZATION, bearer.clone());
    }
    let config = WebSocketConfig::default().max_message_size(Some(MAX_FRAME)).max_frame_size(Some(MAX_FRAME));
    let stream = target.dial().await?;
    match client_async_with_config(request, stream, Some(config)).await {
        Ok((socket, _)) => Ok(socket),
        Err(error) => Err(refused(target, &error)),
    }
}

/// A WebSocket to any address, to be served on. What is there need not be a wsd, so nothing of what it says is repeated but
/// its status.
pub async fn upgrade(options: &ClientOptions) -> Result<WebSocketStream<Box<dyn Duplex>>, ClientError> {
    let target = Target::new(options)?;
    let late = |_| target.unreachable("no answer in time", "does it speak WebSocket?");
    let opened = timeout(CONNECT, open(&target)).await.map_err(late);
    match opened.and_then(|opened| opened) {
        Ok(web) => Ok(web),
        Err(Unreachable { error: ClientError::Connect { url, reason, is_temporary, .. }, .. }) => {
            let reason = match reason.split_once(SAID) {
                Some((status, _)) => status.to_owned(),
                None => reason,
            };
            Err(ClientError::Connect { url, reason, advice: "does it speak WebSocket?", is_temporary })
        }
        Err(unreachable) => Err(unreachable.error),
    }
}

/// Between the status of an answer and what else it said.
const SAID: &str = ", and said: ";

/// What the answer to the upgrade means.
fn refused(target: &Target, error: &Error) -> Unreachable {
    let Error::Http(answer) = error else {
        return target.unreachable(error, "is it a wsd?");
    };
    let status = answer.status();
    if status == StatusCode::UNAUTHORIZED {
        return ClientError::Secret { url: target.url.clone() }.into();
    }
    let body = answer.body().as_deref().unwrap_or_default();
    let reason = format!("it answered {status}{SAID}{}", String::from_utf8_lossy(body).trim_end());
    let advice = match status {
        StatusCode::MISDIRECTED_REQUEST | StatusCode::FORBIDDEN => "ask it by a name that it allows",
        StatusCode::SERVICE_UNAVAILABLE => "try again when it is ready",
        _ => "the path of a wsd's RPC is /ws",
    };
    let unreachable = target.unreachable(reason, advice);
    if status.is_server_error() { unreachable } else { unreachable.for_good() }
}

/// What the daemon sends, until it says nothing for too long.
fn frames(
    stream: SplitStream<Socket>,
    silence: Duration,
    loss: Loss,
) -> impl Stream<Item = Result<Bytes, capnp::Error>> {
    futures::stream::unfold(stream, move |mut stream| {
        let loss = loss.clone();
        async move {
            let reason = loop {
                match timeout(silence, stream.next()).await {
                    Ok(Some(Ok(Message::Binary(frame)))) => return Some((Ok(frame), stream)),
                    Ok(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => {}
                    Ok(Some(Ok(Message::Text(_)))) => break "the daemon sent text".to_owned(),
                    Ok(Some(Ok(Message::Close(Some(close))))) => {
                        break format!("the daemon closed it: {} {}", close.code, close.reason);
                    }
                    Ok(Some(Ok(Message::Close(None))) | None) => break "the daemon closed it".to_owned(),
                    Ok(Some(Err(error))) => break error.to_string(),
                    Err(_) => break format!("nothing came for {silence:?}"),
                }
            };
            loss.note(&reason);
            Some((Err(capnp::Error::disconnected(reason)), stream))
        }
    })
}

/// Sends what is to be sent, and pings, until there is nothing more to come.
async fn pump(
    mut sink: SplitSink<Socket, Message>,
    mut queue: mpsc::UnboundedReceiver<Bytes>,
    every: Duration,
    loss: Loss,
) {
    let mut pings = interval_at(Instant::now() + every, every);
    loop {
        let message = tokio::select! {
            frame = queue.recv() => match frame {
                Some(frame) => Message::Binary(frame),
                None => break,
            },
            _ = pings.tick() => Message::Ping(Bytes::new()),
        };
        if let Err(error) = sink.send(message).await {
            return loss.note(error);
        }
    }
    let _ = timeout(CLOSE, sink.close()).await;
}
