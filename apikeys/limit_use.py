"""Who uses how much of a deployment's limits right now, as the gateways' shared counters have it."""

from collections.abc import Iterable
from dataclasses import dataclass

import redis

from accounts.models import Organization, User
from accounts.permissions import visible_organizations
from apikeys.models import ApiKey
from common.limit_counters import MINUTE_US, key_of, read_member
from common.stores import valkey
from deployments.models import Deployment, RateLimit

SHOWN = 20
ATTENTION = 0.8


class CountersAwayError(Exception):
    """Valkey can't be asked; each gateway keeps to its share meanwhile."""


@dataclass(frozen=True)
class Gauge:
    """How much of one limit is used: what was taken and has not refilled yet."""

    level: str
    subject: int
    name: str
    unit: str
    used: int
    limit: int

    @property
    def needs_attention(self) -> bool:
        return self.used >= ATTENTION * self.limit


def gauges(deployment: Deployment, actor: User) -> list[Gauge]:
    """The fullest first. Users and keys of organizations that the actor doesn't see are not named."""
    found = _read(deployment)
    names = _names(found, actor)
    return [Gauge(*item[:2], names[item[:2]], *item[2:]) for item in found]


def own_gauges(deployment: Deployment, user: User) -> list[Gauge]:
    """Those of the user, their keys and organizations."""
    keys = set(ApiKey.objects.filter(user=user).values_list("pk", flat=True))
    own = {
        RateLimit.Level.ORGANIZATION: set(visible_organizations(user).values_list("pk", flat=True)),
        RateLimit.Level.USER: {user.pk},
        RateLimit.Level.KEY: keys,
    }
    found = [item for item in _read(deployment, most=1000) if item[1] in own.get(item[0], ())]
    names = _names(found, user)
    return [Gauge(*item[:2], names[item[:2]], *item[2:]) for item in found[:SHOWN]]


def _read(deployment: Deployment, most: int = SHOWN) -> list[tuple[str, int, str, int, int]]:
    """(level, subject, unit, used, limit), as far as these limits still exist."""
    limits = {
        (item.level, unit): getattr(item, f"{unit}_per_minute")
        for item in deployment.rate_limits.all()
        for unit in ("requests", "tokens")
    }
    try:
        rows = valkey().zrevrange(key_of(deployment.pk), 0, most - 1, withscores=True)
        seconds, microseconds = valkey().time()
    except (redis.RedisError, OSError) as error:
        raise CountersAwayError from error
    now = seconds * 1_000_000 + microseconds
    found = []
    for member, full_at in rows:
        level, subject, unit = read_member(member)
        limit = limits.get((level, unit))
        if limit and full_at > now:
            found.append((level, subject, unit, min(limit, round((full_at - now) / MINUTE_US * limit)), limit))
    return [item for item in found if item[3]]


def _names(found: Iterable[tuple[str, int, str, int, int]], actor: User) -> dict[tuple[str, int], str]:
    subjects: dict[str, set[int]] = {}
    for level, subject, *_ in found:
        subjects.setdefault(level, set()).add(subject)
    seen = visible_organizations(actor)
    names: dict[tuple[str, int], str] = {("public", 0): "all callers without a key"}
    for organization in Organization.objects.filter(pk__in=subjects.get("organization", ())):
        names["organization", organization.pk] = str(organization)
    known = set(User.objects.filter(memberships__organization__in=seen).values_list("pk", flat=True)) | {actor.pk}
    for user in User.objects.filter(pk__in=subjects.get("user", ())):
        names["user", user.pk] = (
            str(user) if user.pk in known or actor.is_operator else "a user of another organization"
        )
    visible = set(seen.values_list("pk", flat=True))
    for key in ApiKey.objects.filter(pk__in=subjects.get("key", ())).select_related("organization"):
        names["key", key.pk] = (
            f"{key.name} ({key.prefix}…)" if key.organization_id in visible else f"a key of {key.organization}"
        )
    for level, ids in subjects.items():
        for subject in ids:
            names.setdefault((level, subject), f"{level} {subject}, deleted")
    return names
