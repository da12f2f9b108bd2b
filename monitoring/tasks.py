"""Celery's entry points of monitoring."""

import time
from datetime import UTC, datetime, timedelta

from celery import shared_task
from django.utils import timezone

from common import partitions
from common.database_lock import try_lock
from common.lanes import Lanes
from deployments import log_bounds
from deployments.models import Cluster
from monitoring import books, collect, fleet, rollup, series, token_quotas
from monitoring.models import EngineHour

# The series' own times are in tiers.py.
DAYS_KEPT = {
    "monitoring_usage_minute": 400,
    "deployments_log_chunk": 30,
    "monitoring_notable_request": 32,
}


@shared_task(name="monitoring.collect_system")
def collect_system() -> None:
    with try_lock("monitoring.collect") as held:
        if held:
            collect.collect_local()
    for cluster_id in Cluster.objects.filter(driver=Cluster.Driver.KUBERNETES).values_list("pk", flat=True):
        # Each cluster on its own: one that is slow or away delays no other.
        _lanes.ask(cluster_id)


def _collect_cluster(cluster_id: int) -> None:
    cluster = Cluster.objects.filter(pk=cluster_id).first()
    with try_lock(f"monitoring.collect.{cluster_id}") as held:
        if held and cluster is not None:
            collect.collect_kubernetes(cluster)


_lanes = Lanes("collect", _collect_cluster)


@shared_task(name="monitoring.ensure_partitions")
def ensure_partitions() -> None:
    """Make the partitions of the next days, drop those past their time."""
    today = datetime.now(UTC).date()
    for table, days in DAYS_KEPT.items():
        partitions.ensure(table, today=today)
        partitions.drop_before(table, today - timedelta(days=days))
    oldest = timezone.now() - timedelta(days=DAYS_KEPT["monitoring_usage_minute"])
    EngineHour.objects.filter(hour__lt=oldest).delete()


@shared_task(name="monitoring.bound_logs")
def bound_logs() -> None:
    with try_lock("monitoring.bound_logs") as held:
        if held:
            log_bounds.bound_all(datetime.now(UTC).date())


@shared_task(name="monitoring.roll_up")
def roll_up() -> None:
    """Add what came since to the blocks of all tiers, then drop what is too old."""
    with try_lock("monitoring.roll_up") as held:
        if held:
            now = int(time.time())
            rollup.roll_up(now)
            series.drop_old(now)


@shared_task(name="monitoring.make_fleet")
def make_fleet() -> None:
    """Put the last minutes of all deployments side by side."""
    with try_lock("monitoring.fleet") as held:
        if held:
            fleet.make(int(time.time()))


@shared_task(name="monitoring.hold_token_quotas")
def hold_token_quotas() -> None:
    token_quotas.look(timezone.now())


@shared_task(name="monitoring.check_books")
def check_books() -> None:
    books.alarm_if_unbalanced()
