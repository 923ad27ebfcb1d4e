//! The store's file and its WAL, below SQLite: written so that the disk has them for certain.
//!
//! Writing a page over itself is not enough. ext4 (6.18, seen) notes that a block is written when the first try succeeds, and
//! when that failed never does, for as long as the page is in the kernel's memory: the block reads as zeros afterwards. So the
//! kernel is made to forget a page that was written, and what it then reads is compared. If it is something else, the block is
//! new to ext4 the next time.

use crate::store::READERS;
use crate::store::error::{StoreError, StoreResult};
use crate::store::frames::Frames;
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::io::{ErrorKind, Result};
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Bytes that the kernel forgets at a time: whole pages of any kernel's, and of the large ones that it keeps files in, which it
/// forgets wholly or not at all.
pub(in crate::store) const PIECE: u64 = 4 << 20;

/// How often the same is written before the disk is taken to be failing still.
const TRIES: usize = 3;

/// The two files. All but reading is for who has the writer.
#[derive(Debug)]
pub(in crate::store) struct Files {
    database: PathBuf,
    wal: PathBuf,
    /// Shared by who reads: between forgetting and writing there is what the disk has.
    gate: RwLock<()>,
    /// Opened when they are needed first, and closed after SQLite's connections: SQLite's locks end when any descriptor of the
    /// file in this process is closed.
    open: OnceLock<[File; 2]>,
    /// Held by who opens them: a second pair would have to be closed.
    opening: Mutex<()>,
}

impl Files {
    pub(in crate::store) fn new(database: PathBuf, wal: PathBuf) -> Self {
        Self { database, wal, gate: RwLock::new(()), open: OnceLock::new(), opening: Mutex::new(()) }
    }

    /// Keeps the bytes as they are for as long as the guard is there, for somebody who reads, who may do so already.
    pub(in crate::store) fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read_recursive()
    }

    fn nobody_reading(&self) -> StoreResult<RwLockWriteGuard<'_, ()>> {
        self.gate.try_write_for(READERS).ok_or(StoreError::Busy)
    }

    fn open(&self) -> Result<&[File; 2]> {
        if let Some(open) = self.open.get() {
            return Ok(open);
        }
        let _one = self.opening.lock();
        if let Some(open) = self.open.get() {
            return Ok(open);
        }
        let open = |path| File::options().read(true).write(true).open(path);
        let wal = open(&self.wal)?;
        // Last: what is opened must not be closed.
        let database = open(&self.database)?;
        Ok(self.open.get_or_init(|| [database, wal]))
    }

    /// Has the kernel forget a piece of the file, except for what it has still to write.
    pub(in crate::store) fn forget(&self, piece: u64) -> Result<()> {
        let [database, _] = self.open()?;
        forget(database, piece, Some(PIECE))
    }

    /// Has the kernel fetch pages of the file, without waiting for them.
    pub(in crate::store) fn fetch(&self, at: u64, length: u64) -> Result<()> {
        let [database, _] = self.open()?;
        Ok(fadvise(database, at, NonZero::new(length), Advice::WillNeed)?)
    }

    /// Returns when the disk has the WAL.
    pub(super) fn sync_wal(&self) -> Result<()> {
        let [_, wal] = self.open()?;
        wal.sync_data()
    }

    /// Writes the first frames of the WAL again, from the kernel's memory; how many bytes. [`StoreError::Lost`]: they are not
    /// there any more.
    pub(super) fn write_wal_again(&self, frames: u64) -> StoreResult<u64> {
        let [_, wal] = self.open()?;
        // What it says may be of before.
        let _ = wal.sync_data();
        let mut written = 0;
        each_piece(wal, frames, |piece, at| {
            let _nobody = self.nobody_reading()?;
            write_again(wal, piece, at)?;
            written += piece.len() as u64;
            Ok(())
        })?;
        // What follows is of transactions that came to nothing. The next ones are written there.
        forget(wal, written, None)?;
        Ok(written)
    }

    /// Sees to it that the disk has the pages of the file that are in the WAL, which has been folded; how many there are.
    pub(super) fn mend_file(&self, frames: u64) -> StoreResult<usize> {
        if frames == 0 {
            return Ok(0);
        }
        let [database, wal] = self.open()?;
        let frames = each_piece(wal, frames, |_, _| Ok(()))?;
        for _ in 0..TRIES {
            let synced = database.sync_data();
            if self.mend(database, wal, &frames)? == 0 && synced.is_ok() {
                return Ok(frames.pages().len());
            }
        }
        Err(StoreError::Disk(does_not_keep()))
    }

    /// Writes those pages that are not as they are in the WAL; how many.
    fn mend(&self, database: &File, wal: &File, frames: &Frames) -> StoreResult<usize> {
        let size = frames.page_size();
        let (mut has, mut wants) = (vec![0; size], vec![0; size]);
        let (length, mut mended) = (database.metadata()?.len(), 0);
        let places = frames.pages().iter().map(|(page, at)| (u64::from(page - 1) * size as u64, *at));
        // What is behind the end has been cut off since.
        let mut pages = places.take_while(|(place, _)| place + size as u64 <= length).peekable();
        while let Some((first, _)) = pages.peek() {
            let piece = first - first % PIECE;
            let _nobody = self.nobody_reading()?;
            forget(database, piece, Some(PIECE))?;
            while let Some((place, at)) = pages.next_if(|(place, _)| *place < piece + PIECE) {
                database.read_exact_at(&mut has, place)?;
                wal.read_exact_at(&mut wants, at)?;
                if has != wants {
                    database.write_all_at(&wants, place)?;
                    mended += 1;
                }
            }
        }
        Ok(mended)
    }
}

/// Does something with each piece of the WAL that has some of the first frames, which are returned.
fn each_piece(
    wal: &File,
    frames: u64,
    mut work: impl FnMut(&[u8], u64) -> StoreResult<()>,
) -> StoreResult<Frames> {
    let mut frames = Frames::new(frames);
    let mut piece = vec![0; PIECE as usize];
    let mut at = 0;
    while !frames.are_all() {
        let length = fill(wal, &mut piece, at)?;
        if length == 0 || !frames.take(&piece[..length]) {
            return Err(StoreError::Lost);
        }
        work(&piece[..length], at)?;
        at += length as u64;
    }
    Ok(frames)
}

/// Writes a piece that is there already. Not forgotten before that is known to be possible: it may be nowhere else.
fn write_again(file: &File, bytes: &[u8], at: u64) -> Result<()> {
    let mut back = vec![0; bytes.len()];
    for _ in 0..TRIES {
        file.write_all_at(bytes, at)?;
        file.sync_data()?;
        forget(file, at, Some(PIECE))?;
        file.read_exact_at(&mut back, at)?;
        if back == bytes {
            return Ok(());
        }
    }
    Err(does_not_keep())
}

/// Has the kernel forget what it has no need to write, of so many bytes or to the end.
fn forget(file: &File, at: u64, length: Option<u64>) -> Result<()> {
    Ok(fadvise(file, at, length.and_then(NonZero::new), Advice::DontNeed)?)
}

/// Reads until there is no room or no more.
fn fill(file: &File, into: &mut [u8], at: u64) -> Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match file.read_at(&mut into[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn does_not_keep() -> std::io::Error {
    std::io::Error::other("it does not keep what is written to it")
}
