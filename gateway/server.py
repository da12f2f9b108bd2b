"""The gateway's client side: one protocol object per connection."""

import asyncio
import time
from collections import deque
from typing import cast

import httptools

from gateway import framing
from gateway.core import Gateway
from gateway.errors import REASONS, GatewayError, bad_request
from gateway.exchange import Exchange
from gateway.framing import Headers

WRITE_LIMIT = 64 << 10
LINGER_S = 2.0


class ClientConnection(asyncio.Protocol):
    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.transport: asyncio.Transport
        self._exchanges: deque[Exchange] = deque()
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._headers: Headers = []
        self._head_bytes = 0
        self._trailer_bytes = self._left = 0
        self._in_head = False
        self._closing = self._lingering = self._writable = False
        self.deadline = time.monotonic() + gateway.timeouts.header_s

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_LIMIT)
        self._writable = True
        self.gateway.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gateway.connections.discard(self)
        for exchange in self._exchanges:
            exchange.client_lost()
        self._exchanges.clear()

    def eof_received(self) -> bool:
        # A client that closes its half has gone: keeping the answer running would burn the model for nobody.
        return False

    def data_received(self, data: bytes) -> None:
        if self._lingering or self._closing:
            return
        if not self._exchanges or self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(GatewayError(501, "upgrade_unsupported", "Upgrades of the connection are not supported."))
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, GatewayError) else bad_request("The request could not be read."))
        except httptools.HttpParserError:
            self._refuse(bad_request("The request is not valid HTTP/1.1."))
        if self._in_head and self._head_bytes > framing.MAX_HEAD_BYTES:
            self._refuse(
                GatewayError(
                    431, "head_too_large", f"The head of a request has at most {framing.MAX_HEAD_BYTES >> 10} KiB."
                )
            )
        if len(self._exchanges) > 1:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self._writable = False
        if self._exchanges:
            self._exchanges[0].client_writable(False)

    def resume_writing(self) -> None:
        self._writable = True
        if self._exchanges:
            self._exchanges[0].client_writable(True)

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._path, self._headers, self._in_head = b"", [], True
        self._trailer_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self._headers.append((name.lower(), value))
            return
        # A trailer: dropped, and bounded like a head.
        self._trailer_bytes += len(name) + len(value)
        if self._trailer_bytes > framing.MAX_HEAD_BYTES:
            raise GatewayError(431, "head_too_large", "The trailers of the request are too large.")

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        if self._closing or self._lingering or self.transport.is_closing():
            # It came in one packet with a request that ended this connection: it must not be executed.
            return
        exchange = Exchange(
            self,
            self._parser.get_method(),
            self._path,
            self._headers,
            version=self._parser.get_http_version(),
            keep_alive=self._parser.should_keep_alive(),
        )
        self._exchanges.append(exchange)
        if len(self._exchanges) == 1 and exchange.announces_body:
            exchange.begin()

    def on_body(self, body: bytes) -> None:
        if self._exchanges:
            self._exchanges[-1].request_body(body)

    def on_message_complete(self) -> None:
        if not self._exchanges:
            return
        exchange = self._exchanges[-1]
        exchange.request_complete()
        if len(self._exchanges) == 1 and not exchange.announces_body:
            exchange.begin()

    # For the exchange

    def write(self, data: bytes) -> None:
        if data and not self._lingering and not self.transport.is_closing():
            self.transport.write(data)

    def abort(self) -> None:
        self.transport.abort()

    def pause_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.transport.is_closing() and len(self._exchanges) <= 1:
            self.transport.resume_reading()

    def finish_exchange(self, exchange: Exchange, data: bytes) -> None:
        """Write the end of an answer and turn to the next request, or close."""
        self.write(data)
        if not self._exchanges or self._exchanges[0] is not exchange:
            return
        self.deadline = time.monotonic() + self.gateway.timeouts.keep_alive_s
        if not exchange.keep_alive or self.gateway.draining:
            self._close(drained=exchange.request_done)
            return
        if exchange.request_done:
            self._exchanges.popleft()
        self.resume_reading()
        if self._exchanges and exchange.request_done:
            self.gateway.loop.call_soon(self._begin_next)

    def check_deadline(self, now: float) -> None:
        """Called once a second."""
        current = self._exchanges[0] if self._exchanges else None
        if current is not None and not current.done:
            if current.deadline < now:
                current.on_deadline()
        elif self.deadline < now:
            self._abort_if_stuck(now)

    def _abort_if_stuck(self, now: float) -> None:
        """A client that still takes what is left of its answer may go on."""
        left = self.transport.get_write_buffer_size()
        if left and left != self._left:
            self._left, self.deadline = left, now + self.gateway.timeouts.body_idle_s
        else:
            self.transport.abort()

    @property
    def is_writable(self) -> bool:
        return self._writable

    @property
    def is_idle(self) -> bool:
        return not self._exchanges

    def _begin_next(self) -> None:
        if self._exchanges and not self.transport.is_closing():
            self._exchanges[0].begin()

    def _refuse(self, error: GatewayError) -> None:
        """Answer what can't be parsed; behind an answer that is still running there is only closing."""
        if self._lingering or self._closing or self.transport.is_closing():
            return
        if self._exchanges and not self._exchanges[0].done:
            current = self._exchanges[0]
            if current.request_done:
                current.keep_alive = False
                self._closing = True
                return
            current.keep_alive = False
            current.fail(error)
            return
        body = error.body("-")
        lines = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        self.write(framing.response_head(error.status, REASONS[error.status], lines, chunked=False, close=True) + body)
        self._close(drained=False)

    def _close(self, *, drained: bool) -> None:
        """Close; while the client may still be sending, only our half, else it would lose the answer to a reset."""
        self._exchanges.clear()
        if drained or self.transport.is_closing():
            self.transport.close()
            return
        self._lingering = True
        self.deadline = time.monotonic() + LINGER_S
        self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
