# The files of a workspace. The same live tree as the mount: what a call has changed, the next instruction of a
# program in the mount sees, and the other way round, bytes that a program has not flushed yet included.
#
# Read common.capnp first: paths, errors, order.

@0xd1f1a5c0de3e7a02;

using Common = import "common.capnp";
using Error = Common.Error;
using Attr = Common.Attr;

interface Fs {
  # -- One call, one answer ------------------------------------------------------------------------------------

  stat @0 (path :Data) -> (error :Error, attr :Attr);
  # Follows.

  lstat @1 (path :Data) -> (error :Error, attr :Attr);
  # Does not follow.

  readdir @2 (path :Data, after :UInt64 = 0, limit :UInt32 = 1000)
      -> (error :Error, entries :List(DirEntry), next :UInt64, end :Bool);
  # A page of a directory, without "." and "..", in an order that does not change while names come and go. `after`
  # is 0, or `next` of the page before. At most `limit` entries, never more than 10000. `end`: this was the last
  # page. Follows.

  read @3 (path :Data, offset :UInt64 = 0, count :UInt32 = 1048576)
      -> (error :Error, data :Data, attr :Attr);
  # At most `count` bytes, never more than 4 MiB; fewer only at the end of the file. `attr.size` is the size of
  # the file. Follows. For more than that: `readFile`.

  write @4 (path :Data, offset :UInt64, data :Data) -> (error :Error, attr :Attr);
  # Writes bytes in place, into a file that exists; at most 4 MiB. Follows. For whole files: `writeFile`.

  append @5 (path :Data, data :Data, create :Bool = true, mode :UInt32 = 0644) -> (error :Error, attr :Attr);
  # Adds at the end, at most 4 MiB; two appends at once never overlap. Follows.

  truncate @6 (path :Data, size :UInt64) -> (error :Error, attr :Attr);
  # Cuts the file, or extends it by a hole. Follows.

  mkdir @7 (path :Data, mode :UInt32 = 0755, recursive :Bool = false) -> (error :Error, attr :Attr);
  # `recursive`: makes what is missing on the way, and is content with a directory that is there already.

  rm @8 (path :Data, recursive :Bool = false, force :Bool = false) -> (error :Error, removed :UInt64);
  # Removes a name. A directory needs `recursive` (EISDIR) unless it is empty and `recursive` is given. `force`:
  # that there is nothing to remove is no error, nor that somebody else was faster. `removed` counts the names that this
  # call removed. Does not follow. Of a recursive removal that fails, `applied` says whether it has removed some.

  rename @9 (from :Data, to :Data, mode :RenameMode = replace) -> (error :Error);
  # Gives a node another name, at once. Follows neither.

  link @10 (target :Data, path :Data) -> (error :Error, attr :Attr);
  # Gives the file `target` the additional name `path`. Follows neither.

  symlink @11 (target :Data, path :Data) -> (error :Error, attr :Attr);
  # Makes a symlink at `path` that holds the bytes `target`, which are not interpreted.

  readlink @12 (path :Data) -> (error :Error, target :Data);

  chmod @13 (path :Data, mode :UInt32) -> (error :Error, attr :Attr);
  # Follows.

  chown @14 (path :Data, uid :UInt32 = 0xffffffff, gid :UInt32 = 0xffffffff, follow :Bool = true)
      -> (error :Error, attr :Attr);
  # 0xffffffff leaves one as it is.

  utimes @15 (path :Data, atime :SetTime, mtime :SetTime, follow :Bool = true) -> (error :Error, attr :Attr);

  getxattr @16 (path :Data, name :Data, follow :Bool = true) -> (error :Error, value :Data);
  setxattr @17 (path :Data, name :Data, value :Data, mode :XattrMode = any, follow :Bool = true)
      -> (error :Error);
  listxattr @18 (path :Data, follow :Bool = true) -> (error :Error, names :List(Data));
  removexattr @19 (path :Data, name :Data, follow :Bool = true) -> (error :Error);
  # Extended attributes: "user.", "trusted.", "security." and the POSIX ACLs of "system.".

