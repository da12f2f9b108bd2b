"""Pages of models, endpoints and clusters: list, one, new, edit, delete."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Count, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from accounts.permissions import managed_organizations, may_manage_clusters
from common.naming import name_error
from common.service_error import ServiceError
from deployments import cluster_health
from deployments.drivers import driver_of, places_of
from deployments.forms.catalog import ALLOWANCES, ClusterForm, EndpointForm, ModelForm
from deployments.models import Cluster, Endpoint, LeftBehind, Model, Stranger
from deployments.selectors import (
    attach_current_versions,
    manageable_endpoints,
    manageable_models,
    visible_clusters,
    visible_deployments,
    visible_endpoints,
    visible_models,
)
from deployments.services import catalog as services
from deployments.services.forget import forgettable, forgotten
from deployments.services.organization_namespaces import is_template
from deployments.services.strangers import told_by
from runtimes.driver import DriverError
from runtimes.kubernetes import access
from runtimes.kubernetes.driver import KubernetesDriver
from runtimes.kubernetes.places import TEMPLATE, Places


@dataclass(frozen=True)
class Noun:
    """What differs between the three kinds of pages."""

    key: str
    title: str
    plural: str
    intro: str
    model: type
    form: type
    visible: Callable[[Any], Any]
    manageable: Callable[[Any], Any]
    save: Callable[..., Any]
    deployments_of: str
    icon: str

    def may_create(self, actor: Any) -> bool:
        return may_manage_clusters(actor) if self.model is Cluster else managed_organizations(actor).exists()


NOUNS = {
    noun.key: noun
    for noun in (
        Noun("models", "Model", "Models", "What is deployed.", Model, ModelForm, visible_models, manageable_models, services.save_model, "model", "box"),
        Noun("endpoints", "Endpoint", "Endpoints", "Where models are exposed.", Endpoint, EndpointForm, visible_endpoints, manageable_endpoints, services.save_endpoint, "endpoint", "plug-connected"),
        Noun("clusters", "Cluster", "Clusters", "Where models run.", Cluster, ClusterForm, visible_clusters, visible_clusters, services.save_cluster, "endpoint__cluster", "server-2"),
    )
}  # fmt: skip
LIST_LIMIT = 500
SEEN = "seen"


@login_required
def index(request: HttpRequest, noun: str) -> HttpResponse:
    kind = _noun(request, noun)
    search = request.GET.get("search", "").strip()[:100]
    found = kind.visible(request.user)
    exists_any = found.exists()
    if search:
        found = found.filter(Q(name__icontains=search) | Q(description__icontains=search))
    count = Count("deployments" if kind.model is not Cluster else "endpoints__deployments", distinct=True)
    found = found.annotate(deployment_count=count)
    if kind.model is Cluster:
        found = found.annotate(stranger_count=Count("strangers", distinct=True))
    related = {Model: ("organization",), Endpoint: ("organization", "cluster"), Cluster: ()}[kind.model]
    rows = list(found.select_related(*related)[:LIST_LIMIT])
    if kind.model is Cluster:
        looks = cluster_health.last_looks([row.pk for row in rows])
        for row in rows:
            row.last_look = looks.get(row.pk)
    context = {
        "noun": kind,
        "rows": rows,
        "search": search,
        "exists_any": exists_any,
        "may_create": kind.may_create(request.user),
    }
    return render(request, "catalog/list.html", context)


@login_required
def detail(request: HttpRequest, noun: str, pk: int) -> HttpResponse:
    kind = _noun(request, noun)
    thing = get_object_or_404(kind.visible(request.user), pk=pk)
    deployments = list(
        visible_deployments(request.user)
        .filter(**{kind.deployments_of: thing})
        .select_related("organization", "model", "endpoint__cluster")
        .order_by("name")[:100]
    )
    attach_current_versions(deployments)
    context: dict[str, Any] = {
        "noun": kind,
        "thing": thing,
        "rows": deployments,
        "may_manage": _may_manage(kind, request, thing),
    }
    if isinstance(thing, Cluster):
        context |= _cluster_facts(thing) | {
            "allowed": [(label, thing.allowances.get(kind, [])) for kind, (label, _) in ALLOWANCES.items()],
            "strangers": _strangers(thing),
            "last_look": cluster_health.last_look(thing.pk),
        }
    if isinstance(thing, Cluster) and thing.unreachable_reason:
        context["forgotten"] = forgotten(thing)
    if not isinstance(thing, Model):
        context["is_forgettable"] = forgettable(thing if isinstance(thing, Cluster) else thing.cluster)
    return render(request, "catalog/detail.html", context)


@login_required
def create(request: HttpRequest, noun: str) -> HttpResponse:
    kind = _noun(request, noun)
    if not kind.may_create(request.user):
        raise Http404
    return _edit(request, kind, kind.model())


@login_required
def update(request: HttpRequest, noun: str, pk: int) -> HttpResponse:
    kind = _noun(request, noun)
    return _edit(request, kind, get_object_or_404(kind.manageable(request.user), pk=pk))


@login_required
@require_POST
def delete(request: HttpRequest, noun: str, pk: int) -> HttpResponse:
    kind = _noun(request, noun)
    thing = get_object_or_404(kind.manageable(request.user), pk=pk)
    try:
        services.delete(thing, actor=request.user)
    except ServiceError as error:
        messages.error(request, str(error))
        return redirect("deployments:catalog-detail", noun, pk)
    messages.success(request, f"{kind.title} {thing} is deleted.")
    return redirect("deployments:catalog", noun)


def _edit(request: HttpRequest, kind: Noun, thing: Any) -> HttpResponse:
    is_new = thing.pk is None
    label = "" if is_new else str(thing)
    data = request.POST if request.method == "POST" else None
    form = kind.form(data, instance=thing, actor=request.user)
    # Before the form has written into `thing`.
    state = "" if is_new else _state_of(form)
    if data is not None and data.get(SEEN, state) != state:
        form.add_error(
            None, "Someone else changed this while the page was open. Reload it, then make your change again."
        )
    elif data is not None and form.is_valid():
        thing = form.save(commit=False)
        extra: dict[str, Any] = dict(_secrets_of(form, is_new))
        if "organizations" in form.fields:
            extra["organizations"] = form.cleaned_data["organizations"]
        try:
            kind.save(thing, actor=request.user, **extra)
        except ServiceError as error:
            error.tell(form)
        else:
            messages.success(request, f"{kind.title} {thing} is saved.")
            return redirect("deployments:catalog-detail", kind.key, thing.pk)
    seen = data.get(SEEN, state) if data is not None else state
    context = {
        "noun": kind,
        "form": form,
        "seen": seen,
        "is_new": is_new,
        "label": label,
        "pk": None if is_new else thing.pk,
    }
    if "kubeconfig" in form.fields:
        shown = form["namespace"].value(), form["namespace_template"].value(), form["reach"].value()
        context |= recipe_of(*shown, is_new=is_new)
    return render(request, "catalog/edit.html", context, status=422 if data is not None else 200)


def _state_of(form: Any) -> str:
    """What the form's fields are now, so that a page that was opened before another change doesn't undo it."""
    values = {name: str(form.get_initial_for_field(field, name)) for name, field in form.fields.items()}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _cluster_facts(cluster: Cluster) -> dict[str, Any]:
    """Nodes and, for Kubernetes, what Slipway may do there; the reason instead where it can't be told."""
    facts: dict[str, Any] = {}
    try:
        driver = driver_of(cluster)
        is_pods = isinstance(driver, KubernetesDriver)
        facts["is_unverified"] = is_pods and not driver.is_verified
        checks = driver.check(proxied=cluster.is_proxied) if is_pods else []
        facts["checks"] = checks
        if any(check.is_optional and not check.is_granted for check in checks):
            facts["broad_rights"] = access.broad_rights(cluster.namespace)
        if all(check.is_granted or check.is_optional for check in checks):
            facts["nodes"] = driver.capacity()
        else:
            facts["recipe"] = access.recipe(places_of(cluster), proxied=cluster.is_proxied)
        return facts
    except DriverError as error:
        return facts | {"unreachable": str(error)}


