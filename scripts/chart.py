#!/usr/bin/env python3
"""Draws docs/images/benchmarks.svg from the table in docs/benchmarks.md. With --check: fails if it is not that."""

import html
import math
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHOWN = [
    "create 2,000 files of 4 KiB", "unlink 2,000", "stat 2,000, cold", "rename 2,000", "read 2,000 small files again",
    "cp 256 MiB", "read 256 MiB, warm", "write 256 MiB and fsync", "5,000 random 4 KiB writes, fsync",
    "SQLite: 200 transactions", "git clone, 10,000 files", "git status, 10,000 files", "untar 7,949 files",
    "rm -rf 7,949 files", "cargo build, 40 modules, 4 jobs", "npm ci",
]
LEFT, WIDTH, ROW, TOP = 235, 425, 22, 64
LOW, HIGH = 0.05, 8


def rows():
    table = (ROOT / "docs/benchmarks.md").read_text()
    found = {}
    for line in re.findall(r"^\| (.+) \|$", table, re.M):
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 8 and cells[4].replace(".", "").isdigit():
            found[cells[0]] = (float(cells[4]), cells[1], cells[3])
    return [(name, *found[name]) for name in SHOWN]


def place(ratio):
    return LEFT + WIDTH * (math.log(ratio) - math.log(LOW)) / (math.log(HIGH) - math.log(LOW))


def draw():
    lines, shown = [], rows()
    height = TOP + ROW * len(shown) + 30
    style = ("text{font:13px system-ui,sans-serif;fill:#222}.soft{fill:#666;font-size:12px}.grid{stroke:#ddd}"
             ".one{stroke:#222}.good{fill:#2a8a4a}.bad{fill:#c8862a}rect.back{fill:#fff}")
    lines.append(f'<svg xmlns="http://www.w3.org/2000/svg" width="860" height="{height}" viewBox="0 0 860 {height}">')
    lines.append(f'<style>{style}</style><rect class="back" width="860" height="{height}"/>')
    lines.append('<text x="12" y="22" font-weight="bold">Time of wsd, as a multiple of ext4 on the same disk</text>')
    lines.append('<text x="12" y="41" class="soft">left of the line wsd is faster; logarithmic</text>')
    for mark in (0.1, 0.25, 0.5, 1, 2, 4):
        kind = "one" if mark == 1 else "grid"
        x = f"{place(mark):.1f}"
        lines.append(f'<line class="{kind}" x1="{x}" y1="{TOP - 6}" x2="{x}" y2="{height - 24}"/>')
        lines.append(f'<text class="soft" x="{x}" y="{height - 8}" text-anchor="middle">{mark:g}x</text>')
    for number, (name, ratio, ext4, wsd) in enumerate(shown):
        y = TOP + ROW * number
        low, high = sorted((place(ratio), place(1)))
        lines.append(f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{html.escape(name)}</text>')
        kind = "good" if ratio <= 1 else "bad"
        lines.append(f'<rect class="{kind}" x="{low:.1f}" y="{y + 2}" width="{high - low:.1f}" height="14" rx="2"/>')
        figures = html.escape(f"{ratio:.2f}x: {wsd}, ext4 {ext4}".replace("/op", ""))
        lines.append(f'<text class="soft" x="{LEFT + WIDTH + 10}" y="{y + 13}">{figures}</text>')
    return "\n".join(lines) + "\n</svg>\n"


def main():
    file, drawn = ROOT / "docs/images/benchmarks.svg", draw()
    if "--check" not in sys.argv:
        file.write_text(drawn)
    elif file.read_text() != drawn:
        sys.exit("docs/images/benchmarks.svg does not show what docs/benchmarks.md says: run scripts/chart.py")


main()
