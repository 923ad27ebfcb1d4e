"""Calls with one answer: attributes, directories, reading and writing in place, names, links."""

import asyncio
import os
import stat

from case import fails, same
from wsd_client import check


async def info(t):
    info = check(await t.workspace.info()).info
    assert bytes(info.mountPoint) == os.path.dirname(os.path.dirname(t.path(b"x"))), info
    assert len(info.workspaceId) == 32 and info.version and info.revision > 0, info
    assert info.mount == "fuse" and info.mountReason, info
    assert {"rpc", "watch"} <= set(info.features), list(info.features)


async def attributes(t):
    await t.put(b"file", b"12345", mode=0o640)
    attr = check(await t.fs.stat(path=t.path(b"file"))).attr
    there = os.stat(t.file(b"file"))
    same((attr.ino, attr.mode, attr.nlink), (there.st_ino, stat.S_IMODE(there.st_mode), there.st_nlink))
    same((str(attr.kind), attr.size, attr.uid, attr.gid), ("file", 5, there.st_uid, there.st_gid))
    same((attr.mtime, attr.ctime), (there.st_mtime_ns, there.st_ctime_ns))
    same(attr.blocks, there.st_blocks)
    os.mkfifo(t.file(b"fifo"))
    same(str(check(await t.fs.stat(path=t.path(b"fifo"))).attr.kind), "fifo")
    same(str(check(await t.fs.stat(path=t.root)).attr.kind), "dir")
    # A path may be relative to the mount point, and may have "." and ".." and slashes in it.
    below = b"/".join(t.path(b"file").rsplit(b"/", 2)[1:])
    for path in (below, b"./" + below, t.path(b"./x/..//file").replace(b"x/..", b".")):
        same(check(await t.fs.stat(path=path)).attr.ino, attr.ino)
    await fails(t.fs.stat(path=t.path(b"none")), "ENOENT", t.path(b"none"))
    await fails(t.fs.stat(path=t.path(b"file/x")), "ENOTDIR", t.path(b"file/x"))
    await fails(t.fs.stat(path=t.path(b"x" * 256)), "ENAMETOOLONG", t.path(b"x" * 256))
    await fails(t.fs.stat(path=t.path(b"a\0b")), "EINVAL", t.path(b"a\0b"))
    for outside in (b"/etc/passwd", b"/", b"..", b"/.."):
        await fails(t.fs.stat(path=outside), "ENOENT", outside)


async def modes_owners_times(t):
    await t.put(b"file", b"x")
    path = t.path(b"file")
    same(check(await t.fs.chmod(path=path, mode=0o4751)).attr.mode, 0o4751)
    same(stat.S_IMODE(os.stat(t.file(b"file")).st_mode), 0o4751)
    attr = check(await t.fs.chown(path=path, uid=1234)).attr
    same((attr.uid, attr.gid), (1234, os.stat(t.file(b"file")).st_gid))
    attr = check(await t.fs.chown(path=path, gid=4321)).attr
    same((attr.uid, attr.gid), (1234, 4321))
    attr = check(await t.fs.utimes(path=path, atime={"at": -5}, mtime={"at": 1_000_000_001})).attr
    same((attr.atime, attr.mtime), (-5, 1_000_000_001))
    before = attr
    attr = check(await t.fs.utimes(path=path, atime={"now": None}, mtime={"keep": None})).attr
    assert attr.atime > 1_600_000_000_000_000_000 and attr.mtime == before.mtime, attr
    same(os.stat(t.file(b"file")).st_mtime_ns, 1_000_000_001)
    os.symlink("file", t.file(b"link"))
    attr = check(await t.fs.utimes(path=t.path(b"link"), atime={"keep": None}, mtime={"at": 7}, follow=False)).attr
    same((str(attr.kind), attr.mtime), ("symlink", 7))
    attr = check(await t.fs.chown(path=t.path(b"link"), uid=5, follow=False)).attr
    same((str(attr.kind), attr.uid), ("symlink", 5))
    same(os.stat(t.file(b"file")).st_uid, 1234)
    for call in (t.fs.chmod(path=b"none", mode=0), t.fs.chown(path=b"none"), t.fs.utimes(path=b"none")):
        await fails(call, "ENOENT", b"none")


