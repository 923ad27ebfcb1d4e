//! Named points at which a test can make the disk fail.

use super::error::StoreError;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// A place in the store where a fault can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Before a group's transaction begins.
    CommitBegin,
    /// With a portion of a large group's bytes written, before its transaction commits.
    Ahead,
    /// With all of a group's rows written, before the transaction commits.
    CommitEnd,
    /// When a chunk is read.
    ChunkRead,
    /// Before what is known of the objects in a file is noted for another one.
    Pieces,
    /// When the WAL is folded into the file.
    Checkpoint,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No space left on the disk.
    Full,
    /// The disk does not read or write.
    Io,
    /// A defect of wsd.
    Panic,
}

/// The faults planted in one store.
#[derive(Debug, Default)]
pub struct Faults {
    any: AtomicBool,
    planted: Mutex<Vec<(Point, Fault, usize)>>,
}

impl Faults {
    /// Lets the next `times` passes of a point fail; 0 takes the fault away.
    pub fn plant(&self, point: Point, fault: Fault, times: usize) {
        let mut planted = self.planted.lock();
        planted.retain(|(at, ..)| *at != point);
        if times > 0 {
            planted.push((point, fault, times));
        }
        self.any.store(!planted.is_empty(), Ordering::Relaxed);
    }

    /// Passes a point.
    pub(super) fn pass(&self, point: Point) -> Result<(), StoreError> {
        if !self.any.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut planted = self.planted.lock();
        let Some((_, fault, times)) = planted.iter_mut().find(|(at, ..)| *at == point) else { return Ok(()) };
        let fault = *fault;
        *times -= 1;
        planted.retain(|(.., times)| *times > 0);
        self.any.store(!planted.is_empty(), Ordering::Relaxed);
        match fault {
            Fault::Full => Err(StoreError::Full),
            #[allow(clippy::panic, reason = "a test has asked for it")]
            Fault::Panic => panic!("planted at {point:?}"),
            Fault::Io => Err(StoreError::Disk(std::io::Error::from_raw_os_error(libc::EIO))),
        }
    }
}
