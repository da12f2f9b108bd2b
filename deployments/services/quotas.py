"""How much an organization, and a cluster, may want at once: asked and refused before anything is written.

What is *wanted* counts: replicas of versions that shall run, whether they do yet or not; of those whose failed start will be tried again by
itself; and of those that serve until another version takes their place, for they stay when it fails. Of a deployment's versions the one that
takes the most of a kind counts for that kind. Tokens are the exception: they are those of a month, and gateways refuse what follows. Whoever asks holds the quota's row until the end of the transaction, so two who ask at once are told one after the other.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from django.db import transaction
from django.db.models import Exists, F, FloatField, Max, OuterRef, Q, QuerySet
from django.db.models.fields.json import KT
from django.db.models.functions import Cast, Coalesce

from accounts import audit
from accounts.models import Organization
from accounts.permissions import Actor, is_operator
from common.service_error import ForbiddenError, ServiceError
from deployments.models import Cluster, Deployment, DesiredState, DirectoryVersion, Quota, Rollout, Status, Version
from deployments.models.version import INACTIVE
from runtimes.specification import Specification

_GIB = 1 << 30
# More than any cluster has: what is larger is a slip of the hand, and no cluster would take it.
MOST, MOST_BYTES = 1_000_000, 1 << 60


@dataclass(frozen=True)
class Use:
    """`cpu` in cores, `memory` in bytes."""

    deployments: int = 0
    instances: int = 0
    gpus: int = 0
    cpu: float = 0.0
    memory: int = 0


def _amount(name: str) -> Any:
    return Coalesce(Cast(KT(f"specification_json__{name}"), FloatField()), 0.0)


# Of one deployment.
_MOST = {"instances": Max("replicas")} | {name: Max(F("replicas") * _amount(name)) for name in ("gpu", "cpu", "memory")}
# By quota: the form's field, and what is said where it doesn't suffice.
_REMEDY = " An operator can raise the quota under Administration."
_REFUSALS = {
    "deployments": ("name", "The quota of {owner} is {most} deployments, stopped ones included, and it has {used}." + _REMEDY),
    "instances": ("replicas", "Instances of {owner}: {most} allowed, {used} used by other deployments, {asked} requested here." + _REMEDY),
    "gpus": ("gpu", "GPUs of {owner}: {most} allowed, {used} used by other deployments, {asked} requested here." + _REMEDY),
    "cpu": ("cpu", "CPU cores of {owner}: {most:g} allowed, {used:g} used by other deployments, {asked:g} requested here." + _REMEDY),
    "memory": ("memory", "Memory of {owner}: {most:g} GiB allowed, {used:g} GiB used by other deployments, {asked:g} GiB requested here." + _REMEDY),
    "keys": ("name", "The quota of {owner} is {most} API keys, and it has {used}. Revoke one that nobody uses." + _REMEDY),
}  # fmt: skip
LABELS = {
    "deployments": "Deployments", "instances": "Instances", "gpus": "GPUs", "cpu": "CPU cores", "memory": "Memory (GiB)",
    "keys": "API keys", "async_requests": "Active async requests", "tokens": "Tokens per month",
}  # fmt: skip
# The last two are held elsewhere: where requests are queued, and by gateways.
KINDS = tuple(LABELS)


def check_version(deployment: Deployment, specification: Specification, replicas: int) -> None:
    """Whether `replicas` of this may be wanted for the deployment, instead of what is. Inside a transaction. Raises ServiceError."""
    asked = {
        "instances": replicas,
        "gpus": replicas * specification.gpu,
        "cpu": replicas * specification.cpu,
        "memory": replicas * specification.memory,
    }
    refused: dict[str, str] = {}
    for quota in _held(Q(organization=deployment.organization_id) | Q(cluster=deployment.endpoint.cluster_id)):
        elsewhere = use_of(quota.owner, without=deployment)
        for kind, amount in asked.items():
            if problem := _refusal(quota, kind, getattr(elsewhere, kind), amount):
                refused.setdefault(_REFUSALS[kind][0], problem)
    if refused:
        raise ServiceError.of_fields(refused, code="quota_exceeded")


def check_deployment(deployment: Deployment) -> None:
    """Whether there may be one more. Inside the transaction that makes it, before it is made."""
    for quota in _held(Q(organization=deployment.organization_id) | Q(cluster=deployment.endpoint.cluster_id)):
        _check(quota, "deployments", deployments_of(quota.owner).count(), 1)


def check_key(organization: Organization, active: QuerySet[Any]) -> None:
    """As `check_deployment`, for one more API key beside those that are `active`, which are counted here: behind the lock."""
    for quota in _held(Q(organization=organization)):
        _check(quota, "keys", active.count(), 1)


def use_of(owner: Organization | Cluster, *, without: Deployment | None = None) -> Use:
    """What is wanted now."""
    deployments = deployments_of(owner)
    wanted = _reserved().filter(deployment__in=deployments)
    if without is not None:
        wanted = wanted.exclude(deployment=without)
    return _use(deployments.count(), wanted.order_by().values("deployment").annotate(**_MOST))


def uses_of_organizations(ids: Collection[int]) -> dict[int, Use]:
    """What each of them wants now of instances and what they take, by id; deployments aren't counted."""
    wanted = _reserved().filter(deployment__organization__in=ids).order_by()
    rows: dict[int, list[dict[str, Any]]] = {pk: [] for pk in ids}
    for row in wanted.values("deployment__organization", "deployment").annotate(**_MOST):
        rows[row["deployment__organization"]].append(row)
    return {pk: _use(0, found) for pk, found in rows.items()}


