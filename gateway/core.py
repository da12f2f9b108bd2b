"""What all requests of one gateway process share: snapshot, pools, books, and the clock that ticks for them."""

import asyncio
import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from common.byte_budget import network_of
from common.installation_keys import InstallationKeys
from common.proxies import Forwarded, Networks, is_trusted, origin
from common.request_outcomes import FAILED, LATENCIES
from gateway.access.callers import Caller, Keys
from gateway.books import journal, request_ids
from gateway.books.journal import Journal
from gateway.books.meter import BUCKET_S
from gateway.http.bounds import Bodies, Bounds, Timeouts
from gateway.http.client import ClientConnection
from gateway.http.crowd import Crowd
from gateway.http.framing import RequestHead
from gateway.http.openers import Openers
from gateway.http.upstream import Pool
from gateway.limits.limiter import Limiter
from gateway.routing.balancer import Balancer
from gateway.routing.snapshot import Snapshot
from gateway.routing.target import Target

log = logging.getLogger(__name__)

DRAIN_S = 20.0
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Books(Protocol):
    """Who folds the journal's records and stores what comes of them. Called on the loop; returns at once."""

    def take(self, records: np.ndarray) -> None: ...
    def close_batch(self, position: int, in_flight: dict[int, int]) -> None: ...
    def heartbeat(self, in_flight: int, *, is_alone: bool) -> None: ...


@dataclass(frozen=True)
class QueueAnswer:
    status: int
    body: bytes
    content_type: bytes = b"application/json"
    lines: tuple[tuple[bytes, bytes], ...] = ()


class Queue(Protocol):
    """Who keeps asynchronous requests. Raises GatewayError."""

    async def submit(
        self, target: Target, caller: Caller, head: RequestHead, path: bytes, body: bytes
    ) -> QueueAnswer: ...
    async def control(self, caller: Caller, method: bytes, target: bytes) -> QueueAnswer: ...


class Replays(Protocol):
    """Who stores what an earlier epoch left."""

    def last_spilled_position(self, epoch: int) -> int: ...
    def spill_replayed(self, epoch: int, records: np.ndarray) -> None: ...


class Gateway:
    """Everything that requests share. Lives on one event loop."""

    def __init__(
        self,
        folder: Path,
        installation_keys: InstallationKeys,
        *,
        name: str,
        epoch: int,
        timeouts: Timeouts | None = None,
        bounds: Bounds | None = None,
        trusted_proxies: Networks = (),
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.name, self.epoch, self.installation_keys = name, epoch, installation_keys
        self.timeouts = timeouts or Timeouts()
        self.bounds = bounds or Bounds()
        self.trusted_proxies = trusted_proxies
        self.bodies = Bodies(self.bounds)
        self.snapshot = Snapshot.empty()
        # Filled by the directory's thread.
        self.keys: Keys = {}
        self.balancer = Balancer()
        # Versions that refuse streams when they are asked for the tokens used.
        self.strict_versions: set[int] = set()
        self.limiter = Limiter(self.loop)
        self.openers = Openers(self.loop)
        self.pool = Pool(self.loop, most_idle=self.bounds.idle_upstream)
        # None where there is no database to keep it in.
        self.queue: Queue | None = None
        self.journal = Journal(folder, epoch)
        self.connections: Crowd[ClientConnection] = Crowd(self.bounds)
        self.draining = False
        self.in_flight = 0
        # Records before this position have been handed to the books' keeper.
        self._taken = 0
        # Wall clock minus monotonic clock, taken anew each second: one reading of a clock per step is enough.
        self.wall_offset = time.time() - time.monotonic()
        self._sequence = 0
        self._id_prefix = request_ids.prefix(name, epoch).encode()

    def counted_address(self, peer: str) -> str:
        """To which address a connection counts; to none where a proxy opens them for everybody."""
        return "" if is_trusted(peer, self.trusted_proxies) else network_of(peer)

    def origin_of(self, peer: str, head: RequestHead) -> str:
        """The address of whoever sent the request."""
        if not self.trusted_proxies or not head.forwarded_for:
            return peer
        return origin(peer, Forwarded(head.forwarded_for), self.trusted_proxies).address

    def set_snapshot(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.limiter.forget_allowances()
        self.strict_versions &= {target.version_id for target in snapshot.targets}
        self.balancer.forget_absent({address.uid for target in snapshot.targets for address in target.addresses})

    def next_request(self, given: bytes) -> tuple[int, bytes]:
        """(sequence in the books, request id): the client's own id where it is harmless, else a new one."""
        self._sequence = sequence = self._sequence + 1
        if given and _REQUEST_ID.fullmatch(given):
            return sequence, given
        return sequence, b"%b%06x" % (self._id_prefix, sequence)

    async def tick(self, books: Books) -> None:
        """Once a second until stopped: deadlines, idle connections, the books; every BUCKET_S a batch is closed."""
        bucket = int(time.time()) // BUCKET_S
        while not self.draining:
            await asyncio.sleep(1.0 - time.time() % 1.0)
            # Whatever goes wrong with one connection or one bucket: without this loop there are no deadlines at all.
            try:
                self._check_connections()
                current = int(time.time()) // BUCKET_S
                self.hand_over(books, close=current != bucket)
                books.heartbeat(self.in_flight, is_alone=self.limiter.is_alone)
                bucket = current
            except Exception:
                log.exception("tick")

    def hand_over(self, books: Books, *, close: bool) -> None:
        """Hand the new records over; with `close` everything so far becomes a batch."""
        position = self.journal.position
        books.take(self.journal.records(self._taken))
        self._taken = position
        if close:
            books.close_batch(position, self._in_flight_by_deployment())

    def _in_flight_by_deployment(self) -> dict[int, int]:
        """Counted from the living requests, not from the books: else the books could not be checked against it."""
        counts: dict[int, int] = {}
        for connection in self.connections:
            deployment = connection.admitted_deployment
            if deployment is not None:
                counts[deployment] = counts.get(deployment, 0) + 1
        return counts

    def _check_connections(self) -> None:
        now = time.monotonic()
        self.wall_offset = time.time() - now
        for connection in list(self.connections):
            try:
                connection.check_deadline(now)
            except Exception:
                log.exception("deadline of a connection")
        self.pool.close_idle(now)
        self.limiter.forget_full(now)

    async def drain(self) -> None:
        """Let running requests end, for at most DRAIN_S."""
        self.draining = True
        deadline = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline:
            for connection in list(self.connections):
                if connection.is_idle:
                    connection.transport.close()
            if not self.in_flight and not any(connection.is_queuing for connection in self.connections):
                break
            await asyncio.sleep(0.05)
        for connection in list(self.connections):
            connection.transport.abort()
        # Their ends are noted when their connections are lost, on the loop's next turns.
        for _ in range(3):
            await asyncio.sleep(0)


def settle_earlier_epochs(folder: Path, epoch: int, recorder: Replays) -> None:
    """End what an earlier process left in flight as failed(gateway_lost), and count what it had not flushed."""
    for earlier in journal.earlier_epochs(folder, epoch):
        records, unfinished = journal.replay(folder, earlier, recorder.last_spilled_position(earlier))
        lost = unfinished.copy()
        lost["kind"], lost["outcome"], lost["status"] = journal.FINISHED, FAILED, 502
        for clock in LATENCIES:
            lost[clock] = -1.0
        recorder.spill_replayed(earlier, np.concatenate([records, lost]))
        journal.remove_epoch(folder, earlier)
        if len(records) or len(lost):
            log.warning("replayed epoch %s: %d records, %d lost in flight", earlier, len(records), len(lost))