  copy @20 (from :Data, to :Data, recursive :Bool = false, replace :Bool = true)
      -> (error :Error, files :UInt64, bytes :UInt64);
  # Copies a file, a symlink or, with `recursive`, a tree, with modes, owners, times and extended attributes.
  # Content is shared, not copied, so that size costs next to nothing. `to` is the new name itself, not a
  # directory to put it into; a file there is replaced unless `replace` is false, a directory there is filled.
  # Does not follow.

  edit @21 (path :Data, old :Data, new :Data, all :Bool = false) -> (error :Error, replaced :UInt64, attr :Attr);
  # Replaces `old`, which must be in the file exactly once, by `new`; with `all` every `old`, of which there must
  # be one. EMATCHES otherwise, and nothing is changed. Readers see the file before or after, never between.
  # For files of at most 64 MiB. Follows.

  sync @22 () -> (error :Error, revision :UInt64);
  # Returns when every change up to `revision`, which is the last one, is on the disk.

  statfs @23 () -> (error :Error, total :UInt64, free :UInt64, nodes :UInt64);
  # Bytes of the workspace in all and free, and the number of its nodes.

  # -- Long answers, in portions -------------------------------------------------------------------------------

  readFile @24 (path :Data, offset :UInt64 = 0, length :UInt64 = 0xffffffffffffffff)
      -> (error :Error, attr :Attr, source :ByteSource);
  # The bytes of a file, or of a range of it. What comes is the file as it is when each portion is read. Follows.

  writeFile @25 (path :Data, options :WriteOptions) -> (error :Error, sink :ByteSink);
  # A whole file, made or replaced. Readers see the old bytes until `done` and all of the new ones after it; a
  # stream that breaks off leaves nothing. A file that is replaced keeps its identity: number, links, owner,
  # mode, extended attributes. Follows.

  find @26 (options :FindOptions) -> (error :Error, cursor :EntryCursor);
  # What is below a path, filtered. Parents come before what is in them; symlinks are not followed. A search that is
  # open counts as 16 of the capabilities of a connection.

  grep @27 (options :GrepOptions) -> (error :Error, cursor :MatchCursor);
  # The lines of files below a path that a pattern matches.

  watch @28 (path :Data, recursive :Bool = true, after :UInt64 = 0xffffffffffffffff)
      -> (error :Error, revision :UInt64, watch :Watch);
  # What changes at `path`, in it and, with `recursive`, below it: every change after the revision `after`, once,
  # in the order of revisions. Does not follow. The default of `after` is now; `revision` says what that is. To go
  # on after a lost connection give the last `upTo` you have seen.
}

struct DirEntry {
  name @0 :Data;
  attr @1 :Attr;
}

enum RenameMode {
  replace @0;
  # What is at the new name goes.
  noReplace @1;
  # EEXIST when something is.
  exchange @2;
  # The two swap names; both must exist.
}

enum XattrMode {
  any @0;
  create @1;
  # EEXIST when it is there.
  replace @2;
  # ENODATA when it is not.
}

struct SetTime {
  union {
    keep @0 :Void;
    now @1 :Void;
    at @2 :Int64;
    # Nanoseconds since 1970.
  }
}

struct WriteOptions {
  mode @0 :UInt32 = 0644;
  # Permission bits of a file that is made.
  ifExists @1 :IfExists = replace;
  makeDirs @2 :Bool = false;
  # Makes the directories that are missing on the way.
  setMode @3 :Bool = false;
  # A file that is replaced gets `mode` too.

  enum IfExists {
    replace @0;
    fail @1;
    # EEXIST
    require @2;
    # ENOENT when there is none.
  }
}

interface ByteSource {
  # Bytes in order, at the reader's pace: send a few calls ahead for speed. The daemon reads no further than it
  # was asked.

  next @0 (count :UInt32 = 1048576) -> (error :Error, data :Data, end :Bool);
  # At most `count` bytes, never more than 1 MiB. `end`: there is no more. An error ends the stream.
}

interface ByteSink {
  # Bytes in order, at the daemon's pace.

  write @0 (bytes :Data) -> stream;
  # At most 4 MiB a call. What goes wrong is told by `done`.

