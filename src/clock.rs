//! The time of day, in the one representation the whole daemon uses.

use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the Unix epoch, negative before it. Covers the years 1677 to 2262; times outside are
/// clamped to that range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

const NANOS: i64 = 1_000_000_000;

impl Timestamp {
    /// The current time, with the kernel's tick granularity.
    ///
    /// The kernel stamps the files it writes back with its coarse clock. A finer clock here would make a file
    /// that was written later look older than one created earlier, and `make` would rebuild for nothing.
    pub fn now() -> Self {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        Self::from_parts(t.tv_sec, t.tv_nsec.unsigned_abs() as u32)
    }

    /// From seconds and the nanoseconds within that second.
    pub fn from_parts(sec: i64, nsec: u32) -> Self {
        let nanos = i128::from(sec) * i128::from(NANOS) + i128::from(nsec);
        Self(nanos.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
    }

    /// Seconds, rounded towards the past.
    pub fn sec(self) -> i64 {
        self.0.div_euclid(NANOS)
    }

    /// Nanoseconds within the second, 0 to 999,999,999.
    pub fn nsec(self) -> u32 {
        self.0.rem_euclid(NANOS) as u32
    }
}

impl From<SystemTime> for Timestamp {
    fn from(t: SystemTime) -> Self {
        let nanos = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        match t.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(nanos(after)),
            Err(before) => Self(nanos(before.duration()).saturating_neg()),
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(t: Timestamp) -> Self {
        let magnitude = Duration::from_nanos(t.0.unsigned_abs());
        if t.0 >= 0 { UNIX_EPOCH + magnitude } else { UNIX_EPOCH - magnitude }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch_round_trip() {
        for nanos in [0, 1, -1, 1_500_000_000, -1_500_000_000, i64::MAX, i64::MIN + 1] {
            let t = Timestamp(nanos);
            assert_eq!(Timestamp::from(SystemTime::from(t)), t);
            assert_eq!(Timestamp::from_parts(t.sec(), t.nsec()), t);
        }
    }

    #[test]
    fn times_out_of_range_are_clamped() {
        assert_eq!(Timestamp::from_parts(i64::MAX, 5), Timestamp(i64::MAX));
        assert_eq!(Timestamp::from_parts(i64::MIN, 0), Timestamp(i64::MIN));
    }
}
