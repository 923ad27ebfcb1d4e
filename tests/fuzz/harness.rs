//! What is done with bytes that somebody made up: by `cargo fuzz` (`tests/fuzz/`), without end, and by proptest
//! (`tests/it/fuzz.rs`), for a while. A panic is a flaw, and so is an assertion here.

use bytes::Bytes;
use capnp::message::{Builder, Reader, ReaderOptions};
use capnp::serialize::BufferSegments;
use capnp::traits::HasTypeId;
use capnp_rpc::rpc_capnp::message;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Runtime;
use wsd::replica::Control;
use wsd::rpc::{About, BatchError, Host, Pool, Syncing};
use wsd::service::{Files, FindQuery, WriteQuery};
use wsd::store::{Location, Store};
use wsd::sync::Hub;
use wsd::sync::site::Site;
use wsd::vfs::{Options, RenameMode, Vfs};
use wsd::wire::{Batch, MAX_FRAME};
use wsd_schema::fs_capnp::{byte_source, entry_cursor, fs};
use wsd_schema::workspace_capnp::workspace;

const POINT: &str = "/workspace";

/// A workspace in memory, and what serves it.
pub(crate) struct House {
    runtime: Runtime,
    pool: Pool,
    host: Arc<Host>,
    files: Files,
}

impl House {
    pub(crate) fn new() -> Self {
        let store = Arc::new(Store::open(&Location::Memory, Path::new(POINT)).unwrap());
        let options = Options { max_bytes: Some(64 << 20), ..Options::default() };
        let vfs = Vfs::open(Arc::clone(&store), options).unwrap();
        let site = Arc::new(Site::open(Arc::clone(&vfs), store).unwrap());
        let files = Files::new(vfs, Path::new(POINT));
        files.mkdir(b"/workspace/dir", 0o755, false).unwrap();
        files.append(b"/workspace/file", b"text\n", Some(0o644)).unwrap();
        files.symlink(b"dir/../file", b"/workspace/link").unwrap();
        let about = About {
            version: "0",
            workspace_id: "0".repeat(32),
            mount_point: PathBuf::from(POINT),
            mount: "none".to_owned(),
            mount_reason: "a test".to_owned(),
            features: &[],
        };
        let hub = Arc::new(Hub::new(Arc::clone(&site)));
        let sync = Syncing { hub, control: Arc::new(Control::without_upstream(site)) };
        let host = Arc::new(Host::new(files.clone(), None, sync, about).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, pool: Pool::start(8).unwrap(), host, files }
    }

    fn answer(&self, body: Vec<u8>) -> Result<Vec<u8>, BatchError> {
        let mut share = self.pool.share();
        share.take(body.len()).unwrap();
        let answer = self.pool.batch(Arc::clone(&self.host), body.into(), share);
        let answer = self.runtime.block_on(answer)?;
        Ok(answer.flat_map(|part| part.to_vec()).collect())
    }

    /// Bytes as a whole batch.
    pub(crate) fn batch(&self, bytes: &[u8]) {
        if let Ok(answer) = self.answer(bytes.to_vec()) {
            assert!(frames(&answer) > 0, "an answer without messages");
        }
    }

    /// Bytes as dice: calls that are well-formed and mean anything.
    pub(crate) fn calls(&self, bytes: &[u8]) {
        let mut dice = bytes.iter().copied();
        let mut body = opening();
        let mut questions = 2;
        while dice.len() > 8 && questions < 64 {
            body.extend(call(questions, &mut dice));
            questions += 1;
        }
        let answer = self.answer(body).unwrap_or_else(|error| panic!("no answer: {error}"));
        assert!(frames(&answer) >= questions as usize, "a question without an answer");
    }

