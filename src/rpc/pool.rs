//! The threads that sessions live on, and the life of one on a socket.

use super::batch::{self, Answer, BatchError, Batches, Share};
use super::haste::Haste;
use super::session::{self, Host, Session};
use crate::metrics;
use crate::wire::{Ledger, Limits, MAX_FRAME};
use bytes::Bytes;
use capnp::Error;
use futures::future::LocalBoxFuture;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use parking_lot::Mutex;
use std::cell::Cell;
use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, tungstenite};
use tokio_util::sync::CancellationToken;

/// Threads that vats run on. Their calls run elsewhere, so two are enough to keep a machine busy.
const VATS: usize = 2;

/// How often a peer is asked whether it is there.
const PING: Duration = Duration::from_secs(20);

/// How long a peer may be silent, or take no byte of what is sent.
const SILENCE: Duration = Duration::from_secs(60);

/// How long a peer may take to answer our farewell.
const FAREWELL: Duration = Duration::from_secs(2);

/// Bytes that are put together before they go to the socket.
const WRITE_BUFFER: usize = 128 << 10;

/// A connection that has become a WebSocket.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Socket for T {}

type Start = Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>;
type Web<S> = WebSocketStream<S>;

/// How a session ended.
#[derive(Debug)]
pub struct End {
    /// In a line.
    pub reason: String,
    /// The peer said that it will not have us (code 1008).
    pub refused: bool,
}

/// The threads that sessions live on.
pub struct Pool {
    vats: Mutex<Vec<Vat>>,
    sessions: Arc<AtomicUsize>,
    /// Sessions at a time.
    most: usize,
    batches: Arc<Batches>,
    closing: CancellationToken,
}

struct Vat {
    start: mpsc::UnboundedSender<Start>,
    sessions: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

/// Counts a session for as long as it lives.
struct Counted(Arc<AtomicUsize>, Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        metrics::sessions(self.1.fetch_sub(1, Ordering::Relaxed) - 1);
    }
}

