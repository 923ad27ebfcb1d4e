//! Compression, where it pays.

use super::{Wrong, wrong};
use wsd_schema::sync_capnp as wire;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::get_frame_content_size;

/// The fastest of the ordinary levels: the wire is often faster than the next one.
const LEVEL: i32 = 1;

/// Fewer bytes are not worth the while.
const LEAST: usize = 256;

/// How bytes are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    #[default]
    Plain,
    /// One frame of zstd.
    Zstd,
}

impl Encoding {
    pub(super) fn to_wire(self) -> wire::Encoding {
        match self {
            Self::Plain => wire::Encoding::Plain,
            Self::Zstd => wire::Encoding::Zstd,
        }
    }

    pub(super) fn of_wire(encoding: wire::Encoding) -> Self {
        match encoding {
            wire::Encoding::Plain => Self::Plain,
            wire::Encoding::Zstd => Self::Zstd,
        }
    }
}

/// Compresses one thing after the other, if the other side can read that.
pub(super) struct Press(Option<Compressor<'static>>);

impl Press {
    pub(super) fn new(wanted: Encoding) -> Self {
        Self(if wanted == Encoding::Zstd { Compressor::new(LEVEL).ok() } else { None })
    }

    /// Packs bytes; as they are, unless that saves a tenth.
    pub(super) fn pack(&mut self, bytes: Vec<u8>) -> (Encoding, Vec<u8>) {
        let worth = bytes.len() - bytes.len() / 10;
        let Some(press) = self.0.as_mut().filter(|_| bytes.len() >= LEAST) else {
            return (Encoding::Plain, bytes);
        };
        match press.compress(&bytes) {
            Ok(packed) if packed.len() < worth => (Encoding::Zstd, packed),
            _ => (Encoding::Plain, bytes),
        }
    }
}

/// What was packed; its size was told, and is at most `most`.
pub(super) fn unpack(encoding: Encoding, size: u32, data: Vec<u8>, most: usize) -> Result<Vec<u8>, Wrong> {
    let size = size as usize;
    if size > most {
        return wrong(format!("{size} bytes, of which there may be {most}"));
    }
    let bytes = match encoding {
        Encoding::Plain => data,
        Encoding::Zstd => {
            if get_frame_content_size(&data).ok().flatten() != Some(size as u64) {
                return wrong("not a frame of zstd of the size that was told");
            }
            let mut decompressor = Decompressor::new().map_err(|error| Wrong(error.to_string()))?;
            decompressor.decompress(&data, size).map_err(|error| Wrong(format!("zstd: {error}")))?
        }
    };
    if bytes.len() == size {
        Ok(bytes)
    } else {
        wrong(format!("{} bytes, not {size} as was told", bytes.len()))
    }
}
