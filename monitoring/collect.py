"""Samples what running instances use, each ten seconds: one packed row per version, whatever their number."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from django.db import transaction

from deployments.drivers import kubernetes_driver, local_driver
from deployments.models import Cluster, Instance
from monitoring import engine_tokens, series
from monitoring.instances import numbers_of, uid_of_version
from monitoring.models import CpuReading, MeteredInstance
from monitoring.scrape import EngineSample, scrape
from monitoring.system_frame import NO_DEVICE, SystemFrame
from runtimes.driver import ClusterUnreachableError, DriverError
from runtimes.gpu_sample import GpuSample
from runtimes.kubernetes.driver import KubernetesDriver
from runtimes.kubernetes.usage import PodTotal
from runtimes.local.gpus import read_gpus
from runtimes.local.usage import Usage, read_usage
from runtimes.observation import READY

log = logging.getLogger(__name__)
T = TypeVar("T")

INTERVAL_S = 10
# A pause longer than this says nothing about how the CPU was used in between.
LONGEST_PAUSE_S = 120.0


@dataclass(frozen=True)
class Reading:
    """One instance's cumulative figures. `clock` is the clock that rates go by, in seconds; `usage` may be unknown, and
    `total` be there instead: CPU and memory of a cluster that tells no split."""

    instance: Instance
    clock: float
    usage: Usage | None
    engine: EngineSample | None
    gpu_reason: str = ""
    engine_reason: str = ""
    gpus: Sequence[tuple[int, GpuSample]] = ()
    total: PodTotal | None = None
    usage_reason: str = ""


@dataclass
class _Samples:
    """What one round found, by version: (instance number, figure, device, moment, value)."""

    rows: dict[int, list[tuple[int, str, int, int, float]]] = field(default_factory=lambda: defaultdict(list))

    def add(
        self, version_id: int, number: int, figure: str, at: int, value: float | None, device: int = NO_DEVICE
    ) -> None:
        if value is not None:
            self.rows[version_id].append((number, figure, device, at, value))


def collect_local() -> int:
    """Sample all local instances once; the number of instances."""
    gpus, gpu_reason = read_gpus()
    count, now = 0, int(time.time())
    for cluster in Cluster.objects.filter(driver=Cluster.Driver.LOCAL):
        living = _living(cluster)
        # One clock for all processes of this machine, and no one sets it.
        usages = {
            state["uid"]: (time.monotonic(), read_usage(state, gpus))
            for _, state in local_driver(cluster.pk).programs()
        }
        engines = scrape(living)
        readings = []
        for instance in living:
            clock, usage = usages.get(instance.uid, (0.0, None))
            reason = "" if usage is not None and any(usage.gpus) else gpu_reason
            devices = (
                [(index, gpu) for index, gpu in zip(usage.gpu_indexes, usage.gpus, strict=False) if gpu]
                if usage
                else []
            )
            readings.append(
                Reading(
                    instance, clock, usage, engines[instance.uid].sample, reason, engines[instance.uid].reason, devices
                )
            )
        count += _store(cluster, readings, now)
    return count


def collect_kubernetes(cluster: Cluster) -> int:
    """Sample all pods of one cluster once; the number of instances. What the cluster doesn't tell is missing."""
    # Of its beginning: how long the engines take to answer must not move it into the next one's place.
    now, living = int(time.time()), _living(cluster)
    try:
        driver = kubernetes_driver(cluster)
    except DriverError as error:
        log.info("no samples of %s: %s", cluster, error)
        return 0
    samples, _ = _told(driver.usage, cluster)
    usages = {item.pod: item for item in samples or ()}
    # With fewer rights, or a runtime that tells the kubelet less, the metrics API has the sum at least.
    missing = any(item.name not in usages for item in living)
    found, usage_reason = _told(driver.totals, cluster) if missing else (None, "")
    totals = {item.pod: item for item in found or ()}
    gpus, gpu_reason = _gpus(driver, living)
    engines = scrape(living)
    readings = []
    for instance in living:
        item, outcome = usages.get(instance.name), engines[instance.uid]
        usage = item and Usage(instance.uid, item.since, item.cpu_user_s, item.cpu_system_s, item.memory_used, (), ())
        mine = [(gpu.index, gpu) for gpu in gpus.get(instance.name, ())]
        readings.append(
            Reading(
                instance, item.at if item else 0.0, usage, outcome.sample, "" if mine else gpu_reason, outcome.reason, mine,
                None if item else totals.get(instance.name), "" if item or instance.name in totals else usage_reason,
            )
        )  # fmt: skip
    return _store(cluster, readings, now)


