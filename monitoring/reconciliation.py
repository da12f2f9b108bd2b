"""Gateways' tokens beside the engines' own counters, by deployment and hour (UTC), and what may explain a difference."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import OperationalError, connection, transaction
from psycopg.errors import QueryCanceled

from monitoring.engine_tokens import TABLE as ENGINES
from monitoring.ledger import TABLE as LEDGER
from monitoring.models import DeploymentName
from monitoring.notable import TABLE as NOTABLE

# Why a request is told, in words.
WHY = {
    "cancelled": "the caller disconnected early",
    "failed": "it failed mid-request",
    "expired": "it expired",
    "crosses_hour": "it started in an earlier hour",
}
MOST_REQUESTS = 200
# Longer than this nobody's page waits, and no connection is held.
_WITHIN = "15s"


class TooMuchError(Exception):
    """So many minutes can't be added up while somebody waits; the message says what to do."""


@dataclass(frozen=True)
class Hour:
    """One deployment in one hour. Input is compared as the engine counts it: `cached` of the gateway's is left out where the
    engine leaves it out. The engine's are None where it tells nothing."""

    deployment_id: int
    name: str
    hour: datetime
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    estimated_tokens: int
    engine_input: int | None
    engine_output: int | None
    leaves_cached_out: bool
    crossing: int
    broken: int

    @property
    def compared_input(self) -> int:
        return self.input_tokens - (self.cached_tokens if self.leaves_cached_out else 0)

    @property
    def input_difference(self) -> int | None:
        return None if self.engine_input is None else self.compared_input - self.engine_input

    @property
    def output_difference(self) -> int | None:
        return None if self.engine_output is None else self.output_tokens - self.engine_output

    @property
    def agrees(self) -> bool:
        return not self.input_difference and not self.output_difference


def hours(deployment_ids: list[int] | None, first: datetime, end: datetime) -> list[Hour]:
    """Of the deployments, None for all, in [first, end), by name and hour. Raises TooMuchError."""
    mine = "TRUE" if deployment_ids is None else "deployment_id = ANY(%s)"
    given: list[Any] = [first, end, *([] if deployment_ids is None else [deployment_ids])]
    statement = f"""
        WITH booked AS (
            SELECT deployment_id, date_trunc('hour', minute) AS hour, sum(input_tokens) AS input, sum(output_tokens) AS output,
                sum(cached_tokens) AS cached, sum(estimated_tokens) AS estimated
            FROM {LEDGER} WHERE minute >= %s AND minute < %s AND {mine} GROUP BY 1, 2
        ), counted AS (
            SELECT deployment_id, hour, sum(input_tokens) AS input, sum(output_tokens) AS output, bool_or(leaves_cached_out) AS leaves
            FROM {ENGINES} WHERE hour >= %s AND hour < %s AND {mine} GROUP BY 1, 2
        ), told AS (
            SELECT deployment_id, date_trunc('hour', at) AS hour, count(*) FILTER (WHERE why = 'crosses_hour') AS crossing,
                count(*) FILTER (WHERE why <> 'crosses_hour') AS broken
            FROM {NOTABLE} WHERE at >= %s AND at < %s AND {mine} GROUP BY 1, 2
        )
        SELECT deployment_id, hour, coalesce(booked.input, 0)::bigint, coalesce(booked.output, 0)::bigint,
            coalesce(booked.cached, 0)::bigint, coalesce(booked.estimated, 0)::bigint, counted.input::bigint, counted.output::bigint,
            coalesce(counted.leaves, FALSE), coalesce(told.crossing, 0), coalesce(told.broken, 0)
        FROM booked FULL JOIN counted USING (deployment_id, hour) LEFT JOIN told USING (deployment_id, hour)
        WHERE coalesce(booked.input, 0) + coalesce(booked.output, 0) + coalesce(counted.input, 0) + coalesce(counted.output, 0) > 0
    """  # noqa: S608 (our own constants)
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = '{_WITHIN}'")
            cursor.execute(statement, given * 3)
            rows = cursor.fetchall()
    except OperationalError as error:
        if not isinstance(error.__cause__, QueryCanceled):
            raise
        raise TooMuchError("There is too much usage in this time to add up at once. Choose fewer days.") from None
    names = DeploymentName.objects.in_bulk({row[0] for row in rows})
    found = [
        Hour(row[0], names[row[0]].api_id if row[0] in names else f"deployment {row[0]}, deleted", *row[1:])
        for row in rows
    ]
    return sorted(found, key=lambda item: (item.name, item.hour))


@dataclass(frozen=True)
class Told:
    """A request that may explain a difference. `seconds` it took."""

    at: datetime
    request_id: str
    why: str
    input_tokens: int
    output_tokens: int
    seconds: float

    @property
    def words(self) -> str:
        return WHY.get(self.why, self.why)


def requests(deployment_id: int, first: datetime, end: datetime) -> list[Told]:
    """Of one deployment in [first, end), those with the most tokens first."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT at, request_id, why, input_tokens, output_tokens, seconds FROM {NOTABLE} "  # noqa: S608 (our own constant)
            "WHERE deployment_id = %s AND at >= %s AND at < %s ORDER BY input_tokens + output_tokens DESC, at LIMIT %s",
            [deployment_id, first, end, MOST_REQUESTS],
        )
        return [Told(*row) for row in cursor.fetchall()]