    /// Bytes as paths, a line each: what is at one is what is found there, and nothing is outside.
    pub(crate) fn paths(&self, bytes: &[u8]) {
        let files = &self.files;
        for line in bytes.split(|byte| *byte == b'\n').take(8) {
            let path = [&b"/workspace/"[..], line].concat();
            let _ = files.mkdir(&path, 0o755, true);
            let _ = files.symlink(line, &[&path[..], b".link"].concat());
            let _ = files.rename(&path, b"/workspace/dir/moved", RenameMode::Exchange);
            if let Ok(mut sink) = files.write_file(&path, WriteQuery::default()) {
                sink.write(line).unwrap();
                let _ = sink.done(false);
            }
            for asked in [line, &path] {
                let (Ok(there), query) = (
                    files.lstat(asked),
                    FindQuery { path: asked.to_vec(), max_depth: 0, ..FindQuery::default() },
                ) else {
                    continue;
                };
                let found = files.find(query).and_then(|mut find| find.next(1, &|| false));
                // The path of an entry is by its letters alone, which a ".." after a symlink is not.
                if let Ok((entries, _)) = found {
                    assert!(entries.iter().all(|entry| entry.attr.ino == there.ino), "{asked:?}");
                    assert!(
                        entries.iter().all(|entry| entry.path.starts_with(POINT.as_bytes())),
                        "{asked:?}"
                    );
                }
            }
        }
    }
}

/// Bytes as frames, one after the other; how many there were.
pub(crate) fn frames(bytes: &[u8]) -> usize {
    let (mut count, mut length) = (0, 0);
    for frame in Batch::new(Bytes::copy_from_slice(bytes)) {
        let Ok(frame) = frame else { break };
        assert!(frame.len() <= MAX_FRAME);
        (count, length) = (count + 1, length + frame.len());
        let options = ReaderOptions::new();
        let Ok(segments) = BufferSegments::new(frame, options) else { continue };
        let message = Reader::new(segments, options);
        if let Ok(root) = message.get_root::<message::Reader<'_>>() {
            let _ = root.which().map(|_| root.total_size());
        }
    }
    assert!(length <= bytes.len());
    count
}

fn frame(fill: impl FnOnce(message::Builder<'_>)) -> Vec<u8> {
    let mut message = Builder::new_default();
    fill(message.init_root());
    capnp::serialize::write_message_to_words(&message)
}

/// Questions 0 and 1: the workspace and its files.
fn opening() -> Vec<u8> {
    let mut body = frame(|message| message.init_bootstrap().set_question_id(0));
    body.extend(frame(|message| {
        let mut call = message.init_call();
        call.set_question_id(1);
        call.set_interface_id(workspace::Client::TYPE_ID);
        call.set_method_id(1);
        call.init_target().init_promised_answer().set_question_id(0);
    }));
    body
}

/// Any method of the files, or the next portion of a capability that one of them has brought.
fn call(question: u32, dice: &mut impl Iterator<Item = u8>) -> Vec<u8> {
    let mut die = || dice.next().unwrap_or(0);
    let (method, of, pointer) = (die() % 40, die(), die() % 3);
    let path = [&b"file"[..], b"dir", b"dir/new", b"link", b"", b"dir/../link", b"none/x", b"\xff"]
        [die() as usize % 8];
    let data: Vec<u8> = (0..die() % 5).map(|_| die()).collect();
    let (all, number) = (die() % 2 == 0, die());
    frame(|message| {
        let mut call = message.init_call();
        call.set_question_id(question);
        let mut target = call.reborrow().init_target().init_promised_answer();
        let (interface, method, asked, field) = match method {
            30..35 => (byte_source::Client::TYPE_ID, 0, u32::from(of) % question, u16::from(pointer)),
            35.. => (entry_cursor::Client::TYPE_ID, 0, u32::from(of) % question, u16::from(pointer)),
            method => (fs::Client::TYPE_ID, u16::from(method), 1, 0),
        };
        target.set_question_id(asked);
        target.init_transform(1).get(0).set_get_pointer_field(field);
        call.set_interface_id(interface);
        call.set_method_id(method);
        // Most methods take a path, then bytes, and numbers: what is meant for another method is as good as any.
        let content = call.init_params().init_content();
        if number.is_multiple_of(3) {
            let mut params = content.init_as::<fs::read_params::Builder<'_>>();
            params.set_path(path);
            params.set_offset(u64::from(number));
        } else {
            let mut params = content.init_as::<fs::edit_params::Builder<'_>>();
            params.set_path(path);
            params.set_old(&data);
            params.set_new(path);
            params.set_all(all);
        }
    })
}
