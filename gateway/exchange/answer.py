"""The way back: an instance's answer on its way to the client, its clocks and its token usage."""

import math
import re
from abc import ABC, abstractmethod
from time import monotonic

from gateway.access.callers import ANONYMOUS, Caller
from gateway.bodies import codings
from gateway.bodies.codings import CodingError
from gateway.books.answer_usage import AnswerUsage
from gateway.books.opened_usage import OpenedUsage
from gateway.books.stream_usage import StreamUsage
from gateway.core import Gateway
from gateway.errors import GatewayError
from gateway.exchange.plan import Plan
from gateway.http import api_server, framing
from gateway.http.client import ClientConnection
from gateway.http.framing import RequestHead
from gateway.http.upstream import AnswerHead, UpstreamConnection
from gateway.limits.limiter import Allowance
from gateway.routing.target import Target

# The types of answers that come piece by piece: only there is a first piece worth a time of its own.
_EVENTS = b"text/event-stream"
_CODING_LINE = re.compile(rb"(?i)(?<=\r\n)content-encoding:[^\r]*\r\n")
Usage = AnswerUsage | StreamUsage | OpenedUsage
_STREAMS = (_EVENTS, b"application/x-ndjson")


class AnswerSide(ABC):
    """The half of an exchange that faces the instance's answer: hands it on with one write per read.

    Times on the monotonic clock, 0 for what has not been. One object with its other half, because a request that has
    two costs a tenth more.
    """

    __slots__ = (
        "_allowance", "_chunked", "_connection", "_gateway", "_paused_s", "_plan", "_strips_usage", "_target", "_tunnels", "_usage", "caller",
        "client", "counts", "deadline", "done", "first_byte", "has_begun", "head", "keep_alive", "paused_at", "request_done",
        "request_id", "status", "streams",
    )  # fmt: skip

    def __init__(self, gateway: Gateway, client: ClientConnection, head: RequestHead, request_id: bytes) -> None:
        self.client = client
        self._gateway = gateway
        self.head = head
        self.request_id = request_id
        # Behind a websocket's request the connection speaks another protocol, whatever becomes of it.
        self.keep_alive = head.keep_alive and not head.websocket
        self.caller: Caller = ANONYMOUS
        self._plan: Plan | None = None
        self._target: Target | None = None
        self._allowance: Allowance | None = None
        self._connection: UpstreamConnection | None = None
        self._usage: Usage | None = None
        self.deadline = math.inf
        self.status = 0
        self.request_done = self.done = self.has_begun = self._chunked = False
        self.streams = self._strips_usage = self._tunnels = False
        # Whether tokens are estimated where the answer tells none.
        self.counts = False
        self.first_byte = self.paused_at = self._paused_s = 0.0

    # What the other half does

    @abstractmethod
    def complete(self, data: bytes, now: float) -> None:
        """The answer is whole; `data` is its last part."""

    @abstractmethod
    def refused_for_instance(self, error: GatewayError) -> None:
        """Who was asked to hand the request on could not, or may not."""

    @abstractmethod
    def instance_lost(self, *, was_idle: bool) -> None:
        """The instance closed the connection before its answer was whole."""

    @abstractmethod
    def answer_began(self) -> None:
        """The instance's answer is here: its request is not sent again."""

    @abstractmethod
    def tunnel_opened(self, connection: UpstreamConnection) -> None:
        """The instance agreed to the websocket."""

    # From the instance (AnswerTaker)

    def whole_answer(self, connection: UpstreamConnection, head: AnswerHead, data: bytes, start: int) -> bool:
        """All of an answer in one read, its body from `start` on; False when it has to go the long way."""
        if not (
            self.request_done
            and self.keep_alive
            and self.client.is_writable
            and not self.head.identity
            and not (self.head.is_1_0 or self._strips_usage or connection.address.api_server)
            and self.head.method != b"HEAD"
        ):
            return False
        self.first_byte = now = monotonic()
        self.status = status = head.status
        self.has_begun = True
        body = data[start:]
        if status == 200 and self._plan.may_generate:  # type: ignore[union-attr]
            self._usage = usage = (
                self._body_usage() if not head.coding else self._usage_of(head.content_type, head.coding)
            )
            usage.feed(body)
        self._gateway.pool.settle(connection, now, keeps_alive=head.keeps_alive)
        end = b"\r\n\r\n" if self._allowance is None else self._allowance.ending(now)
        self.complete(b"".join((head.with_length, self.request_id, end, body)), now)
        return True

    def progressed(self, connection: UpstreamConnection) -> None:
        """One read brought head, body or end of the answer."""
        now = monotonic()
        self.deadline = now + self._gateway.timeouts.stream_idle_s
        if not self.has_begun and connection.address.api_server is not None and self._is_refusal(connection):
            return
        out = [] if self.has_begun else self._begin(connection)
        body = connection.body
        if body and self.head.method == b"HEAD":
            # There is none to a HEAD: what comes all the same would be read as the next answer.
            connection.body, connection.keeps_alive, body = [], False, []
        if body:
            if not self.first_byte:
                self.first_byte = now
            if len(body) > 1:
                # What came together goes on together: an instance may send each byte as a chunk of its own.
                body = [b"".join(body)]
            if self._usage is not None:
                try:
                    kept = self._usage.feed(body[0])
                except CodingError:
                    connection.close()
                    self.upstream_lost(answered=True, ended_by_close=False)
                    return
                body = [kept] if kept else []
            if self._chunked:
                for data in body:
                    out += (b"%x\r\n" % len(data), data, b"\r\n")
            else:
                out += body
            connection.body = []
        if connection.is_complete or self.head.method == b"HEAD":
            self._complete(connection, out, now)
        elif out:
            self.client.write(b"".join(out))

    def chunk_came(self, connection: UpstreamConnection, raw: bytes, start: int) -> None:
        """One whole chunk of a stream: `raw` is it as it came, fit to be handed on; its data begin at `start`."""
        usage = self._usage
        if not self._chunked or not self.first_byte:
            connection.body = [raw[start:-2]]
            self.progressed(connection)
        elif usage is None:
            connection.passes_on = self.client.write
            self.client.write(raw)
        elif usage.counted(raw, start):
            self.client.write(raw)
        else:
            data = raw[start:-2]
            kept = usage.feed(data)
            if kept:
                self.client.write(raw if kept is data else framing.chunk(kept))

    def switched_protocols(self, connection: UpstreamConnection, rest: bytes) -> None:
        """The instance agreed to the websocket: from here on bytes pass unread."""
        if not self.head.websocket:
            connection.close()
            self.upstream_lost(answered=True, ended_by_close=False)
            return
        self.status = 101
        self.has_begun = self._tunnels = True
        self.deadline = monotonic() + self._gateway.timeouts.stream_idle_s
        lines = b"connection: Upgrade\r\nupgrade: websocket\r\nx-request-id: %b\r\n\r\n" % self.request_id
        self.client.write(b"".join([framing.status_line(101), connection.passed, lines, rest]))
        self.tunnel_opened(connection)

    def tunnelled(self, data: bytes) -> None:
        self.deadline = monotonic() + self._gateway.timeouts.stream_idle_s
        self.client.write(data)

    def upstream_lost(self, *, answered: bool, ended_by_close: bool) -> None:
        connection, self._connection = self._connection, None
        if self.done:
            return
        if self._tunnels:
            self.complete(b"", monotonic())
        elif ended_by_close:
            self._complete(None, [], monotonic())
        else:
            self.instance_lost(was_idle=connection is not None and connection.reused and not answered)

    # From the client

    def client_writable(self, writable: bool) -> None:
        """Back-pressure: while the client doesn't read, nothing is read from the instance, and no clock runs."""
        if self._connection is None:
            return
        now = monotonic()
        if writable:
            self._paused_s, self.paused_at = self._paused_until(now), 0.0
            self._connection.transport.resume_reading()
            self.deadline = now + self._gateway.timeouts.stream_idle_s
        else:
            self.paused_at = now
            self._connection.transport.pause_reading()

    # Handing on

    def _paused_until(self, now: float) -> float:
        """How long the client's slowness has held the answer up, in seconds."""
        return self._paused_s + (now - self.paused_at if self.paused_at else 0.0)

    def _is_refusal(self, connection: UpstreamConnection) -> bool:
        """Whether an API server has spoken for the instance, or may have: then the rest of it is awaited."""
        status = connection.status
        may_be = api_server.may_be_refusal(status, connection.content_type, connection.length)
        if not may_be or self.head.method == b"HEAD":
            return False
        error = api_server.refusal(status, b"".join(connection.body)) if connection.is_complete else None
        if error is not None:
            self.refused_for_instance(error)
        return error is not None or not connection.is_complete

    def _begin(self, connection: UpstreamConnection) -> list[bytes]:
        """The head that the client gets."""
        status, head = connection.status, self.head
        self.status = status
        self.has_begun = True
        self.answer_began()
        if not self.client.is_writable and not self.paused_at:
            # The answer before this one still fills the client's buffer.
            self.client_writable(False)
        has_events = connection.content_type.startswith(_EVENTS)
        self.streams = connection.content_type.startswith(_STREAMS)
        if status == 200 and self._plan is not None and self._plan.may_generate:
            self._usage = self._usage_of(connection.content_type, connection.coding)
            if connection.coding and self._strips_usage:
                # It goes on opened, else what only the gateway asked for could not be taken out.
                connection.passed = _CODING_LINE.sub(b"", connection.passed)
        if not self.request_done:
            # An answer before the request's end: nothing may be read as a next request from this connection.
            self.keep_alive = False
        out = [connection.passed, b"x-request-id: ", self.request_id, b"\r\n"]
        if self._allowance is not None:
            out.append(self._allowance.ending(monotonic())[2:-2])
        has_no_body = head.method == b"HEAD" or status in framing.NO_BODY_STATUS
        if connection.length is not None and not (has_events and self._strips_usage):
            out.append(b"content-length: %d\r\n" % connection.length)
        elif not has_no_body:
            self._chunked = not head.is_1_0
            self.keep_alive = self.keep_alive and self._chunked
        if self.head.identity:
            # To our own processes: the page shows it, and the queue learns that an instance was asked.
            out.append(b"x-slipway-instance: %b\r\n" % connection.address.uid.encode())
        if self._chunked:
            out.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
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
        if connection is not None:
            whole = connection.is_complete and self.request_done and not self.paused_at
            self._gateway.pool.settle(connection, now, keeps_alive=whole and connection.keeps_alive)
        self.complete(b"".join(out), now)

    def _usage_of(self, content_type: bytes, coding: bytes) -> Usage:
        usage = self._plain_usage_of(content_type)
        return OpenedUsage(usage, coding, replaces=self._strips_usage) if codings.is_known(coding) else usage

    def _plain_usage_of(self, content_type: bytes) -> AnswerUsage | StreamUsage:
        if not self.streams:
            return self._body_usage()
        by_line = not content_type.startswith(_EVENTS)
        tells = self._target.streams_tell if self._target is not None else ""
        hint = b'"%b"' % tells.encode() if tells else self._plan.hint  # type: ignore[union-attr]
        return StreamUsage(strip=self._strips_usage, estimates=self.counts, hint=hint, by_line=by_line)

    def _body_usage(self) -> AnswerUsage:
        return AnswerUsage(is_text=self._plan.answers_text, estimates=self.counts)  # type: ignore[union-attr]
