"""What has ended instances of a version from outside lately: evictions, preemptions, nodes that went."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from deployments.models import Instance, Version

WITHIN = timedelta(hours=1)
_NAMES = {
    "evicted": "evictions",
    "preempted": "preemptions",
    "node_unreachable": "instances lost with their nodes",
    "instance_lost": "lost instances",
}


@dataclass(frozen=True)
class Disturbances:
    """So many of one kind between two moments; `said` are the cluster's own words about the last one."""

    count: int
    name: str
    first: datetime
    last: datetime
    said: str

    @property
    def span_s(self) -> float:
        return (self.last - self.first).total_seconds()


def recent(version: Version) -> list[Disturbances]:
    """Those of the last hour, the most frequent kind first. Single ones are events, and no pattern."""
    ended = Instance.objects.filter(
        version=version, ended_at__gte=timezone.now() - WITHIN, cause_json__code__in=list(_NAMES)
    ).order_by("ended_at")
    found = list(ended[:1000])
    kinds = Counter(item.cause.code for item in found if item.cause)
    told = []
    for code, count in kinds.most_common():
        if count < 2:
            continue
        mine = [item for item in found if item.cause and item.cause.code == code]
        cause = mine[-1].cause
        said = (cause.evidence[0] if cause.evidence else cause.message) if cause else ""
        told.append(Disturbances(count, _NAMES[code], mine[0].ended_at, mine[-1].ended_at, said))
    return told
