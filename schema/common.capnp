# What every part of wsd's interface is told in: errors, paths, times, attributes.
#
# Conventions of all interfaces
#
# - A path is bytes, not text, because names in a workspace are. It begins with the mount point: the file that a
#   program sees at /workspace/repo/a.txt is "/workspace/repo/a.txt" here too, on every daemon, mounted or not.
#   A path without a leading slash is taken below the mount point. "." and ".." mean what they mean in a shell.
#   One with a slash at its end is a directory's: of something else it is ENOTDIR, and only a directory is made there
#   (`mkdir` where something is: EEXIST).
#   Symlinks on the way are followed; one that leads out of the workspace is ENOENT. Whether the last name is
#   followed is said at each method: "follows" or "does not follow".
# - A time is nanoseconds since 1970-01-01T00:00:00Z, negative before. A size or an offset is bytes.
# - Every result has an `error`. When it is null the call succeeded; when it is not, the other fields say nothing,
#   and capabilities among them answer every call with the same error, so that pipelining on a result before it
#   has arrived is always safe. Cap'n Proto exceptions are left for what is wrong with the connection or with
#   the call itself: `disconnected`, `overloaded`, `unimplemented`.
# - Calls on one capability begin in the order in which they were sent. Those of `Fs` then run side by side and
#   may end in any order: wait for one before you send another that needs it. Those of a `ByteSource`, a
#   `ByteSink`, a cursor or a `Watch` run one after the other, so that several can be sent ahead.
# - A capability belongs to the connection it came from and dies with it. A connection may hold 4096 at a time
#   (EMFILE), so drop what you have read to its end.

@0xd1f1a5c0de3e7a01;

struct Error {
  # Why a call failed.

  code @0 :Text;
  # A POSIX name ("ENOENT", "EEXIST", "ENOSPC", ...), or one of wsd's own:
  #   EPROTOCOL    the arguments make no sense to this daemon; `message` says which
  #   EMATCHES     `edit` found the text a number of times that is not one; `message` has the number
  #   ESHUTDOWN    the daemon is stopping; ask again when it is back
  #   EEXEC_BUSY   a command of this id runs, or is kept
  #   ELOG_TRUNCATED  output that was asked for is no longer kept
  #   EREFUSED     no, and no again, until somebody does what `message` says
  #   EMFILE       too many capabilities are open on this connection
  #   ETIMEDOUT    the deadline of a batch passed

  message @1 :Text;
  # One line for a person.

  path @2 :Data;
  # What the error is about, as the caller wrote it, at most 4 KiB of it; empty where no single path is.

  applied @3 :Applied;
  # Whether the call changed anything.
}

enum Applied {
  no @0;
  # Nothing was changed.
  yes @1;
  # The change was made, at least in part.
  unknown @2;
  # Nobody can tell.
}

enum Kind {
  file @0;
  dir @1;
  symlink @2;
  fifo @3;
  socket @4;
  charDevice @5;
  blockDevice @6;
}

struct Attr {
  # A node's attributes, as stat(2) has them.

  ino @0 :UInt64;
  # Never used twice in a workspace; stays through renames.
  kind @1 :Kind;
  mode @2 :UInt32;
  # Permission bits, at most 0o7777.
  nlink @3 :UInt32;
  uid @4 :UInt32;
  gid @5 :UInt32;
  rdev @6 :UInt32;
  # Device number of a device node.
  size @7 :UInt64;
  blocks @8 :UInt64;
  # Allocated bytes, in units of 512.
  atime @9 :Int64;
  mtime @10 :Int64;
  ctime @11 :Int64;
  btime @12 :Int64;
  # Birth.
  revision @13 :UInt64;
  # The workspace's revision when the node was last changed.
}
