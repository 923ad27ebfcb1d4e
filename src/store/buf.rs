//! File bytes in memory, counted.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many bytes of file content are in memory. Shared by every [`Buf`] that counts against it.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Bytes now.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// At most one chunk of file content. Bytes past its end, up to the chunk's, are zero.
#[derive(Debug)]
pub struct Buf {
    bytes: Vec<u8>,
    counted: u64,
    gauge: Gauge,
}

impl Buf {
    /// Takes the bytes and counts them.
    pub fn new(bytes: Vec<u8>, gauge: &Gauge) -> Self {
        let mut buf = Self { bytes, counted: 0, gauge: gauge.clone() };
        buf.recount();
        buf
    }

    /// The same bytes, counted elsewhere.
    pub fn recounted(mut self, gauge: &Gauge) -> Self {
        Self::new(std::mem::take(&mut self.bytes), gauge)
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

    fn recount(&mut self) {
        let now = self.bytes.capacity() as u64;
        if now >= self.counted {
            self.gauge.0.fetch_add(now - self.counted, Ordering::Relaxed);
        } else {
            self.gauge.0.fetch_sub(self.counted - now, Ordering::Relaxed);
        }
        self.counted = now;
    }
}

impl Clone for Buf {
    fn clone(&self) -> Self {
        Self::new(self.bytes.clone(), &self.gauge)
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        self.gauge.0.fetch_sub(self.counted, Ordering::Relaxed);
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
        &mut self.bytes
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
}
