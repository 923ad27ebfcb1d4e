//! The shadow's file: what was agreed on, kept through crashes.
//!
//! A head that says whose shadow it is, then frames, each with a check over its bytes. A frame is taken whole or not at
//! all, and what follows one that is torn is not looked at: so appending one is atomic. When the file has become twice
//! what it needs to be, a new one takes its place by rename.
//!
//! What the shim itself does to a side must never look like something that others did, even if it crashes before it has
//! kept that. So a place is forgotten in the file before anything is done to it. A place that is forgotten is looked at
//! as if it were new on both sides, which is safe: at worst a removal is undone, or two versions are kept.

use super::{Entry, Shadow};
use crate::tree::{Facts, Kind, Path};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

/// What the file begins with; its last byte is the version.
const MAGIC: &[u8; 8] = b"wsdshim\x01";

/// Bytes of a frame after which the next one begins.
const FRAME: usize = 4 << 20;

/// Bytes that the file may be larger than it needs to be.
const SLACK: u64 = 1 << 20;

const PUT: u8 = 1;
const REMOVE: u8 = 2;

/// What is to be stored of a shadow.
#[derive(Debug)]
pub struct Batch {
    whole: bool,
    bytes: Vec<u8>,
}

/// The file that a shadow is kept in.
#[derive(Debug)]
pub struct ShadowFile {
    path: PathBuf,
    /// Which two trees it is about. That of others is not believed.
    identity: Vec<u8>,
    file: Option<File>,
    len: u64,
    /// It does not have what the shadow has: the next batch is all of it.
    is_stale: bool,
    /// Places that were forgotten since the last batch was prepared.
    forgotten: Vec<Path>,
}

impl ShadowFile {
    /// What was agreed on, if the file is there and about these two trees.
    pub fn load(path: PathBuf, identity: Vec<u8>) -> io::Result<(Self, Option<Shadow>)> {
        let mut kept = Self { path, identity, file: None, len: 0, is_stale: true, forgotten: Vec::new() };
        let mut bytes = Vec::new();
        match File::open(&kept.path) {
            Ok(mut file) => file.read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((kept, None)),
            Err(error) => return Err(error),
        };
        let head = kept.head();
        let Some(mut rest) = bytes.strip_prefix(&head[..]) else { return Ok((kept, None)) };
        let mut shadow = Shadow::default();
        let mut len = head.len();
        while let Some((payload, after)) = frame(rest) {
            if apply(&mut shadow, payload).is_none() {
                break;
            }
            len = bytes.len() - after.len();
            rest = after;
        }
        shadow.unsaved.clear();
        let mut file = File::options().write(true).open(&kept.path)?;
        file.set_len(len as u64)?;
        file.seek(SeekFrom::End(0))?;
        (kept.len, kept.file, kept.is_stale) = (len as u64, Some(file), false);
        Ok((kept, Some(shadow)))
    }

    fn head(&self) -> Vec<u8> {
        let mut head = MAGIC.to_vec();
        head.extend((self.identity.len() as u32).to_le_bytes());
        head.extend(&self.identity);
        head
    }

    /// What is new in the shadow, which counts as kept from now on: [`ShadowFile::write`] must follow, when what was
    /// agreed on is on the disk on both sides.
    pub fn prepare(&mut self, shadow: &mut Shadow) -> Batch {
        let whole = self.is_stale || self.len > 2 * needed(shadow) + SLACK;
        let bytes = if whole {
            let mut bytes = self.head();
            bytes.extend(frames(shadow.iter().map(|(path, entry)| (path, Some(entry)))));
            bytes
        } else {
            frames(shadow.unsaved.iter().map(|path| (path, shadow.entries.get(path))))
        };
        shadow.unsaved.clear();
        self.forgotten.clear();
        Batch { whole, bytes }
    }

    /// Stores what was prepared, and returns what is to be brought to the disk then: that takes a while, in which
    /// something may have to be forgotten. After a failure the next batch has all of the shadow.
    pub fn write(&mut self, mut batch: Batch) -> io::Result<Option<File>> {
        batch.bytes.extend(frames(self.forgotten.drain(..).as_slice().iter().map(|path| (path, None))));
        let written = if batch.whole { self.rewrite(&batch.bytes) } else { self.append(&batch.bytes) };
        self.is_stale = written.is_err();
        written?;
        self.file.as_ref().map(File::try_clone).transpose()
    }

