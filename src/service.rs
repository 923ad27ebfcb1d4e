//! The workspace as callers from outside see it: paths in, data and errors out, whatever the encoding.
//!
//! Everything here is plain calls that may wait for memory, the store or the kernel, so the callers' executors hand
//! them to threads that may wait. What is long comes in portions, and nothing runs between two of them.
//!
//! - `failure`: errors as data. `path`: from paths to nodes.
//! - `files`, `names`, `attributes`: a call, an answer. `tree`: removal and copies of whole trees. `edit`.
//! - `touched`: what changed while a command ran. `look`: all of it, for eyes.
//! - `stream`: a file's bytes, in and out. `search`: find and grep. `watch`: what changes.

mod attributes;
mod edit;
mod failure;
mod files;
mod look;
mod names;
mod path;
mod search;
mod stream;
#[cfg(test)]
mod tests;
mod touched;
mod tree;
mod watch;

pub use edit::Edited;
pub use failure::{Applied, Failure, Outcome};
pub use files::{Entry, Page};
pub use look::{ChangeRow, CommandRow, Listing, Output, commands, output, unlink};
pub use search::{Find, FindQuery, Found, Grep, GrepQuery, Line};
pub use stream::{IfExists, Sink, Source, WriteQuery};
pub use touched::{Tracker, change_of};
pub use tree::{Copied, Stopped};
pub use watch::{View, Watch};

use crate::vfs::{Author, Caller, Origin, Vfs};
use std::path::Path;
use std::sync::Arc;

/// Most bytes of a single read or write.
pub const MAX_DATA: usize = 4 << 20;

/// Most entries of one portion.
pub const MAX_ENTRIES: usize = 10_000;

/// Bytes after which a portion of entries or lines is full, though there may be room for more of them.
pub const PORTION: usize = 1 << 20;

/// The files of a workspace.
#[derive(Clone)]
pub struct Files {
    vfs: Arc<Vfs>,
    /// The prefix of all paths: names, without slashes.
    prefix: Arc<[Vec<u8>]>,
    caller: Caller,
}

impl Files {
    /// The files of a workspace whose paths begin with `mount_point`. What is made belongs to whom the daemon runs as.
    pub fn new(vfs: Arc<Vfs>, mount_point: &Path) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let names = mount_point.as_os_str().as_bytes().split(|byte| *byte == b'/');
        let prefix = names.filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let (origin, by, process) = (Origin::Direct, Author::Direct, std::process::id());
        Self { vfs, prefix, caller: Caller { uid, gid, origin, by, process } }
    }

    /// The live tree.
    pub fn vfs(&self) -> &Arc<Vfs> {
        &self.vfs
    }
}
