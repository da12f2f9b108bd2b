"""The usage ledger: who used what, minute by minute and summed by the payer's days, at the price of each minute."""

from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from accounts import time_zones
from common.request_outcomes import ESTIMATED, OUTCOMES, TOKENS
from deployments.models import Deployment, Price
from deployments.selectors import current_versions
from monitoring.models import DeploymentName

TABLE = "monitoring_usage_minute"
DAY_TABLE = "monitoring_usage_day"
MILLION = Decimal(1_000_000)
_KEY = ("deployment_id", "organization_id", "user_id", "key_id", "source")
SUMS = (*OUTCOMES, *TOKENS, *ESTIMATED)
_SUMS = (*SUMS, "cost")
# Batches of the release before, which waited on disk while it was replaced, lack some.
_ABSENT = dict.fromkeys(SUMS, 0)


def add(cursor: Any, rows: list[dict[str, Any]]) -> None:
    """Add a batch's rows, `minute` in seconds since the epoch. Within the transaction that notes the batch."""
    if not rows:
        return
    note_names({row["deployment_id"] for row in rows})
    priced = _priced([_ABSENT | row for row in rows])
    minutes = [{**row, "minute": datetime.fromtimestamp(row["minute"], UTC)} for row in priced]
    _add(cursor, TABLE, (*_KEY, "minute"), ("key_label", "currency"), minutes)
    _add(cursor, DAY_TABLE, (*_KEY, "currency", "day"), ("key_label",), _by_day(priced, _zones(priced)))


def _zones(rows: list[dict[str, Any]]) -> dict[tuple[int, int], str]:
    """Whose days count, by deployment and organization: of those who pay, or of the deployment's owner where nobody does."""
    owners = dict(DeploymentName.objects.filter(pk__in={row["deployment_id"] for row in rows}).values_list("deployment_id", "organization_id"))  # fmt: skip
    known = time_zones.of_organizations({*owners.values(), *(row["organization_id"] for row in rows)})
    return {
        (row["deployment_id"], row["organization_id"]): known.get(
            row["organization_id"] or owners.get(row["deployment_id"], 0), time_zones.UTC
        )
        for row in rows
    }


def _add(cursor: Any, table: str, key: tuple[str, ...], notes: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    columns = (*key, *notes, *_SUMS)
    sums = ", ".join(f"{name} = {table}.{name} + EXCLUDED.{name}" for name in _SUMS)
    statement = (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))}) "  # noqa: S608 (our own constants)
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sums}"
    )
    # Always in the same order, so that two gateways that flush at once can't lock each other out.
    ordered = sorted(rows, key=lambda row: [row[name] for name in key])
    cursor.executemany(statement, [[row[name] for name in columns] for row in ordered])


def _by_day(rows: list[dict[str, Any]], zones: dict[tuple[int, int], str]) -> list[dict[str, Any]]:
    """One row per day, the label being the last one."""
    days: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        zone = zones[row["deployment_id"], row["organization_id"]]
        day = time_zones.day_of(datetime.fromtimestamp(row["minute"], UTC), zone)
        key = (*(row[name] for name in _KEY), row["currency"], day)
        found = days.get(key)
        if found is None:
            days[key] = {**row, "day": day}
            continue
        for name in _SUMS:
            found[name] += row[name]
    return list(days.values())


def _priced(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with `currency` and `cost`. A price begins with a full minute, so that each row has one."""
    prices: dict[int, list[Price]] = defaultdict(list)
    for price in Price.objects.filter(deployment_id__in={row["deployment_id"] for row in rows}):
        prices[price.deployment_id].append(price)
    priced = []
    for row in rows:
        at = datetime.fromtimestamp(row["minute"], UTC)
        # The latest first, as the model orders them.
        price = next((item for item in prices[row["deployment_id"]] if item.since <= at), None)
        cost = Decimal(0)
        if price is not None and price.currency:
            cost = _cost(row, price)
        priced.append({**row, "currency": price.currency if price else "", "cost": cost})
    return priced


def _cost(row: dict[str, Any], price: Price) -> Decimal:
    """What the tokens of a row cost. Those that the engine had cached cost as other input does where nothing else is set."""
    cached = min(row["cached_tokens"], row["input_tokens"]) if price.cached_price is not None else 0
    cost = (row["input_tokens"] - cached) * price.input_price + row["output_tokens"] * price.output_price
    return (cost + cached * (price.cached_price or 0)) / MILLION


def note_names(deployment_ids: set[int]) -> None:
    """Remember what they are called while they are there."""
    found = Deployment.objects.filter(pk__in=deployment_ids).select_related("organization", "model")
    versions = {item.deployment_id: item for item in current_versions().filter(deployment__in=deployment_ids)}
    names = [
        DeploymentName(
            deployment_id=item.pk,
            organization_id=item.organization_id,
            api_id=item.api_id,
            model_id=item.model_id,
            model=item.model.name,
            labels=versions[item.pk].specification.labels if item.pk in versions else {},
        )
        for item in sorted(found, key=lambda item: item.pk)
    ]
    DeploymentName.objects.bulk_create(
        names,
        update_conflicts=True,
        unique_fields=["deployment_id"],
        update_fields=["organization_id", "api_id", "model_id", "model", "labels"],
    )
