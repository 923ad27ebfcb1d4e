//! A connection that is one request and one answer.
//!
//! The messages of the body are taken as if they came over a socket, but for two things. The incoming side stays open
//! until every question has its answer. And the client's `Finish` messages are held back until then: a client
//! library that has let go of a promise sends one along, and it would cancel the call that the client still pipelines on.

use super::session::{self, Host, Session};
use crate::wire::{Batch, FrameError, Limits};
use bytes::Bytes;
use capnp::message::{Reader, ReaderOptions};
use capnp::serialize::BufferSegments;
use capnp_rpc::rpc_capnp::message;
use futures::StreamExt;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Largest body, bytes.
pub const MAX_BODY: usize = 16 << 20;

/// Largest answer, bytes.
pub const MAX_ANSWER: usize = 64 << 20;

/// Bytes of bodies and answers of all batches together, beyond the first of each.
const MAX_BATCHES: usize = 256 << 20;
const FIRST: usize = 64 << 10;

/// Bytes of an answer beyond which a batch is a large one, of which few run at a time.
const LARGE: usize = 512 << 10;

/// How long a batch may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Most questions of a batch.
const MAX_QUESTIONS: usize = 4096;

/// Why a batch has no answer.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what the variant means")]
pub enum BatchError {
    #[error("EPROTOCOL: {0}")]
    Frame(#[from] FrameError),
    #[error("EPROTOCOL: {0}")]
    Message(#[from] capnp::Error),
    #[error("EPROTOCOL: the body holds no call")]
    Empty,
    #[error("EPROTOCOL: {0} questions in one batch: at most {MAX_QUESTIONS}")]
    Questions(usize),
    #[error("EPROTOCOL: the answer is larger than {MAX_ANSWER} bytes: use the WebSocket")]
    TooLarge,
    #[error("ETIMEDOUT: the batch took longer than {} seconds; what it did until then is done", DEADLINE.as_secs())]
    Deadline,
    #[error("EAGAIN: too many sessions")]
    TooMany,
    #[error("EAGAIN: the batches under way hold more than {MAX_BATCHES} bytes")]
    Busy,
    #[error("ESHUTDOWN: the daemon is stopping")]
    Closing,
}

/// Bytes that all batches under way hold.
#[derive(Debug, Default)]
pub(super) struct Batches(AtomicUsize);

/// Bytes that one batch holds, until this is dropped.
#[derive(Debug)]
pub struct Share {
    batches: Arc<Batches>,
    bytes: usize,
}

impl Share {
    pub(super) fn of(batches: &Arc<Batches>) -> Self {
        Self { batches: Arc::clone(batches), bytes: 0 }
    }

    /// Holds more bytes, if there are any left.
    pub fn take(&mut self, bytes: usize) -> Result<(), BatchError> {
        let before = self.counted();
        self.bytes += bytes;
        let more = self.counted() - before;
        let all = self.batches.0.fetch_add(more, Ordering::Relaxed) + more;
        if more > 0 && all > MAX_BATCHES { Err(BatchError::Busy) } else { Ok(()) }
    }

    fn counted(&self) -> usize {
        self.bytes.saturating_sub(FIRST)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.batches.0.fetch_sub(self.counted(), Ordering::Relaxed);
    }
}

/// What a message is, for a batch.
enum Part {
    Question,
    Finish,
    Answer,
    /// The connection is over, and why.
    Abort(String),
    Other,
}

fn part_of(frame: &Bytes) -> Result<Part, capnp::Error> {
    let options = ReaderOptions::new();
    let reader = Reader::new(BufferSegments::new(frame.clone(), options)?, options);
    Ok(match reader.get_root::<message::Reader<'_>>()?.which() {
        Ok(message::Call(_) | message::Bootstrap(_)) => Part::Question,
        Ok(message::Finish(_)) => Part::Finish,
        Ok(message::Return(_)) => Part::Answer,
        Ok(message::Abort(reason)) => Part::Abort(reason?.get_reason()?.to_string().unwrap_or_default()),
        _ => Part::Other,
    })
}

/// The messages that answer a batch; what has been sent of them is gone.
#[derive(Debug)]
pub struct Answer {
    parts: VecDeque<Bytes>,
    _share: Share,
}

impl Iterator for Answer {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.parts.pop_front()
    }
}

/// Takes the calls of a body and returns the messages that answer them. The share has the body already.
pub(super) async fn answer(host: Arc<Host>, body: Bytes, share: Share) -> Result<Answer, BatchError> {
    let (mut frames, mut questions) = (Vec::new(), 0);
    for frame in Batch::new(body) {
        let frame = frame?;
        match part_of(&frame)? {
            Part::Finish => continue,
            Part::Question => questions += 1,
            Part::Answer | Part::Abort(_) | Part::Other => {}
        }
        frames.push(frame);
    }
    if questions == 0 {
        return Err(BatchError::Empty);
    }
    if questions > MAX_QUESTIONS {
        return Err(BatchError::Questions(questions));
    }
    let limits =
        Limits { answer_bytes: LARGE, oversize: false, incoming_bytes: usize::MAX, ..Limits::default() };
    let session = Session::new(Arc::clone(&host), limits);
    // Answers are kept until the end, so there will not be room again: it is lifted when this is one of the few. Their
    // sum is limited below.
    let large = async {
        session.ledger.pressed().await;
        let _permit = host.large_batches.acquire().await;
        session.ledger.lift();
        std::future::pending::<()>().await;
    };
    let incoming = futures::stream::iter(frames.into_iter().map(Ok)).chain(futures::stream::pending());
    let (outgoing, answers) = mpsc::unbounded_channel();
    let vat = session.vat(incoming, outgoing);
    tokio::pin!(vat);
    let mut lives = true;
    let result = tokio::select! {
        biased;
        body = collect(answers, questions, share) => body,
        () = large => Err(BatchError::Closing),
        ended = &mut vat => {
            lives = false;
            Err(ended.err().map_or(BatchError::Closing, BatchError::Message))
        }
        () = tokio::time::sleep(DEADLINE) => Err(BatchError::Deadline),
    };
    session.end();
    if lives {
        session::wind_up(vat).await;
    }
    tracing::debug!(session = session.id, questions, calls = session.calls(), "a batch was answered");
    result
}

/// The messages up to the last answer.
async fn collect(
    mut messages: mpsc::UnboundedReceiver<Bytes>,
    questions: usize,
    mut share: Share,
) -> Result<Answer, BatchError> {
    let (mut parts, mut bytes, mut answered) = (VecDeque::new(), 0, 0);
    while answered < questions {
        let Some(message) = messages.recv().await else { return Err(BatchError::Closing) };
        bytes += message.len();
        if bytes > MAX_ANSWER {
            return Err(BatchError::TooLarge);
        }
        share.take(message.len())?;
        match part_of(&message)? {
            Part::Answer => answered += 1,
            Part::Abort(reason) => return Err(capnp::Error::failed(reason).into()),
            _ => {}
        }
        parts.push_back(message);
    }
    Ok(Answer { parts, _share: share })
}
