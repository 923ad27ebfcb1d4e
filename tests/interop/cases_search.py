"""Finding names and lines, and being told of changes."""

import asyncio
import os

from case import fails, same
from wsd_client import check


def plant(t, tree):
    for name, data in tree.items():
        os.makedirs(os.path.dirname(t.file(name)), exist_ok=True)
        with open(t.file(name), "wb") as file:
            file.write(data)


async def all_of(cursor, field, limit=1000):
    found = []
    while True:
        portion = check(await cursor.next(limit=limit))
        items = getattr(portion, field)
        assert len(items) <= limit, len(items)
        found += list(items)
        if portion.end:
            return found


async def find(t, limit=1000, **options):
    cursor = check(await t.fs.find(options={"path": t.root, **options})).cursor
    entries = await all_of(cursor, "entries", limit)
    return [bytes(entry.path)[len(t.root) + 1 :] for entry in entries]


TREE = {
    b"src/main.rs": b"", b"src/deep/mod.rs": b"", b"src/deep/er/x.rs": b"", b"README.md": b"", b".hidden/a.rs": b"",
    b"target/out.rs": b"", b"sub/.gitignore": b"*.log\n!keep.log\n", b"sub/a.log": b"", b"sub/keep.log": b"",
    b".gitignore": b"/target/\n", b".git/config": b"",
}


async def names_below(t):
    plant(t, TREE)
    everything = await find(t)
    assert everything[0] == b"" and set(TREE) <= set(everything), everything
    same(len(everything), len(set(everything)))
    for at, path in enumerate(everything):
        assert os.path.dirname(path) in everything[:at] or at == 0, f"{path} comes before its directory"
    same(await find(t, limit=2), everything)
    same(sorted(await find(t, globs=["*.md", "src/**/*.rs"])), sorted(
        [b"README.md", b"src/main.rs", b"src/deep/mod.rs", b"src/deep/er/x.rs"]))
    same(sorted(await find(t, globs=["*.rs"], excludes=["deep/", "/target"], hidden=False)), [b"src/main.rs"])
    same(sorted(await find(t, kinds=["dir"], maxDepth=1, hidden=False)), [b"", b"src", b"sub", b"target"])
    same(await find(t, maxDepth=0), [b""])
    visible = await find(t, gitignore=True, kinds=["file"])
    assert {b"sub/keep.log", b"src/main.rs", b".hidden/a.rs"} <= set(visible), visible
    assert not {b"sub/a.log", b"target/out.rs", b".git/config"} & set(visible), visible
    attr = check(await t.fs.find(options={"path": t.path(b"README.md")}).cursor.next()).entries[0].attr
    same(attr.ino, os.stat(t.file(b"README.md")).st_ino)
    await fails(t.fs.find(options={"path": t.root, "globs": ["["]}), "EPROTOCOL")
    await fails(t.fs.find(options={"path": t.path(b"no")}), "ENOENT", t.path(b"no"))


async def ahead_of_a_cursor(t):
    plant(t, {b"%d" % number: b"" for number in range(300)})
    cursor = t.fs.find(options={"path": t.root, "kinds": ["file"]}).cursor
    portions = [cursor.next(limit=40) for _ in range(10)]
    sizes = [len(check(await portion).entries) for portion in portions]
    same((sizes[:7], sum(sizes)), ([40] * 7, 300))


async def grep(t, pattern, limit=1000, where=None, **options):
    query = {"in": {"path": t.root, **(where or {})}, "pattern": pattern, **options}
    return await all_of(check(await t.fs.grep(options=query)).cursor, "matches", limit)


async def lines_of_files(t):
    text = b"alpha\nbeta b\xff\nGamma alpha\n\nomega.\n"
    plant(t, {b"a.txt": text, b"b.md": b"alphabet\n", b"bin": b"alpha\0alpha\n"})
    only = {"globs": ["*.txt"]}
    found = await grep(t, "alpha", where=only)
    same([(match.line, match.offset, bytes(match.text)) for match in found], [(1, 0, b"alpha\n"), (3, 14, b"Gamma alpha\n")])
    same([(span.start, span.end) for span in found[1].spans], [(6, 11)])
    same({bytes(match.path) for match in await grep(t, "alpha", limit=1)}, {t.path(b"a.txt"), t.path(b"b.md")})
    same(len(await grep(t, "alpha", word=True)), 2)
    same(len(await grep(t, "gamma", ignoreCase=True)), 1)
    same(len(await grep(t, "omega.", literal=True)), 1)
    same(len(await grep(t, "^a.+a$")), 1)
    same(len(await grep(t, "alpha", maxPerFile=1, where=only)), 1)
    around = await grep(t, "beta", where=only, before=1, after=1)
    same([(match.line, match.context) for match in around], [(1, True), (2, False), (3, True)])
    spanning = await grep(t, r"alpha\nbeta", multiline=True)
    same((len(spanning), bytes(spanning[0].text)), (1, b"alpha\nbeta b\xff\n"))
    looked = check(await t.fs.grep(options={"in": {"path": t.root}, "pattern": "nothing at all"}).cursor.next())
    same((len(looked.matches), looked.end, looked.files), (0, True, 3))
    await fails(t.fs.grep(options={"in": {"path": t.root}, "pattern": "("}), "EPROTOCOL")
    await fails(t.fs.grep(options={"in": {"path": b"/x"}, "pattern": "x"}), "ENOENT", b"/x")


