//! What is asked and answered, without a trace of the wire. `schema/*.capnp` says what each field means.

use serde::Serialize;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "each is the file type of its name")]
pub enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// A node's attributes, as stat(2) has them. Times are nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "each is the field of struct stat of its name")]
pub struct Attr {
    pub ino: u64,
    pub kind: Kind,
    /// Permission bits only.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    pub atime: i64,
    pub mtime: i64,
    pub ctime: i64,
    pub btime: i64,
    /// Of the workspace, when the node was last changed.
    pub revision: u64,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, without a path.
    pub name: Vec<u8>,
    /// What it names.
    pub attr: Attr,
}

/// A part of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its names.
    pub entries: Vec<DirEntry>,
    /// Where the next page begins; nothing when this was the last.
    pub next: Option<u64>,
}

/// What was found, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathEntry {
    /// With the mount point.
    pub path: Vec<u8>,
    /// What it names.
    pub attr: Attr,
}

/// What a daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    /// Of the program.
    pub version: String,
    /// A UUID, for the life of the workspace.
    pub workspace_id: String,
    /// The prefix of all paths.
    #[serde(serialize_with = "lossy")]
    pub mount_point: Vec<u8>,
    /// `fuse` or `none`.
    pub mount: String,
    /// Why.
    pub mount_reason: String,
    /// Of the last change.
    pub revision: u64,
    /// What it can do.
    pub features: Vec<String>,
}

fn lossy<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}

/// Bytes of the workspace, and the number of its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Space {
    pub total: u64,
    pub free: u64,
    pub nodes: u64,
}

/// What becomes of what is at the new name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RenameMode {
    /// It goes.
    #[default]
    Replace,
    /// `EEXIST`.
    NoReplace,
    /// It gets the old name.
    Exchange,
}

/// What is expected of an extended attribute that is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XattrMode {
    /// Nothing.
    #[default]
    Any,
    /// That it is not there: else `EEXIST`.
    Create,
    /// That it is there: else `ENODATA`.
    Replace,
}

/// A time to set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetTime {
    /// Leaves it.
    #[default]
    Keep,
    /// The daemon's current time.
    Now,
    /// Nanoseconds since 1970.
    At(i64),
}

/// What becomes of a file that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfExists {
    /// Its bytes are replaced.
    #[default]
    Replace,
    /// `EEXIST`.
    Fail,
    /// `ENOENT` when there is none.
    Require,
}

/// How a whole file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// Permission bits of a file that is made.
    pub mode: u32,
    /// What becomes of one that is there.
    pub if_exists: IfExists,
    /// Makes the directories that are missing on the way.
    pub make_dirs: bool,
    /// A file that is replaced gets `mode` too.
    pub set_mode: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { mode: 0o644, if_exists: IfExists::Replace, make_dirs: false, set_mode: false }
    }
}

/// What is looked for below a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindOptions {
    /// Where; an entry itself, when it matches.
    pub path: Vec<u8>,
    /// Any of these must match; none: all do.
    pub globs: Vec<String>,
    /// In the syntax of .gitignore, relative to `path`.
    pub excludes: Vec<String>,
    /// None: all kinds.
    pub kinds: Vec<Kind>,
    /// 0: only `path` itself.
    pub max_depth: u32,
    /// Names that begin with a dot too.
    pub hidden: bool,
    /// Excludes also what .gitignore files in the tree exclude.
    pub gitignore: bool,
}

impl FindOptions {
    /// Everything below a path.
    pub fn below(path: impl AsRef<[u8]>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            globs: Vec::new(),
            excludes: Vec::new(),
            kinds: Vec::new(),
            max_depth: u32::MAX,
            hidden: true,
            gitignore: false,
        }
    }
}

/// What is looked for in files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrepOptions {
    /// In which files.
    pub within: FindOptions,
    /// A regular expression in the syntax of Rust's `regex`.
    pub pattern: String,
    /// The pattern is text, not a regular expression.
    pub literal: bool,
    /// `A` is `a`.
    pub ignore_case: bool,
    /// Whole words only.
    pub word: bool,
    /// Lines of context before a match.
    pub before: u32,
    /// Lines of context after a match.
    pub after: u32,
    /// Matching lines of one file; 0: no limit.
    pub max_per_file: u64,
    /// A match may span lines.
    pub multiline: bool,
}

impl GrepOptions {
    /// A pattern in all files below a path.
    pub fn new(pattern: impl Into<String>, path: impl AsRef<[u8]>) -> Self {
        Self {
            within: FindOptions::below(path),
            pattern: pattern.into(),
            literal: false,
            ignore_case: false,
            word: false,
            before: 0,
            after: 0,
            max_per_file: 0,
            multiline: false,
        }
    }
}