    /// Forgets places that something is about to be done to. A crash of the process does not bring them back.
    pub fn forget(&mut self, places: &[Path]) -> io::Result<()> {
        self.forgotten.extend_from_slice(places);
        if self.file.is_none() {
            // Nobody knows what is in it: everything is forgotten.
            self.is_stale = true;
            return self.rewrite(&self.head());
        }
        self.append(&frames(places.iter().map(|path| (path, None))))
    }

    /// Whether the next batch has all of the shadow.
    pub fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// After this the next batch has all of the shadow.
    pub fn distrust(&mut self) {
        self.is_stale = true;
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Err(io::Error::other("there is no file")) };
        if let Err(error) = file.write_all(bytes) {
            // What is torn ends the file: nothing may follow it.
            (self.file, self.is_stale) = (None, true);
            return Err(error);
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn rewrite(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file = None;
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        let mut file = File::create(&name)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&name, &self.path)?;
        if let Some(parent) = self.path.parent() {
            File::open(parent)?.sync_all()?;
        }
        self.len = bytes.len() as u64;
        self.file = Some(file);
        Ok(())
    }
}

impl Shadow {
    /// Whether the file does not have all of it.
    pub fn is_unsaved(&self) -> bool {
        !self.unsaved.is_empty()
    }
}

fn needed(shadow: &Shadow) -> u64 {
    shadow.iter().map(|(path, _)| path.len() as u64 + 5 + 2 * FACTS as u64 + 32).sum()
}

/// The payload of the first frame, and what follows it.
fn frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (check, rest) = rest.split_first_chunk::<8>()?;
    let payload = rest.get(..u32::from_le_bytes(*len) as usize)?;
    (check == &check_of(payload)).then_some((payload, &rest[payload.len()..]))
}

fn check_of(payload: &[u8]) -> [u8; 8] {
    let mut check = [0; 8];
    check.copy_from_slice(&blake3::hash(payload).as_bytes()[..8]);
    check
}

fn frames<'a>(entries: impl Iterator<Item = (&'a Path, Option<&'a Entry>)>) -> Vec<u8> {
    let (mut all, mut payload) = (Vec::new(), Vec::new());
    let close = |payload: &mut Vec<u8>, all: &mut Vec<u8>| {
        if !payload.is_empty() {
            all.extend((payload.len() as u32).to_le_bytes());
            all.extend(check_of(payload));
            all.append(payload);
        }
    };
    for (path, entry) in entries {
        payload.push(if entry.is_some() { PUT } else { REMOVE });
        payload.extend((path.len() as u32).to_le_bytes());
        payload.extend(path);
        if let Some(entry) = entry {
            put_facts(&mut payload, &entry.work);
            put_facts(&mut payload, &entry.host);
            payload.extend(entry.digest);
        }
        if payload.len() > FRAME {
            close(&mut payload, &mut all);
        }
    }
    close(&mut payload, &mut all);
    all
}

