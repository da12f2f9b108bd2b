"""Keeps organizations' namespaces as operators want them: quotas and callers change while instances run there."""

import logging
import threading
import time
from collections.abc import Iterable

from deployments.models import Cluster, Quota, Version
from runtimes.driver import Driver, DriverError
from runtimes.observation import Observation
from runtimes.room import Room

log = logging.getLogger(__name__)
# So often the cluster is asked whether all is still there, though nothing has changed here: another process may have written
# something else meanwhile, or somebody may have deleted it.
LOOK_S = 300.0
_lock = threading.Lock()
# What this process has seen to last, by cluster and organization, and when.
_seen_to: dict[tuple[int, str], tuple[tuple[Room, tuple[str, ...]], float]] = {}


def room_of(organization: str, organization_id: int) -> Room:
    """What the organization called `organization` may have, as operators have set it."""
    quota = Quota.objects.filter(organization=organization_id).first()
    if quota is None:
        return Room(organization)
    return Room(organization, quota.instances, quota.gpus, quota.cpu, quota.memory)


def keep(cluster: Cluster, driver: Driver, seen: Observation, versions: Iterable[Version]) -> None:
    """Bring up the namespaces in which something runs. What can't be now is tried again at the next look."""
    if not cluster.namespace_template:
        return
    there = {
        version.deployment.organization.name: version.deployment.organization_id
        for version in versions
        if any(item.namespace for item in seen.instances.get(version.key, ()))
    }
    for name, pk in there.items():
        wanted = room_of(name, pk), tuple(cluster.callers)
        with _lock:
            known = _seen_to.get((cluster.pk, name))
        if known is not None and known[0] == wanted and time.monotonic() - known[1] < LOOK_S:
            continue
        try:
            driver.prepare(wanted[0])
        except DriverError as error:
            log.warning("the namespace of %s on %s is not as it should be: %s", name, cluster, error)
            continue
        with _lock:
            _seen_to[cluster.pk, name] = wanted, time.monotonic()