async def extended_attributes(t):
    def ask(method, **params):
        # pycapnp's own short form has a parameter `name` already.
        request = getattr(t.fs, method + "_request")()
        for name, value in {"path": path, **params}.items():
            setattr(request, name, value)
        return request.send()

    await t.put(b"file", b"x")
    path, name, value = t.path(b"file"), b"user.n\xff", bytes(range(256))
    same(list(check(await ask("listxattr")).names), [])
    check(await ask("setxattr", name=name, value=value, mode="create"))
    same(bytes(check(await ask("getxattr", name=name)).value), value)
    same(os.getxattr(t.file(b"file"), name), value)
    await fails(ask("setxattr", name=name, value=b"", mode="create"), "EEXIST", path)
    await fails(ask("setxattr", name=b"user.no", value=b"", mode="replace"), "ENODATA", path)
    check(await ask("setxattr", name=name, value=b"2", mode="replace"))
    os.setxattr(t.file(b"file"), b"user.two", b"2")
    names = check(await ask("listxattr")).names
    same(sorted(bytes(name) for name in names), [name, b"user.two"])
    check(await ask("removexattr", name=name))
    await fails(ask("removexattr", name=name), "ENODATA", path)
    await fails(ask("getxattr", name=name), "ENODATA", path)
    same(os.listxattr(t.file(b"file")), ["user.two"])


async def directories(t):
    same(str(check(await t.fs.mkdir(path=t.path(b"a"), mode=0o750)).attr.kind), "dir")
    same(stat.S_IMODE(os.stat(t.file(b"a")).st_mode), 0o750)
    await fails(t.fs.mkdir(path=t.path(b"a")), "EEXIST", t.path(b"a"))
    await fails(t.fs.mkdir(path=t.path(b"b/c")), "ENOENT", t.path(b"b/c"))
    made = check(await t.fs.mkdir(path=t.path(b"b/c/d"), recursive=True)).attr
    same(made.ino, os.stat(t.file(b"b/c/d")).st_ino)
    same(check(await t.fs.mkdir(path=t.path(b"b/c/d"), recursive=True)).attr.ino, made.ino)
    await t.put(b"file", b"")
    await fails(t.fs.mkdir(path=t.path(b"file"), recursive=True), "EEXIST", t.path(b"file"))
    await fails(t.fs.readdir(path=t.path(b"file")), "ENOTDIR", t.path(b"file"))
    empty = check(await t.fs.readdir(path=t.path(b"a")))
    same((list(empty.entries), empty.end), ([], True))


async def pages_of_a_directory(t):
    names = {f"name {number}".encode() for number in range(537)}
    for name in names:
        open(t.file(name), "x").close()
    for limit in (1, 100, 537, 100_000):
        found, after, end, pages = [], 0, False, 0
        while not end:
            page = check(await t.fs.readdir(path=t.root, after=after, limit=limit))
            assert len(page.entries) <= limit, len(page.entries)
            found += [(bytes(entry.name), entry.attr.ino) for entry in page.entries]
            after, end, pages = page.next, page.end, pages + 1
            if limit == 100 and pages == 2:
                # A page goes on where it was, though names that were shown already go.
                os.unlink(t.file(found[0][0]))
        same(len(found), len(names))
        same({name for name, _ in found}, names)
        if limit == 100:
            names.remove(found[0][0])
        assert all(os.stat(t.file(name)).st_ino == ino for name, ino in found[-5:])


async def bytes_in_place(t):
    await t.put(b"file", b"0123456789")
    path = t.path(b"file")
    got = check(await t.fs.read(path=path, offset=3, count=4))
    same((bytes(got.data), got.attr.size), (b"3456", 10))
    same(bytes(check(await t.fs.read(path=path, offset=8, count=100)).data), b"89")
    same(bytes(check(await t.fs.read(path=path, offset=1 << 60)).data), b"")
    same(check(await t.fs.write(path=path, offset=12, data=b"ab")).attr.size, 14)
    same(open(t.file(b"file"), "rb").read(), b"0123456789\0\0ab")
    same(check(await t.fs.append(path=path, data=b"end")).attr.size, 17)
    same(check(await t.fs.truncate(path=path, size=2)).attr.size, 2)
    same(check(await t.fs.truncate(path=path, size=5)).attr.size, 5)
    same(bytes(check(await t.fs.read(path=path)).data), b"01\0\0\0")
    same(check(await t.fs.append(path=t.path(b"new"), data=b"n", mode=0o600)).attr.mode, 0o600)
    await fails(t.fs.append(path=t.path(b"no"), data=b"n", create=False), "ENOENT", t.path(b"no"))
    await fails(t.fs.write(path=t.path(b"no"), offset=0, data=b"n"), "ENOENT", t.path(b"no"))
    await fails(t.fs.read(path=t.root), "EISDIR", t.root)
    await fails(t.fs.truncate(path=t.root, size=0), "EISDIR", t.root)
    most = bytes(4 << 20)
    same(check(await t.fs.write(path=path, offset=0, data=most)).attr.size, len(most))
    same(len(check(await t.fs.read(path=path, count=5 << 20)).data), 4 << 20)
    await fails(t.fs.write(path=path, offset=0, data=most + b"x"), "EPROTOCOL", path)
    await fails(t.fs.append(path=path, data=most + b"x"), "EPROTOCOL", path)
    await fails(t.fs.write(path=path, offset=(1 << 63) - 1, data=b"xy"), "EFBIG", path)


