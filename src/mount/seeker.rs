//! `SEEK_DATA` and `SEEK_HOLE`.
//!
//! Under writeback the kernel may hold bytes of a file that wsd has not seen, where wsd would see a hole. They
//! are brought in first. That makes the kernel send writes, which the threads of the mount must be free to
//! answer, so it happens in a thread of its own.

use super::answer::{Answer, Errno, Reply};
use super::device::contained;
use crate::store::rows::Ino;
use crate::vfs::{Seek, Vfs};
use fuser::Notifier;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

struct Job {
    ino: Ino,
    offset: u64,
    what: Seek,
    reply: Reply,
}

/// Where the requests go.
pub(super) struct Seeker {
    jobs: Sender<Job>,
}

impl Seeker {
    /// Starts the thread, which ends with its last request after the seeker is dropped.
    pub(super) fn start(
        vfs: Arc<Vfs>,
        notifier: Arc<OnceLock<Notifier>>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, inbox) = channel::<Job>();
        let thread = std::thread::Builder::new().name("wsd-seek".into()).spawn(move || {
            for Job { ino, offset, what, reply } in inbox {
                if let Some(notifier) = notifier.get() {
                    let _ = notifier.inval_inode(fuser::INodeNo(ino), 0, 0);
                }
                contained(ino, || {
                    reply.send(vfs.seek(ino, offset, what).map(Answer::Offset).map_err(Into::into));
                });
            }
        })?;
        Ok((Self { jobs }, thread))
    }

    pub(super) fn seek(&self, ino: Ino, offset: u64, what: Seek, reply: Reply) {
        if let Err(refused) = self.jobs.send(Job { ino, offset, what, reply }) {
            refused.0.reply.send(Err(Errno(libc::EIO)));
        }
    }
}
