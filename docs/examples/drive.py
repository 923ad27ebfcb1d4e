"""Drives a running daemon: python3 docs/examples/drive.py [PORT] (needs pycapnp and websockets)."""

import asyncio
import pathlib
import sys

import capnp

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests/interop"))
from wsd_client import check, connect


async def main(port):
    async with connect(port) as workspace:
        files, commands = workspace.fs().fs, workspace.exec().exec
        sink = files.writeFile(b"notes/hello.txt", {"makeDirs": True}).sink
        await sink.write(b"hello from Python\n")
        print(check(await sink.done(True)).attr.size, "bytes written")
        events = check(await commands.run({"shell": b"cat notes/hello.txt; ls -l notes"})).events
        end = False
        while not end:
            portion = check(await events.next())
            end = portion.end
            for event in portion.events:
                if event.which() == "stdout":
                    print(event.stdout.decode(), end="")
                elif event.which() == "exit":
                    print("exit", event.exit.code)


asyncio.run(capnp.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 45678)))