async def appends_never_overlap(t):
    async with t.session() as other:
        both = [t.fs, other.fs().fs]
        lines = [f"{number:06}\n".encode() for number in range(600)]
        calls = [both[at % 2].append(path=t.path(b"log"), data=line) for at, line in enumerate(lines)]
        for call in calls:
            check(await call)
    same(sorted(open(t.file(b"log"), "rb").readlines()), lines)


async def removal(t):
    os.makedirs(t.file(b"d/e/f"))
    open(t.file(b"d/e/g"), "x").close()
    await fails(t.fs.rm(path=t.path(b"d")), "EISDIR", t.path(b"d"))
    same(check(await t.fs.rm(path=t.path(b"d"), recursive=True)).removed, 4)
    assert not os.path.exists(t.file(b"d"))
    await fails(t.fs.rm(path=t.path(b"d")), "ENOENT", t.path(b"d"))
    same(check(await t.fs.rm(path=t.path(b"d"), force=True)).removed, 0)
    await t.put(b"file", b"x")
    os.symlink("file", t.file(b"link"))
    same(check(await t.fs.rm(path=t.path(b"link"))).removed, 1)
    assert os.path.exists(t.file(b"file"))


async def renames(t):
    await t.put(b"a", b"a")
    await t.put(b"b", b"b")
    ino = os.stat(t.file(b"a")).st_ino
    move = lambda old, new, mode="replace": t.fs.rename(**{"from": t.path(old), "to": t.path(new), "mode": mode})
    await fails(move(b"a", b"b", "noReplace"), "EEXIST", t.path(b"b"))
    await fails(move(b"none", b"b"), "ENOENT", t.path(b"none"))
    await fails(move(b"a", b"none", "exchange"), "ENOENT", t.path(b"none"))
    check(await move(b"a", b"b", "exchange"))
    same(open(t.file(b"a")).read() + open(t.file(b"b")).read(), "ba")
    check(await move(b"b", b"a"))
    same((os.stat(t.file(b"a")).st_ino, os.listdir(t.mount)), (ino, [b"a"]))
    check(await move(b"a", b"c", "noReplace"))
    check(await t.fs.mkdir(path=t.path(b"d/e"), recursive=True))
    await fails(move(b"d", b"d/e/f"), "EINVAL", t.path(b"d"))


async def links(t):
    await t.put(b"a", b"a")
    attr = check(await t.fs.link(target=t.path(b"a"), path=t.path(b"b"))).attr
    same((attr.nlink, attr.ino), (2, os.stat(t.file(b"b")).st_ino))
    await fails(t.fs.link(target=t.path(b"a"), path=t.path(b"b")), "EEXIST", t.path(b"b"))
    await fails(t.fs.link(target=t.root, path=t.path(b"c")), "EPERM", t.path(b"c"))
    same(str(check(await t.fs.symlink(target=b"b\xff/..", path=t.path(b"s"))).attr.kind), "symlink")
    same(bytes(check(await t.fs.readlink(path=t.path(b"s"))).target), b"b\xff/..")
    same(os.readlink(t.file(b"s")), b"b\xff/..")
    await fails(t.fs.symlink(target=b"x", path=t.path(b"s")), "EEXIST", t.path(b"s"))
    await fails(t.fs.readlink(path=t.path(b"a")), "EINVAL", t.path(b"a"))


async def symlinks_on_the_way(t):
    check(await t.fs.mkdir(path=t.path(b"d/e"), recursive=True))
    await t.put(b"d/e/file", b"found")
    point = os.path.dirname(t.root)
    for name, target in {
        b"relative": b"d/e", b"absolute": t.path(b"d/e"), b"up": b"d/../d/e", b"twice": b"relative",
        b"around": b"../../" + os.path.basename(point) + b"/x", b"out": b"../../../etc", b"etc": b"/etc",
        b"loop": b"pool", b"pool": b"loop", b"dangling": b"nowhere",
    }.items():
        os.symlink(target, t.file(name))
    for through in (b"relative", b"absolute", b"up", b"twice"):
        path = t.path(through + b"/file")
        same(bytes(check(await t.fs.read(path=path)).data), b"found")
        same(str(check(await t.fs.lstat(path=t.path(through))).attr.kind), "symlink")
        same(str(check(await t.fs.stat(path=t.path(through))).attr.kind), "dir")
    for out in (b"out", b"etc", b"around", b"dangling"):
        await fails(t.fs.stat(path=t.path(out)), "ENOENT", t.path(out))
        await fails(t.fs.read(path=t.path(out + b"/passwd")), "ENOENT", t.path(out + b"/passwd"))
    await fails(t.fs.stat(path=t.path(b"loop")), "ELOOP", t.path(b"loop"))
    await fails(t.fs.writeFile(path=t.path(b"out/passwd")), "ENOENT", t.path(b"out/passwd"))
    # What dangles is made at its target's place.
    check(await t.fs.writeFile(path=t.path(b"dangling")).sink.done())
    same(os.readlink(t.file(b"dangling")), b"nowhere")
    assert os.path.exists(t.file(b"nowhere"))


