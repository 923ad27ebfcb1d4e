#!/usr/bin/env python3
"""Measures wsd's mount side by side with the disk's own filesystem (ext4) and tmpfs.

Every work runs once to warm up and then N times; in each repetition the filesystems take turns in a
rotating order, and the medians are compared. "Cold" means that the kernel's caches were dropped; what the
daemon keeps in its memory stays.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.dont_write_bytecode = True
import bench_works as works  # noqa: E402  (after the line above, which keeps the source tree clean)
from bench_assets import Assets  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
CEILING = ROOT / "target" / "release" / "examples" / "ceiling"
START_LIMIT = 30
STOP_LIMIT = 60
BAR_WIDTH = 40
BDI = {"read_ahead_kb": "8192", "strict_limit": "0", "max_ratio": "100"}
NOISY = 2


@dataclass
class Place:
    """A filesystem to measure, and where on it the works run."""

    name: str
    directory: Path


@dataclass
class Timing:
    """One row of the report: `target` is the largest accepted ratio to the disk's own filesystem."""

    label: str
    target: float | None = None
    ops: int = 1


@dataclass
class Work:
    """A function with the timings that it yields and the tools that it needs."""

    function: object
    timings: dict
    needs: tuple = field(default=())


@dataclass
class Row:
    """The samples of one timing on every place, and why some are missing."""

    timing: Timing
    samples: dict = field(default_factory=dict)
    notes: dict = field(default_factory=dict)

    def median(self, name):
        """The median seconds on one place, or nothing when it was not measured."""
        samples = self.samples.get(name)
        return statistics.median(samples) if samples and name not in self.notes else None

    def noisy(self, names):
        """Whether the samples of one of these places differ too much for a sure verdict."""
        samples = [self.samples.get(name, [1]) for name in names]
        return any(max(times) > NOISY * min(times) for times in samples)

    def ratio(self, name, other):
        """How many times as long `name` takes as `other`."""
        one, two = self.median(name), self.median(other)
        return one / two if one and two else None


# --- the list --------------------------------------------------------------------------------------------


def file_works(scale):
    """Works that only use the calls of the kernel."""
    files, many, big = f"{scale.files:,}", f"{scale.many:,}", f"{scale.big} MiB"
    pages, small = f"{scale.random_ops:,} random", scale.files
    return [
        Work(works.small_files, {
            "create": Timing(f"create {files} files of 4 KiB", 0.4, small),
            "list": Timing(f"list {files} with attributes", 2, small),
            "read": Timing(f"read {files} small files again", 1.5, small),
            "rename": Timing(f"rename {files}", 4, small),
            "unlink": Timing(f"unlink {files}", 6, small)}),
        Work(works.durable_files, {"create": Timing(f"create {files} files, durable", None, small)}),
        Work(works.cold_stat, {"stat": Timing(f"stat {files}, cold", 8, small)}),
        Work(works.parallel_files, {
            "create": Timing(f"create {files}, 4 processes", None, small),
            "stat": Timing(f"stat {files}, cold, 4 processes", None, small),
            "read": Timing(f"read {files} again, 4 processes", None, small),
            "rename": Timing(f"rename {files}, 4 processes", None, small),
            "unlink": Timing(f"unlink {files}, 4 processes", None, small)}),
        Work(works.many_files, {
            "stat": Timing(f"stat {many}, warm", None, scale.many),
            "list": Timing(f"list {many}", None, scale.many),
            "delete": Timing(f"delete {many}", None, scale.many)}),
        Work(works.tree, {
            "create": Timing("tree of 10x10x10: create"),
            "walk": Timing("tree of 10x10x10: walk"),
            "delete": Timing("tree of 10x10x10: delete")}),
        Work(works.big_files, {
            "write": Timing(f"write {big}", 4),
            "durable": Timing(f"write {big} and fsync", 2),
            "read": Timing(f"read {big}, warm", 1.6),
            "overwrite": Timing(f"overwrite {big} in place"),
            "copy": Timing(f"cp {big}", 0.2)}),
        Work(works.cold_read, {"read": Timing(f"read {big}, cold", 1.0)}),
        Work(works.parallel_big, {
            "durable": Timing(f"write {big} and fsync, 4 processes"),
            "read": Timing(f"read {big}, cold, 4 processes")}),
        Work(works.random_access, {
            "write": Timing(f"{pages} 4 KiB writes, fsync", 2.0, scale.random_ops),
            "read": Timing(f"{pages} 4 KiB reads", None, scale.random_ops)}),
        Work(works.sqlite, {
            "insert": Timing(f"SQLite: {scale.transactions} transactions", 2.0, scale.transactions)}),
    ]


