"""Writers of who may call a deployment."""

from collections.abc import Iterable

from accounts import audit
from accounts.models import Organization
from accounts.permissions import Actor, may_manage
from common.broadcast import publish_on_commit
from common.service_error import ForbiddenError, ServiceError
from deployments.models import Deployment
from deployments.services.change import change


def set_access(
    deployment: Deployment, access: str, sharing: str, organizations: Iterable[Organization] = (), *, actor: Actor
) -> None:
    """Public or with a key only, and with whom it is shared; in force when the gateways have acknowledged it.

    `organizations` counts with *specific* alone; the owner isn't one of them.
    """
    if not may_manage(actor, deployment.organization_id):
        raise ForbiddenError("You may not change this deployment.")
    shared_with = []
    if sharing == Deployment.Sharing.SPECIFIC:
        shared_with = [item for item in organizations if item.pk != deployment.organization_id]
        if not shared_with:
            raise ServiceError("Choose at least one other organization.", field="shared_with")
    with change():
        before = Deployment.objects.select_for_update(no_key=True).filter(pk=deployment.pk).first()
        if before is None:
            raise ServiceError("The deployment was deleted meanwhile.", code="conflict")
        changes = {
            "access": [before.access, access],
            "sharing": [before.sharing, sharing],
            "shared_with": [_names(before.shared_with.all()), _names(shared_with)],
        }
        changes = {name: [old, new] for name, (old, new) in changes.items() if old != new}
        if changes:
            Deployment.objects.filter(pk=deployment.pk).update(access=access, sharing=sharing)
            before.shared_with.set(shared_with)
            audit.record(
                actor=actor, action="update", thing=before, organization_id=before.organization_id, changes=changes
            )
            publish_on_commit("deployment", deployment.pk)


def _names(organizations: Iterable[Organization]) -> list[str]:
    return sorted(item.name for item in organizations)
