//! Bytes, both ways.

use super::driver::{Shared, blocking};
use crate::error::{FsError, FsResult};
use crate::sync::contents::{self, Record};
use crate::sync::entry::{ContentId, Hash};
use crate::sync::link::{Answer, LinkError, OBJECT_BYTES, OBJECTS_AT_ONCE, Object, Upstream};
use crate::sync::objects::{Assembly, Staged};
use futures::stream::{FuturesUnordered, StreamExt};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// Questions for objects that are under way at once.
const AT_ONCE: usize = 4;

/// Files in the making that are kept when a connection ends.
const ASSEMBLIES: usize = 16;

impl Shared {
    /// Puts a file together, from what is here and what upstream has.
    pub(super) async fn assemble<L: Upstream>(
        self: &Arc<Self>,
        link: &L,
        content: ContentId,
    ) -> Answer<Staged> {
        let kept = self.assemblies.lock().remove(&content);
        let mut assembly = match kept {
            Some(assembly) => assembly,
            None => {
                let shared = Arc::clone(self);
                blocking(move || Assembly::new(&shared.site.objects(), content)).await?
            }
        };
        loop {
            let wanted;
            (assembly, wanted) = blocking(move || {
                let wanted = assembly.advance()?;
                Ok((assembly, wanted))
            })
            .await?;
            if wanted.is_empty() {
                return Ok(assembly.done());
            }
            let mut came = Kept { shared: self, assembly: Some(assembly) };
            self.fetch_all(link, wanted, &mut came).await?;
            let Some(it) = came.assembly.take() else {
                return Err(LinkError::Failed("a file in the making was lost".to_owned()));
            };
            assembly = it;
        }
    }

    /// Gives up files in the making that nobody asks for any more: they take up room.
    pub(super) async fn keep_assemblies(&self, wanted: &[ContentId]) -> Answer<()> {
        let given_up: Vec<_> =
            self.assemblies.lock().extract_if(|content, _| !wanted.contains(content)).collect();
        if given_up.is_empty() {
            return Ok(());
        }
        blocking(move || {
            drop(given_up);
            Ok(())
        })
        .await
    }

    async fn fetch_all<L: Upstream>(&self, link: &L, wanted: Vec<Hash>, to: &mut Kept<'_>) -> Answer<()> {
        let share = wanted.len().div_ceil(AT_ONCE).max(1);
        let mut under_way: FuturesUnordered<_> =
            wanted.chunks(share).map(|hashes| fetch_some(link, hashes.to_vec())).collect();
        while let Some(answer) = under_way.next().await {
            let (objects, rest) = answer?;
            self.heard(None);
            let Some(mut assembly) = to.assembly.take() else { break };
            let assembly = blocking(move || {
                assembly.take(objects)?;
                Ok(assembly)
            })
            .await?;
            to.assembly = Some(assembly);
            if !rest.is_empty() {
                under_way.push(fetch_some(link, rest));
            }
        }
        Ok(())
    }

    /// Brings to upstream what it lacks of these contents.
    pub(super) async fn bring_contents<L: Upstream>(
        self: &Arc<Self>,
        link: &L,
        contents: Vec<ContentId>,
    ) -> Answer<()> {
        let mut walk = Walk::new(contents);
        loop {
            let shared = Arc::clone(self);
            let some;
            (walk, some) = blocking(move || {
                let some = walk.next(&shared)?;
                Ok((walk, some))
            })
            .await?;
            if some.is_empty() {
                return Ok(());
            }
            let lacks = link.lacks(some).await?;
            self.heard(None);
            self.bring(link, lacks).await?;
        }
    }

    /// Brings these objects, whatever upstream has.
    pub(super) async fn bring<L: Upstream>(self: &Arc<Self>, link: &L, hashes: Vec<Hash>) -> Answer<()> {
        let mut rest = hashes;
        let mut under_way = FuturesUnordered::new();
        while !rest.is_empty() {
            let shared = Arc::clone(self);
            let (looked_for, objects);
            (rest, looked_for, objects) = blocking(move || {
                let (looked_for, objects) = shared.site.fetch(&rest)?;
                Ok((rest, looked_for, objects))
            })
            .await?;
            rest.drain(..looked_for.clamp(1, rest.len()));
            if !objects.is_empty() {
                under_way.push(link.bring(objects));
            }
            while under_way.len() >= AT_ONCE || (rest.is_empty() && !under_way.is_empty()) {
                if let Some(answer) = under_way.next().await {
                    answer?;
                }
            }
        }
        Ok(())
    }
}

/// The objects of one question, and those hashes that did not fit its answer.
async fn fetch_some<L: Upstream>(link: &L, hashes: Vec<Hash>) -> Answer<(Vec<Object>, Vec<Hash>)> {
    let (looked_for, objects) = link.fetch(hashes.clone()).await?;
    if looked_for == 0 || (objects.is_empty() && looked_for >= hashes.len()) {
        // It has changed there meanwhile; what it has become will be told.
        return Err(LinkError::Failed(
            "upstream no longer has bytes that it told of: they are asked for again".to_owned(),
        ));
    }
    Ok((objects, hashes[looked_for.min(hashes.len())..].to_vec()))
}

/// A file in the making, which goes back to where it is kept when the connection ends.
struct Kept<'a> {
    shared: &'a Shared,
    assembly: Option<Assembly>,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        if let Some(assembly) = self.assembly.take() {
            let mut kept = self.shared.assemblies.lock();
            if kept.len() < ASSEMBLIES {
                kept.insert(assembly.id(), assembly);
            }
        }
    }
}

/// The objects of contents, one after the other, pages before what they list.
struct Walk {
    contents: VecDeque<ContentId>,
    open: Vec<(std::vec::IntoIter<Record>, u8)>,
    seen: HashSet<Hash>,
}

impl Walk {
    fn new(contents: Vec<ContentId>) -> Self {
        Self { contents: contents.into(), open: Vec::new(), seen: HashSet::new() }
    }

    /// Some of them; none: that was all.
    fn next(&mut self, shared: &Shared) -> FsResult<Vec<Hash>> {
        let mut some = Vec::new();
        while some.len() < OBJECTS_AT_ONCE {
            let (hash, depth) = match self.open.last_mut() {
                Some((records, depth)) => match records.next() {
                    Some(Record::Data(hash, _)) => (hash, *depth - 1),
                    Some(Record::Hole(_)) => continue,
                    None => {
                        self.open.pop();
                        continue;
                    }
                },
                None => match self.contents.pop_front() {
                    Some(content) => (content.hash, content.depth),
                    None => break,
                },
            };
            if depth > 0 {
                let page = shared.site.objects().get(&hash)?;
                let records = page.as_deref().and_then(contents::records);
                let records = records.ok_or_else(|| {
                    FsError::Io("a page of a content that is to be pushed is not here any more".into())
                })?;
                self.open.push((records.into_iter(), depth));
            }
            if self.seen.len() > 16 * OBJECTS_AT_ONCE {
                self.seen.clear();
            }
            if self.seen.insert(hash) {
                some.push(hash);
            }
        }
        Ok(some)
    }
}

/// Bytes of objects that one message may have.
const _: () = assert!(OBJECT_BYTES >= crate::sync::link::OBJECT_MAX);
