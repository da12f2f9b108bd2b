"""Writes audit entries; called inside the transaction of the change itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from accounts.models import AuditEntry
from accounts.permissions import Actor

SYSTEM = "Slipway"
_source: ContextVar[str] = ContextVar("audit_source", default="")


@contextmanager
def called_from(source: str) -> Iterator[None]:
    """Note with all entries inside that the change was asked for from this address."""
    token = _source.set(source)
    try:
        yield
    finally:
        _source.reset(token)


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
        source=_source.get(),
    )
