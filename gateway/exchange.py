"""One request and its answer: route, forward, stream back, and note it in the books exactly once."""

import asyncio
import math
import time
from time import monotonic
from typing import TYPE_CHECKING

import orjson

from common import identity_token
from common.identity_token import Identity
from gateway import framing, meter, routes
from gateway.errors import REASONS, GatewayError
from gateway.framing import Headers
from gateway.journal import Entry
from gateway.snapshot import Address, Target
from gateway.upstream import UpstreamConnection
from gateway.usage import BodyUsage, StreamUsage, Tokens, ask_for_usage

if TYPE_CHECKING:
    from gateway.server import ClientConnection

MAX_BUFFERED_BODY = 32 << 20
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
NO_INSTANCE = b"\0" * 16


class Exchange:
    """Lives from a complete request head to the last byte of the answer, or to whatever ends it before."""

    def __init__(
        self,
        client: "ClientConnection",
        method: bytes,
        path: bytes,
        headers: Headers,
        *,
        version: str,
        keep_alive: bool,
    ) -> None:
        self._client = client
        self._gateway = client.gateway
        self._method, self._path, self._headers = method, path, headers
        self._version = version
        self.keep_alive = keep_alive
        self.request_id = self._gateway.next_request_id(headers)
        self.request_done = False
        self.done = False
        # One that waits behind another has no deadline until it begins.
        self.deadline = math.inf
        # Without a body the request is whole at its head; waiting for that keeps the connection usable afterwards.
        self.announces_body = any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers
        )
        self._begun = False
        self._length: int | None = None
        self._buffering = False
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._target: Target | None = None
        self._address: Address | None = None
        self._connection: UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._upstream_path = path
        self._identity: Identity | None = None
        self._asked_for_usage = False
        self._usage: BodyUsage | StreamUsage | None = None
        self._openai = False
        self._retried = False
        self._sent_body = 0
        self._status = 0
        self._head_sent = False
        self._chunked = False
        self._upstream_keeps_alive = False
        self._out: list[bytes] = []
        self._complete = False
        self._ledger_file: object = None
        self._released = self._upstream_blocked = False
        self._sequence = 0
        self._admitted_at = 0.0
        self._started = self._forwarded = self._first_byte = 0.0
        self._paused_at = self._paused = 0.0

    # From the client

    def begin(self) -> None:
        """The request is the connection's current one: check, route, forward as far as it is there."""
        if self._begun or self.done:
            return
        self._begun = True
        self._started = monotonic()
        self.deadline = self._started + self._gateway.timeouts.body_idle_s
        try:
            self._length = framing.check_request(self._method, self._version, self._headers)
        except GatewayError as error:
            # Nothing that follows on this connection can be trusted to begin where it seems to.
            self.keep_alive = False
            self.fail(error)
            return
        try:
            if self._path.startswith(b"http://"):
                self._path = b"/" + self._path.split(b"/", 3)[3] if self._path.count(b"/") > 2 else b"/"
            if self._answer_locally():
                return
            route = routes.resolve(self._gateway.snapshot, self._path)
            self._upstream_path, self._target, self._openai = route.upstream_path, route.target, route.is_openai
            self._identity = self._read_identity()
            fits = self._length is not None and 0 <= self._length <= MAX_BUFFERED_BODY
            self._buffering = self._target is None or (self._openai and self._has_body and fits)
            if self._length is not None and self._length > MAX_BUFFERED_BODY and self._buffering:
                raise self._too_large()
            if self._target is not None:
                self._check_available(self._target)
            if self._has_body and not self.request_done and self._header(b"expect").lower() == b"100-continue":
                self._client.write(CONTINUE)
            if not self._buffering:
                self._admit()
                self._forward()
            elif self.request_done:
                self._dispatch_buffered()
        except GatewayError as error:
            self.fail(error)

    def request_body(self, data: bytes) -> None:
        if self.done:
            return
        self._body_bytes += len(data)
        self.deadline = monotonic() + self._gateway.timeouts.body_idle_s
        if self._connection is not None and self._forwarded:
            self._sent_body += len(data)
            self._connection.write(framing.chunk(data) if self._length == -1 else data)
            return
        self._body.append(data)
        if self._buffering and self._body_bytes > MAX_BUFFERED_BODY:
            self.fail(self._too_large())
        elif not self._buffering and self._body_bytes > (64 << 10):
            # Nowhere to put it yet: the connection to the instance is still being made.
            self._client.pause_reading()

    def request_complete(self) -> None:
        self.request_done = True
        if self.done or not self._begun:
            return
        if self._buffering:
            try:
                self._dispatch_buffered()
            except GatewayError as error:
                self.fail(error)
        elif self._connection is not None and self._forwarded:
            if self._length == -1:
                self._connection.write(b"0\r\n\r\n")
            self.deadline = monotonic() + self._gateway.timeouts.first_byte_s

    def client_lost(self) -> None:
        """The client left: close upstream at once and settle what was produced."""
        if not self.done:
            self._abandon_upstream(failed=None)
            self._finish(meter.CANCELLED)

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

    def on_deadline(self) -> None:
        if self._paused_at:
            self._client.abort()
        elif not self.request_done and not self._upstream_blocked:
            self.fail(GatewayError(408, "request_timeout", "The body did not arrive in time. Send it again."))
        elif not self._head_sent:
            self._abandon_upstream(failed=True)
            self.fail(
                GatewayError(504, "first_byte_timeout", "The instance did not begin to answer in time."),
                outcome=meter.FAILED,
            )
        else:
            self._abandon_upstream(failed=True)
            self._finish(meter.FAILED)
            self._client.abort()

    # To the instance

    def _dispatch_buffered(self) -> None:
        """The whole body is here: find the deployment, ask for usage, forward."""
        self._started = monotonic()
        body = b"".join(self._body)
        parsed: dict[str, object] | None = None
        if self._target is None:
            if not self._has_body:
                raise GatewayError(400, "model_missing", "This path needs a JSON body with the field “model”.")
            model, parsed = routes.model_of(body, self._header(b"content-type").lower())
            self._target = self._gateway.snapshot.by_model(model)
            self._openai = self._path.partition(b"?")[0] in routes.USAGE_PATHS
            self._check_available(self._target)
        elif self._openai:
            try:
                loaded = orjson.loads(body)
                parsed = loaded if isinstance(loaded, dict) else None
            except orjson.JSONDecodeError:
                parsed = None
        if self._openai and parsed is not None and b"completions" in self._path:
            asking = ask_for_usage(body, parsed)
            if asking is not None:
                body, self._asked_for_usage = asking, True
        self._body, self._length = [body], len(body)
        self._admit()
        self._forward()

    def _check_available(self, target: Target) -> None:
        if self._identity is not None and self._identity.deployment_id != target.deployment_id:
            raise GatewayError(
                401, "identity_invalid", "The console's token is for another deployment. Reload the page."
            )
        if not target.addresses:
            self._admit()
            raise target.unavailable()

    def _admit(self) -> None:
        assert self._target is not None  # noqa: S101
        self._admitted_at = time.time()
        self._sequence, self._ledger_file = self._gateway.admit(self._target, self._identity, self._admitted_at)

    def _forward(self) -> None:
        assert self._target is not None  # noqa: S101
        self._address = self._gateway.balancer.acquire(self._target, monotonic())
        if self._address is None:
            raise GatewayError(
                503,
                "breakers_open",
                f"All instances of {self._target.api_id} failed just now. Try again in a few seconds.",
                2,
            )
        connection = self._gateway.pool.reuse(self._address)
        if connection is not None:
            self._send(connection)
        else:
            self._connecting = self._gateway.loop.create_task(self._connect())

    async def _connect(self) -> None:
        assert self._address is not None  # noqa: S101
        try:
            connection = await self._gateway.pool.connect(self._address)
        except (OSError, TimeoutError):
            self._connecting = None
            if not self.done:
                self._abandon_upstream(failed=True)
                self.fail(
                    GatewayError(
                        502,
                        "instance_unreachable",
                        "The instance does not accept connections. Try again in a few seconds.",
                        2,
                    ),
                    outcome=meter.FAILED,
                )
            return
        self._connecting = None
        if self.done:
            connection.close()
            return
        self._send(connection)

    def _send(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        connection.take(self)
        self._forwarded = now = monotonic()
        wait = self._gateway.timeouts.first_byte_s if self.request_done else self._gateway.timeouts.body_idle_s
        self.deadline = now + wait
        headers = framing.end_to_end(self._headers)
        head = framing.request_head(
            self._method,
            self._upstream_path,
            f"{connection.address.host}:{connection.address.port}",
            headers,
            self.request_id,
            self._length,
        )
        parts = [head]
        for data in self._body:
            parts.append(framing.chunk(data) if self._length == -1 else data)
        if self._length == -1 and self.request_done:
            parts.append(b"0\r\n\r\n")
        if not self._buffering:
            self._sent_body += self._body_bytes
            if self._body_bytes:
                self._body = []
            # Before the write: the write may pause reading again at once.
            self._client.resume_reading()
        connection.write(b"".join(parts))

    # From the instance (ResponseSink)

    def response_started(self, status: int, reason: bytes, headers: Headers, *, keeps_alive: bool) -> None:
        self._status = status
        self._upstream_keeps_alive = keeps_alive
        self.deadline = monotonic() + self._gateway.timeouts.stream_idle_s
        content_type = next((value for name, value in headers if name == b"content-type"), b"")
        if self._openai and status == 200:
            streams = content_type.startswith(b"text/event-stream")
            self._usage = StreamUsage(strip=self._asked_for_usage) if streams else BodyUsage()
        drops_length = isinstance(self._usage, StreamUsage) and self._asked_for_usage
        kept = framing.end_to_end(headers)
        length = next((value for name, value in headers if name == b"content-length"), None)
        no_body = self._method == b"HEAD" or status in framing.NO_BODY_STATUS
        if length is not None and not drops_length:
            kept.append((b"content-length", length))
        elif not no_body:
            self._chunked = self._version == "1.1"
            self.keep_alive = self.keep_alive and self._chunked
        kept.append((b"x-request-id", self.request_id))
        if self._identity is not None and self._address is not None:
            kept.append((b"x-slipway-instance", self._address.uid.encode()))
        if not self._client.is_writable and not self._paused_at:
            # The answer before this one still fills the client's buffer.
            self.client_writable(False)
        if not self.request_done:
            # An answer before the request's end: nothing may be read as a next request from this connection.
            self.keep_alive = False
        if self._version == "1.0" and self.keep_alive:
            kept.append((b"connection", b"keep-alive"))
        self._head_sent = True
        self._out.append(
            framing.response_head(
                status, reason or REASONS.get(status, b""), kept, chunked=self._chunked, close=not self.keep_alive
            )
        )
        if self._method == b"HEAD":
            # httptools would wait for the body that Content-Length announces, so this connection is not used again.
            self._upstream_keeps_alive = False
            self.response_complete()
            self.response_flush()

    def response_body(self, data: bytes) -> None:
        if not self._first_byte:
            self._first_byte = monotonic()
        if self._usage is not None:
            data = self._usage.feed(data)
        if data:
            self._out.append(framing.chunk(data) if self._chunked else data)

    def response_complete(self) -> None:
        if isinstance(self._usage, StreamUsage):
            rest = self._usage.finish()
            if rest:
                self._out.append(framing.chunk(rest) if self._chunked else rest)
        if self._chunked:
            self._out.append(b"0\r\n\r\n")
        self._complete = True

    def response_flush(self) -> None:
        """Everything that one read brought is handed on with one write; the books are written before the last byte."""
        if self.done or not self._head_sent:
            return
        self.deadline = monotonic() + self._gateway.timeouts.stream_idle_s
        if not self._complete:
            if self._out:
                self._client.write(b"".join(self._out))
                self._out.clear()
            return
        connection, self._connection = self._connection, None
        data = b"".join(self._out)
        self._finish(meter.COMPLETED)
        if connection is not None:
            if self._upstream_keeps_alive and self.request_done and not self._paused_at and connection.is_reusable:
                self._gateway.pool.give_back(connection)
            else:
                connection.close()
        self._client.finish_exchange(self, data)

    def upstream_lost(self, *, answered: bool, ended_by_close: bool) -> None:
        connection, self._connection = self._connection, None
        if self.done:
            return
        if ended_by_close:
            self.response_complete()
            self.response_flush()
        elif not self._head_sent and not answered and connection is not None and connection.reused and self._may_retry:
            # It was closed while it lay idle: the instance never saw the request.
            self._retried = True
            self._connecting = self._gateway.loop.create_task(self._connect())
        elif not self._head_sent:
            self._release(failed=True)
            self.fail(
                GatewayError(
                    502, "instance_closed", "The instance closed the connection without an answer. Its log says why."
                ),
                outcome=meter.FAILED,
            )
        else:
            self._release(failed=True)
            self._finish(meter.FAILED)
            # Cut off, so that the client can't take the torn answer for a whole one.
            self._client.write(b"".join(self._out))
            self._client.abort()

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
        """Answer with an error of the gateway's own."""
        if self.done:
            return
        self._abandon_upstream(failed=None)
        if self._head_sent:
            # A second head inside a running answer would be taken for its body: cut instead.
            self._finish(meter.CANCELLED if error.status < 500 else meter.FAILED)
            self._client.abort()
            return
        self._status = error.status
        self._finish(outcome)
        headers: Headers = [(b"retry-after", str(error.retry_after_s).encode())] if error.retry_after_s else []
        self._answer(error.status, error.body(self.request_id.decode()), headers)

    def _answer(
        self, status: int, body: bytes, headers: Headers | None = None, content_type: bytes = b"application/json"
    ) -> None:
        self.done = True
        self.keep_alive = self.keep_alive and self.request_done
        lines = [
            (b"content-type", content_type),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", self.request_id),
            *(headers or []),
        ]
        if self._version == "1.0" and self.keep_alive:
            lines.append((b"connection", b"keep-alive"))
        head = framing.response_head(
            status, REASONS.get(status, b"OK"), lines, chunked=False, close=not self.keep_alive
        )
        self._client.finish_exchange(self, head if self._method == b"HEAD" else head + body)

    def _answer_locally(self) -> bool:
        path = self._path.partition(b"?")[0]
        if path == b"/healthz":
            self._answer(200, b"ok\n", content_type=b"text/plain")
        elif path == b"/v1/models" and self._method in (b"GET", b"HEAD"):
            self._answer(200, routes.models_answer(self._gateway.snapshot))
        elif path.startswith(b"/v1/models/") and self._method in (b"GET", b"HEAD"):
            self._answer(200, routes.model_answer(self._gateway.snapshot, path[11:].decode("latin-1")))
        else:
            return False
        return True

    def _finish(self, outcome: int) -> None:
        """Write the request's one final record. Requests that were never admitted have none."""
        self.done = True
        self._release(failed=False)
        if self._ledger_file is None or self._target is None:
            return
        now = monotonic()
        paused = self._paused + (now - self._paused_at if self._paused_at else 0.0)
        tokens = self._usage.tokens(self._body_bytes) if self._usage is not None else Tokens()
        forwarded = self._forwarded or now
        entry = Entry(
            sequence=self._sequence,
            deployment_id=self._target.deployment_id,
            version_id=self._target.version_id,
            instance=bytes.fromhex(self._address.uid) if self._address and self._forwarded else NO_INSTANCE,
            organization_id=self._identity.organization_id if self._identity else 0,
            user_id=self._identity.user_id if self._identity else 0,
            source=1 if self._identity else 0,
            outcome=outcome,
            status=self._status or (499 if outcome == meter.CANCELLED else 502),
            at=time.time(),
            end_to_end=max(0.0, now - self._started - paused),
            inference=max(0.0, now - forwarded - paused) if self._forwarded else -1.0,
            queue=max(0.0, forwarded - self._started),
            first_token=self._first_byte - self._started if self._first_byte else -1.0,
            input_tokens=tokens.input,
            output_tokens=tokens.output,
            estimated=tokens.estimated,
        )
        self._gateway.finished(self._ledger_file, entry)

    def _abandon_upstream(self, *, failed: bool | None) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._release(failed=failed)

    def _release(self, *, failed: bool | None) -> None:
        """Give the instance's place back, once. A retry on a fresh connection keeps it."""
        if self._address is not None and not self._released:
            self._released = True
            self._gateway.balancer.release(self._address, failed=failed, now=monotonic())

    @property
    def _has_body(self) -> bool:
        return self._length is not None and self._length != 0

    @property
    def _may_retry(self) -> bool:
        return not self._retried and self.request_done and (self._buffering or self._sent_body == 0)

    def _too_large(self) -> GatewayError:
        limit = MAX_BUFFERED_BODY >> 20
        return GatewayError(
            413,
            "body_too_large",
            f"A body on /v1 has at most {limit} MiB. Larger ones can be streamed to the deployment's own address.",
        )

    def _read_identity(self) -> Identity | None:
        token = self._header(identity_token.HEADER)
        if not token:
            return None
        identity = identity_token.read(token.decode("latin-1"), secret=self._gateway.secret, now=time.time())
        if identity is None:
            raise GatewayError(
                401, "identity_invalid", "The console's token has expired or is not valid. Send the request again."
            )
        return identity

    def _header(self, name: bytes) -> bytes:
        return next((value for key, value in self._headers if key == name), b"")
