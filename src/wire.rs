//! Cap'n Proto over messages: the part that both ends of a connection share.
//!
//! A WebSocket carries messages, and so does a batch; a byte stream inside them would only need to be taken apart
//! again. So one frame is one RPC message, and the vat network hands them on whole.
//!
//! - `frame`: bytes to messages and back, with limits that hold before memory is spent.
//! - `network`: the frames as the network of a vat.
//! - `ledger`: what a peer has running and what we keep for it, so that no peer makes us keep too much.

mod frame;
mod ledger;
mod network;

pub use frame::{Batch, FrameError, MAX_FRAME, MAX_SEGMENTS, encode};
pub use ledger::{Ledger, Limits, Reserved};
pub use network::{Network, Side};