def _strangers(cluster: Cluster) -> list[Stranger]:
    """With `left`, where a person had it forgotten, and `told`, what it says of itself."""
    found = list(cluster.strangers.all()[:LIST_LIMIT])
    left = {
        item.version_key: item for item in LeftBehind.objects.filter(version_key__in=[row.version_key for row in found])
    }
    for row in found:
        row.left = left.get(row.version_key)
        row.told = told_by(row)
    return found


def _secrets_of(form: Any, is_new: bool) -> dict[str, str | None]:
    """What the form holds that is stored encrypted; nothing typed keeps what there is."""
    names = [name for name in ("credential", "kubeconfig") if name in form.fields]
    return {name: form.cleaned_data[name] or ("" if is_new else None) for name in names}


def _may_manage(kind: Noun, request: HttpRequest, thing: Any) -> bool:
    return kind.manageable(request.user).filter(pk=thing.pk).exists()


def _noun(request: HttpRequest, key: str) -> Noun:
    """The kind of page; clusters don't exist for those who may not manage them."""
    kind = NOUNS[key]
    if kind.model is Cluster and not may_manage_clusters(request.user):
        raise Http404
    return kind


def recipe_of(namespace: str | None, template: str | None, reach: str | None, *, is_new: bool) -> dict[str, Any]:
    """What a cluster has to be given for what the form says. Nothing of it is repeated that would be no name there."""
    home = namespace if namespace and not name_error(namespace) else "slipway"
    template = template or ""
    if template and not is_template(template):
        template = TEMPLATE
    return {
        "recipe": access.recipe(Places(home, template), proxied=reach == Cluster.Reach.API_SERVER),
        "kubeconfig_script": access.kubeconfig_script(home),
        "broad_rights": access.broad_rights(home),
        "has_template": bool(template),
        "is_new": is_new,
    }
