"""Tables partitioned by time: made ahead of need, dropped whole when old (a DELETE would leave bloat behind)."""

import logging
import zlib
from datetime import UTC, date, datetime, timedelta

from django.db import OperationalError, connection, transaction

log = logging.getLogger(__name__)

DAYS_AHEAD = 3
LOCK_WAIT = "1s"


def ensure(table: str, *, today: date) -> None:
    """Make the partitions for yesterday (late batches) up to DAYS_AHEAD days from `today`."""
    for offset in range(-1, DAYS_AHEAD + 1):
        ensure_day(table, today + timedelta(days=offset))


def ensure_day(table: str, day: date) -> None:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    end = start + timedelta(days=1)
    _create(_partition(table, day), table, start.isoformat(), end.isoformat())


def ensure_span(table: str, moment: int, width: int) -> None:
    """The partition that holds `moment` in a table partitioned by seconds since the epoch, `width` of them each."""
    number = moment // width
    _create(f"{table}_n{number}", table, str(number * width), str((number + 1) * width))


def drop_before(table: str, first_kept: date) -> list[str]:
    """Drop the partitions of days before `first_kept`; the names of what was dropped."""
    limit = _partition(table, first_kept)
    return _drop([name for name in partitions_of(table) if name.startswith(f"{table}_2") and name < limit])


def drop_spans_before(table: str, moment: int, width: int) -> list[str]:
    """Drop the partitions that end at `moment` or before; the names of what was dropped."""
    prefix = f"{table}_n"
    return _drop(
        [
            name
            for name in partitions_of(table)
            if name.startswith(prefix) and (int(name.removeprefix(prefix)) + 1) * width <= moment
        ]
    )


def partitions_of(table: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass", [table])
        return sorted(row[0] for row in cursor.fetchall())


def _create(name: str, table: str, start: str, end: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s)", [name])
        if cursor.fetchone() != (None,):
            return
    with transaction.atomic(), connection.cursor() as cursor:
        # One maker at a time; made alone and attached then, which readers of the whole don't wait for.
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [zlib.crc32(name.encode())])
        # From the table, not by to_regclass, which may still answer as before the wait.
        cursor.execute(
            "SELECT 1 FROM pg_class WHERE relname = %s AND relnamespace = current_schema::regnamespace", [name]
        )
        if cursor.fetchone() is None:
            cursor.execute(f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING STORAGE)")
            cursor.execute(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{start}') TO ('{end}')")


def _drop(names: list[str]) -> list[str]:
    """Those that could be dropped: one that somebody reads for long stays until the next time."""
    dropped = []
    for name in names:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                # Whoever waits for this lock holds up everybody behind it.
                cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_WAIT}'")
                cursor.execute(f"DROP TABLE IF EXISTS {name}")
            dropped.append(name)
        except OperationalError:
            log.info("%s is being read; it is dropped the next time", name)
    return dropped


def _partition(table: str, day: date) -> str:
    return f"{table}_{day:%Y%m%d}"
