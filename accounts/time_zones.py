"""The days of organizations: bills go by the calendar of those who pay them."""

from collections.abc import Iterable
from datetime import date, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from accounts.models import Organization

UTC = "UTC"


@lru_cache(maxsize=1)
def names() -> list[str]:
    """As people know them, by continent and city; not the old short ones."""
    return [
        UTC,
        *sorted(name for name in available_timezones() if "/" in name and not name.startswith(("Etc/", "SystemV/"))),
    ]


def zone(name: str) -> ZoneInfo:
    """UTC for a name that this machine doesn't know any more."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo(UTC)


def day_of(moment: datetime, name: str) -> date:
    return moment.astimezone(zone(name)).date()


def month_of(moment: datetime, name: str) -> date:
    """The first day of the month."""
    return day_of(moment, name).replace(day=1)


def of_organizations(ids: Iterable[int]) -> dict[int, str]:
    """By id; those that are gone are left out."""
    return dict(Organization.objects.filter(pk__in=set(ids)).values_list("pk", "time_zone"))
