//! What is found, while it is searched for.
//!
//! A search cannot be told to go on in the middle. When the connection is lost under one, it begins anew on the
//! next, and what was handed out already is left out; so that this stays small, only of the first million.

use super::error::{Failure, check};
use super::link::Link;
use super::vat::{Effect, TRIES, Vat};
use super::{Client, ClientError, FindOptions, GrepOptions, Match, PathEntry, convert};
use std::collections::HashSet;
use std::rc::Rc;
use tokio::sync::mpsc;
use wsd_schema::fs_capnp::{entry_cursor, match_cursor};

/// Things in a page.
const PAGE: u32 = 1000;

/// Most things that are remembered, in case they come again.
const REMEMBERED: usize = 1 << 20;

/// What is found, in portions or one by one.
#[derive(Debug)]
pub struct Cursor<T> {
    pages: mpsc::Receiver<Result<Vec<T>, ClientError>>,
    page: std::vec::IntoIter<T>,
    _client: Client,
}

impl<T> Cursor<T> {
    /// The next thing; none at the end. What could not be read is an error, and what else there is comes after it.
    pub async fn next(&mut self) -> Option<Result<T, ClientError>> {
        loop {
            if let Some(item) = self.page.next() {
                return Some(Ok(item));
            }
            match self.pages.recv().await? {
                Ok(page) => self.page = page.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Whether more is there already, without waiting.
    pub fn has_more_now(&self) -> bool {
        self.page.len() > 0 || !self.pages.is_empty()
    }
}

impl Client {
    /// What is below a path, filtered. Parents come before what is in them.
    pub async fn find(&self, options: FindOptions) -> Result<Cursor<PathEntry>, ClientError> {
        self.search(Entries(options)).await
    }

    /// The lines of files that a pattern matches.
    pub async fn grep(&self, options: GrepOptions) -> Result<Cursor<Match>, ClientError> {
        self.search(Matches(options)).await
    }

    async fn search<S: Search>(&self, search: S) -> Result<Cursor<S::Item>, ClientError> {
        let client = self.clone();
        self.run(move |vat| async move {
            let (send, pages) = mpsc::channel(1);
            let mut searching = Searching {
                vat,
                search,
                seen: HashSet::new(),
                unreadable: HashSet::new(),
                unreadable_here: HashSet::new(),
            };
            let open = searching.open().await?;
            tokio::task::spawn_local(async move {
                let ended = tokio::select! {
                    ended = searching.run(open, &send) => ended,
                    () = send.closed() => Ok(()),
                };
                if let Err(error) = ended {
                    drop(send.send(Err(error)).await);
                }
            });
            Ok(Cursor { pages, page: Vec::new().into_iter(), _client: client })
        })
        .await
    }
}

/// What the two kinds of searches differ in.
trait Search: Send + 'static {
    type Item: Send + 'static;
    type Cursor;

    /// Begins.
    fn open(&self, link: &Link) -> impl Future<Output = Result<Self::Cursor, Failure>>;

    /// The next page, and whether it is the last.
    fn page(cursor: &Self::Cursor) -> impl Future<Output = Result<(Vec<Self::Item>, bool), Failure>>;

    /// What tells a thing from the others.
    fn key(item: &Self::Item) -> (&[u8], u64);
}

struct Searching<S> {
    vat: Rc<Vat>,
    search: S,
    seen: HashSet<[u8; 16]>,
    /// What could not be read, on any connection and on this one.
    unreadable: HashSet<Vec<u8>>,
    unreadable_here: HashSet<Vec<u8>>,
}

impl<S: Search> Searching<S> {
    async fn open(&self) -> Result<(S::Cursor, Rc<Link>), ClientError> {
        let open = |link: &Rc<Link>| {
            let link = Rc::clone(link);
            async move { Ok((self.search.open(&link).await?, link)) }
        };
        self.vat.ask(Effect::Reads, open).await
    }

    async fn run(
        &mut self,
        open: (S::Cursor, Rc<Link>),
        pages: &mpsc::Sender<Result<Vec<S::Item>, ClientError>>,
    ) -> Result<(), ClientError> {
        let (mut cursor, mut link) = open;
        let mut is_again = false;
        let mut losses = 0;
        loop {
            match S::page(&cursor).await {
                Ok((mut page, is_last)) => {
                    let is_new = |item: &S::Item| self.is_new(item) || !is_again;
                    page.retain(is_new);
                    if !page.is_empty() {
                        losses = 0;
                    }
                    let is_gone = !page.is_empty() && pages.send(Ok(page)).await.is_err();
                    if is_last || is_gone {
                        return Ok(());
                    }
                }
                Err(failure) => {
                    let error = self.vat.judge(&link, failure, Effect::Reads);
                    if self.goes_on(&error) {
                        let is_new = self.unreadable.insert(error.path().to_owned());
                        if is_new && pages.send(Err(error)).await.is_err() {
                            return Ok(());
                        }
                        continue;
                    }
                    let is_lost = matches!(error, ClientError::Lost { .. });
                    if !is_lost || losses == TRIES || self.seen.len() >= REMEMBERED {
                        return Err(error);
                    }
                    losses += 1;
                    (cursor, link) = self.open().await?;
                    self.unreadable_here.clear();
                    is_again = true;
                }
            }
        }
    }

    /// Whether the daemon goes on after an error: one of a file or directory, which it says once.
    fn goes_on(&mut self, error: &ClientError) -> bool {
        let is_of_one = matches!(error, ClientError::Refused { .. }) && error.code() == "EIO";
        is_of_one
            && self.unreadable.len() < REMEMBERED
            && self.unreadable_here.insert(error.path().to_owned())
    }

    /// Takes note of something.
    fn is_new(&mut self, item: &S::Item) -> bool {
        if self.seen.len() >= REMEMBERED {
            return true;
        }
        let (path, offset) = S::key(item);
        let hash = blake3::Hasher::new().update(path).update(&offset.to_le_bytes()).finalize();
        let mut short = [0; 16];
        short.copy_from_slice(&hash.as_bytes()[..16]);
        self.seen.insert(short)
    }
}

struct Entries(FindOptions);

impl Search for Entries {
    type Item = PathEntry;
    type Cursor = entry_cursor::Client;

    async fn open(&self, link: &Link) -> Result<Self::Cursor, Failure> {
        let mut request = link.fs.find_request();
        convert::find_options(&self.0, request.get().init_options());
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        check(answer.get_error())?;
        Ok(answer.get_cursor()?)
    }

    async fn page(cursor: &Self::Cursor) -> Result<(Vec<PathEntry>, bool), Failure> {
        let mut request = cursor.next_request();
        request.get().set_limit(PAGE);
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        check(answer.get_error())?;
        let entries = answer.get_entries()?.iter().map(convert::path_entry).collect::<Result<_, _>>();
        Ok((entries?, answer.get_end()))
    }

    fn key(item: &PathEntry) -> (&[u8], u64) {
        (&item.path, 0)
    }
}

struct Matches(GrepOptions);

impl Search for Matches {
    type Item = Match;
    type Cursor = match_cursor::Client;

    async fn open(&self, link: &Link) -> Result<Self::Cursor, Failure> {
        let mut request = link.fs.grep_request();
        convert::grep_options(&self.0, request.get().init_options());
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        check(answer.get_error())?;
        Ok(answer.get_cursor()?)
    }

    async fn page(cursor: &Self::Cursor) -> Result<(Vec<Match>, bool), Failure> {
        let mut request = cursor.next_request();
        request.get().set_limit(PAGE);
        let answer = request.send().promise.await?;
        let answer = answer.get()?;
        check(answer.get_error())?;
        let matches = answer.get_matches()?.iter().map(convert::found).collect::<Result<_, _>>();
        Ok((matches?, answer.get_end()))
    }

    fn key(item: &Match) -> (&[u8], u64) {
        (&item.path, item.offset)
    }
}