async def many_lines(t):
    plant(t, {b"%d" % file: b"".join(b"line %d\n" % line for line in range(2000)) for file in range(20)})
    found = await grep(t, "line", limit=777)
    same(len(found), 40_000)
    same(len({(bytes(match.path), match.line) for match in found}), 40_000)


def told(changes):
    return [(str(change.kind), os.path.basename(bytes(change.path))) for change in changes]


async def until(watch, kind, name):
    """The changes up to one that is waited for, and the last revision of them."""
    changes = []
    while True:
        portion = check(await watch.next(waitMs=10_000))
        assert not portion.dropped and len(portion.changes), "the change did not come"
        changes += list(portion.changes)
        if (kind, name) in told(changes):
            return changes, portion.upTo


async def changes_as_they_come(t):
    started = check(await t.fs.watch(path=t.root))
    watch = started.watch
    nothing = check(await watch.next(waitMs=10))
    same((len(nothing.changes), nothing.dropped), (0, False))
    waits = watch.next(waitMs=10_000)
    open(t.file(b"by a program"), "x").close()
    first = check(await waits)
    same(told(first.changes)[0], ("created", b"by a program"))
    await t.put(b"by a call", b"x")
    check(await t.fs.chmod(path=t.path(b"by a call"), mode=0o600))
    check(await t.fs.append(path=t.path(b"by a call"), data=b"y"))
    os.rename(t.file(b"by a call"), t.file(b"moved"))
    os.unlink(t.file(b"moved"))
    changes, up_to = await until(watch, "removed", b"moved")
    revisions = [change.revision for change in changes]
    same(revisions, sorted(revisions))
    assert first.upTo < revisions[0] and revisions[-1] <= up_to and started.revision < first.upTo
    kinds = [kind for kind, name in told(changes) if name in (b"by a call", b"moved")]
    order = [kind for at, kind in enumerate(kinds) if kind not in kinds[:at]]
    same(order, ["created", "attributes", "modified", "renamed", "removed"])
    moved = [change for change in changes if str(change.kind) == "renamed"][0]
    same((bytes(getattr(moved, "from")), bytes(moved.path)), (t.path(b"by a call"), t.path(b"moved")))


async def a_watch_sees_only_its_place(t):
    check(await t.fs.mkdir(path=t.path(b"in/deep"), recursive=True))
    flat = check(await t.fs.watch(path=t.path(b"in"), recursive=False)).watch
    deep = check(await t.fs.watch(path=t.path(b"in"), recursive=True)).watch
    for name in (b"outside", b"in/deep/x", b"in/a", b"in/z"):
        open(t.file(name), "x").close()
    shown = [name for kind, name in told((await until(flat, "created", b"z"))[0]) if kind == "created"]
    same(shown, [b"a", b"z"])
    shown = [name for kind, name in told((await until(deep, "created", b"z"))[0]) if kind == "created"]
    same(shown, [b"x", b"a", b"z"])


async def a_watch_goes_on_after_a_lost_connection(t):
    async with t.session() as lost:
        watch = check(await lost.fs().fs.watch(path=t.root)).watch
        open(t.file(b"one"), "x").close()
        _, up_to = await until(watch, "created", b"one")
    for name in (b"two", b"three"):
        open(t.file(name), "x").close()
    async with t.session() as again:
        resumed = check(await again.fs().fs.watch(path=t.root, after=up_to))
        same(resumed.revision, up_to)
        changes, _ = await until(resumed.watch, "created", b"three")
        same([name for kind, name in told(changes) if kind == "created"], [b"two", b"three"])


async def a_watch_says_what_it_missed(t):
    first = check(await t.workspace.info()).info.revision
    plant(t, {b"tree/%d" % number: b"" for number in range(1000)})
    watch = check(await t.fs.watch(path=t.root, after=first)).watch
    for number in range(17):
        check(await t.fs.copy(**{"from": t.path(b"tree"), "to": t.path(b"copy"), "recursive": True}))
        same(check(await t.fs.rm(path=t.path(b"copy"), recursive=True)).removed, 1001)
    missed = check(await watch.next())
    same((missed.dropped, len(missed.changes)), (True, 0))
    open(t.file(b"later"), "x").close()
    changes, _ = await until(watch, "created", b"later")
    assert ("created", b"later") in told(changes)
    future = check(await t.fs.watch(path=t.root, after=1 << 60)).watch
    assert check(await future.next()).dropped


async def watches_of_two_sessions(t):
    async with t.session() as other:
        watches = [check(await fs.watch(path=t.root)).watch for fs in (t.fs, other.fs().fs)]
        waiting = [watch.next(waitMs=10_000) for watch in watches]
        await t.put(b"file", b"x")
        for answer in await asyncio.gather(*waiting):
            assert ("created", b"file") in told(check(answer).changes)


CASES = [
    names_below, ahead_of_a_cursor, lines_of_files, many_lines, changes_as_they_come, a_watch_sees_only_its_place,
    a_watch_goes_on_after_a_lost_connection, a_watch_says_what_it_missed, watches_of_two_sessions,
]
