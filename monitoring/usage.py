"""Usage reports: what was used and what it cost, by whatever one asks, each currency apart. Days are UTC's."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection

from accounts.models import Organization, User
from accounts.permissions import Actor, is_operator, managed_organizations, visible_organizations
from monitoring.ledger import DAY_TABLE
from monitoring.models import OUTCOMES, DeploymentName

# What usage is told by, and the column of the ledger that decides it.
BY = {
    "deployment": "deployment_id", "model": "deployment_id", "label": "deployment_id",
    "organization": "organization_id", "user": "user_id", "key": "key_id", "day": "day",
}  # fmt: skip
LONGEST_DAYS = 366
CURVES = 8
OTHERS = "others"


@dataclass(frozen=True)
class Scope:
    """Whose usage may be told: all of it, one user's, or what concerns some organizations, as caller or as owner."""

    user_id: int | None = None
    organizations: frozenset[int] | None = None

    @classmethod
    def of_manager(cls, actor: Actor) -> "Scope":
        if is_operator(actor):
            return cls()
        return cls(organizations=frozenset(managed_organizations(actor).values_list("pk", flat=True)))

    @classmethod
    def of_user(cls, user: User) -> "Scope":
        return cls(user_id=user.pk)

    def condition(self) -> tuple[str, list[Any]]:
        if self.user_id is not None:
            return "user_id = %s", [self.user_id]
        if self.organizations is None:
            return "TRUE", []
        ids = sorted(self.organizations)
        owned = "deployment_id IN (SELECT deployment_id FROM monitoring_deploymentname WHERE organization_id = ANY(%s))"
        return f"(organization_id = ANY(%s) OR {owned})", [ids, ids]


@dataclass(frozen=True)
class Question:
    """Days from `first` to `last`, both included; `by` is one of BY, `label` the label's name when it is by label."""

    first: date
    last: date
    by: str = "deployment"
    label: str = ""

    @property
    def days(self) -> list[date]:
        return [self.first + timedelta(days=number) for number in range((self.last - self.first).days + 1)]


@dataclass
class Line:
    """What one deployment, user, day … used. `costs` by currency; without a price there is none."""

    name: str
    requests: int = 0
    refused: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    estimated_tokens: int = 0
    costs: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def add(self, row: dict[str, Any]) -> None:
        # Refused requests have cost nobody anything and would look like use.
        self.requests += sum(row[name] for name in OUTCOMES if name != "rejected")
        self.refused += row["rejected"]
        self.input_tokens += row["input_tokens"]
        self.output_tokens += row["output_tokens"]
        self.estimated_tokens += row["estimated_tokens"]
        if row["currency"]:
            self.costs[row["currency"]] += row["cost"]


@dataclass
class Report:
    """`lines` with the most tokens first, days in their order; `total` over all of them."""

    question: Question
    lines: list[Line]
    total: Line
    labels: list[str]

    @property
    def currencies(self) -> list[str]:
        return sorted(self.total.costs)


def report(scope: Scope, question: Question, reader: Actor) -> Report:
    """Everything in one table; `reader` decides which names are told."""
    rows = _sums(scope, question, BY[question.by])
    known = _deployments(rows) if BY[question.by] == "deployment_id" else {}
    name_of = _names(question, rows, known, reader)
    lines: dict[str, Line] = {}
    total = Line("")
    for row in rows:
        total.add(row)
        name = name_of(row)
        lines.setdefault(name, Line(name)).add(row)
    if question.by == "day":
        ordered = [lines.get(str(day), Line(str(day))) for day in question.days]
    else:
        ordered = sorted(lines.values(), key=lambda line: (-line.tokens, -line.requests, line.name))
    return Report(question, ordered, total, label_keys(scope))