def tool_works(scale):
    """Works that run the tools of developers."""
    small, large, files = scale.small_repository, scale.large_repository, scale.tarball
    found = [
        Work(works.git_small, {
            "clone": Timing(f"git clone, {small:,} files", 1.2),
            "first": Timing(f"first git status, {small:,} files"),
            "status": Timing(f"git status, {small:,} files", 1.5)}, ("git",)),
        Work(works.git_large, {
            "clone": Timing(f"git clone, {large:,} files"),
            "young": Timing(f"git status at once, {large:,} files"),
            "status": Timing(f"git status, {large:,} files"),
            "checkout": Timing(f"git checkout, {large:,} files")}, ("git",)),
        Work(works.parallel_tools, {
            "clone": Timing(f"4 git clones at once, {small:,} files each"),
            "untar": Timing(f"4 untars at once, {files:,} files each"),
            "remove": Timing(f"4 rm -rf at once, {files:,} files each")}, ("git", "tar")),
        Work(works.tarball, {
            "untar": Timing(f"untar {files:,} files", 1.0),
            "copy": Timing(f"cp -r {files:,} files", 5),
            "remove": Timing(f"rm -rf {files:,} files", 4)}, ("tar", "diff")),
    ]
    if not scale.quick:
        found.append(Work(works.cargo_build, {
            "one": Timing("cargo build, 40 modules, 1 job", 1.15),
            "build": Timing("cargo build, 40 modules, 4 jobs", 1.15)}, ("cargo",)))
        found.append(Work(works.npm_ci, {"install": Timing("npm ci", 1.15)}, ("npm", "node")))
    return found


# --- filesystems -----------------------------------------------------------------------------------------


def filesystem_type(path):
    """The type of the filesystem that holds `path`."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, this_kind, *_ = line.split(" ")
        inside = str(path) == point or str(path).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, this_kind
    return kind


def is_mounted(point):
    """Whether something is mounted exactly at `point`."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return any(line.split(" ")[1] == str(point) for line in lines)


def unmount(point):
    """Unmount `point` if it is mounted, at the latest when its last user is gone."""
    for command in (["umount", point], ["umount", "-l", point], ["fusermount3", "-u", "-z", point]):
        if is_mounted(point):
            with contextlib.suppress(OSError):
                subprocess.run([str(part) for part in command], stderr=subprocess.DEVNULL, check=False)


@contextlib.contextmanager
def tmpfs(scratch):
    """A directory on a tmpfs: a mount of our own, or without root a directory in /dev/shm."""
    if os.geteuid() == 0:
        point = scratch / "tmpfs"
        point.mkdir()
        try:
            subprocess.run(["mount", "-t", "tmpfs", "wsd-bench", str(point)], check=True)
            yield point
        finally:
            unmount(point)
    else:
        with tempfile.TemporaryDirectory(prefix="wsd-bench-", dir="/dev/shm") as directory:
            yield Path(directory)


def wait_for_line(daemon, log):
    """Wait until the daemon says that it listens; its mount is ready then."""
    ready, _, _ = select.select([daemon.stdout], [], [], START_LIMIT)
    line = daemon.stdout.readline() if ready else ""
    if not line.startswith("wsd listens on"):
        raise SystemExit(f"wsd did not start:\n{log.read_text()[-2000:]}")


