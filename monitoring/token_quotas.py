"""Tokens that organizations may use in a month of their time zone: the ledger says how many they have, gateways refuse what follows.

What is served before the ledger has it, within about half a minute, is served beyond the quota.
"""

from collections.abc import Collection
from datetime import date, datetime

from django.db import transaction
from django.db.models import F, Sum

from accounts import time_zones
from deployments.models import DirectoryVersion, Quota
from monitoring.models import UsageDay


def used_this_month(organization_ids: Collection[int], now: datetime) -> dict[int, int]:
    """Tokens of prompts and answers by the organization that asked."""
    by_month: dict[date, list[int]] = {}
    for pk, zone in time_zones.of_organizations(organization_ids).items():
        by_month.setdefault(time_zones.month_of(now, zone), []).append(pk)
    found: dict[int, int] = {}
    for first, ids in by_month.items():
        found |= _used_since(first, ids)
    return found


def _used_since(first: date, organization_ids: Collection[int]) -> dict[int, int]:
    rows = UsageDay.objects.filter(organization_id__in=organization_ids, day__gte=first)
    sums = rows.values("organization_id").annotate(tokens=Sum(F("input_tokens") + F("output_tokens")))
    return {row["organization_id"]: row["tokens"] for row in sums}


def look(now: datetime) -> None:
    """Note whose tokens of this month are used up, and whose are not any more; gateways hear of a difference."""
    quotas = list(Quota.objects.filter(tokens__isnull=False, organization__isnull=False).select_related("organization"))
    used = used_this_month([quota.organization_id for quota in quotas if quota.organization_id], now)
    for quota in quotas:
        is_spent = used.get(quota.organization_id or 0, 0) >= (quota.tokens or 0)
        zone = quota.organization.time_zone if quota.organization else time_zones.UTC
        found = time_zones.month_of(now, zone) if is_spent else None
        if found == quota.tokens_spent_in:
            continue
        with transaction.atomic():
            # The bound may have been changed since: then the next look tells.
            if Quota.objects.filter(pk=quota.pk, tokens=quota.tokens).update(tokens_spent_in=found):
                DirectoryVersion.bump()
