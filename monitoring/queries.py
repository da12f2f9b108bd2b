"""Reads the metric tables for charts: one query per kind of data, however many instances there are."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import redis

from deployments.models import Deployment, Event
from monitoring import ingest
from monitoring.models import RequestSeries, SystemSamples

BASE_TIER_S = 10
# Up to this many bars fit a chart before they become unreadable.
MAX_BARS = 120
BAR_WIDTHS_S = (10, 30, 60, 300, 900, 1800, 3600, 86_400)


@dataclass(frozen=True)
class Window:
    """The shown time, [start, end), and the width of a bar in seconds."""

    start: datetime
    end: datetime
    bar_s: int

    @classmethod
    def last(cls, seconds: int, now: datetime, bar_s: int | None = None) -> "Window":
        width = bar_s or next((item for item in BAR_WIDTHS_S if seconds / item <= MAX_BARS), BAR_WIDTHS_S[-1])
        return cls(now - timedelta(seconds=seconds), now, width)


@dataclass
class SystemCurve:
    """One instance's samples. CPU in cores, memory in bytes; `gpus` maps a device to its samples."""

    instance_uid: str
    cores: float
    memory_total: int
    times: list[datetime] = field(default_factory=list)
    cpu_user: list[float] = field(default_factory=list)
    cpu_system: list[float] = field(default_factory=list)
    memory_used: list[int] = field(default_factory=list)
    gpus: dict[int, list[tuple[float | None, int | None]]] = field(default_factory=dict)
    gpu_memory_total: int = 0
    gpu_reason: str = ""


@dataclass
class RequestBar:
    """The requests that ended in one bar. Times in seconds; the average is of those that reached an instance."""

    start: datetime
    status: dict[str, int]
    served: int = 0
    latency_sum: float = 0.0
    latency_max: float = 0.0

    @property
    def average(self) -> float | None:
        return self.latency_sum / self.served if self.served else None


CLASSES = ("status_2xx", "status_3xx", "status_4xx", "status_5xx")


def system_curves(version_ids: list[int], window: Window, instance_uid: str = "") -> list[SystemCurve]:
    """The curves of all instances of these versions that have samples in the window, the newest instance last."""
    first_hour = window.start.replace(minute=0, second=0, microsecond=0)
    rows = SystemSamples.objects.filter(version_id__in=version_ids, hour__gte=first_hour, hour__lt=window.end)
    if instance_uid:
        rows = rows.filter(instance_uid=instance_uid)
    curves: dict[str, SystemCurve] = {}
    for row in rows.order_by("hour"):
        curve = curves.setdefault(row.instance_uid, SystemCurve(row.instance_uid, row.cores, row.memory_total))
        curve.cores, curve.memory_total = row.cores, row.memory_total
        curve.gpu_reason, curve.gpu_memory_total = row.gpu_reason, row.gpu_memory_total
        _append(curve, row, window)
    return [curve for curve in curves.values() if curve.times]


def _append(curve: SystemCurve, row: SystemSamples, window: Window) -> None:
    devices = len(row.gpu_indexes)
    for index, offset in enumerate(row.offsets):
        at = row.hour + timedelta(seconds=offset)
        if not window.start <= at < window.end:
            continue
        curve.times.append(at)
        curve.cpu_user.append(row.cpu_user[index])
        curve.cpu_system.append(row.cpu_system[index])
        curve.memory_used.append(row.memory_used[index])
        for position, device in enumerate(row.gpu_indexes):
            place = index * devices + position
            if place >= len(row.gpu_utilization):
                continue
            curve.gpus.setdefault(device, []).append((row.gpu_utilization[place], row.gpu_memory_used[place]))


def request_bars(
    deployment: Deployment, version_ids: list[int], window: Window, instance_uid: str = ""
) -> list[RequestBar]:
    """All bars of the window that had requests, the open bucket included."""
    rows: list[dict[str, Any]] = list(
        RequestSeries.objects.filter(
            deployment_id=deployment.pk,
            tier=BASE_TIER_S,
            bucket__gte=window.start,
            bucket__lt=window.end,
            instance_uid=instance_uid,
        )
        .filter(version_id__in=version_ids)
        .values("bucket", "source", *CLASSES, "rejected", "end_to_end_sum", "end_to_end_max")
    )
    stored = {(row["source"], row["bucket"]) for row in rows}
    for row in _open_rows(version_ids, instance_uid):
        # Between the flush of a bucket and the end of its live copy it would count twice.
        if (row["source"], row["bucket"]) not in stored and window.start <= row["bucket"] < window.end:
            rows.append(row)
    bars: dict[int, RequestBar] = {}
    for row in rows:
        start = int(row["bucket"].timestamp()) // window.bar_s * window.bar_s
        bar = bars.setdefault(start, RequestBar(datetime.fromtimestamp(start, UTC), dict.fromkeys(CLASSES, 0)))
        for name in CLASSES:
            bar.status[name] += row[name]
        bar.served += sum(row[name] for name in CLASSES) - row["rejected"]
        bar.latency_sum += row["end_to_end_sum"]
        bar.latency_max = max(bar.latency_max, row["end_to_end_max"])
    return [bars[start] for start in sorted(bars)]


def _open_rows(version_ids: list[int], instance_uid: str) -> list[dict[str, Any]]:
    try:
        rows = ingest.open_bucket(version_ids)
    except redis.RedisError:
        return []
    for row in rows:
        row["bucket"] = datetime.fromtimestamp(row["bucket"], UTC)
    return [row for row in rows if row["instance_uid"] == instance_uid]


def request_rates(deployment_ids: list[int], now: datetime, seconds: int = 60) -> dict[int, dict[str, float]]:
    """Per deployment the requests per minute and the share of 5xx over the last `seconds`."""
    rows = RequestSeries.objects.filter(
        deployment_id__in=deployment_ids,
        tier=BASE_TIER_S,
        instance_uid="",
        bucket__gte=now - timedelta(seconds=seconds + BASE_TIER_S),
        bucket__lt=now,
    ).values("deployment_id", *CLASSES)
    totals: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        totals[row["deployment_id"]][0] += sum(row[name] for name in CLASSES)
        totals[row["deployment_id"]][1] += row["status_5xx"]
    return {
        pk: {"per_minute": count * 60 / seconds, "error_share": errors / count if count else 0.0}
        for pk, (count, errors) in totals.items()
    }


def marks(deployment: Deployment, window: Window) -> list[Event]:
    """Events worth a mark on a chart."""
    kinds = ("status", "scale", "restart")
    found = deployment.events.filter(at__gte=window.start, at__lt=window.end, kind__in=kinds)
    return list(found.order_by("at")[:40])
