"""Samples what running instances use, each ten seconds, into one array row per instance and hour."""

import logging
import time
from datetime import UTC, datetime

from django.db import connection

from common import partitions
from deployments.drivers import kubernetes_driver, local_driver
from deployments.models import Cluster, Instance, Version
from monitoring.models import CpuReading
from runtimes.driver import DriverError
from runtimes.local.gpus import read_gpus
from runtimes.local.usage import Usage, read_usage

log = logging.getLogger(__name__)

TABLE = "monitoring_system_samples"
# The arrays grow by one sample; the row is made by the first one of its hour.
_UPSERT = f"""
    INSERT INTO {TABLE} (hour, instance_uid, version_id, cores, memory_total, offsets, cpu_user, cpu_system, memory_used,
                         gpu_indexes, gpu_utilization, gpu_memory_used, gpu_memory_total, gpu_reason)
    VALUES (%(hour)s, %(uid)s, %(version)s, %(cores)s, %(memory_total)s, ARRAY[%(offset)s]::smallint[],
            ARRAY[%(user)s]::real[], ARRAY[%(system)s]::real[], ARRAY[%(memory)s]::bigint[], %(gpu_indexes)s::smallint[],
            %(gpu_utilization)s::real[], %(gpu_memory)s::bigint[], %(gpu_total)s, %(gpu_reason)s)
    ON CONFLICT (instance_uid, hour) DO UPDATE SET
        cores = EXCLUDED.cores, memory_total = EXCLUDED.memory_total,
        offsets = {TABLE}.offsets || EXCLUDED.offsets,
        cpu_user = {TABLE}.cpu_user || EXCLUDED.cpu_user,
        cpu_system = {TABLE}.cpu_system || EXCLUDED.cpu_system,
        memory_used = {TABLE}.memory_used || EXCLUDED.memory_used,
        gpu_utilization = {TABLE}.gpu_utilization || EXCLUDED.gpu_utilization,
        gpu_memory_used = {TABLE}.gpu_memory_used || EXCLUDED.gpu_memory_used
    WHERE {TABLE}.offsets[cardinality({TABLE}.offsets)] < EXCLUDED.offsets[1]
"""  # noqa: S608 (our own constant)


def collect_local() -> int:
    """Sample all local instances once; the number of samples."""
    gpus, gpu_reason = read_gpus()
    count = 0
    for cluster_id in Cluster.objects.filter(driver=Cluster.Driver.LOCAL).values_list("pk", flat=True):
        states = [state for _, state in local_driver(cluster_id).programs()]
        versions = _versions([state["uid"] for state in states])
        for state in states:
            version = versions.get(state["uid"])
            usage = read_usage(state, gpus)
            if version is None or usage is None:
                continue
            _store(usage, version, time.time(), gpu_reason)
            count += 1
    return count


def collect_kubernetes(cluster: Cluster) -> int:
    """Sample all pods of one cluster once; the number of samples. Without the right to read them there are none."""
    try:
        samples = {item.pod: item for item in kubernetes_driver(cluster).usage()}
    except DriverError as error:
        log.info("no samples of %s: %s", cluster, error)
        return 0
    instances = Instance.objects.filter(
        name__in=samples, ended_at=None, version__deployment__endpoint__cluster=cluster
    ).select_related("version")
    count = 0
    for instance in instances:
        item = samples[instance.name]
        usage = Usage(instance.uid, item.since, item.cpu_user_s, item.cpu_system_s, item.memory_used, (), ())
        _store(usage, instance.version, item.at, "the GPUs of pods are not read yet")
        count += 1
    return count


def _versions(uids: list[str]) -> dict[str, Version]:
    return {item.uid: item.version for item in Instance.objects.filter(uid__in=uids).select_related("version")}


def _store(usage: Usage, version: Version, now: float, gpu_reason: str) -> None:
    """Add one sample as of `now` (seconds since the epoch)."""
    user, system = _rates(usage, now)
    moment = datetime.fromtimestamp(now, UTC)
    hour = moment.replace(minute=0, second=0, microsecond=0)
    specification = version.specification
    if not usage.gpus:
        gpu_reason = gpu_reason or "this version asks for no GPU"
    partitions.ensure_day(TABLE, hour.date())
    with connection.cursor() as cursor:
        cursor.execute(
            _UPSERT,
            {
                "hour": hour,
                "uid": usage.uid,
                "version": version.pk,
                "cores": specification.cpu,
                "memory_total": specification.memory,
                "offset": int((moment - hour).total_seconds()),
                "user": user,
                "system": system,
                "memory": usage.memory_used,
                "gpu_indexes": list(usage.gpu_indexes),
                "gpu_utilization": [gpu.utilization if gpu else None for gpu in usage.gpus],
                "gpu_memory": [gpu.memory_used if gpu else None for gpu in usage.gpus],
                "gpu_total": max((gpu.memory_total for gpu in usage.gpus if gpu), default=0),
                "gpu_reason": "" if usage.gpus else gpu_reason,
            },
        )


def _rates(usage: Usage, now: float) -> tuple[float, float]:
    """CPU user and system in cores since the last reading, or since the program's start where there is none."""
    last = CpuReading.objects.filter(instance_uid=usage.uid).first()
    # A restarted program counts from zero again.
    same_program = last is not None and abs(last.since - usage.since) < 1
    start = (last.at, last.cpu_user_s, last.cpu_system_s) if last and same_program else (usage.since, 0.0, 0.0)
    CpuReading.objects.update_or_create(
        instance_uid=usage.uid,
        defaults={"at": now, "since": usage.since, "cpu_user_s": usage.cpu_user_s, "cpu_system_s": usage.cpu_system_s},
    )
    elapsed = max(0.5, now - start[0])
    return max(0.0, usage.cpu_user_s - start[1]) / elapsed, max(0.0, usage.cpu_system_s - start[2]) / elapsed
