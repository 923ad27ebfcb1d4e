//! The connection to the kernel: greeting it, and answering it from several threads.

use super::adapter::Adapter;
use super::answer::Reply;
use super::request::{self, Request};
use super::waiting::{self, Waiting};
use crate::store::rows::Ino;
use fuser::{Filesystem, InitFlags, KernelConfig};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Bytes of the largest content of a request: what the kernel allows (`fs.fuse.max_pages_limit`).
const MAX_REQUEST: u32 = 1 << 20;

/// Requests that may be in flight in the background (read-ahead, writeback): enough for what is read ahead. Whatever else a program
/// asks for stands behind them: while one wrote 3 GiB, a `mkdir` took 24 to 53 ms (99th of 100) with 4, 94 to 216 with 12, and 203
/// to 356 with 64.
const MAX_BACKGROUND: u16 = 12;

const WISHES: &[InitFlags] = &[
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_BIG_WRITES,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_WRITEBACK_CACHE,
    InitFlags::FUSE_NO_OPEN_SUPPORT,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    InitFlags::FUSE_EXPORT_SUPPORT,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
];

/// What fuser is given: it greets the kernel, and is asked nothing more.
#[derive(Debug)]
pub(super) struct Greeting;

impl Filesystem for Greeting {
    fn init(&mut self, _: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        for wish in WISHES {
            if let Err(missing) = config.add_capabilities(*wish) {
                tracing::debug!(?missing, "this kernel does not offer all that would help");
            }
        }
        let _ = config.set_max_write(MAX_REQUEST);
        if let Err(most) = config.set_max_readahead(MAX_REQUEST) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }
}

/// The threads that answer.
pub(super) struct Threads(Vec<JoinHandle<()>>);

impl Threads {
    /// Starts them. They end when the mount does.
    pub(super) fn start(device: OwnedFd, adapter: Adapter, count: usize) -> io::Result<Self> {
        let (device, adapter) = (Arc::new(device), Arc::new(adapter));
        let (waiting, rest) = Waiting::new(count.saturating_sub(1));
        let waiting = Arc::new(waiting);
        let threads = (0..count).map(|number| {
            let (device, adapter, waiting) =
                (Arc::clone(&device), Arc::clone(&adapter), Arc::clone(&waiting));
            let thread = std::thread::Builder::new().name(format!("wsd-fuse-{number}"));
            thread.spawn(move || answer(&device, &adapter, &waiting))
        });
        let mut threads = threads.collect::<io::Result<Vec<_>>>()?;
        let thread = std::thread::Builder::new().name("wsd-fuse-aside".into());
        threads.push(thread.spawn(move || waiting::answer(&rest, &adapter))?);
        Ok(Self(threads))
    }

    /// Whether the kernel is answered.
    pub(super) fn are_at_work(&self) -> bool {
        self.0.iter().any(|thread| !thread.is_finished())
    }
}

fn answer(device: &Arc<OwnedFd>, adapter: &Adapter, waiting: &Waiting) {
    let page = rustix::param::page_size();
    let mut memory = vec![0; MAX_REQUEST as usize + 3 * page];
    // What is written begins on a page: the kernel copies a page to a page.
    let begin = page - (memory.as_ptr() as usize + request::BEFORE_CONTENT) % page;
    let room = &mut memory[begin..];
    loop {
        match rustix::io::read(&**device, &mut *room) {
            Ok(length) => match Request::parse(&room[..length]) {
                Some(request) => {
                    let reply = Reply::new(device, request.unique);
                    if !adapter.may_wait(&request) {
                        contained(request.node, || adapter.serve(&request, reply));
                    } else if let Some(_seat) = waiting.seat() {
                        contained(request.node, || adapter.serve(&request, reply));
                    } else {
                        waiting.put_aside(&room[..length], reply);
                    }
                }
                None => tracing::error!(length, "what the kernel sent is no request"),
            },
            // A request that was taken back, and the like.
            Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => {}
            // The mount is gone.
            Err(Errno::NODEV) => return,
            Err(error) => {
                tracing::error!(%error, "the kernel can no longer be answered");
                return;
            }
        }
    }
}

/// Serves a request. A flaw in that is an error to the one program that asked, and the thread goes on.
pub(super) fn contained(node: Ino, serve: impl FnOnce()) {
    // Locks are let go of as the stack is unwound; what they keep may have changed by half.
    if std::panic::catch_unwind(AssertUnwindSafe(serve)).is_err() {
        tracing::error!(node, "a flaw in wsd: a request of the kernel could not be served");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_flaw_is_an_error_of_one_request() {
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let device = Arc::new(theirs.into());
        let reply = Reply::new(&device, 7);
        contained(1, || {
            let _reply = reply;
            panic!("a flaw");
        });
        let mut answer = [0; 16];
        ours.read_exact(&mut answer).unwrap();
        let part = |at: usize| answer[at..at + 4].try_into().unwrap();
        assert_eq!((i32::from_ne_bytes(part(4)), u32::from_ne_bytes(part(8))), (-libc::EIO, 7));
    }
}
