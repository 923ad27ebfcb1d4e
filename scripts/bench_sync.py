"""What sync costs: a hub, replicas, and a wire between them that counts and can be slow.

Prints a table. Run by scripts/bench-sync.sh, which builds what it measures.
"""

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

WSD = sys.argv[1]
FILES = int(os.environ.get("FILES", "100000"))
LARGE = int(os.environ.get("LARGE_MIB", "1024")) << 20
RENAMED = int(os.environ.get("RENAMED", "50000"))
PINGS = int(os.environ.get("PINGS", "200"))


class Wire:
    """A proxy that counts bytes and holds each back for a while."""

    def __init__(self, port, delay=0.0):
        self.target, self.delay, self.bytes = port, delay, 0
        ready = threading.Event()
        threading.Thread(target=self.run, args=(ready,), daemon=True).start()
        ready.wait()

    def run(self, ready):
        async def serve():
            server = await asyncio.start_server(self.connect, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await server.serve_forever()

        asyncio.run(serve())

    async def connect(self, reader, writer):
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(self.carry(reader, far_writer), self.carry(far_reader, writer), return_exceptions=True)

    async def carry(self, reader, writer):
        queue = asyncio.Queue(maxsize=4096)

        async def deliver():
            while True:
                due, data = await queue.get()
                if due > time.monotonic():
                    await asyncio.sleep(due - time.monotonic())
                if data is None:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()

        delivery = asyncio.create_task(deliver())
        while data := await reader.read(1 << 18):
            self.bytes += len(data)
            await queue.put((time.monotonic() + self.delay, data))
        await queue.put((time.monotonic() + self.delay, None))
        await delivery


class Daemon:
    """A daemon with a mount of its own."""

    def __init__(self, upstream=None):
        self.dir = Path(tempfile.mkdtemp(prefix="wsd-bench-sync-"))
        self.point = self.dir / "mnt"
        self.upstream = upstream
        self.start()

    def start(self):
        env = {"PATH": os.environ["PATH"], "PORT": "0", "WSD_DB": str(self.dir / "db"), "MOUNT_POINT": str(self.point)}
        if self.upstream:
            env["UPSTREAM_URL"] = f"ws://127.0.0.1:{self.upstream}"
        log = open(self.dir / "log", "ab")
        self.process = subprocess.Popen([WSD], env=env, stdout=subprocess.PIPE, stderr=log, text=True)
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])
        self.env = {"PATH": os.environ["PATH"], "WSD_URL": f"ws://127.0.0.1:{self.port}/ws"}

    def now(self):
        subprocess.run([WSD, "sync", "now"], env=self.env, check=True, capture_output=True)

    def peak(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def remove(self):
        self.stop()
        shutil.rmtree(self.dir)


def until(condition, pause=0.0002):
    while not condition():
        time.sleep(pause)


def row(what, figure, note=""):
    print(f"| {what} | {figure} | {note} |", flush=True)


def propagation(name, delay):
    hub = Daemon()
    wire = Wire(hub.port, delay)
    a, b = Daemon(wire.port), Daemon(Wire(hub.port, delay).port)
    (a.point / "first").write_text("x")
    until(lambda: (b.point / "first").exists())
    times = []
    for number in range(PINGS):
        path = b.point / f"ping{number}"
        begun = time.monotonic()
        (a.point / f"ping{number}").write_text("x")
        until(path.exists)
        times.append((time.monotonic() - begun) * 1000)
        time.sleep(0.05)
    times.sort()
    row(f"a small write seen at another replica, {name}", f"p50 {statistics.median(times):.0f} ms", f"p99 {times[int(len(times) * 0.99) - 1]:.0f} ms")
    if not delay:
        before = wire.bytes
        time.sleep(30)
        row("idle for 30 s", f"{wire.bytes - before} bytes")
    for daemon in (a, b, hub):
        daemon.remove()


def fill(root, count):
    for number in range(count):
        directory = root / f"d{number // 500}"
        if number % 500 == 0:
            directory.mkdir()
        (directory / f"f{number}").write_bytes(f"file {number}\n".encode() * (1 + number % 40))


def initial():
    source = Path(tempfile.mkdtemp(prefix="wsd-bench-sync-source-"))
    fill(source, FILES)
    hub = Daemon()
    begun = time.monotonic()
    subprocess.run(f"tar -C {source} -cf - . | tar -C {hub.point} -xf - && sync -f {hub.point}", shell=True, check=True)
    row(f"tar of {FILES:,} small files into a mount of wsd, for comparison", f"{time.monotonic() - begun:.1f} s")
    copy = Path(tempfile.mkdtemp(prefix="wsd-bench-sync-copy-"))
    begun = time.monotonic()
    subprocess.run(f"tar -C {source} -cf - . | tar -C {copy} -xf - && sync -f {copy}", shell=True, check=True)
    local = time.monotonic() - begun
    row(f"tar | tar of {FILES:,} small files, ext4 to ext4", f"{local:.1f} s")
    wire = Wire(hub.port)
    begun = time.monotonic()
    a = Daemon(wire.port)
    expected = FILES
    last = a.point / f"d{(FILES - 1) // 500}" / f"f{FILES - 1}"
    until(lambda: last.exists(), 0.01)
    a.now()
    pulled = time.monotonic() - begun
    assert int(subprocess.check_output(f"find {a.point} -type f | wc -l", shell=True)) == expected
    row("the same pulled by a new replica", f"{pulled:.1f} s", f"{wire.bytes >> 20} MiB on the wire; {pulled / local:.1f} times tar | tar")
    before = wire.bytes
    a.stop()
    a.start()
    a.now()
    row("a second start with nothing changed", f"{wire.bytes - before} bytes")
    row("memory peaks, hub and replica", f"{hub.peak():.0f} and {a.peak():.0f} MiB", "the replica since its second start")
    a.remove()
    empty = Daemon()
    b = Daemon(empty.port)
    subprocess.run(f"tar -C {source} -cf - . | tar -C {b.point} -xf -", shell=True, check=True)
    begun = time.monotonic()
    b.now()
    row("what is left to push when tar into a replica ends", f"{time.monotonic() - begun:.1f} s")
    row("memory peaks, hub and replica, while it pushed", f"{empty.peak():.0f} and {b.peak():.0f} MiB")
    for path in (source, copy):
        shutil.rmtree(path)
    for daemon in (b, empty, hub):
        daemon.remove()


def large():
    hub = Daemon()
    wire = Wire(hub.port)
    a = Daemon(wire.port)
    data = os.urandom(1 << 20)
    begun = time.monotonic()
    with open(a.point / "large", "wb") as out:
        for number in range(LARGE >> 20):
            out.write(number.to_bytes(8, "little") + data[8:] if number % 7 else os.urandom(1 << 20))
    a.now()
    row(f"a file of {LARGE >> 20} MiB written and pushed", f"{time.monotonic() - begun:.1f} s", f"{wire.bytes >> 20} MiB on the wire")
    before = wire.bytes
    begun = time.monotonic()
    with open(a.point / "large", "rb") as old, open(a.point / "longer", "wb") as new:
        new.write(b"!")
        shutil.copyfileobj(old, new, 1 << 20)
    os.rename(a.point / "longer", a.point / "large")
    a.now()
    until(lambda: (hub.point / "large").stat().st_size == LARGE + 1)
    row("one byte inserted at its front", f"{time.monotonic() - begun:.1f} s", f"{(wire.bytes - before) >> 10} KiB on the wire, the file written anew included in the time")
    row("memory peaks, hub and replica", f"{hub.peak():.0f} and {a.peak():.0f} MiB")
    for daemon in (a, hub):
        daemon.remove()


def rename():
    hub = Daemon()
    wire = Wire(hub.port)
    a = Daemon(wire.port)
    (a.point / "dir").mkdir()
    fill(a.point / "dir", RENAMED)
    a.now()
    before = wire.bytes
    begun = time.monotonic()
    os.rename(a.point / "dir", a.point / "moved")
    until((hub.point / "moved").exists)
    row(f"a directory of {RENAMED:,} files renamed", f"{(time.monotonic() - begun) * 1000:.0f} ms", f"{wire.bytes - before} bytes")
    for daemon in (a, hub):
        daemon.remove()


print("| What | Figure | |")
print("|---|---|---|")
parts = sys.argv[2:] or ["propagation", "initial", "large", "rename"]
if "propagation" in parts:
    propagation("on loopback", 0)
    propagation("with 50 ms of delay (25 ms each way)", 0.025)
if "initial" in parts:
    initial()
if "large" in parts:
    large()
if "rename" in parts:
    rename()
