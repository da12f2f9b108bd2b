"""Writes to the control plane: stores batches in PostgreSQL. One of the three files of the gateway that touch it.

Its thread folds the journal's records as they come. Each closed batch becomes a spill file first, then a mark in the
journal, then one transaction; the file goes after the commit. Killed anywhere in between, the next start finds either
the file or the journal's records, never both.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import orjson
import psycopg
import redis
from django.db import DatabaseError, DataError, IntegrityError, close_old_connections

from apikeys.selectors import key_labels
from apikeys.services import mark_used
from common import atomic_file
from deployments.models import GatewayProcess
from gateway.books.meter import Batch, Meter
from gateway.books.request_ids import request_id
from monitoring import ingest

log = logging.getLogger(__name__)

RETRY_S = 2.0
# Django doesn't translate what COPY says; and a file of another release may lack what this one asks for.
_REFUSALS = (
    IntegrityError, DataError, psycopg.IntegrityError, psycopg.DataError, KeyError, TypeError, ValueError
)  # fmt: skip


class Marks(Protocol):
    """The journal, which belongs to the gateway's loop, reached from this thread. `folded` returns when it is noted."""

    def folded(self, position: int) -> None: ...
    def forget_before(self, position: int) -> None: ...


class Recorder:
    """Owns the thread that folds and writes; the loop hands it records and goes on at once."""

    def __init__(self, folder: Path, gateway: str, epoch: int, marks: Marks, *, address: str = "") -> None:
        self._folder = folder
        self._gateway = gateway
        self._epoch = epoch
        self._address = address
        self._acknowledged = self._in_flight = 0
        self._is_alone = False
        self._beat_waits = False
        self._own = f"{gateway}.{epoch}."
        self._sequence = 0
        self._meter = Meter()
        self._marks = marks
        # The journal's mark behind which everything is in a file; files behind it must wait for it.
        self._marked = -1
        self._work: queue.Queue[Callable[[], None]] = queue.Queue()
        self._stopped = False
        self._retry_at = 0.0
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def take(self, records: np.ndarray) -> None:
        """Fold the records and show them on the live charts."""
        self._work.put(lambda: self._fold(records))

    def close_batch(self, position: int, in_flight: dict[int, int]) -> None:
        """Make a batch of what was taken, up to `position`. `in_flight` counts requests by deployment."""
        self._work.put(lambda: self._spill(position, in_flight))

    def acknowledge(self, version: int) -> None:
        """Tell the console that this gateway routes by directory `version`, which lies on its disk."""
        self._acknowledged = version
        self._work.put(self._beat)

    def heartbeat(self, in_flight: int, *, is_alone: bool) -> None:
        """Tell the console that this gateway lives; lost ones don't matter. `is_alone`: without the limits' counters."""
        self._in_flight, self._is_alone = in_flight, is_alone
        if not self._beat_waits:
            # A database that hangs must not pile them up before the records.
            self._beat_waits = True
            self._work.put(self._beat)

    def stop(self, timeout_s: float) -> None:
        """Finish the work that is there; what can't be stored stays in its files."""
        self._work.put(self._end)
        self._thread.join(timeout_s)

    def last_spilled_position(self, epoch: int) -> int:
        """How far an epoch's spill files that are still here reach into its journal."""
        positions = [orjson.loads(path.read_bytes())["position"] for path in self._files() if f".{epoch}." in path.name]
        return max(positions, default=0)

    def spill_replayed(self, epoch: int, records: np.ndarray) -> None:
        """Store what an earlier epoch left in its journal; nothing of it is in flight any more."""
        meter = Meter()
        meter.fold(records)
        deployments = {int(deployment) for deployment in np.unique(records["deployment"]) if deployment}
        if not meter.is_empty:
            self._write(meter, f"{self._gateway}.{epoch}.replay", 0, dict.fromkeys(deployments, 0), epoch)

    # On the thread

    def _run(self) -> None:
        while True:
            # The gateway's tick brings some each second, so what waits on disk is tried again without a clock of its own.
            work = self._work.get()
            try:
                work()
            except Exception:
                log.exception("recorder")
            if self._stopped:
                return
            if self._work.empty():
                self._store()

    def _end(self) -> None:
        self._stopped = True
        self._store()
        try:
            GatewayProcess.farewell(self._gateway, self._epoch)
        except DatabaseError as error:
            log.warning("the console will call this gateway unreachable: %s", str(error).strip())

    def _beat(self) -> None:
        self._beat_waits = False
        try:
            GatewayProcess.beat(
                self._gateway, self._epoch, address=self._address, version=self._acknowledged,
                in_flight=self._in_flight, is_alone=self._is_alone,
            )  # fmt: skip
        except DatabaseError:
            # The next one tells the same.
            close_old_connections()

    def _fold(self, records: np.ndarray) -> None:
        self._meter.fold(records)
        if self._meter.is_empty:
            return
        try:
            ingest.publish_open_bucket(self._own, self._meter.series(self._next_id()))
        except redis.RedisError as error:
            log.warning("live charts wait for Valkey: %s", error)

    def _spill(self, position: int, in_flight: dict[int, int]) -> None:
        if self._meter.is_empty and not in_flight:
            return
        try:
            self._write(self._meter, self._next_id(), position, in_flight, self._epoch)
        except OSError:
            # The disk is full, for example: all of it stays in the meter and comes with the next batch.
            log.exception("batch not written")
            return
        self._sequence += 1
        self._meter.clear()
        # Only when the journal says that everything before `position` is in a file may that file be stored and
        # removed: without file and mark a restart would count it again.
        self._marks.folded(position)
        self._marked = position

    def _next_id(self) -> str:
        return f"{self._own}{self._sequence + 1:08d}"

    def _write(self, meter: Meter, batch_id: str, position: int, in_flight: dict[int, int], epoch: int) -> None:
        # Each batch is a source of its own: requests that end just after a bucket's bound come in the next batch, and
        # the two rows of that bucket must not be taken for one.
        notable = meter.notable(lambda sequence: request_id(self._gateway, epoch, sequence))
        batch = Batch(batch_id, position, meter.series(batch_id), meter.usage(), meter.books(in_flight), notable)
        atomic_file.write_bytes(self._folder / f"spill-{batch_id}.json", orjson.dumps(batch.to_json()))

    def _files(self) -> list[Path]:
        """In the order in which they were written: epochs have the same number of digits, a replay ends its epoch."""
        return sorted(self._folder.glob("spill-*.json"), key=lambda path: path.name)

    def _store(self) -> None:
        if time.monotonic() < self._retry_at and not self._stopped:
            return
        try:
            self._ingest_files()
        except Exception as error:
            log.warning("%d batches wait on disk: %s", len(self._files()), str(error).strip())
            close_old_connections()
            self._retry_at = time.monotonic() + RETRY_S

    def _ingest_files(self) -> None:
        for path in self._files():
            batch = orjson.loads(path.read_bytes())
            is_own = batch["id"].startswith(self._own)
            if is_own and batch["position"] > self._marked:
                continue
            try:
                labels = key_labels({row["key_id"] for row in batch["usage"]} - {0})
                usage = [{**row, "key_label": labels.get(row["key_id"], "")} for row in batch["usage"]]
                # Those of the release before, which waited on disk, tell of no single requests.
                notable = batch.get("notable", [])
                ingest.store(self._gateway, batch["id"], batch["series"], usage, batch["books"], notable)
                mark_used({row["key_id"]: row["minute"] for row in batch["usage"] if row["key_id"]})
            except _REFUSALS:
                # It would be refused for ever and hold up everything behind it; kept for whoever looks into it.
                log.exception("%s is refused by the database; set aside", path.name)
                path.rename(path.with_name(f"refused-{path.name}"))
                continue
            path.unlink(missing_ok=True)
            if is_own:
                self._marks.forget_before(batch["position"])
