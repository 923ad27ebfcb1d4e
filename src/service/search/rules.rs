//! Which names are wanted, and where one does not even look.

use super::super::{Failure, Outcome};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Most patterns of a kind in one query.
const MAX_PATTERNS: usize = 1000;

/// Longest pattern, bytes. What a compiled one takes is many times as much.
const MAX_PATTERN: usize = 1024;

/// Most bytes of all patterns of a kind in one query.
const MAX_TEXT: usize = 64 << 10;

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Globs of which one must match.
pub(super) struct Wanted {
    /// By name, at any depth.
    names: GlobSet,
    /// By path.
    paths: GlobSet,
    all: bool,
}

impl Wanted {
    pub(super) fn new(globs: &[String]) -> Outcome<Self> {
        check_count(globs)?;
        let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for glob in globs {
            let built = GlobBuilder::new(glob.trim_start_matches('/')).literal_separator(true).build();
            let built = built.map_err(|error| Failure::protocol(format!("glob {glob:?}: {error}")))?;
            if glob.contains('/') {
                paths.add(built)
            } else {
                names.add(built)
            };
        }
        let set = |builder: GlobSetBuilder| {
            builder.build().map_err(|error| Failure::protocol(format!("globs: {error}")))
        };
        Ok(Self { names: set(names)?, paths: set(paths)?, all: globs.is_empty() })
    }

    pub(super) fn matches(&self, below: &[u8], name: &[u8]) -> bool {
        self.all || self.names.is_match(path(name)) || self.paths.is_match(path(below))
    }
}

/// What is left out, in the syntax of `.gitignore`.
pub(super) struct Excluded(Gitignore);

impl Excluded {
    pub(super) fn new<'a>(lines: impl IntoIterator<Item = &'a str>) -> Outcome<Self> {
        let mut builder = GitignoreBuilder::new("");
        for line in lines {
            let added = builder.add_line(None, line);
            added.map_err(|error| Failure::protocol(format!("exclude {line:?}: {error}")))?;
        }
        let built = builder.build().map_err(|error| Failure::protocol(format!("excludes: {error}")))?;
        Ok(Self(built))
    }

    pub(super) fn of_query(lines: &[String]) -> Outcome<Self> {
        check_count(lines)?;
        Self::new(lines.iter().map(String::as_str))
    }

    /// Of a `.gitignore` file: a line that makes no sense is passed over, as git does.
    pub(super) fn of_file(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut builder = GitignoreBuilder::new("");
        for line in text.lines().filter(|line| line.len() <= MAX_PATTERN) {
            let _ = builder.add_line(None, line);
        }
        Self(builder.build().unwrap_or_else(|_| Gitignore::empty()))
    }

    /// Whether the path is left out (`Some(true)`), let in by a `!` (`Some(false)`), or not spoken of.
    pub(super) fn says(&self, below: &[u8], is_dir: bool) -> Option<bool> {
        let found = self.0.matched(path(below), is_dir);
        if found.is_none() { None } else { Some(found.is_ignore()) }
    }
}

fn check_count(patterns: &[String]) -> Outcome<()> {
    if patterns.len() > MAX_PATTERNS {
        return Err(Failure::protocol(format!("{} patterns: at most {MAX_PATTERNS}", patterns.len())));
    }
    let (longest, all) = patterns
        .iter()
        .map(String::len)
        .fold((0, 0), |(longest, all), length| (length.max(longest), all + length));
    if longest > MAX_PATTERN || all > MAX_TEXT {
        let text = format!(
            "a pattern of {longest} bytes, {all} in all: at most {MAX_PATTERN} in one and {MAX_TEXT} in all"
        );
        return Err(Failure::protocol(text));
    }
    Ok(())
}
