# Two workspaces in step: a hub, and any number of replicas. The replica asks, the hub answers; the hub orders all
# changes. Every daemon is a hub for whoever asks it.
#
# Read common.capnp first: errors, times, kinds. docs/protocol.md tells a replica's round from beginning to end.
#
# What travels is states: the latest one of each node that changed after a cursor. What a node was in between nobody
# learns. To apply a state twice changes nothing.
#
# - A node has one identity everywhere, for ever: the life of the store in which it was made, and its number there. It
#   stays the same through renames and changes, so a rename of a directory is one entry, whatever is below it.
# - A life is 16 random bytes, drawn each time a daemon opens its store. A copy of a store that is opened has another
#   life than the original, so what one of them made is never taken for what the other made.
# - A revision is a position in the order of one workspace's changes. Those of hub and replica have nothing to do with
#   each other.
# - Bytes of files and symlinks travel as objects, by BLAKE3 hash, and only where the other side lacks them. An object is
#   a piece of content or a page, and at most 262,144 bytes. See `Content`.
# - Sizes and offsets are bytes. Hashes are 32 bytes; a list of them is one blob, one after the other.
#
# Codes of errors that mean something here, beside those of common.capnp:
#   EREFUSED   no: and asking again changes nothing until somebody does something, which the message says
#   EAGAIN     not now; it may work later
#   ENOSPC     not now, for want of room: what takes something away may make some. (Older hubs say EAGAIN, and "no space left" at
#              the beginning of the message.)
#   ENOTCONN   the upstream cannot be reached at present

@0xd1f1a5c0de3e7a05;

using Common = import "common.capnp";
using Error = Common.Error;

interface Sync {
  # -- Between a replica and its hub ---------------------------------------------------------------------------

  hello @0 (hello :Hello) -> (error :Error, welcome :Welcome);
  # Comes first on each connection, and again whenever the replica is another one, or wants to know what became of a push
  # that failed: none that it sent before is taken any more. The calls from `fetchChanges` to
  # `push` need it (EPROTOCOL). EREFUSED: two workspaces that are not related, neither of them empty.

  fetchChanges @1 (after :Cursor, ignore :List(Text), waitMs :UInt32 = 0) -> (error :Error, portion :Portion);
  # What changed after a cursor; null: everything that there is. To ask with a cursor is to say that everything up to it
  # has been applied for good. With `waitMs` (never more than 60000) an answer that would be empty waits for something.
  # `ignore`: patterns in the syntax of .gitignore, from the root, of what the replica leaves out: it is told of that too,
  # but without the bytes; at most 1024 patterns, 64 KiB in all.

  readEntries @2 (ids :List(NodeId)) -> (error :Error, entries :Parcel, at :Cursor);
  # These nodes as they are, each, in the order asked for (an `Entries`); at most 1024. One that is not there is gone. If
  # they are more than fit an answer, fewer come: ask for the rest. At least one comes. `at`: where the hub is.

  hasObjects @3 (hashes :Data) -> (error :Error, lacks :Data);
  # Which of these, at most 1024, the hub does not have.

  fetchObjects @4 (hashes :Data) -> (error :Error, looked :UInt32, objects :List(Object));
  # The first of these, as many as fit an answer (2 MiB of objects): `looked` says how many were looked for, which is at
  # least one. Those that the hub does not have are left out. At most 1024 hashes. Send several calls at a time.

  pushObjects @5 (objects :List(Object)) -> (error :Error);
  # Brings objects for a `push` to come: at most 1024, and 4 MiB of them, before compression. The hub keeps them until
  # the replica's next push is taken, or until it stops; `push` says what it lacks. One whose bytes do not have its hash is EPROTOCOL, and none of the call is kept.

  push @6 (offers :Parcel, upTo :UInt64, life :Data) -> (error :Error, pushed :Pushed);
  # Offers changes (an `Offers`). All are taken, at once, or none. The hub takes them only if each was made from what the
  # hub has: otherwise the replica has something to fetch first. `upTo`: the replica's own revision up to which it has
  # pushed when these are taken; `life`: that of its store.

  watermarks @7 () -> (error :Error, watermarks :List(Watermark));
  # The replicas that this daemon knows, as their hub.

  # -- For whoever runs a daemon -------------------------------------------------------------------------------

  flush @8 (revision :UInt64 = 0xffffffffffffffff, here :Bool = false) -> (error :Error, cursor :Cursor);
  # Returns when this workspace's changes up to `revision` (default: up to now) are on the disk of its upstream; of a
  # workspace without one, on its own. `here`: on its own in any case, which is what a replica asks its hub for. `cursor`
  # is where that disk is then. Whoever calls decides how long to wait.

  status @9 () -> (error :Error, status :Status);
  # How this workspace is in step with its upstream.

  now @10 () -> (error :Error, cursor :Cursor);
  # Tries at once, if the upstream is waited for, and returns when both are the same, or with the reason why not. EREFUSED
  # without an upstream, and while paused.

  pause @11 () -> (error :Error);
  # Leaves the upstream alone until `resume`, or the daemon's next start.

  resume @12 () -> (error :Error);

