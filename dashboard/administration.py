"""The page of rare things: one click further, so that the menu stays short."""

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from accounts.permissions import is_operator, may_administer, may_manage_clusters
from dashboard.store_health import stores


@login_required
def administration(request: HttpRequest) -> HttpResponse:
    """What the user may manage beyond deployments, each with a sentence."""
    if not may_administer(request.user):
        raise Http404
    entries = [
        ("users", "Organizations", "Tenants, their members, and invitations.", reverse("organizations")),
        ("key", "All API keys", "Who may call with which key; revoke any.", reverse("apikeys:all")),
        ("chart-bar", "Usage", "Requests, tokens and costs, by whatever you ask.", reverse("monitoring:usage")),
        ("history", "Audit log", "Who changed what, when, and from where.", reverse("audit-log")),
    ]
    if may_manage_clusters(request.user):
        clusters = reverse("deployments:catalog", args=["clusters"])
        entries.insert(0, ("server-2", "Clusters", "Where models run, and whether they can be reached.", clusters))
    if is_operator(request.user):
        entries.append(("user", "Users", "Who may sign in, and who is an operator.", reverse("users")))
        about = "Their processes, what each has applied, and their books."
        entries.append(("arrows-split-2", "Gateways", about, reverse("monitoring:gateways")))
    context = {
        "entries": entries,
        "is_operator": is_operator(request.user),
        "address": request.META.get("REMOTE_ADDR") or "a Unix socket",
        "trusted_proxies": settings.TRUSTED_PROXIES,
        "stores": stores() if is_operator(request.user) else [],
    }
    return render(request, "administration.html", context)
