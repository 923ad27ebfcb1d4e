"""Drives every method of wsd from outside, by the schema alone: run.py PORT MOUNT_POINT [TOKEN] [NAME...]

Needs pycapnp, websockets, blake3 and zstandard. Prints a line a case; the exit code says whether all of them passed.
"""

import asyncio
import os
import sys
import time
import traceback
import urllib.request

import capnp

import cases_batch
import cases_commands
import cases_files
import cases_search
import cases_streams
import cases_sync
from case import Case
from wsd_client import commands, connect, fs, sync

LIMIT = 120  # seconds a case may take


async def run(case, port, point, token):
    """One case in a session and a directory of its own; whether it passed."""
    begun, name = time.monotonic(), os.fsencode(case.__name__)
    try:
        mount = os.path.join(point, name)
        os.mkdir(mount)
        async with connect(port, token) as workspace:
            there = Case(workspace, workspace.fs().fs, port, token, os.path.join(point, name), mount)
            await asyncio.wait_for(case(there), LIMIT)
    except Exception:  # noqa: BLE001: whatever it is, the case has failed
        print(f"FAILED {case.__name__}")
        traceback.print_exc()
        return False
    print(f"ok {case.__name__} ({time.monotonic() - begun:.2f} s)", flush=True)
    return True


def not_called(port, token):
    """The methods of Fs, Exec and Sync that the daemon has not counted a call of."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        counted = answer.read().decode()
    names = [*fs.Fs.schema.method_names, *(f"exec.{name}" for name in commands.Exec.schema.method_names)]
    names += [f"sync.{name}" for name in sync.Sync.schema.method_names]
    return [name for name in names if f'wsd_rpc_calls_total{{method="{name}"' not in counted]


async def main(port, point, token=None, *names):
    rooms = (cases_files, cases_streams, cases_search, cases_commands, cases_sync, cases_batch)
    cases = [case for room in rooms for case in room.CASES if not names or case.__name__ in names]
    passed = [await run(case, int(port), os.fsencode(point), token) for case in cases]
    print(f"{sum(passed)} of {len(cases)} cases passed")
    missing = [] if names else await asyncio.to_thread(not_called, port, token)
    print(f"methods that no case has called: {missing}")
    return all(passed) and not missing


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(capnp.run(main(*sys.argv[1:]))) else 1)
