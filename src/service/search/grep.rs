//! Lines of files.

use super::super::tree::Stopped;
use super::super::{Failure, Files, MAX_ENTRIES, Outcome, PORTION};
use super::find::{Find, FindQuery, Found, Step};
use crate::error::FsError;
use crate::store::rows::{Ino, Kind};
use crate::vfs::Vfs;
use grep_matcher::Matcher;
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{BinaryDetection, Searcher, SearcherBuilder, Sink, SinkContext, SinkMatch};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// Most lines of context on a side.
const MAX_CONTEXT: u32 = 100;

/// Longest line that is shown, bytes; the rest is cut off.
const MAX_LINE: usize = 64 << 10;

/// Longest line that is searched, or largest file when a match may span lines, bytes. A file beyond it is passed over.
const MAX_HEAP: usize = 64 << 20;

/// Longest pattern, bytes.
const MAX_PATTERN: usize = 64 << 10;

/// Most memory of a compiled pattern, and of what its matcher keeps for speed, bytes.
const MAX_COMPILED: usize = 8 << 20;

/// Bytes of lines found in one file that are kept; the file is gone on with when they have been taken.
const MAX_WAITING: usize = 2 * PORTION;

/// Most spans that are told of one line.
const MAX_SPANS: usize = 1000;

/// What to look for, and in which files.
#[derive(Clone, Debug, Default)]
pub struct GrepQuery {
    /// Which files.
    pub files: FindQuery,
    /// A regular expression, in the syntax of the crate `regex`.
    pub pattern: String,
    /// The pattern is plain text.
    pub literal: bool,
    /// Letters match whatever their case.
    pub ignore_case: bool,
    /// Whole words only.
    pub word: bool,
    /// Lines of context before a match.
    pub before: u32,
    /// Lines of context after a match.
    pub after: u32,
    /// Most matching lines of one file; 0: no limit.
    pub max_per_file: u64,
    /// A match may span lines.
    pub multiline: bool,
}

/// A line that matched, or one around it.
#[derive(Clone, Debug)]
pub struct Line {
    /// The file, as on the wire.
    pub path: Arc<[u8]>,
    /// From 1.
    pub line: u64,
    /// Of the line's first byte in the file.
    pub offset: u64,
    /// With its line end.
    pub text: Vec<u8>,
    /// It is there for context only.
    pub context: bool,
    /// Where in `text` the pattern matched.
    pub spans: Vec<(u32, u32)>,
}

impl Line {
    /// Roughly what it takes, here and on the wire.
    fn bytes(&self) -> usize {
        self.path.len() + self.text.len() + size_of_val(&self.spans[..]) + size_of::<Self>()
    }
}

/// A search under way.
pub struct Grep {
    files: Files,
    find: Find,
    matcher: RegexMatcher,
    searcher: SearcherBuilder,
    max_per_file: u64,
    waiting: VecDeque<Line>,
    /// A file that is not done.
    rest: Option<Rest>,
    /// Why a directory could not be read, or a file to its end. It is told after what was found before; then it is gone on.
    unreadable: Option<Failure>,
    looked_into: u64,
}

/// Where to go on in a file.
struct Rest {
    path: Arc<[u8]>,
    ino: Ino,
    offset: u64,
    lines: u64,
    matched: u64,
}

impl Files {
    /// Looks for text.
    pub fn grep(&self, mut query: GrepQuery) -> Outcome<Grep> {
        if query.pattern.len() > MAX_PATTERN {
            let text = format!("a pattern of {} bytes: at most {MAX_PATTERN}", query.pattern.len());
            return Err(Failure::protocol(text));
        }
        query.files.kinds = vec![Kind::File];
        let pattern = if query.literal { regex::escape(&query.pattern) } else { query.pattern.clone() };
        let mut builder = RegexMatcherBuilder::new();
        builder.case_insensitive(query.ignore_case).word(query.word).multi_line(true);
        builder.size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED);
        if !query.multiline {
            builder.line_terminator(Some(b'\n'));
        }
        let matcher = builder
            .build(&pattern)
            .map_err(|error| Failure::protocol(format!("pattern {:?}: {error}", query.pattern)))?;
        let mut searcher = SearcherBuilder::new();
        searcher
            .before_context(query.before.min(MAX_CONTEXT) as usize)
            .after_context(query.after.min(MAX_CONTEXT) as usize)
            .multi_line(query.multiline)
            .heap_limit(Some(MAX_HEAP))
            .binary_detection(BinaryDetection::quit(0));
        Ok(Grep {
            files: self.clone(),
            find: self.find(query.files)?,
            matcher,
            searcher,
            max_per_file: if query.max_per_file == 0 { u64::MAX } else { query.max_per_file },
            waiting: VecDeque::new(),
            rest: None,
            unreadable: None,
            looked_into: 0,
        })
    }
}

impl Grep {
    /// How many files were looked into.
    pub fn looked_into(&self) -> u64 {
        self.looked_into
    }

