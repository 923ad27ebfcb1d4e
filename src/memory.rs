//! Memory: what this process may have, and what the allocator keeps that was freed.
//!
//! Chunks of files are freed in another order than they were taken, and small things lie between them, so that glibc keeps most of
//! it: 386 MiB of a daemon that has 64 MiB in use. Taking each chunk from the system by itself would leave nothing behind, but
//! writing takes twice as long (0.66 s instead of 0.39 s for 256 MiB).
//!
//! glibc has a heap for each thread, so that they need not wait for each other, and what one thread has taken and another one given back is
//! not there for a third; see `docs/decisions/0019-little-memory.md`.

#![allow(unsafe_code)]

use crate::cgroup;

/// Bytes that this process may have: what the machine has, or the least that a control group it is in allows.
pub fn available() -> u64 {
    let machine = of_the_machine();
    cgroup::memory_limit().map_or(machine, |limit| limit.min(machine))
}

/// Bytes that the machine has.
pub fn of_the_machine() -> u64 {
    let system = rustix::system::sysinfo();
    (system.totalram as u64).saturating_mul(u64::from(system.mem_unit))
}

/// Gives the system back what it can have. Takes some milliseconds, in which others wait that need memory.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks, and gives back only pages that nothing is in.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// From now on threads share so many heaps. To be said before there are other threads, which keep what they have.
pub fn limit_heaps(heaps: u8) {
    #[cfg(not(target_env = "gnu"))]
    let _ = heaps;
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks, and changes a number that is looked at when a thread takes memory for the first time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, heaps.into());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_some_memory() {
        assert!(super::available() > 16 << 20);
    }
}
