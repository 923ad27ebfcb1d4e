//! Workspaces in step with each other: a daemon as a hub, and how it is with its own upstream.
//!
//! Batches and objects are packed and unpacked by the caller: this thread only moves them.

use super::error::check;
use super::vat::Effect::{Changes, Reads};
use super::{Client, ClientError};
use crate::parcel::{self, PackedObject, PackedPortion, Parcel};
use crate::store::rows::Revision;
use crate::sync::link::{Hello, Pushed, Watermark, Welcome};
use crate::sync::status::Status;
use crate::sync::{Author, Cursor, Hash, NodeId};
use std::time::Duration;

impl Client {
    /// Says who this replica is.
    pub async fn hello(&self, hello: Hello) -> Result<Welcome, ClientError> {
        self.ask(Changes, move |link| {
            let mut request = link.sync().hello_request();
            parcel::write_hello(request.get().init_hello(), &hello);
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(parcel::read_welcome(answer.get_welcome()?)?)
            }
        })
        .await
    }

    /// What changed after a cursor; with a wait, not nothing as long as that takes no longer.
    pub async fn fetch_changes(
        &self,
        after: Option<Cursor>,
        ignore: Vec<String>,
        wait: Duration,
    ) -> Result<PackedPortion, ClientError> {
        self.ask(Reads, move |link| {
            let mut request = link.sync().fetch_changes_request();
            let mut params = request.get();
            params.set_wait_ms(u32::try_from(wait.as_millis()).unwrap_or(u32::MAX));
            if let Some(after) = after {
                parcel::write_cursor(params.reborrow().init_after(), after);
            }
            let mut patterns = params.init_ignore(u32::try_from(ignore.len()).unwrap_or(u32::MAX));
            for (index, pattern) in (0..).zip(&ignore) {
                patterns.set(index, pattern.as_str());
            }
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(PackedPortion::read(answer.get_portion()?)?)
            }
        })
        .await
    }

    /// These nodes as the hub has them: the first of them, at least one; and where the hub is.
    pub async fn read_entries(&self, ids: Vec<NodeId>) -> Result<(Parcel, Cursor), ClientError> {
        self.ask(Reads, move |link| {
            let mut request = link.sync().read_entries_request();
            let list = request.get().init_ids(u32::try_from(ids.len()).unwrap_or(u32::MAX));
            parcel::write_ids(list, &ids);
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok((Parcel::read(answer.get_entries()?)?, parcel::read_cursor(answer.get_at()?)?))
            }
        })
        .await
    }

    /// Which of these objects the hub lacks.
    pub async fn has_objects(&self, hashes: Vec<Hash>) -> Result<Vec<Hash>, ClientError> {
        self.ask(Reads, move |link| {
            let mut request = link.sync().has_objects_request();
            request.get().set_hashes(&parcel::hashes_of(&hashes));
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(parcel::hashes(answer.get_lacks()?)?)
            }
        })
        .await
    }

    /// The first of these objects, and how many were looked for.
    pub async fn fetch_objects(&self, hashes: Vec<Hash>) -> Result<(usize, Vec<PackedObject>), ClientError> {
        self.ask(Reads, move |link| {
            let mut request = link.sync().fetch_objects_request();
            request.get().set_hashes(&parcel::hashes_of(&hashes));
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok((answer.get_looked() as usize, parcel::read_objects(answer.get_objects()?)?))
            }
        })
        .await
    }

    /// Brings objects.
    pub async fn push_objects(&self, objects: Vec<PackedObject>) -> Result<(), ClientError> {
        self.ask(Changes, move |link| {
            let mut request = link.sync().push_objects_request();
            let list = request.get().init_objects(u32::try_from(objects.len()).unwrap_or(u32::MAX));
            parcel::write_objects(list, &objects);
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                check(answer.get()?.get_error())
            }
        })
        .await
    }

    /// Offers changes.
    pub async fn push(&self, offers: Parcel, up_to: Revision, life: Author) -> Result<Pushed, ClientError> {
        self.ask(Changes, move |link| {
            let mut request = link.sync().push_request();
            let mut params = request.get();
            params.set_up_to(up_to);
            params.set_life(&life.0);
            offers.write(params.init_offers());
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(parcel::read_pushed(answer.get_pushed()?)?)
            }
        })
        .await
    }

    /// The replicas that the daemon knows.
    pub async fn watermarks(&self) -> Result<Vec<Watermark>, ClientError> {
        self.ask(Reads, |link| {
            let asked = link.sync().watermarks_request().send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(parcel::read_watermarks(answer.get_watermarks()?)?)
            }
        })
        .await
    }

    /// Waits until the changes up to a revision (`None`: up to now) are on the upstream's disk; with `here`, or where
    /// there is no upstream: on the daemon's own. Where that disk is then.
    pub async fn flush_to(&self, revision: Option<Revision>, here: bool) -> Result<Cursor, ClientError> {
        self.ask(Reads, move |link| {
            let mut request = link.sync().flush_request();
            request.get().set_here(here);
            if let Some(revision) = revision {
                request.get().set_revision(revision);
            }
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(parcel::read_cursor(answer.get_cursor()?)?)
            }
        })
        .await
    }

    /// How the daemon is in step with its upstream.
    pub async fn sync_status(&self) -> Result<Status, ClientError> {
        self.ask(Reads, |link| {
            let asked = link.sync().status_request().send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(parcel::read_status(answer.get_status()?)?)
            }
        })
        .await
    }

    /// Pushes and pulls at once; returns when both are the same.
    pub async fn sync_now(&self) -> Result<Cursor, ClientError> {
        self.ask(Reads, |link| {
            let asked = link.sync().now_request().send().promise;
            async move {
                let answer = asked.await?;
                let answer = answer.get()?;
                check(answer.get_error())?;
                Ok(parcel::read_cursor(answer.get_cursor()?)?)
            }
        })
        .await
    }

    /// Has the daemon leave its upstream alone.
    pub async fn sync_pause(&self) -> Result<(), ClientError> {
        self.ask(Reads, |link| {
            let asked = link.sync().pause_request().send().promise;
            async move {
                let answer = asked.await?;
                check(answer.get()?.get_error())
            }
        })
        .await
    }

    /// Has it go on.
    pub async fn sync_resume(&self) -> Result<(), ClientError> {
        self.ask(Reads, |link| {
            let asked = link.sync().resume_request().send().promise;
            async move {
                let answer = asked.await?;
                check(answer.get()?.get_error())
            }
        })
        .await
    }

    /// Has it join an upstream that refused; with `merge` though the two are not related.
    pub async fn sync_join(&self, merge: bool) -> Result<(), ClientError> {
        self.ask(Changes, move |link| {
            let mut request = link.sync().join_request();
            request.get().set_merge(merge);
            let asked = request.send().promise;
            async move {
                let answer = asked.await?;
                check(answer.get()?.get_error())
            }
        })
        .await
    }
}