  join @13 (merge :Bool) -> (error :Error);
  # Tries again to join an upstream that refused. `merge`: though the two workspaces are not related; what both have
  # under one name is settled as a conflict. Returns when they have joined.
}

# -- Who, and from where -----------------------------------------------------------------------------------------

struct NodeId {
  # The life of the store in which a node was made, its first 8 bytes and its last, each as a little-endian number; and
  # the node's number there. The root has the life of 16 zeros and the number 1, everywhere.

  lifeA @0 :UInt64;
  lifeB @1 :UInt64;
  number @2 :UInt64;
}

struct Cursor {
  # A position in the order of a hub's changes: all up to `revision` are known.

  life @0 :Data;
  # Of the hub's store, when it said so. A hub that never had this life, or had it end before the revision, was restored
  # from an old copy, and does not go on from the cursor.
  revision @1 :UInt64;
  listed @2 :UInt64;
  # Where the hub was when it began to tell everything from the beginning, which led to this cursor: what was gone by then
  # was not told of. A hub goes on from a cursor unless it has forgotten what went after both revisions.
}

struct Hello {
  replica @0 :Data;
  # 16 random bytes, kept with the store.
  label @1 :Text;
  # What people call it, at most 255 bytes.
  workspace @2 :Text;
  # Whose workspace it has: a UUID; empty when it has none yet.
  empty @3 :Bool;
  # There is nothing in it but its root, and never was anything that came from the hub.
  merge @4 :Bool;
  # Somebody has said that it is to merge with a workspace that is not related, or it has been meant for an upstream since
  # there was nothing in it, and has not met one yet.
  cursor @5 :Cursor;
  # The last of the hub's that it has applied; null: none.
  lives @6 :List(Life);
  # What its store has lived through, newest first, at most 1024: older ones may be left out.
  zstd @7 :Bool;
  # It reads zstd. Otherwise what it is sent is plain.
  heard @8 :Cursor;
  # Where the hub was when it told the replica something last that the replica has applied (`Portion.now`,
  # `readEntries`), or took something (`Pushed.taken`), whichever is later; null: it never did.
}

struct Life {
  life @0 :Data;
  since @1 :UInt64;
  # The revision at which it began.
}

struct Welcome {
  workspace @0 :Text;
  # The workspace, which is the replica's from now on.
  hub @1 :Data;
  # Who the hub is: 16 bytes.
  current @2 :Cursor;
  # Where the hub is.
  resumes @3 :Bool;
  # The hub goes on from the cursor of the hello. If not, the replica begins without one; afterwards it asks for each
  # node that it has from the hub and was not told of (`readEntries`).
  stale @4 :Bool;
  # The hub has had more from this replica than the replica knows of: it is a copy of an old state. It must take a new
  # `replica`, and say hello again.
  restored @5 :Bool;
  # The hub has never been where the replica has seen it (`cursor`, `heard`): it is a copy of an old state, or another
  # hub, of another workspace even. What the replica believes the hub to have may not be so: it must forget all of that, and begin without a cursor
  # as one that has never met the hub.
  taken @6 :Data;
  # The digest of the offers of the last push of the replica that was taken, 32 bytes, if the hub remembers; else null.
  pushed @7 :UInt64;
  # `upTo` of that push; 0: the hub does not say, and `taken` may be of an earlier one that offered just the same.
}

# -- What a node is ----------------------------------------------------------------------------------------------

struct State {
  # All that one side knows of a node and tells the other.

  kind @0 :Common.Kind;
  mode @1 :UInt32;
  # Permission bits, at most 0o7777.
  uid @2 :UInt32;
  gid @3 :UInt32;
  rdev @4 :UInt32;
  # Of a device node.
  atime @5 :Int64;
  mtime @6 :Int64;
  btime @7 :Int64;
  places @8 :List(Place);
  # Its names, in any order: exactly one of a directory, one or more of anything else, none of the root.
  xattrs @9 :List(Xattr);
  # All of them.
  content @10 :Content;
  # Of files and symlinks; null for all else. An empty file has size 0, depth 0 and the hash of no bytes.
}

struct Place {
  parent @0 :NodeId;
  name @1 :Data;
  # 1 to 255 bytes, neither NUL nor slash among them; not "." and not "..".
}

struct Xattr {
  name @0 :Data;
  value @1 :Data;
}

struct Content {
  # The bytes of a file, or the target of a symlink, by hash.
  #
  # With depth 0 the hash is that of the bytes, of which there are at most 262,144; a symlink's always is. Otherwise it is
  # that of a page: records one after the other, each of which is
  #   a byte 0, 32 bytes of hash, 8 bytes of length: a piece (depth 1) or a page of depth - 1, and how many bytes of the
  #     file it stands for
  #   a byte 1, 8 bytes of length: a hole, bytes that are zeros and take no room
  # with lengths little-endian and never 0. They add up to the size. All daemons cut bytes the same way (see
  # docs/protocol.md), so equal bytes have equal ids; one who cuts otherwise is understood, but shares nothing.

  size @0 :UInt64;
  hash @1 :Data;
  depth @2 :UInt8;
  # At most 8.
}

