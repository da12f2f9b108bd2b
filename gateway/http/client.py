"""The gateway's client side: one protocol object per connection."""

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from time import monotonic
from typing import Protocol, cast

import httptools
import orjson

from gateway.errors import GatewayError, bad_request, internal
from gateway.http import framing, half_closed
from gateway.http.bounds import Timeouts
from gateway.http.credentials import KEY, TOKEN
from gateway.http.crowd import Crowd
from gateway.http.framing import KINDS, PASS, HeadMemory, RequestHead

log = logging.getLogger(__name__)

WRITE_LIMIT = 64 << 10
# What a client may send ahead of an answer before it is read no further.
AHEAD_LIMIT = 64 << 10
LINGER_S = 2.0
_END = b"\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)
_BEFORE_CHUNKS = b"POST / HTTP/1.1\r\nHost: -\r\nTransfer-Encoding: chunked\r\n\r\n"
_KNOWN_HEADS: HeadMemory[RequestHead] = HeadMemory()


class House(Protocol):
    """What all connections of a process share."""

    loop: asyncio.AbstractEventLoop
    timeouts: Timeouts
    connections: "Crowd[ClientConnection]"
    draining: bool

    def counted_address(self, peer: str) -> str: ...


class Exchange(Protocol):
    """One request and its answer. It ends with `ClientConnection.finish_exchange` or `abort`.

    `is_tunnel`: what comes behind the request's head isn't HTTP. `is_queuing`: the request is being stored, or was and
    its sender hasn't been told yet. `admitted_deployment`: in whose books it is in flight.
    """

    request_done: bool
    keep_alive: bool

    @property
    def is_tunnel(self) -> bool: ...
    @property
    def is_queuing(self) -> bool: ...
    @property
    def admitted_deployment(self) -> int | None: ...
    def begin(self, body: bytes = b"") -> None: ...
    def request_body(self, data: bytes) -> None: ...
    def request_complete(self) -> None: ...
    def client_data(self, data: bytes) -> None: ...
    def client_writable(self, writable: bool) -> None: ...
    def client_lost(self) -> None: ...
    def client_half_closed(self) -> None: ...
    def check_deadline(self, now: float) -> None: ...
    def fail(self, error: GatewayError) -> None: ...


class Finished(Protocol):
    """An exchange that is over, as far as the next one depends on it."""

    request_done: bool
    keep_alive: bool


