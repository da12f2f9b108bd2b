"""What all requests of one gateway process share: snapshot, pools, books, and the clock that ticks for them."""

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from common.identity_token import Identity
from gateway import journal
from gateway.balancer import Balancer
from gateway.framing import Headers
from gateway.journal import Entry, Journal
from gateway.meter import BUCKET_S, FAILED, Meter
from gateway.snapshot import Snapshot, Target
from gateway.upstream import Pool

log = logging.getLogger(__name__)

DRAIN_S = 20.0
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
Spill = Callable[[list[Entry], int], None]


class Connection(Protocol):
    """What the core needs of a client's connection."""

    transport: asyncio.Transport

    @property
    def is_idle(self) -> bool: ...
    def check_deadline(self, now: float) -> None: ...


class Replays(Protocol):
    """Who stores what an earlier epoch left."""

    def last_spilled_position(self, epoch: int) -> int: ...
    def spill_replayed(self, epoch: int, entries: list[Entry]) -> None: ...


@dataclass(frozen=True)
class Timeouts:
    """In seconds. `first_byte_s` counts from the request's end, `stream_idle_s` between parts of the answer."""

    header_s: float = 15.0
    keep_alive_s: float = 75.0
    body_idle_s: float = 60.0
    first_byte_s: float = 600.0
    stream_idle_s: float = 300.0


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
        self.connections: set[Connection] = set()
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

    async def tick(
        self, spill: Spill, on_marked: Callable[[int], None], show_live: Callable[[list[Entry]], None]
    ) -> None:
        """Once a second until stopped: deadlines, idle connections, the live bucket; every BUCKET_S a closed bucket."""
        bucket = int(time.time()) // BUCKET_S
        while not self.draining:
            await asyncio.sleep(1.0 - time.time() % 1.0)
            # Whatever goes wrong with one connection or one bucket: without this loop there are no deadlines at all.
            try:
                self._check_connections()
                current = int(time.time()) // BUCKET_S
                if current != bucket:
                    bucket = current
                    await self.close_bucket(spill, on_marked)
                else:
                    show_live(self.meter.peek())
            except Exception:
                log.exception("tick")

    async def close_bucket(self, spill: Spill, on_marked: Callable[[int], None]) -> None:
        """Hand the entries so far to `spill(entries, position)`, then mark them in the journal."""
        entries, position = self.meter.take(), self.journal.position
        if not entries:
            return
        try:
            await self.loop.run_in_executor(None, spill, entries, position)
        except Exception:
            # The disk is full, for example: they stay in the open bucket and are tried again with the next one.
            self.meter.put_back(entries)
            log.exception("bucket not written")
            return
        self.journal.folded(position)
        on_marked(position)

    def _check_connections(self) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            try:
                connection.check_deadline(now)
            except Exception:
                log.exception("deadline of a connection")
        self.pool.close_idle()

    async def drain(self) -> None:
        """Let running requests end, for at most DRAIN_S."""
        self.draining = True
        deadline = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline:
            for connection in list(self.connections):
                if connection.is_idle:
                    connection.transport.close()
            if not self.in_flight:
                break
            await asyncio.sleep(0.05)
        for connection in list(self.connections):
            connection.transport.close()


def settle_earlier_epochs(folder: Path, epoch: int, recorder: Replays) -> None:
    """End what an earlier process left in flight as failed(gateway_lost), and count what it had not flushed."""
    for earlier in journal.earlier_epochs(folder, epoch):
        finished, unfinished = journal.replay(folder, earlier, recorder.last_spilled_position(earlier))
        lost = [_lost(entry) for entry in unfinished]
        recorder.spill_replayed(earlier, finished + lost)
        journal.remove_epoch(folder, earlier)
        if finished or lost:
            log.warning("replayed epoch %s: %d finished, %d lost in flight", earlier, len(finished), len(lost))


def _lost(entry: Entry) -> Entry:
    return replace(entry, outcome=FAILED, status=502, end_to_end=-1.0, inference=-1.0, queue=-1.0, first_token=-1.0)
