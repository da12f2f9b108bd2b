"""Adds fresh rows to the blocks of every tier, each exactly once, however late they come and whoever is killed."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np
import psycopg
from django.db import connection, transaction

from monitoring import series
from monitoring.request_frame import RequestFrame
from monitoring.series import FRESH, REQUESTS
from monitoring.system_frame import SystemFrame
from monitoring.tiers import TIERS, Tier

# So many batches in one transaction; a backlog takes several.
BATCHES_AT_ONCE = 2000
Frame = RequestFrame | SystemFrame


def roll_up() -> int:
    """Roll up all batches that wait; their number. The caller holds the lock: two at once would wait for each other."""
    count = 0
    while taken := _roll_up_some():
        count += taken
    return count


def _roll_up_some() -> int:
    numbers = _waiting()
    if not numbers:
        return 0
    # Not inside the transaction below: making a partition locks its parent against readers until the commit.
    for tier, moment in _places(numbers):
        series.ensure_block_partition(tier, moment)
    with transaction.atomic(), connection.cursor() as cursor:
        for (version_id, kind), rows in groupby(_fresh_rows(numbers), key=lambda row: (row[0], row[1])):
            _add(version_id, kind, _joined(kind, [data for _, _, data in rows]))
        cursor.execute("UPDATE monitoring_ingestedbatch SET is_rolled_up = true WHERE number = ANY(%s)", [numbers])
    return len(numbers)


def _waiting() -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT number FROM monitoring_ingestedbatch WHERE NOT is_rolled_up ORDER BY number LIMIT %s",
            [BATCHES_AT_ONCE],
        )
        return [row[0] for row in cursor.fetchall()]


def _places(numbers: list[int]) -> Iterator[tuple[Tier, int]]:
    """Of each tier the partitions that these batches' rows go to."""
    with connection.cursor() as cursor:
        # Hours are enough: no partition is narrower.
        cursor.execute(f"SELECT DISTINCT bucket / 3600 * 3600 FROM {FRESH} WHERE batch = ANY(%s)", [numbers])
        hours = [row[0] for row in cursor.fetchall()]
    for tier in TIERS:
        yield from ((tier, start) for start in {hour // tier.partition * tier.partition for hour in hours})


def _fresh_rows(numbers: list[int]) -> Iterator[tuple[int, int, bytes]]:
    # A cursor of the server's: a backlog of hours must not lie in memory whole.
    with psycopg.ServerCursor(connection.connection, "roll_up") as cursor:
        cursor.format, cursor.itersize = psycopg.pq.Format.BINARY, 2000
        cursor.execute(
            f"SELECT version_id, kind, data FROM {FRESH} WHERE batch = ANY(%s) ORDER BY version_id, kind", [numbers]
        )
        yield from cursor


def _joined(kind: int, blobs: list[bytes]) -> Frame:
    if kind == REQUESTS:
        return RequestFrame.concatenate(RequestFrame.unpack(data).with_repeated() for data in blobs)
    return SystemFrame.concatenate(SystemFrame.unpack(data) for data in blobs)


def _add(version_id: int, kind: int, frame: Frame) -> None:
    for tier in TIERS:
        frame = frame.by_width(tier.seconds)
        starts = frame.at // tier.span * tier.span
        existing = _existing(tier, version_id, kind, sorted({int(start) for start in starts}))
        changed = []
        for instance, start in np.unique(np.stack([frame.instance, starts]), axis=1).T.tolist():
            part = frame.pick((frame.instance == instance) & (starts == start))
            if (instance, start) in existing:
                codec: Any = type(frame)
                part = codec.concatenate([codec.unpack(existing[instance, start]), part]).by_width(tier.seconds)
            changed.append((version_id, kind, instance, start, part.pack()))
        _write(tier, changed)


def _existing(tier: Tier, version_id: int, kind: int, starts: list[int]) -> dict[tuple[int, int], bytes]:
    with series.binary_cursor() as cursor:
        cursor.execute(
            f"SELECT instance, start, data FROM {tier.table} WHERE version_id = %s AND kind = %s AND start = ANY(%s)",
            [version_id, kind, starts],
        )
        return {(instance, start): data for instance, start, data in cursor.fetchall()}


def _write(tier: Tier, rows: list[tuple[int, int, int, int, bytes]]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {tier.table} (version_id, kind, instance, start, data) VALUES (%s, %s, %s, %s, %s) "
            "ON CONFLICT (version_id, kind, instance, start) DO UPDATE SET data = EXCLUDED.data",
            rows,
        )
