"""The works that bench.py measures. The repositories and trees that they need are of bench_assets.py.

A work is a generator `(directory, scale)` that yields `(key, seconds)` for each of its timings. Only what
runs inside `timed` is measured; everything else is preparation.
"""

import ctypes
import itertools
import mmap
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool

KIB = 1024
MIB = 1024 * KIB
PAGE = 4 * KIB
COMMAND_LIMIT = 1800
DROP_CACHES = "/proc/sys/vm/drop_caches"
NOISE = random.Random(1).randbytes(8 * MIB)
TURNS = itertools.count()
JOBS = 4


class Skip(Exception):
    """A work that cannot run here, with the reason."""


@dataclass
class Scale:
    """How much each work does."""

    assets: "Assets"
    files: int = 2_000
    many: int = 10_000
    big: int = 256
    random_size: int = 64
    random_ops: int = 5_000
    transactions: int = 200
    small_repository: int = 1_079
    large_repository: int = 10_000
    tarball: int = 7_949
    quick: bool = False


def quick_scale(assets):
    """Smaller sizes, for a run of a minute or two."""
    return Scale(assets, 500, 2_000, 64, 16, 1_000, 50, 300, 1_500, 1_500, True)


# --- measuring -------------------------------------------------------------------------------------------


def settle():
    """Let the writing of earlier works end."""
    os.sync()
    time.sleep(0.2)


def drop_caches():
    """Empty the kernel's caches of pages, names and inodes."""
    try:
        with open(DROP_CACHES, "w") as control:
            control.write("3")
    except OSError:
        raise Skip("needs root (to drop caches)") from None


def sectors_written():
    """What all disks have been told to write so far."""
    with open("/proc/diskstats") as disks:
        return sum(int(line.split()[9]) for line in disks)


def rest(quiet=1.5, most=10):
    """Wait until nothing has been written for a while: a daemon may move what it was given after it has said that it has it."""
    end, since, before = time.monotonic() + most, time.monotonic(), sectors_written()
    while time.monotonic() < min(since + quiet, end):
        time.sleep(0.1)
        now = sectors_written()
        if now != before:
            since, before = time.monotonic(), now


def have_memory(mebibytes):
    """Use so much memory for a moment. A virtual machine may have given what is free back to its host, which takes longer to return
    it (2 s for 1 GiB have been seen) than what is measured takes; whoever needs more memory, or gets other pages, would pay more."""
    if not mebibytes:
        return
    with mmap.mmap(-1, mebibytes * MIB) as memory:
        for offset in range(0, len(memory), PAGE):
            memory[offset] = 1


def timed(action, *arguments, cold=False, memory=256):
    """The seconds that `action` takes, after things have settled. It finds `memory` mebibytes that the machine has."""
    settle()
    if cold:
        drop_caches()
    have_memory(memory)
    start = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - start


def check(condition, message):
    """Fail the work when the filesystem gave a wrong answer."""
    if not condition:
        raise RuntimeError(message)


def run(*command, cwd=None, env=None):
    """Run a command; its output, or an error that holds the end of what it printed."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, text=True, errors="replace",
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_LIMIT)
    if done.returncode != 0:
        text = (done.stderr or done.stdout).strip()[-300:].replace("\n", " | ")
        raise RuntimeError(f"{command[0]} exited with {done.returncode}: {text}")
    return done.stdout


def syncfs(directory):
    """Write a whole filesystem to its disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(handle) != 0:
            raise OSError(ctypes.get_errno(), "syncfs failed")
        os.fsync(handle)
    finally:
        os.close(handle)


# --- small files -----------------------------------------------------------------------------------------


def names(directory, count, prefix="file"):
    """Paths of `count` files in one directory."""
    return [f"{directory}/{prefix}-{number:05}.txt" for number in range(count)]


def create(paths, size=4 * KIB):
    """Create each file with content of its own."""
    for number, path in enumerate(paths):
        offset = number * 509
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(handle, NOISE[offset:offset + size])
        os.close(handle)


