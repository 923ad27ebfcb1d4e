//! The link from a replica to its hub: one connection over [`crate::client`].
//!
//! It does not connect again by itself: a connection that is lost is [`LinkError::Lost`], and whoever drives sync dials
//! another one when the time has come, and says hello on it. What has much in it is packed and unpacked in threads of
//! its own. `meter`: the limit of bandwidth.

mod meter;
#[cfg(test)]
mod tests;

use crate::client::{Client, ClientError, ClientOptions};
use crate::parcel::{self, Encoding, Parcel, Wrong};
use crate::store::rows::Revision;
use crate::sync::link::{
    Answer, Hello, LinkError, OBJECT_BYTES, OBJECTS_AT_ONCE, Object, Portion, Pushed, Told, Upstream,
    Watermark, Welcome,
};
use crate::sync::{Author, Cursor, Entry, Hash, NodeId, Offer};
use futures::stream::{self, StreamExt, TryStreamExt};
use meter::Meter;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Calls for objects that are under way at a time.
const LANES: usize = 4;

/// Objects that one of them asks for: most are of 64 KiB, so that an answer is neither small nor full.
const LANE: usize = 24;

/// How long a hub may be silent before the connection counts as lost.
const SILENCE: Duration = Duration::from_secs(60);

/// Where the hub is, and how to talk to it.
#[derive(Clone, Debug)]
pub struct Dial {
    /// ws:// or wss://.
    pub url: String,
    /// The hub's secret.
    pub token: Option<String>,
    /// A file of certificates in PEM that are trusted too.
    pub ca: Option<PathBuf>,
    /// Most bytes of batches and objects in a second, both directions together; `None`: as many as go.
    pub bandwidth: Option<u64>,
}

/// A connection to a hub.
#[derive(Clone, Debug)]
pub struct Link {
    client: Client,
    meter: Arc<Meter>,
}

impl crate::replica::Dial for Dial {
    type Link = Link;

    async fn dial(&self) -> Answer<Link> {
        Link::dial(self).await
    }
}

impl Link {
    /// Connects.
    pub async fn dial(dial: &Dial) -> Answer<Self> {
        let options = ClientOptions {
            token: dial.token.clone(),
            ca: dial.ca.clone(),
            redial: false,
            silence: SILENCE,
            ..ClientOptions::new(&dial.url)
        };
        let client = Client::connect(options).await.map_err(judge)?;
        Ok(Self { client, meter: Arc::new(Meter::new(dial.bandwidth)) })
    }

    /// Objects of one lane, however many answers they take.
    async fn lane(&self, hashes: &[Hash]) -> Answer<Vec<Object>> {
        let (mut rest, mut objects) = (hashes, Vec::new());
        while !rest.is_empty() {
            let (looked, packed) = self.client.fetch_objects(rest.to_vec()).await.map_err(judge)?;
            if looked == 0 || looked > rest.len() {
                return Err(LinkError::Failed(format!(
                    "the hub says it looked for {looked} of {}",
                    rest.len()
                )));
            }
            self.meter.pay(packed.iter().map(parcel::PackedObject::cost).sum()).await;
            let found = work(move || parcel::unpack_objects(packed)).await?;
            if found.iter().any(|object| !rest.contains(&object.hash)) {
                return Err(LinkError::Failed("the hub sent an object that nobody asked for".to_owned()));
            }
            objects.extend(found);
            rest = &rest[looked..];
        }
        Ok(objects)
    }

    async fn bring_some(&self, objects: Vec<Object>) -> Answer<()> {
        let packed = work(move || Ok(parcel::pack_objects(objects, Encoding::Zstd))).await?;
        self.meter.pay(packed.iter().map(parcel::PackedObject::cost).sum()).await;
        self.client.push_objects(packed).await.map_err(judge)
    }

    async fn entries(&self, parcel: Parcel) -> Answer<Vec<Told<Entry>>> {
        self.meter.pay(parcel.data.len()).await;
        work(move || parcel::unpack_entries(parcel)).await
    }
}

/// What a failure means to whoever drives sync.
fn judge(error: ClientError) -> LinkError {
    let text = error.to_string();
    match error {
        ClientError::Refused { code, message, .. } => match code.as_str() {
            "EREFUSED" | "EPROTOCOL" | "EAUTH" => LinkError::Refused(message),
            "ESHUTDOWN" => LinkError::Lost(message),
            "ENOSPC" => LinkError::Full(message),
            "EAGAIN" => LinkError::in_words(message),
            _ => LinkError::Failed(text),
        },
        ClientError::Secret { url } => {
            LinkError::Refused(format!("{url} wants another secret than the one given: set UPSTREAM_TOKEN"))
        }
        ClientError::Connect { is_temporary: false, .. }
        | ClientError::Url { .. }
        | ClientError::Protocol { .. } => LinkError::Refused(text),
        ClientError::Connect { .. } | ClientError::Lost { .. } | ClientError::Closed(_) => {
            LinkError::Lost(text)
        }
    }
}

