"""What an actor may see and manage, as querysets. Views, API, consumers and tasks ask here and decide nothing."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import (
    Count,
    DurationField,
    Exists,
    ExpressionWrapper,
    F,
    OuterRef,
    Prefetch,
    Q,
    QuerySet,
    Subquery,
)
from django.db.models.functions import Coalesce, Now

from accounts.models import Organization, User
from accounts.permissions import (
    Actor,
    is_operator,
    managed_organizations,
    may_manage_clusters,
    may_use_driver,
    visible_organizations,
)
from common.numbers import whole
from deployments.models import (
    Cluster,
    Deployment,
    DesiredState,
    DirectoryVersion,
    Endpoint,
    GatewayProcess,
    Instance,
    Model,
    Rollout,
    Status,
    Version,
)
from deployments.models.version import INACTIVE
from runtimes.observation import READY


def visible_deployments(actor: Actor) -> QuerySet[Deployment]:
    return _scoped(Deployment.objects.all(), actor, visible_organizations(actor))


def manageable_deployments(actor: Actor) -> QuerySet[Deployment]:
    return _scoped(Deployment.objects.all(), actor, managed_organizations(actor))


def usable_deployments(actor: Actor) -> QuerySet[Deployment]:
    """What the Developer Hub shows the actor and the actor's keys may open: their organizations' own, and what they share."""
    if is_operator(actor):
        return Deployment.objects.all()
    if not actor.is_authenticated:
        return Deployment.objects.none()
    return _open_to(visible_organizations(actor))


def _open_to(organizations: QuerySet[Organization]) -> QuerySet[Deployment]:
    """Their own deployments, and what is shared with one of them or with all."""
    shared = Q(sharing=Deployment.Sharing.SPECIFIC) & Exists(
        Deployment.shared_with.through.objects.filter(deployment=OuterRef("pk"), organization__in=organizations)
    )
    return Deployment.objects.filter(Q(organization__in=organizations) | Q(sharing=Deployment.Sharing.ALL) | shared)


def bounded_organizations(user: User) -> QuerySet[Organization]:
    """Those that the user is a member of and that have a quota; a handful at most."""
    mine = Organization.objects.filter(members__user=user, quota__isnull=False)
    return mine.order_by("name")[:10]


def callable_deployments(organization: Organization) -> QuerySet[Deployment]:
    """What keys of the organization are for."""
    return _open_to(Organization.objects.filter(pk=organization.pk))


def calling_organization_id(user: User, deployment: Deployment) -> int:
    """On whose account the user calls from the browser: the owner's where the user belongs to it, else their own's."""
    mine = set(visible_organizations(user).values_list("pk", flat=True))
    if deployment.organization_id in mine or is_operator(user):
        return deployment.organization_id
    if deployment.sharing == Deployment.Sharing.SPECIFIC:
        mine &= set(deployment.shared_with.values_list("pk", flat=True))
    return min(mine, default=0)


def visible_models(actor: Actor) -> QuerySet[Model]:
    return _scoped(Model.objects.all(), actor, visible_organizations(actor))


def manageable_models(actor: Actor) -> QuerySet[Model]:
    return _scoped(Model.objects.all(), actor, managed_organizations(actor))


def visible_endpoints(actor: Actor) -> QuerySet[Endpoint]:
    return _scoped(Endpoint.objects.all(), actor, visible_organizations(actor))


def manageable_endpoints(actor: Actor) -> QuerySet[Endpoint]:
    return _scoped(Endpoint.objects.all(), actor, managed_organizations(actor))


def deployable_endpoints(actor: Actor) -> QuerySet[Endpoint]:
    """Endpoints on whose cluster the actor may run models. On others not even a form is shown: it tells of the host."""
    return manageable_endpoints(actor).filter(cluster__in=usable_clusters(actor))


def usable_clusters(actor: Actor) -> QuerySet[Cluster]:
    drivers = [driver for driver in Cluster.Driver.values if may_use_driver(actor, driver)]
    found = Cluster.objects.filter(driver__in=drivers)
    if is_operator(actor):
        return found
    theirs = Cluster.organizations.through.objects.filter(organization__in=managed_organizations(actor))
    return found.filter(Q(is_for_all=True) | Q(pk__in=theirs.values("cluster")))


def visible_clusters(actor: Actor) -> QuerySet[Cluster]:
    return Cluster.objects.all() if may_manage_clusters(actor) else Cluster.objects.none()


def visible_instances(actor: Actor) -> QuerySet[Instance]:
    return Instance.objects.filter(version__deployment__in=visible_deployments(actor))


def _scoped(queryset: QuerySet[Any], actor: Actor, organizations: QuerySet[Any]) -> QuerySet[Any]:
    return queryset if is_operator(actor) else queryset.filter(organization__in=organizations)


def serving_versions() -> dict[int, Version]:
    """By deployment: the version that still serves while its successor starts beside it."""
    held = Rollout.objects.filter(
        finished_at=None,
        strategy=Rollout.Strategy.ZERO_DOWNTIME,
        phase=Rollout.Phase.STARTING_NEW,
        old__status=Status.RUNNING,
    )
    return {rollout.deployment_id: rollout.old for rollout in held.select_related("old") if rollout.old}


def serving_version(deployment: Deployment) -> Version | None:
    """Who answers its calls now, with `current_version` set on it: the version that tells the status, or the one before that
    serves until its successor is ready; None while calls are answered with 503."""
    current = deployment.current_version
    if current is not None and current.status == Status.RUNNING:
        return current
    return serving_versions().get(deployment.pk)


def ready_instances(version: Version, *, before: datetime) -> int:
    """How many instances of its present start have been ready since `before`, or longer."""
    return Instance.objects.filter(
        version=version, ended_at=None, phase=READY, generation=version.generation, ready_at__lte=before
    ).count()


def gateways_behind(version: int) -> bool:
    """Whether a gateway that lives routes by an earlier version of the directory."""
    return any(item.is_reachable and item.acknowledged_version < version for item in gateway_processes())


def gateway_processes() -> list[GatewayProcess]:
    """All gateways that are known, with `is_reachable`, `is_current` and `lag_ms` (None when it isn't known) set."""
    wanted = DirectoryVersion.objects.get(pk=1)
    found = list(GatewayProcess.objects.annotate(silent=ExpressionWrapper(Now() - F("seen_at"), DurationField())))
    for gateway in found:
        gateway.is_reachable = gateway.silent.total_seconds() < GatewayProcess.UNREACHABLE_AFTER_S
        gateway.is_current = gateway.acknowledged_version >= wanted.v
        after = gateway.acknowledged_at - wanted.changed_at if wanted.changed_at else None
        # A gateway that started after the change has not been waited for.
        told = after is not None and gateway.is_current and gateway.started_at < wanted.changed_at
        gateway.lag_ms = max(0, round(after.total_seconds() * 1000)) if told else None
    return found


def current_versions() -> QuerySet[Version]:
    """Per deployment the version that tells its status: the wanted one, else one still active, else the newest."""
    ready = Instance.objects.filter(version=OuterRef("pk"), ended_at=None, phase=READY).order_by()
    return (
        Version.objects.annotate(
            ready=Coalesce(Subquery(ready.values("version").annotate(count=Count("pk")).values("count")), 0),
            is_wanted=Q(desired_state=DesiredState.RUNNING),
            is_active=~Q(status__in=INACTIVE),
        )
        .select_related("deployment__organization")
        .order_by("deployment_id", "-is_wanted", "-is_active", "-status_since", "-number")
        .distinct("deployment_id")
    )


@dataclass(frozen=True)
class DeploymentFilter:
    """What the list is narrowed to; empty means all."""

    search: str = ""
    status: str = ""
    environment: str = ""
    organization: str = ""
    model: str = ""

    @property
    def is_active(self) -> bool:
        return any((self.search, self.status, self.environment, self.organization, self.model))


def filtered_deployments(actor: Actor, wanted: DeploymentFilter) -> QuerySet[Deployment]:
    """Visible deployments that match, with what a list row shows."""
    found = visible_deployments(actor).select_related("organization", "model", "endpoint__cluster")
    if wanted.search:
        found = found.filter(
            Q(name__icontains=wanted.search)
            | Q(description__icontains=wanted.search)
            | Q(model__name__icontains=wanted.search)
            | Q(endpoint__name__icontains=wanted.search)
        )
    if wanted.environment:
        found = found.filter(environment=wanted.environment)
    if wanted.organization:
        found = found.filter(organization__name=wanted.organization)
    model_id = whole(wanted.model)
    if model_id is not None:
        found = found.filter(model_id=model_id)
    if wanted.status:
        found = _with_status(found, wanted.status)
    return found


def _with_status(deployments: QuerySet[Deployment], status: str) -> QuerySet[Deployment]:
    """Those whose telling version has `status`: an active one wins over inactive ones."""
    of_deployment = Version.objects.filter(deployment=OuterRef("pk"))
    if status in INACTIVE:
        newest = of_deployment.order_by("-status_since", "-number").values("status")[:1]
        return deployments.annotate(newest_status=newest).filter(
            ~Exists(of_deployment.exclude(status__in=INACTIVE)), newest_status=status
        )
    return deployments.filter(Exists(of_deployment.filter(status=status)))


def attach_current_versions(deployments: list[Deployment]) -> None:
    """Set `current_version` (or None) on each, with one query."""
    found = {version.deployment_id: version for version in current_versions().filter(deployment__in=deployments)}
    for deployment in deployments:
        deployment.current_version = found.get(deployment.pk)


def active_versions_of_cluster(cluster: Cluster) -> list[Version]:
    """Versions that the reconciler has to look after, with their live instances."""
    live = Prefetch(
        "instances", Instance.objects.filter(Q(ended_at=None) | Q(log_complete=False)), to_attr="known_instances"
    )
    wanted = (
        Q(desired_state=DesiredState.RUNNING)
        | ~Q(status__in=INACTIVE)
        | Exists(Instance.objects.filter(version=OuterRef("pk"), ended_at=None))
    )
    return list(
        Version.objects.filter(wanted, deployment__endpoint__cluster=cluster)
        .select_related("deployment__organization", "deployment__endpoint__cluster", "deployment__model")
        .annotate(
            ended_instances=Count(
                "instances", filter=Q(instances__generation=F("generation")) & Q(instances__ended_at__isnull=False)
            )
        )
        .prefetch_related(live)
        .order_by("pk")
    )
