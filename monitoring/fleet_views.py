"""The page of all deployments' health, worst first."""

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from common.numbers import whole
from deployments.models import Deployment
from monitoring import fleet

PAGE_SIZE = 50
RANKS = {
    fleet.BROKEN: ("in error", "danger"), fleet.DEGRADED: ("degraded", "warning"), fleet.STRAINED: ("strained", "yellow"),
    fleet.CHANGING: ("changing", "azure"), fleet.FINE: ("fine", "success"), fleet.OFF: ("stopped", "secondary"),
}  # fmt: skip


@login_required
def fleet_page(request: HttpRequest) -> HttpResponse:
    return render(request, "monitoring/fleet.html", _page(request))


@login_required
def fleet_rows(request: HttpRequest) -> HttpResponse:
    """The table alone, for refreshes."""
    return render(request, "monitoring/_fleet.html", _page(request))


def _page(request: HttpRequest) -> dict[str, object]:
    first = min(whole(request.GET.get("first", "")) or 0, 1_000_000)
    environment = request.GET.get("environment", "")
    if environment not in Deployment.Environment.values:
        environment = ""
    search = request.GET.get("search", "").replace("\0", "").strip()[:100]
    found = fleet.read(request.user, first=first, count=PAGE_SIZE, environment=environment, search=search)
    query = request.GET.copy()
    query.pop("first", None)
    return {
        "fleet": found,
        "ranks": [(label, colour, found.ranks.get(rank, 0)) for rank, (label, colour) in RANKS.items()],
        "environment": environment,
        "environments": Deployment.Environment.choices,
        "search": search,
        "is_filtered": bool(environment or search),
        "first": first,
        "last": first + len(found.lines),
        "next": first + PAGE_SIZE if first + PAGE_SIZE < found.total else None,
        "previous": max(0, first - PAGE_SIZE),
        "query": query.urlencode(),
    }
