"""All deployments side by side: their last hour minute by minute, made once a minute, whoever looks."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from django.db.models import Q

from accounts.permissions import Actor
from deployments.models import Deployment, Status, Version
from deployments.selectors import current_versions, visible_deployments
from monitoring import queries, series
from monitoring.fleet_columns import FleetColumns, sparkline
from monitoring.models import FleetMinute, MeteredInstance
from monitoring.request_frame import RequestFrame
from monitoring.system_frame import SystemFrame
from monitoring.tiers import TIERS

MINUTE = 60
SHOWN_MINUTES = 60
RECENT_MINUTES = 5
# Gateways hand a bucket in when it is over: the last minutes are made again until nothing more comes.
MADE_AGAIN = 3
KEPT_S = 2 * 3600
SERIOUS_ERRORS, SOME_ERRORS, HIGH_PRESSURE = 0.05, 0.01, 0.9
# From worst to best.
BROKEN, DEGRADED, STRAINED, CHANGING, FINE, OFF = range(6)
# What a line shows of a version; the rest is by far the most of its row.
_OF_VERSION = ("deployment_id", "number", "status", "replicas", "desired_state")
FIGURES = ("rate", "errors", "p95", "gpu", "memory")


def make(now: int) -> None:
    """Write the rows of the last minutes that are over."""
    last = now // MINUTE * MINUTE
    versions = _recent_versions()
    for minute in range(last - MADE_AGAIN * MINUTE, last, MINUTE):
        _make_minute(minute, versions)
    FleetMinute.objects.filter(minute__lt=now - KEPT_S).delete()


def _recent_versions() -> dict[int, tuple[int, int]]:
    """Versions that may have figures, with their deployment and the bytes that an instance may use."""
    found = queries.recent_versions()
    return {
        pk: (deployment, memory or 0)
        for pk, deployment, memory in found.values_list("pk", "deployment_id", "specification_json__memory")
    }


def _make_minute(minute: int, versions: dict[int, tuple[int, int]]) -> None:
    with series.snapshot():
        frames = series.requests_by_version(list(versions), minute, minute + MINUTE, TIERS[0])
        samples = series.system(list(versions), minute, minute + MINUTE, TIERS[0])
    parts = []
    for version_id, frame in frames.items():
        owner = np.full(len(frame), versions[version_id][0])
        parts.append(frame.regroup(np.full(len(frame), minute), owner))
    requests = RequestFrame.concatenate(parts)
    requests = requests.regroup(requests.at)
    gpu, memory = _pressures(samples, versions)
    columns = FleetColumns.of(requests, gpu, memory)
    FleetMinute.objects.update_or_create(
        minute=minute, defaults={"columns": columns.pack(), "requests": requests.pack()}
    )


def _pressures(samples: SystemFrame, versions: dict[int, tuple[int, int]]) -> tuple[dict[int, float], dict[int, float]]:
    """By deployment the GPU utilization and the share of memory of the instance that has most of it."""
    owners = dict(
        MeteredInstance.objects.filter(number__in=np.unique(samples.instance).tolist()).values_list(
            "number", "version_id"
        )
    )
    gpu: dict[int, float] = {}
    memory: dict[int, float] = {}
    for name, found in (("gpu_utilization", gpu), ("memory_used", memory)):
        part = samples.of(name)
        for number, value in zip(part.instance.tolist(), part.average.tolist(), strict=True):
            deployment, allowed = versions.get(owners.get(number, 0), (0, 0))
            share = value if found is gpu else value / allowed if allowed else np.nan
            if deployment and not np.isnan(share):
                found[deployment] = max(found.get(deployment, 0.0), share)
    return gpu, memory


@dataclass
class Line:
    """One deployment's line. Rate in requests a minute, p95 in seconds, the rest as shares; None where unknown."""

    deployment: Deployment
    version: Version | None
    rank: int
    rate: float | None = None
    errors: float | None = None
    p95: float | None = None
    gpu: float | None = None
    memory: float | None = None
    sparklines: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Fleet:
    """Lines from `first` on, the worst of all first; `total` counts all, `ranks` how many are of each rank."""

    lines: list[Line]
    total: int
    ranks: dict[int, int]
    as_of: int | None


def read(actor: Actor, *, first: int = 0, count: int = 50, environment: str = "", search: str = "") -> Fleet:
    """The deployments that the actor may see, with a fixed number of queries."""
    wanted = visible_deployments(actor)
    if environment:
        wanted = wanted.filter(environment=environment)
    if search:
        wanted = wanted.filter(Q(name__icontains=search) | Q(model__name__icontains=search))
    ids = np.array(sorted(wanted.values_list("pk", flat=True)), np.int64)
    versions = _statuses(ids)
    hour = _Hour(ids, int(time.time()))
    ranks = [_rank(versions.get(int(pk)), hour, index) for index, pk in enumerate(ids)]
    order = sorted(range(len(ids)), key=lambda index: (ranks[index], *hour.badness(index), int(ids[index])))
    shown = order[first : first + count]
    lines = _lines([int(ids[index]) for index in shown], versions, [ranks[index] for index in shown])
    for line, index in zip(lines, shown, strict=True):
        hour.fill(line, index)
    return Fleet(lines, len(ids), {rank: ranks.count(rank) for rank in set(ranks)}, hour.as_of)