def _told(read: Callable[[], T], cluster: Cluster) -> tuple[T | None, str]:
    """What the cluster tells, or why it doesn't."""
    try:
        return read(), ""
    except DriverError as error:
        log.info("no samples of %s: %s", cluster, error)
        # Not the cluster's own words: everybody who sees the deployment reads this.
        if isinstance(error, ClusterUnreachableError):
            return None, "it can't be reached right now."
        return None, "Slipway lacks the rights to read them. The cluster's page shows operators which ones are missing."


def _gpus(driver: KubernetesDriver, living: Iterable[Instance]) -> tuple[dict[str, list[GpuSample]], str]:
    """The GPUs of pods by pod, and why one may have none. Asked only where somebody wants GPUs."""
    if not any(instance.version.specification.gpu for instance in living):
        return {}, ""
    try:
        return driver.gpus(), "the DCGM exporter names no pod for it; time slicing and some MIG set-ups can't"
    except DriverError as error:
        return {}, str(error)


def _living(cluster: Cluster) -> list[Instance]:
    found = Instance.objects.filter(ended_at=None, version__deployment__endpoint__cluster=cluster)
    return list(found.select_related("version__deployment__endpoint__cluster"))


def _store(cluster: Cluster, readings: list[Reading], now: int) -> int:
    """Add the samples of one round as of `now`, seconds since the epoch. A round that comes twice counts once."""
    if not readings:
        return 0
    versions = {item.instance.uid: item.instance.version_id for item in readings}
    numbers = numbers_of(versions | {uid_of_version(version_id): version_id for version_id in versions.values()})
    samples = _Samples()
    _count_replicas(readings, numbers, samples, now)
    last = {item.instance_uid: item for item in CpuReading.objects.filter(instance_uid__in=list(versions))}
    for item in readings:
        _sample(item, numbers[item.instance.uid], last.get(item.instance.uid), samples, now)
    series.ensure_fresh_partition()
    with transaction.atomic():
        added = series.add_batch(f"system.{cluster.pk}.{(now + INTERVAL_S // 2) // INTERVAL_S}")
        if added is None:
            return 0
        rows = [(version_id, now, SystemFrame.of_samples(found).pack()) for version_id, found in samples.rows.items()]
        series.add_fresh(added[0], added[1], series.SYSTEM, rows)
        engine_tokens.add(engine_tokens.growths([(item.instance, item.engine) for item in readings], last, now), now)
        _remember(readings, last, now)
        _note_reasons(readings)
    return len(readings)


def _count_replicas(readings: Iterable[Reading], numbers: Mapping[str, int], samples: _Samples, now: int) -> None:
    counts: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for item in readings:
        counts[item.instance.version_id][0 if item.instance.phase == READY else 1] += 1
    for version_id, (active, starting) in counts.items():
        number = numbers[uid_of_version(version_id)]
        samples.add(version_id, number, "replicas_active", now, active)
        samples.add(version_id, number, "replicas_starting", now, starting)


