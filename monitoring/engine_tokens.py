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
# The first figure of an instance that became ready so lately tells all that it has counted; of an older one nobody knows when.
NEW_S = 60.0
# What no engine makes between two readings: whoever prints it makes it up.
_MOST = 10**10


@dataclass
class Growth:
    """`since` the last reading, in seconds since the epoch; None where there was none."""

    input_tokens: int = 0
    output_tokens: int = 0
    since: float | None = None


def growths(
    readings: Sequence[tuple[Instance, EngineSample | None]], last: Mapping[str, CpuReading], now: int
) -> dict[Instance, Growth]:
    """What each instance has counted since its last reading."""
    found: dict[Instance, Growth] = {}
    for instance, sample in readings:
        if sample is None or sample.output_tokens is None:
            continue
        before = last.get(instance.uid)
        is_new = instance.ready_at is not None and now - instance.ready_at.timestamp() < NEW_S
        growth = Growth(
            _growth(sample.input_tokens or 0, before.input_tokens if before else None, is_new=is_new),
            _growth(sample.output_tokens, before.output_tokens if before else None, is_new=is_new),
            before.tokens_at if before else None,
        )
        if growth.input_tokens or growth.output_tokens:
            found[instance] = growth
    return found


def _growth(value: float, before: float | None, *, is_new: bool) -> int:
    if before is None:
        grown = round(value) if is_new else 0
    else:
        # An engine that restarted counts from zero again.
        grown = round(value - before if value >= before else value)
    return grown if grown <= _MOST else 0


def spread(amount: int, since: float | None, now: int) -> dict[int, int]:
    """`amount` over the hours (seconds since the epoch) that a pause between two readings touched, in proportion."""
    this = now // 3600 * 3600
    if since is None or since >= this or since < now - 86_400:
        return {this: amount}
    parts: dict[int, int] = {}
    left, at = amount, since
    while at < this:
        hour = int(at) // 3600 * 3600
        part = round(amount * (hour + 3600 - at) / (now - since))
        parts[hour] = min(part, left)
        left -= parts[hour]
        at = hour + 3600
    return parts | {this: left}


def add(found: Mapping[Instance, Growth], now: int) -> None:
    """Add to the hours that they belong to, within the transaction that remembers the readings."""
    sums: dict[tuple[int, int, int], Growth] = defaultdict(Growth)
    for instance, growth in found.items():
        for name in ("input_tokens", "output_tokens"):
            for hour, amount in spread(getattr(growth, name), growth.since, now).items():
                place = sums[instance.version.deployment_id, instance.version_id, hour]
                setattr(place, name, getattr(place, name) + amount)
    leaves_out = {instance.version_id: not _counts_cached(instance) for instance in found}
    rows: list[list[Any]] = [
        [
            datetime.fromtimestamp(hour, UTC),
            deployment,
            version,
            growth.input_tokens,
            growth.output_tokens,
            leaves_out[version],
        ]
        for (deployment, version, hour), growth in sorted(sums.items())
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
