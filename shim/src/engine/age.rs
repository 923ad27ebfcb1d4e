//! How long ago a time was, and whether the clock has ticked since.

use super::QUIET;
use crate::tree::Facts;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A time of modification that is younger may not move with the next write.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// The same where times are whole seconds (ext4 with small inodes, HFS+) or every other one (FAT).
const COARSE_TICK: Duration = Duration::from_millis(2020);

/// How old a time of modification must be for the next write to move it.
pub(super) fn tick_of(facts: &Facts) -> Duration {
    let is_whole = |nanos: u64| nanos.is_multiple_of(1_000_000_000);
    if is_whole(facts.mtime.unsigned_abs()) && is_whole(facts.change) { COARSE_TICK } else { TICK }
}

/// How long ago a time was; `None` if it is to come, or not known.
pub(super) fn age_of(nanos: u64) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    // Clocks that tick are behind, others may be a little ahead.
    match now.checked_sub(Duration::from_nanos(nanos)) {
        None if Duration::from_nanos(nanos).checked_sub(now)? < QUIET => Some(Duration::ZERO),
        age => age,
    }
}
