"""Times in the queue and its size, as series: what the charts are made of.

Both are read from the requests' rows, not counted by dispatchers on the side: whoever is killed, each request that ended
is in exactly one bucket.
"""

from collections import Counter, defaultdict
from typing import Any

import numpy as np
from django.db import connection, transaction

from async_inference import services, statements
from async_inference.models import AsyncBacklog, AsyncRequest, QueueClock
from common import sketch
from common.request_outcomes import LATENCIES
from deployments.models import Deployment
from deployments.selectors import current_versions
from monitoring import series
from monitoring.instances import numbers_of, uid_of_version
from monitoring.request_frame import COUNTS, RequestFrame
from monitoring.system_frame import NO_DEVICE, SystemFrame

BUCKET_S = 10
# A transaction that ends a request notes its moment before it commits.
GRACE_S = 5
# After an outage the rest comes with the next rounds.
MOST_S = 3600
SIZE = "async_queue_size"


def measure(now: int) -> None:
    """One round. The caller holds the lock."""
    series.ensure_fresh_partition()
    sizes = _sizes()
    with transaction.atomic():
        _note_sizes(sizes)
        of_all: Counter[int] = Counter()
        for (deployment_id, _), (count, _) in sizes.items():
            of_all[deployment_id] += count
        versions = dict(current_versions().filter(deployment__in=of_all).values_list("deployment_id", "pk"))
        numbers = numbers_of({uid_of_version(pk): pk for pk in versions.values()})
        rows = []
        for deployment_id, version_id in versions.items():
            number = numbers[uid_of_version(version_id)]
            frame = SystemFrame.of_samples([(number, SIZE, NO_DEVICE, now, float(of_all[deployment_id]))])
            rows.append((version_id, now, frame.pack()))
        if rows and (added := series.add_batch(f"async.size.{now}")):
            series.add_fresh(*added, series.SYSTEM, rows)
    while _measure_times((now - GRACE_S) // BUCKET_S * BUCKET_S):
        pass


def _measure_times(until: int) -> bool:
    """Take the next stretch of time up to `until`; whether there is more. Its end is noted in the same transaction."""
    with transaction.atomic(), connection.cursor() as cursor:
        clock, is_new = QueueClock.objects.select_for_update().get_or_create(pk=1, defaults={"measured_until": until})
        start, end = clock.measured_until, min(until, clock.measured_until + MOST_S)
        if is_new or start >= until:
            return False
        cursor.execute(statements.QUEUE_TIMES, {"start": start, "end": end})
        rows = _frames(cursor.fetchall())
        if rows and (added := series.add_batch(f"async.times.{start}")):
            series.add_fresh(*added, series.QUEUE_TIMES, rows)
        QueueClock.objects.update(measured_until=end)
        return end < until


def _frames(found: list[tuple[int, int, float, int]]) -> list[tuple[int, int, bytes]]:
    """One frame for each version and bucket. Who was lost with its dispatcher has no version: the deployment's counts."""
    unknown = {deployment_id for deployment_id, version_id, _, _ in found if not version_id}
    versions = (
        dict(current_versions().filter(deployment__in=unknown).values_list("deployment_id", "pk")) if unknown else {}
    )
    groups: dict[tuple[int, int], list[float]] = defaultdict(list)
    for deployment_id, version_id, seconds, bucket in found:
        groups[version_id or versions.get(deployment_id, 0), bucket].append(max(0.0, seconds))
    return [
        (version_id, bucket, _frame(bucket, np.array(times)).pack())
        for (version_id, bucket), times in groups.items()
        if version_id
    ]


def _frame(bucket: int, times: np.ndarray) -> RequestFrame:
    """Of all instances together, with nothing but these times in the queue."""
    row: dict[str, Any] = {"instance_uid": "", "bucket": bucket, **dict.fromkeys(COUNTS, 0)}
    for name in LATENCIES:
        found = times if name == "queue" else times[:0]
        row |= {f"{name}_sketch": sketch.of_values(found).hex(), f"{name}_sum": float(found.sum())}
        row[f"{name}_max"] = float(found.max(initial=0.0))
    return RequestFrame.from_rows([row], {"": 0})


def _sizes() -> dict[tuple[int, int], tuple[int, int]]:
    """(how many wait, bytes that are kept) by (deployment, user), of all that have, or had, something in the queue."""
    known = AsyncBacklog.objects.values_list("deployment_id", "user_id")
    found: dict[tuple[int, int], tuple[int, int]] = dict.fromkeys(known, (0, 0))
    with connection.cursor() as cursor:
        cursor.execute(statements.SIZES)
        return found | {(pk, user): (count, int(size)) for pk, user, count, size in cursor.fetchall()}


def _note_sizes(sizes: dict[tuple[int, int], tuple[int, int]]) -> None:
    AsyncBacklog.objects.bulk_create(
        [
            AsyncBacklog(deployment_id=pk, user_id=user, waiting=count, kept_bytes=size)
            for (pk, user), (count, size) in sorted(sizes.items())
        ],
        update_conflicts=True,
        unique_fields=["deployment_id", "user_id"],
        update_fields=["waiting", "kept_bytes"],
    )


def cancel_orphans() -> None:
    """A gateway may take a request for a deployment that was deleted a moment ago: nobody else would ever end it."""
    waiting = set(AsyncBacklog.objects.filter(waiting__gt=0).values_list("deployment_id", flat=True))
    for deployment_id in waiting - set(Deployment.objects.filter(pk__in=waiting).values_list("pk", flat=True)):
        services.cancel_all(deployment_id, code="deployment_deleted", message="The deployment was deleted.")


def forget_unused() -> None:
    """Deployments of which no request is left are measured no longer."""
    for item in AsyncBacklog.objects.filter(waiting=0):
        if not AsyncRequest.objects.filter(deployment_id=item.deployment_id, user_id=item.user_id).exists():
            item.delete()
