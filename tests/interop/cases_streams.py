"""Long answers in portions, pipelining, several sessions, and the mount next to them."""

import asyncio
import hashlib
import mmap
import os
import random

from case import fails, same
from wsd_client import check


async def whole_files(t):
    attr = await t.put(b"file", b"one", mode=0o600)
    same((attr.size, attr.mode), (3, 0o600))
    again = await t.put(b"file", b"two!", mode=0o644)
    same((again.ino, again.mode, again.size), (attr.ino, 0o600, 4))
    same((await t.put(b"file", b"", mode=0o644, setMode=True)).mode, 0o644)
    path = t.path(b"file")
    await fails(t.fs.writeFile(path=path, options={"ifExists": "fail"}), "EEXIST", path)
    await fails(t.fs.writeFile(path=t.path(b"no"), options={"ifExists": "require"}), "ENOENT", t.path(b"no"))
    await fails(t.fs.writeFile(path=t.root), "EISDIR", t.root)
    await fails(t.fs.writeFile(path=t.path(b"x/y/z")), "ENOENT", t.path(b"x/y/z"))
    await t.put(b"x/y/z", b"deep", makeDirs=True)
    same(open(t.file(b"x/y/z")).read(), "deep")
    check(await t.fs.writeFile(path=t.path(b"synced")).sink.done(sync=True))


async def readers_see_all_or_nothing(t):
    await t.put(b"file", b"old")
    sink = check(await t.fs.writeFile(path=t.path(b"file"))).sink
    await sink.write(b"new and longer")
    same(open(t.file(b"file")).read(), "old")
    same(await t.get(b"file"), b"old")
    check(await sink.done())
    same(open(t.file(b"file")).read(), "new and longer")
    # A sink that is dropped leaves nothing.
    sink = check(await t.fs.writeFile(path=t.path(b"given up"))).sink
    await sink.write(b"x")
    del sink
    check(await t.fs.stat(path=t.root))
    same(os.listdir(t.mount), [b"file"])


async def errors_of_a_stream_come_at_its_end(t):
    path = t.path(b"file")
    sink = t.fs.writeFile(path=path).sink
    await sink.write(bytes((4 << 20) + 1))
    await sink.write(b"more")
    await fails(sink.done(), "EPROTOCOL", path)
    assert not os.path.exists(t.file(b"file"))


async def ranges(t):
    data = random.Random(1).randbytes(3 << 20)
    await t.put(b"file", data)
    same(await t.get(b"file"), data)
    same(await t.get(b"file", offset=1_000_000, length=1_500_000), data[1_000_000:2_500_000])
    same(await t.get(b"file", offset=len(data) - 5), data[-5:])
    same(await t.get(b"file", offset=len(data) + 5), b"")
    same(await t.get(b"file", length=0), b"")
    source = t.fs.readFile(path=t.path(b"file")).source
    portions = [source.next(count=count) for count in (1, 7, 2 << 20, 0)]
    sizes = [len(check(await portion).data) for portion in portions]
    same(sizes, [1, 7, 1 << 20, 1])


async def calls_on_what_failed_fail_alike(t):
    missing = t.path(b"missing/file")
    await fails(t.fs.readFile(path=missing).source.next(), "ENOENT", missing)
    sink = t.fs.writeFile(path=missing).sink
    write, done = sink.write(b"x"), sink.done()
    await fails(done, "ENOENT", missing)
    await write
    await fails(t.fs.find(options={"path": missing}).cursor.next(), "ENOENT", missing)
    await fails(t.fs.grep(options={"in": {"path": missing}, "pattern": "x"}).cursor.next(), "ENOENT", missing)
    await fails(t.fs.watch(path=b"/outside").watch.next(), "ENOENT", b"/outside")
    failed = await t.fs.readFile(path=missing)
    await fails(failed.source.next(), "ENOENT", missing)


async def a_whole_program_without_waiting(t):
    """From the bootstrap on: nothing is awaited before everything is sent."""
    async with t.session() as workspace:
        fs = workspace.fs().fs
        sink = fs.writeFile(path=t.path(b"file")).sink
        writes = [sink.write(bytes([number]) * 1000) for number in range(100)]
        done = sink.done()
        same(check(await done).attr.size, 100_000)
        await asyncio.gather(*writes)
        source = fs.readFile(path=t.path(b"file")).source
        portions = [source.next(count=10_000) for _ in range(11)]
        data = b"".join([bytes(check(await portion).data) for portion in portions])
        same(data, b"".join(bytes([number]) * 1000 for number in range(100)))


