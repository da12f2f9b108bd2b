"""Connections to instances: one request at a time each, kept for a moment to be used again."""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from gateway.http import framing
from gateway.http.address import Address
from gateway.http.framing import (
    ACCEPT_CODING,
    CODING,
    CONNECTION,
    CONTENT_CODING,
    CONTENT_TYPE,
    KINDS,
    LENGTH,
    PASS,
    RATE_LIMIT,
    SET_COOKIE,
    SUBPROTOCOLS,
    HeadMemory,
)

IDLE_S = 3.0
CONNECT_S = 3.0
IDLE_PER_INSTANCE = 1024
WRITE_LIMIT = 64 << 10
_END = b"\r\n\r\n"
# The size lines of small chunks: looking one up takes half as long as reading it, and knows no other spellings.
_CHUNK_SIZES = {form % size: size for size in range(1, 4096) for form in (b"%x", b"%X")}


class AnswerTaker(Protocol):
    """Who takes the answer to the request that was sent."""

    def whole_answer(self, connection: "UpstreamConnection", head: "AnswerHead", data: bytes, start: int) -> bool: ...
    def progressed(self, connection: "UpstreamConnection") -> None: ...
    def chunk_came(self, connection: "UpstreamConnection", raw: bytes, start: int) -> None: ...
    def switched_protocols(self, connection: "UpstreamConnection", rest: bytes) -> None: ...
    def tunnelled(self, data: bytes) -> None: ...
    def upstream_lost(self, *, answered: bool, ended_by_close: bool) -> None: ...
    def upstream_writable(self, writable: bool) -> None: ...


class AnswerHead:
    """The head of an answer whose length it tells: `passed` are the header lines to hand on, the status line included."""

    __slots__ = ("coding", "content_type", "keeps_alive", "length", "limits", "passed", "status", "with_length")

    def __init__(
        self,
        status: int,
        passed: bytes,
        length: int,
        content_type: bytes,
        coding: bytes,
        limits: bytes,
        *,
        keeps_alive: bool,
    ) -> None:
        self.coding, self.limits = coding, limits
        self.status = status
        self.passed = passed
        self.with_length = b"%bcontent-length: %d\r\nx-request-id: " % (passed, length)
        self.length = length
        self.content_type = content_type
        self.keeps_alive = keeps_alive


_KNOWN_HEADS: HeadMemory[AnswerHead] = HeadMemory()


