//! A peer that sends whatever a test wants: single RPC messages over a WebSocket, by hand.

use crate::support::Daemon;
use capnp::any_pointer;
use capnp::message::{Builder, Reader, ReaderOptions};
use capnp::serialize::OwnedSegments;
use capnp::traits::HasTypeId;
use capnp_rpc::rpc_capnp::{message, return_};
use std::net::TcpStream;
use std::time::Duration;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};
use wsd_schema::fs_capnp::{byte_sink, byte_source, entry_cursor, fs, match_cursor, watch};
use wsd_schema::sync_capnp::sync;
use wsd_schema::workspace_capnp::workspace;

/// A message that came.
pub(crate) type Received = Reader<OwnedSegments>;

/// A method: its interface and its number.
pub(crate) type Method = (u64, u16);

pub(crate) const STAT: Method = (fs::Client::TYPE_ID, 0);
pub(crate) const READ: Method = (fs::Client::TYPE_ID, 3);
pub(crate) const EDIT: Method = (fs::Client::TYPE_ID, 21);
pub(crate) const READ_FILE: Method = (fs::Client::TYPE_ID, 24);
pub(crate) const WRITE_FILE: Method = (fs::Client::TYPE_ID, 25);
pub(crate) const FIND: Method = (fs::Client::TYPE_ID, 26);
pub(crate) const GREP: Method = (fs::Client::TYPE_ID, 27);
pub(crate) const WATCH: Method = (fs::Client::TYPE_ID, 28);
pub(crate) const SOURCE_NEXT: Method = (byte_source::Client::TYPE_ID, 0);
pub(crate) const SINK_WRITE: Method = (byte_sink::Client::TYPE_ID, 0);
pub(crate) const SINK_DONE: Method = (byte_sink::Client::TYPE_ID, 1);
pub(crate) const FIND_NEXT: Method = (entry_cursor::Client::TYPE_ID, 0);
pub(crate) const GREP_NEXT: Method = (match_cursor::Client::TYPE_ID, 0);
pub(crate) const WATCH_NEXT: Method = (watch::Client::TYPE_ID, 0);
pub(crate) const WORKSPACE_FS: Method = (workspace::Client::TYPE_ID, 1);

pub(crate) const WORKSPACE_SYNC: Method = (workspace::Client::TYPE_ID, 3);
pub(crate) const SYNC_HELLO: Method = (sync::Client::TYPE_ID, 0);
pub(crate) const SYNC_CHANGES: Method = (sync::Client::TYPE_ID, 1);
pub(crate) const SYNC_FETCH: Method = (sync::Client::TYPE_ID, 4);
pub(crate) const SYNC_BRING: Method = (sync::Client::TYPE_ID, 5);
pub(crate) const SYNC_PUSH: Method = (sync::Client::TYPE_ID, 6);

/// What a call is sent to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// A capability that came.
    Cap(u32),
    /// The answer itself, which is a capability: that to `Bootstrap`.
    Whole(u32),
    /// The capability at a pointer of an answer that need not have come yet.
    Answer(u32, u16),
}

/// The files, in every session of [`Peer::connect`].
pub(crate) const FILES: Target = Target::Answer(1, 0);

