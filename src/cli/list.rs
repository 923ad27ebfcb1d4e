//! `wsd ls` and `wsd stat`.

use super::out::{Out, entry, put_bytes, utc};
use super::talk::{Done, Failure, base_name, join, paths_or_root, went_well};
use crate::client::{Attr, Client, DirEntry, Kind};
use crate::config::ClientFlags;
use clap::Args;
use serde_json::Value;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

#[derive(Args)]
pub(super) struct LsArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    /// Attributes too; times are UTC
    #[arg(short)]
    long: bool,
    /// Names that begin with a dot too
    #[arg(short)]
    all: bool,
    /// What is in directories too
    #[arg(short = 'R')]
    recursive: bool,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
    /// What to list; the mount point if nothing is said
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Args)]
pub(super) struct StatArgs {
    #[command(flatten)]
    pub(super) remote: ClientFlags,
    /// Of what symlinks lead to
    #[arg(short = 'L', long)]
    follow: bool,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

pub(super) async fn ls(client: &Client, out: &mut Out, args: &LsArgs) -> Done {
    let paths = paths_or_root(&args.paths);
    let mut is_good = true;
    let mut lister = Lister { client, out, args, has_headers: args.recursive || paths.len() > 1, lines: 0 };
    for path in paths {
        is_good &= match lister.path(path).await {
            Ok(is_whole) => is_whole,
            Err(failure) => went_well(Err(failure))?,
        };
    }
    Ok(is_good)
}

struct Lister<'a> {
    client: &'a Client,
    out: &'a mut Out,
    args: &'a LsArgs,
    has_headers: bool,
    lines: u64,
}

impl Lister<'_> {
    /// Lists something; whether all that is in it could be listed.
    async fn path(&mut self, path: &[u8]) -> Done {
        let attr = self.client.stat(path).await;
        let Ok(Attr { kind: Kind::Dir, .. }) = attr else {
            // A symlink that leads nowhere is there all the same.
            let attr = self.client.lstat(path).await?;
            return self.show(path, path, &attr).await.map(|()| true);
        };
        let mut is_good = true;
        let mut pending = vec![path.to_owned()];
        while let Some(directory) = pending.pop() {
            let listed = self.directory(&directory).await;
            if !self.args.recursive {
                return listed.map(|_| true);
            }
            match listed {
                Ok(below) => pending.extend(below.into_iter().rev()),
                Err(failure) => is_good &= went_well(Err(failure))?,
            }
        }
        Ok(is_good)
    }

    /// Lists a directory; the directories in it.
    async fn directory(&mut self, path: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
        if self.has_headers && !self.args.json {
            if self.lines > 0 {
                self.out.raw(b"\n")?;
            }
            self.out.line(&[path, b":"].concat())?;
        }
        let mut entries = self.client.readdir(path).await?;
        entries.retain(|entry| self.args.all || !entry.name.starts_with(b"."));
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        for DirEntry { name, attr } in &entries {
            self.show(name, &join(path, name), attr).await?;
        }
        self.lines += 1;
        let directories = entries.iter().filter(|entry| entry.attr.kind == Kind::Dir);
        Ok(directories.map(|entry| join(path, &entry.name)).collect())
    }

    async fn show(&mut self, name: &[u8], path: &[u8], attr: &Attr) -> Result<(), Failure> {
        self.lines += 1;
        let is_link = attr.kind == Kind::Symlink && (self.args.long || self.args.json);
        let target = if is_link { self.client.readlink(path).await.ok() } else { None };
        if self.args.json {
            let mut object = entry(path, attr);
            put_bytes(&mut object, "name", base_name(name).unwrap_or(name));
            if let Some(target) = &target {
                put_bytes(&mut object, "target", target);
            }
            return self.out.json(&Value::Object(object));
        }
        if !self.args.long {
            return self.out.line(name);
        }
        let Attr { nlink, uid, gid, size, mtime, .. } = attr;
        let (mode, time) = (mode_text(attr), utc(*mtime));
        let mut line = format!("{mode} {nlink:>3} {uid:>5} {gid:>5} {size:>12} {time} ").into_bytes();
        line.extend_from_slice(name);
        if let Some(target) = &target {
            line.extend_from_slice(b" -> ");
            line.extend_from_slice(target);
        }
        self.out.line(&line)
    }
}

pub(super) async fn stat(client: &Client, out: &mut Out, args: &StatArgs) -> Done {
    let mut is_good = true;
    for path in args.paths.iter().map(|path| path.as_bytes()) {
        is_good &= went_well(stat_one(client, out, args, path).await)?;
    }
    Ok(is_good)
}

async fn stat_one(client: &Client, out: &mut Out, args: &StatArgs, path: &[u8]) -> Result<(), Failure> {
    let attr = if args.follow { client.stat(path).await? } else { client.lstat(path).await? };
    let target = match attr.kind {
        Kind::Symlink => Some(client.readlink(path).await?),
        _ => None,
    };
    if args.json {
        let mut object = entry(path, &attr);
        if let Some(target) = &target {
            put_bytes(&mut object, "target", target);
        }
        return out.json(&Value::Object(object));
    }
    out.line(&[b"path      ", path].concat())?;
    if let Some(target) = &target {
        out.line(&[b"target    ", &target[..]].concat())?;
    }
    let time = |nanos: i64| format!("{}.{:09} UTC", utc(nanos), nanos.rem_euclid(1_000_000_000));
    let rows = [
        ("mode", format!("{} ({:04o})", mode_text(&attr), attr.mode)),
        ("size", attr.size.to_string()),
        ("blocks", attr.blocks.to_string()),
        ("links", attr.nlink.to_string()),
        ("owner", format!("{}:{}", attr.uid, attr.gid)),
        ("inode", attr.ino.to_string()),
        ("modified", time(attr.mtime)),
        ("changed", time(attr.ctime)),
        ("accessed", time(attr.atime)),
        ("born", time(attr.btime)),
        ("revision", attr.revision.to_string()),
    ];
    out.table(&rows.map(|(name, value)| (name.to_owned(), value)))
}

/// `drwxr-xr-x`, as ls(1) has it.
fn mode_text(attr: &Attr) -> String {
    let mut text = String::from(match attr.kind {
        Kind::File => '-',
        Kind::Dir => 'd',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharDevice => 'c',
        Kind::BlockDevice => 'b',
    });
    for (shift, special, (with, without)) in
        [(6, 0o4000, ('s', 'S')), (3, 0o2000, ('s', 'S')), (0, 0o1000, ('t', 'T'))]
    {
        let bits = attr.mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (attr.mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => with,
            (true, false) => without,
        });
    }
    text
}
