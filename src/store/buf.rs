//! File bytes in memory, counted.

use super::rows::CHUNK;
use parking_lot::Mutex;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// How many bytes of file content are in memory. Shared by every [`Buf`] and [`Weight`] that counts against it.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<Counted>);

#[derive(Debug, Default)]
struct Counted {
    bytes: AtomicU64,
    /// Room of chunks that are gone, for the next ones: memory that is new to the process costs the kernel more than all that
    /// wsd does with it (a fifth of the processor's time of a large write).
    spare: Mutex<Vec<Vec<u8>>>,
    /// What is counted and what is spare may be so many bytes.
    limit: u64,
}

impl Gauge {
    /// One that keeps the room of chunks, as long as that and what is counted are no more than `limit` bytes.
    pub fn keeping(limit: u64) -> Self {
        Self(Arc::new(Counted { limit, ..Counted::default() }))
    }

    /// Bytes now.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Gives spare room back.
    pub fn give_back(&self) {
        let spare = std::mem::take(&mut *self.0.spare.lock());
        drop(spare);
    }

    fn take(&self) -> Vec<u8> {
        let spare = self.0.spare.lock().pop();
        spare.unwrap_or_else(|| Vec::with_capacity(CHUNK))
    }

    fn keep(&self, mut room: Vec<u8>) {
        if room.capacity() != CHUNK || self.0.limit == 0 {
            return;
        }
        let mut spare = self.0.spare.lock();
        if self.bytes() + (spare.len() as u64 + 1) * CHUNK as u64 <= self.0.limit {
            room.clear();
            spare.push(room);
        }
    }
}

/// At most one chunk of file content. Bytes past its end, up to the chunk's, are zero.
#[derive(Debug)]
pub struct Buf {
    bytes: Vec<u8>,
    counted: u64,
    gauge: Gauge,
    hash: OnceLock<blake3::Hash>,
}

impl Buf {
    /// Takes the bytes and counts them.
    pub fn new(bytes: Vec<u8>, gauge: &Gauge) -> Self {
        let mut buf = Self { bytes, counted: 0, gauge: gauge.clone(), hash: OnceLock::new() };
        buf.recount();
        buf
    }

    /// A copy of bytes.
    pub fn copied(bytes: &[u8], gauge: &Gauge) -> Self {
        if bytes.len() != CHUNK {
            return Self::new(bytes.to_vec(), gauge);
        }
        let mut room = gauge.take();
        room.extend_from_slice(bytes);
        Self::new(room, gauge)
    }

    /// A whole chunk of zeros.
    pub fn blank(gauge: &Gauge) -> Self {
        let mut room = gauge.take();
        room.resize(CHUNK, 0);
        Self::new(room, gauge)
    }

    /// The same bytes, counted elsewhere.
    pub fn recounted(mut self, gauge: &Gauge) -> Self {
        Self::new(std::mem::take(&mut self.bytes), gauge)
    }

    /// The hash of the bytes; computed once.
    pub fn hash(&self) -> &blake3::Hash {
        self.hash.get_or_init(|| blake3::hash(&self.bytes))
    }

    /// Puts bytes at a place; zeros fill what lies between it and the end before.
    pub fn write(&mut self, at: usize, data: &[u8]) {
        if self.bytes.len() < at {
            self.bytes.resize(at, 0);
        }
        let (over, beyond) = data.split_at(data.len().min(self.bytes.len() - at));
        self.bytes[at..at + over.len()].copy_from_slice(over);
        self.bytes.extend_from_slice(beyond);
        self.recount();
    }

    /// Makes the content `len` bytes long, cutting it or adding zeros.
    pub fn resize(&mut self, len: usize) {
        self.bytes.resize(len, 0);
        self.recount();
    }

    /// The bytes have changed.
    fn recount(&mut self) {
        self.hash.take();
        let now = self.bytes.capacity() as u64;
        if now >= self.counted {
            self.gauge.0.bytes.fetch_add(now - self.counted, Ordering::Relaxed);
        } else {
            self.gauge.0.bytes.fetch_sub(self.counted - now, Ordering::Relaxed);
        }
        self.counted = now;
    }
}

impl Clone for Buf {
    fn clone(&self) -> Self {
        Self::copied(&self.bytes, &self.gauge)
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        self.gauge.0.bytes.fetch_sub(self.counted, Ordering::Relaxed);
        self.gauge.keep(std::mem::take(&mut self.bytes));
    }
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.hash.take();
        &mut self.bytes
    }
}

/// Bytes of something else, which count like file content for as long as this is kept.
#[derive(Debug)]
pub struct Weight {
    bytes: u64,
    gauge: Gauge,
}

impl Weight {
    /// Counts so many bytes.
    pub fn new(bytes: u64, gauge: &Gauge) -> Self {
        gauge.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { bytes, gauge: gauge.clone() }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.gauge.0.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gauge_follows_clones_resizes_and_drops() {
        let gauge = Gauge::default();
        let mut a = Buf::new(vec![1; 100], &gauge);
        assert_eq!(gauge.bytes(), 100);
        let b = a.clone();
        assert_eq!(gauge.bytes(), 200);
        a.write(90, &[2; 5]);
        a.resize(300);
        a.write(310, &[3; 5]);
        assert!(gauge.bytes() >= 400);
        assert_eq!(
            (&a[89..96], &a[299..312]),
            (&[1, 2, 2, 2, 2, 2, 1][..], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 3][..])
        );
        assert_eq!(&a[98..102], &[1, 1, 0, 0]);
        drop(b);
        drop(a);
        assert_eq!(gauge.bytes(), 0);
    }

    #[test]
    fn the_hash_is_of_the_bytes_as_they_are() {
        let mut buf = Buf::copied(&[1; CHUNK], &Gauge::default());
        assert_eq!(*buf.hash(), blake3::hash(&[1; CHUNK]));
        buf.write(5, &[2]);
        assert_eq!(*buf.hash(), blake3::hash(&buf));
        buf.resize(10);
        assert_eq!(*buf.hash(), blake3::hash(&buf));
        buf[0] = 9;
        assert_eq!(*buf.hash(), blake3::hash(&[9, 1, 1, 1, 1, 2, 1, 1, 1, 1]));
    }

    #[test]
    fn room_is_kept_up_to_the_limit_and_given_back() {
        let gauge = Gauge::keeping(3 * CHUNK as u64);
        let four: Vec<Buf> = (0..4).map(|seed| Buf::copied(&[seed; CHUNK], &gauge)).collect();
        drop(four);
        assert_eq!((gauge.bytes(), gauge.0.spare.lock().len()), (0, 3));
        let again = Buf::copied(&[7; CHUNK], &gauge);
        assert_eq!((&again[..], gauge.0.spare.lock().len()), (&[7; CHUNK][..], 2));
        drop(Buf::new(vec![1; 10], &gauge));
        gauge.give_back();
        assert!(gauge.0.spare.lock().is_empty());
    }
}
