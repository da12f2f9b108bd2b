"""Sets how much may be asked of a deployment."""

from accounts import audit
from accounts.permissions import Actor, may_manage
from common.broadcast import publish_on_commit
from common.service_error import ForbiddenError, ServiceError
from deployments.models import Deployment, RateLimit
from deployments.services.change import change

# (requests a minute, tokens a minute); None: no limit.
Limits = dict[str, tuple[int | None, int | None]]


def limits_of(deployment: Deployment) -> Limits:
    """By level; those without any limit are left out."""
    return {
        item.level: (item.requests_per_minute, item.tokens_per_minute)
        for item in RateLimit.objects.filter(deployment=deployment)
    }


def set_limits(deployment: Deployment, limits: Limits, *, leave_cached_out: bool = False, actor: Actor) -> None:
    """Replace all limits, and whether cached input tokens leave them as they are; in force when the gateways have acknowledged it. What was used already stays used."""
    if not may_manage(actor, deployment.organization_id):
        raise ForbiddenError("You may not change this deployment.")
    wanted = {level: values for level, values in limits.items() if any(values)}
    for level, values in wanted.items():
        for name, value in zip(("requests", "tokens"), values, strict=True):
            if value is not None and not 1 <= value <= RateLimit.MOST:
                message = f"A limit is a whole number from 1 to {RateLimit.MOST:,}; leave it empty for none."
                raise ServiceError(message, field=f"{level}_{name}")
    with change():
        locked = Deployment.objects.select_for_update(no_key=True).filter(pk=deployment.pk).first()
        if locked is None:
            raise ServiceError("The deployment was deleted meanwhile.", code="conflict")
        before = limits_of(deployment)
        if before == wanted and locked.limits_leave_cached_out == leave_cached_out:
            return
        Deployment.objects.filter(pk=deployment.pk).update(limits_leave_cached_out=leave_cached_out)
        RateLimit.objects.filter(deployment=deployment).delete()
        RateLimit.objects.bulk_create(
            RateLimit(deployment=deployment, level=level, requests_per_minute=requests, tokens_per_minute=tokens)
            for level, (requests, tokens) in wanted.items()
        )
        changes = {
            f"{level}_{name}_per_minute": [
                before.get(level, (None, None))[index],
                wanted.get(level, (None, None))[index],
            ]
            for level in RateLimit.Level.values
            for index, name in enumerate(("requests", "tokens"))
        }
        changes["limits_leave_cached_out"] = [locked.limits_leave_cached_out, leave_cached_out]
        changes = {name: [old, new] for name, (old, new) in changes.items() if old != new}
        audit.record(
            actor=actor, action="update", thing=deployment, organization_id=deployment.organization_id, changes=changes
        )
        publish_on_commit("deployment", deployment.pk)
