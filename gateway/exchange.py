"""One request and its answer: route, forward, stream back, and note it in the books exactly once."""

import asyncio
import logging
import math
from time import monotonic
from typing import TYPE_CHECKING

import orjson

from gateway import framing, meter, routes
from gateway.balancer import Load
from gateway.callers import ANONYMOUS, Caller, read_identity
from gateway.errors import GatewayError
from gateway.framing import RequestHead
from gateway.journal import NO_INSTANCE, File
from gateway.routes import Route
from gateway.snapshot import Address, Target
from gateway.upstream import UpstreamConnection
from gateway.usage import BodyUsage, StreamUsage, Tokens, ask_for_usage

if TYPE_CHECKING:
    from gateway.server import ClientConnection

log = logging.getLogger(__name__)

MAX_BUFFERED_BODY = 32 << 20
# What is held of a body that streams while the connection to the instance is still being made.
HELD_BODY = 64 << 10
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NO_TOKENS = Tokens()


class Exchange:
    """Lives from a sound request head to the last byte of the answer, or to whatever ends it before."""

    __slots__ = (
        "_address", "_asked_for_usage", "_body", "_body_bytes", "_buffering", "_caller", "_chunked", "_client",
        "_connecting", "_connection", "_file", "_first_byte", "_forwarded", "_gateway", "_head", "_head_sent",
        "_is_upgraded", "_length", "_load", "_paused", "_paused_at", "_retried", "_route", "_sent_body", "_sequence",
        "_started", "_status", "_target", "_upstream_blocked", "_usage", "deadline", "done",
        "keep_alive", "request_done", "request_id",
    )  # fmt: skip

    def __init__(self, client: "ClientConnection", head: RequestHead) -> None:
        self._client = client
        self._gateway = client.gateway
        self._head = head
        self._sequence, self.request_id = client.gateway.next_request(head.request_id)
        # Behind a websocket's request the connection speaks another protocol, whatever becomes of it.
        self.keep_alive = head.keep_alive and not head.websocket
        self.request_done = self.done = False
        self.deadline = math.inf
        self._started = 0.0
        self._length = head.length
        self._buffering = self._asked_for_usage = self._retried = self._is_upgraded = False
        self._body: list[bytes] | None = None
        self._body_bytes = self._sent_body = 0
        self._caller: Caller = ANONYMOUS
        self._target: Target | None = None
        self._address: Address | None = None
        self._load: Load | None = None
        self._connection: UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._usage: BodyUsage | StreamUsage | None = None
        self._status = 0
        self._head_sent = self._chunked = self._upstream_blocked = False
        self._file: File | None = None
        self._forwarded = self._first_byte = self._paused_at = self._paused = 0.0

    # From the client

    def begin(self) -> None:
        """Check, route, forward as far as the request is there."""
        gateway, head = self._gateway, self._head
        self._started = now = monotonic()
        self.deadline = now + gateway.timeouts.body_idle_s
        try:
            route = head.route
            if type(route) is not Route or route.snapshot is not gateway.snapshot:
                if self._answer_locally():
                    return
                route = routes.route_of(gateway.snapshot, head)
            self._route = route
            if head.identity:
                self._caller = read_identity(head.identity, gateway.secret)
            length = self._length
            self._target = route.target
            if route.target is None:
                self._buffering = True
                if length is not None and length > MAX_BUFFERED_BODY:
                    raise _too_large()
            elif length and route.tells_usage:
                self._buffering = 0 < length <= MAX_BUFFERED_BODY
            if not self._buffering:
                self._admit(now)
                if head.expects and not self.request_done:
                    self._client.write(CONTINUE)
                self._forward(now)
            elif self.request_done:
                self._dispatch_buffered(now)
            else:
                if route.target is not None and not route.target.addresses:
                    # Known before the body: it need not be sent.
                    self._admit(now)
                if head.expects:
                    self._client.write(CONTINUE)
        except GatewayError as error:
            self.fail(error)

    def request_body(self, data: bytes) -> None:
        if self.done:
            return
        self._body_bytes += len(data)
        self.deadline = monotonic() + self._gateway.timeouts.body_idle_s
        if self._connection is not None and self._forwarded:
            self._sent_body += len(data)
            self._connection.transport.write(framing.chunk(data) if self._length == -1 else data)
            return
        if self._body is None:
            self._body = []
        self._body.append(data)
        if self._buffering and self._body_bytes > MAX_BUFFERED_BODY:
            self.fail(_too_large())
        elif not self._buffering and self._body_bytes > HELD_BODY:
            # Nowhere to put it yet: the connection to the instance is still being made.
            self._client.pause_reading()

    def request_complete(self) -> None:
        self.request_done = True
        if self.done:
            return
        if not self._started:
            self.begin()
        elif self._buffering:
            try:
                self._dispatch_buffered(monotonic())
            except GatewayError as error:
                self.fail(error)
        elif self._connection is not None and self._forwarded:
            if self._length == -1:
                self._connection.transport.write(b"0\r\n\r\n")
            self.deadline = monotonic() + self._gateway.timeouts.first_byte_s

    def client_data(self, data: bytes) -> None:
        """Bytes of a websocket. Before the instance has agreed they wait with the client."""
        if self._is_upgraded and self._connection is not None:
            self.deadline = monotonic() + self._gateway.timeouts.stream_idle_s
            self._connection.transport.write(data)
            return
        if self._body is None:
            self._body = []
        self._body.append(data)
        self._client.pause_reading()

    def client_lost(self) -> None:
        """The client left: close upstream at once and settle what was produced."""
        if not self.done:
            self._end_upstream(failed=None)
            # A websocket has no end of its own but this one.
            self._finish(meter.COMPLETED if self._is_upgraded else meter.CANCELLED, monotonic())

    def client_writable(self, writable: bool) -> None:
        """Back-pressure: while the client doesn't read, nothing is read from the instance, and no clock runs."""
        if self._connection is None:
            return
        now = monotonic()
        if writable:
            self._paused += now - self._paused_at if self._paused_at else 0.0
            self._paused_at = 0.0
            self._connection.transport.resume_reading()
            self.deadline = now + self._gateway.timeouts.stream_idle_s
        else:
            self._paused_at = now
            self._connection.transport.pause_reading()

    def check_deadline(self, now: float) -> None:
        connection = self._connection
        if connection is not None and connection.was_heard:
            connection.was_heard = False
            self.deadline = now + self._gateway.timeouts.stream_idle_s
        if self.deadline < now:
            self._on_deadline()
        elif self._started and now - self._started > self._gateway.timeouts.total_s and not self._is_upgraded:
            self._time_out(GatewayError(504, "total_timeout", "The request took longer than a request may take."))

    def _on_deadline(self) -> None:
        if self._paused_at:
            log.info("%s ended: slow_reader", self.request_id.decode())
            self._client.abort()
        elif not self.request_done and not self._upstream_blocked:
            self.fail(GatewayError(408, "body_timeout", "The body did not arrive in time. Send it again."))
        elif not self._head_sent:
            self._time_out(GatewayError(504, "first_byte_timeout", "The instance did not begin to answer in time."))
        else:
            self._time_out(GatewayError(504, "idle_timeout", "The instance sent nothing for too long."))

    def _time_out(self, error: GatewayError) -> None:
        self._end_upstream(failed=True)
        self.fail(error, outcome=meter.FAILED)

    # To the instance

    def _dispatch_buffered(self, now: float) -> None:
        """The whole body is here: find the deployment, ask for usage, forward."""
        self._started = now
        pieces = self._body or []
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        parsed: dict[str, object] | None = None
        if self._target is None:
            if not self._length:
                raise GatewayError(400, "model_missing", "This path needs a JSON body with the field “model”.")
            model, parsed = routes.model_of(body, self._head.content_type.lower())
            self._target = self._gateway.snapshot.by_model(model)
        elif self._route.tells_usage:
            try:
                loaded = orjson.loads(body)
                parsed = loaded if isinstance(loaded, dict) else None
            except orjson.JSONDecodeError:
                parsed = None
        if parsed is not None and self._route.tells_usage and b"completions" in self._route.path:
            asking = ask_for_usage(body, parsed)
            if asking is not None:
                body, self._asked_for_usage = asking, True
        self._body, self._length = [body], len(body)
        self._admit(now)
        self._forward(now)

    def _admit(self, now: float) -> None:
        """Into the books, once; raises when nothing can serve it, which is an end like any other."""
        target = self._target
        assert target is not None  # noqa: S101
        caller, gateway = self._caller, self._gateway
        if caller.deployment_id and caller.deployment_id != target.deployment_id:
            raise GatewayError(
                401, "identity_invalid", "The console's token is for another deployment. Reload the page."
            )
        gateway.in_flight += 1
        self._file = gateway.journal.admitted(
            self._sequence, target.deployment_id, target.version_id, caller.organization_id, caller.user_id, caller.key_id,
            caller.source, now + gateway.wall_offset,
        )  # fmt: skip
        if not target.addresses:
            raise target.unavailable()

    def _forward(self, now: float) -> None:
        assert self._target is not None  # noqa: S101
        acquired = self._gateway.balancer.acquire(self._target, now)
        if acquired is None:
            message = f"All instances of {self._target.api_id} failed just now. Try again in a few seconds."
            raise GatewayError(503, "breakers_open", message, 2)
        self._address, self._load = acquired
        connection = self._gateway.pool.reuse(self._address, now)
        if connection is not None:
            self._send(connection, now)
        else:
            self._connecting = self._gateway.loop.create_task(self._connect(self._address))

    async def _connect(self, address: Address) -> None:
        try:
            connection = await self._gateway.pool.connect(address)
        except (OSError, TimeoutError):
            self._connecting = None
            if not self.done:
                self._end_upstream(failed=True)
                message = "The instance does not accept connections. Try again in a few seconds."
                self.fail(GatewayError(502, "instance_unreachable", message, 2), outcome=meter.FAILED)
            return
        self._connecting = None
        if self.done:
            connection.close()
            return
        self._send(connection, monotonic())

    def _send(self, connection: UpstreamConnection, now: float) -> None:
        self._connection = connection
        connection.take(self)
        self._forwarded = now
        timeouts = self._gateway.timeouts
        self.deadline = now + (timeouts.first_byte_s if self.request_done else timeouts.body_idle_s)
        length = self._length
        head = self._route.line + framing.request_rest(
            self._head, self.request_id, connection.address.authority, length
        )
        # A websocket's first bytes are not a body: they wait until the instance has agreed.
        if not length:
            connection.transport.write(head)
            return
        body = self._body or ()
        parts = [head, *([framing.chunk(data) for data in body] if length == -1 else body)]
        if length == -1 and self.request_done:
            parts.append(b"0\r\n\r\n")
        if not self._buffering:
            self._sent_body += self._body_bytes
            self._body = None
            # Before the write: the write may pause reading again at once.
            self._client.resume_reading()
        connection.transport.write(b"".join(parts))

    # From the instance (AnswerTaker)

    def answer_progressed(self, connection: UpstreamConnection) -> None:
        """One read brought head, body or end of the answer: it is handed on with one write."""
        now = monotonic()
        self.deadline = now + self._gateway.timeouts.stream_idle_s
        out = [] if self._head_sent else self._answer_head(connection)
        body = connection.body
        if body:
            if not self._first_byte:
                self._first_byte = now
            if self._usage is not None:
                body = [kept for data in body if (kept := self._usage.feed(data))]
            if self._chunked:
                for data in body:
                    out += (b"%x\r\n" % len(data), data, b"\r\n")
            else:
                out += body
            connection.body = []
        if connection.is_complete or self._head.method == b"HEAD":
            self._complete_answer(connection, out, now)
        elif out:
            self._client.write(b"".join(out))

    def chunk_came(self, connection: UpstreamConnection, raw: bytes, start: int) -> None:
        """One whole chunk of a stream: `raw` is it as it came, fit to be handed on; its data begin at `start`."""
        usage = self._usage
        if usage is None and self._chunked and self._first_byte:
            self._client.write(raw)
            return
        if not self._chunked or not self._first_byte or usage is None:
            connection.body = [raw[start:-2]]
            self.answer_progressed(connection)
            return
        data = raw[start:-2]
        kept = usage.feed(data)
        if kept:
            self._client.write(raw if kept is data else framing.chunk(kept))

    def _answer_head(self, connection: UpstreamConnection) -> list[bytes]:
        status, head = connection.status, self._head
        self._status = status
        self._head_sent = True
        if not self._client.is_writable and not self._paused_at:
            # The answer before this one still fills the client's buffer.
            self.client_writable(False)
        streams = connection.content_type.startswith(b"text/event-stream")
        if self._route.tells_usage and status == 200:
            self._usage = StreamUsage(strip=self._asked_for_usage) if streams else BodyUsage()
        if not self.request_done:
            # An answer before the request's end: nothing may be read as a next request from this connection.
            self.keep_alive = False
        known = connection.known_head
        if (
            known is not None
            and self.keep_alive
            and not self._asked_for_usage
            and not head.is_1_0
            and not self._caller.is_console
        ):
            return [known.with_length, self.request_id, b"\r\n\r\n"]
        out = [connection.passed, b"x-request-id: ", self.request_id, b"\r\n"]
        has_no_body = head.method == b"HEAD" or status in framing.NO_BODY_STATUS
        if connection.length is not None and not (streams and self._asked_for_usage):
            out.append(b"content-length: %d\r\n" % connection.length)
        elif not has_no_body:
            self._chunked = not head.is_1_0
            self.keep_alive = self.keep_alive and self._chunked
        if self._caller.is_console and self._address is not None:
            out.append(b"x-slipway-instance: %b\r\n" % self._address.uid.encode())
        if self._chunked:
            out.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            out.append(b"connection: close\r\n\r\n")
        elif head.is_1_0:
            out.append(b"connection: keep-alive\r\n\r\n")
        else:
            out.append(b"\r\n")
        return out

    def _complete_answer(self, connection: UpstreamConnection | None, out: list[bytes], now: float) -> None:
        if self._usage is not None and (rest := self._usage.finish()):
            out.append(framing.chunk(rest) if self._chunked else rest)
        if self._chunked:
            out.append(b"0\r\n\r\n")
        was_paused = self._paused_at
        self._connection = None
        # The books first: whoever has seen the last byte is in them, whenever this process is killed.
        self._finish(meter.COMPLETED, now)
        if connection is not None:
            if connection.is_complete and self.request_done and not was_paused and connection.is_reusable:
                self._gateway.pool.give_back(connection, now)
            else:
                connection.close()
        self._client.finish_exchange(self, b"".join(out), now)

    def switched_protocols(self, connection: UpstreamConnection, rest: bytes) -> None:
        """The instance agreed to the websocket: from here on bytes pass unread."""
        if not self._head.websocket:
            connection.close()
            self.upstream_lost(answered=True, ended_by_close=False)
            return
        self._status = 101
        self._head_sent = self._is_upgraded = True
        self.deadline = monotonic() + self._gateway.timeouts.stream_idle_s
        lines = b"connection: Upgrade\r\nupgrade: websocket\r\nx-request-id: %b\r\n\r\n" % self.request_id
        self._client.write(b"".join([framing.status_line(101), connection.passed, lines, rest]))
        if self._body:
            connection.transport.write(b"".join(self._body))
            self._body = None
        self._client.resume_reading()

    def tunnelled(self, data: bytes) -> None:
        self.deadline = monotonic() + self._gateway.timeouts.stream_idle_s
        self._client.write(data)

    def upstream_lost(self, *, answered: bool, ended_by_close: bool) -> None:
        connection, self._connection = self._connection, None
        if self.done:
            return
        if self._is_upgraded:
            now = monotonic()
            self._finish(meter.COMPLETED, now)
            self._client.finish_exchange(self, b"", now)
        elif ended_by_close:
            self._complete_answer(None, [], monotonic())
        elif not self._head_sent and not answered and connection is not None and connection.reused and self._may_retry:
            # It was closed while it lay idle: the instance never saw the request.
            self._retried = True
            self._connecting = self._gateway.loop.create_task(self._connect(connection.address))
        else:
            self._end_upstream(failed=True)
            message = "The instance closed the connection without an answer. Its log says why."
            self.fail(GatewayError(502, "instance_closed", message), outcome=meter.FAILED)

    def upstream_writable(self, writable: bool) -> None:
        self._upstream_blocked = not writable
        if not self.request_done:
            # While the instance takes nothing it is the one to blame, not the client that we don't read from.
            timeouts = self._gateway.timeouts
            self.deadline = monotonic() + (timeouts.body_idle_s if writable else timeouts.first_byte_s)
        if writable:
            self._client.resume_reading()
        else:
            self._client.pause_reading()

    # Ends

    def fail(self, error: GatewayError, *, outcome: int = meter.REJECTED) -> None:
        """End with an error of the gateway's own: an answer, or a cut where one has begun."""
        if self.done:
            return
        self._end_upstream(failed=None)
        if self._head_sent:
            # Cut off, so that the client can't take the torn answer for a whole one; a second head would be its body.
            log.info("%s ended: %s", self.request_id.decode(), error.code)
            self._finish(meter.CANCELLED if error.status < 500 else meter.FAILED, monotonic())
            self._client.abort()
            return
        self._status = error.status
        self._finish(outcome, monotonic())
        self._answer(error.status, error.body(self.request_id.decode()), error.retry_after_s)

    def _answer(
        self, status: int, body: bytes, retry_after_s: int | None = None, content_type: bytes = b"application/json"
    ) -> None:
        self.done = True
        self.keep_alive = self.keep_alive and self.request_done
        lines = [(b"content-type", content_type), (b"x-request-id", self.request_id)]
        if retry_after_s:
            lines.append((b"retry-after", b"%d" % retry_after_s))
        data = framing.own_answer(
            status, lines, body, close=not self.keep_alive, keep_alive_1_0=self._head.is_1_0 and self.keep_alive
        )
        self._client.finish_exchange(self, data[: -len(body)] if self._head.method == b"HEAD" else data, monotonic())

    def _answer_locally(self) -> bool:
        """Health and the list of models are the gateway's own."""
        path = self._head.target.partition(b"?")[0]
        if path == b"/healthz":
            self._answer(200, b"ok\n", content_type=b"text/plain")
            return True
        if self._head.method not in (b"GET", b"HEAD") or not path.startswith(b"/v1/models"):
            return False
        snapshot = self._gateway.snapshot
        if path == b"/v1/models":
            self._answer(200, routes.models_answer(snapshot))
        elif path.startswith(b"/v1/models/"):
            self._answer(200, routes.model_answer(snapshot, path[11:].decode("latin-1")))
        else:
            return False
        return True

    def _finish(self, outcome: int, now: float) -> None:
        """Write the request's one final record. Requests that were never admitted have none."""
        self.done = True
        load = self._load
        if load is not None:
            self._load = None
            load.release(failed=False, now=now)
        file, target = self._file, self._target
        if file is None or target is None:
            return
        self._file = None
        paused = self._paused + (now - self._paused_at if self._paused_at else 0.0)
        started, forwarded, first_byte = self._started, self._forwarded, self._first_byte
        address, caller, gateway = self._address, self._caller, self._gateway
        tokens = self._usage.tokens(self._body_bytes) if self._usage is not None else _NO_TOKENS
        gateway.in_flight -= 1
        # A websocket's duration is no latency.
        timed = not self._is_upgraded
        gateway.journal.finished(
            file, outcome, self._status or (499 if outcome == meter.CANCELLED else 502), caller.source, tokens.estimated,
            self._sequence, target.deployment_id, target.version_id,
            address.key if address is not None and forwarded else NO_INSTANCE,
            caller.organization_id, caller.user_id, caller.key_id, now + gateway.wall_offset,
            now - started - paused if timed else -1.0,
            now - forwarded - paused if forwarded and timed else -1.0,
            (forwarded or now) - started,
            first_byte - started if first_byte and timed else -1.0,
            tokens.input, tokens.output,
        )  # fmt: skip

    def _end_upstream(self, *, failed: bool | None) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._release(failed=failed, now=monotonic())

    def _release(self, *, failed: bool | None, now: float) -> None:
        """Give the instance's place back, once. A retry on a fresh connection keeps it."""
        if self._load is not None:
            self._load.release(failed=failed, now=now)
            self._load = None

    @property
    def is_tunnel(self) -> bool:
        return self._head.websocket

    @property
    def admitted_deployment(self) -> int | None:
        """The deployment in whose books this request is in flight."""
        return self._target.deployment_id if self._target is not None and self._file is not None else None

    @property
    def _may_retry(self) -> bool:
        return not self._retried and self.request_done and (self._buffering or self._sent_body == 0)


def _too_large() -> GatewayError:
    limit = MAX_BUFFERED_BODY >> 20
    return GatewayError(
        413,
        "body_too_large",
        f"A body on /v1 has at most {limit} MiB. Larger ones can be streamed to the deployment's own address.",
    )
