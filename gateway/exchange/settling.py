"""The last part of an exchange: how it ends, and its one final record in the books."""

import logging
from time import monotonic

from common.request_outcomes import BROKEN, CANCELLED, COMPLETED, FAILED, LEFT, NOT_ESTIMATED, REJECTED, UNTOLD
from gateway.bodies import apis
from gateway.books.journal import NO_INSTANCE
from gateway.books.tokens import BYTES_PER_TOKEN, Tokens
from gateway.errors import GatewayError
from gateway.exchange.state import NOTHING, TUNNEL_END, ExchangeState
from gateway.http import framing
from gateway.http.upstream import UpstreamConnection
from gateway.limits.buckets import Bucket
from gateway.routing import cross_origin

log = logging.getLogger(__name__)
_NO_TOKENS = Tokens()
# Why its tokens had to be estimated, by how a request ended.
_REASONS = {CANCELLED: LEFT, FAILED: BROKEN}


def complete(exchange: ExchangeState, data: bytes, now: float) -> None:
    """The answer is whole; `data` is its last part."""
    exchange.connection = None
    # The books first: whoever has seen the last byte is in them, whenever this process is killed.
    finish(exchange, COMPLETED, now)
    exchange.client.finish_exchange(exchange, data, now)


def instance_failed(exchange: ExchangeState, connection: UpstreamConnection | None) -> None:
    """Its connection has ended, or had to."""
    end_upstream(exchange, failed=True)
    how = (
        "in the middle of its answer"
        if exchange.answer is not None and exchange.answer.has_begun
        else "without an answer"
    )
    code, message = "instance_closed", f"The instance closed the connection {how}. Its log says why."
    if connection is not None and connection.is_malformed:
        code, message = (
            "answer_invalid",
            "The instance's answer is not valid HTTP/1.1, or not compressed as it says, so it can't be passed on.",
        )
    fail(exchange, GatewayError(502, code, message), outcome=FAILED)


def refused_for_instance(exchange: ExchangeState, error: GatewayError) -> None:
    """Who was asked to hand the request on could not, or may not."""
    end_upstream(exchange, failed=True)
    fail(exchange, error, outcome=FAILED)


def fail(exchange: ExchangeState, error: GatewayError, *, outcome: int = REJECTED, hit: Bucket | None = None) -> None:
    """End with an error of the gateway's own: an answer, or a cut where one has begun."""
    if exchange.is_over:
        return
    answer = exchange.answer
    end_upstream(exchange, failed=False)
    if answer is not None and answer.has_begun:
        log.info("%s ended: %s", exchange.request_id.decode(), error.code)
        finish(exchange, CANCELLED if error.status < 500 else FAILED, monotonic())
        answer.break_off(error)
        return
    finish(exchange, outcome, monotonic(), error.status)
    lines = [*error.headers]
    if exchange.allowance is not None:
        lines += exchange.allowance.headers(monotonic(), hit)
    if error.status == 401:
        lines.append((b"www-authenticate", b"Bearer"))
    told = apis.of(exchange.head.target).body(error, exchange.request_id.decode())
    reply(exchange, error.status, told, error.retry_after_s, lines=lines)


def reply(
    exchange: ExchangeState,
    status: int,
    body: bytes,
    retry_after_s: int | None = None,
    content_type: bytes = b"application/json",
    lines: framing.Headers | None = None,
) -> None:
    exchange.waits_for = NOTHING
    if exchange.body is not None:
        exchange.body.let_go()
    exchange.keep_alive = exchange.keep_alive and exchange.request_done
    lines = [(b"content-type", content_type), (b"x-request-id", exchange.request_id), *(lines or ())]
    if exchange.head.origin and exchange.head.preflight is None:
        target = exchange.call.target if exchange.call is not None else None
        lines += cross_origin.lines(exchange.gateway.snapshot, exchange.head, target)
    if retry_after_s:
        lines.append((b"retry-after", b"%d" % retry_after_s))
    data = framing.own_answer(
        status, lines, body, close=not exchange.keep_alive, keep_alive_1_0=exchange.head.is_1_0 and exchange.keep_alive
    )
    exchange.client.finish_exchange(
        exchange, data[: -len(body)] if exchange.head.method == b"HEAD" else data, monotonic()
    )


