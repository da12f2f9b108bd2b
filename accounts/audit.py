"""Writes audit entries; called inside the transaction of the change itself."""

from typing import Any

from accounts.models import AuditEntry
from accounts.permissions import Actor

SYSTEM = "Slipway"


def record(
    *,
    actor: Actor,
    action: str,
    thing: Any,
    organization_id: int | None = None,
    changes: dict[str, list[Any]] | None = None,
) -> None:
    """Note that `actor` did `action` to `thing` (a model instance)."""
    AuditEntry.objects.create(
        actor=actor,
        actor_label=actor.username if actor else SYSTEM,
        organization_id=organization_id,
        action=action,
        object_type=thing._meta.model_name,
        object_id=str(thing.pk),
        object_label=str(thing)[:200],
        changes=changes or {},
    )
