"""Takes the gateways' batches into the tables: once each, however often they come."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson
from django.db import connection, transaction

from common import partitions
from common.broadcast import valkey
from monitoring import ledger
from monitoring.models import LATENCIES, OUTCOMES, IngestedBatch

SERIES_TABLE = "monitoring_request_series"
BOOKS_TABLE = "monitoring_books"
OPEN_BUCKET_S = 30
_SERIES_COLUMNS = [
    "bucket", "tier", "deployment_id", "version_id", "instance_uid", "source",
    "status_2xx", "status_3xx", "status_4xx", "status_5xx", *OUTCOMES, "input_tokens", "output_tokens",
    *(f"{name}_{part}" for name in LATENCIES for part in ("sum", "max", "sketch")),
]  # fmt: skip
_BOOKS_SUMS = ["admitted", *OUTCOMES]


def store(
    gateway: str,
    batch_id: str,
    series: list[dict[str, Any]],
    usage: list[dict[str, Any]],
    books: list[dict[str, Any]],
) -> bool:
    """Write one batch of `gateway`; False when it was there already. Moments are seconds since the epoch."""
    for table, column, rows in ((SERIES_TABLE, "bucket", series), (ledger.TABLE, "minute", usage)):
        for row in rows:
            _ensure_partition(table, row[column] // 86_400)
    with transaction.atomic():
        _, is_new = IngestedBatch.objects.get_or_create(id=batch_id)
        if not is_new:
            return False
        with connection.cursor() as cursor:
            _copy_series(cursor, series)
            ledger.add(cursor, usage)
            _add_books(cursor, gateway, books)
    return True


def publish_open_bucket(gateway: str, series: list[dict[str, Any]]) -> None:
    """Offer the rows of a bucket that is not closed yet; they vanish by themselves when the gateway does."""
    pipeline = valkey().pipeline(transaction=False)
    by_version: dict[int, list[dict[str, Any]]] = {}
    for row in series:
        by_version.setdefault(row["version_id"], []).append(row)
    for version_id, rows in by_version.items():
        key = f"slipway:open-bucket:{version_id}"
        pipeline.hset(key, gateway, orjson.dumps(rows))
        pipeline.expire(key, OPEN_BUCKET_S)
    pipeline.execute()


def open_bucket(version_ids: list[int]) -> list[dict[str, Any]]:
    """The rows that gateways have published of buckets not closed yet."""
    pipeline = valkey().pipeline(transaction=False)
    for version_id in version_ids:
        pipeline.hgetall(f"slipway:open-bucket:{version_id}")
    rows: list[dict[str, Any]] = []
    for published in pipeline.execute():
        for value in published.values():
            rows += orjson.loads(value)
    return rows


@lru_cache(maxsize=64)
def _ensure_partition(table: str, day: int) -> None:
    partitions.ensure_day(table, datetime.fromtimestamp(day * 86_400, UTC).date())


def _copy_series(cursor: Any, rows: list[dict[str, Any]]) -> None:
    with cursor.copy(f"COPY {SERIES_TABLE} ({', '.join(_SERIES_COLUMNS)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row([_series_value(name, row[name]) for name in _SERIES_COLUMNS])


def _series_value(name: str, value: Any) -> Any:
    if name == "bucket":
        return datetime.fromtimestamp(value, UTC)
    return bytes.fromhex(value) if name.endswith("_sketch") else value


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