def _sample(item: Reading, number: int, last: CpuReading | None, samples: _Samples, now: int) -> None:
    version_id, usage, engine = item.instance.version_id, item.usage, item.engine
    if usage is not None:
        for figure, value in _cpu_rates(usage, item.clock, last).items():
            samples.add(version_id, number, figure, now, value)
        samples.add(version_id, number, "memory_used", now, usage.memory_used)
    elif item.total is not None:
        samples.add(version_id, number, "cpu_total", now, item.total.cpu)
        samples.add(version_id, number, "memory_used", now, item.total.memory_used)
    for device, gpu in item.gpus:
        samples.add(version_id, number, "gpu_utilization", now, gpu.utilization / 100, device)
        samples.add(version_id, number, "gpu_memory_used", now, gpu.memory_used, device)
        samples.add(version_id, number, "gpu_memory_total", now, gpu.memory_total, device)
    if engine is not None:
        samples.add(version_id, number, "requests_running", now, engine.running)
        samples.add(version_id, number, "requests_waiting", now, engine.waiting)
        samples.add(version_id, number, "kv_cache_use", now, engine.kv_cache_use)
        if last is not None and last.prefix_queries is not None and engine.prefix_queries is not None:
            queries, hits = (
                engine.prefix_queries - last.prefix_queries,
                (engine.prefix_hits or 0) - (last.prefix_hits or 0),
            )
            # An engine that restarted counts from zero again.
            if 0 <= hits <= queries:
                samples.add(version_id, number, "prefix_queries", now, queries)
                samples.add(version_id, number, "prefix_hits", now, hits)


def _cpu_rates(usage: Usage, clock: float, last: CpuReading | None) -> Mapping[str, float]:
    """CPU user and system in cores since the last reading; none where two readings don't tell."""
    # A restarted program counts from zero again.
    if last is None or abs(last.since - usage.since) >= 1:
        return {}
    elapsed = clock - last.at
    used = {"cpu_user": usage.cpu_user_s - last.cpu_user_s, "cpu_system": usage.cpu_system_s - last.cpu_system_s}
    # The kubelet looks each 10 to 15 s: the same look again is no news. A clock that stepped back tells nothing either.
    if not 0.5 <= elapsed <= LONGEST_PAUSE_S:
        return {}
    return {figure: max(0.0, seconds) / elapsed for figure, seconds in used.items()}


def _still(item: Reading, last: Mapping[str, CpuReading], name: str) -> float | None:
    """What the engine has counted; where it doesn't answer now, what was known: the next answer tells how much it grew."""
    told = getattr(item.engine, name) if item.engine else None
    before = last.get(item.instance.uid)
    return told if told is not None else getattr(before, name) if before else None


def _remember(readings: Iterable[Reading], last: Mapping[str, CpuReading], now: int) -> None:
    rows = [
        CpuReading(
            instance_uid=item.instance.uid, at=item.clock, since=item.usage.since if item.usage else 0.0,
            cpu_user_s=item.usage.cpu_user_s if item.usage else 0.0, cpu_system_s=item.usage.cpu_system_s if item.usage else 0.0,
            prefix_hits=item.engine.prefix_hits if item.engine else None,
            prefix_queries=item.engine.prefix_queries if item.engine else None,
            input_tokens=_still(item, last, "input_tokens"), output_tokens=_still(item, last, "output_tokens"),
            tokens_at=now if item.engine and item.engine.output_tokens is not None else getattr(last.get(item.instance.uid), "tokens_at", None),
        )
        for item in readings
    ]  # fmt: skip
    fields = [
        "at", "since", "cpu_user_s", "cpu_system_s", "prefix_hits", "prefix_queries", "input_tokens", "output_tokens",
        "tokens_at",
    ]  # fmt: skip
    CpuReading.objects.bulk_create(rows, update_conflicts=True, unique_fields=["instance_uid"], update_fields=fields)


def _note_reasons(readings: Iterable[Reading]) -> None:
    """Why figures are missing, for the pages; written where it changed only."""
    wanted = {
        item.instance.uid: (
            item.gpu_reason if item.instance.version.specification.gpu else "",
            item.engine_reason,
            item.usage_reason[:500],
        )
        for item in readings
    }
    changed = []
    for known in MeteredInstance.objects.filter(uid__in=list(wanted)):
        if (known.gpu_reason, known.engine_reason, known.usage_reason) != wanted[known.uid]:
            known.gpu_reason, known.engine_reason, known.usage_reason = wanted[known.uid]
            changed.append(known)
    MeteredInstance.objects.bulk_update(changed, ["gpu_reason", "engine_reason", "usage_reason"])
