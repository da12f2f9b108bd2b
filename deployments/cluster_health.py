"""Whether a cluster answers, and how fast. The database is told when that changes; each look's own figures lie in Valkey."""

from dataclasses import dataclass
from datetime import UTC, datetime

import redis

from common.broadcast import publish
from common.stores import valkey
from deployments.models import Cluster

# A cluster that nobody has looked at for so long has no present figures.
_KEPT_S = 3600
# Away for longer than this counts against no start's deadline.
_ABSENCE_S = 30.0


@dataclass(frozen=True)
class LastLook:
    """When the cluster was last read, and how long that took, in seconds."""

    at: datetime
    took_s: float


def note_answer(cluster: Cluster, at: float, *, took_s: float) -> None:
    """It answered: `at` in seconds since the epoch."""
    _remember(cluster.pk, at, took_s)
    if cluster.seen_since is not None and not cluster.unreachable_reason:
        return
    moment = datetime.fromtimestamp(at, UTC)
    # A single answer that failed is no absence: starts would never reach their deadlines.
    was_away = cluster.seen_at is None or (moment - cluster.seen_at).total_seconds() > _ABSENCE_S
    since = moment if was_away or cluster.seen_since is None else cluster.seen_since
    Cluster.objects.filter(pk=cluster.pk).update(seen_since=since, seen_at=moment, unreachable_reason="")
    cluster.seen_since, cluster.seen_at, cluster.unreachable_reason = since, moment, ""
    publish("cluster", cluster.pk)


def note_silence(cluster: Cluster, reason: str) -> None:
    """It did not answer, or not in a way that tells anything."""
    if cluster.unreachable_reason == reason:
        return
    changes: dict[str, object] = {"unreachable_reason": reason}
    if not cluster.unreachable_reason and (last := last_look(cluster.pk)) is not None:
        changes["seen_at"] = last.at
    Cluster.objects.filter(pk=cluster.pk).update(**changes)
    for name, value in changes.items():
        setattr(cluster, name, value)
    publish("cluster", cluster.pk)


def last_look(cluster_id: int) -> LastLook | None:
    """None where nothing is known: nobody has looked for an hour, or Valkey is away."""
    return last_looks([cluster_id]).get(cluster_id)


def last_looks(cluster_ids: list[int]) -> dict[int, LastLook]:
    try:
        found = valkey().mget([_key(cluster_id) for cluster_id in cluster_ids]) if cluster_ids else []
    except redis.RedisError:
        return {}
    looks = {}
    for cluster_id, value in zip(cluster_ids, found, strict=True):
        if value:
            at, took_s = map(float, value.split())
            looks[cluster_id] = LastLook(datetime.fromtimestamp(at, UTC), took_s)
    return looks


def _remember(cluster_id: int, at: float, took_s: float) -> None:
    try:
        valkey().set(_key(cluster_id), f"{at} {took_s}", ex=_KEPT_S)
    except redis.RedisError:
        # Figures for pages; nothing is decided by them.
        return


def _key(cluster_id: int) -> str:
    return f"slipway:look:{cluster_id}"
