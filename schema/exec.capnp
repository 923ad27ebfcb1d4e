# Commands in the workspace. A command belongs to the daemon, not to the connection that started it: when the
# connection is lost it goes on, and whoever knows its id can attach to it again.
#
# Read common.capnp first: paths, errors.

@0xd1f1a5c0de3e7a04;

using Common = import "common.capnp";
using Error = Common.Error;
using Change = import "fs.capnp".Change;

interface Exec {
  run @0 (command :Command) -> (error :Error, id :Text, pid :UInt32, events :Events, stdin :Stdin);
  # Starts a command. ENOENT, EACCES, ENOTDIR (with the path) when the program or the directory is not there;
  # EEXEC_BUSY when the id is in use; ENOTSUP when the workspace is not mounted; ENOTCONN when somebody has unmounted it, or
  # when it was to `pull` and could not: it was not started then.

  attach @1 (id :Text, after :UInt64 = 0) -> (error :Error, info :Info, events :Events, stdin :Stdin);
  # The events of a command after a sequence number; 0: from the first. 0xffffffffffffffff: only what is to come.
  # Any number of readers may be attached. ENOENT: no such command, or it was disposed of.

  kill @2 (id :Text, signal :Text = "TERM", graceMs :UInt32 = 0) -> (error :Error, running :Bool);
  # Sends a signal to all processes of a command, those that left its process group included. With `graceMs`: and
  # KILL when they are not gone after that. `running` is false when it had ended already. EINVAL: no such signal.

  list @3 () -> (error :Error, commands :List(Info));
  # All that are known, oldest first.

  dispose @4 (id :Text) -> (error :Error);
  # Forgets a command that has ended, and its output. EEXEC_BUSY while it runs.

  resize @5 (id :Text, rows :UInt16, columns :UInt16) -> (error :Error);
  # The size of its pseudo-terminal. ENOTTY when it has none.

  changes @6 (id :Text) -> (error :Error, changes :List(Change), complete :Bool);
  # What it changed in the workspace between its start and its end (or now). What other commands, other programs and
  # callers of `Fs` changed meanwhile is not in it. `complete` is false when there was more than the daemon keeps.
  #
  # Names, attributes, sizes, and bytes written past the kernel's cache (O_DIRECT, copy_file_range, fallocate) are exactly
  # those of its processes. Bytes written through the cache (write, mmap) reach the daemon without a process; when a
  # process closes or unmaps the file, the kernel writes them and the file's times back in its name. So of a file that
  # several have open at once, whoever closes it first while it has such bytes is told to have changed it, be it a reader;
  # and the writer is not, if it writes nothing after that and has done nothing else to the file. What is
  # written back in nobody's name is told of each command that ran then, unless others have changed the same file through
  # the mount meanwhile, and that command has not, or another command was the last to do so before. Without FUSE (`shim`) nobody is known: only what callers of `Fs` did is
  # left out.
  #
  # A process is the command's if it has its session, or descends from its first process; one that has begun a session
  # of its own and lost its parent, if it is in the command's control group (see docs/operations.md).
}

