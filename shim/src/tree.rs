//! What the reconciler asks of a side: of the workspace, and of the host's directory.
//!
//! Everybody else goes on changing both trees meanwhile. So whatever replaces, moves or removes something is told what
//! is believed to be there, and refuses (`Changed`) when something else is; and what is told back of a node after a
//! change is what the change made, nothing that came later.

/// A path from the root of a tree, without a leading slash; empty for the root. Names are bytes.
pub type Path = Vec<u8>;

/// BLAKE3 of a file's bytes, or of a symlink's target.
pub type Digest = [u8; 32];

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "each is what its name says")]
pub enum Kind {
    File = 1,
    Dir = 2,
    Symlink = 3,
    /// Fifo, socket, device: stays on the side it is on.
    Other = 4,
}

/// What is known of a node without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The node's number, which a rename keeps.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Time of modification, nanoseconds since the epoch.
    pub mtime: i64,
    /// A number that moves with every change of the node: its ctime, or its revision. [`UNTRUSTED`]: nobody knows.
    pub change: u64,
}

/// A [`Facts::change`] that equals none: whoever compares has to look closer.
pub const UNTRUSTED: u64 = 0;

/// Makes a number of a device that is far from those of nodes.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The bits of [`Facts::id`] that are of the node alone; those above are of its filesystem alone.
const NODE: u32 = 48;

/// The number of a host's node, by that which its filesystem gave it and by which filesystem that is: 0 is that of the
/// directory which is kept in step.
pub(crate) fn number_of(node: u64, filesystem: u64) -> u64 {
    let folded = (node ^ (node >> NODE).wrapping_mul(SPREAD)) & ((1 << NODE) - 1);
    folded ^ filesystem.wrapping_mul(SPREAD)
}

impl Facts {
    /// Which of the filesystems in the host's directory it is on, as far as two of them can be told apart.
    pub(crate) fn filesystem(&self) -> u64 {
        self.id >> NODE
    }

    /// Whether these are facts of a node that was not touched in between. Those of a directory are about itself, not
    /// about what is in it.
    pub fn still(&self, earlier: &Self) -> bool {
        if self.kind == Kind::Dir {
            return self.is_same_dir(earlier);
        }
        self == earlier && self.change != UNTRUSTED
    }

    fn is_same_dir(&self, other: &Self) -> bool {
        other.kind == Kind::Dir && self.id == other.id && self.has_attributes_of(other)
    }

    /// Whether this is the same node with, as far as size, time, mode and owner tell, nothing changed: it may have been
    /// touched, or have got or lost a name.
    pub fn looks_like(&self, other: &Self) -> bool {
        self.has_bytes_of(other) && self.has_attributes_of(other)
    }

    /// Whether mode and owner are the same.
    pub fn has_attributes_of(&self, other: &Self) -> bool {
        (self.mode, self.uid, self.gid) == (other.mode, other.uid, other.gid)
    }

    /// Whether this is the same node with, as far as size and time tell, the same bytes.
    pub fn has_bytes_of(&self, other: &Self) -> bool {
        self.id == other.id
            && self.kind == other.kind
            && (self.kind == Kind::Dir || (self.size, self.mtime) == (other.size, other.mtime))
    }
}

/// Attributes to give to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in Facts")]
pub struct Attributes {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Not of directories.
    pub mtime: i64,
}

/// Why a side did not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what the variant means")]
pub enum Fault {
    #[error("it is not there")]
    NotFound,
    #[error("something is there already")]
    Exists,
    #[error("the directory is not empty")]
    NotEmpty,
    #[error("something else is there than was expected")]
    Changed,
    #[error("this side cannot have it: {0}")]
    Unfit(String),
    #[error("{0}")]
    Io(String),
}

/// What a tree answers.
pub type Outcome<T> = Result<T, Fault>;

/// A place that changed, or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub path: Path,
    /// The node that changed, if that is known: it may have more names.
    pub node: Option<u64>,
    /// Whoever wrote there is known to be done with it.
    pub settled: bool,
}

/// What changed since this was asked last.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Places; of a rename both.
    pub places: Vec<Change>,
    /// Not everything is known: look at all of it.
    pub lost: bool,
}

/// A file that is being written, where nobody sees it. Dropped before it is placed, it leaves nothing.
pub trait Stage {
    /// Adds bytes at the end.
    fn write(&mut self, bytes: &[u8]) -> Outcome<()>;

    /// Gives it its name, in one step. `replaces`: the file or symlink that is there; `None`: nothing may be there.
    /// `keep_node`: if a file is replaced, its node gets the bytes, where the side can do that in one step.
    fn place(
        self: Box<Self>,
        attributes: &Attributes,
        replaces: Option<&Facts>,
        keep_node: bool,
    ) -> Outcome<Facts>;
}

/// A side.
pub trait Tree: Send + Sync {
    /// The names in a directory. `NotFound` if there is no such directory.
    fn list(&self, dir: &[u8]) -> Outcome<Vec<(Vec<u8>, Facts)>>;

    /// What is at a path, if anything.
    fn look(&self, path: &[u8]) -> Outcome<Option<Facts>>;

    /// Looks at one place after the other, and passes on what was expected there and what is. Cheaper than
    /// [`Tree::look`] for each of them, if places that are near each other follow each other.
    fn look_along<'a>(
        &self,
        places: &mut dyn Iterator<Item = (&'a Path, &'a Facts)>,
        each: &mut dyn FnMut(&'a Path, &'a Facts, Outcome<Option<Facts>>),
    ) {
        for (path, expected) in places {
            each(path, expected, self.look(path));
        }
    }

    /// Reads a file in portions, and says what is known of the node afterwards. `Changed` if another node is there.
    fn read(
        &self,
        path: &[u8],
        expected: &Facts,
        each: &mut dyn FnMut(&[u8]) -> Outcome<()>,
    ) -> Outcome<Facts>;

    /// The bytes of a symlink.
    fn target(&self, path: &[u8]) -> Outcome<Vec<u8>>;

    /// Begins to write a file that will be at `path`.
    fn stage<'a>(&'a self, path: &[u8]) -> Outcome<Box<dyn Stage + 'a>>;

    /// Makes a directory.
    fn make_dir(&self, path: &[u8], attributes: &Attributes) -> Outcome<Facts>;

    /// Makes a symlink. `replaces` as in [`Stage::place`].
    fn make_symlink(
        &self,
        path: &[u8],
        target: &[u8],
        attributes: &Attributes,
        replaces: Option<&Facts>,
    ) -> Outcome<Facts>;

    /// Gives the file at `existing` one more name. `replaces` as in [`Stage::place`].
    fn link(&self, existing: &[u8], path: &[u8], replaces: Option<&Facts>) -> Outcome<Facts>;

    /// Gives a node another name, if that is free.
    fn rename(&self, from: &[u8], to: &[u8], expected: &Facts) -> Outcome<Facts>;

    /// Removes a name. A directory must be empty.
    fn remove(&self, path: &[u8], expected: &Facts) -> Outcome<()>;

    /// Sets attributes of what is there.
    fn set(&self, path: &[u8], attributes: &Attributes, expected: &Facts) -> Outcome<Facts>;

    /// What changed since this was asked last.
    fn changes(&self) -> Changes;

    /// Returns when everything up to now is on the disk.
    fn sync(&self) -> Outcome<()>;

    /// Why something of the other side cannot be here, if that is known beforehand.
    fn unfit(&self, path: &[u8], facts: &Facts) -> Option<String>;
}
