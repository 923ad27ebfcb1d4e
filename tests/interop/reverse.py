"""A server that a daemon dials, and that drives the workspace over that connection: reverse.py TOKEN MOUNT_POINT

Says where it is, "served", then ends the connection; "served again" on the next one, which it ends for good.
"""

import asyncio
import os
import sys

import capnp
from websockets.asyncio.server import serve

from wsd_client import bootstrap, check

FOR_GOOD = 1008


async def main(token, point):
    served = 0

    def admit(connection, request):
        if request.headers.get("Authorization") != f"Bearer {token}":
            return connection.respond(401, "not you\n")
        return None

    async def drive(web):
        nonlocal served
        served += 1
        async with bootstrap(web) as workspace:
            files, data = workspace.fs().fs, b"from outside\n" * 100_000
            path = os.path.join(os.fsencode(point), b"reverse-%d" % served)
            sink = files.writeFile(path=path, options={}).sink
            await sink.write(data)
            assert check(await sink.done()).attr.size == len(data)
            source = check(await files.readFile(path=path)).source
            found, end = b"", False
            while not end:
                portion = check(await source.next())
                found, end = found + bytes(portion.data), portion.end
            assert found == data
        print("served" if served == 1 else "served again", flush=True)
        await web.close(1000 if served == 1 else FOR_GOOD)

    async with serve(drive, "127.0.0.1", 0, process_request=admit, compression=None, max_size=16 << 20) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(capnp.run(main(*sys.argv[1:])))
