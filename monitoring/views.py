"""The Monitoring tab, the panel's data, and rates for lists."""

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone

from accounts.permissions import is_operator
from common.numbers import whole
from deployments.models import Deployment, DirectoryVersion, Instance
from deployments.selectors import gateway_processes, visible_deployments
from deployments.views.access import get_deployment, tab_context
from monitoring import books, panel, queries

MAX_RATES = 200
INSTANCES_OFFERED = 50
BOOKS_SHOWN = 200


@login_required
def monitoring(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    deployment = get_deployment(request, organization, name)
    question = panel.Question.from_query(request.GET)
    context = tab_context(
        deployment,
        "monitoring",
        question=question,
        ranges=[(key, label) for key, (label, _) in panel.RANGES.items()],
        intervals=[(key, key or "fitting") for key in panel.INTERVALS],
        versions=deployment.versions.all()[:INSTANCES_OFFERED],
        instances=_instances(deployment),
        charts=panel.CHARTS,
    )
    return render(request, "monitoring/monitoring.html", context)


@login_required
def charts(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """The empty frames of the charts, for pages of other parts."""
    deployment = get_deployment(request, organization, name)
    return render(
        request,
        "monitoring/_charts.html",
        {"deployment": deployment, "charts": panel.CHARTS, "columns": "col-md-6 col-xl-4"},
    )


@login_required
def panel_data(request: HttpRequest, organization: str, name: str) -> JsonResponse:
    """Figures for the chosen time; the page draws them and asks again."""
    deployment = get_deployment(request, organization, name)
    return JsonResponse(panel.build(deployment, panel.Question.from_query(request.GET), timezone.now()))


@login_required
def rates(request: HttpRequest) -> JsonResponse:
    """Requests per minute of several deployments: `?ids=1,2,3`; those that the user may not see are left out."""
    asked = [pk for text in request.GET.get("ids", "").split(",")[:MAX_RATES] if (pk := whole(text)) is not None]
    visible = list(visible_deployments(request.user).filter(pk__in=asked).values_list("pk", flat=True))
    return JsonResponse({"rates": queries.request_rates(visible, timezone.now())})


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