/// Takes a frame; `None` if it is not what [`frames`] makes.
fn apply(shadow: &mut Shadow, mut rest: &[u8]) -> Option<()> {
    while let Some((op, after)) = rest.split_first() {
        let (len, after) = after.split_first_chunk::<4>()?;
        let (path, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        rest = after;
        match *op {
            PUT => {
                let work = take_facts(&mut rest)?;
                let host = take_facts(&mut rest)?;
                let (digest, after) = rest.split_first_chunk::<32>()?;
                rest = after;
                shadow.put(path.to_vec(), Entry { work, host, digest: *digest });
            }
            REMOVE => drop(shadow.remove(path)),
            _ => return None,
        }
    }
    Some(())
}

/// Bytes of stored facts.
const FACTS: usize = 45;

fn put_facts(bytes: &mut Vec<u8>, facts: &Facts) {
    bytes.push(facts.kind as u8);
    for number in [facts.mode, facts.uid, facts.gid] {
        bytes.extend(number.to_le_bytes());
    }
    for number in [facts.id, facts.size, facts.mtime.cast_unsigned(), facts.change] {
        bytes.extend(number.to_le_bytes());
    }
}

fn take_facts(rest: &mut &[u8]) -> Option<Facts> {
    let (bytes, after) = rest.split_first_chunk::<FACTS>()?;
    *rest = after;
    let kind = match bytes[0] {
        1 => Kind::File,
        2 => Kind::Dir,
        3 => Kind::Symlink,
        _ => return None,
    };
    let small = |at: usize| Some(u32::from_le_bytes(bytes[at..at + 4].try_into().ok()?));
    let large = |at: usize| Some(u64::from_le_bytes(bytes[at..at + 8].try_into().ok()?));
    Some(Facts {
        kind,
        mode: small(1)?,
        uid: small(5)?,
        gid: small(9)?,
        id: large(13)?,
        size: large(21)?,
        mtime: large(29)?.cast_signed(),
        change: large(37)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::entry;
    use super::*;

    fn save(file: &mut ShadowFile, shadow: &mut Shadow) {
        let batch = file.prepare(shadow);
        file.write(batch).unwrap();
    }

    fn same(a: &Shadow, b: &Shadow) -> bool {
        a.iter().eq(b.iter())
    }

    #[test]
    fn what_was_saved_is_loaded_and_a_torn_end_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shadow");
        let load = || ShadowFile::load(path.clone(), b"me".to_vec()).unwrap();
        let (mut file, none) = load();
        assert!(none.is_none());
        let mut shadow = Shadow::default();
        let mut states = Vec::new();
        for number in 0..40u64 {
            shadow.put(format!("f{}", number % 7).into_bytes(), entry(number));
            if number % 3 == 0 {
                shadow.remove(format!("f{}", number % 5).as_bytes());
            }
            save(&mut file, &mut shadow);
            states.push((fs::metadata(&path).unwrap().len(), shadow.entries.clone()));
        }
        assert!(same(&load().1.unwrap(), &shadow) && !load().1.unwrap().is_unsaved());
        let bytes = fs::read(&path).unwrap();
        for cut in (states[0].0..bytes.len() as u64).step_by(101) {
            fs::write(&path, &bytes[..cut as usize]).unwrap();
            let expected = &states.iter().rev().find(|(len, _)| *len <= cut).unwrap().1;
            let (mut file, loaded) = load();
            let mut loaded = loaded.unwrap();
            assert_eq!(&loaded.entries, expected);
            loaded.put(b"after".to_vec(), entry(1));
            save(&mut file, &mut loaded);
            assert!(same(&load().1.unwrap(), &loaded), "what follows a torn end is read");
        }
    }

    #[test]
    fn what_was_forgotten_is_not_brought_back_by_an_older_batch() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shadow");
        for kept_before in [false, true] {
            let (mut file, _) = ShadowFile::load(path.clone(), b"me".to_vec()).unwrap();
            let mut shadow = Shadow::default();
            if kept_before {
                save(&mut file, &mut shadow);
            }
            shadow.put(b"a".to_vec(), entry(1));
            shadow.put(b"b".to_vec(), entry(2));
            let batch = file.prepare(&mut shadow);
            file.forget(&[b"a".to_vec()]).unwrap();
            file.write(batch).unwrap();
            let loaded = ShadowFile::load(path.clone(), b"me".to_vec()).unwrap().1.unwrap();
            assert_eq!(loaded.iter().map(|(path, _)| &path[..]).collect::<Vec<_>>(), [b"b"]);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn that_of_other_trees_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shadow");
        let (mut file, _) = ShadowFile::load(path.clone(), b"me".to_vec()).unwrap();
        save(&mut file, &mut Shadow::default());
        assert!(ShadowFile::load(path.clone(), b"you".to_vec()).unwrap().1.is_none());
        assert!(ShadowFile::load(path.clone(), b"me".to_vec()).unwrap().1.is_some());
        fs::write(&path, b"rubbish").unwrap();
        assert!(ShadowFile::load(path, b"me".to_vec()).unwrap().1.is_none());
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shadow");
        let (mut file, _) = ShadowFile::load(path.clone(), Vec::new()).unwrap();
        let mut shadow = Shadow::default();
        for round in 0..30u64 {
            for number in 0..1000u64 {
                shadow.put(format!("f{number}").into_bytes(), entry(round));
            }
            save(&mut file, &mut shadow);
        }
        assert!(fs::metadata(&path).unwrap().len() < 2 * SLACK);
    }
}
