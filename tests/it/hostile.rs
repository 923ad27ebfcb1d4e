//! Peers that mean harm, or do not know better. Whatever they send, the daemon lives, is quick, serves the others, and
//! takes no more memory than [`siege::BOUND`](crate::siege::BOUND) for one of them.

mod http;
mod messages;
mod resources;
mod searches;
mod sync;