def stop_daemon(daemon, point):
    """Stop the daemon and make sure that nothing stays mounted."""
    daemon.terminate()
    try:
        daemon.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        print("wsd did not stop and was killed", file=sys.stderr)
        daemon.kill()
    unmount(point)
    if daemon.wait() != 0:
        print(f"wsd ended with {daemon.returncode}", file=sys.stderr)


@contextlib.contextmanager
def wsd(binary, scratch):
    """A workspace of its own, mounted while the block runs."""
    point, log = scratch / "wsd", scratch / "wsd.log"
    point.mkdir()
    env = dict(os.environ, PORT="0", WSD_DB=str(scratch / "store.db"), MOUNT_POINT=str(point))
    with log.open("w") as errors:
        daemon = subprocess.Popen([binary, "serve"], env=env, stdin=subprocess.DEVNULL, text=True,
                                  stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
    try:
        wait_for_line(daemon, log)
        yield point
    finally:
        stop_daemon(daemon, point)
        show_complaints(log)


@contextlib.contextmanager
def ceiling(binary, scratch):
    """A filesystem in memory behind FUSE, with the kernel's settings for it as wsd has them."""
    point = scratch / "ceiling"
    point.mkdir()
    server = subprocess.Popen([binary, str(point)], stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + START_LIMIT
        while not is_mounted(point):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{binary} did not start")
            time.sleep(0.01)
        device = os.stat(point).st_dev
        for name, value in BDI.items():
            with contextlib.suppress(OSError):
                Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/{name}").write_text(value)
        yield point
    finally:
        unmount(point)
        server.kill()
        server.wait()


def show_complaints(log):
    """Print what the daemon warned about."""
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line for line in text.splitlines() if re.search(r" (WARN|ERROR) |panic", line)]
    for line in lines[:10]:
        print(f"wsd said: {line}", file=sys.stderr)
    if len(lines) > 10:
        print(f"wsd said: ... and {len(lines) - 10} lines more", file=sys.stderr)


# --- running ---------------------------------------------------------------------------------------------


def run_once(work, place, scale, number):
    """Run a work in a fresh directory; its timings up to a failure, and the failure."""
    directory = place.directory / f"run-{number}"
    timings, note = {}, None
    try:
        directory.mkdir()
        for key, seconds in work.function(str(directory), scale):
            timings[key] = seconds
    except works.Skip as reason:
        note = f"SKIPPED: {reason}"
    except (OSError, RuntimeError, subprocess.SubprocessError, works.sqlite3.Error) as error:
        note = f"FAILED: {error}"
    try:
        shutil.rmtree(directory)
    except OSError as error:
        note = note or f"FAILED: cannot remove what the work left: {error}"
    return timings, note


def measure(work, places, scale, repeat):
    """Run a work everywhere, warm-up first; the rows of its timings."""
    rows = {key: Row(timing) for key, timing in work.timings.items()}
    missing = [tool for tool in work.needs if shutil.which(tool) is None]
    if missing:
        note_all(rows, places, f"SKIPPED: needs {' and '.join(missing)}")
        return rows
    for number in range(repeat + 1):
        turn = number % len(places)
        for place in places[turn:] + places[:turn]:
            timings, note = run_once(work, place, scale, number)
            total = sum(timings.values())
            print(f"  {number}/{repeat} {place.name}: {total:.3f} s", file=sys.stderr, flush=True)
            for key, row in rows.items():
                if key in timings and number > 0:
                    row.samples.setdefault(place.name, []).append(timings[key])
                elif key not in timings:
                    row.notes.setdefault(place.name, note or "FAILED: no timing")
            if note:
                print(f"  {place.name}: {note}", file=sys.stderr)
            if note and note.startswith("SKIPPED"):
                note_all(rows, places, note)
                return rows
    return rows


def note_all(rows, places, note):
    """Mark every timing of a work on every place."""
    for row in rows.values():
        row.notes.update({place.name: note for place in places})


def measure_all(places, scale, repeat, pattern):
    """Run every work that has a timing with a matching name; the matching rows."""
    wanted = [work for work in file_works(scale) + tool_works(scale)
              if any(pattern.search(timing.label) for timing in work.timings.values())]
    found = []
    for number, work in enumerate(wanted, 1):
        print(f"[{number}/{len(wanted)}] {work.function.__doc__}", file=sys.stderr, flush=True)
        rows = measure(work, places, scale, repeat).values()
        found += [row for row in rows if pattern.search(row.timing.label)]
    return found


# --- reporting -------------------------------------------------------------------------------------------


def duration(row, name):
    """A median as text: per operation if the timing has many."""
    seconds = row.median(name)
    if seconds is None:
        return "-"
    if row.timing.ops > 1:
        return f"{seconds / row.timing.ops * 1e6:.1f} us/op"
    return f"{seconds:.3f} s"


def ratio_text(ratio):
    """A ratio with two digits after the point."""
    return "-" if ratio is None else f"{ratio:.2f}"


def verdict(row, disk):
    """Whether the row keeps its target."""
    if row.notes:
        name, note = next(iter(row.notes.items()))
        return note if note.startswith("SKIPPED") else f"FAILED on {name}"
    ratio = row.ratio("wsd", disk)
    noise = " ~" if row.noisy(("wsd", disk)) else ""
    if ratio is None or row.timing.target is None:
        return "-" + noise
    return ("ok" if ratio <= row.timing.target else "MISSED") + noise


def table(rows, disk, names):
    """The cells of the report, headings first."""
    pairs = [("wsd", disk), ("wsd", "tmpfs")] + [(name, disk) for name in names if name == "ceiling"]
    cells = [["work", *names, *(f"{one}/{other}" for one, other in pairs), "target", "verdict"]]
    for row in rows:
        target = "-" if row.timing.target is None else f"{row.timing.target:g}"
        ratios = [ratio_text(row.ratio(one, other)) for one, other in pairs]
        times = [duration(row, name) for name in names]
        cells.append([row.timing.label, *times, *ratios, target, verdict(row, disk)])
    return cells


def plain_table(cells):
    """The table in columns: the first and last to the left, numbers to the right."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = []
    for line in cells:
        middle = [text.rjust(width) for text, width in zip(line[1:-1], widths[1:-1])]
        lines.append("  ".join([line[0].ljust(widths[0]), *middle, line[-1]]))
    return "\n".join(lines)


def markdown_table(cells):
    """The table for a Markdown file."""
    lines = ["| " + " | ".join(line) + " |" for line in cells]
    rule = "|" + "|".join([" --- ", *[" ---: "] * (len(cells[0]) - 2), " --- "]) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def bar(share):
    """A bar of `share` times the target; the target is at the middle."""
    length = min(BAR_WIDTH, max(1, round(share * BAR_WIDTH / 2)))
    text = ("#" * length).ljust(BAR_WIDTH)
    end = ">" if share > 2 else " "
    return f"{text[:BAR_WIDTH // 2]}|{text[BAR_WIDTH // 2:]}{end}"


def chart(rows, disk):
    """The ratio of each row as a share of its target."""
    lines = [f"wsd/{disk} as a share of the target (the line in the middle; shorter is better)"]
    width = max((len(row.timing.label) for row in rows), default=0)
    for row in rows:
        ratio = row.ratio("wsd", disk)
        if ratio is not None and row.timing.target is not None:
            share = ratio / row.timing.target
            lines.append(f"{row.timing.label.ljust(width)}  {bar(share)} {share:.2f}")
    return "\n".join(lines)


def conditions(options, disk, scratch):
    """What the numbers depend on."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "kernel": platform.release(), "processors": os.cpu_count(), "disk": disk, "directory": str(scratch),
        "repetitions": options.repeat, "quick": options.quick, "python": platform.python_version(),
    }


