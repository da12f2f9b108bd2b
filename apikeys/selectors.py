"""Which keys an actor sees, and what a key may open."""

from django.db.models import Prefetch, Q, QuerySet
from django.db.models.functions import Now

from accounts.models import Organization, User
from accounts.permissions import Actor, is_operator, managed_organizations
from apikeys.models import ApiKey
from deployments.models import Deployment
from deployments.selectors import usable_deployments


def visible_keys(actor: Actor) -> QuerySet[ApiKey]:
    """The actor's own, those of the organizations that the actor manages, and all of them for operators."""
    # Of a key's deployments those that the actor may know of.
    known = Prefetch("deployments", usable_deployments(actor).select_related("organization"))
    keys = ApiKey.objects.select_related("user", "organization").prefetch_related(known)
    if is_operator(actor):
        return keys
    if not actor.is_authenticated:
        return keys.none()
    return keys.filter(Q(user=actor) | Q(organization__in=managed_organizations(actor)))


def active_keys(organization: Organization) -> QuerySet[ApiKey]:
    """Those that open something now."""
    not_expired = Q(expires_at=None) | Q(expires_at__gt=Now())
    return ApiKey.objects.filter(not_expired, organization=organization, revoked_at=None)


def key_labels(key_ids: set[int]) -> dict[int, str]:
    """What keys are called now, by id."""
    return dict(ApiKey.objects.filter(pk__in=key_ids).values_list("pk", "name"))


def keys_for(deployment: Deployment) -> QuerySet[ApiKey]:
    """Keys that name the deployment; those for all that their user may use aren't among them."""
    return ApiKey.objects.filter(scope=ApiKey.Scope.DEPLOYMENTS, deployments=deployment).select_related(
        "user", "organization"
    )


def paying_organizations(user: User) -> QuerySet[Organization]:
    """On whose account the user may call: their organizations, and any for operators."""
    if is_operator(user):
        return Organization.objects.all()
    return Organization.objects.filter(members__user=user)


def openable_deployments(user: User) -> QuerySet[Deployment]:
    """What a key of the user may be made for."""
    return usable_deployments(user).select_related("organization").order_by("organization__name", "name")
