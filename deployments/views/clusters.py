"""What operators decide on a cluster's page: who is in charge there, and what becomes of strangers."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from accounts.permissions import may_manage_clusters
from common.service_error import ServiceError
from deployments.models import Cluster, Stranger
from deployments.selectors import visible_clusters
from deployments.services import strangers as services
from deployments.views.catalog import recipe_of


@login_required
@require_GET
def recipe(request: HttpRequest) -> HttpResponse:
    """What a cluster has to be given, for what the form says now."""
    if not may_manage_clusters(request.user):
        raise Http404
    asked = (request.GET.get(name, "") for name in ("namespace", "namespace_template", "reach"))
    context = recipe_of(*asked, is_new="known" not in request.GET)
    return render(request, "catalog/partials/recipe.html", context)


@login_required
@require_POST
def take_charge(request: HttpRequest, pk: int) -> HttpResponse:
    cluster = _cluster(request, pk)
    services.take_charge(cluster, actor=request.user)
    messages.success(request, f"This Slipway is taking charge of {cluster}. It acts there within a few seconds.")
    return redirect("deployments:catalog-detail", "clusters", pk)


@login_required
@require_POST
def stranger(request: HttpRequest, pk: int, stranger_id: int, action: str) -> HttpResponse:
    found = get_object_or_404(Stranger, cluster=_cluster(request, pk), pk=stranger_id)
    try:
        if action == "adopt":
            version = services.adopt(found, actor=request.user)
            messages.success(
                request, f"{found.name} is now version {version.number} of {version.deployment.api_id}; it runs on."
            )
            deployment = version.deployment
            return redirect("deployments:detail", deployment.organization.name, deployment.name)
        else:
            services.remove(found, actor=request.user)
            messages.success(request, f"{found.name} is being removed.")
    except ServiceError as error:
        messages.error(request, str(error))
    return redirect("deployments:catalog-detail", "clusters", pk)


def _cluster(request: HttpRequest, pk: int) -> Cluster:
    return get_object_or_404(visible_clusters(request.user), pk=pk)