impl Pool {
    /// Starts the threads, for at most so many sessions at a time.
    pub fn start(most: usize) -> io::Result<Self> {
        let vats = (0..VATS).map(Vat::start).collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            vats: Mutex::new(vats),
            sessions: Arc::default(),
            most,
            batches: Arc::default(),
            closing: CancellationToken::new(),
        })
    }

    /// Sessions that live.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Serves a peer on a connection that has become a WebSocket, of which some bytes were read, until it goes; false when
    /// there are too many sessions.
    pub fn serve(&self, host: Arc<Host>, socket: TcpStream, read: Bytes) -> bool {
        let closing = self.closing.clone();
        self.spawn(move || Box::pin(serve(host, socket, read, closing)))
    }

    /// Serves a peer that we have dialled, until it goes or `stop` is told; none when there are too many sessions.
    pub async fn serve_dialled<S: Socket>(
        &self,
        host: Arc<Host>,
        web: WebSocketStream<S>,
        stop: CancellationToken,
    ) -> Option<End> {
        let (ended, end) = oneshot::channel();
        let closing = self.closing.clone();
        let taken = self.spawn(move || {
            Box::pin(async move {
                let over = async {
                    tokio::select! { () = closing.cancelled() => {}, () = stop.cancelled() => {} }
                };
                let _ = ended.send(converse(host, web, over).await);
            })
        });
        if taken { end.await.ok() } else { None }
    }

    /// What one more batch holds: nothing yet.
    pub fn share(&self) -> Share {
        Share::of(&self.batches)
    }

    /// Answers a batch; its share has the body already.
    pub async fn batch(&self, host: Arc<Host>, body: Bytes, share: Share) -> Result<Answer, BatchError> {
        let (answer, answered) = oneshot::channel();
        let closing = self.closing.clone();
        let taken = self.spawn(move || {
            Box::pin(async move {
                let result = tokio::select! {
                    result = batch::answer(host, body, share) => result,
                    () = closing.cancelled() => Err(BatchError::Closing),
                };
                let _ = answer.send(result);
            })
        });
        if !taken {
            return Err(BatchError::TooMany);
        }
        answered.await.unwrap_or(Err(BatchError::Closing))
    }

    fn spawn(&self, start: impl FnOnce() -> LocalBoxFuture<'static, ()> + Send + 'static) -> bool {
        let vats = self.vats.lock();
        let Some(vat) = vats.iter().min_by_key(|vat| vat.sessions.load(Ordering::Relaxed)) else {
            return false;
        };
        let before = self.sessions.fetch_add(1, Ordering::Relaxed);
        vat.sessions.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(Arc::clone(&vat.sessions), Arc::clone(&self.sessions));
        if before >= self.most || self.closing.is_cancelled() {
            return false;
        }
        metrics::sessions(before + 1);
        let start: Start = Box::new(move || {
            let session = start();
            Box::pin(async move {
                session.await;
                drop(counted);
            })
        });
        vat.start.send(start).is_ok()
    }

    /// Tells all peers that it is over, and waits until they are gone, at most a little while.
    pub fn close(&self) {
        self.closing.cancel();
        let vats = std::mem::take(&mut *self.vats.lock());
        let threads: Vec<_> = vats
            .into_iter()
            .filter_map(|vat| {
                drop(vat.start);
                vat.thread
            })
            .collect();
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Vat {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (start, mut starts) = mpsc::unbounded_channel::<Start>();
        let run = move || {
            let local = LocalSet::new();
            let sessions = local.run_until(async move {
                let mut sessions = tokio::task::JoinSet::new();
                loop {
                    tokio::select! {
                        start = starts.recv() => match start {
                            Some(start) => { sessions.spawn_local(start()); }
                            None => break,
                        },
                        Some(ended) = sessions.join_next(), if !sessions.is_empty() => {
                            if let Err(error) = ended {
                                tracing::error!(%error, "a session ended in a fault; the others go on");
                            }
                        }
                    }
                }
                let rest = async { while sessions.join_next().await.is_some() {} };
                let _ = tokio::time::timeout(2 * FAREWELL, rest).await;
            });
            runtime.block_on(sessions);
            drop(local);
            runtime.shutdown_timeout(FAREWELL);
        };
        let thread = std::thread::Builder::new().name(format!("wsd-vat-{number}")).spawn(run)?;
        Ok(Self { start, sessions: Arc::default(), thread: Some(thread) })
    }
}

/// The life of a session on a socket.
async fn serve(host: Arc<Host>, socket: TcpStream, read: Bytes, closing: CancellationToken) {
    let mut config = WebSocketConfig::default();
    config.max_message_size = Some(MAX_FRAME);
    config.max_frame_size = Some(MAX_FRAME);
    config.write_buffer_size = WRITE_BUFFER;
    let socket = match tokio::net::TcpStream::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::warn!(%error, "a session cannot begin"),
    };
    let web = WebSocketStream::from_partially_read(socket, read.into(), Role::Server, Some(config)).await;
    converse(host, web, closing.cancelled()).await;
}

/// Serves a peer until it goes, or until it is over.
async fn converse<S: Socket>(host: Arc<Host>, web: Web<S>, over: impl Future<Output = ()>) -> End {
    let session = Session::new(host, Limits::default());
    let begun = Instant::now();
    tracing::info!(session = session.id, "a session begins");
    let (sink, stream) = web.split();
    let heard = Rc::new(Heard { at: Cell::new(Instant::now()), refused: Cell::new(false) });
    let (outgoing, queue) = mpsc::unbounded_channel();
    let (control, commands) = mpsc::unbounded_channel();
    let vat = session.vat(frames(stream, Rc::clone(&heard)), outgoing);
    let writer = write(sink, queue, commands, Rc::clone(&session.ledger));
    tokio::pin!(vat, writer);
    let (mut lives, mut writes, mut stops) = (true, true, false);
    let reason = tokio::select! {
        ended = &mut vat => {
            lives = false;
            ended.err().map_or("the peer left".to_owned(), |error| error.to_string())
        }
        written = &mut writer => {
            writes = false;
            written.err().unwrap_or_else(|| "the peer left".to_owned())
        }
        () = watch_over(&heard, &control) => "the peer was silent".to_owned(),
        () = over => {
            stops = true;
            "the daemon stops".to_owned()
        }
    };
    session.end();
    let code = if stops { CloseCode::Away } else { close_code(&reason) };
    let text = reason.chars().take(40).collect::<String>();
    let _ = control.send(Message::Close(Some(CloseFrame { code, reason: text.into() })));
    drop(control);
    if writes {
        let _ = tokio::time::timeout(FAREWELL, writer).await;
    }
    if lives {
        session::wind_up(vat).await;
    }
    let (calls, seconds) = (session.calls(), begun.elapsed().as_secs());
    tracing::info!(session = session.id, calls, seconds, reason, "a session ends");
    End { reason, refused: heard.refused.get() }
}

