"""Reads and writes metrics over time: fresh rows as they come, and blocks of rolled-up ones.

A row's place: what is not rolled up yet lies in `monitoring_fresh`; then in a block of the finest tier, and once a coarser
tier's span is over in a block of that one too. `monitoring_rollup` says until when each tier is closed: what came
before is in it, what came later is in the finer ones. All of it is read in one snapshot, so whatever moves meanwhile
is seen exactly once.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import numpy as np
import psycopg
from django.db import connection, transaction

from common import partitions
from monitoring.request_frame import ALL_INSTANCES, RequestFrame
from monitoring.system_frame import SystemFrame
from monitoring.tiers import HOUR, TIERS, Tier

FRESH = "monitoring_fresh"
# Queue times of asynchronous requests are a RequestFrame with those alone.
REQUESTS, SYSTEM, QUEUE_TIMES = 1, 2, 3
_BATCHES = "monitoring_ingestedbatch"
# Made ahead, so that storing rarely has to make one.
_AHEAD_S = 7200


@contextmanager
def snapshot() -> Iterator[None]:
    """Everything read inside is of one moment. Inside another transaction (a test's) that one's moment counts."""
    if connection.in_atomic_block:
        yield
        return
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield


def add_batch(batch_id: str) -> tuple[int, datetime] | None:
    """Note a batch of rows: its number and the moment of its coming. None when it was there already."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {_BATCHES} (id, at) VALUES (%s, now()) ON CONFLICT DO NOTHING RETURNING number, at",
            [batch_id],
        )
        return cursor.fetchone()


def ensure_fresh_partition() -> None:
    """Of this hour, by the database's clock, and of the next ones."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM now())::bigint")
        (now,) = cursor.fetchone()
    for hour in range(now // HOUR, (now + _AHEAD_S) // HOUR + 1):
        partitions.ensure_span(FRESH, hour * HOUR, HOUR)


def add_fresh(number: int, arrived: datetime, kind: int, rows: Sequence[tuple[int, int, bytes]]) -> None:
    """Rows of the batch: version, moment of its bucket, packed frame."""
    at = int(arrived.timestamp())
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY {FRESH} (arrived, kind, version_id, bucket, batch, data) FROM STDIN") as copy,
    ):
        for version_id, bucket, data in rows:
            copy.write_row((at, kind, version_id, bucket, number, data))


def requests(
    version_ids: Sequence[int], start: int, end: int, tier: Tier, instances: Sequence[int] = (0,), kind: int = REQUESTS
) -> RequestFrame:
    """The requests of these instances that ended in [start, end), in the tier's buckets, all versions added up."""
    by_version = _request_parts(version_ids, start, end, tier, instances, kind)
    return _added_up((part for parts in by_version.values() for part in parts), start, end, tier)


def requests_by_version(version_ids: Sequence[int], start: int, end: int, tier: Tier) -> dict[int, RequestFrame]:
    """The requests of all instances together, of each version that had some."""
    by_version = _request_parts(version_ids, start, end, tier, (0,))
    return {version_id: _added_up(parts, start, end, tier) for version_id, parts in by_version.items()}


def _request_parts(
    version_ids: Sequence[int], start: int, end: int, tier: Tier, instances: Sequence[int], kind: int = REQUESTS
) -> dict[int, list[RequestFrame]]:
    found: dict[int, list[RequestFrame]] = defaultdict(list)
    finest: dict[int, list[RequestFrame]] = defaultdict(list)
    for piece, since, until in _pieces(start, end, tier):
        # The finest tier has no row of all instances where it is but their sum.
        wanted = instances if piece != TIERS[0] or ALL_INSTANCES not in instances else None
        for version_id, data in _blocks(kind, version_ids, since, until, piece, wanted):
            (finest if wanted is None else found)[version_id].append(RequestFrame.unpack(data))
    for version_id, parts in finest.items():
        found[version_id].append(_only(RequestFrame.concatenate(parts), instances))
    for version_id, data in _fresh(kind, version_ids, start, end):
        found[version_id].append(_only(RequestFrame.unpack(data), instances))
    return found


def _only(frame: RequestFrame, instances: Sequence[int]) -> RequestFrame:
    """The rows of these instances, of one version's rows without sums."""
    if tuple(instances) == (ALL_INSTANCES,):
        return frame.of_all()
    frame = frame.with_sums() if ALL_INSTANCES in instances else frame
    return frame.pick(np.isin(frame.instance, instances))


def _added_up(parts: Iterable[RequestFrame], start: int, end: int, tier: Tier) -> RequestFrame:
    return RequestFrame.concatenate(parts).by_width(tier.seconds).between(start, end)


