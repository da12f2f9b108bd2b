"""One request and its answer: plan, forward, stream back, and note it in the books exactly once."""

import asyncio
import logging
from time import monotonic

from common.byte_budget import network_of
from common.request_outcomes import CANCELLED, COMPLETED, FAILED, REJECTED
from gateway.access.callers import ANONYMOUS, HOW, by_key, read_identity
from gateway.bodies import request_coding
from gateway.books import journal
from gateway.books.journal import NO_INSTANCE, File
from gateway.books.tokens import BYTES_PER_TOKEN, Tokens
from gateway.core import Gateway
from gateway.errors import GatewayError
from gateway.exchange import request_body
from gateway.exchange.answer import AnswerSide
from gateway.exchange.plan import Plan, plan_of
from gateway.http import api_server, framing, half_closed
from gateway.http.address import Address
from gateway.http.bounds import UNCOUNTED_BODY, Holders
from gateway.http.client import ClientConnection
from gateway.http.framing import RequestHead
from gateway.http.upstream import UpstreamConnection
from gateway.limits import limiter
from gateway.limits.buckets import Bucket, Refusal
from gateway.limits.limiter import Allowance
from gateway.routing import own_answers, routes
from gateway.routing.balancer import Load
from gateway.routing.target import Target

log = logging.getLogger(__name__)

MAX_BUFFERED_BODY = 32 << 20
# What is held of a body that streams while the connection to the instance is still being made.
HELD_BODY = 64 << 10
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NO_TOKENS = Tokens()