def as_json(rows, disk, names, facts):
    """Everything that was measured, in seconds."""
    measured = [{
        "name": row.timing.label, "operations": row.timing.ops, "target": row.timing.target,
        "medians": {name: row.median(name) for name in names}, "samples": row.samples,
        "ratio_to_disk": row.ratio("wsd", disk), "ratio_to_tmpfs": row.ratio("wsd", "tmpfs"),
        "verdict": verdict(row, disk), "notes": row.notes,
    } for row in rows]
    return json.dumps({"conditions": facts, "works": measured}, indent=2) + "\n"


def report(rows, places, facts, options):
    """Print the table and the chart, and write the files that were asked for."""
    names = [place.name for place in places]
    disk = names[0]
    cells, bars = table(rows, disk, names), chart(rows, disk)
    about = ", ".join(f"{name} {value}" for name, value in facts.items())
    noise = f"~ noisy: the slowest repetition took more than {NOISY} times as long as the fastest"
    print(f"{about}\n\n{plain_table(cells)}\n\n{noise}\n\n{bars}")
    for row in rows:
        for name, note in row.notes.items():
            if note.startswith("FAILED"):
                print(f"{row.timing.label}, {name}: {note}")
    if options.json:
        Path(options.json).write_text(as_json(rows, disk, names, facts))
    if options.markdown:
        text = f"{about}\n\n{markdown_table(cells)}\n\n{noise}\n\n```text\n{bars}\n```\n"
        Path(options.markdown).write_text(text)