def _statuses(ids: np.ndarray) -> dict[int, Version]:
    found = current_versions().filter(deployment_id__in=ids.tolist()).select_related(None)
    return {version.deployment_id: version for version in found.only(*_OF_VERSION)}


def _lines(ids: list[int], versions: dict[int, Version], ranks: Iterable[int]) -> list[Line]:
    found = Deployment.objects.select_related("organization", "model").in_bulk(ids)
    return [Line(found[pk], versions.get(pk), rank) for pk, rank in zip(ids, ranks, strict=True) if pk in found]


class _Hour:
    """The last hour of these deployments, one row per minute and one column per deployment."""

    def __init__(self, ids: np.ndarray, now: int) -> None:
        last = now // MINUTE * MINUTE
        rows = dict(
            FleetMinute.objects.filter(minute__gte=last - SHOWN_MINUTES * MINUTE).values_list("minute", "columns")
        )
        self.as_of = max(rows) + MINUTE if rows else None
        end = max(rows, default=last - MINUTE) + MINUTE
        minutes = [end - offset * MINUTE for offset in range(SHOWN_MINUTES, 0, -1)]
        known = [FleetColumns.unpack(rows[minute]) if minute in rows else None for minute in minutes]
        # A minute that was not made is unknown; a deployment that is not in a minute had no requests in it.
        self._requests = self._matrix(known, ids, "requests", 0.0)
        self._failed = self._matrix(known, ids, "failed", 0.0)
        self._p95, self._gpu, self._memory = (
            self._matrix(known, ids, name, np.nan) for name in ("p95", "gpu", "memory")
        )
        recent = slice(-RECENT_MINUTES, None)
        self._recent_requests = np.nansum(self._requests[recent], axis=0)
        self._recent_failed = np.nansum(self._failed[recent], axis=0)
        self._made = sum(item is not None for item in known[recent])
        with np.errstate(invalid="ignore", divide="ignore"):
            self.errors = np.where(self._recent_requests > 0, self._recent_failed / self._recent_requests, np.nan)
        self.gpu, self.memory = (_highest(matrix[recent]) for matrix in (self._gpu, self._memory))
        self.p95 = self._recent_p95(ids, end)

    @staticmethod
    def _matrix(known: list[FleetColumns | None], ids: np.ndarray, name: str, missing: float) -> np.ndarray:
        rows = [np.full(len(ids), np.nan) if item is None else item.at(ids, name, missing) for item in known]
        return np.array(rows).reshape(len(known), len(ids))

    @staticmethod
    def _recent_p95(ids: np.ndarray, end: int) -> np.ndarray:
        """Of the last minutes together: merged, for percentiles can't be averaged."""
        blobs = FleetMinute.objects.filter(minute__gte=end - RECENT_MINUTES * MINUTE).values_list("requests", flat=True)
        frame = RequestFrame.concatenate(RequestFrame.unpack(data) for data in blobs)
        merged = frame.regroup(np.zeros(len(frame), np.int64))
        found = np.full(len(ids), np.nan)
        place = np.searchsorted(ids, merged.instance).clip(max=max(0, len(ids) - 1))
        if len(ids) and len(merged):
            mine = ids[place] == merged.instance
            found[place[mine]] = merged.quantiles("end_to_end", [0.95])[mine, 0]
        return found

    def badness(self, index: int) -> tuple[float, float, float]:
        """Within a rank: more errors first, then higher pressure, then slower."""
        return (
            -_zero(self.errors[index]),
            -max(_zero(self.gpu[index]), _zero(self.memory[index])) if self.pressed(index) else 0.0,
            -_zero(self.p95[index]),
        )

    def pressed(self, index: int) -> bool:
        return bool(self.gpu[index] >= HIGH_PRESSURE or self.memory[index] >= HIGH_PRESSURE)

    def fill(self, line: Line, index: int) -> None:
        line.rate = float(self._recent_requests[index]) / self._made if self._made else None
        for name in ("errors", "p95", "gpu", "memory"):
            value = float(getattr(self, name)[index])
            setattr(line, name, None if np.isnan(value) else value)
        with np.errstate(invalid="ignore", divide="ignore"):
            errors = np.where(self._requests[:, index] > 0, self._failed[:, index] / self._requests[:, index], np.nan)
        columns = (self._requests[:, index], errors, self._p95[:, index], self._gpu[:, index], self._memory[:, index])
        line.sparklines = {name: sparkline(column) for name, column in zip(FIGURES, columns, strict=True)}


def _rank(version: Version | None, hour: _Hour, index: int) -> int:
    if version is None or version.status == Status.STOPPED:
        return OFF
    if version.status == Status.ERROR:
        return BROKEN
    errors = _zero(hour.errors[index])
    if (version.status == Status.RUNNING and version.ready < version.replicas) or errors >= SERIOUS_ERRORS:
        return DEGRADED
    if errors >= SOME_ERRORS or hour.pressed(index):
        return STRAINED
    return FINE if version.status == Status.RUNNING else CHANGING


def _highest(matrix: np.ndarray) -> np.ndarray:
    known = ~np.isnan(matrix).all(axis=0)
    found = np.full(matrix.shape[1], np.nan)
    found[known] = np.nanmax(matrix[:, known], axis=0)
    return found


def _zero(value: float) -> float:
    return 0.0 if np.isnan(value) else float(value)
