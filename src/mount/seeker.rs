//! `SEEK_DATA` and `SEEK_HOLE`.
//!
//! Under writeback the kernel may hold bytes of a file that wsd has not seen, where wsd would see a hole. They
//! are brought in first. That makes the kernel send writes, which the threads of the mount must be free to
//! answer, so it happens in a thread of its own.

use super::convert::errno;
use crate::store::rows::Ino;
use crate::vfs::{Seek, Vfs};
use fuser::{Notifier, ReplyLseek};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

struct Job {
    ino: Ino,
    offset: u64,
    what: Seek,
    reply: ReplyLseek,
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
                match vfs.seek(ino, offset, what) {
                    Ok(offset) => reply.offset(offset as i64),
                    Err(error) => reply.error(errno(&error)),
                }
            }
        })?;
        Ok((Self { jobs }, thread))
    }

    pub(super) fn seek(&self, ino: Ino, offset: u64, what: Seek, reply: ReplyLseek) {
        if let Err(refused) = self.jobs.send(Job { ino, offset, what, reply }) {
            refused.0.reply.error(fuser::Errno::EIO);
        }
    }
}