def finish(exchange: ExchangeState, outcome: int, now: float, status: int = 0) -> None:
    """Give back what is held, and write the final record."""
    is_tunnel, exchange.waits_for = exchange.waits_for == TUNNEL_END, NOTHING
    if exchange.body is not None and exchange.body.is_counted:
        exchange.body.let_go()
    if exchange.load is not None:
        exchange.load.served()
        exchange.load = None
    if exchange.file is not None:
        _record(exchange, outcome, now, status, is_tunnel=is_tunnel)


def end_upstream(exchange: ExchangeState, *, failed: bool) -> None:
    """Whatever the instance is still at ends; its place is given back."""
    if exchange.connecting is not None:
        exchange.connecting.cancel()
        exchange.connecting = None
    if exchange.connection is not None:
        exchange.connection.close()
        exchange.connection = None
    if exchange.load is not None:
        # Once. A retry on a fresh connection keeps it.
        exchange.load.release(failed=failed, now=monotonic())
        exchange.load = None


def _record(exchange: ExchangeState, outcome: int, now: float, status: int, *, is_tunnel: bool) -> None:
    """The request's one final record. Requests that were never admitted have none."""
    file, call, gateway = exchange.file, exchange.call, exchange.gateway
    assert file is not None and call is not None  # noqa: S101
    exchange.file = None
    started, forwarded, first_byte = exchange.started, exchange.forwarded, exchange.first_byte
    prompt = exchange.body.text_size(exchange.head.content_type) if exchange.body is not None else 0
    tokens = exchange.usage.tokens(prompt) if exchange.usage is not None else _NO_TOKENS
    if outcome == CANCELLED and forwarded and not tokens.input and call.counts:
        # The client left before anything was told, but the instance had the prompt.
        tokens = Tokens(max(1, prompt // BYTES_PER_TOKEN), tokens.output, estimated=True)
    if exchange.reserved:
        used = tokens.input + tokens.output - (tokens.cached if call.target.limits_leave_cached_out else 0)
        gateway.limiter.settle(exchange.allowance, exchange.reserved, used)  # type: ignore[arg-type]
    answer = exchange.answer
    if exchange.was_refused and exchange.status == 200 and answer is not None and answer.streams:
        # Only what the gateway had asked for was wrong.
        gateway.strict_versions.add(call.target.version_id)
    if exchange.answer is None and first_byte:
        clocks = now - started, now - forwarded, forwarded - started, -1.0
    else:
        clocks = _clocks(exchange, now, is_tunnel=is_tunnel)
    gateway.in_flight -= 1
    gateway.journal.finished(
        file, exchange.sequence, now + gateway.wall_offset, call.parties,
        exchange.address.key if forwarded else NO_INSTANCE,  # type: ignore[union-attr]
        *clocks, *tokens.counts(),
        status or exchange.status or (499 if outcome == CANCELLED else 502), outcome,
        _REASONS.get(outcome, UNTOLD) if tokens.estimated else NOT_ESTIMATED,
    )  # fmt: skip


def _clocks(exchange: ExchangeState, now: float, *, is_tunnel: bool) -> tuple[float, float, float, float]:
    """End-to-end, inference, queue and first-token time of a request that lacks some, or whose client was slow."""
    started, forwarded, first_byte = exchange.started, exchange.forwarded, exchange.first_byte
    answer = exchange.answer
    paused = answer.paused_until(now) if answer is not None else 0.0
    # A websocket's duration is no latency.
    timed = not is_tunnel
    return (
        now - started - paused if timed else -1.0,
        now - forwarded - paused if forwarded and timed else -1.0,
        (forwarded or now) - started,
        first_byte - started if first_byte and timed and answer is not None and answer.streams else -1.0,
    )