struct Command {
  union {
    shell @0 :Data;
    # Run by /bin/sh -c.
    argv @1 :List(Data);
    # A program, looked up in PATH unless it has a slash, and its arguments.
  }
  cwd @2 :Data;
  # Default: the mount point. A relative path is taken below it; a directory outside is allowed.
  env @3 :List(Variable);
  # In addition to PATH, HOME, USER, SHELL, TMPDIR, TZ, LANG, LC_*, TERM and what WSD_VAR_* give.
  stdin :union {
    none @4 :Void;
    # Nothing: reads find the end.
    bytes @5 :Data;
    # These bytes, then the end.
    stream @6 :Void;
    # What is written to the `stdin` that `run` returns, until it is closed.
  }
  timeoutMs @7 :UInt64;
  # After this the command is ended as by `kill`, with KILL after 2 seconds, and with it all that it has left running,
  # `detach` or not. It counts until the command's end: what a detached one leaves running then has no time. 0: never.
  terminal @8 :Terminal;
  # When given, the command has a pseudo-terminal: stdin, stdout and stderr are one, and its output is stdout.
  id @9 :Text;
  # Chosen by the caller (at most 128 letters, digits, ".", "_", "-"), or empty: the daemon chooses.
  limits @10 :Limits;
  outputGraceMs @11 :UInt32 = 5000;
  # How long output is waited for, from processes that outlive the command itself and hold its output open, while
  # they say nothing.
  detach @12 :Bool;
  # What the command leaves running in the background is left alone at its end.
  pull @13 :Bool;
  # It is started when all that the upstream had at the time of the call is here. If that does not come to be within
  # `syncTimeoutMs`, it is not started: ENOTCONN, and why. Without an upstream there is nothing to wait for.
  push @14 :Bool;
  # Its exit event comes when the workspace, as it was at its end, is upstream and durable there; without an upstream, when
  # it is durable here. If that does not come to be within `syncTimeoutMs`, the exit event comes without it and says so
  # (`notUpstream`). Until then the command counts as running; `kill` ends the wait, as the end of the daemon does.
  # What is not upstream then is pushed as soon as it can be, as all that changes here is.
  syncTimeoutMs @15 :UInt64 = 60000;
  # How long each of the two may take. 0: as long as it takes. `timeoutMs` does not count these.
}

struct Variable {
  name @0 :Data;
  value @1 :Data;
}

struct Terminal {
  rows @0 :UInt16 = 24;
  columns @1 :UInt16 = 80;
}

struct Limits {
  # As setrlimit(2) has them; 0: as the daemon's. They hold from the program's first instruction. One beyond the daemon's
  # own hard limit is EPROTOCOL, unless the daemon is root's.
  cpuSeconds @0 :UInt64;
  memoryBytes @1 :UInt64;
  # Of address space, for each process.
  processes @2 :UInt64;
  # Of the user, all together.
  fileBytes @3 :UInt64;
  openFiles @4 :UInt64;
}

interface Stdin {
  write @0 (bytes :Data) -> stream;
  # Waits while the command does not read. Bytes for a command that has closed its end are dropped.
  close @1 () -> (error :Error);
  # The command reads the end.
}

interface Events {
  # A reader. As long as it is attached the command is held up, by its pipe, when it writes more than the reader
  # takes; drop the capability to let it go on.

  next @0 (limit :UInt32 = 256, waitMs :UInt32 = 30000)
      -> (error :Error, events :List(Event), end :Bool, resume :UInt64);
  # Waits at most `waitMs` (never more than 60000) for events. `end`: the last one was the exit. ELOG_TRUNCATED
  # when the daemon no longer has what comes next: `resume` is what to attach after.
}

struct Event {
  seq @0 :UInt64;
  # From 1, without gaps.
  union {
    stdout @1 :Data;
    stderr @2 :Data;
    exit @3 :Exit;
    # Always the last, after all output.
  }
}

struct Exit {
  union {
    code @0 :Int32;
    signal @1 :Text;
    # "KILL", "SEGV", ...
    lost @2 :Void;
    # The daemon ended while it ran: nobody knows.
  }
  timedOut @3 :Bool;
  # It was ended because of `timeoutMs`.
  outputCut @4 :Bool;
  # Processes that it left behind held its output open when the grace period was over: there may have been more.
  notUpstream @5 :Text;
  # With `push`: why what it did is not known to be upstream. Empty when it is, and without `push`. How the command itself
  # ended is said above, whatever this says; of a `lost` one nothing is known.
}

enum State {
  running @0;
  ended @1;
}

struct Info {
  id @0 :Text;
  command @1 :Data;
  # As the caller gave it, at most 2 KiB of it; the words of an `argv` with blanks between.
  cwd @2 :Data;
  pid @3 :UInt32;
  state @4 :State;
  exit @5 :Exit;
  # When it has ended.
  started @6 :Int64;
  ended @7 :Int64;
  # Nanoseconds since 1970.
  startRevision @8 :UInt64;
  endRevision @9 :UInt64;
  # The workspace's revision when it started and when it ended.
  firstSeq @10 :UInt64;
  lastSeq @11 :UInt64;
  # The events that can still be read.
}
