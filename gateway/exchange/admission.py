"""The first part of an exchange: what its body says, into the books, through the caller's limits."""

import asyncio
import logging
from time import monotonic

from common.byte_budget import network_of
from gateway.bodies import request_coding, text_size
from gateway.books.tokens import BYTES_PER_TOKEN
from gateway.errors import GatewayError, internal
from gateway.exchange import request_body
from gateway.exchange.held_body import MAX_BUFFERED_BODY, HeldBody, too_large
from gateway.exchange.plan import Call, limits_of
from gateway.exchange.sending import forward
from gateway.exchange.settling import fail
from gateway.exchange.state import LIMITS, NOTHING, ExchangeState
from gateway.limits import limiter
from gateway.limits.buckets import Refusal

log = logging.getLogger(__name__)


def read_body(exchange: ExchangeState, now: float) -> None:
    """The whole body is here."""
    body = exchange.body.whole() if exchange.body is not None else b""
    if exchange.head.coding and body:
        # Elsewhere: what is small here may be large there, and nobody else shall wait for it.
        request_coding.check(exchange.head.coding)
        assert exchange.body is not None  # noqa: S101
        opening = exchange.gateway.openers.run(
            request_coding.opened, exchange.head.coding, body, MAX_BUFFERED_BODY, too_large()
        )
        # Whoever leaves meanwhile still takes the memory.
        exchange.body.keep()
        opening.add_done_callback(lambda opening: _body_opened(exchange, opening))
    else:
        _route(exchange, body, now)


def _body_opened(exchange: ExchangeState, opening: "asyncio.Future[bytes]") -> None:
    held = exchange.body
    assert held is not None  # noqa: S101
    held.keep_no_more()
    try:
        body = opening.result()
        if not exchange.is_over:
            held.replace(body)
            count_held(exchange, held)
        if not exchange.is_over:
            _route(exchange, body, monotonic())
    except GatewayError as error:
        fail(exchange, error)
    except Exception:
        log.exception("%s", exchange.request_id.decode())
        fail(exchange, internal())


def _route(exchange: ExchangeState, body: bytes, now: float) -> None:
    """By what the body says."""
    plan, gateway = exchange.plan, exchange.gateway
    assert plan is not None  # noqa: S101
    exchange.started = now
    named = exchange.call.target if exchange.call is not None else None
    read = request_body.read(gateway.snapshot, plan, named, exchange.head, exchange.caller, body)
    target = read.target
    exchange.answer_tokens, exchange.asked_name = read.answer_tokens, read.asked_name
    held = exchange.body
    if (
        held is not None
        and len(body) >= text_size.LOOKED_AT
        and not exchange.head.content_type.startswith(b"multipart/")
    ):
        held.text = text_size.of_body(body)
    if read.body is not body and held is not None:
        held.replace(read.body)
    if read.asking is not None and held is not None and target.version_id not in gateway.strict_versions:
        exchange.asking, exchange.asks = read.asking, True
        held.beside = len(read.asking)
        count_held(exchange, held)
        if exchange.is_over:
            return
    call, snapshot = plan.call, gateway.snapshot
    if plan.picture is not snapshot.picture:
        # The body took so long that its head's plan is of another time; limits are those of now.
        call = Call(plan, exchange.caller, target, gateway.limiter, snapshot)
    elif call is None or call.caller is not exchange.caller or call.target is not target:
        call = plan.call = Call(plan, exchange.caller, target, gateway.limiter, snapshot)
    exchange.call = call
    exchange.length = len(read.body)
    admit(exchange, now)
    pass_limits(exchange, now)


def admit(exchange: ExchangeState, now: float) -> None:
    """Into the books, once; raises when nothing can serve it, which is an end like any other."""
    call, gateway = exchange.call, exchange.gateway
    assert call is not None  # noqa: S101
    if exchange.head.websocket and call.counts_all:
        message = "Tokens are limited or have a price here, and can't be counted on a websocket. Use HTTP."
        raise GatewayError(403, "websocket_not_metered", message)
    exchange.file = gateway.journal.admitted(exchange.sequence, now + gateway.wall_offset, call.parties)
    gateway.in_flight += 1
    if not call.target.addresses:
        raise call.target.unavailable()


def pass_limits(exchange: ExchangeState, now: float) -> None:
    """Through the caller's limits to the instance; where the shared counters must be asked, once they answer."""
    call, plan = exchange.call, exchange.plan
    assert call is not None and plan is not None  # noqa: S101
    if call.is_spent:
        raise limiter.month_is_spent()
    allowance = call.allowance
    if allowance is not None and not allowance.is_current:
        allowance = call.allowance = limits_of(
            exchange.gateway.snapshot, exchange.caller, call.target, exchange.gateway.limiter
        )
    if allowance is None:
        forward(exchange, now)
        return
    exchange.allowance = allowance
    tokens = 0
    if call.counts and allowance.tokens:
        reads = exchange.holds_body and plan.tells_usage
        # What streams in isn't read: it may ask for anything.
        answer = exchange.answer_tokens if reads or not plan.answers_text else request_body.RESERVED_ANSWER
        # At least one: what holds nothing would not be settled.
        prompt = text_size.of_kind(exchange.head.content_type, max(exchange.length or 0, 0))
        if exchange.body is not None and exchange.body.text is not None:
            prompt = exchange.body.text
        tokens = max(1, answer + prompt // BYTES_PER_TOKEN)
    exchange.answer_tokens = tokens
    if allowance.take(tokens, now):
        exchange.reserved = tokens
        forward(exchange, now)
    else:
        exchange.waits_for = LIMITS
        exchange.gateway.limiter.ask(allowance, tokens, lambda refusal: _limits_passed(exchange, refusal))


def _limits_passed(exchange: ExchangeState, refusal: Refusal | None) -> None:
    """What the shared counters say; the client may have left meanwhile."""
    allowance = exchange.allowance
    assert allowance is not None  # noqa: S101
    if refusal is not None:
        fail(exchange, allowance.error(refusal), hit=refusal.bucket)
    elif exchange.waits_for == NOTHING:
        exchange.gateway.limiter.settle(allowance, exchange.answer_tokens, 0)
    else:
        exchange.reserved = exchange.answer_tokens
        try:
            forward(exchange, monotonic())
        except GatewayError as error:
            fail(exchange, error)
        except Exception:
            log.exception("%s", exchange.request_id.decode())
            fail(exchange, internal())


def count_held(exchange: ExchangeState, body: HeldBody) -> None:
    if body.is_large:
        # Of whoever is behind the proxy that opened the connection, where that one is trusted.
        address = network_of(exchange.gateway.origin_of(exchange.client.peer, exchange.head))
        is_own = bool(exchange.head.identity)
        try:
            body.count(exchange.gateway.bodies.holders(exchange.caller.user_id, address, is_own=is_own))
        except GatewayError as error:
            fail(exchange, error)