def read(paths, size=4 * KIB):
    """Read each file whole."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        content = os.read(handle, 64 * KIB)
        os.close(handle)
        check(len(content) == size, f"{path} has {len(content)} bytes")


def stat(paths):
    """Ask for the attributes of each path."""
    for path in paths:
        os.stat(path)


def unlink(paths):
    """Remove each file."""
    for path in paths:
        os.unlink(path)


def list_names(directory, count):
    """List a directory."""
    check(len(os.listdir(directory)) == count, f"{directory} does not list {count} names")


def list_attributes(directory, count):
    """List a directory with the attributes of every entry."""
    with os.scandir(directory) as entries:
        sizes = [entry.stat(follow_symlinks=False).st_size for entry in entries]
    check(len(sizes) == count and all(sizes), f"{directory} does not list {count} files with content")


def rename(pairs):
    """Rename each file."""
    for old, new in pairs:
        os.rename(old, new)


def small_files(directory, scale):
    """The life of small files in one directory."""
    paths = names(directory, scale.files)
    yield "create", timed(create, paths)
    yield "list", timed(list_attributes, directory, scale.files)
    read(paths)
    yield "read", timed(read, paths)
    moved = names(directory, scale.files, "moved")
    yield "rename", timed(rename, list(zip(paths, moved)))
    yield "unlink", timed(unlink, moved)
    list_names(directory, 0)


def durable_files(directory, scale):
    """Small files that are on the disk when the work ends."""
    paths = names(directory, scale.files)

    def create_durably():
        create(paths)
        syncfs(directory)

    yield "create", timed(create_durably)


def cold_stat(directory, scale):
    """The first look at files that the kernel does not know."""
    paths = names(directory, scale.files)
    create(paths)
    yield "stat", timed(stat, paths, cold=True)


def many_files(directory, scale):
    """A directory with many files."""
    paths = names(directory, scale.many)
    create(paths, 100)
    stat(paths)
    yield "stat", timed(stat, paths)
    yield "list", timed(list_names, directory, scale.many)
    yield "delete", timed(unlink, paths)
    list_names(directory, 0)


def workers():
    """Processes that work at once."""
    pool = multiprocessing.get_context("fork").Pool(JOBS, signal.signal, (signal.SIGTERM, signal.SIG_DFL))
    pool.map(stat, [[]] * JOBS, 1)
    return pool


def parallel_files(directory, scale):
    """The life of small files, by several processes at once."""
    paths, moved = names(directory, scale.files), names(directory, scale.files, "moved")
    shares = [paths[start::JOBS] for start in range(JOBS)]
    with workers() as pool:
        yield "create", timed(pool.map, create, shares, 1)
        yield "stat", timed(pool.map, stat, shares, 1, cold=True)
        pool.map(read, shares, 1)
        yield "read", timed(pool.map, read, shares, 1)
        pairs = list(zip(paths, moved))
        yield "rename", timed(pool.map, rename, [pairs[start::JOBS] for start in range(JOBS)], 1)
        yield "unlink", timed(pool.map, unlink, [moved[start::JOBS] for start in range(JOBS)], 1)
    list_names(directory, 0)


# --- trees -----------------------------------------------------------------------------------------------


def create_tree(directory):
    """Ten directories in ten in ten, each innermost one with a small file."""
    for one in range(10):
        os.mkdir(f"{directory}/{one}")
        for two in range(10):
            os.mkdir(f"{directory}/{one}/{two}")
            for three in range(10):
                os.mkdir(f"{directory}/{one}/{two}/{three}")
                create([f"{directory}/{one}/{two}/{three}/small.txt"], 500)


def walk_tree(directory):
    """Visit every directory of a tree."""
    found = sum(len(files) for _, _, files in os.walk(directory))
    check(found == 1000, f"the tree has {found} files, not 1000")


def tree(directory, scale):
    """A tree of directories."""
    top = f"{directory}/tree"
    os.mkdir(top)
    yield "create", timed(create_tree, top)
    yield "walk", timed(walk_tree, top)
    yield "delete", timed(shutil.rmtree, top)


def count_files(directory):
    """How many files a tree holds."""
    return sum(len(files) for _, _, files in os.walk(directory))


def tarball(directory, scale):
    """A source tree unpacked, copied and removed."""
    archive = scale.assets.tarball(scale.tarball)
    source, copy = f"{directory}/source", f"{directory}/copy"
    yield "untar", timed(run, "tar", "-xf", archive, "-C", directory)
    check(count_files(source) == scale.tarball, "the unpacked tree is not whole")
    yield "copy", timed(run, "cp", "-r", source, copy)
    run("diff", "-rq", source, copy)
    yield "remove", timed(run, "rm", "-rf", copy)
    check(os.listdir(directory) == ["source"], "the copy is still there")


# --- big files -------------------------------------------------------------------------------------------


def write_big(path, mebibytes, flags=os.O_CREAT | os.O_TRUNC, sync=False, turn=None):
    """Write a file in blocks of 1 MiB, of bytes that no file before had: who stores equal bytes once gains nothing."""
    view, turn = memoryview(NOISE), next(TURNS) if turn is None else turn
    handle = os.open(path, os.O_WRONLY | flags, 0o644)
    for number in range(mebibytes):
        offset = (number * 4099 + turn * 509) % (len(NOISE) - MIB)
        check(os.write(handle, view[offset:offset + MIB]) == MIB, "a short write")
    if sync:
        os.fsync(handle)
    os.close(handle)


def read_big(path, mebibytes):
    """Read a file in blocks of 1 MiB."""
    buffer, total = bytearray(MIB), 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            total += count
    check(total == mebibytes * MIB, f"{path} has {total} bytes")


def big_files(directory, scale):
    """Big files written, read, overwritten and copied."""
    path, copy = f"{directory}/big", f"{directory}/copy"
    yield "write", timed(write_big, path, scale.big, memory=4 * scale.big)
    os.unlink(path)
    yield "durable", timed(write_big, path, scale.big, os.O_CREAT, True, memory=4 * scale.big)
    read_big(path, scale.big)
    yield "read", timed(read_big, path, scale.big)
    yield "overwrite", timed(write_big, path, scale.big, 0, memory=4 * scale.big)
    yield "copy", timed(run, "cp", path, copy)
    run("cmp", path, copy)


def read_once(read, *arguments):
    """Read something cold, so that the next cold read finds just the memory that this one had."""
    rest()
    drop_caches()
    read(*arguments)


def cold_read(directory, scale):
    """A big file that is not in the kernel's cache."""
    path = f"{directory}/big"
    write_big(path, scale.big, sync=True)
    read_once(read_big, path, scale.big)
    yield "read", timed(read_big, path, scale.big, cold=True, memory=0)


