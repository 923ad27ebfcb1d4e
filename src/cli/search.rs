//! `wsd find` and `wsd grep`.

use super::out::{Out, entry, put_bytes};
use super::talk::{Done, Failure, if_read, paths_or_root, went_well};
use crate::client::{Client, ClientError, FindOptions, GrepOptions, Kind, Match};
use crate::config::ClientFlags;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use std::ffi::OsString;

/// The exit code of grep when something, or all of it, could not be searched.
pub(super) const UNSEARCHED: u8 = 2;

#[derive(Clone, Copy, ValueEnum)]
enum Type {
    /// Regular files
    F,
    /// Directories
    D,
    /// Symlinks
    L,
}

#[derive(Args)]
pub(super) struct FindArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    /// Only what any of these matches: "*.rs" by name, "src/**/*.rs" by path
    #[arg(long, value_name = "GLOB")]
    glob: Vec<String>,
    /// Leave out, in the syntax of .gitignore
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Only files of these types
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<Type>,
    /// How deep to look; 0 is PATH itself
    #[arg(long, value_name = "N")]
    max_depth: Option<u32>,
    /// Leave out what .gitignore files exclude
    #[arg(long)]
    gitignore: bool,
    /// End names with a zero byte
    #[arg(short = '0', long, conflicts_with = "json")]
    null: bool,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
    /// Where to look; the mount point if nothing is said
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Args)]
pub(super) struct GrepArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    /// `A` is `a`
    #[arg(short, long)]
    ignore_case: bool,
    /// Whole words only
    #[arg(short, long)]
    word_regexp: bool,
    /// PATTERN is text, not a regular expression
    #[arg(short = 'F', long)]
    fixed_strings: bool,
    /// Lines of context after a match
    #[arg(short = 'A', long, value_name = "N")]
    after_context: Option<u32>,
    /// Lines of context before a match
    #[arg(short = 'B', long, value_name = "N")]
    before_context: Option<u32>,
    /// Lines of context around a match
    #[arg(short = 'C', long, value_name = "N", default_value = "0")]
    context: u32,
    /// A match may span lines
    #[arg(short = 'U', long)]
    multiline: bool,
    /// Matching lines of one file
    #[arg(short, long, value_name = "N")]
    max_count: Option<u64>,
    /// Leave out files, in the syntax of .gitignore
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Only files that any of these matches
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Leave out what .gitignore files exclude
    #[arg(long)]
    gitignore: bool,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
    /// What to look for
    pattern: String,
    /// Where to look; the mount point if nothing is said
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
}

pub(super) async fn find(client: &Client, out: &mut Out, args: &FindArgs) -> Done {
    let mut is_good = true;
    for path in paths_or_root(&args.paths) {
        let found = find_below(client, out, args, path).await;
        is_good &= found.or_else(|failure| went_well(Err(failure)))?;
    }
    Ok(is_good)
}

/// The same as [`if_read`], told after what was found before.
fn if_read_after<T>(
    out: &mut Out,
    found: Result<T, ClientError>,
    is_good: &mut bool,
) -> Result<Option<T>, Failure> {
    if found.is_err() {
        out.flush()?;
    }
    if_read(found, is_good)
}

/// Whether all of it could be looked through.
async fn find_below(client: &Client, out: &mut Out, args: &FindArgs, path: &[u8]) -> Done {
    let mut is_good = true;
    let mut cursor = client.find(find_options(args, path)).await?;
    while let Some(found) = cursor.next().await {
        let Some(found) = if_read_after(out, found, &mut is_good)? else { continue };
        if args.json {
            out.json(&Value::Object(entry(&found.path, &found.attr)))?;
        } else if args.null {
            out.raw(&found.path)?;
            out.raw(b"\0")?;
        } else {
            out.line(&found.path)?;
        }
        if !cursor.has_more_now() {
            out.flush()?;
        }
    }
    Ok(is_good)
}

