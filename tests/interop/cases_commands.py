"""Commands: run, followed, attached to again, ended."""

import asyncio

from wsd_client import WsdError, check


async def hear(events):
    """What a command says until its exit: standard output, standard error, the exit."""
    said, seq = {"stdout": b"", "stderr": b""}, None
    while True:
        portion = check(await events.next(waitMs=20000))
        assert portion.end or len(portion.events), "nothing for 20 seconds"
        for event in portion.events:
            assert seq is None or event.seq == seq + 1, f"a gap after {seq}"
            seq, kind = event.seq, event.which()
            if kind == "exit":
                exit = event.exit
            else:
                said[kind] += getattr(event, kind)
        if portion.end:
            return said["stdout"], said["stderr"], exit


async def refused(promise, code):
    try:
        check(await promise)
    except WsdError as error:
        assert error.code == code, error
        return error
    raise AssertionError(f"{code} was expected")


async def a_command_says_what_it_says_and_ends_once(case):
    commands = case.workspace.exec().exec
    line = b"pwd; echo $A; echo oh >&2; exit 3"
    run = await commands.run({"shell": line, "cwd": case.root, "env": [{"name": b"A", "value": b"\xff"}]})
    out, err, exit = await hear(check(run).events)
    assert (out, err) == (case.root + b"\n\xff\n", b"oh\n"), (out, err)
    assert (exit.which(), exit.code, exit.timedOut, exit.outputCut) == ("code", 3, False, False)
    killed = check(await commands.run({"argv": [b"sleep", b"60"], "timeoutMs": 200}))
    _, _, exit = await hear(killed.events)
    assert (exit.which(), exit.signal, exit.timedOut) == ("signal", "TERM", True)
    error = await refused(commands.run({"argv": [b"no-such-program"]}), "ENOENT")
    assert (error.path, error.applied) == (b"no-such-program", "no")
    await refused(commands.run({"argv": []}), "EPROTOCOL")
    await refused(commands.run({"shell": b"true", "cwd": b"none"}), "ENOENT")
    # What a failed start gives answers with the same error.
    await refused(commands.run({"argv": [b"no-such-program"]}).events.next(), "ENOENT")


async def input_is_streamed_and_much_output_arrives(case):
    commands = case.workspace.exec().exec
    run = check(await commands.run({"shell": b"cat", "stdin": {"stream": None}}))
    hearing = asyncio.create_task(hear(run.events))
    portion = bytes(range(256)) * 1024
    for _ in range(12):
        await run.stdin.write(portion)
    check(await run.stdin.close())
    out, _, exit = await hearing
    assert out == portion * 12 and exit.code == 0
    given = check(await commands.run({"shell": b"wc -c", "stdin": {"bytes": portion}}))
    assert int((await hear(given.events))[0]) == len(portion)
    lines = check(await commands.run({"shell": b"seq 1 200000"}))
    assert (await hear(lines.events))[0] == b"".join(b"%d\n" % line for line in range(1, 200001))


async def another_session_attaches_kills_and_disposes(case):
    commands = case.workspace.exec().exec
    ours = check(await commands.run({"shell": b"echo begun; sleep 60", "id": "shared"}))
    assert ours.id == "shared" and ours.pid > 1
    first = check(await ours.events.next())
    assert first.events[0].stdout == b"begun\n" and first.events[0].seq == 1
    await refused(commands.run({"shell": b"true", "id": "shared"}), "EEXEC_BUSY")
    async with case.session() as other:
        theirs = other.exec().exec
        attached = check(await theirs.attach("shared"))
        assert str(attached.info.state) == "running" and attached.info.lastSeq == 1
        await refused(theirs.dispose("shared"), "EEXEC_BUSY")
        await refused(theirs.kill("shared", "NOPE"), "EINVAL")
        assert check(await theirs.kill("shared", "TERM", 2000)).running
        out, _, exit = await hear(attached.events)
        assert (out, exit.signal) == (b"begun\n", "TERM")
    _, _, exit = await hear(ours.events)
    assert exit.signal == "TERM"
    known = {info.id: info for info in check(await commands.list()).commands}
    assert str(known["shared"].state) == "ended" and known["shared"].command == b"echo begun; sleep 60"
    late = check(await commands.attach("shared", 1)).events
    assert (await hear(late))[0] == b"", "only what comes after the first event"
    check(await commands.dispose("shared"))
    await refused(commands.attach("shared"), "ENOENT")
    await refused(commands.kill("shared"), "ENOENT")


