"""Writers of aliases: the names by which an organization's keys call deployments beside their own."""

import re

from accounts import audit
from accounts.models import Organization
from accounts.permissions import Actor, may_manage
from common.service_error import ForbiddenError, ServiceError
from deployments.models import Alias, Deployment
from deployments.selectors import callable_deployments
from deployments.services.change import change

# As the names of models are written everywhere: gpt-4o, claude-3.5:latest, meta-llama/Llama-3-8B.
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:/@+-]{{0,{Alias.LONGEST - 1}}}")


def set_alias(organization: Organization, name: str, deployment: Deployment, *, actor: Actor) -> Alias:
    """Let `name` mean `deployment` for the organization's keys; one that is there points to it from now on."""
    _check(organization, name, deployment, actor)
    with change():
        # Held until the end: of two who add the last one that fits, one is refused.
        Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
        before = Alias.objects.filter(organization=organization, name=name).select_related("deployment__organization")
        old = next(iter(before), None)
        if old is None and organization.aliases.count() >= Alias.MOST:
            raise ServiceError(f"An organization has at most {Alias.MOST} aliases. Remove one first.", field="name")
        if not Deployment.objects.filter(pk=deployment.pk).exists():
            raise ServiceError("The deployment was deleted meanwhile.", code="conflict", field="deployment")
        by = actor if actor and actor.is_authenticated else None
        alias, _ = Alias.objects.update_or_create(
            organization=organization, name=name, defaults={"deployment": deployment, "created_by": by}
        )
        changes = {f"alias {name}": [old.deployment.api_id if old else None, deployment.api_id]}
        audit.record(actor=actor, action="update", thing=organization, organization_id=organization.pk, changes=changes)
    return alias


def remove_alias(organization: Organization, name: str, *, actor: Actor) -> None:
    """The name means nothing any more; one that isn't there is fine."""
    check_manager(organization, actor)
    with change():
        found = Alias.objects.filter(organization=organization, name=name).select_related("deployment__organization")
        old = next(iter(found), None)
        if old is None:
            return
        old.delete()
        changes = {f"alias {name}": [old.deployment.api_id, None]}
        audit.record(actor=actor, action="update", thing=organization, organization_id=organization.pk, changes=changes)


def check_manager(organization: Organization, actor: Actor) -> None:
    if not may_manage(actor, organization.pk):
        raise ForbiddenError("You may not change this organization.")


def _check(organization: Organization, name: str, deployment: Deployment, actor: Actor) -> None:
    check_manager(organization, actor)
    if not _NAME.fullmatch(name):
        message = (
            f"An alias has 1 to {Alias.LONGEST} letters, digits and . _ : / @ + -, a letter or digit first, as gpt-4o."
        )
        raise ServiceError(message, field="name")
    owner = name.partition("/")[0]
    if "/" in name and Organization.objects.filter(name=owner).exists():
        message = f"Names that begin with {owner}/ are those of {owner}'s deployments. Choose another alias."
        raise ServiceError(message, field="name")
    if not callable_deployments(organization).filter(pk=deployment.pk).exists():
        message = "The organization's keys may not call this deployment. Choose one of its own, or one shared with it."
        raise ServiceError(message, field="deployment")
