#!/usr/bin/env bash
# Figures of the shim: how long a change takes each way (p50, p99), by events and by polling alone; how long it takes to
# write out a workspace of 50,000 files; what both cost when nothing happens.
#
#   scripts/bench-shim.sh [--files N] [--changes N] [--idle SECONDS] [--edits N]        WSD=path/to/wsd for another binary
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${WSD:-}" ]; then
    cargo build --locked --release
    WSD="${CARGO_TARGET_DIR:-target}/release/wsd"
fi
export WSD
exec python3 - "$@" << 'END'
import argparse, json, os, re, signal, subprocess, sys, tempfile, time, urllib.request
from pathlib import Path

options = argparse.ArgumentParser()
options.add_argument("--files", type=int, default=50_000)
options.add_argument("--changes", type=int, default=200)
options.add_argument("--idle", type=int, default=30)
options.add_argument("--edits", type=int, default=6, help="in a quiet tree; each takes a minute")
options = options.parse_args()
WSD = os.environ["WSD"]


class Daemon:
    """A daemon in shim mode over a directory of its own."""

    def __init__(self, root, **settings):
        self.point, self.root = root / "dir", root
        env = {"PATH": os.environ["PATH"], "PORT": "0", "MOUNT_POINT": str(self.point), "WSD_DB": str(root / "db")}
        env |= {"FUSE_MOUNT": "shim", "WSD_LOG": "warn"} | settings
        began = time.monotonic()
        self.process = subprocess.Popen([WSD], env=env, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().split()[-1]
        self.start_seconds = time.monotonic() - began

    def client(self, *arguments, **more):
        env = {"PATH": os.environ["PATH"], "WSD_URL": self.url.replace("http", "ws") + "/ws"}
        return subprocess.run([WSD, *arguments], env=env, check=True, capture_output=True, **more)

    def watch(self, path):
        env = {"PATH": os.environ["PATH"], "WSD_URL": self.url.replace("http", "ws") + "/ws"}
        watch = subprocess.Popen([WSD, "watch", path], env=env, stdout=subprocess.PIPE, text=True)
        time.sleep(0.5)
        return watch

    def stats(self):
        return json.load(urllib.request.urlopen(self.url + "/__wsd/stats"))

    def cpu(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait() != 0:
            sys.exit("the daemon failed")


def percentiles(seconds):
    ordered = sorted(seconds)
    pick = lambda share: ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000
    return f"p50 {pick(0.5):.1f} ms, p99 {pick(0.99):.1f} ms"


def inwards(daemon, count, directory):
    """From the host to the workspace: until a watch of the workspace tells of the file."""
    watch, taken = daemon.watch("."), []
    for number in range(count):
        name = f"in-{number}"
        began = time.monotonic()
        (directory / name).write_text(f"{number}")
        for line in watch.stdout:
            if name in line:
                break
        taken.append(time.monotonic() - began)
        time.sleep(0.02)
    watch.kill()
    return percentiles(taken)


def outwards(daemon, count):
    """From the workspace to the host: from the moment at which the workspace has it, by its own time of modification."""
    taken = []
    for number in range(count):
        name = f"out-{number}"
        daemon.client("put", "-", name, input=b"x")
        target = daemon.point / name
        while not target.exists():
            time.sleep(0.0002)
        status = target.stat()
        taken.append(max(0, status.st_ctime_ns - status.st_mtime_ns) / 1e9)
    return percentiles(taken)


def idle(daemon, seconds):
    time.sleep(25)  # until what happened before is no longer looked after
    before = daemon.cpu()
    time.sleep(seconds)
    return f"{(daemon.cpu() - before) / seconds * 100:.2f} % of a core"


def quiet_edits(daemon, files, rounds):
    """Of files that nobody touched, long after anything else happened: until a watch of the workspace tells of it."""
    first, again, watch = [], [], daemon.watch(".")
    for number in range(rounds):
        at = (number * 7919 + 13) % files
        path = daemon.point / f"d{at // 1000}" / f"e{at // 20 % 50}" / f"f{at % 20}"
        name = f"/d{at // 1000}/e{at // 20 % 50}/f{at % 20}"
        for taken in (first, again):
            time.sleep(25)  # until what happened before is no longer looked after
            began = time.monotonic()
            with path.open("r+") as file:
                file.write(f"edit {began}")
            for line in watch.stdout:
                if line.rstrip().endswith(name):
                    break
            taken.append(time.monotonic() - began)
    watch.kill()
    shown = lambda taken: ", ".join(f"{seconds:.1f}" for seconds in sorted(taken)) + " s"
    return f"for the first time {shown(first)}; once more {shown(again)}"


def fill(daemon, count):
    for number in range(count):
        directory = daemon.point / f"d{number // 1000}" / f"e{number // 20 % 50}"
        if number % 20 == 0:
            directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number % 20}").write_text(f"file {number}\n" * 20)


with tempfile.TemporaryDirectory() as scratch:
    root = Path(scratch)
    for mode, settings in {"events": {}, "polling alone": {"SHIM_EVENTS": "0"}}.items():
        place = root / mode.replace(" ", "-")
        place.mkdir()
        daemon = Daemon(place, **settings)
        print(f"{mode}, a small tree: host to workspace {inwards(daemon, options.changes, daemon.point)}")
        print(f"{mode}, a small tree: workspace to host {outwards(daemon, options.changes)}")
        daemon.stop()
    place = root / "large"
    place.mkdir()
    daemon = Daemon(place)
    began = time.monotonic()
    fill(daemon, options.files)
    wrote = time.monotonic() - began
    daemon.client("exec", "--", "true")
    print(f"{options.files} files made on the host in {wrote:.1f} s, in the workspace after {time.monotonic() - began:.1f} s")
    daemon.stop()
    (place / "dir").rename(place / "old")
    daemon = Daemon(place)
    print(f"{options.files} files written out to an empty directory: ready after {daemon.start_seconds:.1f} s")
    print(f"events, {options.files} files: host to workspace {inwards(daemon, options.changes, daemon.point)}")
    print(f"events, {options.files} files, idle: {idle(daemon, options.idle)}")
    began = time.monotonic()
    daemon.client("exec", "--", "true")
    print(f"a command that does nothing: {(time.monotonic() - began) * 1000:.0f} ms")
    daemon.stop()
    daemon = Daemon(place, SHIM_EVENTS="0")
    print(f"{options.files} files, a restart with nothing to do: ready after {daemon.start_seconds:.1f} s")
    print(f"polling alone, {options.files} files, idle: {idle(daemon, options.idle)}")
    hidden = daemon.point / "d7" / "e3"
    print(f"polling alone, {options.files} files: host to workspace {inwards(daemon, options.changes // 4, hidden)}")
    print(f"polling alone, {options.files} files, quiet: an edit in place of a file {quiet_edits(daemon, options.files, options.edits)}")
    print("memory:", daemon.stats()["rssBytes"] >> 20, "MiB")
    daemon.stop()
END
