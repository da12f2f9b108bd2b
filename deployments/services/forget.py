"""Removing what a cluster that doesn't answer keeps busy: its answer isn't waited for, and what it may still run is noted."""

from django.db.models import Q

from accounts import audit
from accounts.permissions import Actor, may_manage, may_manage_clusters
from common.broadcast import publish_on_commit
from common.service_error import ForbiddenError, ServiceError
from deployments import lifecycle
from deployments.models import Cluster, Deployment, DesiredState, Endpoint, LeftBehind, Rollout, Version
from deployments.models.version import INACTIVE
from deployments.services.change import change

Thing = Cluster | Endpoint | Deployment | Version


def forgettable(cluster: Cluster) -> bool:
    """Whether things of this cluster may be forgotten: it doesn't answer, or this Slipway may not act there."""
    return bool(cluster.unreachable_reason) or not cluster.is_ours


def may_be_left(thing: Thing) -> list[str]:
    """What may go on running when `thing` is forgotten, a line each; of a cluster with what was unknown there already."""
    left = [_describe(version) for version in _unfinished(_versions_of(thing))]
    if isinstance(thing, Cluster):
        listed = {stranger.version_key for stranger in thing.strangers.all()}
        left += [f"{item.description}, forgotten before" for item in forgotten(thing) if item.version_key not in listed]
        left += [f"{stranger.name}, which no version accounts for" for stranger in thing.strangers.all()]
    return left


def is_deleted(thing: Thing) -> list[str]:
    """What is deleted here with `thing`, a line each."""
    if isinstance(thing, Version):
        return []
    deployments = Deployment.objects.filter(_within(thing)).select_related("organization")
    lines = [f"deployment {item.api_id}, with its versions, limits and events" for item in deployments]
    if isinstance(thing, Cluster):
        lines += [f"endpoint /{item}" for item in Endpoint.objects.filter(cluster=thing)]
    return lines


def forgotten(cluster: Cluster) -> list[LeftBehind]:
    """What may still run there though it was forgotten here, the latest first."""
    found = LeftBehind.objects.filter(cluster_name=cluster.name, namespace=cluster.namespace)
    return list(found.order_by("-forgotten_at")[:50])


def forget(thing: Thing, *, actor: Actor) -> None:
    """Delete it with all that belongs to it. What may be left of it is shown if its cluster comes back."""
    cluster = _cluster_of(thing)
    _check(thing, cluster, actor)
    if not forgettable(cluster):
        raise ServiceError(
            f"The cluster {cluster} answers. Stop what runs there, then delete it in the ordinary way.", code="answers"
        )
    with change():
        for version in _unfinished(_versions_of(thing)):
            LeftBehind.objects.update_or_create(
                version_key=version.key,
                defaults={
                    "cluster_name": cluster.name,
                    "namespace": cluster.namespace,
                    "description": _describe(version)[:300],
                    "forgotten_by": actor.username if actor else audit.SYSTEM,
                },
            )
        organization_id = None if isinstance(thing, Cluster) else _organization_of(thing)
        audit.record(actor=actor, action="forget", thing=thing, organization_id=organization_id)
        for deployment in Deployment.objects.filter(_within(thing)):
            publish_on_commit("deployment", deployment.pk)
        if isinstance(thing, Version):
            _keep_earlier(thing)
        else:
            Deployment.objects.filter(_within(thing)).delete()
        if isinstance(thing, Cluster):
            Endpoint.objects.filter(cluster=thing).delete()
        if not isinstance(thing, Deployment):
            thing.delete()


def _keep_earlier(version: Version) -> None:
    """One that was to be replaced without a pause by what is forgotten now stays wanted: it is what serves."""
    rollouts = Rollout.objects.filter(new=version, finished_at=None, strategy=Rollout.Strategy.ZERO_DOWNTIME)
    for rollout in rollouts.select_related("old"):
        old = rollout.old
        if old is not None and not old.is_inactive:
            # One is wanted at a time, and this one is about to go.
            Version.objects.filter(pk=version.pk).update(desired_state=DesiredState.STOPPED)
            Version.objects.filter(pk=old.pk).update(desired_state=DesiredState.RUNNING)
            message = f"Version {version.number} was forgotten; version {old.number} keeps serving."
            lifecycle.record_event(old, "rollout", message)


def _check(thing: Thing, cluster: Cluster, actor: Actor) -> None:
    allowed = may_manage_clusters(actor) if isinstance(thing, Cluster) else may_manage(actor, _organization_of(thing))
    if not allowed:
        raise ForbiddenError("You may not delete this.")


def _cluster_of(thing: Thing) -> Cluster:
    """As it is now: whether it answers may have changed since `thing` was read."""
    if isinstance(thing, Cluster):
        return Cluster.objects.get(pk=thing.pk)
    if isinstance(thing, Version):
        thing = thing.deployment
    return Cluster.objects.get(pk=(thing if isinstance(thing, Endpoint) else thing.endpoint).cluster_id)


def _organization_of(thing: Endpoint | Deployment | Version | Cluster) -> int:
    found: int = thing.deployment.organization_id if isinstance(thing, Version) else thing.organization_id
    return found


def _within(thing: Thing) -> Q:
    """The deployments that `thing` is, holds, or belongs to."""
    if isinstance(thing, Cluster):
        return Q(endpoint__cluster=thing)
    if isinstance(thing, Endpoint):
        return Q(endpoint=thing)
    return Q(pk=thing.deployment_id if isinstance(thing, Version) else thing.pk)


def _versions_of(thing: Thing) -> list[Version]:
    found = Version.objects.filter(deployment__in=Deployment.objects.filter(_within(thing)))
    if isinstance(thing, Version):
        found = found.filter(pk=thing.pk)
    return list(found.select_related("deployment__organization").order_by("deployment__name", "number"))


def _unfinished(versions: list[Version]) -> list[Version]:
    """Those of which something may run: that are active, or whose last instances were never seen to end."""
    live = {version.pk for version in versions if version.instances.filter(ended_at=None).exists()}
    return [version for version in versions if version.status not in INACTIVE or version.pk in live]


def _describe(version: Version) -> str:
    count = version.instances.filter(ended_at=None).count()
    instances = f"{count} instance{'' if count == 1 else 's'}" if count else "instances"
    return f"{instances} of version {version.number} of {version.deployment.api_id}"
