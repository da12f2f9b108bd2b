"""The gateway's client side: one protocol object per connection."""

import asyncio
from time import monotonic
from typing import cast

import httptools

from gateway import framing
from gateway.core import Gateway
from gateway.errors import GatewayError, bad_request
from gateway.exchange import Exchange
from gateway.framing import KINDS, PASS, HeadMemory, RequestHead

WRITE_LIMIT = 64 << 10
# What a client may send ahead of an answer before it is read no further.
AHEAD_LIMIT = 64 << 10
LINGER_S = 2.0
_END = b"\r\n\r\n"
_KNOWN_HEADS: HeadMemory[RequestHead] = HeadMemory()


class ClientConnection(asyncio.Protocol):
    """Reads one request at a time: what comes behind one that is still being answered waits unread in `_ahead`."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.transport: asyncio.Transport
        self.is_writable = True
        self.deadline = monotonic() + gateway.timeouts.header_s
        self._exchange: Exchange | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._passed: list[bytes] = []
        self._special: list[tuple[int, bytes, bytes]] = []
        self._head: RequestHead | None = None
        self._in_body = self._counts_body = False
        # Of a body whose length is known: how much of it is still to come. -1 while it comes in chunks.
        self._body_left = 0
        # Bytes of the running head or of trailers; the last bytes fed, where an end may lie across two reads.
        self._head_bytes = 0
        self._tail = b""
        self._ahead = b""
        self._left_to_write = 0
        self._closing = self._lingering = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_LIMIT)
        self.gateway.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gateway.connections.discard(self)
        if self._exchange is not None:
            self._exchange.client_lost()
            self._exchange = None

    def eof_received(self) -> bool:
        # A client that closes its half has gone: keeping the answer running would burn the model for nobody.
        return False

    def data_received(self, data: bytes) -> None:
        if self._lingering or self._closing:
            return
        exchange = self._exchange
        if exchange is None or not exchange.request_done:
            self._feed(data)
        elif exchange.is_tunnel:
            exchange.client_data(data)
        else:
            self._ahead += data
            if len(self._ahead) > AHEAD_LIMIT:
                self.transport.pause_reading()

    def pause_writing(self) -> None:
        self.is_writable = False
        if self._exchange is not None:
            self._exchange.client_writable(False)

    def resume_writing(self) -> None:
        self.is_writable = True
        if self._exchange is not None:
            self._exchange.client_writable(True)

    # Parsing

    def _feed(self, data: bytes) -> None:
        """Read up to the end of one request; the rest waits for its answer."""
        while data:
            end = self._end_of_piece(data)
            piece = data if end >= len(data) else data[:end]
            if self._in_body:
                if self._counts_body:
                    self._count_body(piece)
                elif not self._parse(piece):
                    return
            elif (self._head_bytes or not self._begin_known(piece)) and not self._parse_head(piece):
                return
            exchange = self._exchange
            if exchange is None and self._head_bytes and self._head_is_late(len(piece)):
                return
            if end >= len(data):
                return
            data = data[end:]
            if exchange is not None and exchange.request_done:
                if exchange.is_tunnel:
                    exchange.client_data(data)
                else:
                    self._ahead = data
                return

    def _head_is_late(self, came: int) -> bool:
        """A part of a head is here: it may be neither too large nor too slow."""
        if self._head_bytes == came:
            self.deadline = monotonic() + self.gateway.timeouts.header_s
        if self._head_bytes <= framing.MAX_HEAD_BYTES:
            return False
        self._refuse(_head_too_large())
        return True

    def _begin_known(self, raw: bytes) -> bool:
        """Take the head's meaning from memory, if these bytes have been read before."""
        head = _KNOWN_HEADS.get(raw)
        if head is None:
            return False
        self._counts_body = True
        self._begin(head)
        if not head.length:
            self.on_message_complete()
        return True

    def _begin(self, head: RequestHead) -> None:
        if self.transport.is_closing():
            return
        self._in_body = True
        self._body_left = head.length or 0
        self._exchange = exchange = Exchange(self, head)
        if head.length:
            exchange.begin()

    def _count_body(self, data: bytes) -> None:
        """A body of known length needs no parser. The exchange may be gone: it was answered before its end."""
        self._body_left -= len(data)
        if self._exchange is not None:
            self._exchange.request_body(data)
        if not self._body_left:
            self.on_message_complete()

    def _end_of_piece(self, data: bytes) -> int:
        """Where reading has to stop to see at most one request: behind an empty line, or with the body."""
        if self._in_body and self._body_left >= 0:
            return self._body_left
        tail = self._tail
        if not tail:
            found = data.find(_END)
            if found >= 0:
                return found + 4
        else:
            found = (tail + data[:4]).find(_END)
            if found >= 0:
                self._tail = b""
                return found + 4 - len(tail)
            found = data.find(_END)
            if found >= 0:
                self._tail = b""
                return found + 4
        self._tail = (tail + data)[-3:]
        return len(data)

    def _parse_head(self, piece: bytes) -> bool:
        """Feed a piece of a head. One that came whole is remembered."""
        came_whole = not self._head_bytes
        self._head_bytes += len(piece)
        self._head = None
        self._counts_body = False
        if not self._parse(piece):
            return False
        head = self._head
        if (
            came_whole
            and head is not None
            and head.length != -1
            and not head.websocket
            and piece.find(_END) == len(piece) - 4
        ):
            _KNOWN_HEADS.keep(piece, head)
        return True

    def _parse(self, piece: bytes) -> bool:
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            # Behind a websocket's request the parser stops; any other upgrade has been refused with the head.
            if self._exchange is None or not self._exchange.is_tunnel:
                self._refuse(bad_request("The connection can't be upgraded."))
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, GatewayError) else bad_request("The request could not be read."))
        except httptools.HttpParserError:
            self._refuse(bad_request("The request is not valid HTTP/1.1."))
        return not (self._closing or self._lingering)

    # httptools callbacks

    def on_url(self, url: bytes) -> None:
        self._url = self._url + url if self._url else url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            # A trailer: dropped, and bounded like a head.
            self._head_bytes += len(name) + len(value)
            if self._head_bytes > framing.MAX_HEAD_BYTES:
                raise _head_too_large()
            return
        kind = KINDS.get(name)
        if kind is None:
            kind = framing.kind_of(name)
        if kind == PASS:
            self._passed += (name, b": ", value, b"\r\n")
        elif kind != framing.HOP:
            self._special.append((kind, name, value))

    def on_headers_complete(self) -> None:
        if self._exchange is not None:
            raise bad_request("A request began inside another one.")
        if self._head_bytes > framing.MAX_HEAD_BYTES:
            raise _head_too_large()
        parser = self._parser
        self._head = head = framing.read_head(
            parser.get_method(), self._url, self._passed, self._special,
            is_1_0=parser.get_http_version() != "1.1", keep_alive=parser.should_keep_alive(),
        )  # fmt: skip
        self._url, self._passed, self._special = b"", [], []
        self._head_bytes = 0
        self._begin(head)

    def on_body(self, body: bytes) -> None:
        if self._body_left > 0:
            self._body_left -= len(body)
        if self._exchange is not None:
            self._exchange.request_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self._head_bytes = 0
        self._tail = b""
        if self._exchange is not None:
            self._exchange.request_complete()

    # For the exchange

    def write(self, data: bytes) -> None:
        if not self._lingering and not self.transport.is_closing():
            self.transport.write(data)

    def abort(self) -> None:
        self.transport.abort()

    def pause_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def finish_exchange(self, exchange: Exchange, data: bytes, now: float) -> None:
        """Write the end of an answer and turn to the next request, or close."""
        if data and not self._lingering and not self.transport.is_closing():
            self.transport.write(data)
        if self._exchange is not exchange:
            return
        self.deadline = now + self.gateway.timeouts.keep_alive_s
        self._exchange = None
        if not exchange.keep_alive or not exchange.request_done or self.gateway.draining:
            self._close(drained=exchange.request_done)
        elif self._ahead:
            # Not from here: a client that sends thousands of requests ahead would nest as many calls.
            self.gateway.loop.call_soon(self._feed_ahead)

    def _feed_ahead(self) -> None:
        if self._exchange is None and not self._closing and not self.transport.is_closing():
            data, self._ahead = self._ahead, b""
            self.resume_reading()
            self._feed(data)

    # Deadlines and ends

    def check_deadline(self, now: float) -> None:
        """Called once a second."""
        current = self._exchange
        if current is not None:
            current.check_deadline(now)
        elif self.deadline < now:
            self._end_idle(now)

    def _end_idle(self, now: float) -> None:
        left = self.transport.get_write_buffer_size()
        if left and left != self._left_to_write:
            # It still takes what is left of its answer, and may go on.
            self._left_to_write, self.deadline = left, now + self.gateway.timeouts.body_idle_s
        elif self._head_bytes and not self._lingering and not left:
            self._refuse(GatewayError(408, "header_timeout", "The head of the request did not arrive in time."))
        else:
            self.transport.abort()

    @property
    def is_idle(self) -> bool:
        return self._exchange is None

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
        lines = [(b"content-type", b"application/json")]
        self.write(framing.own_answer(error.status, lines, error.body("-"), close=True))
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


def _head_too_large() -> GatewayError:
    limit = framing.MAX_HEAD_BYTES >> 10
    return GatewayError(431, "head_too_large", f"The head of a request has at most {limit} KiB.")
