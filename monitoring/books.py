"""The gateways' books as people read them: every admitted request has ended once or is in flight, and an alarm if not."""

import logging
from dataclasses import dataclass, field

from django.db.models import Sum

from common.request_outcomes import OUTCOMES
from deployments.models import Deployment
from monitoring.models import Books

log = logging.getLogger(__name__)
COUNTS = ("admitted", *OUTCOMES, "in_flight")


@dataclass
class Line:
    """One deployment's books over all gateways; `api_id` is empty for the sum, "deleted" for what is gone."""

    api_id: str
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))

    @property
    def columns(self) -> list[tuple[str, int]]:
        return [(name.replace("_", " ").capitalize(), self.counts[name]) for name in COUNTS]

    @property
    def missing(self) -> int:
        """Admitted requests of which nobody knows the end; below 0: ends without an admission. 0 when all is well."""
        ended = sum(self.counts[name] for name in OUTCOMES)
        return self.counts["admitted"] - ended - self.counts["in_flight"]


def over_all() -> Line:
    return Line("", {name: value or 0 for name, value in Books.objects.aggregate(**_sums()).items()})


def by_deployment(limit: int) -> list[Line]:
    """The lines that don't balance first, then the busiest."""
    rows = list(Books.objects.values("deployment_id").annotate(**_sums()))
    lines = [(row["deployment_id"], Line("", {name: row[name] for name in COUNTS})) for row in rows]
    lines.sort(key=lambda item: (item[1].missing == 0, -item[1].counts["admitted"]))
    lines = lines[:limit]
    names = {
        deployment.pk: deployment.api_id
        for deployment in Deployment.objects.filter(pk__in=[pk for pk, _ in lines]).select_related("organization")
    }
    for pk, line in lines:
        line.api_id = names.get(pk, "deleted")
    return [line for _, line in lines]


def in_flight(deployment_ids: list[int]) -> dict[int, int]:
    """By deployment the requests that all gateways are serving."""
    found = Books.objects.filter(deployment_id__in=deployment_ids).values_list("deployment_id")
    return {pk: max(0, number) for pk, number in found.annotate(number=Sum("in_flight"))}


def alarm_if_unbalanced() -> int:
    """Called by the sweep: says in the log what the page shows in red. The number of lines that don't balance."""
    wrong = [line for line in by_deployment(limit=100) if line.missing]
    for line in wrong:
        log.error(
            "the books of %s don't balance: %d requests are unaccounted for: %s", line.api_id, line.missing, line.counts
        )
    return len(wrong)


def _sums() -> dict[str, Sum]:
    return {name: Sum(name) for name in COUNTS}
