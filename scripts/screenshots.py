#!/usr/bin/env python3
"""Takes the pictures of docs/images: the status page, and `wsd stats --watch`, both over a real workspace at work.

Needs chromium, the Python packages websockets and pyte, and WSD (default: target/release/wsd).
"""

import asyncio
import html
import os
import pathlib
import pty
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
import fcntl

import pyte

root = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root / "tests/interop"))
import browser  # noqa: E402

WSD = os.environ.get("WSD", str(root / "target/release/wsd"))
ROWS, COLUMNS = 30, 110
COLOURS = {"default": "#ddd", "brightblack": "#777", "black": "#111", "red": "#e66", "green": "#7c7", "brown": "#db5",
           "blue": "#69d", "magenta": "#c8c", "cyan": "#6cc", "white": "#ddd"}
WORK = ("for step in $(seq 1000); do echo step $step; head -c $((RANDOM * 40 + 200000)) /dev/urandom > out/$((step % 7)).bin;"
        " cat out/*.bin | cksum; sleep 0.2; done")


def terminal(port, seconds, file):
    """`stats --watch` for some seconds; its screen as a page."""
    pid, tty = pty.fork()
    if pid == 0:
        os.execve(WSD, [WSD, "stats", "--watch"], {"PORT": port, "TERM": "xterm-256color"})
    fcntl.ioctl(tty, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    screen = pyte.Screen(COLUMNS, ROWS)
    stream, end = pyte.ByteStream(screen), time.monotonic() + seconds
    while time.monotonic() < end:
        if select.select([tty], [], [], 0.1)[0]:
            stream.feed(os.read(tty, 65536))
    lines = []
    for row in range(ROWS):
        cells = (screen.buffer[row][column] for column in range(COLUMNS))
        colour = lambda cell: COLOURS.get(cell.fg) or "#" + cell.fg
        weight = lambda cell: "bold" if cell.bold else "normal"
        lines.append("".join(f'<span style="color:{colour(cell)};font-weight:{weight(cell)}">{html.escape(cell.data)}</span>'
                             for cell in cells))
    os.write(tty, b"q")
    os.waitpid(pid, 0)
    style = "margin:0;padding:12px;background:#111;font:14px/17px 'DejaVu Sans Mono',monospace"
    pathlib.Path(file).write_text(f'<meta charset="utf-8"><body style="margin:0"><pre style="{style}">' + "\n".join(lines))


async def picture_of(page, file):
    async with browser.Browser((COLUMNS * 8 + 110, ROWS * 17 + 24)) as tab:
        await tab.call("Page.navigate", url=f"file://{page}")
        await tab.until("document.readyState === 'complete'")
        await tab.picture(file)


def main():
    images = root / "docs/images"
    with tempfile.TemporaryDirectory() as home:
        point = "/tmp/workspace"
        pathlib.Path(point).mkdir(exist_ok=True)
        environment = {"PATH": os.environ["PATH"], "PORT": "0", "MOUNT_POINT": point, "WSD_DB": f"{home}/workspace.db"}
        daemon = subprocess.Popen([WSD, "serve"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            port = daemon.stdout.readline().strip().rsplit(":", 1)[1]
            subprocess.run(["git", "init", "-q", point], check=True)
            os.makedirs(f"{point}/out")
            os.makedirs(f"{point}/src")
            for name in ("main.rs", "lib.rs", "<b>odd"):
                pathlib.Path(point, "src", name).write_text("fn main() {}\n")
            client = {**environment, "PORT": port}
            subprocess.run([WSD, "exec", "--", "git", "add", "."], env=client, check=True, stdout=subprocess.DEVNULL)
            subprocess.run([WSD, "exec", "--detach", "-c", "--", "bash -c '" + WORK + "'"], env=client, check=True)
            terminal(port, 25, f"{home}/terminal.html")
            asyncio.run(picture_of(f"{home}/terminal.html", images / "stats-watch.png"))
            # The page wants to see the change of a file that the work soon pushes out of the list.
            pathlib.Path(point, "src/main.rs").write_text("fn main() {}\n")
            asyncio.run(browser.look(f"http://localhost:{port}/__wsd/ui", point, images / "status-page.png"))
        finally:
            daemon.terminate()
            daemon.wait()


if __name__ == "__main__":
    main()