/// What is known of a peer besides its messages.
struct Heard {
    /// When it sent something last.
    at: Cell<Instant>,
    /// It closed the connection because it will not have us.
    refused: Cell<bool>,
}

fn close_code(reason: &str) -> CloseCode {
    if reason.contains("EPROTOCOL") { CloseCode::Policy } else { CloseCode::Normal }
}

/// The frames of a peer. Whatever it sends shows that it is there.
fn frames<S: Socket>(
    stream: SplitStream<Web<S>>,
    heard: Rc<Heard>,
) -> impl futures::Stream<Item = Result<Bytes, Error>> {
    futures::stream::unfold((stream, heard, Haste::new()), |(mut stream, heard, mut haste)| async move {
        loop {
            let message = haste.wait(stream.next()).await?;
            heard.at.set(Instant::now());
            let item = match message {
                Ok(Message::Binary(bytes)) => {
                    metrics::received(bytes.len());
                    Ok(bytes)
                }
                Ok(Message::Text(_)) => {
                    Err(Error::failed("EPROTOCOL: a text message: RPC messages are binary".to_owned()))
                }
                Ok(Message::Close(close)) => {
                    heard.refused.set(close.is_some_and(|close| close.code == CloseCode::Policy));
                    return None;
                }
                // A ping is answered by the socket itself.
                Ok(_) => continue,
                Err(error) => Err(Error::disconnected(error.to_string())),
            };
            return Some((item, (stream, heard, haste)));
        }
    })
}

/// Sends what there is to send, as much as there is at a time.
async fn write<S: Socket>(
    mut sink: SplitSink<Web<S>, Message>,
    mut queue: mpsc::UnboundedReceiver<Bytes>,
    mut commands: mpsc::UnboundedReceiver<Message>,
    ledger: Rc<Ledger>,
) -> Result<(), String> {
    loop {
        let mut next = tokio::select! {
            biased;
            // None any more: there may be a farewell all the same.
            Some(bytes) = queue.recv() => Some(Message::Binary(bytes)),
            command = commands.recv() => match command {
                Some(command) => Some(command),
                None => return Ok(()),
            },
        };
        let sending = async {
            let mut bytes = 0;
            while let Some(message) = next {
                metrics::sent(message.len());
                bytes += if message.is_binary() { message.len() } else { 0 };
                let is_close = message.is_close();
                sink.feed(message).await?;
                let more = !is_close && bytes < WRITE_BUFFER;
                next = if more { queue.try_recv().ok().map(Message::Binary) } else { None };
            }
            sink.flush().await.map(|()| ledger.sent(bytes))
        };
        match tokio::time::timeout(SILENCE, sending).await {
            Ok(sent) => sent.map_err(why)?,
            Err(_) => return Err("the peer takes nothing".to_owned()),
        }
    }
}

/// Why nothing more can be sent.
fn why(error: tungstenite::Error) -> String {
    use tungstenite::Error::{AlreadyClosed, ConnectionClosed, Protocol};
    use tungstenite::error::ProtocolError::SendAfterClosing;
    match error {
        AlreadyClosed | ConnectionClosed | Protocol(SendAfterClosing) => "the peer left".to_owned(),
        error => error.to_string(),
    }
}

/// Returns when the peer has been silent for too long.
async fn watch_over(heard: &Heard, control: &mpsc::UnboundedSender<Message>) {
    loop {
        tokio::time::sleep(PING).await;
        if heard.at.get().elapsed() > SILENCE {
            return;
        }
        let _ = control.send(Message::Ping(Bytes::new()));
    }
}
