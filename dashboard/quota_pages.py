"""Quotas of organizations and clusters: how full they are, on their pages, and the form by which operators set them."""

from collections.abc import Mapping
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone

from accounts.models import Organization
from accounts.permissions import is_operator, may_manage, may_manage_clusters, visible_organizations
from apikeys.selectors import active_keys
from async_inference.selectors import unfinished_of
from common.service_error import ServiceError
from deployments.forms.quota import QuotaForm
from deployments.models import Cluster
from deployments.services import quotas
from monitoring import token_quotas


@login_required
def of_organization(request: HttpRequest, name: str) -> HttpResponse:
    """A card for everybody in it, on pages that ask for it; the form for operators under ?edit or by POST."""
    organization = get_object_or_404(visible_organizations(request.user), name=name)
    back = reverse("organization", args=[organization.name])
    if not may_manage(request.user, organization.pk):
        back = reverse("monitoring:own-usage")
    counted = {
        "keys": active_keys(organization).count(),
        "async_requests": unfinished_of(organization.pk).count(),
        "tokens": token_quotas.used_this_month([organization.pk], timezone.now()).get(organization.pk, 0),
    }  # fmt: skip
    return _answer(request, organization, back, counted)


@login_required
def of_cluster(request: HttpRequest, pk: int) -> HttpResponse:
    if not may_manage_clusters(request.user):
        raise Http404
    cluster = get_object_or_404(Cluster, pk=pk)
    return _answer(request, cluster, reverse("deployments:catalog-detail", args=["clusters", pk]))


def _answer(
    request: HttpRequest, owner: Organization | Cluster, back: str, counted: Mapping[str, float] | None = None
) -> HttpResponse:
    found = quotas.bars(owner, counted)
    context: dict[str, Any] = {
        "owner": owner,
        "bars": found,
        "may_edit": is_operator(request.user),
        "url": request.path,
        "back": back,
        # On a page that isn't the owner's.
        "shows_owner": "named" in request.GET,
    }
    if request.method != "POST" and "edit" not in request.GET:
        if "HX-Request" not in request.headers:
            # The card alone is no page.
            return redirect(back)
        return render(request, "quota_card.html", context)
    if not is_operator(request.user):
        raise Http404
    form = QuotaForm(request.POST or None, quota=quotas.quota_of(owner), kinds=[bar.kind for bar in found])
    if request.method == "POST" and form.is_valid():
        try:
            quotas.set_quota(owner, form.cleaned_data, actor=request.user)
            messages.success(request, f"The quota of {owner} is saved.")
            return redirect(back)
        except ServiceError as error:
            error.tell(form)
    return render(request, "quota_edit.html", context | {"form": form}, status=422 if form.errors else 200)