async def names_that_are_not_text(t):
    name = b"caf\xe9\xff\n \x01"
    await t.put(name, b"data")
    same(open(t.file(name), "rb").read(), b"data")
    same(bytes(check(await t.fs.readdir(path=t.root)).entries[0].name), name)
    check(await t.fs.rename(**{"from": t.path(name), "to": t.path(b"\x80")}))
    same(os.listdir(t.mount), [b"\x80"])
    found = check(await t.fs.find(options={"path": t.root, "kinds": ["file"]}).cursor.next())
    same(bytes(found.entries[0].path), t.path(b"\x80"))
    await fails(t.fs.stat(path=t.path(b"\xfe")), "ENOENT", t.path(b"\xfe"))


async def copies(t):
    check(await t.fs.mkdir(path=t.path(b"a/b"), recursive=True))
    await t.put(b"a/file", b"f" * 300_000, mode=0o751)
    os.symlink("file", t.file(b"a/link"))
    os.setxattr(t.file(b"a/file"), b"user.x", b"y")
    copy = lambda old, new, **more: t.fs.copy(**{"from": t.path(old), "to": t.path(new), **more})
    await fails(copy(b"a", b"c"), "EISDIR", t.path(b"a"))
    copied = check(await copy(b"a", b"c", recursive=True))
    same(copied.bytes, 300_000 + len(b"file"))
    assert copied.files >= 2, copied
    one, two = os.stat(t.file(b"a/file")), os.stat(t.file(b"c/file"))
    assert one.st_ino != two.st_ino and (one.st_mode, one.st_mtime_ns) == (two.st_mode, two.st_mtime_ns)
    same(os.getxattr(t.file(b"c/file"), b"user.x"), b"y")
    same(os.readlink(t.file(b"c/link")), b"file")
    same(open(t.file(b"c/file"), "rb").read(), b"f" * 300_000)
    await fails(copy(b"a/file", b"c/file", replace=False), "EEXIST", t.path(b"c/file"))
    await fails(copy(b"none", b"x"), "ENOENT", t.path(b"none"))
    check(await t.fs.write(path=t.path(b"c/file"), offset=0, data=b"changed"))
    same(open(t.file(b"a/file"), "rb").read(7), b"fffffff")
    check(await copy(b"a/file", b"c/file"))
    same(open(t.file(b"c/file"), "rb").read(7), b"fffffff")


async def edits(t):
    await t.put(b"file", b"one two two\xff\0")
    path, edit = t.path(b"file"), t.fs.edit
    edited = check(await edit(path=path, old=b"one", new=b"1"))
    same((edited.replaced, edited.attr.size), (1, 11))
    await fails(edit(path=path, old=b"two", new=b"2"), "EMATCHES", path)
    await fails(edit(path=path, old=b"three", new=b"3"), "EMATCHES", path)
    await fails(edit(path=path, old=b"three", new=b"3", all=True), "EMATCHES", path)
    await fails(edit(path=path, old=b"", new=b"3"), "EPROTOCOL", path)
    same(check(await edit(path=path, old=b"two", new=b"22", all=True)).replaced, 2)
    same(open(t.file(b"file"), "rb").read(), b"1 22 22\xff\0")


async def space_and_sync(t):
    before = check(await t.fs.statfs())
    await t.put(b"file", os.urandom(1 << 20))
    after = check(await t.fs.statfs())
    same(after.nodes, before.nodes + 1)
    assert 0 < after.free <= after.total, after
    revision = check(await t.fs.stat(path=t.path(b"file"))).attr.revision
    assert check(await t.fs.sync()).revision >= revision


async def many_at_once(t):
    await t.put(b"file", b"x")
    answers = await asyncio.gather(*(t.fs.stat(path=t.path(b"file")) for _ in range(3000)))
    same(len({check(answer).attr.ino for answer in answers}), 1)


CASES = [
    info, attributes, modes_owners_times, extended_attributes, directories, pages_of_a_directory, bytes_in_place,
    appends_never_overlap, removal, renames, links, symlinks_on_the_way, names_that_are_not_text, copies, edits,
    space_and_sync, many_at_once,
]