def _reserved() -> QuerySet[Version]:
    """Those whose instances shall run, or will by themselves: nobody is asked again before they do."""
    is_held = Exists(
        Rollout.objects.filter(old=OuterRef("pk"), finished_at=None, strategy=Rollout.Strategy.ZERO_DOWNTIME)
    )
    comes_again = Q(status=Status.ERROR, start_again_at__isnull=False, deployment__starts_again=True)
    return Version.objects.filter(
        Q(desired_state=DesiredState.RUNNING) | comes_again | (is_held & ~Q(status__in=INACTIVE))
    )


def quota_of(owner: Organization | Cluster) -> Quota | None:
    return (
        Quota.objects.filter(organization=owner).first()
        if isinstance(owner, Organization)
        else Quota.objects.filter(cluster=owner).first()
    )


def deployments_of(owner: Organization | Cluster) -> QuerySet[Deployment]:
    if isinstance(owner, Organization):
        return Deployment.objects.filter(organization=owner)
    return Deployment.objects.filter(endpoint__cluster=owner)


@transaction.atomic
def set_quota(owner: Organization | Cluster, bounds: dict[str, Any], *, actor: Actor) -> None:
    """Replace all bounds; None for none. What is wanted already stays wanted, also beyond them."""
    if not is_operator(actor):
        raise ForbiddenError("Quotas are set by operators.")
    for kind, bound in bounds.items():
        if bound is not None and bound < 0:
            raise ServiceError("A quota is 0 or more; leave it empty for none.", field=kind)
        if kind == "memory" and bound is not None and bound > MOST_BYTES:
            raise ServiceError(f"A quota is at most {MOST_BYTES / _GIB:,.0f} GiB; leave it empty for none.", field=kind)
    place = {"organization": owner} if isinstance(owner, Organization) else {"cluster": owner}
    quota, _ = Quota.objects.select_for_update().get_or_create(**place)
    changes = {
        kind: [getattr(quota, kind), bounds.get(kind)] for kind in KINDS if getattr(quota, kind) != bounds.get(kind)
    }
    if not changes:
        return
    for kind, (_, bound) in changes.items():
        setattr(quota, kind, bound)
    if "tokens" in changes:
        # Looked at anew within half a minute; until then nobody is refused who may go on now.
        quota.tokens_spent_in = None
    quota.save()
    audit.record(
        actor=actor, action="set_quota", thing=owner, changes=changes,
        organization_id=owner.pk if isinstance(owner, Organization) else None,
    )  # fmt: skip
    if "tokens" in changes:
        DirectoryVersion.bump()


@dataclass(frozen=True)
class Bar:
    """One line of a page: `used` of `most`, which is None without a bound. `memory` in GiB."""

    kind: str
    used: float
    most: float | None

    @property
    def label(self) -> str:
        return LABELS[self.kind]

    @property
    def percent(self) -> int:
        return min(100, round(100 * self.used / self.most)) if self.most else (100 if self.used else 0)

    @property
    def is_full(self) -> bool:
        return self.most is not None and self.used >= self.most


def bars(owner: Organization | Cluster, counted: Mapping[str, float] | None = None) -> list[Bar]:
    """`counted`: what is used of the kinds that others count."""
    quota = quota_of(owner)
    used = asdict(use_of(owner)) | dict(counted or {})
    return [
        Bar(
            kind,
            _shown(kind, amount),
            _shown(kind, bound) if (bound := getattr(quota, kind, None)) is not None else None,
        )
        for kind, amount in used.items()
    ]


def _held(where: Q) -> list[Quota]:
    return list(
        Quota.objects.select_for_update(of=("self",))
        .filter(where)
        .select_related("organization", "cluster")
        .order_by("pk")
    )


def _use(deployments: int, rows: Iterable[Mapping[str, Any]]) -> Use:
    """`rows` of one deployment each."""
    found = list(rows)
    instances, gpus, cpu, memory = (sum(row[name] for row in found) for name in ("instances", "gpu", "cpu", "memory"))
    return Use(deployments, instances, round(gpus), round(cpu, 3), round(memory))


def _check(quota: Quota, kind: str, used: float, asked: float) -> None:
    if problem := _refusal(quota, kind, used, asked):
        raise ServiceError(problem, code="quota_exceeded", field=_REFUSALS[kind][0])


def _refusal(quota: Quota, kind: str, used: float, asked: float) -> str:
    most = getattr(quota, kind)
    # To a thousandth of a core: sums of fractions are never exact.
    if most is None or used + asked <= most + 0.0005:
        return ""
    amounts = {"used": _shown(kind, used), "most": _shown(kind, most), "asked": _shown(kind, asked)}
    return _REFUSALS[kind][1].format(owner=quota.owner, **amounts)


def _shown(kind: str, amount: float) -> float:
    """To four digits: what is small shall not look like nothing."""
    amount = amount / _GIB if kind == "memory" else amount
    return float(f"{amount:.4g}") if abs(amount) < 100 and amount != int(amount) else round(amount, 2)
