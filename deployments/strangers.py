"""What runs in a cluster and belongs to no version of ours: listed, for people to decide. No sweep ends it."""

from collections.abc import Iterable
from dataclasses import replace

import orjson

from common.broadcast import publish
from deployments.models import Cluster, DesiredState, Instance, Stranger, Version
from deployments.models.version import INACTIVE
from runtimes.driver import Driver
from runtimes.observation import ENDING, Observation, StrangerObservation

_FACTS = ("version_key", "generation", "replicas", "ready", "installation", "description")


def look(cluster: Cluster, driver: Driver, seen: Observation, watched: dict[str, int]) -> None:
    """Note the strangers of this look. `watched`: the last start of each version that the reconciler looks after by itself.

    What belongs to a start that people have stopped is no stranger: it was cut off, and goes. A later start than any that the
    database knows of is one: the database is older than what runs.
    """
    keys = set(seen.instances) | set(seen.workloads or {})
    others = keys - set(watched)
    # Read now, and of those that nobody wants alone: what was adopted or started a moment ago is looked after next time.
    rows = Version.objects.filter(
        key__in=others, deployment__endpoint__cluster=cluster, desired_state=DesiredState.STOPPED, status__in=INACTIVE
    )
    known = dict(rows.values_list("key", "generation")) if others else {}
    for key, generation in known.items():
        if _lives(seen, key, generation):
            driver.end(key, up_to=generation)
    found = {item.name: item for item in (*seen.strangers, *_unaccounted(seen, watched | known))}
    _discard_ended(driver, seen, others)
    _store(cluster, found)


def without_posers(driver: Driver, seen: Observation, versions: Iterable[Version]) -> Observation:
    """Whoever may make objects in one organization's namespace can label them as another's. What says that it is a version's,
    and lies in a namespace where that one's organization has nothing, counts as a stranger."""
    instances, workloads = dict(seen.instances), dict(seen.workloads or {})
    posers = []
    for version in versions:
        key, allowed = version.key, {"", driver.namespace_of(version.deployment.organization.name)}
        if any(item.namespace not in allowed for item in instances.get(key, ())):
            instances[key] = [item for item in instances[key] if item.namespace in allowed]
        if any(_namespace(item.name) not in allowed for item in workloads.get(key, ())):
            posers += [
                StrangerObservation(item.name, key, item.generation, item.replicas, 0, description=item.description)
                for item in workloads[key]
                if _namespace(item.name) not in allowed
            ]
            workloads[key] = [item for item in workloads[key] if _namespace(item.name) in allowed]
    return replace(
        seen,
        instances=instances,
        workloads=None if seen.workloads is None else workloads,
        strangers=(*seen.strangers, *posers),
    )


def serving(driver: Driver, seen: Observation, watched: dict[str, int]) -> dict[str, str]:
    """By a deployment's API id: the name of a stranger that says that it serves it, and shall have instances: be they not ready
    now, something started beside them would take their place. `watched` as for `look`."""
    found = {}
    for item in (*seen.strangers, *_unaccounted(seen, watched)):
        told = _described(item.description)
        # In another organization's namespace anybody of that one may have written it.
        if told and item.replicas and _namespace(item.name) in ("", driver.namespace_of(told[0])):
            found["/".join(told)] = item.name
    return found


def _namespace(name: str) -> str:
    """Empty for the cluster's first one."""
    return name.rpartition("/")[0]


def _described(description: str) -> tuple[str, str] | None:
    """(organization, name) of the deployment that it says it serves; anybody may have written it."""
    try:
        told = orjson.loads(description or b"null")
        return str(told["organization"]), str(told["deployment"])
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return None


def _lives(seen: Observation, key: str, generation: int) -> bool:
    workloads = [item for item in (seen.workloads or {}).get(key, []) if item.generation <= generation]
    instances = [item for item in seen.instances.get(key, []) if item.generation <= generation]
    return any(not item.is_ending for item in workloads) or any(
        item.is_alive and item.phase != ENDING for item in instances
    )


def _unaccounted(seen: Observation, known: dict[str, int]) -> list[StrangerObservation]:
    """What says that it is ours, though the database knows nothing of it, or not of this start: it may be older than what runs."""
    found = []
    for key in set(seen.instances) | set(seen.workloads or {}):
        last = known.get(key, -1)
        living = [item for item in seen.instances.get(key, []) if item.is_alive and item.generation > last]
        for item in (seen.workloads or {}).get(key, []):
            if item.generation > last and not item.is_ending:
                ready = sum(one.is_ready and one.generation == item.generation for one in living)
                found.append(
                    StrangerObservation(
                        item.name, key, item.generation, item.replicas, ready, description=item.description
                    )
                )
        if living and seen.workloads is None:
            ready = sum(item.is_ready for item in living)
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
