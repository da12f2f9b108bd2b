"""The Monitoring tab, the panel's data, and rates for lists."""

import csv
import time
from datetime import datetime

from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

from accounts.permissions import is_operator
from common.numbers import whole
from deployments.models import Deployment, DirectoryVersion, Instance
from deployments.selectors import gateway_processes, visible_deployments
from deployments.views.access import get_deployment, tab_context
from monitoring import books, panel, queries
from monitoring.numbers_json import numbers
from monitoring.question import INTERVALS, RANGES, Question, UnclearQuestionError

MAX_RATES = 200
INSTANCES_OFFERED = 50
DEPLOYMENTS_OFFERED = 200
BOOKS_SHOWN = 200


@login_required
def monitoring(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    deployment = get_deployment(request, organization, name)
    try:
        question, problem = Question.from_query(request.GET), ""
        queries.check_subjects(deployment, question)
    except UnclearQuestionError as error:
        question, problem = Question(), str(error)
    others = visible_deployments(request.user).select_related("organization").order_by("organization__name", "name")
    environment = request.GET.get("environment", "")
    if environment in Deployment.Environment.values:
        # The one that is shown stays among them: the list would else name another one as chosen.
        others = others.filter(Q(environment=environment) | Q(pk=deployment.pk))
    context = tab_context(
        deployment,
        "monitoring",
        question=question,
        problem=problem,
        ranges=[(key, label) for key, (label, _) in RANGES.items()],
        intervals=[(key, key or "fitting") for key in INTERVALS],
        environments=Deployment.Environment.choices,
        environment=environment,
        others=others[:DEPLOYMENTS_OFFERED],
        versions=deployment.versions.all()[:INSTANCES_OFFERED],
        instances=_instances(deployment),
        charts=panel.CHARTS,
    )
    return render(request, "monitoring/monitoring.html", context, status=422 if problem else 200)


@login_required
def charts(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """The empty frames of the charts, for pages of other parts."""
    deployment = get_deployment(request, organization, name)
    context = {"deployment": deployment, "charts": panel.CHARTS, "columns": "col-md-6 col-xl-4"}
    return render(request, "monitoring/_charts.html", context)


@login_required
def panel_data(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """Figures for the chosen time; the page draws them and adds live points."""
    deployment = get_deployment(request, organization, name)
    try:
        question = Question.from_query(request.GET)
        queries.check_subjects(deployment, question)
    except UnclearQuestionError as error:
        return JsonResponse({"error": str(error)}, status=422)
    return numbers(panel.build(deployment, question, int(time.time())))


@login_required
def panel_csv(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """The charts' points as a table, or their bars where a width was chosen, in the chosen zone's time with its offset."""
    deployment = get_deployment(request, organization, name)
    try:
        question = Question.from_query(request.GET)
        queries.check_subjects(deployment, question)
    except UnclearQuestionError as error:
        return HttpResponse(str(error), status=422, content_type="text/plain; charset=utf-8")
    found = panel.load(deployment, question, int(time.time()))
    answer = HttpResponse(content_type="text/csv; charset=utf-8")
    day = datetime.fromtimestamp(found.window.start, found.window.zone)
    answer["Content-Disposition"] = f'attachment; filename="{name}-metrics-{day:%Y%m%d-%H%M}.csv"'
    writer = csv.writer(answer)
    head, rows = panel.table(found, by_bars=bool(question.interval))
    writer.writerow(["time", *head])
    for at, *cells in rows:
        writer.writerow([datetime.fromtimestamp(at, found.window.zone).isoformat(), *cells])
    return answer


@login_required
def rates(request: HttpRequest) -> JsonResponse:
    """Requests per minute of several deployments: `?ids=1,2,3`; those that the user may not see are left out."""
    asked = [pk for text in request.GET.get("ids", "").split(",")[:MAX_RATES] if (pk := whole(text)) is not None]
    visible = list(visible_deployments(request.user).filter(pk__in=asked).values_list("pk", flat=True))
    return JsonResponse({"rates": queries.request_rates(visible, int(time.time()))})


@login_required
def gateways(request: HttpRequest) -> HttpResponse:
    """The gateways' processes and their books: operators only."""
    return render(request, "monitoring/gateways.html", _gateways(request))


@login_required
def gateways_body(request: HttpRequest) -> HttpResponse:
    return render(request, "monitoring/_gateways.html", _gateways(request))


def _gateways(request: HttpRequest) -> dict[str, object]:
    if not is_operator(request.user):
        raise Http404
    lines = books.by_deployment(limit=BOOKS_SHOWN)
    return {
        "directory": DirectoryVersion.objects.get(pk=1),
        "gateways": gateway_processes(),
        "lines": [books.over_all(), *lines] if lines else [],
        "unbalanced": any(line.missing for line in lines),
    }


def _instances(deployment: Deployment) -> list[Instance]:
    return list(Instance.objects.filter(version__deployment=deployment)[:INSTANCES_OFFERED])