fn find_options(args: &FindArgs, path: &[u8]) -> FindOptions {
    let kind = |of: &Type| match of {
        Type::F => Kind::File,
        Type::D => Kind::Dir,
        Type::L => Kind::Symlink,
    };
    FindOptions {
        globs: args.glob.clone(),
        excludes: args.exclude.clone(),
        kinds: args.types.iter().map(kind).collect(),
        max_depth: args.max_depth.unwrap_or(u32::MAX),
        gitignore: args.gitignore,
        ..FindOptions::below(path)
    }
}

/// The exit code is that of grep: 0 when a line matched, 1 when none did, 2 when something could not be searched.
pub(super) async fn grep(client: &Client, out: &mut Out, args: &GrepArgs) -> Result<u8, Failure> {
    let mut is_good = true;
    let mut printer = Printer { as_json: args.json, has_matched: false, has_context: false, last: None };
    for path in paths_or_root(&args.paths) {
        let options = grep_options(args, path);
        printer.has_context |= options.before + options.after > 0;
        let printed = printer.print_all(client, out, options).await;
        is_good &= printed.or_else(|failure| went_well(Err(failure)))?;
    }
    Ok(if is_good { u8::from(!printer.has_matched) } else { UNSEARCHED })
}

fn grep_options(args: &GrepArgs, path: &[u8]) -> GrepOptions {
    GrepOptions {
        within: FindOptions {
            globs: args.include.clone(),
            excludes: args.exclude.clone(),
            gitignore: args.gitignore,
            ..FindOptions::below(path)
        },
        literal: args.fixed_strings,
        ignore_case: args.ignore_case,
        word: args.word_regexp,
        before: args.before_context.unwrap_or(args.context),
        after: args.after_context.unwrap_or(args.context),
        max_per_file: args.max_count.unwrap_or(0),
        multiline: args.multiline,
        ..GrepOptions::new(args.pattern.clone(), path)
    }
}

fn object(found: &Match) -> Map<String, Value> {
    let mut object = Map::new();
    put_bytes(&mut object, "path", &found.path);
    put_bytes(&mut object, "text", &found.text);
    object.insert("line".to_owned(), found.line.into());
    object.insert("offset".to_owned(), found.offset.into());
    object.insert("context".to_owned(), found.context.into());
    let spans = found.spans.iter().map(|(start, end)| json!({ "start": start, "end": end }));
    object.insert("spans".to_owned(), spans.collect());
    object
}

/// `path:line:text`, `path-line-text` for lines of context, `--` where lines are missing between groups.
struct Printer {
    as_json: bool,
    has_matched: bool,
    has_context: bool,
    last: Option<(Vec<u8>, u64)>,
}

impl Printer {
    /// Whether all of it could be searched.
    async fn print_all(&mut self, client: &Client, out: &mut Out, options: GrepOptions) -> Done {
        let mut is_good = true;
        let mut cursor = client.grep(options).await?;
        while let Some(found) = cursor.next().await {
            let Some(found) = if_read_after(out, found, &mut is_good)? else { continue };
            self.has_matched |= !found.context;
            if self.as_json {
                out.json(&Value::Object(object(&found)))?;
            } else {
                self.print(out, &found)?;
            }
            if !cursor.has_more_now() {
                out.flush()?;
            }
        }
        Ok(is_good)
    }

    fn print(&mut self, out: &mut Out, found: &Match) -> Result<(), Failure> {
        let follows = |(path, line): &(Vec<u8>, u64)| *path == found.path && line + 1 == found.line;
        if self.has_context && self.last.as_ref().is_some_and(|last| !follows(last)) {
            out.raw(b"--\n")?;
        }
        let separator: &[u8] = if found.context { b"-" } else { b":" };
        for (line, text) in (found.line..).zip(found.text.split_inclusive(|byte| *byte == b'\n')) {
            let number = line.to_string();
            out.name(&found.path)?;
            out.raw(&[separator, number.as_bytes(), separator, text].concat())?;
            if !text.ends_with(b"\n") {
                out.raw(b"\n")?;
            }
            self.last = Some((found.path.clone(), line));
        }
        Ok(())
    }
}
