"""Usage reports: what was used and what it cost, by whatever one asks, each currency apart. Days are the payers' own."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection
from django.db.models import Count, Q

from accounts.models import Organization, User
from accounts.permissions import Actor, is_operator, managed_organizations, visible_organizations
from accounts.time_zones import UTC
from common.request_outcomes import ESTIMATED, OUTCOMES, TOKENS
from monitoring.ledger import DAY_TABLE, SUMS
from monitoring.models import DeploymentName

# What usage is told by, and the column of the ledger that decides it.
BY = {
    "deployment": "deployment_id", "model": "deployment_id", "label": "deployment_id",
    "organization": "organization_id", "user": "user_id", "key": "key_id", "day": "day",
}  # fmt: skip
LONGEST_DAYS = 366
CURVES = 8
OTHERS = "others"
FOREIGN = "users of other organizations"
# Of the ledger's sums by reason, in their order.
REASONS = ("the engine reported no usage", "the caller disconnected early", "the instance failed mid-request")
UNKNOWN_REASON = "recorded before reasons were kept"


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
    """What one deployment, user, day … used, each of TOKENS and ESTIMATED as the ledger sums them.

    `costs` by currency; without a price there is none.
    """

    name: str
    requests: int = 0
    refused: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    audio_tokens: int = 0
    search_units: int = 0
    estimated_tokens: int = 0
    estimated_untold: int = 0
    estimated_cancelled: int = 0
    estimated_failed: int = 0
    costs: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def estimated_share(self) -> float:
        """Of all tokens, in percent."""
        return 100 * self.estimated_tokens / self.tokens if self.tokens else 0.0

    @property
    def estimates(self) -> list[tuple[str, int]]:
        """Why tokens were estimated, in words, and how many; those from before reasons were kept last."""
        by_reason = [getattr(self, name) for name in ESTIMATED[1:]]
        found = [*zip(REASONS, by_reason, strict=True), (UNKNOWN_REASON, self.estimated_tokens - sum(by_reason))]
        return [(words, amount) for words, amount in found if amount > 0]

    def add(self, row: dict[str, Any]) -> None:
        # Refused requests have cost nobody anything and would look like use.
        self.requests += sum(row[name] for name in OUTCOMES if name != "rejected")
        self.refused += row["rejected"]
        for name in (*TOKENS, *ESTIMATED):
            setattr(self, name, getattr(self, name) + row[name])
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


def zones_of(reader: Actor) -> list[str]:
    """Whose days the reader is told of: the time zones of the organizations that the reader may see, the usual one first."""
    rows = visible_organizations(reader).order_by().values("time_zone").annotate(number=Count("pk"))
    return [row["time_zone"] for row in sorted(rows, key=lambda row: (-row["number"], row["time_zone"]))] or [UTC]


def report(scope: Scope, question: Question, reader: Actor) -> Report:
    """Everything in one table; `reader` decides which names are told."""
    rows = _sums(scope, question, BY[question.by])
    subjects = Subjects(question, rows, reader)
    lines: dict[Hashable, Line] = {}
    total = Line("")
    for row in rows:
        total.add(row)
        subject = subjects.of(row)
        lines.setdefault(subject, Line(subjects.name(subject))).add(row)
    if question.by == "day":
        ordered = [lines.get(day, Line(str(day))) for day in question.days]
    else:
        ordered = sorted(lines.values(), key=lambda line: (-line.tokens, -line.requests, line.name))
    return Report(question, ordered, total, label_keys(scope))


def by_day(scope: Scope, question: Question, reader: Actor, measure: str) -> dict[str, list[float]]:
    """A curve of daily values for each of the greatest, and one for all others. `measure`: requests, tokens, a currency."""
    column = "deployment_id" if question.by == "day" else BY[question.by]
    rows = _sums(scope, question, column)
    subjects = Subjects(question, rows, reader)
    lines: dict[Hashable, Line] = {}
    for row in rows:
        lines.setdefault(_drawn(subjects, question, row), Line("")).add(row)
    weights = {subject: _measured(line, measure) for subject, line in lines.items()}
    greatest = sorted((item for item in weights if weights[item]), key=lambda item: -weights[item])[:CURVES]
    names = {subject: "all" if question.by == "day" else subjects.name(subject) for subject in greatest}
    place = {day: index for index, day in enumerate(question.days)}
    curves: dict[str, list[float]] = {names[subject]: [0.0] * len(place) for subject in greatest}
    for row in _sums(scope, question, column, daily=True):
        subject = _drawn(subjects, question, row)
        if weights.get(subject):
            curve = curves.setdefault(names.get(subject, OTHERS), [0.0] * len(place))
            line = Line("")
            line.add(row)
            curve[place[row["day"]]] += _measured(line, measure)
    return curves


def _drawn(subjects: "Subjects", question: Question, row: dict[str, Any]) -> Hashable:
    return "all" if question.by == "day" else subjects.of(row)


def label_keys(scope: Scope) -> list[str]:
    """The names of labels that deployments in the ledger have, for the choice. Not told to who only calls."""
    if scope.user_id is not None:
        return []
    owned = "TRUE" if scope.organizations is None else "organization_id = ANY(%s)"
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT DISTINCT jsonb_object_keys(labels) AS key FROM monitoring_deploymentname WHERE {owned} ORDER BY 1",  # noqa: S608 (our own constants)
            [] if scope.organizations is None else [sorted(scope.organizations)],
        )
        return [row[0] for row in cursor.fetchall()]


def _measured(line: Line, measure: str) -> float:
    if measure == "requests":
        return float(line.requests)
    return float(line.tokens) if measure == "tokens" else float(line.costs.get(measure, 0))


def _sums(scope: Scope, question: Question, column: str, *, daily: bool = False) -> list[dict[str, Any]]:
    """One row per value of `column` and currency, with `daily` per day as well."""
    condition, values = scope.condition()
    columns = list(dict.fromkeys([column, "currency", *(["day"] if daily else [])]))
    # A key has one organization; its name may have changed.
    more = ", max(key_label) AS key_label, max(organization_id) AS organization_id" if column == "key_id" else ""
    sums = ", ".join(f"sum({name})::bigint AS {name}" for name in SUMS)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {', '.join(columns)}, {sums}, sum(cost) AS cost{more} FROM {DAY_TABLE} "  # noqa: S608 (our own constants)
            f"WHERE day BETWEEN %s AND %s AND {condition} GROUP BY {', '.join(columns)}",
            [question.first, question.last, *values],
        )
        names = [item.name for item in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


class Subjects:
    """What rows are about, told apart by key and not by name: two that are called the same stay two.

    Only what its reader may not tell apart is one: users of organizations that the reader does not see.
    """

    def __init__(self, question: Question, rows: list[dict[str, Any]], reader: Actor) -> None:
        self._question = question
        self._names: dict[Hashable, str] = {}
        self._deployments: dict[int, DeploymentName] = {}
        if BY[question.by] == "deployment_id":
            self._deployments = DeploymentName.objects.in_bulk({row["deployment_id"] for row in rows})
        self._users = _told_users(rows, reader) if question.by == "user" else {}
        if question.by == "day":
            return
        named: dict[Hashable, str] = {}
        for subject, name in self._all_names(rows, reader):
            named.setdefault(subject, name)
        taken = Counter([OTHERS, *named.values()])
        for subject, name in named.items():
            number = subject[1] if isinstance(subject, tuple) else 0
            self._names[subject] = f"{name} (no. {number})" if taken[name] > 1 and number else name

    def of(self, row: dict[str, Any]) -> Hashable:
        """A (kind, key), or a text for what is one whatever it was made of."""
        by = self._question.by
        if by == "day":
            return row["day"]
        if by == "user" and row["user_id"] and row["user_id"] not in self._users:
            return FOREIGN
        if BY[by] != "deployment_id" or by == "deployment":
            return by, row[BY[by]]
        known = self._deployments.get(row["deployment_id"])
        if by == "model":
            return by, known.model_id if known else 0
        return (known.labels.get(self._question.label) if known else None) or f"without “{self._question.label}”"

    def name(self, subject: Hashable) -> str:
        return self._names.get(subject, str(subject))

    def _all_names(self, rows: list[dict[str, Any]], reader: Actor) -> Iterator[tuple[Hashable, str]]:
        by = self._question.by
        organizations: dict[int, Organization] = {}
        visible: set[int] = set()
        if by in ("organization", "key"):
            organizations = Organization.objects.in_bulk({row["organization_id"] for row in rows})
            visible = set(visible_organizations(reader).values_list("pk", flat=True))
        # The names that keys have now, or had last.
        for row in sorted(rows, key=lambda row: row.get("key_label") or "", reverse=True):
            subject = self.of(row)
            if by == "label" or subject == FOREIGN:
                yield subject, str(subject)
            elif by == "deployment":
                known = self._deployments.get(row["deployment_id"])
                yield subject, known.api_id if known else f"deployment {row['deployment_id']}, deleted"
            elif by == "model":
                known = self._deployments.get(row["deployment_id"])
                yield subject, known.model if known else "models that are gone"
            elif by == "user":
                yield subject, self._users.get(row["user_id"], "public")
            elif by == "organization":
                yield subject, _called(organizations, row["organization_id"])
            elif not row["key_id"]:
                yield subject, "without a key"
            elif is_operator(reader) or row["organization_id"] in visible:
                yield subject, f"{row['key_label'] or 'key'} (no. {row['key_id']})"
            else:
                yield subject, f"a key of {_called(organizations, row['organization_id'])} (no. {row['key_id']})"


def _called(known: dict[int, Organization], pk: int) -> str:
    if not pk:
        return "public"
    return str(known[pk]) if pk in known else f"organization {pk}, deleted"


def _told_users(rows: list[dict[str, Any]], reader: Actor) -> dict[int, str]:
    """Names of those whom the reader may know."""
    users = User.objects.filter(pk__in={row["user_id"] for row in rows})
    if not is_operator(reader):
        mine = Q(memberships__organization__in=visible_organizations(reader)) | Q(pk=reader.pk)
        users = users.filter(mine).distinct()
    return {user.pk: str(user) for user in users}
