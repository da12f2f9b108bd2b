"""Writers of who may call a deployment."""

from collections.abc import Iterable

from accounts import audit
from accounts.models import Organization
from accounts.permissions import Actor, may_manage
from common.broadcast import publish_on_commit
from deployments.models import Deployment
from deployments.services.change import change
from deployments.services.errors import ForbiddenError, ServiceError


def set_access(deployment: Deployment, access: str, *, actor: Actor) -> None:
    """Public, or with a key only; in force as soon as the gateways have acknowledged it."""
    _change(deployment, {"access": access}, None, actor)


def set_sharing(deployment: Deployment, sharing: str, organizations: Iterable[Organization], *, actor: Actor) -> None:
    """With whom the deployment is shared. `organizations` counts with *specific* alone; the owner isn't one of them."""
    chosen = [item for item in organizations if item.pk != deployment.organization_id]
    if sharing == Deployment.Sharing.SPECIFIC and not chosen:
        raise ServiceError("Choose at least one other organization.", field="shared_with")
    _change(deployment, {"sharing": sharing}, chosen if sharing == Deployment.Sharing.SPECIFIC else [], actor)


def _change(
    deployment: Deployment, values: dict[str, str], shared_with: list[Organization] | None, actor: Actor
) -> None:
    if not may_manage(actor, deployment.organization_id):
        raise ForbiddenError("You may not change this deployment.")
    with change():
        before = Deployment.objects.select_for_update(no_key=True).filter(pk=deployment.pk).first()
        if before is None:
            raise ServiceError("The deployment was deleted meanwhile.", code="conflict")
        changes = {name: [getattr(before, name), value] for name, value in values.items()}
        if shared_with is not None:
            changes["shared_with"] = [_names(before.shared_with.all()), _names(shared_with)]
            before.shared_with.set(shared_with)
        Deployment.objects.filter(pk=deployment.pk).update(**values)
        changes = {name: [old, new] for name, (old, new) in changes.items() if old != new}
        if changes:
            audit.record(
                actor=actor, action="update", thing=before, organization_id=before.organization_id, changes=changes
            )
            publish_on_commit("deployment", deployment.pk)


def _names(organizations: Iterable[Organization]) -> list[str]:
    return sorted(item.name for item in organizations)
