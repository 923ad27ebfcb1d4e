"""A replica, written from the schema alone: it pushes, fetches, waits, and is refused."""

import asyncio
import hashlib
import os

import blake3
import zstandard

from case import fails, same
from wsd_client import check, sync

INLINE, PIECE = 16 << 10, 256 << 10
ROOT = (0, 0, 1)


class Replica:
    """One replica, in a session of its own."""

    def __init__(self, session, name):
        self.sync = session.sync().sync
        self.id = hashlib.md5(name + os.urandom(8)).digest()
        self.life = os.urandom(16)
        self.made = 1

    async def hello(self, zstd=True, **more):
        lives = [{"life": self.life, "since": 0}]
        hello = {"replica": self.id, "label": "test", "empty": True, "lives": lives, "zstd": zstd, **more}
        return check(await self.sync.hello(hello=hello)).welcome

    def node(self):
        """A new identity."""
        self.made += 1
        halves = [int.from_bytes(self.life[at : at + 8], "little") for at in (0, 8)]
        return (*halves, self.made)

    async def changes(self, after=None, **more):
        """All that changed after a cursor: entries by identity, and the cursor to go on from."""
        entries, more_to_come = {}, True
        while more_to_come:
            asked = {} if after is None else {"after": after}
            portion = check(await self.sync.fetchChanges(**asked, **more)).portion
            assert not portion.reset
            entries.update(unpack(portion.entries) if portion._has("entries") else {})
            after, more_to_come = cursor(portion.upTo), portion.more
        return entries, after

    async def push(self, *offers, zstd=True, upTo=7):
        message = sync.Offers.new_message(list=list(offers)).to_bytes()
        parcel = {"encoding": "plain", "size": len(message), "data": message}
        if zstd:
            parcel |= {"encoding": "zstd", "data": zstandard.compress(message, 1)}
        return check(await self.sync.push(offers=parcel, upTo=upTo, life=self.life)).pushed


def identity(id):
    return (id.lifeA, id.lifeB, id.number)


def wire_id(id):
    return dict(zip(("lifeA", "lifeB", "number"), id))


def cursor(cursor):
    return {"life": bytes(cursor.life), "revision": cursor.revision, "listed": cursor.listed}


def unpack(parcel):
    data = bytes(parcel.data)
    if str(parcel.encoding) == "zstd":
        data = zstandard.decompress(data)
    same(len(data), parcel.size)
    with sync.Entries.from_bytes(data) as entries:
        return {identity(entry.id): told(entry) for entry in entries.list}


def told(entry):
    """What matters to these cases of an entry: places, content, mode, the bytes that came along."""
    if not entry._has("state"):
        return None
    state = entry.state
    places = {(identity(place.parent), bytes(place.name)) for place in state.places}
    content = (state.content.size, bytes(state.content.hash)) if state._has("content") else None
    xattrs = {bytes(xattr.name): bytes(xattr.value) for xattr in state.xattrs}
    return str(state.kind), places, content, state.mode, xattrs, bytes(entry.bytes) if entry._has("bytes") else None


def place(parent, name):
    return {"parent": wire_id(parent), "name": name}


def content(data):
    return {"size": len(data), "hash": blake3.blake3(data).digest(), "depth": 0}


def file(data, *places, mode=0o640, **more):
    stamp = 1_700_000_000_123_456_789
    times = {"atime": stamp, "mtime": stamp, "btime": stamp}
    return {"kind": "file", "mode": mode, "places": list(places), "content": content(data), **times, **more}


def directory(*places):
    return {"kind": "dir", "mode": 0o755, "places": list(places)}


def offer(id, state=None, base=None, data=None):
    made = {"id": wire_id(id)}
    made |= {"state": state} if state else {}
    made |= {"base": base} if base else {}
    return made | ({"bytes": data} if data is not None else {})


async def a_state_comes_from_one_replica_to_another(t):
    async with t.session() as other:
        one, two = Replica(t.workspace, b"one"), Replica(other, b"two")
        await one.hello()
        welcome = await two.hello(zstd=False)
        same(len(welcome.hub), 16)
        _, before = await two.changes()
        above, below, odd = one.node(), one.node(), b"sync-\xff\n" + os.urandom(4).hex().encode()
        data = b"bytes that come along\n" * 9
        xattrs = [{"name": b"user.k", "value": b"v\x00"}]
        pushed = await one.push(
            offer(above, directory(place(ROOT, odd))),
            offer(below, file(data, place(above, b"a"), place(above, b"b"), xattrs=xattrs), data=data),
        )
        same(pushed.which(), "taken")
        found, after = await two.changes(before)
        same(found[above][:2], ("dir", {(ROOT, odd)}))
        kind, places, held, mode, attributes, bytes_ = found[below]
        same((kind, places, mode), ("file", {(above, b"a"), (above, b"b")}, 0o640))
        same((held, bytes_, attributes), ((len(data), content(data)["hash"]), data, {b"user.k": b"v\x00"}))
        mine, _ = await one.changes(before)
        assert above not in mine and below not in mine, "what a replica has pushed itself comes back"
        again, _ = await two.changes(after)
        assert above not in again and below not in again, "what has been told is told again"
        known = {bytes(mark.replica): mark for mark in check(await one.sync.watermarks()).watermarks}
        same((known[one.id].pushed, known[one.id].label), (7, "test"))
        assert known[two.id].applied >= before["revision"]


