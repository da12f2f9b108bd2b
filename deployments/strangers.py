"""What runs in a cluster and belongs to no version of ours: listed, for people to decide. No sweep ends it."""

from common.broadcast import publish
from deployments.models import Cluster, Instance, Stranger, Version
from runtimes.driver import Driver
from runtimes.observation import Observation, StrangerObservation

_FACTS = ("version_key", "generation", "replicas", "ready", "installation", "description")


def look(cluster: Cluster, driver: Driver, seen: Observation, watched: set[str]) -> None:
    """Note the strangers of this look. `watched`: the keys of versions that the reconciler looks after by itself.

    What belongs to a version that people have stopped is no stranger: a start that was cut off has left it, and it goes.
    """
    keys = (set(seen.instances) | set(seen.workloads or {})) - watched
    known = set(Version.objects.filter(key__in=keys, deployment__endpoint__cluster=cluster).values_list("key", flat=True)) if keys else set()  # fmt: skip
    for key in known:
        if _lives(seen, key):
            driver.end(key)
    unknown = keys - known
    found = {item.name: item for item in (*seen.strangers, *_unaccounted(seen, unknown))}
    _discard_ended(driver, seen, keys)
    _store(cluster, found)


def _lives(seen: Observation, key: str) -> bool:
    workloads = (seen.workloads or {}).get(key, [])
    return any(not item.is_ending for item in workloads) or any(item.is_alive for item in seen.instances.get(key, []))


def _unaccounted(seen: Observation, keys: set[str]) -> list[StrangerObservation]:
    """What says that it is ours, though the database knows nothing of it: it may be older than what runs."""
    found = []
    for key in keys:
        living = [item for item in seen.instances.get(key, []) if item.is_alive]
        ready = sum(item.is_ready for item in living)
        workloads = (seen.workloads or {}).get(key, [])
        if workloads:
            found += [
                StrangerObservation(item.name, key, item.generation, item.replicas, ready, description=item.description)
                for item in workloads
                if not item.is_ending
            ]
        elif living and seen.workloads is None:
            found.append(StrangerObservation(key, key, living[0].generation, len(living), ready))
    return found


def _discard_ended(driver: Driver, seen: Observation, keys: set[str]) -> None:
    """Folders of instances that have ended take room only; where a log is still to be stored, they wait."""
    if seen.workloads is not None:
        return
    ended = {item.uid: key for key in keys for item in seen.instances.get(key, []) if not item.is_alive}
    if not ended:
        return
    waiting = set(Instance.objects.filter(uid__in=list(ended), log_complete=False).values_list("uid", flat=True))
    for uid, key in ended.items():
        if uid not in waiting:
            driver.discard(key, uid)


def _store(cluster: Cluster, found: dict[str, StrangerObservation]) -> None:
    """Write the differences."""
    before = {item.name: item for item in Stranger.objects.filter(cluster=cluster)}
    changed = False
    for name, item in found.items():
        facts = {fact: getattr(item, fact) for fact in _FACTS} | {"owner_cluster": item.cluster}
        known = before.pop(name, None)
        if known is None or any(getattr(known, fact) != value for fact, value in facts.items()):
            changed = True
            Stranger.objects.update_or_create(cluster=cluster, name=name, defaults=facts)
    if before:
        changed = True
        Stranger.objects.filter(pk__in=[item.pk for item in before.values()]).delete()
    if changed:
        publish("cluster", cluster.pk)