def by_day(scope: Scope, question: Question, reader: Actor, measure: str) -> dict[str, list[float]]:
    """A curve of daily values for each of the greatest, and one for all others. `measure`: requests, tokens, a currency."""
    column = "deployment_id" if question.by == "day" else BY[question.by]
    rows = _sums(scope, question, column)
    known = _deployments(rows) if column == "deployment_id" else {}
    name_of = (lambda row: "all") if question.by == "day" else _names(question, rows, known, reader)
    lines: dict[str, Line] = {}
    for row in rows:
        lines.setdefault(name_of(row), Line("")).add(row)
    weights = {name: _measured(line, measure) for name, line in lines.items()}
    greatest = sorted((name for name in weights if weights[name]), key=lambda name: -weights[name])[:CURVES]
    place = {day: index for index, day in enumerate(question.days)}
    curves: dict[str, list[float]] = {name: [0.0] * len(place) for name in greatest}
    for row in _sums(scope, question, column, daily=True):
        name = name_of(row)
        if weights.get(name):
            curve = curves.setdefault(name if name in greatest else OTHERS, [0.0] * len(place))
            line = Line("")
            line.add(row)
            curve[place[row["day"]]] += _measured(line, measure)
    return curves


def label_keys(scope: Scope) -> list[str]:
    """The names of labels that deployments in the ledger have, for the choice."""
    found = DeploymentName.objects.exclude(labels={})
    if scope.organizations is not None:
        found = found.filter(organization_id__in=scope.organizations)
    return sorted({key for labels in found.values_list("labels", flat=True)[:1000] for key in labels})


def _measured(line: Line, measure: str) -> float:
    if measure == "requests":
        return float(line.requests)
    return float(line.tokens) if measure == "tokens" else float(line.costs.get(measure, 0))


def _sums(scope: Scope, question: Question, column: str, *, daily: bool = False) -> list[dict[str, Any]]:
    """One row per value of `column` and currency, with `daily` per day as well."""
    condition, values = scope.condition()
    columns = list(dict.fromkeys([column, "currency", *(["day"] if daily else [])]))
    label = ", max(key_label) AS key_label" if column == "key_id" else ""
    # Keys of nobody known are told apart by whose they would be.
    sums = ", ".join(
        f"sum({name})::bigint AS {name}" for name in (*OUTCOMES, "input_tokens", "output_tokens", "estimated_tokens")
    )
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(columns)}, {sums}, sum(cost) AS cost{label} FROM {DAY_TABLE} "  # noqa: S608 (our own constants)
            f"WHERE day BETWEEN %s AND %s AND {condition} GROUP BY {', '.join(columns)}",
            [question.first, question.last, *values],
        )
        names = [item.name for item in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _deployments(rows: list[dict[str, Any]]) -> dict[int, DeploymentName]:
    return DeploymentName.objects.in_bulk({row["deployment_id"] for row in rows})


def _names(question: Question, rows: list[dict[str, Any]], known: dict[int, DeploymentName], reader: Actor) -> Any:
    """What a row's subject is called: a function of the row."""
    if question.by == "day":
        return lambda row: str(row["day"])
    if BY[question.by] == "deployment_id":
        names = {pk: _of_deployment(question, item) for pk, item in known.items()}
        return lambda row: names.get(row["deployment_id"], f"deployment {row['deployment_id']}, deleted")
    if question.by == "organization":
        organizations = Organization.objects.in_bulk({row["organization_id"] for row in rows})
        return lambda row: _called(organizations, row["organization_id"], "organization")
    if question.by == "user":
        told = dict(_told_users(rows, reader))
        return lambda row: (
            told.get(row["user_id"]) or ("public" if not row["user_id"] else "a user of another organization")
        )
    return lambda row: f"{row['key_label'] or 'key'} (no. {row['key_id']})" if row["key_id"] else "without a key"


def _of_deployment(question: Question, item: DeploymentName) -> str:
    if question.by == "model":
        return item.model
    if question.by == "label":
        return item.labels.get(question.label, "") or f"without “{question.label}”"
    return item.api_id


def _called(known: dict[int, Organization], pk: int, kind: str) -> str:
    if not pk:
        return "public"
    return str(known[pk]) if pk in known else f"{kind} {pk}, deleted"


def _told_users(rows: list[dict[str, Any]], reader: Actor) -> Iterator[tuple[int, str]]:
    """Names of those whom the reader may know."""
    users = User.objects.filter(pk__in={row["user_id"] for row in rows})
    if not is_operator(reader):
        users = users.filter(memberships__organization__in=visible_organizations(reader)).distinct()
    for user in users:
        yield user.pk, str(user)
