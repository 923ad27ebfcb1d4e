//! The memory that the daemon has, shared out.
//!
//! A container has a limit for all that is in it: the daemon, what the kernel keeps of the mount and of the store, and the commands. A
//! daemon that takes no notice of it is killed with everything that nobody has synced, or waits for memory that is full of pages which only
//! it can take. See `docs/decisions/0019-little-memory.md`.

use crate::config::{DEFAULT_CACHE, LEAST_CACHE};
use crate::memory;

/// Bytes that the process needs beside its cache.
const BESIDES: u64 = 64 << 20;

/// Bytes that the caches get. To be asked before there are threads.
pub(super) fn share_out(asked: Option<u64>) -> u64 {
    let available = memory::available();
    let cache_bytes = asked.unwrap_or_else(|| fitting(available));
    memory::limit_heaps(if cache_bytes < DEFAULT_CACHE { 1 } else { 2 });
    if cache_bytes.saturating_add(BESIDES) > available {
        tracing::warn!(
            cache_bytes,
            besides = BESIDES,
            available,
            "memory is short: the machine, or the control group of this process, has less than the cache and the rest of the daemon \
             may need, and the kernel may kill it"
        );
    }
    cache_bytes
}

/// An eighth, within what is sensible.
fn fitting(available: u64) -> u64 {
    (available / 8).clamp(LEAST_CACHE, DEFAULT_CACHE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_fits_into_what_memory_there_is() {
        for (available, cache) in [(64, 16), (128, 16), (256, 32), (512, 64), (2048, 256), (1 << 20, 256)] {
            assert_eq!(fitting(available << 20), cache << 20, "{available} MiB");
        }
    }
}
