"""The central list of deployments."""

from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from accounts.permissions import managed_organizations, visible_organizations
from common.numbers import whole
from deployments.models import Deployment, Status
from deployments.selectors import DeploymentFilter, attach_current_versions, filtered_deployments, visible_deployments

PAGE_SIZE = 50


@login_required
def deployment_list(request: HttpRequest) -> HttpResponse:
    context = _page(request)
    context |= {
        "statuses": Status.choices,
        "environments": Deployment.Environment.choices,
        "organizations": visible_organizations(request.user),
        "may_create": managed_organizations(request.user).exists(),
    }
    return render(request, "deployments/list.html", context)


@login_required
def deployment_rows(request: HttpRequest) -> HttpResponse:
    """The table alone, for refreshes."""
    return render(request, "deployments/partials/_table.html", _page(request))


def _page(request: HttpRequest) -> dict[str, object]:
    wanted = DeploymentFilter(
        search=request.GET.get("search", "").strip()[:100],
        status=request.GET.get("status", ""),
        environment=request.GET.get("environment", ""),
        organization=request.GET.get("organization", ""),
        model=request.GET.get("model", ""),
    )
    after = request.GET.get("after", "")
    found = filtered_deployments(request.user, wanted).order_by("name", "pk")
    if "~" in after:
        # Keyset: behind this name and key, however many rows lie before it.
        name, _, pk = after.rpartition("~")
        found = found.filter(Q(name__gt=name) | Q(name=name, pk__gt=whole(pk) or 0))
    rows = list(found[: PAGE_SIZE + 1])
    has_more = len(rows) > PAGE_SIZE
    rows = rows[:PAGE_SIZE]
    attach_current_versions(rows)
    query = request.GET.copy()
    query.pop("after", None)
    return {
        "rows": rows,
        "wanted": wanted,
        "next_after": f"{rows[-1].name}~{rows[-1].pk}" if has_more else "",
        "is_first_page": not after,
        "query": query.urlencode(),
        "exists_any": bool(rows) or visible_deployments(request.user).exists(),
    }
