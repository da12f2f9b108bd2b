"""A gateway's connection without sockets, so that a million requests can be put to it, and a strict reader beside it.

`Wire.send` feeds bytes as a client would send them, in the pieces it is given; instances read what is passed on with
h11 and answer each whole request. h11 also reads the client's bytes: what it refuses must never have been passed on.
"""

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import h11

from gateway.core import Gateway
from gateway.http.address import Address
from gateway.http.upstream import UpstreamConnection
from gateway.listener import accept

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


@dataclass(frozen=True)
class Passed:
    """A request as a strict server reads it."""

    method: bytes
    target: bytes
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class MemoryTransport:
    """As much of a transport as the gateway uses."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closing = False
        self.protocol = None

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def is_closing(self) -> bool:
        return self.closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return "127.0.0.1", 1

    def writelines(self, parts: Iterable[bytes]) -> None:
        self.write(b"".join(parts))

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Instances:
    """Stands in the place of the pool: each connection is fresh, and everything written to it is read by h11."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._open: list[tuple[UpstreamConnection, MemoryTransport]] = []
        self.passed: list[Passed] = []
        self.torn: list[bytes] = []
        gateway.pool.reuse = self._connection

    def _connection(self, address: Address, now: float) -> UpstreamConnection:
        connection, transport = UpstreamConnection(self._gateway.pool, address), MemoryTransport()
        transport.protocol = connection
        connection.connection_made(transport)
        self._open.append((connection, transport))
        return connection

    def answer(self) -> bool:
        """Answer every request that is whole; whether there was one."""
        progress = False
        for item in list(self._open):
            connection, transport = item
            if not transport.written:
                continue
            found = strictly_read(bytes(transport.written))
            if isinstance(found, list) and len(found) == 1:
                self._open.remove(item)
                self.passed.append(found[0])
                progress = True
                if not transport.closing:
                    connection.data_received(ANSWER)
            elif found is None or len(found) > 1:
                self._open.remove(item)
                self.torn.append(bytes(transport.written))
            elif transport.closing:
                self._open.remove(item)
        return progress


def strictly_read(data: bytes) -> list[Passed] | None:
    """The whole requests in `data`; None when a strict server refuses any of it."""
    requests = []
    while data:
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        parser.receive_data(data)
        head, body = None, b""
        try:
            while True:
                event = parser.next_event()
                if isinstance(event, h11.Request):
                    head = event
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    break
                else:
                    return requests
        except h11.RemoteProtocolError:
            return None
        assert head is not None
        requests.append(Passed(head.method, head.target, body, tuple(head.headers)))
        data = parser.trailing_data[0]
    return requests


class Wire:
    """One client's connection to a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.instances = Instances(gateway)
        self.transport = MemoryTransport()
        self._connection = accept(gateway)
        self.transport.protocol = self._connection
        self._connection.connection_made(self.transport)

    async def send(self, data: bytes, cuts: Iterable[int] = ()) -> None:
        """Feed `data`, cut at the given offsets, and let everything that follows from it happen."""
        bounds = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        for start, end in pairwise(bounds):
            if self.transport.closing:
                break
            self._connection.data_received(data[start:end])
            await self.settle()

    async def settle(self) -> None:
        while True:
            await asyncio.sleep(0)
            if not self.instances.answer():
                await asyncio.sleep(0)
                if not self.instances.answer():
                    return

    async def close(self) -> None:
        self.transport.abort()
        await self.settle()

    @property
    def status_lines(self) -> list[int]:
        """Like `statuses`, without a look at how the answers are framed: those to HEAD have no body."""
        return [int(status) for status in re.findall(rb"^HTTP/1\.1 (\d{3}) ", self.transport.written, re.MULTILINE)]

    @property
    def statuses(self) -> list[int]:
        """Of the answers that the client got."""
        found, data = [], bytes(self.transport.written)
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        while data:
            parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
            parser.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
            parser.send(h11.EndOfMessage())
            parser.receive_data(data)
            parser.receive_data(b"")
            while not isinstance(event := parser.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Response):
                    found.append(event.status_code)
                elif isinstance(event, h11.ConnectionClosed):
                    return found
            data = parser.trailing_data[0]
        return found
