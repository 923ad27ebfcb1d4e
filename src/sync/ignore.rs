//! What is left out of sync: patterns as in `.gitignore`.

use crate::error::{FsError, FsResult};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Patterns of what is left out.
#[derive(Debug)]
pub struct Ignore {
    patterns: Vec<String>,
    rules: Gitignore,
}

impl Default for Ignore {
    fn default() -> Self {
        Self { patterns: Vec::new(), rules: Gitignore::empty() }
    }
}

impl Ignore {
    /// These patterns, in gitignore syntax, relative to the root of the workspace.
    pub fn new(patterns: &[String]) -> FsResult<Self> {
        let mut builder = GitignoreBuilder::new("/");
        for pattern in patterns {
            builder
                .add_line(None, pattern)
                .map_err(|_| FsError::Invalid("a pattern of what is left out of sync cannot be read"))?;
        }
        let rules = builder
            .build()
            .map_err(|_| FsError::Invalid("the patterns of what is left out of sync are too many"))?;
        Ok(Self { patterns: patterns.to_vec(), rules })
    }

    /// Whether nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether what is left out depends on more than last names: a pattern has a slash before its end, or takes back.
    pub fn looks_at_paths(&self) -> bool {
        self.patterns.iter().any(|line| line.trim().trim_end_matches('/').contains('/'))
    }

    /// The patterns.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Whether what is at this path, from the root and without a leading slash, is left out. A pattern that is for
    /// directories only is taken to mean whatever has the name.
    pub fn holds(&self, path: &[u8]) -> bool {
        if self.is_empty() {
            return false;
        }
        let path = Path::new(OsStr::from_bytes(path));
        self.rules.matched_path_or_any_parents(path, true).is_ignore()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_git_means_by_them() {
        let lines = ["node_modules/", "*.log", "/build", "!keep.log"];
        let ignore = Ignore::new(&lines.map(str::to_owned)).unwrap();
        for path in ["node_modules", "a/node_modules/b/c", "x.log", "a/b/x.log", "build/x"] {
            assert!(ignore.holds(path.as_bytes()), "{path}");
        }
        for path in ["a", "a/build", "keep.log", "a/keep.log"] {
            assert!(!ignore.holds(path.as_bytes()), "{path}");
        }
        assert!(Ignore::default().is_empty() && !Ignore::default().holds(b"x"));
    }
}
