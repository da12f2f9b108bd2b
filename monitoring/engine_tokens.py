"""What engines count themselves, hour by hour: their counters' growth between two readings, added up per version."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import connection

from deployments.models import Instance
from monitoring.models import CpuReading
from runtimes.engines import registry
from runtimes.engines.metrics import EngineSample

TABLE = "monitoring_enginehour"
# The first reading of an instance that began so lately tells all that it has counted; of an older one nobody knows when.
NEW_S = 60.0


@dataclass
class Growth:
    input_tokens: int = 0
    output_tokens: int = 0


def growths(
    readings: Sequence[tuple[Instance, EngineSample | None]], last: Mapping[str, CpuReading], now: int
) -> dict[Instance, Growth]:
    """What each instance has counted since its last reading."""
    found: dict[Instance, Growth] = {}
    for instance, sample in readings:
        if sample is None or sample.output_tokens is None:
            continue
        before = last.get(instance.uid)
        is_new = before is None and now - instance.started_at.timestamp() < NEW_S
        growth = Growth(
            _growth(sample.input_tokens or 0, before.input_tokens if before else None, is_new=is_new),
            _growth(sample.output_tokens, before.output_tokens if before else None, is_new=is_new),
        )
        if growth.input_tokens or growth.output_tokens:
            found[instance] = growth
    return found


def _growth(value: float, before: float | None, *, is_new: bool) -> int:
    if before is None:
        return round(value) if is_new else 0
    # An engine that restarted counts from zero again.
    return round(value - before if value >= before else value)


def add(found: Mapping[Instance, Growth], now: int) -> None:
    """Add to the hour of `now`, within the transaction that remembers the readings."""
    sums: dict[tuple[int, int], Growth] = defaultdict(Growth)
    for instance, growth in found.items():
        place = sums[instance.version.deployment_id, instance.version_id]
        place.input_tokens += growth.input_tokens
        place.output_tokens += growth.output_tokens
    leaves_out = {instance.version_id: not _counts_cached(instance) for instance in found}
    hour = datetime.fromtimestamp(now // 3600 * 3600, UTC)
    rows: list[list[Any]] = [
        [hour, deployment, version, growth.input_tokens, growth.output_tokens, leaves_out[version]]
        for (deployment, version), growth in sorted(sums.items())
    ]
    if not rows:
        return
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {TABLE} (hour, deployment_id, version_id, input_tokens, output_tokens, leaves_cached_out) "  # noqa: S608 (our own constant)
            "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (version_id, hour) DO UPDATE SET "
            f"input_tokens = {TABLE}.input_tokens + EXCLUDED.input_tokens, "
            f"output_tokens = {TABLE}.output_tokens + EXCLUDED.output_tokens",
            rows,
        )


def _counts_cached(instance: Instance) -> bool:
    try:
        return registry.engine(instance.version.specification.engine).counts_cached
    except registry.UnknownEngineError:
        return True