/// A line that matched, or one around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The file.
    pub path: Vec<u8>,
    /// From 1.
    pub line: u64,
    /// Of the line's first byte in the file.
    pub offset: u64,
    /// The line or lines, with their line ends.
    pub text: Vec<u8>,
    /// A line around a match, not a match.
    pub context: bool,
    /// Where in `text` the pattern matched: from, to.
    pub spans: Vec<(u32, u32)>,
}

/// How something changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ChangeKind {
    /// A name: a new node, or a further link to one.
    Created,
    /// Bytes or size.
    Modified,
    /// Mode, owner, times, extended attributes.
    Attributes,
    /// A name went.
    Removed,
    /// A name became another.
    Renamed,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The workspace's revision with it.
    pub revision: u64,
    /// How.
    pub kind: ChangeKind,
    /// What changed.
    pub node: Kind,
    /// Its number.
    pub ino: u64,
    /// Where it is; of something removed, where it was.
    pub path: Vec<u8>,
    /// Of a rename: where it was.
    pub from: Vec<u8>,
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// In the order of revisions.
    pub changes: Vec<Change>,
    /// All changes to this revision have been delivered.
    pub up_to: u64,
    /// Some are missing before these: look at the tree anew.
    pub dropped: bool,
}

/// What a copy made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Copied {
    pub files: u64,
    pub bytes: u64,
}

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Words {
    /// By `/bin/sh -c`.
    Shell(Vec<u8>),
    /// A program and its arguments.
    Argv(Vec<Vec<u8>>),
}

/// Where a command's standard input comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stdin {
    /// There is none.
    #[default]
    None,
    /// These bytes.
    Bytes(Vec<u8>),
    /// What is written to its [`CommandInput`](super::CommandInput).
    Stream,
}

/// A command; see `schema/exec.capnp`.
#[derive(Clone, Debug)]
pub struct Command {
    /// What to run.
    pub words: Words,
    /// Empty: the mount point; relative: below it.
    pub cwd: Vec<u8>,
    /// In addition to what the daemon gives.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where its standard input comes from.
    pub stdin: Stdin,
    /// After this it is ended.
    pub timeout: Option<std::time::Duration>,
    /// Rows and columns of its pseudo-terminal, if it is to have one.
    pub terminal: Option<(u16, u16)>,
    /// Empty: one is chosen.
    pub id: String,
    /// What it leaves in the background is left alone.
    pub detach: bool,
    /// How long output is waited for from what outlives it.
    pub output_grace: std::time::Duration,
    /// Limits of its processes; 0: none.
    pub limits: CommandLimits,
    /// It is started when all that upstream has is here.
    pub pull: bool,
    /// Its exit comes when what it did is upstream and durable there, or says why it is not.
    pub push: bool,
    /// How long each of the two may take; none: as long as it takes.
    pub sync_timeout: Option<std::time::Duration>,
}

/// Limits as in setrlimit(2); 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in `Limits` of the schema")]
pub struct CommandLimits {
    pub cpu_seconds: u64,
    pub memory_bytes: u64,
    pub processes: u64,
    pub file_bytes: u64,
    pub open_files: u64,
}

impl Command {
    /// A command with nothing special about it.
    pub fn new(words: Words) -> Self {
        Self {
            words,
            cwd: Vec::new(),
            env: Vec::new(),
            stdin: Stdin::None,
            timeout: None,
            terminal: None,
            id: String::new(),
            detach: false,
            output_grace: std::time::Duration::from_secs(5),
            limits: CommandLimits::default(),
            pull: false,
            push: false,
            sync_timeout: Some(std::time::Duration::from_secs(60)),
        }
    }

    /// A line for `/bin/sh -c`.
    pub fn shell(line: impl AsRef<[u8]>) -> Self {
        Self::new(Words::Shell(line.as_ref().to_owned()))
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandExit {
    /// Its exit code.
    pub code: Option<i32>,
    /// The signal that ended it, without "SIG".
    pub signal: Option<String>,
    /// The daemon ended while it ran: nobody knows.
    pub lost: bool,
    /// Its time was over.
    pub timed_out: bool,
    /// There may have been more output.
    pub output_cut: bool,
    /// Why what it did is not known to be upstream, though it was to be.
    pub not_upstream: Option<String>,
}

/// A command that the daemon knows.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "as in `Info` of `schema/exec.capnp`")]
pub struct CommandInfo {
    pub id: String,
    pub command: Vec<u8>,
    pub cwd: Vec<u8>,
    pub pid: u32,
    /// `None` while it runs.
    pub exit: Option<CommandExit>,
    pub started: i64,
    pub ended: i64,
    pub start_revision: u64,
    pub end_revision: u64,
    pub first_seq: u64,
    pub last_seq: u64,
}
