"""Tables partitioned by day: made ahead of need, dropped whole when old (a DELETE would leave bloat behind)."""

from datetime import UTC, date, datetime, timedelta

from django.db import connection

DAYS_AHEAD = 3


def ensure(table: str, *, today: date) -> None:
    """Make the partitions for yesterday (late batches) up to DAYS_AHEAD days from `today`."""
    for offset in range(-1, DAYS_AHEAD + 1):
        ensure_day(table, today + timedelta(days=offset))


def ensure_day(table: str, day: date) -> None:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    end = start + timedelta(days=1)
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE IF NOT EXISTS {_partition(table, day)} PARTITION OF {table} "
            f"FOR VALUES FROM ('{start.isoformat()}') TO ('{end.isoformat()}')"
        )


def drop_before(table: str, first_kept: date) -> list[str]:
    """Drop the partitions of days before `first_kept`; the names of what was dropped."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass", [table])
        names = [row[0] for row in cursor.fetchall()]
        limit = _partition(table, first_kept)
        old = sorted(name for name in names if name.startswith(f"{table}_2") and name < limit)
        for name in old:
            cursor.execute(f"DROP TABLE IF EXISTS {name}")
    return old


def _partition(table: str, day: date) -> str:
    return f"{table}_{day:%Y%m%d}"