class UpstreamConnection(asyncio.Protocol):
    """Reads one answer after another for whichever exchange holds the connection.

    The fields from `status` on are the running answer: its head when `has_head`, and in `body` what has come since the
    taker last emptied it. `passed` is the head to hand on, status line first, `coding` the body's in lower case, `limits` the lines that
    tell of rate limits. `length` is None when it isn't announced.
    """

    def __init__(self, pool: "Pool", address: Address) -> None:
        self._pool = pool
        self.address = address
        self.transport: asyncio.Transport
        self.reused = False
        self.idle_since = 0.0
        self._taker: AnswerTaker | None = None
        self._is_tunnel = False
        self._parser = httptools.HttpResponseParser(self)
        # The answer's head that came last on this connection: the next one is mostly the same, to the letter.
        self._last_raw = b""
        self._last_head: AnswerHead | None = None
        self._clear()

    def _clear(self) -> None:
        self.status = 0
        self.passed = self.content_type = self.coding = self.limits = b""
        self.body: list[bytes] = []
        # Set by the taker when whole chunks may go on as they are.
        self.passes_on: Callable[[bytes], None] | None = None
        self.length: int | None = None
        self.has_head = self.is_complete = self.keeps_alive = self.answered = False
        # Set for each chunk of a stream; whoever watches the clock takes it back.
        self.was_heard = False
        # Of a body whose head was known: how much of it is still to come. -1: the parser reads it.
        self._left = -1
        # What the parser works with.
        self._lines: list[bytes] = []
        self._is_framed = self.is_malformed = False
        self._chunk_ended = self._between_chunks = False
        self._named: set[bytes] | None = None
        self._head_bytes = self._unheard_bytes = self._heard = 0
        self._had_interim = False

    def take(self, taker: AnswerTaker) -> None:
        """Begin another exchange. Everything of the one before has been read: only such a connection is given back."""
        self._taker = taker
        if self.answered:
            self._clear()

    def hand_over(self, taker: AnswerTaker) -> None:
        """Let another one take the rest of the answer."""
        self._taker = taker

    def rest(self, now: float) -> None:
        """Belong to nobody until the next `take`."""
        self._taker = None
        self._between_chunks = False
        self.idle_since = now

    def drop_taker(self) -> None:
        self._taker = None
        self._between_chunks = False

    def close(self) -> None:
        """End it at once: nothing of a broken exchange may reach the next one."""
        self.drop_taker()
        self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_LIMIT)

    def data_received(self, data: bytes) -> None:
        taker = self._taker
        if self._between_chunks:
            # One whole chunk and no more, as streams come: the parser, which rests between two, need not see it.
            end = data.find(b"\r\n", 1, 6)
            size = _CHUNK_SIZES.get(data[:end]) if end > 0 else None
            if size is not None and len(data) == end + size + 4 and data.endswith(b"\r\n"):
                self.was_heard = True
                if self.passes_on is not None:
                    self.passes_on(data)
                else:
                    taker.chunk_came(self, data, end + 2)  # type: ignore[union-attr]
                return
        if taker is None:
            # Nobody asked: whatever this is must not be taken for the next answer.
            self._pool.remove(self)
            self.transport.abort()
        elif not self.answered:
            raw = self._last_raw
            if raw and data.startswith(raw):
                end, head = len(raw), self._last_head
            else:
                end = data.find(_END) + 4
                raw = data[:end]
                head = _KNOWN_HEADS.get(raw) if end > 3 else None
                if head is not None:
                    self._last_raw, self._last_head = raw, head
            if head is None:
                self._parse(data, taker)
            elif len(data) - end != head.length or not taker.whole_answer(self, head, data, end):
                self._begin_known(head, data, end)
                taker.progressed(self)
        elif self._left >= 0:
            self._count_body(data)
            taker.progressed(self)
        else:
            self._parse(data, taker)

    def _begin_known(self, head: AnswerHead, data: bytes, end: int) -> None:
        """Take the head's meaning from memory: these bytes have been read before."""
        self.answered = self.has_head = True
        self.status, self.passed, self.content_type = head.status, head.passed, head.content_type
        self.coding, self.limits = head.coding, head.limits
        self.keeps_alive = head.keeps_alive
        self.length = self._left = head.length
        self._count_body(data[end:])

    def _count_body(self, data: bytes) -> None:
        left = self._left - len(data)
        if left < 0:
            # Surplus: the answer stands, the connection doesn't.
            self.keeps_alive = False
            data, left = data[:left], 0
        if data:
            self.body.append(data)
        self._left = left
        self.is_complete = not left

    def _parse(self, data: bytes, taker: AnswerTaker) -> None:
        if self._is_tunnel:
            taker.tunnelled(data)
            return
        is_first, had_head, heard = not self.answered, self.has_head, self._heard
        self.answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.status == 101 and not self.is_malformed:
                self._is_tunnel = True
                self.passed = b"".join(self._lines)
                taker.switched_protocols(self, data[upgrade.args[0] :])
                return
            self.is_malformed = True
        except httptools.HttpParserError:
            self.is_malformed = True
        if had_head:
            # Of a line that doesn't end, a trailer or what a chunk says of itself, the parser tells only when it is whole.
            self._unheard_bytes = 0 if self._heard != heard else self._unheard_bytes + len(data)
            self.is_malformed = self.is_malformed or self._unheard_bytes > framing.MAX_HEAD_BYTES
        else:
            self._head_bytes += data.find(_END) if self.has_head else len(data)
            too_large = self._head_bytes > framing.MAX_HEAD_BYTES
            # Protocols are switched with an Upgrade header, on which the parser stops, or not at all.
            self.is_malformed = self.is_malformed or too_large or self.status == 101
        if self.is_malformed:
            # Behind a whole answer it is surplus: the answer stands, the connection doesn't.
            self.keeps_alive = False
            if not self.is_complete:
                self.close()
                taker.upstream_lost(answered=True, ended_by_close=False)
                return
        elif self._is_worth_keeping(data, is_first=is_first):
            assert self.length is not None  # noqa: S101
            head = AnswerHead(
                self.status,
                self.passed,
                self.length,
                self.content_type,
                self.coding,
                self.limits,
                keeps_alive=self.keeps_alive,
            )
            _KNOWN_HEADS.keep(data[: data.find(_END) + 4], head)
        # Behind a chunk only its own end can have come: anything more would have been the next one's beginning.
        self._between_chunks = self._chunk_ended and data.endswith(b"\r\n") and not self.is_complete
        if self.has_head:
            taker.progressed(self)

    def _is_worth_keeping(self, data: bytes, *, is_first: bool) -> bool:
        """Whether the bytes up to the first empty line are this head, whole and alone: no interim answer before it."""
        return (
            is_first
            and self.has_head
            and self.length is not None
            and not (self._is_framed or self._had_interim)
            and data.startswith(b"HTTP/1.")
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.remove(self)
        taker = self._taker
        self.drop_taker()
        if taker is not None:
            by_close = exc is None and self.has_head and self.length is None and not self._is_framed
            taker.upstream_lost(answered=self.answered, ended_by_close=by_close)

    def pause_writing(self) -> None:
        if self._taker is not None:
            self._taker.upstream_writable(False)

    def resume_writing(self) -> None:
        if self._taker is not None:
            self._taker.upstream_writable(True)

    # httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        kind = KINDS.get(name)
        if kind is None:
            kind = framing.kind_of(name)
        if self.has_head:
            # A trailer, or the head of an answer that nobody asked for.
            self.is_malformed = self.is_malformed or self.is_complete
        elif kind in (PASS, SUBPROTOCOLS, ACCEPT_CODING):
            self._lines += (name, b": ", value, b"\r\n")
        elif kind == LENGTH:
            # Two that differ end in the parser's error; a sign or a list would not.
            self.is_malformed = self.is_malformed or not value.isdigit() or len(value) > 15
            self.length = int(value) if value.isdigit() else 0
        elif kind == CONTENT_TYPE:
            self.content_type = value
            self._lines += (name, b": ", value, b"\r\n")
        elif kind == CONTENT_CODING:
            self.coding = self.coding + b", " + value.lower() if self.coding else value.lower()
            self._lines += (name, b": ", value, b"\r\n")
        elif kind == RATE_LIMIT:
            # For where the gateway has none of its own to tell.
            self.limits += b"%b: %b\r\n" % (name, value)
        elif kind == SET_COOKIE:
            # Gateway and console may share a host: no instance signs anybody in or out there.
            # One without a name is sent back by what it says.
            if not value.lstrip(b"= \t").startswith(framing.OWN_COOKIES):
                self._lines += (name, b": ", value, b"\r\n")
        elif kind == CODING:
            # An instance is asked for no other coding, and without it the body could not be read.
            self.is_malformed = self.is_malformed or value.lower() != b"chunked"
            self._is_framed = True
        elif kind == CONNECTION and value not in (b"keep-alive", b"close"):
            self._named = {item.strip().lower() for item in value.split(b",")}

    def on_headers_complete(self) -> None:
        if self.has_head:
            self.is_malformed = True
            return
        self.status = status = self._parser.get_status_code()
        if status < 200 or status > 599:
            # An interim answer is not the answer; only the one that switches protocols ends in HttpParserUpgrade.
            self.is_malformed = self.is_malformed or not 100 <= status <= 199
            self._had_interim = True
            if status != 101:
                self._lines, self.length, self.content_type, self._named = [], None, b"", None
                self.coding = self.limits = b""
            return
        if self._named:
            framing.drop_named(self._lines, self._named)
        self.passed = b"".join([framing.status_line(status), *self._lines])
        self._is_framed = self._is_framed or status in framing.NO_BODY_STATUS
        self.keeps_alive = self._parser.should_keep_alive()
        self.has_head = True

    def on_body(self, body: bytes) -> None:
        if self.is_complete:
            self.is_malformed = True
        elif self.has_head:
            self._heard += 1
            self.body.append(body)

    def on_chunk_header(self) -> None:
        self._chunk_ended = False

    def on_chunk_complete(self) -> None:
        self._chunk_ended = True

    def on_message_complete(self) -> None:
        if self.has_head:
            self.is_complete = True


class Pool:
    """Idle connections by instance. Reused ones may have been closed by the other side in the same moment."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, most_idle: int) -> None:
        self._loop = loop
        self._most_idle = most_idle
        self._idle_count = 0
        self._idle: dict[str, list[UpstreamConnection]] = {}

    def reuse(self, address: Address, now: float) -> UpstreamConnection | None:
        """The most recently used idle connection, None when there is none."""
        connections = self._idle.get(address.uid)
        while connections:
            connection = connections.pop()
            self._idle_count -= 1
            if connection.address is not address:
                # The directory was read anew, or the cluster is reached another way now.
                if connection.address != address:
                    connection.close()
                    continue
                connection.address = address
            if now - connection.idle_since < IDLE_S and not connection.transport.is_closing():
                connection.reused = True
                return connection
            connection.close()
        return None

    async def connect(self, address: Address) -> UpstreamConnection:
        """A fresh connection. Raises OSError, also when it takes longer than CONNECT_S."""
        server = address.api_server
        async with asyncio.timeout(CONNECT_S):
            _, connection = await self._loop.create_connection(
                lambda: UpstreamConnection(self, address),
                address.host,
                address.port,
                ssl=server.tls if server else None,
                server_hostname=server.tls_name if server else None,
            )
        return connection

    def settle(self, connection: UpstreamConnection, now: float, *, keeps_alive: bool) -> None:
        """Keep a connection whose exchange is over, if nothing of it is left in either direction; else end it."""
        transport = connection.transport
        if not keeps_alive or transport.is_closing() or transport.get_write_buffer_size():
            connection.close()
            return
        connections = self._idle.get(connection.address.uid)
        if connections is None:
            connections = self._idle[connection.address.uid] = []
        if len(connections) >= IDLE_PER_INSTANCE or self._idle_count >= self._most_idle:
            connection.close()
            return
        self._idle_count += 1
        connection.rest(now)
        connections.append(connection)

    def remove(self, connection: UpstreamConnection) -> None:
        connections = self._idle.get(connection.address.uid)
        if connections and connection in connections:
            connections.remove(connection)
            self._idle_count -= 1

    def close_idle(self, now: float, *, everything: bool = False) -> None:
        """Close what has been idle for too long. Called once a second."""
        for uid, connections in list(self._idle.items()):
            kept = [] if everything else [item for item in connections if now - item.idle_since < IDLE_S]
            if len(kept) == len(connections):
                continue
            stale = set(connections) - set(kept)
            self._idle_count -= len(stale)
            if kept:
                self._idle[uid] = kept
            else:
                del self._idle[uid]
            for connection in stale:
                connection.close()