    /// The next lines, at most `limit`, and whether there are no more. Waits for at least one.
    pub fn next(&mut self, limit: usize, stopped: Stopped<'_>) -> Outcome<(Vec<Line>, bool)> {
        let limit = limit.clamp(1, MAX_ENTRIES);
        let (mut lines, mut bytes) = (Vec::new(), 0);
        // What the searcher keeps for a long line does not outlive the call.
        let mut searcher = self.searcher.build();
        while lines.len() < limit && bytes < PORTION {
            if let Some(line) = self.waiting.pop_front() {
                bytes += line.bytes();
                lines.push(line);
                continue;
            }
            // What is found is given before it is looked any further.
            if !lines.is_empty() && lines.len() * 2 > limit {
                break;
            }
            if stopped() {
                return Err(Failure::new("ECANCELED", "nobody waits for this any more"));
            }
            if let Some(failure) = self.unreadable.take_if(|_| lines.is_empty()) {
                return Err(failure);
            }
            if self.unreadable.is_some() {
                break;
            }
            if let Some(rest) = self.rest.take() {
                self.search(&mut searcher, rest, stopped);
                continue;
            }
            match self.find.step() {
                Ok(Step::Found(Found { path, attr })) => {
                    self.looked_into += 1;
                    self.files.vfs.pull(attr.ino);
                    let path = path.into();
                    let whole = Rest { path, ino: attr.ino, offset: 0, lines: 0, matched: 0 };
                    self.search(&mut searcher, whole, stopped);
                }
                Ok(Step::Nothing) => {}
                Ok(Step::End) => return Ok((lines, true)),
                Err(failure) => self.unreadable = Some(failure),
            }
        }
        Ok((lines, false))
    }

    fn search(&mut self, searcher: &mut Searcher, rest: Rest, stopped: Stopped<'_>) {
        let mut error = None;
        let reader =
            FileReader { vfs: &self.files.vfs, ino: rest.ino, at: rest.offset, error: &mut error, stopped };
        let mut collector = Collector {
            matcher: &self.matcher,
            from: rest,
            max: self.max_per_file,
            lines: &mut self.waiting,
            bytes: 0,
            stopped_at: None,
            is_binary: false,
        };
        let result = searcher.search_reader(&self.matcher, reader, &mut collector);
        let (stopped_at, is_binary, from) = (collector.stopped_at, collector.is_binary, collector.from);
        if is_binary || result.is_err() {
            // Binary, gone, or with a line that is too long: passed over.
            self.waiting.retain(|line| line.path != from.path);
            self.unreadable = error.map(|error| Failure::from(error).at(&from.path));
        } else if let Some((offset, lines)) = stopped_at {
            self.rest = Some(Rest { offset, lines, ..from });
        }
    }
}

/// The bytes of a file, as the searcher wants them.
struct FileReader<'a> {
    vfs: &'a Vfs,
    ino: Ino,
    at: u64,
    /// What was wrong with the store.
    error: &'a mut Option<FsError>,
    stopped: Stopped<'a>,
}

impl io::Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.stopped)() {
            return Err(io::Error::other("nobody waits for this any more"));
        }
        let bytes = self.vfs.read(self.ino, self.at, buffer.len()).map_err(|error| {
            *self.error = Some(error.clone()).filter(|error| matches!(error, FsError::Io(_)));
            io::Error::other(error)
        })?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
}

/// Takes the lines of one file.
struct Collector<'a> {
    matcher: &'a RegexMatcher,
    from: Rest,
    max: u64,
    lines: &'a mut VecDeque<Line>,
    bytes: usize,
    stopped_at: Option<(u64, u64)>,
    is_binary: bool,
}

impl Collector<'_> {
    /// Whether to go on.
    fn take(&mut self, line: Option<u64>, offset: u64, text: &[u8], context: bool) -> io::Result<bool> {
        let within = line.unwrap_or(1);
        let shown = &text[..text.len().min(MAX_LINE)];
        let mut spans = Vec::new();
        if !context {
            let found = self.matcher.find_iter(text, |span| {
                if span.start() < shown.len() {
                    spans.push((span.start() as u32, span.end().min(shown.len()) as u32));
                }
                spans.len() < MAX_SPANS
            });
            found.map_err(io::Error::other)?;
        }
        let start = self.from.offset + offset;
        let line = Line {
            path: Arc::clone(&self.from.path),
            line: self.from.lines + within,
            offset: start,
            text: shown.to_vec(),
            context,
            spans,
        };
        self.bytes += line.bytes();
        self.lines.push_back(line);
        if self.bytes < MAX_WAITING {
            return Ok(true);
        }
        let ends = memchr::memchr_iter(b'\n', text).count() as u64;
        self.stopped_at = Some((start + text.len() as u64, self.from.lines + within - 1 + ends));
        Ok(false)
    }
}

impl Sink for Collector<'_> {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> io::Result<bool> {
        if self.from.matched >= self.max {
            return Ok(false);
        }
        self.from.matched += 1;
        self.take(found.line_number(), found.absolute_byte_offset(), found.bytes(), false)
    }

    fn context(&mut self, _: &Searcher, found: &SinkContext<'_>) -> io::Result<bool> {
        self.take(found.line_number(), found.absolute_byte_offset(), found.bytes(), true)
    }

    fn binary_data(&mut self, _: &Searcher, _: u64) -> io::Result<bool> {
        self.is_binary = true;
        Ok(false)
    }
}