def parallel_big(directory, scale):
    """Big files written and read by several processes at once."""
    share = scale.big // JOBS
    paths = [f"{directory}/big-{number}" for number in range(JOBS)]
    writes = [(path, share, os.O_CREAT, True, turn) for path, turn in zip(paths, TURNS)]
    with workers() as pool:
        yield "durable", timed(pool.starmap, write_big, writes, 1, memory=4 * scale.big)
        reads = [(path, share) for path in paths]
        read_once(pool.starmap, read_big, reads, 1)
        yield "read", timed(pool.starmap, read_big, reads, 1, cold=True, memory=0)


def random_write(path, offsets):
    """Write 4 KiB at each offset, then make the file durable."""
    handle = os.open(path, os.O_WRONLY)
    for number, offset in enumerate(offsets):
        os.pwrite(handle, NOISE[number * 509:number * 509 + 4 * KIB], offset)
    os.fsync(handle)
    os.close(handle)


def random_read(path, offsets):
    """Read 4 KiB at each offset."""
    handle = os.open(path, os.O_RDONLY)
    for offset in offsets:
        check(len(os.pread(handle, 4 * KIB, offset)) == 4 * KIB, "a short read")
    os.close(handle)


def random_access(directory, scale):
    """Pages of a file written and read in random order."""
    path, dice = f"{directory}/pages", random.Random(2)
    write_big(path, scale.random_size, sync=True)
    pages = scale.random_size * MIB // (4 * KIB)
    offsets = [dice.randrange(pages) * 4 * KIB for _ in range(scale.random_ops)]
    yield "write", timed(random_write, path, offsets)
    dice.shuffle(offsets)
    yield "read", timed(random_read, path, offsets)


def insert_rows(database, count):
    """One transaction for each row."""
    for number in range(count):
        with database:
            database.execute("INSERT INTO row (number, text) VALUES (?, ?)", (number, "text " * 20))


def sqlite(directory, scale):
    """Durable transactions of SQLite."""
    database = sqlite3.connect(f"{directory}/rows.db")
    try:
        mode = database.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        check(mode == "wal", f"SQLite's journal is {mode}, not wal")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE row (number INTEGER PRIMARY KEY, text TEXT)")
        yield "insert", timed(insert_rows, database, scale.transactions)
        count = database.execute("SELECT count(*) FROM row").fetchone()[0]
        check(count == scale.transactions, f"SQLite has {count} rows")
    finally:
        database.close()


