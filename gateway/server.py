"""The gateway's client side: connections, their limits, and the process around them."""

import asyncio
import logging
import os
import re
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httptools

from common.identity_token import Identity
from gateway import framing, journal
from gateway.balancer import Balancer
from gateway.errors import REASONS, GatewayError, bad_request
from gateway.exchange import Exchange
from gateway.framing import Headers
from gateway.journal import Entry, Journal
from gateway.meter import BUCKET_S, FAILED, Meter
from gateway.snapshot import Snapshot, Target
from gateway.upstream import Pool

log = logging.getLogger(__name__)

WRITE_LIMIT = 64 << 10
LINGER_S = 2.0
DRAIN_S = 20.0
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Timeouts:
    """In seconds. `first_byte_s` counts from the request's end, `stream_idle_s` between parts of the answer."""

    header_s: float = 15.0
    keep_alive_s: float = 75.0
    body_idle_s: float = 60.0
    first_byte_s: float = 600.0
    stream_idle_s: float = 300.0


class ClientConnection(asyncio.Protocol):
    def __init__(self, gateway: "Gateway") -> None:
        self.gateway = gateway
        self.transport: asyncio.Transport
        self._exchanges: deque[Exchange] = deque()
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._headers: Headers = []
        self._head_bytes = 0
        self._in_head = False
        self._closing = self._lingering = self._writable = False
        self.deadline = time.monotonic() + gateway.timeouts.header_s

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_LIMIT)
        self._writable = True
        self.gateway.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gateway.connections.discard(self)
        for exchange in self._exchanges:
            exchange.client_lost()
        self._exchanges.clear()

    def eof_received(self) -> bool:
        # A client that closes its half has gone: keeping the answer running would burn the model for nobody.
        return False

    def data_received(self, data: bytes) -> None:
        if self._lingering or self._closing:
            return
        if not self._exchanges or self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(GatewayError(501, "upgrade_unsupported", "Upgrades of the connection are not supported."))
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, GatewayError) else bad_request("The request could not be read."))
        except httptools.HttpParserError:
            self._refuse(bad_request("The request is not valid HTTP/1.1."))
        if self._in_head and self._head_bytes > framing.MAX_HEAD_BYTES:
            self._refuse(
                GatewayError(
                    431, "head_too_large", f"The head of a request has at most {framing.MAX_HEAD_BYTES >> 10} KiB."
                )
            )
        if len(self._exchanges) > 1:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self._writable = False
        if self._exchanges:
            self._exchanges[0].client_writable(False)

    def resume_writing(self) -> None:
        self._writable = True
        if self._exchanges:
            self._exchanges[0].client_writable(True)

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._path, self._headers, self._in_head = b"", [], True

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        exchange = Exchange(
            self,
            self._parser.get_method(),
            self._path,
            self._headers,
            version=self._parser.get_http_version(),
            keep_alive=self._parser.should_keep_alive(),
        )
        self._exchanges.append(exchange)
        if len(self._exchanges) == 1 and exchange.announces_body:
            exchange.begin()

    def on_body(self, body: bytes) -> None:
        if self._exchanges:
            self._exchanges[-1].request_body(body)

    def on_message_complete(self) -> None:
        if not self._exchanges:
            return
        exchange = self._exchanges[-1]
        exchange.request_complete()
        if len(self._exchanges) == 1 and not exchange.announces_body:
            exchange.begin()

    # For the exchange

    def write(self, data: bytes) -> None:
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def abort(self) -> None:
        self.transport.abort()

    def pause_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.transport.is_closing() and len(self._exchanges) <= 1:
            self.transport.resume_reading()

    def finish_exchange(self, exchange: Exchange, data: bytes) -> None:
        """Write the end of an answer and turn to the next request, or close."""
        self.write(data)
        if not self._exchanges or self._exchanges[0] is not exchange:
            return
        self.deadline = time.monotonic() + self.gateway.timeouts.keep_alive_s
        if not exchange.keep_alive or self.gateway.draining:
            self._close(drained=exchange.request_done)
            return
        if exchange.request_done:
            self._exchanges.popleft()
        self.resume_reading()
        if self._exchanges and exchange.request_done:
            self.gateway.loop.call_soon(self._begin_next)

    def check_deadline(self, now: float) -> None:
        """Called once a second."""
        current = self._exchanges[0] if self._exchanges else None
        if current is not None and not current.done:
            if current.deadline < now:
                current.on_deadline()
        elif self.deadline < now:
            self.transport.abort()

    @property
    def is_idle(self) -> bool:
        return not self._exchanges

    def _begin_next(self) -> None:
        if self._exchanges and not self.transport.is_closing():
            self._exchanges[0].begin()

    def _refuse(self, error: GatewayError) -> None:
        """Answer what can't be parsed; behind an answer that is still running there is only closing."""
        if self._lingering or self._closing or self.transport.is_closing():
            return
        if self._exchanges and not self._exchanges[0].done:
            current = self._exchanges[0]
            if current.request_done:
                current.keep_alive = False
                self._closing = True
                return
            current.keep_alive = False
            current.fail(error)
            return
        body = error.body("-")
        lines = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        self.write(framing.response_head(error.status, REASONS[error.status], lines, chunked=False, close=True) + body)
        self._close(drained=False)

    def _close(self, *, drained: bool) -> None:
        """Close; while the client may still be sending, only our half, else it would lose the answer to a reset."""
        self._exchanges.clear()
        if drained or self.transport.is_closing():
            self.transport.close()
            return
        self._lingering = True
        self.deadline = time.monotonic() + LINGER_S
        self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()


