//! Frames as the network of a vat: two parties, one connection.

use super::frame::{self, Message};
use super::ledger::{Held, Ledger};
use bytes::Bytes;
use capnp::Error;
use capnp::any_pointer;
use capnp::capability::Promise;
use capnp::message::{Builder, HeapAllocator};
use capnp_rpc::rpc_capnp::{call, message, message_target};
use capnp_rpc::{Connection, IncomingMessage, OutgoingMessage, VatNetwork};
use futures::channel::oneshot;
use futures::{FutureExt, StreamExt};
use std::cell::RefCell;
use std::rc::Rc;
use tokio::sync::mpsc;

/// Which end of the connection one is.
pub use capnp_rpc::rpc_twoparty_capnp::Side;

/// Most words that a message begins with. Answers are kept until the peer is done with them, and most are small; one
/// that is not grows by further segments.
const FIRST_SEGMENT: u32 = 64;

/// Frames from the peer; an error ends the connection.
type Frames = futures::stream::LocalBoxStream<'static, Result<Bytes, Error>>;

/// Why the vat wants no more of the connection, if it does.
type Fault = Rc<RefCell<Option<Error>>>;

/// The network of one connection.
///
/// It ends when the frames do, or when the vat drops its connection.
pub struct Network {
    inner: Option<Link>,
    ended: Option<oneshot::Receiver<()>>,
    fault: Fault,
    side: Side,
}

/// The connection. Clones are the same one.
#[derive(Clone)]
struct Link {
    shared: Rc<Shared>,
}

struct Shared {
    frames: Rc<RefCell<Option<Frames>>>,
    outgoing: mpsc::UnboundedSender<Bytes>,
    ledger: Rc<Ledger>,
    side: Side,
    fault: Fault,
    _ended: oneshot::Sender<()>,
}

impl Network {
    /// `frames` come from the peer, `outgoing` goes to it. The ledger says when to take another frame, and wants to be
    /// told what has gone ([`Ledger::sent`]).
    pub fn new(
        frames: impl futures::Stream<Item = Result<Bytes, Error>> + 'static,
        outgoing: mpsc::UnboundedSender<Bytes>,
        ledger: Rc<Ledger>,
        side: Side,
    ) -> Self {
        let (_ended, ended) = oneshot::channel();
        let frames = Rc::new(RefCell::new(Some(frames.boxed_local())));
        let fault = Fault::default();
        let shared = Shared { frames, outgoing, ledger, side, fault: Rc::clone(&fault), _ended };
        Self { inner: Some(Link { shared: Rc::new(shared) }), ended: Some(ended), fault, side }
    }
}

impl VatNetwork<Side> for Network {
    fn connect(&mut self, host: Side) -> Option<Box<dyn Connection<Side>>> {
        if host == self.side {
            return None;
        }
        self.inner.take().map(|link| Box::new(link) as Box<dyn Connection<Side>>)
    }

    fn accept(&mut self) -> Promise<Box<dyn Connection<Side>>, Error> {
        if self.side == Side::Client {
            return Promise::from_future(futures::future::pending());
        }
        match self.inner.take() {
            Some(link) => Promise::ok(Box::new(link) as Box<dyn Connection<Side>>),
            None => Promise::from_future(futures::future::pending()),
        }
    }

    fn drive_until_shutdown(&mut self) -> Promise<(), Error> {
        match self.ended.take() {
            Some(ended) => {
                let fault = Rc::clone(&self.fault);
                Promise::from_future(ended.map(move |_| fault.take().map_or(Ok(()), Err)))
            }
            None => Promise::from_future(futures::future::pending()),
        }
    }
}

impl Connection<Side> for Link {
    fn get_peer_vat_id(&self) -> Side {
        match self.shared.side {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }

    fn new_outgoing_message(&mut self, first_segment_words: u32) -> Box<dyn OutgoingMessage> {
        let allocator = HeapAllocator::new().first_segment_words(first_segment_words.min(FIRST_SEGMENT));
        Box::new(Outgoing { message: Builder::new(allocator), shared: Rc::clone(&self.shared) })
    }

    fn receive_incoming_message(&mut self) -> Promise<Option<Box<dyn IncomingMessage>>, Error> {
        let shared = Rc::clone(&self.shared);
        Promise::from_future(async move { shared.receive().await })
    }

    fn shutdown(&mut self, result: capnp::Result<()>) -> Promise<(), Error> {
        *self.shared.fault.borrow_mut() = result.err();
        // What was sent is in the queue of the connection, which sees to it. No more comes in.
        self.shared.frames.borrow_mut().take();
        Promise::ok(())
    }
}

impl Shared {
    async fn receive(&self) -> Result<Option<Box<dyn IncomingMessage>>, Error> {
        self.ledger.admit().await;
        let Some(mut frames) = self.frames.borrow_mut().take() else { return Ok(None) };
        let next = frames.next().await;
        let Some(frame) = next.transpose()? else { return Ok(None) };
        *self.frames.borrow_mut() = Some(frames);
        let held = self.ledger.hold(frame.len());
        let message = frame::decode(frame)?;
        if let Some(question) = pipelined_on(&message)? {
            self.ledger.settled(question).await;
        }
        self.note_incoming(&message)?;
        Ok(Some(Box::new(Incoming { message, _held: held })))
    }

