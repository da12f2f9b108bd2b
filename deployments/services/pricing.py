"""Sets what a deployment's tokens cost from a moment on."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal

from django.utils import timezone
from iso4217 import Currency

from accounts import audit
from accounts.permissions import Actor, may_manage
from common.service_error import ForbiddenError, ServiceError
from deployments.models import Deployment, Price
from deployments.services.change import change

MINUTE = timedelta(minutes=1)
# Between the decision and the commit.
MARGIN = timedelta(seconds=5)
FURTHEST = timedelta(days=5 * 366)


def current_price(deployment: Deployment, at: datetime | None = None) -> Price | None:
    """The price in force; None when it has never had one."""
    return Price.objects.filter(deployment=deployment, since__lte=at or timezone.now()).first()


def current_prices(deployments: Iterable[Deployment]) -> dict[int, Price]:
    """The prices in force by deployment, with one query."""
    found = Price.objects.filter(deployment__in=deployments, since__lte=timezone.now())
    return {item.deployment_id: item for item in found.order_by("deployment_id", "-since").distinct("deployment_id")}


def set_price(
    deployment: Deployment,
    currency: str,
    input_price: Decimal,
    output_price: Decimal,
    cached_price: Decimal | None = None,
    *,
    actor: Actor,
    since: datetime | None = None,
) -> Price:
    """A price from `since` on, rounded up to a full minute; the next one when it is None.

    Without a `cached_price` cached input costs what other input does. One that begins at the same minute is replaced: it
    has not begun either. Past costs never change.
    """
    if not may_manage(actor, deployment.organization_id):
        raise ForbiddenError("You may not change this deployment.")
    if currency and not _is_currency(currency):
        raise ServiceError(f"“{currency[:20]}” is no currency of ISO 4217, as EUR or USD are.", field="currency")
    amounts = {"input_price": input_price, "output_price": output_price, "cached_price": cached_price}
    for name, amount in amounts.items():
        if amount is not None and not 0 <= amount <= Price.MOST:
            raise ServiceError(f"A price is at least 0 and at most {Price.MOST:,}.", field=name)
    if not currency and any(amounts.values()):
        raise ServiceError("Choose the currency of these amounts.", field="currency")
    with change():
        locked = _locked(deployment.pk)
        # Read behind the lock, however long it took: a minute that has begun may be booked already.
        now = timezone.now()
        if since is not None and since <= now:
            message = "This moment has passed; past costs stay as they are. Choose a later one."
            raise ServiceError(message, field="since")
        if since is not None and since > now + FURTHEST:
            raise ServiceError("This is more than five years ahead.", field="since")
        begins = _full_minute(max(since or now, now + MARGIN))
        before = current_price(locked, begins)
        price, _ = Price.objects.update_or_create(
            deployment=locked,
            since=begins,
            defaults={
                "currency": currency,
                **amounts,
                "created_by": actor if actor and actor.is_authenticated else None,
            },
        )
        changes = {"price": [str(before) if before else None, f"{price}, from {begins:%Y-%m-%d %H:%M} UTC"]}
        audit.record(
            actor=actor, action="update", thing=locked, organization_id=locked.organization_id, changes=changes
        )
    return price


def withdraw_price(price: Price, *, actor: Actor) -> None:
    """Take back a price that has not begun."""
    with change():
        deployment = _locked(price.deployment_id)
        if not may_manage(actor, deployment.organization_id):
            raise ForbiddenError("You may not change this deployment.")
        if not Price.objects.filter(pk=price.pk, since__gt=timezone.now() + MARGIN).delete()[0]:
            raise ServiceError("It has begun; costs refer to it. Set another price instead.", code="conflict")
        changes = {"price": [f"{price}, from {price.since:%Y-%m-%d %H:%M} UTC", None]}
        audit.record(
            actor=actor, action="update", thing=deployment, organization_id=deployment.organization_id, changes=changes
        )


def _locked(deployment_id: int) -> Deployment:
    locked = Deployment.objects.select_for_update(no_key=True).filter(pk=deployment_id).first()
    if locked is None:
        raise ServiceError("The deployment was deleted meanwhile.", code="conflict")
    return locked


def _full_minute(moment: datetime) -> datetime:
    whole = moment.replace(second=0, microsecond=0)
    return whole if whole == moment else whole + MINUTE


def _is_currency(code: str) -> bool:
    try:
        return Currency(code).exponent is not None
    except ValueError:
        return False
