"""What may take only so long, and whom to blame when it takes longer."""

import logging

from common.request_outcomes import CANCELLED, FAILED
from gateway.errors import GatewayError
from gateway.exchange.settling import end_upstream, fail
from gateway.exchange.state import ANSWER_END, TUNNEL_END, ExchangeState

log = logging.getLogger(__name__)


def check(exchange: ExchangeState, now: float) -> None:
    """Called once a second."""
    connection, timeouts = exchange.connection, exchange.gateway.timeouts
    if connection is not None and connection.was_heard:
        connection.was_heard = False
        exchange.deadline = now + timeouts.stream_idle_s
    if exchange.deadline < now:
        _end(exchange)
    elif exchange.forwarded and not _is_still_allowed(exchange, now):
        # What streams for an hour has no next request at which it would be refused.
        _end_access(exchange)
    elif exchange.started and now - exchange.started > timeouts.total_s and exchange.waits_for != TUNNEL_END:
        # Says nothing of the instance, which may be halfway through a long answer.
        message = "The request took longer than a request may take."
        fail(exchange, GatewayError(504, "total_timeout", message), outcome=FAILED)


def _end_access(exchange: ExchangeState) -> None:
    if exchange.waits_for == TUNNEL_END:
        log.info("%s ended: access_ended", exchange.request_id.decode())
        exchange.client.abort()
        return
    message = "The key was revoked, has expired, or may not call this deployment any more."
    fail(exchange, GatewayError(401, "access_ended", message), outcome=CANCELLED)


def _is_still_allowed(exchange: ExchangeState, now: float) -> bool:
    gateway, head, call = exchange.gateway, exchange.head, exchange.call
    target = gateway.snapshot.by_api_id.get(call.target.api_id) if call is not None else None
    caller = gateway.keys.get(head.key) if head.key and not head.identity else exchange.caller
    return (
        target is not None
        and caller is not None
        and caller.expires_at > now + gateway.wall_offset
        and caller.may_call(target)
    )


def _end(exchange: ExchangeState) -> None:
    is_paused = exchange.answer is not None and exchange.answer.is_paused
    if is_paused or exchange.waits_for == TUNNEL_END:
        log.info("%s ended: %s", exchange.request_id.decode(), "slow_reader" if is_paused else "idle_timeout")
        exchange.client.abort()
    elif not exchange.request_done and not exchange.is_blocked:
        fail(exchange, GatewayError(408, "body_timeout", "The body did not arrive in time. Send it again."))
    elif exchange.waits_for != ANSWER_END:
        _time_out(exchange, GatewayError(504, "first_byte_timeout", "The instance did not begin to answer in time."))
    else:
        _time_out(exchange, GatewayError(504, "idle_timeout", "The instance sent nothing for too long."))


def _time_out(exchange: ExchangeState, error: GatewayError) -> None:
    end_upstream(exchange, failed=True)
    fail(exchange, error, outcome=FAILED)
