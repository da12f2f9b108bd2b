"""Writes to the control plane: flushes folded buckets to PostgreSQL. One of the two files that touch it.

Each bucket becomes a spill file first, then a mark in the journal, then one transaction; the file goes after the
commit. Killed anywhere in between, the next start finds either the file or the journal's records, never both.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import redis
from django.db import DataError, IntegrityError, close_old_connections

from common import atomic_file
from gateway.journal import Entry
from gateway.meter import Batch, fold_series, fold_usage
from monitoring import ingest

log = logging.getLogger(__name__)

LIVE_INTERVAL_S = 1.0
RETRY_S = 2.0


class Recorder:
    """Owns the thread that folds and writes; the loop hands it entries and goes on at once."""

    def __init__(self, folder: Path, gateway: str, epoch: int, on_committed: Callable[[int], object]) -> None:
        self._folder = folder
        self._gateway = gateway
        self._own = f"{gateway}.{epoch}."
        self._sequence = 0
        self._marked = -1
        self._on_committed = on_committed
        self._wake = threading.Event()
        self._stopped = False
        self._live: tuple[str, list[Entry]] = ("", [])
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def spill(self, entries: list[Entry], position: int) -> None:
        """Fold a closed bucket into a file. Runs on the loop's executor; returns once the file is whole."""
        self._write(self._next_id(), entries, position)
        self._sequence += 1

    def spill_replayed(self, epoch: int, entries: list[Entry]) -> None:
        """Store what an earlier epoch left in its journal."""
        if entries:
            self._write(f"{self._gateway}.{epoch}.replay", entries, 0)

    def marked(self, position: int) -> None:
        """The journal says now that everything before `position` is in a file.

        Only then may that file be stored and removed: without file and mark a restart would count it again.
        """
        self._marked = position
        self._wake.set()

    def show_live(self, entries: list[Entry]) -> None:
        """Offer the open bucket to the charts, under the id that its batch will have."""
        self._live = (self._next_id(), entries)
        self._wake.set()

    def stop(self, timeout_s: float) -> None:
        self._stopped = True
        self._wake.set()
        self._thread.join(timeout_s)

    def last_spilled_position(self, epoch: int) -> int:
        """How far an epoch's spill files that are still here reach into its journal."""
        positions = [orjson.loads(path.read_bytes())["position"] for path in self._files() if f".{epoch}." in path.name]
        return max(positions, default=0)

    def _next_id(self) -> str:
        return f"{self._own}{self._sequence + 1:08d}"

    def _write(self, batch_id: str, entries: list[Entry], position: int) -> None:
        # Each batch is a source of its own: requests that end just after a bucket's bound come in the next batch, and
        # the two rows of that bucket must not be taken for one.
        batch = Batch(batch_id, position, fold_series(entries, batch_id), fold_usage(entries))
        atomic_file.write_bytes(self._folder / f"spill-{batch_id}.json", orjson.dumps(batch.to_json()))
        self._wake.set()

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("spill-*.json"), key=lambda path: path.stat().st_mtime)

    def _run(self) -> None:
        while True:
            self._wake.wait(LIVE_INTERVAL_S)
            self._wake.clear()
            try:
                self._ingest_files()
            except Exception as error:
                log.warning("%d buckets wait on disk: %s", len(self._files()), str(error).strip())
                close_old_connections()
                if not self._stopped:
                    time.sleep(RETRY_S)
            self._publish_live()
            if self._stopped:
                return

    def _ingest_files(self) -> None:
        for path in self._files():
            batch = orjson.loads(path.read_bytes())
            is_own = batch["id"].startswith(self._own)
            if is_own and batch["position"] > self._marked:
                continue
            try:
                ingest.store(batch["id"], batch["series"], batch["usage"])
            except (IntegrityError, DataError):
                # It would be refused for ever and hold up everything behind it; kept for whoever looks into it.
                log.exception("%s is refused by the database; set aside", path.name)
                path.rename(path.with_name(f"refused-{path.name}"))
                continue
            path.unlink(missing_ok=True)
            if is_own:
                self._on_committed(batch["position"])

    def _publish_live(self) -> None:
        source, entries = self._live
        self._live = ("", [])
        if not entries:
            return
        try:
            ingest.publish_open_bucket(self._own, fold_series(entries, source))
        except redis.RedisError as error:
            log.warning("live charts wait for Valkey: %s", error)
