"""Celery's entry points of the queue."""

import time
from datetime import timedelta

from celery import shared_task
from django.utils import timezone

from async_inference import queue_metrics
from async_inference.models import AsyncRequest, AsyncSettings
from common.database_lock import try_lock

AT_ONCE = 1000


@shared_task(name="async_inference.measure")
def measure() -> None:
    with try_lock("async_inference.measure") as held:
        if held:
            queue_metrics.measure(int(time.time()))
            queue_metrics.cancel_orphans()


@shared_task(name="async_inference.forget")
def forget() -> None:
    """Delete what ended longer ago than its deployment keeps results, payloads and results included."""
    with try_lock("async_inference.forget") as held:
        if held:
            while forget_some():
                pass
            queue_metrics.forget_unused()


def forget_some() -> int:
    """At most AT_ONCE of each; how many. Deployments that are gone keep theirs as long as the default says."""
    now, ended = timezone.now(), AsyncRequest.objects.order_by("finished_at").values_list("pk", flat=True)
    chosen = dict(AsyncSettings.objects.values_list("deployment_id", "result_days"))
    rest = ended.filter(finished_at__lt=now - timedelta(days=AsyncSettings.RESULT_DAYS)).exclude(deployment__in=chosen)
    ids = list(rest[:AT_ONCE])
    for deployment_id, days in chosen.items():
        ids += ended.filter(deployment=deployment_id, finished_at__lt=now - timedelta(days=days))[:AT_ONCE]
    AsyncRequest.objects.filter(pk__in=ids).delete()
    return len(ids)
