//! The `wsd` command.

fn main() {}
