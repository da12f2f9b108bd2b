"""Celery's entry points of monitoring."""

from datetime import UTC, datetime, timedelta

from celery import shared_task

from common import partitions
from common.database_lock import try_lock
from monitoring import books, collect

# Raw tables are kept this long; roll-ups to coarser tiers live on.
DAYS_KEPT = {
    "monitoring_request_series": 30,
    "monitoring_system_samples": 30,
    "monitoring_usage_minute": 400,
    "deployments_log_chunk": 30,
}


@shared_task(name="monitoring.collect_system")
def collect_system() -> None:
    with try_lock("monitoring.collect") as held:
        if held:
            collect.collect_local()


@shared_task(name="monitoring.ensure_partitions")
def ensure_partitions() -> None:
    """Make the partitions of the next days, drop those past their time."""
    today = datetime.now(UTC).date()
    for table, days in DAYS_KEPT.items():
        partitions.ensure(table, today=today)
        partitions.drop_before(table, today - timedelta(days=days))


@shared_task(name="monitoring.check_books")
def check_books() -> None:
    books.alarm_if_unbalanced()
