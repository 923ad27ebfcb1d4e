"""A batch over POST /api, built by pycapnp itself.

pycapnp writes its calls into a local socket pair as if a daemon were at the other end. What it has written is the body
of the request; what the daemon answers is written back, and pycapnp's promises come true.
"""

import asyncio
import http.client
import pathlib
import socket

import capnp

from wsd_client import STANDARD, read_message, workspace

CONTENT_TYPE = "application/x-capnp-rpc"
rpc = capnp.load(str(pathlib.Path(capnp.__file__).resolve().parent / "rpc.capnp"), imports=STANDARD)
INFO = (workspace.Workspace.schema.node.id, 0)


def post(port, body, content_type=CONTENT_TYPE, token=None, method="POST", length=None):
    """One request to /api: status, content type and body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, "/api")
    if content_type:
        connection.putheader("Content-Type", content_type)
    if token:
        connection.putheader("Authorization", f"Bearer {token}")
    connection.putheader("Content-Length", str(len(body) if length is None else length))
    connection.endheaders(body)
    answer = connection.getresponse()
    return answer.status, answer.getheader("Content-Type"), answer.read()


def is_info(message):
    """Whether a message is a call of Workspace.info."""
    with rpc.Message.from_bytes(message) as decoded:
        return decoded.which() == "call" and (decoded.call.interfaceId, decoded.call.methodId) == INFO


class Batch:
    """Calls made on `workspace` go together when `send` is called, and their promises can be awaited after it."""

    @classmethod
    async def begin(cls):
        batch = cls()
        ours, theirs = socket.socketpair()
        batch.reader, batch.writer = await asyncio.open_connection(sock=ours)
        batch.client = capnp.TwoPartyClient(await capnp.AsyncIoStream.create_connection(sock=theirs))
        batch.workspace = batch.client.bootstrap().cast_as(workspace.Workspace)
        return batch

    async def body(self):
        """What is to be sent. A call of `info` marks its end."""
        self.marker = self.workspace.info()
        body, message = b"", b""
        while not message or not is_info(message):
            message = await read_message(self.reader)
            body += message
        return body

    async def send(self, port, token=None):
        """Sends all calls made so far; the result of `info`, which goes along."""
        status, content_type, answer = await asyncio.to_thread(post, port, await self.body(), token=token)
        assert (status, content_type) == (200, CONTENT_TYPE), (status, content_type, answer)
        self.writer.write(answer)
        await self.writer.drain()
        return await self.marker

    def close(self):
        self.writer.close()
