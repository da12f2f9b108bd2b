"""What of the queue somebody may see, as querysets."""

import uuid
from typing import Any

from django.db.models import Exists, OuterRef, QuerySet

from accounts.models import User
from async_inference import states
from async_inference.models import AsyncRequest, AsyncResult
from deployments.models import Deployment

# Counting goes no further: nobody reads the difference.
MOST_COUNTED = 10_000


def requests_of(deployment: Deployment) -> QuerySet[AsyncRequest]:
    """For whoever may see the deployment."""
    return _shown().filter(deployment=deployment)


def unfinished_of(organization_id: int) -> QuerySet[AsyncRequest]:
    """What the organization's members and keys have queued and what of it runs, wherever that is."""
    return AsyncRequest.objects.filter(organization_id=organization_id, state__in=states.UNFINISHED)


def own_requests(user: User) -> QuerySet[AsyncRequest]:
    """All that the user sent, of deployments that are gone too."""
    return _shown().filter(user_id=user.pk)


def _shown() -> QuerySet[AsyncRequest]:
    has_result = Exists(AsyncResult.objects.filter(request=OuterRef("pk")))
    return AsyncRequest.objects.select_related("delivery").annotate(has_result=has_result).order_by("-pk")


def narrowed(requests: QuerySet[AsyncRequest], *, state: str = "", search: str = "") -> QuerySet[AsyncRequest]:
    """By a shown state, and by the beginning of an id."""
    if state in states.SHOWN:
        requests = requests.filter(state__in=states.stored(state))
    digits = search.replace("-", "").lower()
    if search:
        if len(digits) > 32 or not digits or any(digit not in "0123456789abcdef" for digit in digits):
            return requests.none()
        first, last = uuid.UUID(digits.ljust(32, "0")), uuid.UUID(digits.ljust(32, "f"))
        requests = requests.filter(uid__gte=first, uid__lte=last)
    return requests


def counts(requests: QuerySet[AsyncRequest]) -> dict[str, int]:
    """By shown state, at most MOST_COUNTED + 1 each."""
    plain = requests.order_by().values("pk")
    return {state: plain.filter(state__in=states.stored(state))[: MOST_COUNTED + 1].count() for state in states.SHOWN}


def waiting(deployment: Deployment, *, most: int | None = None) -> int:
    """How many have not been begun: told before what would make them wait in vain."""
    return AsyncRequest.objects.filter(deployment=deployment, state__in=states.WAITING).values("pk")[:most].count()


def attach_senders(rows: list[AsyncRequest]) -> None:
    """Set `sender` on each: the user's name, with one query."""
    names = dict(User.objects.filter(pk__in={row.user_id for row in rows}).values_list("pk", "username"))
    row: Any
    for row in rows:
        row.sender = names.get(row.user_id, "")
