"""Adds fresh rows to the blocks of every tier, each exactly once, however late they come and whoever is killed."""

from collections.abc import Iterator
from itertools import groupby, pairwise

from django.db import connection, transaction

from monitoring import series
from monitoring.request_frame import ALL_INSTANCES, RequestFrame
from monitoring.series import FRESH, REQUESTS, SYSTEM
from monitoring.system_frame import SystemFrame
from monitoring.tiers import TIERS, Tier

# So many batches in one transaction; a backlog takes several.
BATCHES_AT_ONCE = 2000
# What comes later than this finds its span closed, and is added to every tier on its own.
LATE_S = 120
Frame = RequestFrame | SystemFrame


def roll_up(now: int) -> int:
    """Roll up all batches that wait, then close what is over; the number of batches. The caller holds the lock."""
    count = 0
    while taken := _roll_up_some():
        count += taken
    for finer, tier in pairwise(TIERS):
        _close(finer, tier, (now - LATE_S) // tier.span * tier.span)
    return count


def _roll_up_some() -> int:
    numbers = _waiting()
    if not numbers:
        return 0
    closed = series.closed_until()
    # Not inside the transaction below: attaching a partition locks its parent against others' until the commit.
    for tier, moment in _places(numbers):
        series.ensure_block_partition(tier, moment)
    with transaction.atomic(), connection.cursor() as cursor:
        for (version_id, kind), rows in groupby(_fresh_rows(numbers), key=lambda row: (row[0], row[1])):
            _add(version_id, kind, _fresh_frame(kind, [data for _, _, data in rows]), closed)
        cursor.execute("UPDATE monitoring_ingestedbatch SET is_rolled_up = true WHERE number = ANY(%s)", [numbers])
    return len(numbers)


def _close(finer: Tier, tier: Tier, until: int) -> None:
    """Make the tier's blocks of all spans that end at `until` or before and are not made yet, from the finer tier's."""
    since = series.closed_until().get(tier.seconds, 0)
    if since >= until:
        return
    for start in _starts(finer, tier, since, until):
        series.ensure_block_partition(tier, start)
    with transaction.atomic(), connection.cursor() as cursor:
        for _, rows in groupby(_blocks(finer, since, until), key=lambda row: (row[0], row[1])):
            found = list(rows)
            version_id, kind = found[0][:2]
            frame = _joined(kind, [data for _, _, data in found])
            if isinstance(frame, RequestFrame) and finer == TIERS[0]:
                frame = frame.with_sums()
            _write(tier, list(_cut(version_id, kind, frame.by_width(tier.seconds), tier)))
        cursor.execute(
            "INSERT INTO monitoring_rollup (tier, closed_until) VALUES (%s, %s) "
            "ON CONFLICT (tier) DO UPDATE SET closed_until = EXCLUDED.closed_until",
            [tier.seconds, until],
        )


def _starts(finer: Tier, tier: Tier, since: int, until: int) -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT DISTINCT start / %s * %s FROM {finer.table} WHERE start >= %s AND start < %s",
            [tier.span, tier.span, since, until],
        )
        return [row[0] for row in cursor.fetchall()]


def _blocks(tier: Tier, since: int, until: int) -> Iterator[tuple[int, int, bytes]]:
    return series.iterate(
        "blocks",
        f"SELECT version_id, kind, data FROM {tier.table} WHERE start >= %s AND start < %s ORDER BY version_id, kind",
        [since, until],
    )


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
    return series.iterate(
        "roll_up",
        f"SELECT version_id, kind, data FROM {FRESH} WHERE batch = ANY(%s) ORDER BY version_id, kind",
        [numbers],
    )


def _fresh_frame(kind: int, blobs: list[bytes]) -> Frame:
    if kind != REQUESTS:
        return _joined(kind, blobs)
    # Each on its own: what one gateway left out, another one may have.
    return RequestFrame.concatenate(RequestFrame.unpack(data).with_sums() for data in blobs)


def _joined(kind: int, blobs: list[bytes]) -> Frame:
    if kind != SYSTEM:
        return RequestFrame.concatenate(RequestFrame.unpack(data) for data in blobs)
    return SystemFrame.concatenate(SystemFrame.unpack(data) for data in blobs)


def _add(version_id: int, kind: int, frame: Frame, closed: dict[int, int]) -> None:
    """To the finest tier, and what comes late to the coarser ones that are closed already."""
    for tier in TIERS:
        if tier != TIERS[0]:
            frame = frame.pick(frame.at < closed.get(tier.seconds, 0))
        if not len(frame):
            return
        frame = frame.by_width(tier.seconds)
        existing = _existing(tier, version_id, kind, sorted(set((frame.at // tier.span * tier.span).tolist())))
        _write(tier, list(_cut(version_id, kind, _merged(kind, tier, existing, frame), tier)))


def _merged(kind: int, tier: Tier, existing: list[bytes], frame: Frame) -> Frame:
    """The blocks that are there, all those that the frame touches, with the frame."""
    if kind != REQUESTS or tier != TIERS[0]:
        return type(frame).concatenate([_joined(kind, existing), frame]).by_width(tier.seconds)  # type: ignore[arg-type]
    known = RequestFrame.concatenate(RequestFrame.unpack(data) for data in existing).with_sums()
    return RequestFrame.concatenate([known, frame]).by_width(tier.seconds).without_sums()  # type: ignore[list-item]


def _cut(version_id: int, kind: int, frame: Frame, tier: Tier) -> Iterator[tuple[int, int, int, int, bytes]]:
    """The rows of the tier's table that hold the frame: requests by instance, the few samples of a version together."""
    if isinstance(frame, SystemFrame):
        for start, part in frame.split(frame.at // tier.span * tier.span):
            yield version_id, kind, ALL_INSTANCES, start, part.pack()
        return
    for instance, start, part in frame.split(frame.at // tier.span * tier.span):
        yield version_id, kind, instance, start, part.pack()


def _existing(tier: Tier, version_id: int, kind: int, starts: list[int]) -> list[bytes]:
    with series.binary_cursor() as cursor:
        cursor.execute(
            f"SELECT data FROM {tier.table} WHERE version_id = %s AND kind = %s AND start = ANY(%s)",
            [version_id, kind, starts],
        )
        return [data for (data,) in cursor.fetchall()]


def _write(tier: Tier, rows: list[tuple[int, int, int, int, bytes]]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {tier.table} (version_id, kind, instance, start, data) VALUES (%s, %s, %s, %s, %s) "
            "ON CONFLICT (version_id, kind, instance, start) DO UPDATE SET data = EXCLUDED.data",
            rows,
        )
