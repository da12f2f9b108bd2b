"""Where asynchronous requests can go now, and how many at once."""

from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import Count

from accounts.models import User
from async_inference.models import AsyncSettings
from deployments.models import Deployment, Instance, Status, Version
from deployments.selectors import usable_deployments
from runtimes.engines import registry
from runtimes.observation import READY
from runtimes.specification import Specification


@dataclass(frozen=True)
class Place:
    """A deployment that can take requests. `path` is its address below the gateway's, `capacity` of all its instances."""

    deployment_id: int
    path: str
    version_id: int
    instances: int
    concurrency: int

    @property
    def capacity(self) -> int:
        return self.instances * self.concurrency


def find(deployment_ids: Iterable[int]) -> dict[int, Place]:
    """By deployment; those without a ready instance are missing. A fixed number of queries."""
    ready = (
        Instance.objects.filter(
            version__deployment__in=list(deployment_ids), version__status=Status.RUNNING, ended_at=None, phase=READY
        )
        .order_by()
        .values_list("version")
        .annotate(count=Count("pk"))
    )
    counts = dict(ready)
    versions = Version.objects.filter(pk__in=counts).select_related("deployment__endpoint").order_by("number")
    chosen = dict(
        AsyncSettings.objects.filter(deployment__versions__in=counts).values_list("deployment_id", "concurrency")
    )
    found: dict[int, Place] = {}
    for version in versions:
        deployment = version.deployment
        concurrency = chosen.get(deployment.pk) or engine_concurrency(version.specification)
        # While an update runs two versions may be ready; the newer one is on its way to be the only one.
        found[deployment.pk] = Place(
            deployment.pk, f"/{deployment.endpoint.name}/{deployment.name}", version.pk, counts[version.pk], concurrency
        )
    return found


def engine_concurrency(specification: Specification) -> int:
    if specification.engine not in registry.engines():
        return 1
    return registry.engine(specification.engine).concurrency(specification)


def may_still_call(user_id: int, deployment_id: int) -> bool:
    """Asked before a request from the console is sent: it may have waited for days since it was allowed."""
    user = User.objects.filter(pk=user_id, is_active=True).first()
    return user is not None and usable_deployments(user).filter(pk=deployment_id).exists()


def why_waiting(deployment_id: int) -> str:
    """What a request that was never begun is told, behind the time that it waited."""
    deployment = Deployment.objects.filter(pk=deployment_id).select_related("organization").first()
    if deployment is None:
        return "the deployment does not exist any more."
    version = Version.objects.filter(deployment=deployment).order_by("-status_since", "-number").first()
    if version is None or version.status != Status.RUNNING:
        status = Status(version.status).label if version else "without a version"
        return f"the deployment {deployment.api_id} is {status}. Start a version of it, then send the request again."
    if deployment_id not in find([deployment_id]):
        return f"the deployment {deployment.api_id} is Running but has no ready instance."
    return "others went before it, or a limit of its caller's was used up. More replicas, a longer time in the queue or a higher limit help."