pub(crate) fn frame(fill: impl FnOnce(message::Builder<'_>)) -> Vec<u8> {
    let mut message = Builder::new_default();
    fill(message.init_root());
    capnp::serialize::write_message_to_words(&message)
}

/// A call as a frame.
pub(crate) fn call(
    question: u32,
    target: Target,
    (interface, method): Method,
    params: impl FnOnce(any_pointer::Builder<'_>),
) -> Vec<u8> {
    frame(|message| {
        let mut call = message.init_call();
        call.set_question_id(question);
        call.set_interface_id(interface);
        call.set_method_id(method);
        let to = call.reborrow().init_target();
        set_target(to, target);
        call.reborrow().get_send_results_to().set_caller(());
        params(call.init_params().init_content());
    })
}

fn set_target(mut to: capnp_rpc::rpc_capnp::message_target::Builder<'_>, target: Target) {
    match target {
        Target::Cap(id) => to.set_imported_cap(id),
        Target::Whole(question) => to.init_promised_answer().set_question_id(question),
        Target::Answer(question, pointer) => {
            let mut promised = to.init_promised_answer();
            promised.set_question_id(question);
            promised.init_transform(1).get(0).set_get_pointer_field(pointer);
        }
    }
}

pub(crate) fn bootstrap(question: u32) -> Vec<u8> {
    frame(|message| message.init_bootstrap().set_question_id(question))
}

pub(crate) fn finish(question: u32) -> Vec<u8> {
    frame(|message| message.init_finish().set_question_id(question))
}

/// The same, but the capabilities of the answer are kept.
pub(crate) fn finish_keeping(question: u32) -> Vec<u8> {
    frame(|message| {
        let mut finish = message.init_finish();
        finish.set_question_id(question);
        finish.set_release_result_caps(false);
    })
}

pub(crate) fn stat(question: u32, path: &[u8]) -> Vec<u8> {
    call(question, FILES, STAT, |params| params.init_as::<fs::stat_params::Builder<'_>>().set_path(path))
}

pub(crate) fn sink_write(question: u32, sink: Target, bytes: &[u8]) -> Vec<u8> {
    call(question, sink, SINK_WRITE, |params| {
        params.init_as::<byte_sink::write_params::Builder<'_>>().set_bytes(bytes);
    })
}

pub(crate) fn watch_next(question: u32, target: Target, wait_ms: u32) -> Vec<u8> {
    call(question, target, WATCH_NEXT, |params| {
        params.init_as::<watch::next_params::Builder<'_>>().set_wait_ms(wait_ms);
    })
}

pub(crate) struct Peer {
    web: WebSocket<TcpStream>,
}

impl Peer {
    /// A session in which [`FILES`] are the files. Both answers have come.
    pub(crate) fn connect(daemon: &Daemon) -> Self {
        let mut peer = Self::silent(daemon);
        peer.send(bootstrap(0));
        peer.send(call(1, Target::Whole(0), WORKSPACE_FS, |_| {}));
        assert_eq!(caps(&peer.answers(2)[1]).len(), 1);
        peer
    }

    /// A session that has said nothing.
    pub(crate) fn silent(daemon: &Daemon) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let url = format!("ws://127.0.0.1:{}/ws", daemon.port);
        let mut config = WebSocketConfig::default();
        config.max_message_size = None;
        config.max_frame_size = None;
        let (web, _) = tungstenite::client::client_with_config(url, stream, Some(config)).unwrap();
        Self { web }
    }

    pub(crate) fn send(&mut self, frame: Vec<u8>) {
        assert!(self.try_send(frame), "the daemon takes no more");
    }

    /// Whether the daemon takes it.
    pub(crate) fn try_send(&mut self, frame: Vec<u8>) -> bool {
        self.web.send(Message::Binary(frame.into())).is_ok()
    }

    pub(crate) fn send_text(&mut self, text: &str) {
        self.web.send(Message::text(text)).unwrap();
    }

    /// The next message; `None` when the daemon has ended the session.
    pub(crate) fn receive(&mut self) -> Option<Received> {
        loop {
            match self.web.read() {
                Ok(Message::Binary(bytes)) => {
                    assert!(bytes.len() <= 8 << 20, "a message of {} bytes", bytes.len());
                    let mut options = ReaderOptions::new();
                    options.traversal_limit_in_words(None);
                    return Some(capnp::serialize::read_message(&mut &bytes[..], options).unwrap());
                }
                Ok(Message::Close(_)) => return None,
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("the daemon does not answer");
                }
                Err(_) => return None,
            }
        }
    }

    /// The code with which the daemon closes the session.
    pub(crate) fn close_code(&mut self) -> Option<u16> {
        loop {
            match self.web.read() {
                Ok(Message::Close(close)) => return close.map(|close| close.code.into()),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// The next so many returns.
    pub(crate) fn answers(&mut self, count: usize) -> Vec<Received> {
        let mut answers = Vec::with_capacity(count);
        while answers.len() < count {
            let message = self.receive().unwrap_or_else(|| panic!("the daemon ended the session"));
            if is_return(&message) {
                answers.push(message);
            }
        }
        answers
    }

    /// Reads until the daemon ends the session.
    pub(crate) fn drained(&mut self) {
        while self.receive().is_some() {}
    }

    /// Says no more, but listens.
    pub(crate) fn half_close(&mut self) {
        self.web.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    }
}

fn is_return(message: &Received) -> bool {
    matches!(message.get_root::<message::Reader<'_>>().unwrap().which(), Ok(message::Return(_)))
}

/// Looks at a return: its question, and its results or the reason of its exception.
pub(crate) fn look<T>(
    message: &Received,
    look: impl FnOnce(u32, Result<any_pointer::Reader<'_>, String>) -> T,
) -> T {
    let Ok(message::Return(answer)) = message.get_root::<message::Reader<'_>>().unwrap().which() else {
        panic!("not a return");
    };
    let answer = answer.unwrap();
    let found = match answer.which().unwrap() {
        return_::Results(results) => Ok(results.unwrap().get_content()),
        return_::Exception(exception) => Err(exception.unwrap().get_reason().unwrap().to_string().unwrap()),
        _ => Err("no results".to_owned()),
    };
    look(answer.get_answer_id(), found)
}

/// The code of the error in an answer, which all results have as their first pointer; empty when there is none.
pub(crate) fn code(message: &Received) -> String {
    look(message, |_, results| {
        let results: fs::rename_results::Reader<'_> = results.unwrap().get_as().unwrap();
        results.get_error().unwrap().get_code().unwrap().to_string().unwrap()
    })
}

/// The capabilities that an answer brings.
pub(crate) fn caps(message: &Received) -> Vec<u32> {
    use capnp_rpc::rpc_capnp::cap_descriptor;
    let Ok(message::Return(answer)) = message.get_root::<message::Reader<'_>>().unwrap().which() else {
        panic!("not a return");
    };
    look(message, |question, results| assert!(results.is_ok(), "{question}: {:?}", results.err()));
    let Ok(return_::Results(results)) = answer.unwrap().which() else { return Vec::new() };
    let mut caps = Vec::new();
    for cap in results.unwrap().get_cap_table().unwrap() {
        match cap.which().unwrap() {
            cap_descriptor::SenderHosted(id) | cap_descriptor::SenderPromise(id) => caps.push(id),
            _ => {}
        }
    }
    caps
}

/// A message whose pointers nest as deep as can be said in so many words.
pub(crate) fn deep(words: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(words * 8 + 8);
    bytes.extend_from_slice(&0u32.to_le_bytes());
    bytes.extend_from_slice(&(words as u32).to_le_bytes());
    // Each word is a pointer to a struct of one pointer, which is the next word.
    let pointer = 1u64 << 48;
    for _ in 0..words {
        bytes.extend_from_slice(&pointer.to_le_bytes());
    }
    bytes
}