/// Does what keeps a processor busy where nobody waits for it.
async fn work<T: Send + 'static>(work: impl FnOnce() -> Result<T, Wrong> + Send + 'static) -> Answer<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(wrong)) => Err(LinkError::Failed(format!("what was sent makes no sense: {wrong}"))),
        Err(error) => Err(LinkError::Failed(error.to_string())),
    }
}

/// Objects in groups that fit a call.
fn groups(objects: Vec<Object>) -> Vec<Vec<Object>> {
    let (mut groups, mut bytes) = (Vec::<Vec<Object>>::new(), 0);
    for object in objects {
        bytes += object.bytes.len();
        match groups.last_mut() {
            Some(group) if bytes <= OBJECT_BYTES && group.len() < OBJECTS_AT_ONCE => group.push(object),
            _ => {
                bytes = object.bytes.len();
                groups.push(vec![object]);
            }
        }
    }
    groups
}

impl Upstream for Link {
    async fn hello(&self, hello: Hello) -> Answer<Welcome> {
        self.client.hello(hello).await.map_err(judge)
    }

    async fn changes(
        &self,
        after: Option<Cursor>,
        ignore: Vec<String>,
        wait: Option<Duration>,
    ) -> Answer<Portion> {
        let told = self.client.fetch_changes(after, ignore, wait.unwrap_or_default()).await.map_err(judge)?;
        let entries = match told.entries {
            Some(parcel) => self.entries(parcel).await?,
            None => Vec::new(),
        };
        Ok(Portion { entries, up_to: told.up_to, more: told.more, reset: told.reset, now: told.now })
    }

    async fn read_entries(&self, ids: Vec<NodeId>) -> Answer<(Vec<Told<Entry>>, Cursor)> {
        let (mut found, mut latest) = (Vec::with_capacity(ids.len()), Cursor::default());
        while found.len() < ids.len() {
            let rest = &ids[found.len()..];
            let asked = rest[..rest.len().min(crate::sync::link::BATCH_ENTRIES)].to_vec();
            let (parcel, at) = self.client.read_entries(asked.clone()).await.map_err(judge)?;
            latest = at;
            let some = self.entries(parcel).await?;
            let answers = some.iter().zip(&asked).all(|(told, id)| told.what.id == *id);
            if some.is_empty() || some.len() > asked.len() || !answers {
                return Err(LinkError::Failed(
                    "the hub did not tell of the nodes it was asked for".to_owned(),
                ));
            }
            found.extend(some);
        }
        Ok((found, latest))
    }

    async fn lacks(&self, hashes: Vec<Hash>) -> Answer<Vec<Hash>> {
        let mut lacks = Vec::new();
        for some in hashes.chunks(OBJECTS_AT_ONCE) {
            lacks.extend(self.client.has_objects(some.to_vec()).await.map_err(judge)?);
        }
        Ok(lacks)
    }

    async fn fetch(&self, hashes: Vec<Hash>) -> Answer<(usize, Vec<Object>)> {
        let looked = hashes.len().min(LANES * LANE);
        let lanes = hashes[..looked].chunks(LANE).map(|lane| self.lane(lane)).collect::<Vec<_>>();
        let found: Vec<Vec<Object>> = stream::iter(lanes).buffered(LANES).try_collect().await?;
        Ok((looked, found.concat()))
    }

    async fn bring(&self, objects: Vec<Object>) -> Answer<()> {
        let calls = groups(objects).into_iter().map(|group| self.bring_some(group)).collect::<Vec<_>>();
        stream::iter(calls).buffer_unordered(LANES).try_collect().await
    }

    async fn push(&self, offers: Vec<Told<Offer>>, up_to: Revision, life: Author) -> Answer<Pushed> {
        let parcel = work(move || parcel::pack_offers(&offers, Encoding::Zstd)).await?;
        self.meter.pay(parcel.data.len()).await;
        self.client.push(parcel, up_to, life).await.map_err(judge)
    }

    async fn flush(&self, revision: Revision) -> Answer<Cursor> {
        self.client.flush_to(Some(revision), true).await.map_err(judge)
    }

    async fn watermarks(&self) -> Answer<Vec<Watermark>> {
        self.client.watermarks().await.map_err(judge)
    }
}
