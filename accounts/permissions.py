"""Who may do what. Selectors turn these answers into querysets; nobody else decides.

An actor is a signed-in user, an anonymous one (who may nothing), or None: Slipway itself, who may everything.
"""

from django.contrib.auth.models import AnonymousUser
from django.db.models import QuerySet

from accounts.models import Member, Organization, User

Actor = User | AnonymousUser | None


def is_operator(actor: Actor) -> bool:
    return actor is None or (actor.is_authenticated and actor.is_active and actor.is_operator)


def visible_organizations(actor: Actor) -> QuerySet[Organization]:
    """Organizations whose objects the actor sees."""
    if is_operator(actor):
        return Organization.objects.all()
    if not (actor.is_authenticated and actor.is_active):
        return Organization.objects.none()
    return Organization.objects.filter(members__user=actor)


def managed_organizations(actor: Actor) -> QuerySet[Organization]:
    """Organizations in which the actor may deploy, change and delete."""
    if is_operator(actor):
        return Organization.objects.all()
    if not (actor.is_authenticated and actor.is_active):
        return Organization.objects.none()
    return Organization.objects.filter(members__user=actor, members__role=Member.Role.ADMIN)


def may_administer(actor: Actor) -> bool:
    """Whether there is anything for the actor under Administration: for operators always, for admins of something."""
    return is_operator(actor) or managed_organizations(actor).exists()


def may_manage(actor: Actor, organization_id: int) -> bool:
    return managed_organizations(actor).filter(pk=organization_id).exists()


def may_use_driver(actor: Actor, driver: str) -> bool:
    """The local driver runs commands on Slipway's own machine, so it is the operators' alone."""
    return driver != "local" or is_operator(actor)


def may_manage_clusters(actor: Actor) -> bool:
    """Cluster credentials are code on the platform: operators only."""
    return is_operator(actor)
