"""Connections to instances: one request at a time each, kept for a moment to be used again."""

import asyncio
from typing import Protocol, cast

import httptools

from gateway.framing import Headers
from gateway.snapshot import Address

IDLE_S = 3.0
CONNECT_S = 3.0
IDLE_PER_INSTANCE = 256
WRITE_LIMIT = 64 << 10


class ResponseSink(Protocol):
    """Who takes the answer: the exchange that sent the request."""

    def response_started(self, status: int, reason: bytes, headers: Headers, *, keeps_alive: bool) -> None: ...
    def response_body(self, data: bytes) -> None: ...
    def response_complete(self) -> None: ...
    def response_flush(self) -> None: ...
    def upstream_lost(self, *, answered: bool, ended_by_close: bool) -> None: ...
    def upstream_writable(self, writable: bool) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """Parses one answer after another for whichever exchange holds the connection."""

    def __init__(self, pool: "Pool", address: Address) -> None:
        self._pool = pool
        self.address = address
        self.transport: asyncio.Transport
        self.reused = False
        self.idle_since = 0.0
        self._sink: ResponseSink | None = None
        self._headers: Headers = []
        self._reason = b""
        self._complete = False
        self._reset()

    def take(self, sink: ResponseSink) -> None:
        self._sink = sink
        self._reset()

    def drop_sink(self) -> None:
        self._sink = None

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    @property
    def is_reusable(self) -> bool:
        """Nothing of this exchange is left in either direction."""
        return not self.surplus and not self.transport.is_closing() and self.transport.get_write_buffer_size() == 0

    def close(self) -> None:
        """End it at once: nothing of a broken exchange may reach the next one."""
        self._sink = None
        self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_LIMIT)

    def data_received(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:
            # Nobody asked: whatever this is must not be taken for the next answer.
            self._pool.remove(self)
            self.transport.abort()
            return
        self._answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if not self._complete:
                self._sink = None
                self.transport.abort()
                sink.upstream_lost(answered=True, ended_by_close=False)
                return
            self.surplus = True
        if self._sink is sink:
            sink.response_flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.remove(self)
        sink, self._sink = self._sink, None
        if sink is not None:
            by_close = exc is None and self._headers_done and not self._framed
            sink.upstream_lost(answered=self._answered, ended_by_close=by_close)

    def pause_writing(self) -> None:
        if self._sink is not None:
            self._sink.upstream_writable(False)

    def resume_writing(self) -> None:
        if self._sink is not None:
            self._sink.upstream_writable(True)

    # httptools callbacks

    def on_message_begin(self) -> None:
        self.surplus = self.surplus or self._complete

    def on_status(self, status: bytes) -> None:
        self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.surplus:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            # An interim answer is not the answer.
            self._interim = True
            return
        self._headers_done = True
        self._framed = any(
            name in (b"content-length", b"transfer-encoding") for name, _ in self._headers
        ) or status in (204, 304)
        if self._sink is not None:
            self._sink.response_started(
                status, self._reason, self._headers, keeps_alive=self._parser.should_keep_alive()
            )

    def on_body(self, body: bytes) -> None:
        if self._sink is not None and not self.surplus:
            self._sink.response_body(body)

    def on_message_complete(self) -> None:
        if self.surplus:
            return
        if self._interim:
            self._interim = False
            self._headers = []
            self._reason = b""
        elif self._sink is not None:
            self._complete = True
            self._sink.response_complete()

    def _reset(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers = []
        self._reason = b""
        self._answered = self._headers_done = self._framed = self._interim = self._complete = False
        # More came than the answer: the connection can't be trusted any more.
        self.surplus = False


class Pool:
    """Idle connections by instance. Reused ones may have been closed by the other side in the same moment."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._idle: dict[str, list[UpstreamConnection]] = {}

    def reuse(self, address: Address) -> UpstreamConnection | None:
        """The most recently used idle connection, None when there is none."""
        connections = self._idle.get(address.uid)
        while connections:
            connection = connections.pop()
            if not connection.transport.is_closing() and self._loop.time() - connection.idle_since < IDLE_S:
                connection.reused = True
                return connection
            connection.close()
        return None

    async def connect(self, address: Address) -> UpstreamConnection:
        """A fresh connection. Raises OSError, also when it takes longer than CONNECT_S."""
        async with asyncio.timeout(CONNECT_S):
            _, connection = await self._loop.create_connection(
                lambda: UpstreamConnection(self, address), address.host, address.port
            )
        return connection

    def give_back(self, connection: UpstreamConnection) -> None:
        connection.drop_sink()
        connections = self._idle.setdefault(connection.address.uid, [])
        if connection.transport.is_closing() or len(connections) >= IDLE_PER_INSTANCE:
            connection.close()
            return
        connection.idle_since = self._loop.time()
        connections.append(connection)

    def remove(self, connection: UpstreamConnection) -> None:
        connections = self._idle.get(connection.address.uid)
        if connections and connection in connections:
            connections.remove(connection)

    def close_idle(self, *, everything: bool = False) -> None:
        """Close what has been idle for too long. Called once a second."""
        now = self._loop.time()
        for uid, connections in list(self._idle.items()):
            kept = [] if everything else [item for item in connections if now - item.idle_since < IDLE_S]
            for connection in connections:
                if connection not in kept:
                    connection.close()
            if kept:
                self._idle[uid] = kept
            else:
                del self._idle[uid]
