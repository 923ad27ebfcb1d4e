"""What all cases share: where they are, and how they say what they expect."""

import dataclasses
import os

from wsd_client import WsdError, check, connect


@dataclasses.dataclass
class Case:
    """One case: a session, and a directory of its own on the wire (`root`) and in the mount (`mount`)."""

    workspace: object
    fs: object
    port: int
    token: str
    root: bytes
    mount: bytes

    def path(self, name):
        return os.path.join(self.root, name)

    def file(self, name):
        return os.path.join(self.mount, name)

    def session(self):
        return connect(self.port, self.token)

    async def put(self, name, data, **options):
        """A whole file, in one go: nothing is waited for but the end."""
        sink = self.fs.writeFile(path=self.path(name), options=options).sink
        writes = [sink.write(data[at : at + (1 << 20)]) for at in range(0, len(data), 1 << 20)]
        done = check(await sink.done())
        for write in writes:
            await write
        return done.attr

    async def get(self, name, **params):
        """A whole file or a range of it, portion by portion."""
        source = check(await self.fs.readFile(path=self.path(name), **params)).source
        data = bytearray()
        while True:
            portion = check(await source.next())
            data += portion.data
            if portion.end:
                return bytes(data)


async def fails(promise, code, path=b"", applied="no"):
    """The call must fail with exactly this."""
    try:
        check(await promise)
    except WsdError as error:
        found = (error.code, error.path, error.applied)
        assert found == (code, path, applied), f"{found}, not {(code, path, applied)}: {error.message}"
        assert error.message and "\n" not in error.message, error.message
        return error
    raise AssertionError(f"{code} was expected, but the call succeeded")


def same(found, expected):
    assert found == expected, f"{found!r}, not {expected!r}"
