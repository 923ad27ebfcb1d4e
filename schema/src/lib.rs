//! The wire types of wsd, generated from the `.capnp` files beside this crate, which say what they mean.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

capnp::generated_code!(pub mod common_capnp);
capnp::generated_code!(pub mod exec_capnp);
capnp::generated_code!(pub mod fs_capnp);
capnp::generated_code!(pub mod sync_capnp);
capnp::generated_code!(pub mod workspace_capnp);
