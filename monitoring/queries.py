"""Reads what charts are made of: stored series and, to the second, what gateways have not closed yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from django.db.models import Q, QuerySet
from django.utils import timezone

from deployments.models import Deployment, Event, Instance, Version
from deployments.models.version import INACTIVE
from monitoring import ingest, series
from monitoring.instances import uid_of_version
from monitoring.models import MeteredInstance
from monitoring.question import Question, UnclearQuestionError
from monitoring.request_frame import ALL_INSTANCES, RequestFrame
from monitoring.system_frame import SystemFrame
from monitoring.tiers import TIERS
from monitoring.window import Window

MAX_MARKS = 200
# Rows of buckets that are still open can't be older.
OPEN_S = 120
# A version that ended longer ago has handed everything in.
RECENT = timedelta(minutes=15)


def check_subjects(deployment: Deployment, question: Question) -> None:
    """Raises UnclearQuestionError for a version or an instance that the deployment doesn't have: a link that has become old would
    else show the figures of all."""
    if question.version_id is not None and not deployment.versions.filter(pk=question.version_id).exists():
        raise UnclearQuestionError("Version: this deployment has no such version, or no more. Choose another one.")
    uid = question.instance_uid
    if uid and not (
        Instance.objects.filter(uid=uid, version__deployment=deployment).exists()
        or MeteredInstance.objects.filter(uid=uid, version_id__in=deployment.versions.values("pk")).exists()
    ):
        raise UnclearQuestionError("Instance: this deployment has no such instance, or no more. Choose another one.")


@dataclass(frozen=True)
class Scope:
    """Whose figures: these versions, and of them one instance only where `number` is not ALL_INSTANCES."""

    version_ids: tuple[int, ...]
    instance_uid: str = ""
    number: int = ALL_INSTANCES

    @classmethod
    def of(cls, deployment: Deployment, version_id: int | None = None, instance_uid: str = "") -> "Scope":
        versions = tuple(deployment.versions.values_list("pk", flat=True))
        if version_id in versions:
            versions = (version_id,)
        if not instance_uid:
            return cls(versions)
        known = MeteredInstance.objects.filter(uid=instance_uid, version_id__in=versions).first()
        # An instance that was never measured has no figures; no number matches it.
        return cls(versions, instance_uid, known.number if known else -1)


def requests(scope: Scope, window: Window, now: int) -> RequestFrame:
    """The requests of the window in the tier's buckets; a bucket is complete or, at the end, as of this second."""
    open_rows = _open_rows(scope, window, now) if window.end > now - OPEN_S else []
    with series.snapshot():
        stored = series.requests(scope.version_ids, window.start, window.end, window.tier, (scope.number,))
        known = _stored_sources({row["source"] for row in open_rows})
    # Between the end of a bucket and that of its live copy it would count twice.
    fresh = RequestFrame.from_rows(
        [row for row in open_rows if row["source"] not in known], {scope.instance_uid: scope.number}
    )
    return RequestFrame.concatenate([stored, fresh]).by_width(window.tier.seconds)


def queue_times(scope: Scope, window: Window) -> RequestFrame:
    """How long asynchronous requests waited that ended in the window; of all instances, for the queue is before them."""
    with series.snapshot():
        return series.requests(
            scope.version_ids, window.start, window.end, window.tier, kind=series.QUEUE_TIMES
        ).by_width(window.tier.seconds)


def _stored_sources(sources: set[str]) -> set[str]:
    """Those of the batches that are stored: as themselves, or after a kill in the replay of their gateway's epoch."""
    replays = {source: f"{source.rpartition('.')[0]}.replay" for source in sources}
    known = series.known_batches(sorted({*sources, *replays.values()}))
    return {source for source in sources if source in known or replays[source] in known}


def _open_rows(scope: Scope, window: Window, now: int) -> list[dict[str, Any]]:
    try:
        rows = ingest.open_bucket(list(scope.version_ids))
    except (redis.RedisError, OSError):
        return []
    mine = scope.instance_uid
    first = max(window.start, now - OPEN_S)
    return [row for row in rows if row["instance_uid"] == mine and first <= row["bucket"] < window.end]


def system(scope: Scope, window: Window) -> SystemFrame:
    """All samples of the window; of the versions as wholes too."""
    instances = None
    if scope.number != ALL_INSTANCES:
        wholes = MeteredInstance.objects.filter(uid__in=[uid_of_version(pk) for pk in scope.version_ids])
        instances = (scope.number, *wholes.values_list("number", flat=True))
    with series.snapshot():
        return series.system(scope.version_ids, window.start, window.end, window.tier, instances)


def instance_names(numbers: Sequence[int]) -> dict[int, MeteredInstance]:
    return {item.number: item for item in MeteredInstance.objects.filter(number__in=list(numbers))}


def recent_versions() -> QuerySet[Version]:
    """Those that may have figures of the last minutes."""
    return Version.objects.filter(~Q(status__in=INACTIVE) | Q(status_since__gte=timezone.now() - RECENT))


def request_rates(deployment_ids: list[int], now: int, seconds: int = 60) -> dict[int, dict[str, float]]:
    """Per deployment the requests per minute and the share of 5xx over the last `seconds`."""
    active = recent_versions().filter(deployment_id__in=deployment_ids)
    owners = dict(active.values_list("pk", "deployment_id"))
    with series.snapshot():
        frames = series.requests_by_version(list(owners), now - seconds, now + 10, TIERS[0])
    rates: dict[int, dict[str, float]] = {}
    for version_id, frame in frames.items():
        count = int(frame.counts[:, :4].sum())
        total = rates.setdefault(owners[version_id], {"count": 0, "errors": 0})
        total["count"] += count
        total["errors"] += int(frame.column("status_5xx").sum())
    return {
        pk: {"per_minute": total["count"] * 60 / seconds, "error_share": total["errors"] / total["count"]}
        for pk, total in rates.items()
        if total["count"]
    }


def marks(deployment: Deployment, window: Window) -> list[Event]:
    """Events worth a mark on a chart, in their order; of very many the latest."""
    start, end = (datetime.fromtimestamp(moment, UTC) for moment in (window.start, window.end))
    worth = Q(kind__in=("status", "scale", "stop", "restart", "rollout")) | ~Q(severity=Event.Severity.INFO)
    found = deployment.events.filter(worth, at__gte=start, at__lt=end).order_by("-at")[:MAX_MARKS]
    return list(reversed(found))
