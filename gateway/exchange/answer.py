"""The way back of an answer that doesn't come whole: each read is handed on with one write."""

import re
from time import monotonic

from gateway.bodies import apis, codings
from gateway.bodies.codings import CodingError
from gateway.bodies.renaming import Renaming
from gateway.books.answer_usage import AnswerUsage
from gateway.books.opened_usage import OpenedUsage
from gateway.books.stream_usage import StreamUsage
from gateway.errors import GatewayError
from gateway.exchange import settling
from gateway.exchange.state import TUNNEL_END, ExchangeState, Usage
from gateway.http import api_server, framing, half_closed
from gateway.http.upstream import AnswerHead, UpstreamConnection

# The types of answers that come piece by piece: only there is a first piece worth a time of its own.
_EVENTS = b"text/event-stream"
_STREAMS = (_EVENTS, b"application/x-ndjson")
_CODING_LINE = re.compile(rb"(?i)(?<=\r\n)content-encoding:[^\r]*\r\n")


class Answer:
    """Takes what the instance sends from the head on. `streams`: it comes piece by piece."""

    __slots__ = (
        "_by_line", "_connection", "_exchange", "_is_chunked", "_paused_at", "_paused_s", "_renaming", "_strips", "has_begun", "streams",
    )  # fmt: skip

    def __init__(self, exchange: ExchangeState, connection: UpstreamConnection) -> None:
        self._exchange = exchange
        self._connection: UpstreamConnection | None = connection
        self.has_begun = self._is_chunked = self.streams = self._by_line = self._strips = False
        self._renaming: Renaming | None = None
        self._paused_at = self._paused_s = 0.0

    @property
    def is_paused(self) -> bool:
        """Whether the client takes nothing at the moment."""
        return self._paused_at > 0

    def paused_until(self, now: float) -> float:
        return self._paused_s + (now - self._paused_at if self._paused_at else 0.0)

    # From the instance (AnswerTaker)

    def whole_answer(self, connection: UpstreamConnection, head: AnswerHead, data: bytes, start: int) -> bool:
        return False

    def progressed(self, connection: UpstreamConnection) -> None:
        """One read brought head, body or end of the answer."""
        exchange, now = self._exchange, monotonic()
        exchange.deadline = now + exchange.gateway.timeouts.stream_idle_s
        is_head = exchange.head.method == b"HEAD"
        if not self.has_begun and connection.address.api_server is not None and self._is_refusal(connection):
            return
        out = [] if self.has_begun else self._begin(connection)
        body = connection.body
        if body and is_head:
            # There is none to a HEAD: what comes all the same would be read as the next answer.
            connection.body, connection.keeps_alive, body = [], False, []
        if body:
            connection.body = []
            if not exchange.first_byte:
                exchange.first_byte = now
            # What came together goes on together: an instance may send each byte as a chunk of its own.
            data = b"".join(body) if len(body) > 1 else body[0]
            if exchange.usage is not None:
                try:
                    data = exchange.usage.feed(data)
                except CodingError:
                    # Where the client has no head yet it gets another one.
                    self.has_begun = self.has_begun and not out
                    connection.is_malformed = True
                    connection.close()
                    self.upstream_lost(answered=True, ended_by_close=False)
                    return
            if self._renaming is not None:
                data = self._renaming.feed(data)
            if data:
                out += (b"%x\r\n" % len(data), data, b"\r\n") if self._is_chunked else (data,)
        if connection.is_complete or is_head:
            self._complete(connection, out, now)
        elif out:
            exchange.client.write(b"".join(out))

    def chunk_came(self, connection: UpstreamConnection, raw: bytes, start: int) -> None:
        """One whole chunk of a stream: `raw` is it as it came, fit to be handed on; its data begin at `start`."""
        exchange = self._exchange
        usage = exchange.usage
        if not self._is_chunked or not exchange.first_byte:
            connection.body = [raw[start:-2]]
            self.progressed(connection)
        elif usage is None:
            connection.passes_on = exchange.client.write
            exchange.client.write(raw)
        elif self._renaming is None and usage.counted(raw, start):
            exchange.client.write(raw)
        else:
            connection.body = [raw[start:-2]]
            self.progressed(connection)

    def switched_protocols(self, connection: UpstreamConnection, rest: bytes) -> None:
        """The instance agreed to the websocket: from here on bytes pass unread."""
        exchange = self._exchange
        if not exchange.head.websocket:
            connection.close()
            self.upstream_lost(answered=True, ended_by_close=False)
            return
        exchange.status, exchange.waits_for = 101, TUNNEL_END
        self.has_begun = True
        exchange.deadline = monotonic() + exchange.gateway.timeouts.stream_idle_s
        served = exchange.call.served(exchange.forwarded - exchange.started)  # type: ignore[union-attr]
        lines = b"connection: Upgrade\r\nupgrade: websocket\r\nx-request-id: %b%b\r\n\r\n" % (
            exchange.request_id,
            served,
        )
        exchange.client.write(b"".join([framing.status_line(101), connection.passed, lines, rest]))
        if exchange.body is not None:
            # What the client sent ahead may go.
            connection.transport.write(exchange.body.whole())
            exchange.body.let_go()
        exchange.client.resume_reading()

    def tunnelled(self, data: bytes) -> None:
        exchange = self._exchange
        exchange.deadline = monotonic() + exchange.gateway.timeouts.stream_idle_s
        exchange.client.write(data)

    def upstream_lost(self, *, answered: bool, ended_by_close: bool) -> None:
        exchange, connection = self._exchange, self._connection
        exchange.connection = self._connection = None
        if exchange.is_over:
            return
        if exchange.waits_for == TUNNEL_END:
            settling.complete(exchange, b"", monotonic())
        elif ended_by_close and self.has_begun:
            self._complete(None, [], monotonic())
        else:
            settling.instance_failed(exchange, connection)

    def upstream_writable(self, writable: bool) -> None:
        self._exchange.upstream_writable(writable)

    # From the client

    def client_writable(self, writable: bool) -> None:
        """Back-pressure: while the client doesn't read, nothing is read from the instance, and no clock runs."""
        connection = self._connection
        if connection is None:
            return
        now = monotonic()
        if writable:
            self._paused_s, self._paused_at = self.paused_until(now), 0.0
            connection.transport.resume_reading()
            self._exchange.deadline = now + self._exchange.gateway.timeouts.stream_idle_s
        else:
            self._paused_at = now
            connection.transport.pause_reading()

    def probe(self) -> None:
        """Write something that means nothing, where it can be."""
        if self._is_chunked:
            self._exchange.client.write(half_closed.PROBE_IN_CHUNKS)

    def break_off(self, error: GatewayError) -> None:
        """End it so that the client can't take the torn answer for a whole one; a second head would be its body. A stream says
        why in its last event: client libraries raise that, where they would not know what to make of a cut."""
        exchange = self._exchange
        client, usage = exchange.client, exchange.usage
        if usage is None or not usage.is_between_events or not (self._is_chunked or exchange.head.is_1_0):
            client.abort()
            return
        api, request_id = apis.of(exchange.head.target), exchange.request_id.decode()
        told = api.line(error, request_id) if self._by_line else api.event(error, request_id)
        client.write(framing.chunk(told) if self._is_chunked else told)
        client.cut(hard=not self._is_chunked)

    # Handing on

    def _is_refusal(self, connection: UpstreamConnection) -> bool:
        """Whether an API server has spoken for the instance, or may have: then the rest of it is awaited."""
        exchange, status = self._exchange, connection.status
        may_be = api_server.may_be_refusal(status, connection.content_type, connection.length)
        if not may_be or exchange.head.method == b"HEAD":
            return False
        error = api_server.refusal(status, b"".join(connection.body)) if connection.is_complete else None
        if error is not None:
            # Nothing of it has been handed on.
            exchange.answer = None
            settling.refused_for_instance(exchange, error)
        return error is not None or not connection.is_complete

    def _begin(self, connection: UpstreamConnection) -> list[bytes]:
        """The head that the client gets."""
        exchange, status, head = self._exchange, connection.status, self._exchange.head
        exchange.status = status
        self.has_begun = True
        if not exchange.client.is_writable and not self._paused_at:
            # The answer before this one still fills the client's buffer.
            self.client_writable(False)
        self.streams = connection.content_type.startswith(_STREAMS)
        self._by_line = self.streams and not connection.content_type.startswith(_EVENTS)
        # What only the gateway asked for is taken out, unless nobody here can see it.
        self._strips = (
            status == 200 and exchange.asks and (not connection.coding or codings.is_known(connection.coding))
        )
        is_opened = self._strips and bool(connection.coding)
        if exchange.asked_name and exchange.call is not None and not connection.coding:
            self._renaming = Renaming(exchange.call.target.served_name, exchange.asked_name, is_stream=self.streams)
        if status == 200 and exchange.plan is not None and exchange.plan.may_generate:
            exchange.usage = self._usage_of(connection.content_type, connection.coding)
            if is_opened:
                connection.passed = _CODING_LINE.sub(b"", connection.passed)
        if not exchange.request_done:
            # An answer before the request's end: nothing may be read as a next request from this connection.
            exchange.keep_alive = False
        out = [connection.passed, b"x-request-id: ", exchange.request_id]
        if exchange.call is not None:
            out.append(exchange.call.served(exchange.forwarded - exchange.started))
        out += (
            (b"\r\n", connection.limits)
            if exchange.allowance is None
            else (exchange.allowance.ending(monotonic())[:-2],)
        )
        has_no_body = head.method == b"HEAD" or status in framing.NO_BODY_STATUS
        changes = (self._strips and self.streams) or is_opened or self._renaming is not None
        if connection.length is not None and not changes:
            out.append(b"content-length: %d\r\n" % connection.length)
        elif not has_no_body:
            self._is_chunked = not head.is_1_0
            exchange.keep_alive = exchange.keep_alive and self._is_chunked
        if head.identity:
            # To our own processes: the page shows it, and the queue learns that an instance was asked.
            out.append(b"x-slipway-instance: %b\r\n" % connection.address.uid.encode())
        if self._is_chunked:
            out.append(b"transfer-encoding: chunked\r\n")
        if not exchange.keep_alive:
            out.append(b"connection: close\r\n\r\n")
        elif head.is_1_0:
            out.append(b"connection: keep-alive\r\n\r\n")
        else:
            out.append(b"\r\n")
        return out

    def _complete(self, connection: UpstreamConnection | None, out: list[bytes], now: float) -> None:
        exchange = self._exchange
        rest = exchange.usage.finish() if exchange.usage is not None else b""
        if self._renaming is not None:
            rest = self._renaming.feed(rest) + self._renaming.finish()
        if rest:
            out.append(framing.chunk(rest) if self._is_chunked else rest)
        if self._is_chunked:
            out.append(b"0\r\n\r\n")
        if connection is not None:
            whole = connection.is_complete and exchange.request_done and not self._paused_at
            exchange.gateway.pool.settle(connection, now, keeps_alive=whole and connection.keeps_alive)
        self._connection = None
        settling.complete(exchange, b"".join(out), now)

    def _usage_of(self, content_type: bytes, coding: bytes) -> Usage:
        exchange = self._exchange
        usage: AnswerUsage | StreamUsage
        if self.streams:
            call = exchange.call
            assert call is not None  # noqa: S101
            usage = StreamUsage(strip=self._strips, estimates=call.counts, hint=call.hint, by_line=self._by_line)
        else:
            usage = whole_usage(exchange)
        return OpenedUsage(usage, coding, replaces=self._strips) if codings.is_known(coding) else usage


def whole_usage(exchange: ExchangeState) -> AnswerUsage:
    """What reads an answer that is one document."""
    plan, call = exchange.plan, exchange.call
    return AnswerUsage(is_text=plan.answers_text, estimates=call.counts)  # type: ignore[union-attr]