class Exchange(AnswerSide):
    """Lives from a sound request head to the last byte of the answer, or to whatever ends it before."""

    __slots__ = (
        "_address", "_answer_tokens", "_body", "_body_bytes", "_buffering", "_connecting", "_counted_bytes", "_file", "_forwarded",
        "_holders", "_length", "_load", "_parties", "_reserved", "_retried", "_sent_body", "_sequence", "_started", "_upstream_blocked",
    )  # fmt: skip

    def __init__(self, gateway: Gateway, client: ClientConnection, head: RequestHead) -> None:
        self._sequence, request_id = gateway.next_request(head.request_id)
        AnswerSide.__init__(self, gateway, client, head, request_id)
        self._length = head.length
        self._buffering = self._retried = self._upstream_blocked = False
        self._body: list[bytes] | None = None
        self._body_bytes = self._sent_body = self._counted_bytes = 0
        # To whom what is held of the body is counted, as soon as it is worth counting.
        self._holders: Holders = {}
        self._address: Address | None = None
        self._load: Load | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._file: File | None = None
        self._parties = b""
        self._started = self._forwarded = 0.0
        # Tokens that the answer may have, then the prompt's with them; those that the limits hold for this request.
        self._answer_tokens = self._reserved = 0

    # From the client

    def begin(self) -> None:
        """Check, plan, forward as far as the request is there."""
        gateway, head = self._gateway, self.head
        self._started = now = monotonic()
        if not self.request_done:
            self.deadline = now + gateway.timeouts.body_idle_s
        try:
            if head.identity:
                self.caller = read_identity(head.identity, gateway.installation_keys.identity, gateway.keys)
            elif head.key:
                self.caller = by_key(gateway.keys, head.key, now + gateway.wall_offset)
            plan = head.plan
            if type(plan) is not Plan or plan.snapshot is not gateway.snapshot:
                own = own_answers.to(head, gateway.snapshot, self.caller)
                if own is not None:
                    self._reply(200, own.body, content_type=own.content_type)
                    return
                plan = plan_of(gateway.snapshot, head, self.caller)
            self._plan = plan
            length = self._length
            self._target = target = plan.target
            if target is not None and self.caller is not plan.caller:
                routes.check_access(gateway.snapshot, target, self.caller)
                self._recognize(plan, target)
            if target is None:
                self._buffering = True
                if self.caller is ANONYMOUS and not gateway.snapshot.has_public:
                    # Before its body: nothing in it could name what this caller may call.
                    message = f"Every deployment here needs a key. Send one: {HOW}"
                    raise GatewayError(401, "key_missing", message)
                if length is not None and length > MAX_BUFFERED_BODY:
                    raise _too_large()
            elif length and plan.tells_usage:
                self._buffering = 0 < length <= MAX_BUFFERED_BODY
            if not self._buffering:
                self._admit(now)
                self._pass_limits(now)
            elif self.request_done:
                self._dispatch_buffered(now)
            else:
                if target is not None and not target.addresses:
                    # Known before the body: it need not be sent.
                    self._admit(now)
                if head.expects:
                    self.client.write(CONTINUE)
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
        if self._buffering:
            if self._body_bytes > UNCOUNTED_BODY:
                self._count_held()
        elif self._body_bytes > HELD_BODY:
            # Nowhere to put it yet: the connection to the instance is still being made.
            self.client.pause_reading()

    def _count_held(self) -> None:
        """A body that is held whole takes memory from others: within bounds, for each and in all."""
        try:
            if self._body_bytes > MAX_BUFFERED_BODY:
                raise _too_large()
            self._holders = self._holders or self._gateway.bodies.holders(
                self.caller.user_id, self._caller_address, is_own=bool(self.head.identity)
            )
            more = self._body_bytes - self._counted_bytes
            self._gateway.bodies.take(self._holders, more)
            self._counted_bytes += more
        except GatewayError as error:
            self.fail(error)

    @property
    def _caller_address(self) -> str:
        """Of whoever is behind the proxy that opened the connection, where that one is trusted."""
        return network_of(self._gateway.origin_of(self.client.peer, self.head))

    def answer_began(self) -> None:
        """Nothing is sent again: what the instance has taken need not be held any more."""
        if self._counted_bytes and self._connection is not None:
            self._body = None
            if not self._connection.transport.get_write_buffer_size():
                self._let_go()

    def _let_go(self) -> None:
        self._body = None
        if self._counted_bytes:
            self._gateway.bodies.give_back(self._holders, self._counted_bytes)
            self._counted_bytes = 0

    def request_complete(self) -> None:
        self.request_done = True
        if self.done:
            return
        if self._buffering:
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
        if self._tunnels and self._connection is not None:
            self.deadline = monotonic() + self._gateway.timeouts.stream_idle_s
            self._connection.transport.write(data)
            return
        if self._body is None:
            self._body = []
        self._body.append(data)
        self.client.pause_reading()

    def client_lost(self) -> None:
        """The client left: close upstream at once and settle what was produced."""
        if not self.done:
            # A websocket has no end of its own but this one.
            self._end_upstream(failed=False)
            self._finish(COMPLETED if self._tunnels else CANCELLED, monotonic())

    def client_half_closed(self) -> None:
        """Find out whether it has gone, where something can be written that means nothing."""
        if self._chunked:
            self.client.write(half_closed.PROBE_IN_CHUNKS)
        elif not (self.has_begun or self.head.is_1_0):
            self.client.write(half_closed.PROBE)

    def check_deadline(self, now: float) -> None:
        connection = self._connection
        if connection is not None and connection.was_heard:
            connection.was_heard = False
            self.deadline = now + self._gateway.timeouts.stream_idle_s
        if self.deadline < now:
            self._on_deadline()
        elif self._forwarded and not self._is_still_allowed(now):
            # What streams for an hour has no next request at which it would be refused.
            self._end_access()
        elif self._started and now - self._started > self._gateway.timeouts.total_s and not self._tunnels:
            # Says nothing of the instance, which may be halfway through a long answer.
            self.fail(
                GatewayError(504, "total_timeout", "The request took longer than a request may take."),
                outcome=FAILED,
            )

    def _end_access(self) -> None:
        if self._tunnels:
            log.info("%s ended: access_ended", self.request_id.decode())
            self.client.abort()
            return
        message = "The key was revoked, has expired, or may not call this deployment any more."
        self.fail(GatewayError(401, "access_ended", message), outcome=CANCELLED)

    def _is_still_allowed(self, now: float) -> bool:
        gateway, head = self._gateway, self.head
        target = gateway.snapshot.by_api_id.get(self._target.api_id) if self._target is not None else None
        caller = gateway.keys.get(head.key) if head.key and not head.identity else self.caller
        return (
            target is not None
            and caller is not None
            and caller.expires_at > now + gateway.wall_offset
            and caller.may_call(target)
        )

    def _on_deadline(self) -> None:
        if self.paused_at or self._tunnels:
            log.info("%s ended: %s", self.request_id.decode(), "slow_reader" if self.paused_at else "idle_timeout")
            self.client.abort()
        elif not self.request_done and not self._upstream_blocked:
            self.fail(GatewayError(408, "body_timeout", "The body did not arrive in time. Send it again."))
        elif not self.has_begun:
            self._time_out(GatewayError(504, "first_byte_timeout", "The instance did not begin to answer in time."))
        else:
            self._time_out(GatewayError(504, "idle_timeout", "The instance sent nothing for too long."))

    def _time_out(self, error: GatewayError) -> None:
        self._end_upstream(failed=True)
        self.fail(error, outcome=FAILED)

    # To the instance

    def _dispatch_buffered(self, now: float) -> None:
        """The whole body is here: find the deployment, forward."""
        pieces = self._body or []
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self.head.coding and body:
            self._open(body)
        else:
            self._dispatch(body, now)

    def _open(self, body: bytes) -> None:
        """Elsewhere: what is small here may be large there, and nobody else shall wait for it."""
        coding = self.head.coding
        request_coding.check(coding)
        opening = self._gateway.loop.run_in_executor(
            None, request_coding.opened, coding, body, MAX_BUFFERED_BODY, _too_large()
        )
        opening.add_done_callback(self._opened)

    def _opened(self, opening: "asyncio.Future[bytes]") -> None:
        try:
            body = opening.result()
            if self.done:
                return
            self._body, self._body_bytes = [body], len(body)
            if self._body_bytes > UNCOUNTED_BODY:
                self._count_held()
            if not self.done:
                self._dispatch(body, monotonic())
        except GatewayError as error:
            self.fail(error)

    def _dispatch(self, body: bytes, now: float) -> None:
        self._started = now
        assert self._plan is not None  # noqa: S101
        self._target, body, self._strips_usage, self._answer_tokens = request_body.read(
            self._gateway.snapshot, self._plan, self.head, self.caller, body
        )
        if self.caller is not self._plan.caller or self._target is not self._plan.called:
            self._recognize(self._plan, self._target)
        self._body, self._length = [body], len(body)
        self._admit(now)
        self._pass_limits(now)

    def _admit(self, now: float) -> None:
        """Into the books, once; raises when nothing can serve it, which is an end like any other."""
        target, plan, gateway = self._target, self._plan, self._gateway
        assert target is not None and plan is not None  # noqa: S101
        counts_all = target.counts_tokens or self.caller.organization_id in gateway.snapshot.metered
        if self.head.websocket and counts_all:
            message = "Tokens are limited or have a price here, and can't be counted on a websocket. Use HTTP."
            raise GatewayError(403, "websocket_not_metered", message)
        self._parties = parties = plan.parties
        # Where tokens cost or count, those that an answer doesn't tell are estimated.
        self.counts = plan.tells_usage or (counts_all and plan.may_generate and not target.is_free(plan.plain_path))
        self._file = gateway.journal.admitted(self._sequence, now + gateway.wall_offset, parties)
        gateway.in_flight += 1
        if not target.addresses:
            raise target.unavailable()

    def _pass_limits(self, now: float) -> None:
        """Through the caller's limits to the instance; where the shared counters must be asked, once they answer."""
        plan = self._plan
        assert plan is not None  # noqa: S101
        spent = self._gateway.snapshot.spent
        if spent and self.counts and self.caller.organization_id in spent:
            raise limiter.month_is_spent()
        allowance = plan.allowance
        if allowance is None:
            self._forward(now)
            return
        if not allowance.is_current:
            plan.allowance = allowance = self._limits_of(self._target)  # type: ignore[arg-type]
            if allowance is None:
                self._forward(now)
                return
        self._allowance = allowance
        if self.counts and allowance.tokens:
            if plan.answers_text and not (self._buffering and plan.tells_usage):
                # What streams in isn't read: it may ask for anything.
                self._answer_tokens = request_body.RESERVED_ANSWER
            # At least one: what holds nothing would not be settled.
            self._answer_tokens = max(1, self._answer_tokens + max(self._length or 0, 0) // BYTES_PER_TOKEN)
        else:
            self._answer_tokens = 0
        if allowance.take(self._answer_tokens, now):
            self._reserved = self._answer_tokens
            self._forward(now)
        else:
            self._gateway.limiter.ask(allowance, self._answer_tokens, self._limits_passed)

    def _limits_passed(self, refusal: Refusal | None) -> None:
        """What the shared counters say; the client may have left meanwhile."""
        allowance = self._allowance
        assert allowance is not None  # noqa: S101
        if refusal is not None:
            self.fail(allowance.error(refusal), hit=refusal.bucket)
        elif self.done:
            self._gateway.limiter.settle(allowance, self._answer_tokens, 0)
        else:
            self._reserved = self._answer_tokens
            try:
                self._forward(monotonic())
            except GatewayError as error:
                self.fail(error)

    def _recognize(self, plan: Plan, target: Target) -> None:
        """What the books and the limits call this request, remembered for the next one like it."""
        caller = self.caller
        plan.caller, plan.called = caller, target
        plan.parties = journal.parties(
            target.deployment_id,
            target.version_id,
            caller.organization_id,
            caller.user_id,
            caller.key_id,
            caller.source,
        )
        plan.allowance = self._limits_of(target)

    def _limits_of(self, target: Target) -> Allowance | None:
        """By the limits of now: a request whose body came slowly was routed by a picture that may be older."""
        current = self._gateway.snapshot.by_api_id.get(target.api_id, target)
        if current.deployment_id != target.deployment_id or not current.limits:
            return None
        return self._gateway.limiter.allowance(current, self.caller)

    def _forward(self, now: float) -> None:
        assert self._target is not None and self._plan is not None  # noqa: S101
        if self.head.expects and not (self.request_done or self._buffering):
            self.client.write(CONTINUE)
        acquired = self._gateway.balancer.acquire(self._target, now)
        if acquired is None:
            message = f"All instances of {self._target.api_id} failed just now. Try again in a few seconds."
            raise GatewayError(503, "breakers_open", message, 2)
        self._address, self._load = acquired
        if self._address.api_server is not None:
            api_server.check_path(self._plan.path)
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
                self.fail(GatewayError(502, "instance_unreachable", message, 2), outcome=FAILED)
            return
        self._connecting = None
        if self.done:
            connection.close()
            return
        self._send(connection, monotonic())

    def _send(self, connection: UpstreamConnection, now: float) -> None:
        assert self._plan is not None  # noqa: S101
        self._connection = connection
        connection.take(self)
        self._forwarded = now
        timeouts = self._gateway.timeouts
        self.deadline = now + (timeouts.first_byte_s if self.request_done else timeouts.body_idle_s)
        length, address = self._length, connection.address
        line = self._plan.line
        if address.api_server is not None:
            line = api_server.request_line(
                address.api_server, address.prefix, self.head.method, self._plan.path, self._plan.passed
            )
        rest = framing.request_rest(self.head, address.host_line, length, b"" if self._buffering else self.head.coding)
        head = b"".join((line, self.request_id, rest))
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
            self.client.resume_reading()
        if self._counted_bytes:
            # A large body isn't copied again for its head's sake.
            connection.transport.writelines(parts)
        else:
            connection.transport.write(b"".join(parts))

    # From the answer

    def refused_for_instance(self, error: GatewayError) -> None:
        self._end_upstream(failed=True)
        self.fail(error, outcome=FAILED)

    def tunnel_opened(self, connection: UpstreamConnection) -> None:
        """What the client sent ahead may go."""
        if self._body:
            connection.transport.write(b"".join(self._body))
            self._body = None
        self.client.resume_reading()

    def complete(self, data: bytes, now: float) -> None:
        self._connection = None
        # The books first: whoever has seen the last byte is in them, whenever this process is killed.
        self._finish(COMPLETED, now)
        self.client.finish_exchange(self, data, now)

    def instance_lost(self, *, was_idle: bool) -> None:
        sent_in_part = self._sent_body and not self._buffering
        if (
            was_idle
            and not self.has_begun
            and not self._retried
            and self.request_done
            and not sent_in_part
            and self._address
        ):
            # It was closed while it lay idle: the instance never saw the request.
            self._retried = True
            self._connecting = self._gateway.loop.create_task(self._connect(self._address))
            return
        self._end_upstream(failed=True)
        message = "The instance closed the connection without an answer. Its log says why."
        self.fail(GatewayError(502, "instance_closed", message), outcome=FAILED)

    def upstream_writable(self, writable: bool) -> None:
        self._upstream_blocked = not writable
        if not self.request_done:
            # While the instance takes nothing it is the one to blame, not the client that we don't read from.
            timeouts = self._gateway.timeouts
            self.deadline = monotonic() + (timeouts.body_idle_s if writable else timeouts.first_byte_s)
        if writable:
            self.client.resume_reading()
        else:
            self.client.pause_reading()

    # Ends

    def fail(self, error: GatewayError, *, outcome: int = REJECTED, hit: Bucket | None = None) -> None:
        """End with an error of the gateway's own: an answer, or a cut where one has begun."""
        if self.done:
            return
        self._end_upstream(failed=False)
        if self.has_begun:
            # Cut off, so that the client can't take the torn answer for a whole one; a second head would be its body.
            log.info("%s ended: %s", self.request_id.decode(), error.code)
            self._finish(CANCELLED if error.status < 500 else FAILED, monotonic())
            self.client.abort()
            return
        self._finish(outcome, monotonic(), error.status)
        lines = [*error.headers]
        if self._allowance is not None:
            lines += self._allowance.headers(monotonic(), hit)
        if error.status == 401:
            lines.append((b"www-authenticate", b"Bearer"))
        self._reply(error.status, error.body(self.request_id.decode()), error.retry_after_s, lines=lines)

    def _reply(
        self,
        status: int,
        body: bytes,
        retry_after_s: int | None = None,
        content_type: bytes = b"application/json",
        lines: framing.Headers | None = None,
    ) -> None:
        self.done = True
        self._let_go()
        self.keep_alive = self.keep_alive and self.request_done
        lines = [(b"content-type", content_type), (b"x-request-id", self.request_id), *(lines or ())]
        if retry_after_s:
            lines.append((b"retry-after", b"%d" % retry_after_s))
        data = framing.own_answer(
            status, lines, body, close=not self.keep_alive, keep_alive_1_0=self.head.is_1_0 and self.keep_alive
        )
        self.client.finish_exchange(self, data[: -len(body)] if self.head.method == b"HEAD" else data, monotonic())

    def _finish(self, outcome: int, now: float, status: int = 0) -> None:
        """Write the request's one final record. Requests that were never admitted have none."""
        self.done = True
        if self._counted_bytes:
            self._let_go()
        if self._load is not None:
            self._load.served()
            self._load = None
        file = self._file
        if file is None:
            return
        self._file = None
        started, forwarded, first_byte, gateway = self._started, self._forwarded, self.first_byte, self._gateway
        tokens = self._usage.tokens(self._body_bytes) if self._usage is not None else _NO_TOKENS
        if outcome == CANCELLED and forwarded and not tokens.input and self.counts:
            # The client left before anything was told, but the instance had the prompt.
            tokens = Tokens(max(1, self._body_bytes // BYTES_PER_TOKEN), tokens.output, estimated=True)
        if self._reserved:
            gateway.limiter.settle(self._allowance, self._reserved, tokens.input + tokens.output)  # type: ignore[arg-type]
        if first_byte and not (self._tunnels or self.paused_at or self._paused_s):
            first_token = first_byte - started if self.streams else -1.0
            clocks = now - started, now - forwarded, forwarded - started, first_token
        else:
            clocks = self._unusual_clocks(now)
        gateway.in_flight -= 1
        gateway.journal.finished(
            file, outcome, status or self.status or (499 if outcome == CANCELLED else 502), tokens.estimated,
            self._sequence, now + gateway.wall_offset, self._parties,
            self._address.key if forwarded else NO_INSTANCE,  # type: ignore[union-attr]
            *clocks, tokens.input, tokens.output,
        )  # fmt: skip

    def _unusual_clocks(self, now: float) -> tuple[float, float, float, float]:
        """End-to-end, inference, queue and first-token time of a request that lacks some, or whose client was slow."""
        started, forwarded, paused = self._started, self._forwarded, self._paused_until(now)
        # A websocket's duration is no latency.
        timed = not self._tunnels
        return (
            now - started - paused if timed else -1.0,
            now - forwarded - paused if forwarded and timed else -1.0,
            (forwarded or now) - started,
            self.first_byte - started if self.first_byte and self.streams and timed else -1.0,
        )

    def _end_upstream(self, *, failed: bool) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._load is not None:
            # The instance's place is given back once. A retry on a fresh connection keeps it.
            self._load.release(failed=failed, now=monotonic())
            self._load = None

    is_queuing = False

    @property
    def is_tunnel(self) -> bool:
        """What comes behind the request's head is not HTTP any more."""
        return self.head.websocket

    @property
    def admitted_deployment(self) -> int | None:
        """The deployment in whose books this request is in flight."""
        return self._target.deployment_id if self._target is not None and self._file is not None else None


def _too_large() -> GatewayError:
    limit = MAX_BUFFERED_BODY >> 20
    return GatewayError(
        413,
        "body_too_large",
        f"A body on /v1 has at most {limit} MiB. Larger ones can be streamed to the deployment's own address.",
    )
