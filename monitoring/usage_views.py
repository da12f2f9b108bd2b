"""Pages of usage: everybody's for managers, the caller's own in the Developer Hub; as a table, a chart and CSV."""

import csv
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.dateparse import parse_date

from accounts.permissions import is_operator, may_administer
from accounts.time_zones import day_of
from common.request_outcomes import ESTIMATED, TOKENS
from deployments.selectors import bounded_organizations
from monitoring import usage
from monitoring.charts import stacked_days
from monitoring.numbers_json import numbers
from monitoring.usage import BY, Question, Report, Scope

DAYS_SHOWN = 30
ROWS_SHOWN = 500
BY_LABELS = {
    "deployment": "Deployment", "model": "Model", "organization": "Organization", "user": "User", "key": "API key",
    "label": "Label", "day": "Day",
}  # fmt: skip
OWN_BY = ("deployment", "model", "key", "organization", "day")


def _managed(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    @login_required
    def guarded(request: HttpRequest) -> HttpResponse:
        if not may_administer(request.user):
            raise Http404
        return view(request, Scope.of_manager(request.user), tuple(BY_LABELS), "usage")

    return guarded


def _own(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    @login_required
    def guarded(request: HttpRequest) -> HttpResponse:
        return view(request, Scope.of_user(request.user), OWN_BY, "own-usage")

    return guarded


def _page(request: HttpRequest, scope: Scope, offered: tuple[str, ...], name: str) -> HttpResponse:
    zones = usage.zones_of(request.user)
    question, problem = _question(request, offered, zones)
    found = usage.report(scope, question, request.user)
    measures = ["tokens", "requests", *found.currencies]
    query = {"since": question.first, "until": question.last, "by": question.by, "label": question.label}
    context = {
        "report": found,
        "lines": found.lines[:ROWS_SHOWN],
        "left_out": max(0, len(found.lines) - ROWS_SHOWN),
        "problem": problem,
        "question": question,
        "offered": [(key, BY_LABELS[key]) for key in offered],
        "by_label": BY_LABELS[question.by],
        "by_title": "By " + (BY_LABELS["key"] if question.by == "key" else question.by),
        "measures": measures,
        "measure": request.GET.get("measure")
        if request.GET.get("measure") in measures
        else measures[-1 if found.currencies else 0],
        "is_own": name == "own-usage",
        "days_in": _days_in(request, zones, is_own=name == "own-usage"),
        # Whose quota what is used here counts against.
        "bounded": bounded_organizations(request.user) if name == "own-usage" else [],
        "name": name,
        "query": urlencode({key: value for key, value in query.items() if value}),
    }
    return render(request, "monitoring/usage.html", context, status=422 if problem else 200)


def _chart(request: HttpRequest, scope: Scope, offered: tuple[str, ...], name: str) -> HttpResponse:
    question, _ = _question(request, offered, usage.zones_of(request.user))
    measure = request.GET.get("measure", "tokens")
    curves = usage.by_day(scope, question, request.user, measure)
    if not curves:
        chart: dict[str, Any] = {"absent": "Nothing was used in this time."}
    else:
        chart = {"figure": stacked_days(question.days, curves, measure, dark=request.GET.get("theme") == "dark")}
    return numbers({"now": datetime.now(UTC).isoformat(), "charts": {"usage": chart}})


def _csv(request: HttpRequest, scope: Scope, offered: tuple[str, ...], name: str) -> HttpResponse:
    """The whole table. One line per currency, so that no sum mixes two."""
    zones = usage.zones_of(request.user)
    question, problem = _question(request, offered, zones)
    if problem:
        return HttpResponse(problem, status=422, content_type="text/plain; charset=utf-8")
    found = usage.report(scope, question, request.user)
    answer = HttpResponse(content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = (
        f'attachment; filename="usage-{question.first}-{question.last}-by-{question.by}.csv"'
    )
    writer = csv.writer(answer)
    writer.writerow([question.by, "requests", "refused", *TOKENS, *ESTIMATED, *_cost_heads(found), "days_in"])
    days_in = _days_in(request, zones, is_own=name == "own-usage")
    for line in found.lines:
        costs = [f"{line.costs[currency]:f}" if currency in line.costs else "" for currency in found.currencies]
        numbers = [line.requests, line.refused, *(getattr(line, name) for name in (*TOKENS, *ESTIMATED))]
        writer.writerow([plain(line.name), *numbers, *costs, days_in])
    return answer


usage_page, usage_chart, usage_csv = _managed(_page), _managed(_chart), _managed(_csv)
own_usage_page, own_usage_chart, own_usage_csv = _own(_page), _own(_chart), _own(_csv)


def _cost_heads(found: Report) -> list[str]:
    return [f"cost_{currency}" for currency in found.currencies]


def plain(text: str) -> str:
    """No cell that a spreadsheet would take for a formula: names are chosen by others."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _days_in(request: HttpRequest, zones: list[str], *, is_own: bool) -> str:
    """Whose days they are, in words."""
    if len(zones) == 1:
        # An admin is told what others have used of the own deployments, too.
        return (
            zones[0] if is_own or is_operator(request.user) else f"{zones[0]}; calls by other organizations in theirs"
        )
    return f"each organization’s time zone: {', '.join(zones[:3])}{' …' if len(zones) > 3 else ''}"


def _question(request: HttpRequest, offered: tuple[str, ...], zones: list[str]) -> tuple[Question, str]:
    """What was asked, and what is wrong with it, if anything: then the usual days are shown."""
    # The latest that it is anywhere.
    now = datetime.now(UTC)
    today = max(day_of(now, zone) for zone in zones)
    first, last = _day(request.GET.get("since", "")), _day(request.GET.get("until", ""))
    problem = ""
    for text, found, label in ((request.GET.get("since"), first, "From"), (request.GET.get("until"), last, "To")):
        if text and found is None:
            problem = f"“{label}” is a day, as {today} is."
    last = last or today
    first = first or last - timedelta(days=DAYS_SHOWN - 1)
    if not problem and first > last:
        problem = "“From” lies behind “To”. Swap them."
    elif not problem and (last - first).days >= usage.LONGEST_DAYS:
        problem = f"At most {usage.LONGEST_DAYS} days can be told at once. Choose fewer."
    if problem:
        last, first = today, today - timedelta(days=DAYS_SHOWN - 1)
    by = request.GET.get("by", "")
    label = request.GET.get("label", "").replace("\0", "")[:100]
    return Question(first, last, by if by in offered and by in BY else offered[0], label), problem


def _day(text: str) -> date | None:
    try:
        found = parse_date(text)
    except ValueError:
        return None
    return found if found and 2000 <= found.year < 9999 else None
