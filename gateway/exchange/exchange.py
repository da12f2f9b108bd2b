"""One request and its answer: plan it, send it, settle it. Noted in the books exactly once, however it ends."""

from time import monotonic

from common.request_outcomes import CANCELLED, COMPLETED
from gateway.access.callers import ANONYMOUS, HOW, by_key, read_identity
from gateway.errors import GatewayError
from gateway.exchange import admission, deadlines, sending, settling
from gateway.exchange.answer import Answer, whole_usage
from gateway.exchange.held_body import MAX_BUFFERED_BODY, HeldBody, too_large
from gateway.exchange.plan import Call, Plan, plan_of
from gateway.exchange.state import ANSWER_END, NOTHING, TUNNEL_END, ExchangeState
from gateway.http import framing, half_closed
from gateway.http.upstream import AnswerHead, UpstreamConnection
from gateway.routing import cross_origin, own_answers, routes
from gateway.routing.target import Target

# What is held of a body that streams while the connection to the instance is still being made.
HELD_BODY = 64 << 10


class Exchange(ExchangeState):
    """Lives from a sound request head to the last byte of the answer, or to whatever ends it before: what happens to it, in
    turn, as both sides tell. It takes whole answers itself; for all others it makes an Answer.
    """

    __slots__ = ()
    is_queuing = False

    # From the client

    def begin(self, body: bytes = b"") -> None:
        """Find out who asks for what; forward as far as the request is there. `body` where all of it came with the head."""
        gateway, head = self.gateway, self.head
        if body:
            self.body = HeldBody(gateway.bodies)
            self.body.add(body)
        self.started = now = monotonic()
        if not self.request_done:
            self.deadline = now + gateway.timeouts.body_idle_s
        try:
            if head.preflight is not None:
                settling.reply(self, 200, b"", lines=cross_origin.preflight(gateway.snapshot, head))
                return
            if head.identity:
                self.caller = read_identity(head.identity, gateway.installation_keys.identity, gateway.keys)
            elif head.key:
                self.caller = by_key(gateway.keys, head.key, now + gateway.wall_offset)
            plan = head.plan
            if type(plan) is not Plan or plan.picture is not gateway.snapshot.picture:
                own = own_answers.to(head, gateway.snapshot, self.caller)
                if own is not None:
                    settling.reply(self, 200, own.body, content_type=own.content_type)
                    return
                plan = plan_of(gateway.snapshot, head, self.caller)
            self.plan = plan
            self._begin_by(plan, now)
        except GatewayError as error:
            settling.fail(self, error)

    def _begin_by(self, plan: Plan, now: float) -> None:
        length = self.length
        if plan.target is None and plan.model is None:
            self.holds_body = True
            if self.caller is ANONYMOUS and not self.gateway.snapshot.has_public:
                # Before its body: nothing in it could name what this caller may call.
                raise GatewayError(401, "key_missing", f"Every deployment here needs an API key. Send {HOW}")
            if length is not None and length > MAX_BUFFERED_BODY:
                raise too_large()
        else:
            call = plan.call
            if call is None or call.caller is not self.caller:
                call = plan.call = Call(
                    plan, self.caller, self._target_of(plan), self.gateway.limiter, self.gateway.snapshot
                )
            self.call = call
            reads = plan.tells_usage or plan.model is not None
            self.holds_body = reads and length is not None and 0 < length <= MAX_BUFFERED_BODY
            if length == -1 and plan.model is not None:
                # Its model has to become the one that is named outside it.
                self.holds_body = True
        if not self.holds_body:
            admission.admit(self, now)
            admission.pass_limits(self, now)
        elif self.request_done:
            if self.body is not None:
                admission.count_held(self, self.body)
            if not self.is_over:
                admission.read_body(self, now)
        else:
            if self.call is not None and not self.call.target.addresses:
                # Known before the body: it need not be sent.
                admission.admit(self, now)
            if self.head.expects:
                self.client.write(sending.CONTINUE)

    def _target_of(self, plan: Plan) -> Target:
        """What the head names, if it is there for this caller. Raises GatewayError."""
        snapshot = self.gateway.snapshot
        if plan.target is None:
            return snapshot.by_model(plan.model or "", self.caller)
        routes.check_access(snapshot, plan.target, self.caller)
        return plan.target

    def request_body(self, data: bytes) -> None:
        """A part of the body has come."""
        if self.waits_for == NOTHING:
            return
        self.deadline = monotonic() + self.gateway.timeouts.body_idle_s
        body = self.body
        if body is None:
            body = self.body = HeldBody(self.gateway.bodies)
        if self.connection is not None and self.forwarded:
            body.size += len(data)
            self.sent_body += len(data)
            self.connection.transport.write(framing.chunk(data) if self.length == -1 else data)
            return
        body.add(data)
        if self.holds_body:
            admission.count_held(self, body)
        elif body.size > HELD_BODY:
            # Nowhere to put it yet: the connection to the instance is still being made.
            self.client.pause_reading()

    def request_complete(self) -> None:
        """The body is whole."""
        self.request_done = True
        if self.waits_for == NOTHING:
            return
        if self.holds_body:
            try:
                admission.read_body(self, monotonic())
            except GatewayError as error:
                settling.fail(self, error)
        elif self.connection is not None and self.forwarded:
            if self.length == -1:
                self.connection.transport.write(b"0\r\n\r\n")
            self.deadline = monotonic() + self.gateway.timeouts.first_byte_s

    def client_data(self, data: bytes) -> None:
        """Bytes of a websocket. Before the instance has agreed they wait with the client."""
        if self.waits_for == TUNNEL_END and self.connection is not None:
            self.deadline = monotonic() + self.gateway.timeouts.stream_idle_s
            self.connection.transport.write(data)
            return
        if self.body is None:
            self.body = HeldBody(self.gateway.bodies)
        self.body.add(data)
        self.client.pause_reading()

    def client_writable(self, writable: bool) -> None:
        if self.answer is not None:
            self.answer.client_writable(writable)

    def client_lost(self) -> None:
        """The client left: close upstream at once and settle what was produced."""
        if self.waits_for != NOTHING:
            # A websocket has no end of its own but this one.
            outcome = COMPLETED if self.waits_for == TUNNEL_END else CANCELLED
            settling.end_upstream(self, failed=False)
            settling.finish(self, outcome, monotonic())

    def client_half_closed(self) -> None:
        """Find out whether it has gone, where something can be written that means nothing."""
        if self.answer is not None:
            self.answer.probe()
        elif not self.head.is_1_0:
            self.client.write(half_closed.PROBE)

    def check_deadline(self, now: float) -> None:
        deadlines.check(self, now)

    def fail(self, error: GatewayError) -> None:
        """What comes behind the head can't be read."""
        settling.fail(self, error)

    def upstream_writable(self, writable: bool) -> None:
        """Back-pressure of the instance on the request's body."""
        self.is_blocked = not writable
        if not self.request_done:
            # While the instance takes nothing it is the one to blame, not the client that we don't read from.
            timeouts = self.gateway.timeouts
            self.deadline = monotonic() + (timeouts.body_idle_s if writable else timeouts.first_byte_s)
        if writable:
            self.client.resume_reading()
        else:
            self.client.pause_reading()

    # From the instance (AnswerTaker), until an Answer takes over

    def whole_answer(self, connection: UpstreamConnection, head: AnswerHead, data: bytes, start: int) -> bool:
        """All of an answer in one read, its body from `start` on; False when it has to go the long way."""
        if not (
            self.request_done
            and self.keep_alive
            and self.client.is_writable
            and not self.head.identity
            and not (self.head.is_1_0 or self.asks or self.asked_name)
            and not (head.coding or connection.address.api_server)
            and self.head.method != b"HEAD"
        ):
            return False
        self.first_byte = now = monotonic()
        self.status = head.status
        body = data[start:]
        if head.status == 200 and self.plan.may_generate:  # type: ignore[union-attr]
            self.usage = usage = whole_usage(self)
            usage.feed(body)
        self.gateway.pool.settle(connection, now, keeps_alive=head.keeps_alive)
        served = self.call.served(self.forwarded - self.started)  # type: ignore[union-attr]
        end = b"\r\n%b\r\n" % head.limits if self.allowance is None else self.allowance.ending(now)
        settling.complete(self, b"".join((head.with_length, self.request_id, served, end, body)), now)
        return True

    def progressed(self, connection: UpstreamConnection) -> None:
        if self._has_refused_the_question(connection):
            sending.ask_without(self, connection)
        else:
            self._make_answer(connection).progressed(connection)

    def switched_protocols(self, connection: UpstreamConnection, rest: bytes) -> None:
        self._make_answer(connection).switched_protocols(connection, rest)

    def chunk_came(self, connection: UpstreamConnection, raw: bytes, start: int) -> None:
        raise AssertionError("chunks come behind a head")

    def tunnelled(self, data: bytes) -> None:
        raise AssertionError("a tunnel begins with an answer")

    def upstream_lost(self, *, answered: bool, ended_by_close: bool) -> None:
        """The connection ended before anything of an answer was read."""
        connection, self.connection = self.connection, None
        if self.waits_for == NOTHING:
            return
        was_idle = connection is not None and connection.reused and not answered
        can_repeat = self.request_done and (self.holds_body or not self.sent_body)
        if was_idle and can_repeat and self.address is not None:
            # It was closed while it lay idle: the instance never saw the request.
            sending.connect(self, self.address)
        else:
            settling.instance_failed(self, connection)

    def _make_answer(self, connection: UpstreamConnection) -> Answer:
        self.waits_for = ANSWER_END
        answer = self.answer = Answer(self, connection)
        connection.hand_over(answer)
        # The connection has it, as far as it is still to be sent.
        self.asking = None
        if self.body is not None and self.body.is_counted and not connection.transport.get_write_buffer_size():
            # Nothing is sent again: what the instance has taken need not be held any more.
            self.body.let_go()
        return answer

    def _has_refused_the_question(self, connection: UpstreamConnection) -> bool:
        """Whether the instance may have been stricter with what the gateway asked for than with the client's own body."""
        return self.asking is not None and connection.status in (400, 422)

    @property
    def is_tunnel(self) -> bool:
        """What comes behind the request's head is not HTTP any more."""
        return self.head.websocket

    @property
    def admitted_deployment(self) -> int | None:
        """The deployment in whose books this request is in flight."""
        return self.call.target.deployment_id if self.call is not None and self.file is not None else None
