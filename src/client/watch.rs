//! What changes, as it changes, over as many connections as it takes.

use super::convert;
use super::error::check;
use super::link::Link;
use super::vat::{Effect, TRIES, Vat, losses_with};
use super::{Changes, Client, ClientError};
use std::rc::Rc;
use tokio::sync::mpsc;
use wsd_schema::fs_capnp::watch;

/// Most changes at a time.
const LIMIT: u32 = 1000;

/// How long the daemon waits for one before it says that there was none.
const WAIT_MS: u32 = 30_000;

/// What changes below a path.
#[derive(Debug)]
pub struct Watcher {
    revision: u64,
    batches: mpsc::Receiver<Result<Changes, ClientError>>,
    _client: Client,
}

impl Watcher {
    /// The revision that it began after.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The next changes, each once; none after an error.
    pub async fn next(&mut self) -> Option<Result<Changes, ClientError>> {
        self.batches.recv().await
    }
}

impl Client {
    /// Watches a path, with `recursive` all below it; after a revision, or from now on. When the connection is
    /// lost it goes on over the next one, where it was.
    pub async fn watch(
        &self,
        path: impl AsRef<[u8]>,
        recursive: bool,
        after: Option<u64>,
    ) -> Result<Watcher, ClientError> {
        let path = path.as_ref().to_owned();
        let client = self.clone();
        self.run(move |vat| async move {
            let mut watching = Watching { vat, path, recursive, after };
            let open = watching.open().await?;
            let revision = *watching.after.get_or_insert(open.0);
            let (send, batches) = mpsc::channel(1);
            tokio::task::spawn_local(async move {
                let ended = tokio::select! {
                    ended = watching.run(open, &send) => ended,
                    () = send.closed() => Ok(()),
                };
                if let Err(error) = ended {
                    drop(send.send(Err(error)).await);
                }
            });
            Ok(Watcher { revision, batches, _client: client })
        })
        .await
    }
}

struct Watching {
    vat: Rc<Vat>,
    path: Vec<u8>,
    recursive: bool,
    /// The last revision that was delivered.
    after: Option<u64>,
}

type Open = (u64, watch::Client, Rc<Link>);

impl Watching {
    /// Watches from where we are; the revision that is.
    async fn open(&self) -> Result<Open, ClientError> {
        let open = self.vat.ask(Effect::Reads, |link| {
            let mut request = link.fs.watch_request();
            let mut params = request.get();
            params.set_path(&self.path);
            params.set_recursive(self.recursive);
            if let Some(after) = self.after {
                params.set_after(after);
            }
            let (asked, link) = (request.send().promise, Rc::clone(link));
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok((answer.get_revision(), answer.get_watch()?, link))
            }
        });
        open.await
    }

    async fn run(
        &mut self,
        open: Open,
        batches: &mpsc::Sender<Result<Changes, ClientError>>,
    ) -> Result<(), ClientError> {
        let (_, mut watch, mut link) = open;
        let mut losses = 0;
        loop {
            match next(&watch).await {
                Ok(changes) => {
                    losses = 0;
                    self.after = Some(changes.up_to);
                    let has_news = changes.dropped || !changes.changes.is_empty();
                    if has_news && batches.send(Ok(changes)).await.is_err() {
                        return Ok(());
                    }
                }
                Err(failure) => match self.vat.judge(&link, failure, Effect::Reads) {
                    ClientError::Lost { .. } if losses < TRIES => {
                        losses = losses_with(losses, &link);
                        (_, watch, link) = self.open().await?;
                    }
                    error => return Err(error),
                },
            }
        }
    }
}

async fn next(watch: &watch::Client) -> Result<Changes, super::Failure> {
    let mut request = watch.next_request();
    let mut params = request.get();
    params.set_limit(LIMIT);
    params.set_wait_ms(WAIT_MS);
    let answer = request.send().promise.await?;
    let answer = answer.get()?;
    check(answer.get_error())?;
    let changes = answer.get_changes()?.iter().map(convert::change).collect::<Result<_, _>>();
    Ok(Changes { changes: changes?, up_to: answer.get_up_to(), dropped: answer.get_dropped() })
}
