//! A limit of bandwidth: a bucket that fills at a rate, and that bytes are paid from.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// How much a bucket holds: what flows into it in this time.
const BURST: Duration = Duration::from_millis(250);

/// Counts what passes, and has it wait.
#[derive(Debug)]
pub(super) struct Meter {
    /// Bytes a second.
    rate: Option<u64>,
    /// When all that was paid so far has flowed in.
    settled: Mutex<Instant>,
}

impl Meter {
    pub(super) fn new(rate: Option<u64>) -> Self {
        Self { rate: rate.filter(|rate| *rate > 0), settled: Mutex::new(Instant::now()) }
    }

    /// Pays for bytes; returns when they may pass. What is more than the bucket holds passes all the same, and those who
    /// come later wait for it.
    pub(super) async fn pay(&self, bytes: usize) {
        let wait = self.due(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// How long these have to wait.
    fn due(&self, bytes: usize, now: Instant) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        let mut settled = self.settled.lock();
        *settled = (*settled).max(now) + Duration::from_secs_f64(bytes as f64 / rate as f64);
        settled.saturating_duration_since(now + BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long it takes to pay one after the other.
    fn seconds(rate: Option<u64>, payments: &[usize]) -> f64 {
        let (meter, begun) = (Meter::new(rate), Instant::now());
        let ended = payments.iter().fold(begun, |now, bytes| now + meter.due(*bytes, now));
        (ended - begun).as_secs_f64()
    }

    #[test]
    fn bytes_pass_at_the_rate_and_bursts_at_once() {
        assert_eq!(seconds(None, &[usize::MAX / 2]), 0.0);
        assert_eq!(seconds(Some(0), &[1 << 40]), 0.0);
        assert_eq!(seconds(Some(1000), &[200]), 0.0);
        let long = seconds(Some(1000), &[1000; 10]);
        assert!((9.0..=10.0).contains(&long), "{long}");
    }
}