# --- tools of developers ---------------------------------------------------------------------------------


def git(*arguments, cwd=None, date="2024-01-01T00:00:00Z"):
    """Run git, independent of the user's settings."""
    env = dict(os.environ, GIT_CONFIG_GLOBAL=os.devnull, GIT_CONFIG_NOSYSTEM="1", GIT_TERMINAL_PROMPT="0")
    for role in ("AUTHOR", "COMMITTER"):
        env.update({f"GIT_{role}_NAME": "Bench", f"GIT_{role}_EMAIL": "bench@localhost"})
        env[f"GIT_{role}_DATE"] = date
    quiet = ("-c", "gc.auto=0", "-c", "maintenance.auto=false")
    return run("git", *quiet, *arguments, cwd=cwd, env=env)


def check_clean(clone):
    """Fail unless git sees no change in a fresh checkout."""
    changes = git("status", "--porcelain", cwd=clone).splitlines()
    check(not changes, f"git sees {len(changes)} changes, the first: {changes[:1]}")


def age_index(clone):
    """Make a clone's index younger than its files.

    Git reads the content of each file that is as young as the index, in whole seconds ("racy git"). How many those
    are after a clone depends on how long the clone took, so the faster filesystem has more to read.
    """
    os.utime(f"{clone}/.git/index", (time.time() + 2, time.time() + 2))


def git_small(directory, scale):
    """A repository of common size with some history."""
    origin, clone = scale.assets.repository(scale.small_repository, 30), f"{directory}/clone"
    yield "clone", timed(git, "clone", "-q", f"file://{origin}", clone)
    age_index(clone)
    yield "first", timed(lambda: git("status", cwd=clone))
    yield "status", timed(lambda: git("status", cwd=clone))
    check_clean(clone)


def git_large(directory, scale):
    """A repository of many files, with two branches."""
    origin, clone = scale.assets.repository(scale.large_repository, 3), f"{directory}/clone"
    yield "clone", timed(git, "clone", "-q", f"file://{origin}", clone)
    yield "young", timed(lambda: git("status", cwd=clone))
    age_index(clone)
    yield "status", timed(lambda: git("status", cwd=clone))
    yield "checkout", timed(lambda: git("checkout", "-q", "other", cwd=clone))
    check_clean(clone)


def at_once(action, arguments):
    """Do something with each of the arguments, all at the same time."""
    with ThreadPool(len(arguments)) as pool:
        pool.map(action, arguments)


def parallel_tools(directory, scale):
    """Clones and source trees, several at once."""
    origin, archive = scale.assets.repository(scale.small_repository, 30), scale.assets.tarball(scale.tarball)
    clones = [f"{directory}/clone-{number}" for number in range(JOBS)]
    yield "clone", timed(at_once, lambda clone: git("clone", "-q", f"file://{origin}", clone), clones)
    for clone in clones:
        check_clean(clone)
    trees = [f"{directory}/tree-{number}" for number in range(JOBS)]
    for path in trees:
        os.mkdir(path)
    yield "untar", timed(at_once, lambda path: run("tar", "-xf", archive, "-C", path), trees)
    check(sum(map(count_files, trees)) == JOBS * scale.tarball, "an unpacked tree is not whole")
    yield "remove", timed(at_once, lambda path: run("rm", "-rf", path), trees)


def cargo_build(directory, scale):
    """The first build of a crate, by one job and by several."""
    for key, jobs in (("one", 1), ("build", JOBS)):
        crate, target = f"{directory}/crate-{jobs}", f"{directory}/target-{jobs}"
        shutil.copytree(scale.assets.crate(), crate)
        env = dict(os.environ, CARGO_TARGET_DIR=target)
        build = ("cargo", "build", "--offline", "--quiet", "--jobs", jobs)
        yield key, timed(lambda: run(*build, cwd=crate, env=env))
        run(f"{target}/debug/modules")


def npm_install(package):
    """Install what the lock file names, from npm's cache."""
    run("npm", "ci", "--prefer-offline", "--no-audit", "--no-fund", cwd=package)


def npm_ci(directory, scale):
    """The packages of a web project."""
    package = f"{directory}/package"
    shutil.copytree(scale.assets.package(), package, ignore=shutil.ignore_patterns("node_modules"))
    yield "install", timed(npm_install, package)
    run("node", "-e", "require('webpack'); require('express'); require('eslint')", cwd=package)