# --- the command -----------------------------------------------------------------------------------------


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--repeat", type=int, metavar="N", help="repetitions (default 5; with --quick 3)")
    parser.add_argument("--only", default="", metavar="PATTERN", help="works whose name matches this regex")
    parser.add_argument("--json", metavar="FILE", help="write every sample here")
    parser.add_argument("--markdown", metavar="FILE", help="write the table here")
    parser.add_argument("--dir", default=str(ROOT / "target" / "bench"), metavar="DIR",
                        help="where scratch files, store and mount points live (default target/bench)")
    parser.add_argument("--ceiling", metavar="PROGRAM", nargs="?", const=str(CEILING),
                        help="measure a filesystem in memory behind FUSE too: what FUSE itself takes")
    parser.add_argument("--quick", action="store_true", help="smaller sizes; without cargo and npm")
    options = parser.parse_args()
    options.repeat = options.repeat or (3 if options.quick else 5)
    return options


def raise_interrupt(*_):
    """End on SIGTERM in the same way as on Ctrl-C."""
    raise KeyboardInterrupt


def ignore_signals():
    """Let nothing disturb the clean-up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def main():
    """Set up the filesystems, measure, report, and leave nothing behind."""
    options = parse_arguments()
    pattern = re.compile(options.only)
    binary = os.path.abspath(os.environ.get("WSD") or ROOT / "target" / "release" / "wsd")
    base = Path(options.dir).resolve()
    base.mkdir(parents=True, exist_ok=True)
    disk = filesystem_type(base)
    if disk in ("tmpfs", "ramfs", "unknown") or disk.startswith("fuse"):
        sys.exit(f"{base} is on {disk}; choose a directory on a disk with --dir")
    signal.signal(signal.SIGTERM, raise_interrupt)
    with contextlib.ExitStack() as cleanup:
        scratch = Path(tempfile.mkdtemp(prefix="run-", dir=base))
        cleanup.callback(shutil.rmtree, scratch, ignore_errors=True)
        plain, assets = scratch / "plain", scratch / "assets"
        plain.mkdir()
        assets.mkdir()
        places = [Place(disk, plain), Place("tmpfs", cleanup.enter_context(tmpfs(scratch))),
                  Place("wsd", cleanup.enter_context(wsd(binary, scratch)))]
        if options.ceiling:
            places.append(Place("ceiling", cleanup.enter_context(ceiling(options.ceiling, scratch))))
        cleanup.callback(ignore_signals)
        make_scale = works.quick_scale if options.quick else works.Scale
        rows = measure_all(places, make_scale(Assets(assets)), options.repeat, pattern)
        report(rows, places, conditions(options, disk, scratch), options)
    return any(note.startswith("FAILED") for row in rows for note in row.notes.values())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
