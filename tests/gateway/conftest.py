"""A real gateway on a real socket, and upstream servers with one behaviour each.

gateway     `await gateway.start(*upstreams)`; `await gateway.finished(n)` are the ended requests in its books
valkey      a Valkey of the test's own; `await gateway.count_in(valkey)` counts limits there
upstream    `await upstream(handler)` serves `handler(request, writer)` and keeps what it was sent
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import h11
import pytest_asyncio

from common.installation_keys import FixedKeys
from gateway.core import Gateway
from gateway.http.address import Address
from gateway.http.bounds import Bounds, Timeouts
from gateway.limits.counters import Counters
from gateway.listener import accept
from gateway.routing.snapshot import Snapshot
from gateway.routing.target import Target
from tests.gateway.valkey import OwnValkey
from tests.records import ended

KEYS = FixedKeys.of("test-secret")


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Handler = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Upstream:
    """Parses requests strictly (h11) and answers with whatever bytes its handler writes."""

    handler: Handler
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        parser = h11.Connection(h11.SERVER)
        try:
            while True:
                request = await self._read(parser, reader)
                if request is None:
                    return
                self.requests.append(request)
                answering = asyncio.ensure_future(self.handler(request, writer))
                leaving = asyncio.ensure_future(reader.read(1))
                # However the gateway leaves: where the answer fails first, nobody else asks.
                leaving.add_done_callback(lambda task: task.cancelled() or task.exception())
                await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    answering.cancel()
                    self.lost.set()
                    return
                answering.result()
                early = leaving.result() if leaving.done() else b""
                if not leaving.done():
                    # Handed back to the next request's parser.
                    early = await leaving
                if not early or writer.is_closing():
                    return
                parser = h11.Connection(h11.SERVER)
                parser.receive_data(early)
        except (ConnectionError, h11.RemoteProtocolError):
            self.lost.set()
        finally:
            writer.close()

    async def _read(self, parser: h11.Connection, reader: asyncio.StreamReader) -> Request | None:
        head, body = None, bytearray()
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                data = await reader.read(65536)
                if not data and head is None:
                    return None
                parser.receive_data(data)
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
                return Request(head.method.decode(), head.target.decode(), headers, bytes(body))
            elif isinstance(event, h11.ConnectionClosed):
                return None


def json_answer(body: bytes, status: str = "200 OK", extra: bytes = b"") -> Handler:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n".encode()
        writer.write(head + extra + b"\r\n" + (b"" if request.method == "HEAD" else body))
        await writer.drain()

    return answer


class NoBooks:
    """The journal keeps everything; these tests read it there."""

    def take(self, records: Any) -> None: ...
    def close_batch(self, position: int, in_flight: dict[int, int]) -> None: ...
    def heartbeat(self, in_flight: int, *, is_alone: bool) -> None: ...


class RunningGateway:
    def __init__(self, folder) -> None:
        self._folder = folder
        self.port = 0
        self.core: Gateway
        self.counters: Counters | None = None

    async def start(
        self,
        *upstreams: Upstream,
        timeouts: Timeouts | None = None,
        bounds: Bounds | None = None,
        status: str = "running",
    ) -> None:
        loop = asyncio.get_running_loop()
        self.core = Gateway(self._folder, KEYS, name="test", epoch=1, timeouts=timeouts, bounds=bounds)
        self.core.set_snapshot(snapshot(upstreams, status))
        self._server = await loop.create_server(lambda: accept(self.core), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self._ticking = loop.create_task(self.core.tick(NoBooks()))

    def serve(self, *upstreams: Upstream, status: str = "running") -> None:
        """What the directory says from now on."""
        self.core.set_snapshot(snapshot(upstreams, status))

    async def count_in(self, valkey: OwnValkey) -> Counters:
        self.counters = Counters(valkey.url)
        await self.counters.start()
        self.core.limiter.use(self.counters)
        return self.counters

    async def stop(self) -> None:
        if self.counters is not None:
            self.counters.stop()
        if not hasattr(self, "_server"):
            return
        self._ticking.cancel()
        self._server.close()
        for connection in list(self.core.connections):
            connection.abort()
        self.core.pool.close_idle(0.0, everything=True)
        await asyncio.sleep(0)

    async def finished(self, count: int) -> list[Any]:
        """The books' entries once there are `count` of them; nothing may be left in flight."""
        async with asyncio.timeout(10):
            while len(entries := ended(self.core.journal.records(0))) < count or self.core.in_flight:
                await asyncio.sleep(0.01)
        return entries

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def exchange(self, data: bytes) -> bytes:
        """Send bytes, end our half only after the answer ended the connection; everything that came back."""
        reader, writer = await self.connect()
        writer.write(data)
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        return answer


def snapshot(upstreams, status: str = "running") -> Snapshot:
    addresses = tuple(Address(f"{index:032x}", "127.0.0.1", item.port) for index, item in enumerate(upstreams, 1))
    target = Target(7, 3, "acme/chat", "main", "chat", 11, status, status.title(), "", "", 0, addresses)
    return Snapshot.of(1, [target])


@pytest_asyncio.fixture
async def gateway(tmp_path):
    running = RunningGateway(tmp_path)
    yield running
    await running.stop()


@pytest_asyncio.fixture
async def valkey(free_port):
    server = OwnValkey(free_port)
    await server.start()
    yield server
    server.kill()


@pytest_asyncio.fixture
async def upstream():
    servers = []

    async def make(handler: Handler) -> Upstream:
        subject = Upstream(handler)
        server = await asyncio.start_server(subject.serve, "127.0.0.1", 0)
        subject.port = server.sockets[0].getsockname()[1]
        servers.append(server)
        return subject

    yield make
    for server in servers:
        server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await server.wait_closed()
