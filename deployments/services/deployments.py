"""Writers of deployments."""

from django.db import IntegrityError, transaction

from accounts import audit
from accounts.permissions import Actor, may_manage
from common.broadcast import publish_on_commit
from common.naming import name_error
from common.service_error import ForbiddenError, ServiceError
from deployments.models import Deployment, Status, Version
from deployments.models.version import INACTIVE
from deployments.services import quotas
from deployments.services.change import change, refusal
from deployments.services.versions import create_version
from runtimes.specification import Specification


def create_deployment(
    deployment: Deployment, specification: Specification, replicas: int, *, actor: Actor
) -> Deployment:
    """Create the deployment with its first version, which starts at once. All or nothing."""
    if not may_manage(actor, deployment.organization_id):
        raise ForbiddenError("You may not deploy for this organization.", field="endpoint")
    problem = name_error(deployment.name)
    if problem:
        raise ServiceError(problem, field="name")
    if deployment.model.organization_id != deployment.organization_id:
        raise ServiceError(
            "The model and the endpoint belong to different organizations. Choose two of the same one.", field="model"
        )
    try:
        with transaction.atomic():
            quotas.check_deployment(deployment)
            deployment.created_by = actor
            deployment.save(force_insert=True)
            audit.record(actor=actor, action="create", thing=deployment, organization_id=deployment.organization_id)
            create_version(deployment, specification, replicas, actor=actor)
    except IntegrityError as error:
        raise refusal(error, "This organization or endpoint already has a deployment of this name.") from None
    return deployment


def update_deployment(
    deployment: Deployment,
    *,
    description: str | None = None,
    environment: str | None = None,
    starts_again: bool | None = None,
    actor: Actor,
) -> None:
    """Change what is given; the rest stays as it is, whoever has changed it meanwhile."""
    if not may_manage(actor, deployment.organization_id):
        raise ForbiddenError("You may not change this deployment.")
    given = {"description": description, "environment": environment, "starts_again": starts_again}
    wanted = {name: value for name, value in given.items() if value is not None}
    with change():
        before = Deployment.objects.select_for_update(no_key=True).filter(pk=deployment.pk).first()
        if before is None:
            raise ServiceError("The deployment was deleted meanwhile.", code="conflict")
        changes = {
            name: [getattr(before, name), value] for name, value in wanted.items() if getattr(before, name) != value
        }
        if not changes:
            return
        Deployment.objects.filter(pk=deployment.pk).update(**wanted)
        if starts_again is False:
            # What nobody retries has no place in quotas, and gets none by being retried again.
            Version.objects.filter(deployment=deployment.pk).update(start_again_at=None)
        audit.record(
            actor=actor, action="update", thing=deployment, organization_id=deployment.organization_id, changes=changes
        )
        publish_on_commit("deployment", deployment.pk)


def delete_deployment(deployment: Deployment, *, actor: Actor) -> None:
    """Delete it when all its versions are inactive."""
    if not may_manage(actor, deployment.organization_id):
        raise ForbiddenError("You may not delete this deployment.")
    with change():
        if Deployment.objects.select_for_update(no_key=True).filter(pk=deployment.pk).first() is None:
            raise ServiceError("The deployment was deleted meanwhile.", code="conflict")
        reason = deletion_refusal(deployment)
        if reason:
            raise ServiceError(reason, code="active")
        publish_on_commit("deployment", deployment.pk)
        audit.record(actor=actor, action="delete", thing=deployment, organization_id=deployment.organization_id)
        deployment.delete()


def deletion_refusal(deployment: Deployment) -> str | None:
    """Why the deployment can't be deleted now, with the remedy; None when it can."""
    active = Version.objects.filter(deployment=deployment).exclude(status__in=INACTIVE).first()
    if active is None:
        return None
    status = Status(active.status).label
    return f"Version {active.number} is {status}. Stop it and wait until it is Stopped, then delete the deployment."
