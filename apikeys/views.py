"""Pages of keys: the user's own in the Developer Hub, those that a manager may revoke in the console."""

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from accounts.models import User
from accounts.permissions import may_administer
from apikeys import services
from apikeys.forms import KeyForm, RotateForm, ScopeForm
from apikeys.limit_use import CountersAwayError, Gauge, gauges, own_gauges
from apikeys.models import ApiKey
from apikeys.selectors import keys_for, openable_deployments, visible_keys
from common.numbers import whole
from common.service_error import ServiceError
from common.shown_once import shown_once
from deployments.models import Deployment, GatewayProcess
from deployments.selectors import gateway_processes, manageable_deployments, usable_deployments

PAGE_SIZE = 50


@login_required
def own_keys(request: HttpRequest) -> HttpResponse:
    """Developer Hub → API Keys."""
    keys = visible_keys(request.user).filter(user=request.user)
    return render(request, "apikeys/list.html", _page(request, keys) | {"is_own": True})


@login_required
def all_keys(request: HttpRequest) -> HttpResponse:
    """Everybody's keys: all of them for operators, those of their organizations for admins."""
    if not may_administer(request.user):
        raise Http404
    return render(request, "apikeys/list.html", _page(request, visible_keys(request.user)) | {"is_own": False})


@login_required
@shown_once(back="apikeys:own")
def new_key(request: HttpRequest) -> HttpResponse:
    """The form; a POST makes a key and shows its secret this once."""
    named = openable_deployments(request.user).filter(pk=whole(request.GET.get("deployment", ""))).first()
    initial = {"scope": ApiKey.Scope.DEPLOYMENTS, "deployments": [named.pk]} if named else {}
    form = KeyForm(request.POST or None, user=request.user, initial=initial)
    if request.method == "POST" and form.is_valid():
        try:
            key, secret = services.create_key(
                request.user,
                form.cleaned_data["organization"],
                form.cleaned_data["name"],
                deployments=form.chosen(),
                expires_at=form.expires_at(),
            )
        except ServiceError as error:
            error.tell(form)
        else:
            return render(request, "apikeys/secret.html", {"key": key, "secret": secret})
    return render(request, "apikeys/new.html", {"form": form}, status=422 if request.method == "POST" else 200)


@login_required
def key_detail(request: HttpRequest, pk: int) -> HttpResponse:
    """One key: what it opens, rotate, revoke."""
    key = _get_key(request, pk)
    initial = {"scope": key.scope, "deployments": [item.pk for item in key.deployments.all()]}
    is_mine = key.user_id == request.user.pk
    form = ScopeForm(request.POST or None, user=request.user, initial=initial) if is_mine else None
    if form is None and request.method == "POST":
        raise Http404
    if form is not None and request.method == "POST" and form.is_valid():
        try:
            services.change_scope(key, form.chosen(), actor=request.user)
            messages.success(request, f"{key.name} is changed.")
            return redirect("apikeys:key", pk)
        except ServiceError as error:
            error.tell(form)
    context = {"key": key, "form": form, "rotate": RotateForm(), "is_mine": is_mine}
    return render(request, "apikeys/key.html", context, status=422 if request.method == "POST" else 200)


@login_required
@require_POST
@shown_once(back="apikeys:own")
def rotate(request: HttpRequest, pk: int) -> HttpResponse:
    key = _get_key(request, pk)
    form = RotateForm(request.POST)
    try:
        if not form.is_valid():
            raise ServiceError("Choose when the old secret stops.")
        secret = services.rotate_key(key, form.duration(), actor=request.user)
    except ServiceError as error:
        messages.error(request, str(error))
        return redirect("apikeys:key", pk)
    return render(request, "apikeys/secret.html", {"key": _get_key(request, pk), "secret": secret})


@login_required
@require_POST
def revoke(request: HttpRequest, pk: int) -> HttpResponse:
    key = _get_key(request, pk)
    services.revoke_key(key, actor=request.user)
    messages.success(request, f"{key.name} is revoked.")
    return redirect("apikeys:key", pk)


@login_required
def deployment_keys(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """The keys that name a deployment, for its settings."""
    deployment = get_object_or_404(manageable_deployments(request.user), organization__name=organization, name=name)
    keys = list(keys_for(deployment)[: PAGE_SIZE + 1])
    context = {"deployment": deployment, "keys": keys[:PAGE_SIZE], "has_more": len(keys) > PAGE_SIZE}
    return render(request, "apikeys/_of_deployment.html", context)


@login_required
def limit_use(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """How much of a deployment's limits is used right now: everybody's for who manages it."""
    deployment = get_object_or_404(manageable_deployments(request.user), organization__name=organization, name=name)
    return _limit_use(request, deployment, gauges)


@login_required
def own_limit_use(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """The same of the caller's own limits, for the Developer Hub."""
    deployment = get_object_or_404(usable_deployments(request.user), organization__name=organization, name=name)
    return _limit_use(request, deployment, own_gauges)


def _limit_use(
    request: HttpRequest, deployment: Deployment, read: Callable[[Deployment, User], list[Gauge]]
) -> HttpResponse:
    living = list(GatewayProcess.living())
    context: dict[str, Any] = {
        "limited": deployment.rate_limits.exists(),
        "alone": sorted((item for item in living if item.alone_since), key=lambda item: item.alone_since),
        "living": len(living),
    }
    try:
        context["gauges"] = read(deployment, request.user)
    except CountersAwayError:
        context["is_away"] = True
    return render(request, "apikeys/_limit_use.html", context)


@login_required
def applied(request: HttpRequest) -> HttpResponse:
    """Which gateways route by the latest change, and after how long."""
    gateways = [item for item in gateway_processes() if item.is_reachable]
    return render(
        request, "apikeys/_applied.html", {"gateways": gateways, "behind": [g for g in gateways if not g.is_current]}
    )


def _page(request: HttpRequest, keys: Any) -> dict[str, Any]:
    search = request.GET.get("search", "").strip()[:100]
    if search:
        keys = keys.filter(
            Q(name__icontains=search) | Q(prefix__startswith=search[:10]) | Q(user__username__icontains=search)
        )
    before = whole(request.GET.get("before", ""))
    if before is not None:
        keys = keys.filter(pk__lt=before)
    rows = list(keys.order_by("-pk")[: PAGE_SIZE + 1])
    return {
        "rows": rows[:PAGE_SIZE],
        "next_before": rows[PAGE_SIZE - 1].pk if len(rows) > PAGE_SIZE else None,
        "search": search,
        "exists_any": bool(rows) or bool(search) or before is not None,
    }


def _get_key(request: HttpRequest, pk: int) -> ApiKey:
    return get_object_or_404(visible_keys(request.user), pk=pk)
