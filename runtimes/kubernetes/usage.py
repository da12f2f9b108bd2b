"""CPU and memory of pods, as the kubelet's cAdvisor counts them. Pure: its page in, samples out."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from runtimes.kubernetes.manifest import CONTAINER
from runtimes.kubernetes.nodes import quantity

_FIELDS = {
    "container_cpu_user_seconds_total": "cpu_user_s",
    "container_cpu_system_seconds_total": "cpu_system_s",
    "container_memory_working_set_bytes": "memory_used",
    "container_start_time_seconds": "since",
}
_MOST = 1e21
# In characters; what is longer is no line of theirs.
LONGEST_LINE = 4096
_NAMESPACE = re.compile(r'[{,]namespace="([^"]*)"')
_POD = re.compile(r'[{,]pod="([^"]*)"')


@dataclass(frozen=True)
class PodUsage:
    """Cumulative CPU in seconds since the container's start (`since`), memory in bytes, as of `at`; moments since the epoch."""

    pod: str
    at: float
    since: float
    cpu_user_s: float
    cpu_system_s: float
    memory_used: int


@dataclass(frozen=True)
class PodTotal:
    """CPU in cores over the last seconds, user and system together, and memory in bytes, as of `at`."""

    pod: str
    at: float
    cpu: float
    memory_used: int


def parse_totals(items: list[dict[str, Any]]) -> list[PodTotal]:
    """Of the metrics API's objects; one that tells nothing usable is left out."""
    found = []
    for item in items:
        containers = [part for part in item.get("containers") or () if part.get("name") == CONTAINER]
        try:
            at = datetime.fromisoformat(item["timestamp"].replace("Z", "+00:00")).timestamp()
            usage = containers[0]["usage"]
            found.append(
                PodTotal(item["metadata"]["name"], at, float(quantity(usage["cpu"])), int(quantity(usage["memory"])))
            )
        except (KeyError, IndexError, ValueError, AttributeError):
            continue
    return found


def parse(page: str, *, namespaces: Collection[str], now: float) -> Iterator[PodUsage]:
    """The engines' containers of `namespaces` on one node. A pod of which a figure is missing is left out."""
    found: dict[str, dict[str, float]] = {}
    # A page has thousands of lines: only those that matter are taken apart.
    wanted = f'container="{CONTAINER}"'
    for line in page.splitlines():
        if len(line) > LONGEST_LINE or not line.startswith("container_") or wanted not in line:
            continue
        field = _FIELDS.get(line.partition("{")[0])
        place = _NAMESPACE.search(line) if field else None
        pod = _POD.search(line) if place and place[1] in namespaces else None
        value, _, stamp = line.rpartition("}")[2].strip().partition(" ")
        amount = _amount(value)
        if field is None or pod is None or amount is None:
            continue
        values = found.setdefault(pod[1], {})
        values[field] = amount
        if (moment := _amount(stamp)) is not None:
            # cAdvisor looks at each container at a time of its own; rates must go by that.
            values["at"] = moment / 1000
    for name, values in found.items():
        if all(field in values for field in _FIELDS.values()):
            at, memory = values.get("at", now), int(values["memory_used"])
            yield PodUsage(name, at, values["since"], values["cpu_user_s"], values["cpu_system_s"], memory)


def _amount(text: str) -> float | None:
    """None for what is no number, or none that anything could have."""
    try:
        found = float(text)
    except ValueError:
        return None
    return found if 0 <= found < _MOST else None
