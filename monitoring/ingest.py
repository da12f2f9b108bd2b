"""Takes the gateways' batches into the tables: once each, however often they come."""

import time
from collections import defaultdict
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson
from django.db import connection, transaction

from common import partitions
from common.request_outcomes import OUTCOMES
from common.stores import scratch
from monitoring import ledger, notable, series, totals
from monitoring.instances import numbers_of
from monitoring.request_frame import ALL_INSTANCES, RequestFrame

BOOKS_TABLE = "monitoring_books"
OPEN_BUCKET_S = 30
# A gateway whose clock is ahead by more: its buckets are booked when they come, none of them in the future.
MAX_AHEAD_S = 60
_BOOKS_SUMS = ["admitted", *OUTCOMES]


def store(
    gateway: str,
    batch_id: str,
    rows: list[dict[str, Any]],
    usage: list[dict[str, Any]],
    books: list[dict[str, Any]],
    notable_requests: list[dict[str, Any]] | None = None,
) -> bool:
    """Write one batch of `gateway`; False when it was there already. Moments are seconds since the epoch."""
    for row in usage:
        _ensure_day(ledger.TABLE, row["minute"] // 86_400)
    for row in notable_requests or ():
        _ensure_day(notable.TABLE, int(row["at"]) // 86_400)
    series.ensure_fresh_partition()
    with transaction.atomic():
        added = series.add_batch(batch_id)
        if added is None:
            return False
        number, arrived = added
        frames = _frames(rows, int(arrived.timestamp()))
        packed = [(version_id, bucket, frame.without_sums().pack()) for version_id, bucket, frame in frames]
        series.add_fresh(number, arrived, series.REQUESTS, packed)
        totals.add(_totals(rows, frames))
        with connection.cursor() as cursor:
            ledger.add(cursor, usage)
            _add_books(cursor, gateway, books)
        notable.add(notable_requests or [])
    return True


def publish_open_bucket(gateway: str, rows: list[dict[str, Any]]) -> None:
    """Offer the rows of a bucket that is not closed yet; they vanish by themselves when the gateway does."""
    pipeline = scratch().pipeline(transaction=False)
    by_version: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_version.setdefault(row["version_id"], []).append(row)
    for version_id, mine in by_version.items():
        key = f"slipway:open-bucket:{version_id}"
        # Of when it is: other gateways keep the hash alive, also for one that was killed.
        pipeline.hset(key, gateway, orjson.dumps({"at": time.time(), "rows": mine}))
        pipeline.expire(key, OPEN_BUCKET_S)
    pipeline.execute()


def open_bucket(version_ids: list[int]) -> list[dict[str, Any]]:
    """The rows that gateways have published of buckets not closed yet; `source` is the batch that they will come in."""
    pipeline = scratch().pipeline(transaction=False)
    for version_id in version_ids:
        pipeline.hgetall(f"slipway:open-bucket:{version_id}")
    now = time.time()
    rows: list[dict[str, Any]] = []
    for found in pipeline.execute():
        for value in found.values():
            published = orjson.loads(value)
            if now - published["at"] < OPEN_BUCKET_S:
                rows += published["rows"]
    return rows


@lru_cache(maxsize=64)
def _ensure_day(table: str, day: int) -> None:
    partitions.ensure_day(table, datetime.fromtimestamp(day * 86_400, UTC).date())


def _frames(rows: list[dict[str, Any]], now: int) -> list[tuple[int, int, RequestFrame]]:
    """One frame for each version and bucket."""
    numbers = numbers_of({row["instance_uid"]: row["version_id"] for row in rows if row["instance_uid"]}) | {"": 0}
    groups: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["bucket"] > now + MAX_AHEAD_S:
            row = {**row, "bucket": now // 10 * 10}
        groups[row["version_id"], row["bucket"]].append(row)
    return [
        (version_id, bucket, RequestFrame.from_rows(group, numbers)) for (version_id, bucket), group in groups.items()
    ]


def _totals(rows: list[dict[str, Any]], frames: list[tuple[int, int, RequestFrame]]) -> dict[int, totals.Totals]:
    """By deployment, of all instances together."""
    owners = {row["version_id"]: row["deployment_id"] for row in rows}
    found: dict[int, totals.Totals] = {}
    for version_id, _, frame in frames:
        part = totals.Totals.of_rows(frame, frame.instance == ALL_INSTANCES)
        owner = owners[version_id]
        found[owner] = found[owner] + part if owner in found else part
    return found


def _add_books(cursor: Any, gateway: str, rows: list[dict[str, Any]]) -> None:
    columns = ["gateway", "deployment_id", *_BOOKS_SUMS, "in_flight"]
    sums = ", ".join(f"{name} = {BOOKS_TABLE}.{name} + EXCLUDED.{name}" for name in _BOOKS_SUMS)
    statement = (
        f"INSERT INTO {BOOKS_TABLE} ({', '.join(columns)}, updated_at) VALUES ({', '.join(['%s'] * len(columns))}, now()) "  # noqa: S608 (our own constants)
        f"ON CONFLICT (gateway, deployment_id) DO UPDATE SET {sums}, in_flight = EXCLUDED.in_flight, updated_at = now()"
    )
    values = [[gateway, *(row[name] for name in columns[1:])] for row in rows]
    if values:
        cursor.executemany(statement, values)