  done @1 (sync :Bool = false) -> (error :Error, attr :Attr);
  # The file is complete: it appears. With `sync` the answer comes when it is on the disk. To drop the sink
  # without this is to give the file up.
}

struct PathEntry {
  path @0 :Data;
  attr @1 :Attr;
}

interface EntryCursor {
  next @0 (limit :UInt32 = 1000) -> (error :Error, entries :List(PathEntry), end :Bool);
  # Waits for at least one entry or the end, and gives at most `limit` (never more than 10000). Nothing is
  # searched far ahead of what was asked for, and nothing any more once the cursor is dropped. EIO when the store cannot
  # read a directory or what an entry leads to, which `path` names: ask again to go on with the next.
}

struct FindOptions {
  path @0 :Data;
  # Where to look. It is an entry itself, when it matches.
  globs @1 :List(Text);
  # At most 1 KiB each. Any of these must match: "*.rs" by name at any depth, "src/**/*.rs" by the path below `path`. None: all do.
  excludes @2 :List(Text);
  # In the syntax of .gitignore, relative to `path`. A directory that matches is not descended into.
  kinds @3 :List(Common.Kind);
  # None: all kinds.
  maxDepth @4 :UInt32 = 0xffffffff;
  # 0: only `path` itself.
  hidden @5 :Bool = true;
  # Names that begin with a dot too.
  gitignore @6 :Bool = false;
  # Excludes also what .gitignore files in the tree exclude, of which at most 128 KiB are read.
}

struct GrepOptions {
  in @0 :FindOptions;
  # Which files. Only regular files are looked into.
  pattern @1 :Text;
  # At most 64 KiB.
  literal @2 :Bool = false;
  # The pattern is text, not a regular expression (the syntax of Rust's `regex`).
  ignoreCase @3 :Bool = false;
  word @4 :Bool = false;
  # Whole words only.
  before @5 :UInt32 = 0;
  after @6 :UInt32 = 0;
  # Lines of context, at most 100.
  maxPerFile @7 :UInt64 = 0;
  # Matching lines of one file; 0: no limit.
  multiline @8 :Bool = false;
  # A match may span lines.
}

struct Match {
  path @0 :Data;
  line @1 :UInt64;
  # From 1.
  offset @2 :UInt64;
  # Of the line's first byte in the file.
  text @3 :Data;
  # The line or lines with their line ends; a line of more than 64 KiB is cut there.
  context @4 :Bool;
  # A line around a match, not a match.
  spans @5 :List(Span);
  # Where in `text` the pattern matched.
  struct Span {
    start @0 :UInt32;
    end @1 :UInt32;
  }
}

interface MatchCursor {
  next @0 (limit :UInt32 = 1000) -> (error :Error, matches :List(Match), end :Bool, files :UInt64);
  # As in `EntryCursor`. `files`: how many were looked into so far. Files that hold a zero byte are binary, and
  # passed over. EIO when the store cannot read one, or a directory, which `path` names: ask again to go on with the next.
}

enum ChangeKind {
  created @0;
  # A name: a new node, or a further link to one.
  modified @1;
  # Bytes or size.
  attributes @2;
  # Mode, owner, times, extended attributes.
  removed @3;
  renamed @4;
}

struct Change {
  revision @0 :UInt64;
  kind @1 :ChangeKind;
  node @2 :Common.Kind;
  ino @3 :UInt64;
  path @4 :Data;
  # Where it is; of something removed, where it was.
  from @5 :Data;
  # Of a rename: where it was.
}

interface Watch {
  next @0 (limit :UInt32 = 1000, waitMs :UInt32 = 30000)
      -> (error :Error, changes :List(Change), upTo :UInt64, dropped :Bool);
  # Waits at most `waitMs` (never more than 60000) for a change. `upTo`: all changes to this revision have been
  # delivered; ask with it after a lost connection. `dropped`: the daemon no longer had all of them, because it
  # has been restarted or there were too many meanwhile: look at the tree anew, then go on here. Changes of bytes
  # that follow one another in one file may come as one.
}
