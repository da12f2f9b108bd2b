"""What an actor may see of accounts, as querysets."""

from django.db.models import QuerySet

from accounts.models import AuditEntry
from accounts.permissions import Actor, is_operator, managed_organizations


def visible_audit_entries(actor: Actor) -> QuerySet[AuditEntry]:
    """All of them for operators; for admins what happened in their organizations."""
    if is_operator(actor):
        return AuditEntry.objects.all()
    return AuditEntry.objects.filter(organization__in=managed_organizations(actor))