class Gateway:
    """Everything that requests share. Lives on one event loop."""

    def __init__(self, folder: Path, secret: bytes, *, name: str, epoch: int, timeouts: Timeouts | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.name, self.epoch, self.secret = name, epoch, secret
        self.timeouts = timeouts or Timeouts()
        self.snapshot = Snapshot.empty()
        self.balancer = Balancer()
        self.pool = Pool(self.loop)
        self.meter = Meter()
        self.journal = Journal(folder, epoch)
        self.connections: set[ClientConnection] = set()
        self.draining = False
        self.in_flight = 0
        self._sequence = 0
        self._id_prefix = os.urandom(5).hex().encode()

    def set_snapshot(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.balancer.forget_absent({address.uid for target in snapshot.targets for address in target.addresses})

    def next_request_id(self, headers: Headers) -> bytes:
        """The client's own id where it is harmless, else a new one."""
        given = next((value for name, value in headers if name == b"x-request-id"), b"")
        if given and _REQUEST_ID.fullmatch(given):
            return given
        self._sequence += 1
        return b"%s%06x" % (self._id_prefix, self._sequence)

    def admit(self, target: Target, identity: Identity | None, at: float) -> tuple[int, object]:
        self._sequence += 1
        self.in_flight += 1
        organization_id, user_id = (identity.organization_id, identity.user_id) if identity else (0, 0)
        source = 1 if identity else 0
        file = self.journal.admitted(
            self._sequence, target.deployment_id, target.version_id, organization_id, user_id, source, at
        )
        return self._sequence, file

    def finished(self, file: object, entry: Entry) -> None:
        self.in_flight -= 1
        self.journal.finished(file, entry)  # type: ignore[arg-type]
        self.meter.add(entry)

    async def tick(self, spill, show_live) -> None:  # type: ignore[no-untyped-def]
        """Once a second: deadlines, idle connections, the live bucket; every BUCKET_S a closed bucket."""
        bucket = int(time.time()) // BUCKET_S
        while True:
            await asyncio.sleep(1.0 - time.time() % 1.0)
            now = time.monotonic()
            for connection in list(self.connections):
                connection.check_deadline(now)
            self.pool.close_idle()
            current = int(time.time()) // BUCKET_S
            if current != bucket:
                bucket = current
                await self.close_bucket(spill)
            else:
                show_live(self.meter.peek())

    async def close_bucket(self, spill) -> None:  # type: ignore[no-untyped-def]
        """Hand the entries so far to `spill(entries, position)`, then mark them in the journal."""
        entries, position = self.meter.take(), self.journal.position
        if entries:
            await self.loop.run_in_executor(None, spill, entries, position)
            self.journal.folded(position)

    async def drain(self) -> None:
        """Let running requests end, for at most DRAIN_S."""
        self.draining = True
        deadline = self.loop.time() + DRAIN_S
        while self.loop.time() < deadline:
            for connection in list(self.connections):
                if connection.is_idle:
                    connection.transport.close()
            if not self.in_flight:
                break
            await asyncio.sleep(0.05)
        for connection in list(self.connections):
            connection.transport.close()


def settle_earlier_epochs(folder: Path, epoch: int, recorder) -> None:  # type: ignore[no-untyped-def]
    """End what an earlier process left in flight as failed(gateway_lost), and count what it had not flushed."""
    for earlier in journal.earlier_epochs(folder, epoch):
        finished, unfinished = journal.replay(folder, earlier, recorder.last_spilled_position(earlier))
        lost = [
            Entry(
                **{
                    **entry.__dict__,
                    "outcome": FAILED,
                    "status": 502,
                    "end_to_end": -1.0,
                    "inference": -1.0,
                    "queue": -1.0,
                    "first_token": -1.0,
                }
            )
            for entry in unfinished
        ]
        recorder.spill_replayed(earlier, finished + lost)
        journal.remove_epoch(folder, earlier)
        if finished or lost:
            log.warning("replayed epoch %s: %d finished, %d lost in flight", earlier, len(finished), len(lost))
