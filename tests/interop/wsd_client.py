"""A client of wsd written from the schema alone, on pycapnp and websockets.

pycapnp speaks over byte streams; wsd's WebSocket carries whole messages. So a local socket pair stands between the
two: what pycapnp writes is cut at the ends of messages, each of which becomes one WebSocket message, and what comes
is written to the pair as it is.
"""

import asyncio
import contextlib
import pathlib
import socket
import struct

import capnp
import websockets

SCHEMA = pathlib.Path(__file__).resolve().parents[2] / "schema"
capnp.remove_import_hook()
# Where pycapnp keeps /capnp/stream.capnp.
STANDARD = [str(pathlib.Path(capnp.__file__).resolve().parents[1])]
common = capnp.load(str(SCHEMA / "common.capnp"), imports=STANDARD)
fs = capnp.load(str(SCHEMA / "fs.capnp"), imports=STANDARD)
commands = capnp.load(str(SCHEMA / "exec.capnp"), imports=STANDARD)
sync = capnp.load(str(SCHEMA / "sync.capnp"), imports=STANDARD)
workspace = capnp.load(str(SCHEMA / "workspace.capnp"), imports=STANDARD)


class WsdError(Exception):
    """An error that came as data."""

    def __init__(self, error):
        self.code, self.message = error.code, error.message
        self.path, self.applied = bytes(error.path), str(error.applied)
        super().__init__(f"{self.code}: {self.message} ({self.path!r})")


def check(result):
    """The result of a call, if it has no error."""
    if result._has("error"):
        raise WsdError(result.error)
    return result


async def read_message(reader):
    """The bytes of one message in the stream framing; empty at the end."""
    try:
        head = await reader.readexactly(4)
    except asyncio.IncompleteReadError:
        return b""
    segments = struct.unpack("<I", head)[0] + 1
    table = segments * 4 + (4 if segments % 2 == 0 else 0)
    sizes = await reader.readexactly(table)
    words = sum(struct.unpack_from(f"<{segments}I", sizes))
    return head + sizes + await reader.readexactly(words * 8)


@contextlib.asynccontextmanager
async def bootstrap(web):
    """The bootstrap capability of whoever is at the other end of a WebSocket."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)

    async def outward():
        while message := await read_message(reader):
            await web.send(message)

    async def inward():
        async for message in web:
            assert isinstance(message, bytes)
            writer.write(message)
            await writer.drain()
        writer.close()

    pumps = [asyncio.create_task(outward()), asyncio.create_task(inward())]
    stream = await capnp.AsyncIoStream.create_connection(sock=theirs)
    client = capnp.TwoPartyClient(stream)
    try:
        yield client.bootstrap().cast_as(workspace.Workspace)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        writer.close()


@contextlib.asynccontextmanager
async def connect(port, token=None):
    """The bootstrap capability of a daemon, over a WebSocket."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"ws://127.0.0.1:{port}/ws"
    async with websockets.connect(url, additional_headers=headers, max_size=16 << 20, compression=None) as web:
        async with bootstrap(web) as there:
            yield there