def system(
    version_ids: Sequence[int], start: int, end: int, tier: Tier, instances: Sequence[int] | None = None
) -> SystemFrame:
    """The samples of these instances (None: all) in [start, end), in the tier's buckets."""
    found = [
        *(
            row
            for piece, since, until in _pieces(start, end, tier)
            for row in _blocks(SYSTEM, version_ids, since, until, piece, None)
        ),
        *_fresh(SYSTEM, version_ids, start, end),
    ]
    frame = SystemFrame.concatenate(SystemFrame.unpack(data) for _, data in found)
    wanted = (frame.at >= start) & (frame.at < end)
    if instances is not None:
        wanted &= np.isin(frame.instance, instances)
    return frame.pick(wanted).by_width(tier.seconds)


def closed_until() -> dict[int, int]:
    """Of each tier, by its seconds: the moment up to which everything is in its blocks."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT tier, closed_until FROM monitoring_rollup")
        return dict(cursor.fetchall())


def _pieces(start: int, end: int, tier: Tier) -> Iterator[tuple[Tier, int, int]]:
    """Which blocks make up [start, end): the tier's where it is closed, those of finer ones for what came since."""
    closed = closed_until()
    for candidate in reversed(TIERS[: TIERS.index(tier) + 1]):
        until = end if candidate == TIERS[0] else min(end, closed.get(candidate.seconds, 0))
        if start < until:
            yield candidate, start, until
            start = until


def _blocks(
    kind: int, version_ids: Sequence[int], start: int, end: int, tier: Tier, instances: Sequence[int] | None
) -> list[tuple[int, bytes]]:
    only = "" if instances is None else "AND instance = ANY(%(instances)s)"
    return _rows(
        f"SELECT version_id, data FROM {tier.table} WHERE version_id = ANY(%(versions)s) AND kind = %(kind)s "
        f"AND start > %(start)s AND start < %(end)s {only} ORDER BY version_id, instance, start",
        {"versions": list(version_ids), "kind": kind, "start": start - tier.span, "end": end, "instances": list(instances or ())},
    )  # fmt: skip


def _fresh(kind: int, version_ids: Sequence[int], start: int, end: int) -> list[tuple[int, bytes]]:
    return _rows(
        f"SELECT version_id, data FROM {FRESH} WHERE version_id = ANY(%(versions)s) AND kind = %(kind)s AND bucket >= %(start)s "
        f"AND bucket < %(end)s AND batch = ANY(ARRAY(SELECT number FROM {_BATCHES} WHERE NOT is_rolled_up))",
        {"versions": list(version_ids), "kind": kind, "start": start, "end": end},
    )


def _rows(statement: str, values: dict[str, Any]) -> list[tuple[int, bytes]]:
    with binary_cursor() as cursor:
        return cursor.execute(statement, values).fetchall()


@contextmanager
def binary_cursor() -> Iterator[psycopg.Cursor[Any]]:
    """A cursor that brings bytes as they are: as text, Django's way, each one travels as two digits.

    Errors are Django's, as those of its own cursors: the pages' answer to a database that is away knows only these.
    """
    connection.ensure_connection()
    with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as cursor:
        cursor.format = psycopg.pq.Format.BINARY
        yield cursor


def iterate(name: str, statement: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """The rows through a cursor of the server's, inside a transaction: a backlog of hours must not lie in memory whole."""
    with connection.wrap_database_errors, psycopg.ServerCursor(connection.connection, name) as cursor:
        cursor.format, cursor.itersize = psycopg.pq.Format.BINARY, 1000
        cursor.execute(statement, values)
        yield from cursor


def known_batches(ids: Sequence[str]) -> set[str]:
    """Those of the batches that are in the tables as of this snapshot."""
    if not ids:
        return set()
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT id FROM {_BATCHES} WHERE id = ANY(%s)", [list(ids)])
        return {row[0] for row in cursor.fetchall()}


def ensure_block_partition(tier: Tier, moment: int) -> None:
    partitions.ensure_span(tier.table, moment, tier.partition)


def drop_old(now: int) -> list[str]:
    """Drop what is past its tier's time, and fresh rows that are all rolled up; the partitions' names."""
    dropped, closed = [], closed_until()
    for tier, coarser in zip(TIERS, (*TIERS[1:], None), strict=True):
        # Not before the next tier has it.
        limit = min(now - tier.kept, closed.get(coarser.seconds, 0) if coarser else now)
        dropped += partitions.drop_spans_before(tier.table, limit, tier.partition)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT extract(epoch FROM min(at))::bigint FROM {_BATCHES} WHERE NOT is_rolled_up")
        (waiting_since,) = cursor.fetchone()
        # Only those that are older than any row can come: a batch that comes again is told by its id.
        cursor.execute(f"DELETE FROM {_BATCHES} WHERE is_rolled_up AND at < now() - interval '60 days'")
    # With an hour to spare: a batch may be noted in a transaction that has not ended yet.
    limit = min(now - HOUR, waiting_since) if waiting_since is not None else now - HOUR
    return dropped + partitions.drop_spans_before(FRESH, limit, HOUR)
