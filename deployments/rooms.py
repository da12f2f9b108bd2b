"""Keeps organizations' namespaces as operators want them: quotas and callers change while instances run there."""

import logging
import threading
import time
from collections.abc import Collection, Iterable
from dataclasses import asdict

from deployments.models import Cluster, Quota, Version
from deployments.services.quotas import Use, uses_of_organizations
from runtimes.driver import ClusterUnreachableError, Driver, DriverError
from runtimes.observation import Observation
from runtimes.room import Room

log = logging.getLogger(__name__)
# So often the cluster is asked whether all is still there, though nothing has changed here: another process may have written
# something else meanwhile, or somebody may have deleted it.
LOOK_S = 300.0
# What was refused is asked for again after so long.
_AGAIN_S = 30.0
# One look of the reconciler spends no more on it; the rest comes with the next ones.
_MOST_S = 3.0
_KINDS = ("instances", "gpus", "cpu", "memory")
_lock = threading.Lock()
# What this process has seen to last, by cluster and organization, when, and whether it was refused.
_seen_to: dict[tuple[int, str], tuple[tuple[Room, tuple[str, ...]], float, bool]] = {}


def room_of(organization: str, organization_id: int) -> Room:
    """What the organization called `organization` may have, as operators have set it."""
    return _rooms({organization: organization_id})[organization]


def keep(cluster: Cluster, driver: Driver, seen: Observation, versions: Iterable[Version]) -> None:
    """Bring up the namespaces in which something runs, or shall. What can't be now is tried again at a later look."""
    if not cluster.namespace_template:
        return
    there = {
        version.deployment.organization.name: version.deployment.organization_id
        for version in versions
        if any(item.namespace for item in seen.instances.get(version.key, ()))
        # A quota may have refused every pod of it.
        or any("/" in item.name for item in (seen.workloads or {}).get(version.key, ()))
    }
    began = time.monotonic()
    for name, room in _rooms(there).items() if there else ():
        wanted = room, tuple(cluster.callers)
        with _lock:
            known = _seen_to.get((cluster.pk, name))
        now = time.monotonic()
        if known is not None and known[0] == wanted and now - known[1] < (_AGAIN_S if known[2] else LOOK_S):
            continue
        if now - began > _MOST_S:
            return
        is_refused = False
        try:
            driver.prepare(room)
        except ClusterUnreachableError:
            # The others there would only wait as long.
            return
        except DriverError as error:
            log.warning("the namespace of %s on %s is not as it should be: %s", name, cluster, error)
            is_refused = True
        except Exception:
            # One of them must not keep the others from being looked after.
            log.exception("the namespace of %s on %s", name, cluster)
            is_refused = True
        with _lock:
            _seen_to[cluster.pk, name] = wanted, time.monotonic(), is_refused


def _rooms(organizations: dict[str, int]) -> dict[str, Room]:
    """By name, for ids by name: two statements, however many they are."""
    quotas = {quota.organization_id: quota for quota in Quota.objects.filter(organization__in=organizations.values())}
    bounded: Collection[int] = [
        pk for pk, quota in quotas.items() if any(getattr(quota, kind) is not None for kind in _KINDS)
    ]
    uses = uses_of_organizations(bounded) if bounded else {}
    return {
        name: Room(name) if pk not in uses else Room(name, **_bounds(quotas[pk], uses[pk]))
        for name, pk in organizations.items()
    }


def _bounds(quota: Quota, use: Use) -> dict[str, int | float | None]:
    """Never less than what is wanted: a lower quota refuses what is new and leaves what runs, its pods' successors too."""
    wanted = asdict(use)
    return {kind: None if (most := getattr(quota, kind)) is None else max(most, wanted[kind]) for kind in _KINDS}
