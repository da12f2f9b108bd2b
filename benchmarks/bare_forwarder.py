"""The floor: a uvloop process that hands bytes on between a client and an upstream and looks at none of them.

`python -m benchmarks.bare_forwarder PORT UPSTREAM_PORT`. What a gateway in Python costs beyond this is what it does.
"""

import asyncio
import sys

import uvloop


class Upstream(asyncio.Protocol):
    def __init__(self, client: asyncio.Transport) -> None:
        self.client = client
        self.transport: asyncio.Transport | None = None
        self.waiting: list[bytes] = []

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.writelines(self.waiting)

    def data_received(self, data: bytes) -> None:
        self.client.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.client.close()


class Client(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop, port: int) -> None:
        self.loop, self.port = loop, port
        self.upstream: Upstream

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.upstream = Upstream(transport)
        self.opening = self.loop.create_task(self.loop.create_connection(lambda: self.upstream, "127.0.0.1", self.port))

    def data_received(self, data: bytes) -> None:
        if self.upstream.transport is None:
            self.upstream.waiting.append(data)
        else:
            self.upstream.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.upstream.transport is not None:
            self.upstream.transport.close()


async def main(port: int, upstream_port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Client(loop, upstream_port), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