    /// Enters a message of the peer into the ledger.
    fn note_incoming(&self, incoming: &Message) -> Result<(), Error> {
        let (asked, target) = match incoming.get_root::<message::Reader<'_>>()?.which() {
            Ok(message::Call(call)) => {
                let call = call?;
                (call.get_question_id(), target_of(call)?)
            }
            Ok(message::Bootstrap(bootstrap)) => (bootstrap?.get_question_id(), None),
            Ok(message::Finish(finish)) => {
                self.ledger.finished(finish?.get_question_id());
                return Ok(());
            }
            // No object of ours takes one of the peer's, so there is no promise to resolve. A chain of them would
            // be taken apart by recursion.
            Ok(message::Resolve(_)) if self.side == Side::Server => {
                return Err(Error::failed("EPROTOCOL: no promise was taken".to_owned()));
            }
            _ => return Ok(()),
        };
        self.ledger.asked(asked, target).map_err(|why| Error::overloaded(format!("EPROTOCOL: {why}")))
    }

    fn note_outgoing(&self, outgoing: &Builder<HeapAllocator>) {
        let root = outgoing.get_root_as_reader::<message::Reader<'_>>();
        if let Ok(Ok(message::Return(Ok(answer)))) = root.map(|root| root.which()) {
            self.ledger.answered(answer.get_answer_id(), outgoing.size_in_words() * 8);
            if answer.get_no_finish_needed() {
                self.ledger.finished(answer.get_answer_id());
            }
        }
    }
}

/// The question whose answer a call is sent to, if it is.
fn target_of(call: call::Reader<'_>) -> Result<Option<u32>, Error> {
    Ok(match call.get_target()?.which()? {
        message_target::PromisedAnswer(answer) => Some(answer?.get_question_id()),
        message_target::ImportedCap(_) => None,
    })
}

/// The question on whose answer a call is made before the answer is there. The RPC library would keep such calls and make
/// them when it is, but not always in their order; so the first of them, and what comes after it, waits here.
fn pipelined_on(incoming: &Message) -> Result<Option<u32>, Error> {
    use capnp_rpc::rpc_capnp::message_target::PromisedAnswer;
    let Ok(message::Call(call)) = incoming.get_root::<message::Reader<'_>>()?.which() else {
        return Ok(None);
    };
    match call?.get_target()?.which() {
        Ok(PromisedAnswer(answer)) => Ok(Some(answer?.get_question_id())),
        _ => Ok(None),
    }
}

struct Incoming {
    message: Message,
    _held: Held,
}

impl IncomingMessage for Incoming {
    fn get_body(&self) -> capnp::Result<any_pointer::Reader<'_>> {
        self.message.get_root()
    }
}

struct Outgoing {
    message: Builder<HeapAllocator>,
    shared: Rc<Shared>,
}

impl OutgoingMessage for Outgoing {
    fn get_body(&mut self) -> capnp::Result<any_pointer::Builder<'_>> {
        self.message.get_root()
    }

    fn get_body_as_reader(&self) -> capnp::Result<any_pointer::Reader<'_>> {
        self.message.get_root_as_reader()
    }

    fn send(self: Box<Self>) -> (Promise<(), Error>, Rc<Builder<HeapAllocator>>) {
        let Self { message, shared } = *self;
        shared.note_outgoing(&message);
        let frame = frame::encode(&message);
        shared.ledger.queue(frame.len());
        let sent = shared.outgoing.send(frame);
        let result = sent.map_err(|_| Error::disconnected("the connection is closed".to_owned()));
        (Promise::from_future(futures::future::ready(result)), Rc::new(message))
    }

    fn take(self: Box<Self>) -> Builder<HeapAllocator> {
        self.message
    }

    fn size_in_words(&self) -> usize {
        self.message.size_in_words()
    }
}