# -- Portions ----------------------------------------------------------------------------------------------------

enum Encoding {
  plain @0;
  zstd @1;
  # One frame of zstd that says its size.
}

struct Parcel {
  # A message of its own (stream framing, one root), compressed as a whole.

  encoding @0 :Encoding;
  size @1 :UInt32;
  # Without compression; at most 16 MiB.
  data @2 :Data;
}

struct Entries {
  list @0 :List(Entry);
  # At most 1024. What is in one portion belongs together: apply it at once, in no particular order. A place may be one
  # that another entry leaves.
}

struct Entry {
  id @0 :NodeId;
  state @1 :State;
  # Null: it is gone.
  bytes @2 :Data;
  # All bytes of its content, at most 16 KiB, of depth 0; null: fetch them, if need be.
  allocated @3 :UInt64;
  # Bytes that are allocated to its content, without holes; 0: none, or it is not known.
}

struct Offers {
  list @0 :List(Offer);
  # At most 1024; each node at most once. They must make sense together: where a name is taken by one it was left by
  # what another does, and a directory that goes is empty when all is done.
}

struct Offer {
  id @0 :NodeId;
  base @1 :State;
  # What the replica knows that the hub has: the last that it was told, or had taken. Null: nothing.
  state @2 :State;
  # What it is to be; null: gone.
  bytes @3 :Data;
  # As in `Entry`.
  allocated @4 :UInt64;
  # As in `Entry`.
}

struct Portion {
  entries @0 :Parcel;
  # An `Entries`; null: none. Each node at most once, and not those whose last change came from the replica that asks.
  upTo @1 :Cursor;
  # Where to go on.
  more @2 :Bool;
  # There is more at once.
  reset @3 :Bool;
  # The hub does not go on from this cursor: begin without one, as when `Welcome.resumes` is false.
  now @4 :UInt64;
  # The hub's last revision: what is told may be as new as that.
}

struct Object {
  hash @0 :Data;
  encoding @1 :Encoding;
  size @2 :UInt32;
  # Without compression; at most 262,144.
  data @3 :Data;
}

struct Pushed {
  union {
    taken @0 :Cursor;
    # They are on the hub's disk, with this revision.
    refused @1 :List(Refusal);
    # Nothing of it was taken.
    lacks @2 :Data;
    # Hashes of objects that they need and that the hub does not have, or no longer: bring them and push again.
  }
}

struct Refusal {
  id @0 :NodeId;
  # The node that was offered.
  why @1 :Why;
  other @2 :NodeId;
  # The node that is in the way, where one is named.
}

enum Why {
  changed @0;
  # The hub has something else than `base`.
  taken @1;
  # The name leads to `other`.
  noParent @2;
  # `other` is no directory that is there.
  notEmpty @3;
  # `other` is still in the directory.
  cycle @4;
  # The directory would be below itself, or below `other`, which moves too.
}

struct Watermark {
  # What a hub knows of one replica.

  replica @0 :Data;
  label @1 :Text;
  applied @2 :UInt64;
  # The hub's revision up to which the replica has applied its changes.
  pushed @3 :UInt64;
  # The replica's own revision up to which it has pushed.
  lastSeen @4 :Int64;
}

# -- How it goes -------------------------------------------------------------------------------------------------

enum Link {
  off @0;
  # There is no upstream.
  connecting @1;
  connected @2;
  paused @3;
  refused @4;
  # Somebody has to do something: see `lastError`.
}

struct Status {
  upstream @0 :Text;
  # Where, without any secret; empty: there is none.
  link @1 :Link;
  lastError @2 :Text;
  # Until it works again.
  lastContact @3 :Int64;
  # When the upstream was last heard of; 0: never.
  replica @4 :Text;
  # Who this is, as hexadecimal digits.
  pulled @5 :UInt64;
  # The upstream's revision up to which its changes are applied here.
  upstreamRevision @6 :UInt64;
  # Its last revision, as far as is known.
  pushed @7 :UInt64;
  # This workspace's revision up to which its changes are on the upstream's disk.
  revision @8 :UInt64;
  # Its last.
  pendingEntries @9 :UInt64;
  pendingBytes @10 :UInt64;
  # What has changed here and is not upstream yet: nodes, and bytes of their content.
  incomingEntries @11 :UInt64;
  incomingBytes @12 :UInt64;
  # What is known to come from upstream and is not applied yet.
  conflicts @13 :UInt64;
  # Since the workspace was made.
  recent @14 :List(Conflict);
  # The latest of them, newest first.
}

struct Conflict {
  time @0 :Int64;
  kind @1 :ConflictKind;
  path @2 :Data;
  # With the mount point, as everywhere.
  kept @3 :Data;
  # Where the version is that lost; empty: it was not kept.
}

enum ConflictKind {
  content @0;
  # Both sides changed the bytes of a file or the target of a symlink.
  name @1;
  # Both gave a name to different nodes.
  move @2;
  # Both moved a node, to different places, or into each other.
  removal @3;
  # One removed what the other changed.
  attributes @4;
  # Both changed mode, owner or extended attributes, differently.
}
