"""The batch: many calls in one request."""

import asyncio

from case import fails, same
from http_batch import Batch, post
from wsd_client import check


async def one_request_for_everything(t):
    batch = await Batch.begin()
    fs = batch.workspace.fs().fs
    sink = fs.writeFile(path=t.path(b"file")).sink
    written, done = sink.write(b"in one request"), sink.done()
    missing = fs.stat(path=t.path(b"none"))
    failed = fs.readFile(path=t.path(b"none")).source.next()
    root = fs.readdir(path=t.root)
    info = check(await batch.send(t.port, t.token)).info
    assert info.mountPoint and "rpc" in info.features
    same(check(await done).attr.size, 14)
    await written
    await fails(missing, "ENOENT", t.path(b"none"))
    await fails(failed, "ENOENT", t.path(b"none"))
    check(await root)
    batch.close()
    same(open(t.file(b"file")).read(), "in one request")


async def many_calls_in_a_request(t):
    await t.put(b"file", bytes(range(256)) * 4)
    batch = await Batch.begin()
    fs = batch.workspace.fs().fs
    stats = [fs.stat(path=t.path(b"file")) for _ in range(1000)]
    source = fs.readFile(path=t.path(b"file")).source
    portions = [source.next(count=300) for _ in range(4)]
    await batch.send(t.port, t.token)
    same({check(await stat).attr.size for stat in stats}, {1024})
    data = b"".join([bytes(check(await portion).data) for portion in portions])
    same(data, bytes(range(256)) * 4)
    batch.close()


async def requests_that_are_none(t):
    batch = await Batch.begin()
    promise = batch.workspace.fs().fs.stat(path=t.root)
    body = await batch.body()
    ask = lambda *given, **more: asyncio.to_thread(post, t.port, *given, token=t.token, **more)
    for given, more, status, word in [
        ([body], {"content_type": "application/json"}, 415, b"application/x-capnp-rpc"),
        ([body], {"content_type": None}, 415, b"application/x-capnp-rpc"),
        ([b""], {"length": (16 << 20) + 1}, 413, b"WebSocket"),
        ([body[:-8]], {}, 400, b"EPROTOCOL"),
        ([body + b"\0" * 4], {}, 400, b"EPROTOCOL"),
        ([b""], {}, 400, b"EPROTOCOL"),
        ([b"\xff" * 64], {}, 400, b"EPROTOCOL"),
        ([b""], {"method": "GET"}, 405, b"not allowed"),
        ([body], {"method": "PUT"}, 405, b"not allowed"),
    ]:
        found, content_type, answer = await ask(*given, **more)
        same((found, content_type.split(";")[0]), (status, "text/plain"))
        assert word in answer, answer
    # What is right goes through all the same, with a parameter of the content type too.
    found, _, answer = await ask(body, content_type="application/x-capnp-rpc; v=1")
    same(found, 200)
    batch.writer.write(answer)
    same(str(check(await promise).attr.kind), "dir")
    batch.close()


async def the_secret(t):
    if not t.token:
        return
    for token in (None, "wrong"):
        same((await asyncio.to_thread(post, t.port, b"", token=token))[0], 401)


CASES = [one_request_for_everything, many_calls_in_a_request, requests_that_are_none, the_secret]
