# The workspace daemon's bootstrap capability.
#
# Two ways to reach it, the same objects behind both:
#
# - GET /ws, upgraded to a WebSocket: each binary message is exactly one Cap'n Proto RPC message (rpc.capnp) in the
#   standard framing for streams (segment table, segments). Text messages are a protocol error. The daemon sends
#   pings; a connection that is silent for 60 seconds is closed. Messages are at most 8 MiB, 64 segments.
# - POST /api with Content-Type application/x-capnp-rpc: the body is a sequence of such messages, one after the
#   other (a Bootstrap, then calls pipelined on it), the answer's body the daemon's messages, a Return for each
#   question among them. Capabilities die with the batch, so everything after the bootstrap is pipelined. The
#   body is at most 16 MiB, the answer at most 64 MiB, the whole at most 30 seconds.
#
# When the daemon has a secret (WSD_TOKEN), both need the header "Authorization: Bearer <secret>".

@0xd1f1a5c0de3e7a03;

using Error = import "common.capnp".Error;
using Fs = import "fs.capnp".Fs;
using Exec = import "exec.capnp".Exec;
using Sync = import "sync.capnp".Sync;

interface Workspace {
  info @0 () -> (error :Error, info :Info);

  fs @1 () -> (fs :Fs);
  # The files. Always succeeds.

  exec @2 () -> (exec :Exec);
  # Commands in the workspace. Always succeeds.

  sync @3 () -> (sync :Sync);
  # The workspace as a hub for others, and how it is in step with its own upstream. Always succeeds.
}

struct Info {
  version @0 :Text;
  workspaceId @1 :Text;
  # A UUID, for the life of the workspace.
  mountPoint @2 :Data;
  # The prefix of all paths.
  mount @3 :Text;
  # "fuse" or "none": how programs on the daemon's machine see the workspace.
  mountReason @4 :Text;
  revision @5 :UInt64;
  # Of the last change.
  features @6 :List(Text);
}