async def a_hundred_million_bytes(t):
    make, total, sent = random.Random(2), 100_000_000, hashlib.sha256()
    sink = check(await t.fs.writeFile(path=t.path(b"big"))).sink
    left, ahead = total, []
    while left:
        portion = make.randbytes(min(left, make.randrange(1, 2 << 20)))
        sent.update(portion)
        left -= len(portion)
        ahead.append(sink.write(portion))
        if len(ahead) > 4:
            await ahead.pop(0)
    same(check(await sink.done()).attr.size, total)
    with open(t.file(b"big"), "rb") as file:
        same(hashlib.file_digest(file, "sha256").digest(), sent.digest())
    got, source, end = hashlib.sha256(), check(await t.fs.readFile(path=t.path(b"big"))).source, False
    ahead = [source.next() for _ in range(4)]
    while not end:
        portion = check(await ahead.pop(0))
        got.update(portion.data)
        end = portion.end
        ahead.append(source.next())
    same(got.digest(), sent.digest())


async def what_a_program_writes_is_there_at_once(t):
    with open(t.file(b"file"), "wb", buffering=0) as file:
        file.write(b"not flushed")
        same(check(await t.fs.stat(path=t.path(b"file"))).attr.size, 11)
        same(bytes(check(await t.fs.read(path=t.path(b"file"))).data), b"not flushed")
        file.seek(4)
        file.write(b"FLUSHED")
        same(await t.get(b"file"), b"not FLUSHED")
        found = t.fs.grep(options={"in": {"path": t.path(b"file")}, "pattern": "FLUSHED"}).cursor
        same(bytes(check(await found.next()).matches[0].text), b"not FLUSHED")
        check(await t.fs.edit(path=t.path(b"file"), old=b"not ", new=b""))
        same(os.pread(os.open(t.file(b"file"), os.O_RDONLY), 100, 0), b"FLUSHED")
    with open(t.file(b"mapped"), "w+b") as file:
        file.truncate(4096)
        with mmap.mmap(file.fileno(), 4096) as memory:
            memory[:6] = b"memory"
            memory.flush()
            same(bytes(check(await t.fs.read(path=t.path(b"mapped"), count=6)).data), b"memory")


async def what_a_call_writes_is_there_at_once(t):
    await t.put(b"file", b"before")
    with open(t.file(b"file"), "rb", buffering=0) as file:
        same(file.read(), b"before")
        check(await t.fs.write(path=t.path(b"file"), offset=0, data=b"AFTER!!"))
        same(os.pread(file.fileno(), 100, 0), b"AFTER!!")
        same(os.fstat(file.fileno()).st_size, 7)
        await t.put(b"file", b"whole")
        same(os.pread(file.fileno(), 100, 0), b"whole")
        check(await t.fs.truncate(path=t.path(b"file"), size=2))
        same((os.pread(file.fileno(), 100, 0), os.fstat(file.fileno()).st_size), (b"wh", 2))
    same((os.path.exists(t.file(b"new")), os.listdir(t.mount)), (False, [b"file"]))
    await t.put(b"new", b"")
    same((os.path.exists(t.file(b"new")), sorted(os.listdir(t.mount))), (True, [b"file", b"new"]))
    check(await t.fs.chmod(path=t.path(b"new"), mode=0o400))
    same(os.stat(t.file(b"new")).st_mode & 0o777, 0o400)
    check(await t.fs.rm(path=t.path(b"new")))
    assert not os.path.exists(t.file(b"new"))
    check(await t.fs.rename(**{"from": t.path(b"file"), "to": t.path(b"moved")}))
    same(os.listdir(t.mount), [b"moved"])


async def sessions_stand_alone(t):
    await t.put(b"file", b"x")
    async with t.session() as one:
        async with t.session() as two:
            for workspace in (one, two):
                same(bytes(check(await workspace.fs().fs.read(path=t.path(b"file"))).data), b"x")
        same(bytes(check(await one.fs().fs.read(path=t.path(b"file"))).data), b"x")
    same(await t.get(b"file"), b"x")


CASES = [
    whole_files, readers_see_all_or_nothing, errors_of_a_stream_come_at_its_end, ranges,
    calls_on_what_failed_fail_alike, a_whole_program_without_waiting, a_hundred_million_bytes,
    what_a_program_writes_is_there_at_once, what_a_call_writes_is_there_at_once, sessions_stand_alone,
]
