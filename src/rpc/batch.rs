//! A connection that is one request and one answer.
//!
//! The messages of the body are taken as if they came over a socket, but for two things. The incoming side stays open
//! until every question has its answer. And the client's `Finish` messages are held back until then: a client
//! library that has let go of a promise sends one along, and it would cancel the call that the client still pipelines on.

use super::session::{Host, Session};
use crate::wire::{Batch, FrameError, Limits};
use bytes::{Bytes, BytesMut};
use capnp::message::{Reader, ReaderOptions};
use capnp::serialize::BufferSegments;
use capnp_rpc::rpc_capnp::message;
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Largest body, bytes.
pub const MAX_BODY: usize = 16 << 20;

/// Largest answer, bytes.
pub const MAX_ANSWER: usize = 64 << 20;

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
    #[error("ESHUTDOWN: the daemon is stopping")]
    Closing,
}

/// What a message is, for a batch.
enum Part {
    Question,
    Finish,
    Answer,
    Other,
}

fn part_of(frame: &Bytes) -> Result<Part, capnp::Error> {
    let options = ReaderOptions::new();
    let reader = Reader::new(BufferSegments::new(frame.clone(), options)?, options);
    Ok(match reader.get_root::<message::Reader<'_>>()?.which() {
        Ok(message::Call(_) | message::Bootstrap(_)) => Part::Question,
        Ok(message::Finish(_)) => Part::Finish,
        Ok(message::Return(_)) => Part::Answer,
        _ => Part::Other,
    })
}

/// Takes the calls of a body and returns the messages that answer them.
pub(super) async fn answer(host: Arc<Host>, body: Bytes) -> Result<Bytes, BatchError> {
    let (mut frames, mut questions) = (Vec::new(), 0);
    for frame in Batch::new(body) {
        let frame = frame?;
        match part_of(&frame)? {
            Part::Finish => continue,
            Part::Question => questions += 1,
            Part::Answer | Part::Other => {}
        }
        frames.push(frame);
    }
    if questions == 0 {
        return Err(BatchError::Empty);
    }
    if questions > MAX_QUESTIONS {
        return Err(BatchError::Questions(questions));
    }
    // Answers are kept until the end in any case, and their sum is limited below.
    let limits = Limits { answer_bytes: usize::MAX, incoming_bytes: usize::MAX, ..Limits::default() };
    let session = Session::new(host, limits);
    let incoming = futures::stream::iter(frames.into_iter().map(Ok)).chain(futures::stream::pending());
    let (outgoing, answers) = mpsc::unbounded_channel();
    let vat = session.vat(incoming, outgoing);
    let result = tokio::select! {
        biased;
        body = collect(answers, questions) => body,
        ended = vat => Err(ended.err().map_or(BatchError::Closing, BatchError::Message)),
        () = tokio::time::sleep(DEADLINE) => Err(BatchError::Deadline),
    };
    session.end();
    tracing::debug!(session = session.id, questions, calls = session.calls(), "a batch was answered");
    result
}

/// The messages up to the last answer.
async fn collect(
    mut messages: mpsc::UnboundedReceiver<Bytes>,
    questions: usize,
) -> Result<Bytes, BatchError> {
    let (mut body, mut answered) = (BytesMut::new(), 0);
    while answered < questions {
        let Some(message) = messages.recv().await else { return Err(BatchError::Closing) };
        if body.len() + message.len() > MAX_ANSWER {
            return Err(BatchError::TooLarge);
        }
        if let Part::Answer = part_of(&message)? {
            answered += 1;
        }
        body.extend_from_slice(&message);
    }
    Ok(body.freeze())
}
