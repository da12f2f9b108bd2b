"""The page and CSV that put gateways' tokens beside the engines' own counters."""

import csv
from datetime import UTC, datetime, timedelta

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.dateparse import parse_datetime

from accounts.permissions import is_operator, managed_organizations, may_administer
from common.numbers import whole
from monitoring.models import DeploymentName
from monitoring.reconciliation import Hour, TooMuchError, hours, requests
from monitoring.usage_views import plain

LONGEST = timedelta(days=31)
USUAL = timedelta(days=1)
ROWS_SHOWN = 500


@login_required
def page(request: HttpRequest) -> HttpResponse:
    """Hour by hour; with ?deployment=&hour= the requests of one that may explain its difference."""
    first, end, problem = _span(request)
    mine = _deployments(request)
    try:
        found = hours(mine, first, end)
    except TooMuchError as error:
        found, problem = [], str(error)
    shown = [row for row in found if not row.agrees] if "differing" in request.GET else found
    context = {
        "hours": shown[:ROWS_SHOWN],
        "differing": sum(not row.agrees for row in found),
        "left_out": max(0, len(shown) - ROWS_SHOWN),
        "total": len(found),
        "first": first,
        "last": end - timedelta(hours=1),
        "problem": problem,
        "only_differing": "differing" in request.GET,
    }
    deployment, hour = whole(request.GET.get("deployment", "")), parse_hour(request.GET.get("hour", ""))
    if deployment is not None and hour is not None:
        if mine is not None and deployment not in mine:
            raise Http404
        context |= {
            "chosen": next(iter(hours([deployment], hour, hour + timedelta(hours=1))), None),
            "requests": requests(deployment, hour, hour + timedelta(hours=1)),
        }
    return render(request, "monitoring/reconciliation.html", context, status=422 if problem else 200)


@login_required
def as_csv(request: HttpRequest) -> HttpResponse:
    first, end, problem = _span(request)
    if problem:
        return HttpResponse(problem, status=422, content_type="text/plain; charset=utf-8")
    try:
        found = hours(_deployments(request), first, end)
    except TooMuchError as error:
        return HttpResponse(str(error), status=422, content_type="text/plain; charset=utf-8")
    answer = HttpResponse(content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="tokens-{first:%Y-%m-%dT%H}-{end:%Y-%m-%dT%H}.csv"'
    writer = csv.writer(answer)
    writer.writerow(
        ["deployment", "hour_utc", "gateway_input", "gateway_cached_left_out", "engine_input", "input_difference",
         "gateway_output", "engine_output", "output_difference", "estimated_tokens", "kept_requests_over_the_hour", "kept_requests_broken_off"]
    )  # fmt: skip
    for row in found:
        writer.writerow([plain(row.name), row.hour.isoformat(), *_numbers(row)])
    return answer


def _numbers(row: Hour) -> list[int | str]:
    told = [
        row.input_tokens, row.input_tokens - row.compared_input, row.engine_input, row.input_difference,
        row.output_tokens, row.engine_output, row.output_difference, row.estimated_tokens, row.crossing, row.broken,
    ]  # fmt: skip
    return ["" if number is None else number for number in told]


def _deployments(request: HttpRequest) -> list[int] | None:
    """Those whose owner the user may manage; None for all, as for operators."""
    if not may_administer(request.user):
        raise Http404
    if is_operator(request.user):
        return None
    owners = managed_organizations(request.user).values("pk")
    return list(DeploymentName.objects.filter(organization_id__in=owners).values_list("deployment_id", flat=True))


def _span(request: HttpRequest) -> tuple[datetime, datetime, str]:
    """[first, end) in whole hours, UTC, and what is wrong with what was asked: then it is the last day."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    texts = request.GET.get("since", ""), request.GET.get("until", "")
    since, until = (parse_hour(text) for text in texts)
    end = until + timedelta(hours=1) if until else now
    first = since or end - USUAL
    problem = ""
    for text, read, label in ((texts[0], since, "From"), (texts[1], until, "To")):
        if text and read is None:
            problem = f"“{label}” is a day and an hour, as {now:%Y-%m-%dT%H:00}."
    if not problem and first >= end:
        problem = "“From” lies behind “To”. Swap them."
    elif not problem and end - first > LONGEST:
        problem = f"At most {LONGEST.days} days can be shown at once. Choose fewer."
    return (now - USUAL, now, problem) if problem else (first, end, "")


def parse_hour(text: str) -> datetime | None:
    try:
        found = parse_datetime(text)
    except ValueError:
        return None
    if found is None or not 2000 <= found.year < 9999:
        return None
    return found.replace(minute=0, second=0, microsecond=0, tzinfo=UTC)
