//! Looking for names and for text.
//!
//! A search is a value that is asked for the next portion. Between two portions it is only memory: the directories on
//! the way from the root to where it is, a page of names of each.

mod find;
mod grep;
mod rules;

pub use find::{Find, FindQuery, Found};
pub use grep::{Grep, GrepQuery, Line};