async def a_terminal_has_a_size_that_changes(case):
    commands = case.workspace.exec().exec
    command = {"shell": b"stty size; read line; stty size", "stdin": {"stream": None}, "terminal": {"rows": 33, "columns": 101}}
    run = check(await commands.run(command))
    seen = b""
    while b"33 101" not in seen:
        seen += b"".join(event.stdout for event in check(await run.events.next()).events)
    check(await commands.resize(run.id, 40, 120))
    await run.stdin.write(b"\n")
    out, _, exit = await hear(run.events)
    assert b"40 120" in out and exit.code == 0
    plain = check(await commands.run({"shell": b"sleep 1"}))
    await refused(commands.resize(plain.id, 1, 1), "ENOTTY")


async def what_a_command_changed_is_known(case):
    commands = case.workspace.exec().exec
    run = check(await commands.run({"shell": b"echo x > a; mv a b; mkdir d; rm b", "cwd": case.root}))
    await hear(run.events)
    answer = check(await commands.changes(run.id))
    told = [(str(change.kind), change.path) for change in answer.changes if str(change.kind) != "attributes"]
    for expected in [("created", b"a"), ("renamed", b"b"), ("created", b"d"), ("removed", b"b")]:
        assert (expected[0], case.path(expected[1])) in told, (expected, told)
    assert answer.complete


async def of_two_at_once_each_is_told_its_own(case):
    commands = case.workspace.exec().exec
    line = b"echo x > $ME; until [ -e stop ]; do sleep 0.01; done; echo y >> $ME"
    both = []
    for me in (b"a", b"b"):
        command = {"shell": line, "cwd": case.root, "env": [{"name": b"ME", "value": me}]}
        both.append(check(await commands.run(command)))
    await case.put(b"stop", b"")
    for me, run in zip((b"a", b"b"), both):
        await hear(run.events)
        answer = check(await commands.changes(run.id))
        assert {change.path for change in answer.changes} == {case.path(me)}, answer.changes


async def a_command_waits_for_upstream_before_and_after(case):
    # There is none here: nothing to wait for before, and the disk of this workspace after.
    commands = case.workspace.exec().exec
    command = {"shell": b"echo x > f; exit 3", "cwd": case.root, "pull": True, "push": True, "syncTimeoutMs": 20000}
    _, _, exit = await hear(check(await commands.run(command)).events)
    assert (exit.which(), exit.code, exit.notUpstream) == ("code", 3, "")
    assert await case.get(b"f") == b"x\n"


async def limits_hold_from_the_start(case):
    commands = case.workspace.exec().exec
    command = {"shell": b"ulimit -n; ulimit -t", "limits": {"openFiles": 99, "cpuSeconds": 7}}
    out, _, exit = await hear(check(await commands.run(command)).events)
    assert (out, exit.code) == (b"99\n7\n", 0), out
    await refused(commands.run({"argv": [b"no-such-program"], "limits": {"openFiles": 99}}), "ENOENT")


async def what_is_no_longer_kept_is_said(case):
    commands = case.workspace.exec().exec
    run = check(await commands.run({"shell": b"head -c 4000000 /dev/zero; echo end"}))
    await hear(run.events)
    answer = await commands.attach(run.id).events.next()
    assert answer.error.code == "ELOG_TRUNCATED" and answer.resume > 0
    out, _, _ = await hear(commands.attach(run.id, answer.resume).events)
    assert out.endswith(b"end\n") and len(out) <= 1 << 20


CASES = [
    a_command_says_what_it_says_and_ends_once,
    input_is_streamed_and_much_output_arrives,
    another_session_attaches_kills_and_disposes,
    a_terminal_has_a_size_that_changes,
    what_a_command_changed_is_known,
    of_two_at_once_each_is_told_its_own,
    a_command_waits_for_upstream_before_and_after,
    limits_hold_from_the_start,
    what_is_no_longer_kept_is_said,
]