class ClientConnection(asyncio.Protocol):
    """Reads one request at a time: what comes behind one that is still being answered waits unread in `_ahead`."""

    def __init__(self, house: House, open_exchange: "Callable[[ClientConnection, RequestHead], Exchange]") -> None:
        self.house = house
        self._open_exchange = open_exchange
        self.transport: asyncio.Transport
        self.is_writable = True
        self.came_at = monotonic()
        # Who opened the connection, and to which address it is counted.
        self.peer = self.address = ""
        self._url = b""
        self.deadline = monotonic() + house.timeouts.header_s
        self._exchange: Exchange | None = None
        # A head that has not come whole.
        self._held = bytearray()
        # The head that came last, whole: the next one on a connection is mostly the same, to the letter.
        self._last_raw = b""
        self._last_head: RequestHead | None = None
        self._head: RequestHead | None = None
        self._passed: list[bytes] = []
        self._special: list[tuple[int, bytes, bytes]] = []
        self._holds_ours = self._has_stopped = False
        # Reads a body that comes in chunks; other bodies are counted.
        self._parser: httptools.HttpRequestParser | None = None
        self._in_body = False
        self._body_left = 0
        # In chunks: the last bytes read, where an end may lie across two reads, and how many trailers came.
        self._tail = b""
        self._trailer_bytes = self._unheard_bytes = self._body_events = 0
        # Of one read: what came of a body, and whether its end was there.
        self._pieces: list[bytes] = []
        self._completes = False
        self._ahead = b""
        self._left_to_write = 0
        self._closing = self._lingering = False
        # By an exchange, which had nowhere to put what came.
        self._is_paused = False
        # The client sends nothing any more; what it sent ahead is being read.
        self._has_eof = self._is_feeding = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_LIMIT)
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if peer else ""
        self.address = self.house.counted_address(self.peer)
        refusal = self.house.connections.admit(self)
        if refusal is not None:
            # Without waiting for what it sends: there is no room for it.
            self._closing = True
            self.transport.write(_answer_to_all(refusal))
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.house.connections.leave(self)
        if self._exchange is not None:
            self._exchange.client_lost()
            self._exchange = None

    def eof_received(self) -> bool:
        """Who closes only the sending half still gets what was asked for; whether to keep the transport."""
        exchange = self._exchange
        is_whole = exchange is not None and exchange.request_done and not exchange.is_tunnel
        if not (is_whole or (exchange is None and self._ahead)):
            return False
        self._has_eof = True
        if exchange is not None:
            exchange.client_half_closed()
            for after in half_closed.LOOK_S:
                self.house.loop.call_later(after, self._end_if_gone)
        return True

    def _end_if_gone(self) -> None:
        # Else the answer would burn the model for nobody.
        if not self.transport.is_closing() and half_closed.has_gone(self.transport):
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            self._receive(data)
        except Exception:
            # Whatever it is: one request must not take the connection's others, or its own end, with it.
            log.exception("a request could not be read")
            self._refuse(internal())

    def _receive(self, data: bytes) -> None:
        if self._lingering or self._closing:
            return
        exchange = self._exchange
        waits = exchange is not None and exchange.request_done and not exchange.is_tunnel
        if self._ahead or waits or (exchange is None and not self.is_writable):
            # Behind what waits already, be it only until the loop's next turn; and nobody who takes no answers gets more.
            self._ahead += data
            if len(self._ahead) > AHEAD_LIMIT:
                self.transport.pause_reading()
        elif exchange is None and not self._in_body:
            data = self._take_head(data)
            if data:
                self._feed(data)
        else:
            self._feed(data)

    def pause_writing(self) -> None:
        self.is_writable = False
        if self._exchange is not None:
            self._exchange.client_writable(False)

    def resume_writing(self) -> None:
        self.is_writable = True
        if self._exchange is not None:
            self._exchange.client_writable(True)
        elif self._ahead:
            self._feed_ahead()

    # Reading

    def _feed(self, data: bytes) -> None:
        """Read up to the end of one request; the rest waits for its answer."""
        while data and not (self._closing or self._lingering):
            exchange = self._exchange
            if exchange is None and not self._in_body and not self.is_writable:
                # Nobody who takes no answers gets more, however many requests are here already.
                self._ahead = data
                return
            if exchange is not None and exchange.request_done:
                if exchange.is_tunnel:
                    exchange.client_data(data)
                else:
                    self._ahead = data
                return
            if not self._in_body:
                data = self._take_head(data)
            elif self._parser is None:
                data = self._count_body(data)
            else:
                data = self._parse_chunks(data, self._parser)

    def _take_head(self, data: bytes) -> bytes:
        """Read a head once it is whole; what came behind it."""
        last = self._last_raw
        if last and data.startswith(last) and not self._held:
            return self._begin(self._last_head, data, len(last))  # type: ignore[arg-type]
        held = self._held
        if held:
            # Only what is new is looked at: a head may come byte by byte.
            searched = max(0, len(held) - 3)
            held += data
            end = held.find(_END, searched) + 4
            if end < 4:
                self._check_held(searched)
                return b""
            data = bytes(held)
            held.clear()
        else:
            end = data.find(_END) + 4
            if end < 4:
                self.deadline = monotonic() + self.house.timeouts.header_s
                held += data
                self._check_held(0)
                return b""
        raw = data if end == len(data) else data[:end]
        head = _KNOWN_HEADS.get(raw)
        if head is None:
            head = self._read_head(raw)
        else:
            self._last_raw, self._last_head = raw, head
        return data[end:] if head is None else self._begin(head, data, end)

    def _check_held(self, since: int) -> None:
        """A part of a head is here: it may be neither too large nor too slow, and must look like one."""
        held = self._held
        if len(held) > framing.MAX_HEAD_BYTES:
            self._refuse(_head_too_large())
        elif not framing.looks_like_head(held, since):
            self._refuse(
                bad_request("The request is not HTTP/1.1: it begins with a method, and its lines end with CR LF.")
            )

    def _read_head(self, raw: bytes) -> RequestHead | None:
        """What a whole head means; None when it had to be refused. Two readers must agree that it is sound."""
        self._head, self._passed, self._special = None, [], []
        self._parser = httptools.HttpRequestParser(self)
        self._has_stopped = False
        self._holds_ours = KEY in raw or TOKEN in raw
        if raw == framing.HTTP_2_PREFACE:
            self.write(framing.HTTP_1_1_REQUIRED)
            self._close(drained=False)
        elif len(raw) > framing.MAX_HEAD_BYTES:
            self._refuse(_head_too_large())
        elif not framing.STRICT_HEAD.fullmatch(raw):
            self._refuse(bad_request("The head of the request is not valid HTTP/1.1."))
        else:
            self._parse(self._parser, raw)
        head = self._head
        if head is None or self._closing or self._lingering:
            return None
        if head.length == -1 and self._has_stopped:
            # Another one reads the chunks.
            self._parser, self._passed, self._special = httptools.HttpRequestParser(self), [], []
            self._parse(self._parser, _BEFORE_CHUNKS)
        if head.length != -1:
            self._parser = None
            if not head.websocket:
                _KNOWN_HEADS.keep(raw, head)
                if len(raw) <= HeadMemory.LONGEST:
                    self._last_raw, self._last_head = raw, head
        return head

    def _begin(self, head: RequestHead, data: bytes, end: int) -> bytes:
        """Open an exchange; what comes behind its head, or behind its body where that has come with it, from `end` on."""
        if self.transport.is_closing():
            return b""
        self._exchange = exchange = self._open_exchange(self, head)
        length = head.length
        if not length:
            self._parser = None
            exchange.request_done = True
            exchange.begin()
        elif 0 < length <= len(data) - end:
            exchange.request_done = True
            exchange.begin(data[end : end + length])
            end += length
        else:
            self._in_body = True
            self._body_left = length
            exchange.begin()
        return data[end:]

    def _count_body(self, data: bytes) -> bytes:
        """Hand on a body of known length; what came behind it. Nobody may take it any more: it was answered before."""
        left = self._body_left
        rest = data[left:] if len(data) > left else b""
        part = data[:left] if rest else data
        self._body_left = left - len(part)
        exchange = self._exchange
        if exchange is not None:
            exchange.request_body(part)
        if not self._body_left:
            self._in_body = False
            if exchange is not None:
                exchange.request_complete()
        return rest

    def _parse_chunks(self, data: bytes, parser: httptools.HttpRequestParser) -> bytes:
        """Hand on a part of a body in chunks; what came behind it.

        The parser would read on into the next request, so it gets no more at a time than what can end one: up to an empty
        line, of which a body may hold any number.
        """
        view, start, tail = memoryview(data), 0, self._tail
        if tail:
            # An end may lie across two reads.
            across = (tail + data[:3]).find(_END)
            if across >= 0:
                start = across + 4 - len(tail)
                self._feed_chunks(parser, view[:start])
        while start < len(data) and self._parser is parser and not (self._closing or self._lingering):
            end = data.find(_END, start) + 4
            if end < 4:
                end = len(data)
            self._feed_chunks(parser, view[start:end])
            start = end
        self._hand_on()
        if self._parser is parser:
            self._tail = data[-3:] if len(data) >= 3 else (tail + data)[-3:]
        elif self._completes:
            self._completes = False
            if self._exchange is not None:
                self._exchange.request_complete()
        return data[start:]

    def _feed_chunks(self, parser: httptools.HttpRequestParser, piece: memoryview) -> None:
        """What the parser holds back of a line that doesn't end has a bound: it tells of a line only when it is whole."""
        before = self._body_events
        self._parse(parser, piece)
        self._unheard_bytes = 0 if self._body_events != before else self._unheard_bytes + len(piece)
        if self._unheard_bytes > framing.MAX_HEAD_BYTES:
            self._refuse(_head_too_large())

    def _hand_on(self) -> None:
        """What came of a body in one read goes on at once: it may have come in a piece for each byte."""
        pieces, self._pieces = self._pieces, []
        if pieces and self._exchange is not None:
            self._exchange.request_body(b"".join(pieces) if len(pieces) > 1 else pieces[0])

    def _parse(self, parser: httptools.HttpRequestParser, data: bytes | memoryview) -> None:
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The parser takes any offer of another protocol for the end of HTTP. Here only a websocket's is one.
            self._has_stopped = True
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, GatewayError) else bad_request("The request could not be read."))
        except httptools.HttpParserError:
            self._refuse(bad_request("The request is not valid HTTP/1.1."))

    # httptools callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            # A trailer: dropped, and bounded like a head.
            self._trailer_bytes += len(name) + len(value)
            if self._trailer_bytes > framing.MAX_HEAD_BYTES:
                raise _head_too_large()
            return
        kind = KINDS.get(name)
        if kind is None:
            kind = framing.kind_of(name)
        if kind == PASS:
            self._passed += (name, b": ", value, b"\r\n")
        elif kind != framing.HOP:
            self._special.append((kind, name, value))

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_headers_complete(self) -> None:
        parser = cast(httptools.HttpRequestParser, self._parser)
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise GatewayError(505, "http_version", "Only HTTP/1.1 and HTTP/1.0 are understood.")
        self._head = framing.read_head(
            parser.get_method(), self._url, self._passed, self._special,
            is_1_0=version == "1.0", keep_alive=parser.should_keep_alive(), holds_ours=self._holds_ours,
        )  # fmt: skip

    def on_body(self, body: bytes) -> None:
        self._body_events += 1
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        if not self._in_body:
            return
        self._in_body = False
        self._parser, self._tail, self._trailer_bytes, self._unheard_bytes = None, b"", 0, 0
        # The exchange is told once it has what came with the end.
        self._completes = True

    # For the exchange

    def write(self, data: bytes) -> None:
        if not self._lingering and not self.transport.is_closing():
            self.transport.write(data)

    def abort(self) -> None:
        self.transport.abort()

    def cut(self, *, hard: bool) -> None:
        """End it behind what has been written, though the answer is not whole. `hard` where its end would else pass for one."""
        self._exchange, self._closing = None, True
        if hard and (found := self.transport.get_extra_info("socket")) is not None:
            # A reset instead of an end (RFC 9112, 9.6: a torn answer must not look whole).
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.close()

    def pause_reading(self) -> None:
        self._is_paused = True
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        self._is_paused = False
        if not (self._has_eof or self.transport.is_closing()):
            self.transport.resume_reading()

    def finish_exchange(self, exchange: Finished, data: bytes, now: float) -> None:
        """Write the end of an answer and turn to the next request, or close."""
        if data and not self._lingering and not self.transport.is_closing():
            self.transport.write(data)
        if self._exchange is not exchange:
            return
        self.deadline = now + self.house.timeouts.keep_alive_s
        self._exchange = None
        ends = self.house.draining or (self._has_eof and not (self._ahead or self._is_feeding))
        if ends or not exchange.keep_alive or not exchange.request_done:
            self._close(drained=exchange.request_done)
            return
        if self._is_paused:
            # By a body that was held up while its way was made ready.
            self.resume_reading()
        if self._ahead and self.is_writable:
            # Not from here: a client that sends thousands of requests ahead would nest as many calls.
            self.house.loop.call_soon(self._feed_ahead)

    def _feed_ahead(self) -> None:
        if self._exchange is None and not self._closing and not self.transport.is_closing():
            data, self._ahead = self._ahead, b""
            self.resume_reading()
            self._is_feeding = True
            try:
                self._feed(data)
            finally:
                self._is_feeding = False
            if self._has_eof and not self._ahead:
                self._end_behind_eof()

    def _end_behind_eof(self) -> None:
        """Nothing more will come: of a request that isn't whole the rest is missing for good."""
        if self._exchange is None and not self._held:
            self.transport.close()
        elif self._exchange is None or not self._exchange.request_done:
            self.transport.abort()

    # Deadlines and ends

    def check_deadline(self, now: float) -> None:
        """Called once a second."""
        current = self._exchange
        if self._has_eof:
            self._end_if_gone()
        if current is not None:
            current.check_deadline(now)
        elif self.deadline < now:
            self._end_idle(now)

    def _end_idle(self, now: float) -> None:
        left = self.transport.get_write_buffer_size()
        if left and left != self._left_to_write:
            # It still takes what is left of its answer, and may go on.
            self._left_to_write, self.deadline = left, now + self.house.timeouts.body_idle_s
        elif self._held and not self._lingering and not left:
            self._refuse(GatewayError(408, "header_timeout", "The head of the request did not arrive in time."))
        else:
            self.transport.abort()

    @property
    def is_idle(self) -> bool:
        return self._exchange is None

    @property
    def is_queuing(self) -> bool:
        return self._exchange is not None and self._exchange.is_queuing

    @property
    def admitted_deployment(self) -> int | None:
        return self._exchange.admitted_deployment if self._exchange is not None else None

    def _refuse(self, error: GatewayError) -> None:
        """Answer what can't be parsed; behind an answer that has begun there is only closing."""
        if self._lingering or self._closing or self.transport.is_closing():
            return
        exchange = self._exchange
        if exchange is not None:
            exchange.keep_alive = False
            self._closing = exchange.request_done
            if not exchange.request_done:
                exchange.fail(error)
            return
        self.write(_answer_to_all(error))
        self._close(drained=False)

    def _close(self, *, drained: bool) -> None:
        """Close; while the client may still be sending, only our half, else it would lose the answer to a reset."""
        self._exchange = None
        if drained or self.transport.is_closing():
            self.transport.close()
            return
        self._lingering = True
        self.deadline = monotonic() + LINGER_S
        self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()


def _answer_to_all(error: GatewayError) -> bytes:
    """The answer to what is no request, or not yet."""
    lines = [(b"content-type", b"application/json")]
    if error.retry_after_s:
        lines.append((b"retry-after", b"%d" % error.retry_after_s))
    return framing.own_answer(error.status, lines, _body(error), close=True)


def _body(error: GatewayError) -> bytes:
    """What was sent can't be read, so nobody knows which API it was meant for."""
    told = {"message": error.message, "type": "invalid_request_error", "code": error.code, "request_id": "-"}
    return orjson.dumps({"error": told})


def _head_too_large() -> GatewayError:
    limit = framing.MAX_HEAD_BYTES >> 10
    return GatewayError(431, "head_too_large", f"The head of a request has at most {limit} KiB.")
