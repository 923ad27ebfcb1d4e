//! Requests that would wait, when too many wait already.
//!
//! Who writes faster than the disk is held up, and so is who waits for `fsync`. If every thread that answers the kernel were held
//! up so, a lookup that needs nothing but memory would wait with them: 7 s while 4 GiB were written. So one thread never
//! waits for the disk; what would have to is put aside, as its bytes, and one more thread does it.

use super::adapter::Adapter;
use super::answer::Reply;
use super::device::contained;
use super::request::Request;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

/// The threads that may wait at present, and what is put aside. The kernel bounds how much that is: it does not send more
/// at a time than `max_background`, and than there are callers.
#[derive(Debug)]
pub(super) struct Waiting {
    free: AtomicUsize,
    aside: Sender<Aside>,
}

/// A request that somebody else answers.
pub(super) type Aside = (Vec<u8>, Reply);

/// A place among the threads that may wait.
pub(super) struct Seat<'a>(&'a Waiting);

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::Release);
    }
}

impl Waiting {
    /// So many threads may wait; the rest comes out at the other end.
    pub(super) fn new(seats: usize) -> (Self, Receiver<Aside>) {
        let (aside, rest) = channel();
        (Self { free: AtomicUsize::new(seats), aside }, rest)
    }

    /// A place, unless all are taken.
    pub(super) fn seat(&self) -> Option<Seat<'_>> {
        let taken =
            self.free.fetch_update(Ordering::Acquire, Ordering::Relaxed, |free| free.checked_sub(1)).is_ok();
        taken.then(|| Seat(self))
    }

    /// Has the other thread answer.
    pub(super) fn put_aside(&self, request: &[u8], reply: Reply) {
        if self.aside.send((request.to_vec(), reply)).is_err() {
            tracing::error!("a request of the kernel could not be put aside");
        }
    }
}

/// Answers what was put aside, until nobody puts anything aside any more.
pub(super) fn answer(rest: &Receiver<Aside>, adapter: &Adapter) {
    while let Ok((bytes, reply)) = rest.recv() {
        if let Some(request) = Request::parse(&bytes) {
            contained(request.node, || adapter.serve(&request, reply));
        }
    }
}
