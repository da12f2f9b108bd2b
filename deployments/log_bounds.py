"""How much of logs is kept: so much of an instance and day, and so much in all. The oldest go first.

Sizes are of chunks as they are stored, compressed. Which lines went can be read off the first that is left (log_store.Page.is_cut).
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

from django.conf import settings
from django.db import connection

from common import partitions

TABLE = "deployments_log_chunk"
# Trimmed to less than the bound, so that not each chunk behind it trims anew.
_TRIMMED_TO = 0.9
_OLDEST = """
DELETE FROM deployments_log_chunk AS gone USING (
  SELECT instance_uid, first_position, sealed_at, sum(octet_length(data)) OVER (ORDER BY {order}) AS behind
  FROM deployments_log_chunk WHERE sealed_at >= %(start)s AND sealed_at < %(end)s {where}
) AS item
WHERE gone.instance_uid = item.instance_uid AND gone.first_position = item.first_position AND gone.sealed_at = item.sealed_at
  AND item.behind > %(most)s
"""


class KeptToday:
    """What each instance's log has taken of its day, counted by the process that stores it."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[date, int]] = {}

    def add(self, uid: str, day: date, size: int) -> None:
        """Note a chunk of `size` bytes that was just stored, and trim the day where that is too much."""
        known_day, known = self._kept.get(uid, (None, 0))
        kept = known + size if known_day == day else _kept(uid, day)
        most = settings.LOG_INSTANCE_DAY_BYTES
        if kept > most:
            _trim(
                _day(day) | {"uid": uid, "most": int(most * _TRIMMED_TO)},
                "AND instance_uid = %(uid)s",
                "first_position DESC",
            )
            kept = _kept(uid, day)
        self._kept[uid] = (day, kept)
        if len(self._kept) > 10_000:
            # Of instances that ended long ago, mostly; the others are counted anew.
            self._kept.clear()


def bound_all(today: date) -> None:
    """Drop the oldest days, and of today the oldest chunks, until all logs together are small enough."""
    most = settings.LOG_BYTES
    sizes = _sizes()
    for name in sorted(sizes)[:-1]:
        if sum(sizes.values()) <= most:
            return
        day = _day_of(name)
        if day >= today:
            break
        if partitions.drop_before(TABLE, day + timedelta(days=1)):
            del sizes[name]
    if sum(sizes.values()) > most:
        # Rows that were deleted leave room that is used again, and no smaller table: what lives in it counts.
        _trim(_day(today) | {"most": int(most * _TRIMMED_TO)}, "", "sealed_at DESC, instance_uid, first_position DESC")


def _sizes() -> Mapping[str, int]:
    """Bytes on disk by partition."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT inhrelid::regclass::text, pg_total_relation_size(inhrelid) FROM pg_inherits WHERE inhparent = %s::regclass",
            [TABLE],
        )
        return {name: size for name, size in cursor.fetchall() if name.startswith(f"{TABLE}_2")}


def _kept(uid: str, day: date) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(octet_length(data)), 0) FROM deployments_log_chunk"
            " WHERE instance_uid = %(uid)s AND sealed_at >= %(start)s AND sealed_at < %(end)s",
            _day(day) | {"uid": uid},
        )
        return int(cursor.fetchone()[0])


def _trim(values: dict[str, object], where: str, order: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_OLDEST.format(where=where, order=order), values)


def _day(day: date) -> dict[str, object]:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return {"start": start, "end": start + timedelta(days=1)}


def _day_of(partition: str) -> date:
    return datetime.strptime(partition.rpartition("_")[2], "%Y%m%d").replace(tzinfo=UTC).date()
