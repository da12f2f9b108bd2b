"""The way back: an instance's answer on its way to the client, its clocks and its token usage."""

from time import monotonic
from typing import TYPE_CHECKING

from gateway import api_server, framing
from gateway.upstream import UpstreamConnection
from gateway.usage import BodyUsage, StreamUsage, Tokens

if TYPE_CHECKING:
    from gateway.exchange import Exchange

_NO_TOKENS = Tokens()


class Answer:
    """Takes what an upstream connection reads and hands it on with one write per read.

    Times on the monotonic clock, 0 for what has not been. The exchange knows who asked and how it ends.
    """

    __slots__ = (
        "_chunked", "_client", "_connection", "_exchange", "_idle_s", "_paused_s", "_strips_usage", "_usage", "first_byte",
        "has_begun", "is_tunnel", "paused_at", "status",
    )  # fmt: skip

    def __init__(self, exchange: "Exchange", *, strips_usage: bool) -> None:
        self._exchange = exchange
        self._client = exchange.client
        self._idle_s = exchange.client.gateway.timeouts.stream_idle_s
        self._strips_usage = strips_usage
        self._connection: UpstreamConnection | None = None
        self._usage: BodyUsage | StreamUsage | None = None
        self.status = 0
        self.has_begun = self.is_tunnel = self._chunked = False
        self.first_byte = self.paused_at = self._paused_s = 0.0

    def expect_from(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        connection.take(self)

    def tokens(self, prompt_bytes: int) -> Tokens:
        return self._usage.tokens(prompt_bytes) if self._usage is not None else _NO_TOKENS

    def paused_until(self, now: float) -> float:
        """How long the client's slowness has held the answer up, in seconds."""
        return self._paused_s + (now - self.paused_at if self.paused_at else 0.0)

    def client_writable(self, writable: bool) -> None:
        """Back-pressure: while the client doesn't read, nothing is read from the instance, and no clock runs."""
        if self._connection is None:
            return
        now = monotonic()
        if writable:
            self._paused_s, self.paused_at = self.paused_until(now), 0.0
            self._connection.transport.resume_reading()
            self._exchange.deadline = now + self._idle_s
        else:
            self.paused_at = now
            self._connection.transport.pause_reading()

    # From the instance (AnswerTaker)

    def progressed(self, connection: UpstreamConnection) -> None:
        """One read brought head, body or end of the answer."""
        now = monotonic()
        self._exchange.deadline = now + self._idle_s
        if not self.has_begun and connection.address.api_server is not None and self._is_refusal(connection):
            return
        out = [] if self.has_begun else self._begin(connection)
        body = connection.body
        if body:
            if not self.first_byte:
                self.first_byte = now
            if self._usage is not None:
                body = [kept for data in body if (kept := self._usage.feed(data))]
            if self._chunked:
                for data in body:
                    out += (b"%x\r\n" % len(data), data, b"\r\n")
            else:
                out += body
            connection.body = []
        if connection.is_complete or self._exchange.head.method == b"HEAD":
            self._complete(connection, out, now)
        elif out:
            self._client.write(b"".join(out))

    def chunk_came(self, connection: UpstreamConnection, raw: bytes, start: int) -> None:
        """One whole chunk of a stream: `raw` is it as it came, fit to be handed on; its data begin at `start`."""
        usage = self._usage
        if not self._chunked or not self.first_byte:
            connection.body = [raw[start:-2]]
            self.progressed(connection)
        elif usage is None:
            self._client.write(raw)
        else:
            data = raw[start:-2]
            kept = usage.feed(data)
            if kept:
                self._client.write(raw if kept is data else framing.chunk(kept))

    def switched_protocols(self, connection: UpstreamConnection, rest: bytes) -> None:
        """The instance agreed to the websocket: from here on bytes pass unread."""
        exchange = self._exchange
        if not exchange.head.websocket:
            connection.close()
            self.upstream_lost(answered=True, ended_by_close=False)
            return
        self.status = 101
        self.has_begun = self.is_tunnel = True
        exchange.deadline = monotonic() + self._idle_s
        lines = b"connection: Upgrade\r\nupgrade: websocket\r\nx-request-id: %b\r\n\r\n" % exchange.request_id
        self._client.write(b"".join([framing.status_line(101), connection.passed, lines, rest]))
        exchange.tunnel_opened(connection)

    def tunnelled(self, data: bytes) -> None:
        self._exchange.deadline = monotonic() + self._idle_s
        self._client.write(data)

    def upstream_writable(self, writable: bool) -> None:
        self._exchange.upstream_writable(writable)

    def upstream_lost(self, *, answered: bool, ended_by_close: bool) -> None:
        connection, self._connection = self._connection, None
        exchange = self._exchange
        if exchange.done:
            return
        if self.is_tunnel:
            exchange.complete(b"", monotonic())
        elif ended_by_close:
            self._complete(None, [], monotonic())
        else:
            exchange.upstream_lost(was_idle=connection is not None and connection.reused and not answered)

    def _is_refusal(self, connection: UpstreamConnection) -> bool:
        """Whether an API server has spoken for the instance, or may have: then the rest of it is awaited."""
        if not api_server.may_be_refusal(connection.status, connection.content_type, connection.length):
            return False
        error = api_server.refusal(b"".join(connection.body)) if connection.is_complete else None
        if error is not None:
            self._exchange.refused_for_instance(error)
        return error is not None or not connection.is_complete

    # Handing on

    def _begin(self, connection: UpstreamConnection) -> list[bytes]:
        """The head that the client gets."""
        exchange, status = self._exchange, connection.status
        head = exchange.head
        self.status = status
        self.has_begun = True
        if not self._client.is_writable and not self.paused_at:
            # The answer before this one still fills the client's buffer.
            self.client_writable(False)
        streams = connection.content_type.startswith(b"text/event-stream")
        if status == 200 and exchange.tells_usage:
            self._usage = StreamUsage(strip=self._strips_usage) if streams else BodyUsage()
        if not exchange.request_done:
            # An answer before the request's end: nothing may be read as a next request from this connection.
            exchange.keep_alive = False
        known, is_console = connection.known_head, exchange.caller.is_console
        if known is not None and exchange.keep_alive and not self._strips_usage and not head.is_1_0 and not is_console:
            return [known.with_length, exchange.request_id, b"\r\n\r\n"]
        out = [connection.passed, b"x-request-id: ", exchange.request_id, b"\r\n"]
        has_no_body = head.method == b"HEAD" or status in framing.NO_BODY_STATUS
        if connection.length is not None and not (streams and self._strips_usage):
            out.append(b"content-length: %d\r\n" % connection.length)
        elif not has_no_body:
            self._chunked = not head.is_1_0
            exchange.keep_alive = exchange.keep_alive and self._chunked
        if is_console:
            out.append(b"x-slipway-instance: %b\r\n" % connection.address.uid.encode())
        if self._chunked:
            out.append(b"transfer-encoding: chunked\r\n")
        if not exchange.keep_alive:
            out.append(b"connection: close\r\n\r\n")
        elif head.is_1_0:
            out.append(b"connection: keep-alive\r\n\r\n")
        else:
            out.append(b"\r\n")
        return out

    def _complete(self, connection: UpstreamConnection | None, out: list[bytes], now: float) -> None:
        if self._usage is not None and (rest := self._usage.finish()):
            out.append(framing.chunk(rest) if self._chunked else rest)
        if self._chunked:
            out.append(b"0\r\n\r\n")
        self._connection = None
        if connection is not None:
            whole = connection.is_complete and self._exchange.request_done and not self.paused_at
            self._client.gateway.pool.settle(connection, now, reusable=whole and connection.is_reusable)
        self._exchange.complete(b"".join(out), now)
