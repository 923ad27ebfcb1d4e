//! Waiting for a peer's next message without going to sleep, where that pays.
//!
//! To sleep and to be woken is two thirds of the time of a small call. A peer that makes one call after the other is back in
//! less time than that, so its thread looks for the next message a few times more before it sleeps. Whether that pays is
//! learnt from how long the peer took before, so peers that take longer cost nothing; KVM polls for a halted processor in the
//! same way (`Documentation/virt/kvm/halt-polling.rst` of Linux). Figures: `docs/decisions/0012-busy-polling.md`.

use std::num::NonZero;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

/// How long to look for the next message.
const LOOK: Duration = Duration::from_micros(150);

/// Who comes in this time, through two threads that slept, may well come in [`LOOK`] if one did not.
const QUICK: Duration = Duration::from_micros(400);

/// Quick messages after which looking may pay, and twice as many after each time that it did not.
const TRUST: u32 = 4;
const MOST_TRUST: u32 = 4096;

/// One thread at a time: the other processors have something else to do.
static LOOKING: AtomicBool = AtomicBool::new(false);

/// Whether there is a processor to spare. A quota counts.
static SPARE: LazyLock<bool> =
    LazyLock::new(|| std::thread::available_parallelism().is_ok_and(|count| count > NonZero::<usize>::MIN));

/// What is known of how fast a peer comes back.
pub(super) struct Haste {
    /// [`LOOK`]; `None` if there is no processor to spare.
    look: Option<Duration>,
    /// [`QUICK`].
    within: Duration,
    /// Quick messages; half of them are forgotten with each that is not.
    quick: u32,
    /// As many as are needed.
    needed: u32,
}

/// The right to look.
struct Looking;

impl Looking {
    fn begin() -> Option<Self> {
        (!LOOKING.swap(true, Ordering::Relaxed)).then_some(Self)
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        LOOKING.store(false, Ordering::Relaxed);
    }
}

impl Haste {
    pub(super) fn new() -> Self {
        Self { look: SPARE.then_some(LOOK), within: QUICK, quick: 0, needed: TRUST }
    }

    /// The peer's next message. In a runtime of one thread, whose other tasks go on meanwhile.
    pub(super) async fn wait<T>(&mut self, mut message: impl Future<Output = T> + Unpin) -> T {
        let begun = Instant::now();
        if let Some(look) = self.look
            && self.quick >= self.needed
            && let Some(_looking) = Looking::begin()
        {
            while begun.elapsed() < look {
                if let Poll::Ready(message) = futures::poll!(&mut message) {
                    self.needed = TRUST;
                    return message;
                }
                // The runtime asks the kernel for news before it goes on here.
                tokio::task::yield_now().await;
            }
            (self.quick, self.needed) = (0, (2 * self.needed).min(MOST_TRUST));
        }
        let message = message.await;
        // One that is late now and then is quick all the same.
        self.quick =
            if begun.elapsed() < self.within { self.quick.saturating_add(1) } else { self.quick / 2 };
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Context;

    /// Comes when it is asked for often enough, and wakes nobody.
    fn silent(mut after: u32) -> impl Future<Output = ()> + Unpin {
        std::future::poll_fn(move |_: &mut Context<'_>| {
            after -= 1;
            if after == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
    }

    #[tokio::test]
    async fn who_is_quick_is_looked_for_and_who_disappoints_has_to_be_quick_for_longer() {
        let ages = Duration::from_secs(600);
        let mut haste = Haste { look: Some(ages), within: ages, ..Haste::new() };
        let sleeps = async |haste: &mut Haste| futures::poll!(pin!(haste.wait(silent(2)))).is_pending();
        for _ in 0..TRUST {
            assert!(sleeps(&mut haste).await, "nothing is known of it yet");
            haste.wait(silent(1)).await;
        }
        haste.wait(silent(3)).await;
        // It does not come in time: then it is slept for.
        (haste.look, haste.within) = (Some(Duration::from_millis(1)), Duration::from_millis(50));
        let begun = Instant::now();
        haste.wait(Box::pin(tokio::time::sleep(2 * haste.within))).await;
        assert!(begun.elapsed() >= 2 * haste.within);
        assert_eq!((haste.quick, haste.needed), (0, 2 * TRUST));
        (haste.look, haste.within) = (Some(ages), ages);
        for _ in 0..2 * TRUST {
            assert!(sleeps(&mut haste).await);
            haste.wait(silent(1)).await;
        }
        haste.wait(silent(3)).await;
        assert_eq!(haste.needed, TRUST, "it pays again");
        haste.look = None;
        assert!(sleeps(&mut haste).await, "there is no processor to spare");
    }

    #[tokio::test]
    async fn who_is_always_just_too_late_is_looked_for_ever_more_seldom() {
        let mut haste =
            Haste { look: Some(Duration::ZERO), within: Duration::from_secs(600), ..Haste::new() };
        let mut looks = 0;
        for _ in 0..20 * MOST_TRUST {
            looks += u32::from(haste.quick >= haste.needed);
            haste.wait(silent(1)).await;
        }
        assert!((10..32).contains(&looks), "{looks}");
    }
}