async def what_changed_is_waited_for(t):
    async with t.session() as other:
        one, two = Replica(t.workspace, b"one"), Replica(other, b"two")
        await one.hello()
        await two.hello()
        _, now = await two.changes()
        _, now = await two.changes(now, waitMs=50)
        waits = asyncio.ensure_future(two.changes(now, waitMs=30_000))
        await asyncio.sleep(0.2)
        assert not waits.done(), "nothing has changed"
        made = one.node()
        same((await one.push(offer(made, directory(place(ROOT, b"waited-" + os.urandom(4).hex().encode()))))).which(),
             "taken")
        # A change that the feed of the hub's own workspace has, too.
        check(await t.fs.mkdir(path=t.path(b"waited")))
        found, _ = await asyncio.wait_for(waits, 5)
        assert made in found, found


async def objects_travel_by_hash(t):
    one = Replica(t.workspace, b"one")
    await one.hello()
    noise, dull = os.urandom(PIECE), b"dull" * (PIECE // 4)
    hashes = [blake3.blake3(data).digest() for data in (noise, dull)]
    unknown = os.urandom(32)
    lacks = lambda: one.sync.hasObjects(hashes=b"".join([*hashes, unknown]))  # noqa: E731
    same(bytes(check(await lacks()).lacks), b"".join([*hashes, unknown]))
    packed = zstandard.compress(dull, 1)
    objects = [
        {"hash": hashes[0], "encoding": "plain", "size": PIECE, "data": noise},
        {"hash": hashes[1], "encoding": "zstd", "size": PIECE, "data": packed},
    ]
    check(await one.sync.pushObjects(objects=objects))
    same(bytes(check(await lacks()).lacks), unknown)
    made = one.node()
    name = b"object-" + os.urandom(4).hex().encode()
    small = os.urandom(INLINE + 1)
    pushed = await one.push(offer(made, file(small, place(ROOT, name))))
    same((pushed.which(), bytes(pushed.lacks)), ("lacks", content(small)["hash"]))
    same((await one.push(offer(made, file(noise, place(ROOT, name))), zstd=False)).which(), "taken")
    found = check(await one.sync.fetchObjects(hashes=hashes[0] + unknown))
    looked, objects = found.looked, list(found.objects)
    assert 1 <= looked <= 2, looked
    data = bytes(objects[0].data)
    data = zstandard.decompress(data) if str(objects[0].encoding) == "zstd" else data
    same((bytes(objects[0].hash), data), (hashes[0], noise))
    entries = unpack(check(await one.sync.readEntries(ids=[wire_id(made), wire_id(one.node())])).entries)
    (_, places, held, *_), gone = list(entries.values())
    same((places, held, gone), ({(ROOT, name)}, (PIECE, hashes[0]), None))


async def an_offer_says_what_it_was_made_from(t):
    async with t.session() as other:
        one, two = Replica(t.workspace, b"one"), Replica(other, b"two")
        await one.hello()
        await two.hello()
        made, name = one.node(), b"offer-" + os.urandom(4).hex().encode()
        first = file(b"1", place(ROOT, name))
        same((await one.push(offer(made, first, data=b"1"))).which(), "taken")
        second = file(b"2", place(ROOT, name))
        pushed = await two.push(offer(made, second, data=b"2"))
        same((pushed.which(), str(pushed.refused[0].why)), ("refused", "changed"))
        same(identity(pushed.refused[0].id), made)
        await two.changes()
        same((await two.push(offer(made, second, base=first, data=b"2"))).which(), "taken")
        same((await two.push(offer(made, base=second))).which(), "taken")


async def nonsense_is_refused_as_data(t):
    stranger = Replica(t.workspace, b"stranger")
    await fails(stranger.sync.hasObjects(hashes=b""), "EPROTOCOL")
    await fails(stranger.sync.hello(hello={"replica": b"short"}), "EPROTOCOL")
    await stranger.hello()
    other = {"replica": os.urandom(16), "workspace": "00000000-0000-0000-0000-000000000000", "empty": False}
    await fails(stranger.sync.hello(hello=other), "EREFUSED")
    await stranger.hello()
    await fails(stranger.sync.hasObjects(hashes=b"x" * 33), "EPROTOCOL")
    await fails(stranger.sync.fetchObjects(hashes=b"x" * 32 * 1025), "EPROTOCOL")
    await fails(stranger.sync.fetchChanges(after={"life": b"x", "revision": 1}), "EPROTOCOL")
    await fails(stranger.sync.fetchChanges(ignore=["x" * (65 << 10)]), "EPROTOCOL")
    wrong = {"hash": bytes(32), "encoding": "plain", "size": 3, "data": b"abc"}
    await fails(stranger.sync.pushObjects(objects=[wrong]), "EPROTOCOL")
    parcel = {"encoding": "zstd", "size": 100, "data": b"no zstd"}
    await fails(stranger.sync.push(offers=parcel, upTo=1, life=bytes(16)), "EPROTOCOL")


async def a_daemon_without_an_upstream_says_so(t):
    plain = t.workspace.sync().sync
    status = check(await plain.status()).status
    same((status.upstream, str(status.link)), ("", "off"))
    assert len(check(await plain.flush()).cursor.life) == 16
    check(await plain.flush(revision=1, here=True))
    await fails(plain.now(), "EREFUSED")
    await fails(plain.join(merge=True), "EREFUSED")
    check(await plain.pause())
    check(await plain.resume())


CASES = [
    a_state_comes_from_one_replica_to_another, what_changed_is_waited_for, objects_travel_by_hash,
    an_offer_says_what_it_was_made_from, nonsense_is_refused_as_data, a_daemon_without_an_upstream_says_so,
]
