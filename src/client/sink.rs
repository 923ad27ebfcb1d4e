//! A file that is written as a stream, at the daemon's pace.

use super::error::{Failure, check};
use super::link::Link;
use super::vat::{Effect, Vat};
use super::{Attr, Client, ClientError, WriteOptions, convert};
use bytes::Bytes;
use std::rc::Rc;
use tokio::sync::{mpsc, oneshot};
use wsd_schema::fs_capnp::byte_sink;

/// Most bytes that are sent in one message.
const PORTION: usize = 1 << 20;

enum Step {
    Bytes(Bytes),
    Done { sync: bool },
}

/// A file that is being written. It appears when it is finished; dropping this gives it up.
#[derive(Debug)]
pub struct Writer {
    steps: mpsc::Sender<Step>,
    outcome: oneshot::Receiver<Result<Attr, ClientError>>,
    _client: Client,
}

impl Writer {
    /// Adds bytes; waits while the daemon has enough to do.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), ClientError> {
        match self.steps.send(Step::Bytes(bytes)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    /// The file is complete. With `sync` it is on the disk when this returns.
    pub async fn finish(mut self, sync: bool) -> Result<Attr, ClientError> {
        match self.steps.send(Step::Done { sync }).await {
            Ok(()) => self.outcome.await.map_err(|_| super::ended())?,
            Err(_) => Err(self.failure().await),
        }
    }

    /// Why no more is taken.
    async fn failure(&mut self) -> ClientError {
        match (&mut self.outcome).await {
            Ok(Err(error)) => error,
            Ok(Ok(_)) | Err(_) => super::ended(),
        }
    }
}

impl Client {
    /// Writes a whole file, made or replaced. Readers see the old bytes until it is finished.
    pub async fn write_file(
        &self,
        path: impl AsRef<[u8]>,
        options: WriteOptions,
    ) -> Result<Writer, ClientError> {
        let path = path.as_ref().to_owned();
        let client = self.clone();
        self.run(move |vat| async move {
            // Nothing has changed before it is finished, so that this may be tried again.
            let (sink, link) = vat.ask(Effect::Reads, |link| open(link, &path, &options)).await?;
            let (steps, queue) = mpsc::channel(1);
            let (report, outcome) = oneshot::channel();
            tokio::task::spawn_local(async move {
                let writing = Writing { vat, sink, link };
                if let Some(result) = writing.run(queue).await {
                    let _ = report.send(result);
                }
            });
            Ok(Writer { steps, outcome, _client: client })
        })
        .await
    }
}

fn open(
    link: &Rc<Link>,
    path: &[u8],
    options: &WriteOptions,
) -> impl Future<Output = Result<(byte_sink::Client, Rc<Link>), Failure>> + use<> {
    let mut request = link.fs.write_file_request();
    let mut params = request.get();
    params.set_path(path);
    convert::write_options(options, params.init_options());
    let (asked, link) = (request.send().promise, Rc::clone(link));
    async move {
        let answer = asked.await?;
        let answer = answer.get()?;
        check(answer.get_error())?;
        Ok((answer.get_sink()?, link))
    }
}

struct Writing {
    vat: Rc<Vat>,
    sink: byte_sink::Client,
    link: Rc<Link>,
}

impl Writing {
    /// Nothing when the writer gave up.
    async fn run(self, mut queue: mpsc::Receiver<Step>) -> Option<Result<Attr, ClientError>> {
        while let Some(step) = queue.recv().await {
            match step {
                Step::Bytes(bytes) => {
                    if let Err(error) = self.write(bytes).await {
                        return Some(Err(error));
                    }
                }
                Step::Done { sync } => {
                    let done = self.done(sync).await;
                    return Some(
                        done.map_err(|failure| self.vat.judge(&self.link, failure, Effect::Changes)),
                    );
                }
            }
        }
        None
    }

    async fn write(&self, mut bytes: Bytes) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            let portion = bytes.split_to(bytes.len().min(PORTION));
            let mut request = self.sink.write_request();
            request.get().set_bytes(&portion);
            if let Err(error) = request.send().await {
                return Err(self.explain(error.into()).await);
            }
        }
        Ok(())
    }

    /// Why a portion was not taken: `done` knows, if the connection is still there.
    async fn explain(&self, failure: Failure) -> ClientError {
        let error = self.vat.judge(&self.link, failure, Effect::Reads);
        if matches!(error, ClientError::Lost { .. }) {
            return error;
        }
        match self.done(false).await {
            Err(Failure::Told(told)) => told,
            Ok(_) | Err(Failure::Broken(_)) => error,
        }
    }

    async fn done(&self, sync: bool) -> Result<Attr, Failure> {
        let mut request = self.sink.done_request();
        request.get().set_sync(sync);
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        check(answer.get_error())?;
        Ok(convert::attr(answer.get_attr()?)?)
    }
}
