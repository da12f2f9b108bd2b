"""Removing what belongs to a cluster that doesn't answer: first what may be left there, then the deed."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse

from common.service_error import ServiceError
from deployments.models import Cluster
from deployments.selectors import manageable_endpoints, visible_clusters
from deployments.services import forget as services
from deployments.views.access import get_managed_deployment, get_version


@login_required
def deployment(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    thing = get_managed_deployment(request, organization, name)
    back = reverse("deployments:settings", args=[organization, name])
    return _page(
        request, thing, f"deployment {thing.api_id}", thing.endpoint.cluster, back, reverse("deployments:list")
    )


@login_required
def version(request: HttpRequest, organization: str, name: str, number: int) -> HttpResponse:
    found = get_managed_deployment(request, organization, name)
    thing = get_version(found, number)
    back = reverse("deployments:versions", args=[organization, name])
    return _page(request, thing, f"version {number} of {found.api_id}", found.endpoint.cluster, back, back)


@login_required
def catalog(request: HttpRequest, noun: str, pk: int) -> HttpResponse:
    things = visible_clusters(request.user) if noun == "clusters" else manageable_endpoints(request.user)
    thing = get_object_or_404(things, pk=pk)
    cluster = thing if isinstance(thing, Cluster) else thing.cluster
    label = f"cluster {thing}" if isinstance(thing, Cluster) else f"endpoint /{thing}"
    back = reverse("deployments:catalog-detail", args=[noun, pk])
    return _page(request, thing, label, cluster, back, reverse("deployments:catalog", args=[noun]))


def _page(request: HttpRequest, thing: Any, label: str, cluster: Cluster, back: str, done: str) -> HttpResponse:
    if request.method == "POST":
        try:
            services.forget(thing, actor=request.user)
        except ServiceError as error:
            messages.error(request, str(error))
            return redirect(back)
        messages.success(request, f"{label[0].upper()}{label[1:]} was forgotten.")
        return redirect(done)
    context = {
        "label": label,
        "cluster": cluster,
        "back": back,
        "left": services.may_be_left(thing),
        "deleted": services.is_deleted(thing),
        "is_allowed": services.forgettable(cluster),
    }
    return render(request, "deployments/forget.html", context)
