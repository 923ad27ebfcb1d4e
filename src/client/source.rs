//! A file that is read as a stream.
//!
//! A few portions are asked for ahead, so that the distance to the daemon costs little; each holds a permit until
//! the reader has taken it, so that a slow reader keeps no more than these few in memory.

use super::convert;
use super::error::{Failure, check};
use super::link::Link;
use super::vat::{Effect, TRIES, Vat};
use super::{Attr, Client, ClientError};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use wsd_schema::fs_capnp::byte_source;

/// Bytes of a portion.
const PORTION: u32 = 1 << 20;

/// Portions that are under way or wait for the reader.
const WINDOW: usize = 4;

type Portion = (Bytes, OwnedSemaphorePermit);

/// The bytes of a file, in order.
#[derive(Debug)]
pub struct ByteStream {
    attr: Attr,
    portions: mpsc::Receiver<Result<Portion, ClientError>>,
    _client: Client,
}

impl ByteStream {
    /// The file's attributes when it was opened.
    pub fn attr(&self) -> &Attr {
        &self.attr
    }

    /// The next bytes; none at the end and after an error.
    pub async fn next(&mut self) -> Option<Result<Bytes, ClientError>> {
        let portion = self.portions.recv().await?;
        Some(portion.map(|(bytes, _permit)| bytes))
    }
}

impl Client {
    /// Reads a file, or a range of it. When the connection is lost it goes on over the next one, if the file is
    /// still the same.
    pub async fn read_file(
        &self,
        path: impl AsRef<[u8]>,
        offset: u64,
        length: Option<u64>,
    ) -> Result<ByteStream, ClientError> {
        let path = path.as_ref().to_owned();
        let client = self.clone();
        self.run(move |vat| async move {
            let end = length.map_or(u64::MAX, |length| offset.saturating_add(length));
            let mut reading = Reading { vat, path, offset, end, first: None, losses: 0 };
            let open = reading.open().await?;
            let attr = open.attr;
            let (send, portions) = mpsc::channel(WINDOW + 1);
            tokio::task::spawn_local(async move { reading.run(open, send).await });
            Ok(ByteStream { attr, portions, _client: client })
        })
        .await
    }
}

/// Where a stream is in its file.
struct Reading {
    vat: Rc<Vat>,
    path: Vec<u8>,
    offset: u64,
    end: u64,
    /// The file when it was opened first.
    first: Option<Attr>,
    /// Connections lost since bytes came.
    losses: usize,
}

struct Open {
    attr: Attr,
    source: byte_source::Client,
    link: Rc<Link>,
}

impl Reading {
    /// Opens the file where we are.
    async fn open(&mut self) -> Result<Open, ClientError> {
        let open = self.vat.ask(Effect::Reads, |link| {
            let mut request = link.fs.read_file_request();
            let mut params = request.get();
            params.set_path(&self.path);
            params.set_offset(self.offset);
            params.set_length(self.end - self.offset);
            let (asked, link) = (request.send().promise, Rc::clone(link));
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(Open { attr: convert::attr(answer.get_attr()?)?, source: answer.get_source()?, link })
            }
        });
        let open = open.await?;
        let first = self.first.get_or_insert(open.attr);
        if (first.ino, first.revision) != (open.attr.ino, open.attr.revision) {
            let message = "the connection was lost, and the file has changed since: read it anew";
            return Err(ClientError::refusal("ESTALE", message, &self.path));
        }
        Ok(open)
    }

    async fn run(&mut self, mut open: Open, portions: mpsc::Sender<Result<Portion, ClientError>>) {
        let permits = Arc::new(Semaphore::new(WINDOW));
        let mut asked = FuturesOrdered::new();
        let mut ahead = self.offset;
        loop {
            // Beyond what the file had there is most likely nothing, so that is asked for once.
            let wants_more = asked.is_empty() || ahead < open.attr.size.min(self.end);
            let answer = tokio::select! {
                () = portions.closed() => return,
                Some(answer) = asked.next() => answer,
                Ok(permit) = Arc::clone(&permits).acquire_owned(), if wants_more => {
                    asked.push_back(portion(&open.source, permit));
                    ahead += u64::from(PORTION);
                    continue;
                }
            };
            match answer {
                Ok((bytes, permit, is_end)) => {
                    self.offset += bytes.len() as u64;
                    self.losses = 0;
                    if !bytes.is_empty() && portions.send(Ok((bytes, permit))).await.is_err() || is_end {
                        return;
                    }
                }
                Err(failure) => {
                    asked.clear();
                    match self.resume(&open.link, failure).await {
                        Ok(again) => open = again,
                        Err(error) => return drop(portions.send(Err(error)).await),
                    }
                    ahead = self.offset;
                }
            }
        }
    }

    /// Goes on over the next connection, if it was only the connection.
    async fn resume(&mut self, link: &Link, failure: Failure) -> Result<Open, ClientError> {
        self.losses += 1;
        match self.vat.judge(link, failure, Effect::Reads) {
            ClientError::Lost { .. } if self.losses <= TRIES => self.open().await,
            error => Err(error),
        }
    }
}

fn portion(
    source: &byte_source::Client,
    permit: OwnedSemaphorePermit,
) -> impl Future<Output = Result<(Bytes, OwnedSemaphorePermit, bool), Failure>> + use<> {
    let mut request = source.next_request();
    request.get().set_count(PORTION);
    let asked = request.send().promise;
    async move {
        let answer = asked.await?;
        let answer = answer.get()?;
        check(answer.get_error())?;
        Ok((Bytes::copy_from_slice(answer.get_data()?), permit, answer.get_end()))
    }
}
