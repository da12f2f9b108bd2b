"""Celery's entry points of the queue."""

import time
from datetime import timedelta

from celery import shared_task
from django.db.models import DurationField, ExpressionWrapper, F, Value
from django.db.models.functions import Coalesce, Now

from async_inference import queue_metrics
from async_inference.models import AsyncRequest, AsyncSettings
from common.database_lock import try_lock

AT_ONCE = 1000


@shared_task(name="async_inference.measure")
def measure() -> None:
    with try_lock("async_inference.measure") as held:
        if held:
            queue_metrics.measure(int(time.time()))


@shared_task(name="async_inference.forget")
def forget() -> None:
    """Delete what ended longer ago than its deployment keeps results, payloads and results included."""
    with try_lock("async_inference.forget") as held:
        if held:
            while forget_some():
                pass
            queue_metrics.forget_unused()


def forget_some() -> int:
    """At most AT_ONCE; how many. Deployments that are gone keep theirs as long as the default says."""
    days = Coalesce(F("deployment__async_settings__result_days"), Value(AsyncSettings.RESULT_DAYS))
    kept = ExpressionWrapper(days * Value(timedelta(days=1)), output_field=DurationField())
    # The shortest of all first, so that the index on the end is what is searched.
    old = AsyncRequest.objects.filter(finished_at__lt=Now() - timedelta(days=1), finished_at__lte=Now() - kept)
    ids = list(old.order_by("finished_at").values_list("pk", flat=True)[:AT_ONCE])
    AsyncRequest.objects.filter(pk__in=ids).delete()
    return len(ids)
