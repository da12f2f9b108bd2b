"""The second part of an exchange: to an instance, and to another one where the first takes nothing."""

import logging
from time import monotonic

from common.request_outcomes import FAILED
from gateway.errors import GatewayError, internal
from gateway.exchange.settling import end_upstream, fail
from gateway.exchange.state import ANSWER, CONNECTION, NOTHING, ExchangeState
from gateway.http import api_server, framing
from gateway.http.address import Address
from gateway.http.upstream import UpstreamConnection

log = logging.getLogger(__name__)

# How many instances are tried for a request of which nothing has been sent yet.
MOST_TRIED = 3
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def forward(exchange: ExchangeState, now: float) -> None:
    """To the best instance that has not been tried."""
    call, plan = exchange.call, exchange.plan
    assert call is not None and plan is not None  # noqa: S101
    if exchange.head.expects and not (exchange.request_done or exchange.holds_body):
        exchange.client.write(CONTINUE)
    acquired = exchange.gateway.balancer.acquire(call.target, now, exchange.tried)
    if acquired is None:
        raise _unreachable()
    exchange.address, exchange.load = address, _ = acquired
    if address.api_server is not None:
        api_server.check_path(plan.path)
    connection = exchange.gateway.pool.reuse(address, now)
    if connection is not None:
        _send(exchange, connection, now)
    else:
        connect(exchange, address)


def connect(exchange: ExchangeState, address: Address) -> None:
    exchange.waits_for = CONNECTION
    exchange.connecting = exchange.gateway.loop.create_task(_connected(exchange, address))


async def _connected(exchange: ExchangeState, address: Address) -> None:
    try:
        connection = await exchange.gateway.pool.connect(address)
    except (OSError, TimeoutError):
        exchange.connecting = None
        if exchange.waits_for != NOTHING:
            _try_another(exchange, address)
        return
    exchange.connecting = None
    if exchange.waits_for == NOTHING:
        connection.close()
        return
    try:
        _send(exchange, connection, monotonic())
    except Exception:
        # Nobody else would hear of it, and the client would wait for its deadline.
        log.exception("%s", exchange.request_id.decode())
        fail(exchange, internal())


def _try_another(exchange: ExchangeState, address: Address) -> None:
    """Nothing has been sent: another instance may serve it as well."""
    end_upstream(exchange, failed=True)
    exchange.tried |= {address.uid}
    try:
        if len(exchange.tried) >= MOST_TRIED:
            raise _unreachable()
        forward(exchange, monotonic())
    except GatewayError as error:
        fail(exchange, error, outcome=FAILED)


def _send(exchange: ExchangeState, connection: UpstreamConnection, now: float) -> None:
    plan, address, length, body = exchange.plan, connection.address, exchange.length, exchange.body
    assert plan is not None  # noqa: S101
    exchange.waits_for = ANSWER
    exchange.connection = connection
    connection.take(exchange)
    exchange.forwarded = now
    timeouts = exchange.gateway.timeouts
    exchange.deadline = now + (timeouts.first_byte_s if exchange.request_done else timeouts.body_idle_s)
    line = plan.line
    if address.api_server is not None:
        line = api_server.request_line(address.api_server, address.prefix, exchange.head.method, plan.path, plan.passed)
    if exchange.asking is not None:
        length = len(exchange.asking)
    coding = b"" if exchange.holds_body else exchange.head.coding
    head = b"".join((line, exchange.request_id, framing.request_rest(exchange.head, address.host_line, length, coding)))
    # A websocket's first bytes are not a body: they wait until the instance has agreed.
    if not length or body is None:
        connection.transport.write(head if length != -1 or not exchange.request_done else head + b"0\r\n\r\n")
        return
    pieces = body.pieces if exchange.asking is None else [exchange.asking]
    parts = [head, *([framing.chunk(data) for data in pieces] if length == -1 else pieces)]
    if length == -1 and exchange.request_done:
        parts.append(b"0\r\n\r\n")
    if not exchange.holds_body:
        exchange.sent_body += body.size
        body.pieces = []
        # Before the write: the write may pause reading again at once.
        exchange.client.resume_reading()
    if body.is_counted:
        # A large body isn't copied again for its head's sake.
        connection.transport.writelines(parts)
    else:
        connection.transport.write(b"".join(parts))


def ask_without(exchange: ExchangeState, connection: UpstreamConnection) -> None:
    """Send the client's own bytes: the instance may only have been strict with what the gateway asked for."""
    assert exchange.address is not None  # noqa: S101
    connection.close()
    exchange.connection = exchange.asking = None
    exchange.asks, exchange.was_refused = False, True
    connect(exchange, exchange.address)


def _unreachable() -> GatewayError:
    message = "No instance accepts connections. Try again in a few seconds."
    return GatewayError(502, "instance_unreachable", message, 2)
