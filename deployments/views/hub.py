"""Developer Hub: the models that the user may call, their deployments, and all that a caller wants to know of one."""

from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.db.models import Exists, OuterRef, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render

from accounts.permissions import visible_organizations
from common.numbers import whole
from deployments import samples
from deployments.clients import ANTHROPIC, CLIENTS, OPENAI, Client
from deployments.models import Deployment, Model, Version
from deployments.selectors import attach_current_versions, serving_version, usable_deployments, visible_deployments
from deployments.services.pricing import current_price, current_prices
from runtimes.engines.base import Example
from runtimes.engines.registry import engines

PAGE_SIZE = 50


@login_required
def models(request: HttpRequest) -> HttpResponse:
    """The models of which there is a deployment to call."""
    search = request.GET.get("search", "").strip().replace("\0", "")[:100]
    usable = usable_deployments(request.user)
    found = Model.objects.filter(deployments__in=usable).select_related("organization")
    if search:
        # Of deployments only those that the user may call: else others' names could be guessed letter by letter.
        named = Exists(usable.filter(model=OuterRef("pk"), name__icontains=search))
        found = found.filter(Q(name__icontains=search) | Q(description__icontains=search) | named)
    after = request.GET.get("after", "").replace("\0", "")
    if "~" in after:
        name, _, pk = after.rpartition("~")
        found = found.filter(Q(name__gt=name) | Q(name=name, pk__gt=whole(pk) or 0))
    rows = list(found.order_by("name", "pk").distinct()[: PAGE_SIZE + 1])
    shown = rows[:PAGE_SIZE]
    _attach_deployments(request, shown)
    context = {
        "rows": shown,
        "search": search,
        "next_after": f"{shown[-1].name}~{shown[-1].pk}" if len(rows) > PAGE_SIZE else "",
        "exists_any": bool(rows) or bool(search) or bool(after),
    }
    return render(request, "hub/models.html", context)


@login_required
def model(request: HttpRequest, pk: int) -> HttpResponse:
    """One model's deployments that the user may call."""
    usable = usable_deployments(request.user).filter(model=pk).select_related("organization", "endpoint", "model")
    rows = list(usable.order_by("name", "pk")[:PAGE_SIZE])
    if not rows:
        # What the user may not call isn't there for them.
        raise Http404
    attach_current_versions(rows)
    prices = current_prices(rows)
    for row in rows:
        row.price = prices.get(row.pk)
    return render(request, "hub/model.html", {"model": rows[0].model, "rows": rows})


@login_required
def deployment(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """Address, status, limits, price, samples, metadata and a playground."""
    found = get_usable(request, organization, name)
    examples = examples_of(found)
    context = _context(found) | {
        "price": current_price(found),
        "aliases": sorted(
            {item.name for item in found.aliases.filter(organization__in=visible_organizations(request.user))}
        ),
        "limits": list(found.rate_limits.all()),
        "samples": samples.samples(
            examples, gateway_url=settings.GATEWAY_URL, api_id=found.api_id, address=address_of(found)
        ),
        "clients": _clients(found) if samples.speaks_chat(examples) else [],
        "export": samples.EXPORT,
        "speaks_chat": samples.speaks_chat(examples),
        "in_console": visible_deployments(request.user).filter(pk=found.pk).exists(),
    }
    return render(request, "hub/deployment.html", context)


@login_required
def header(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """Name and status again, for refreshes."""
    return render(request, "hub/_header.html", _context(get_usable(request, organization, name)))


def get_usable(request: HttpRequest, organization: str, name: str) -> Deployment:
    """A deployment that the user may call, with `current_version` set, or 404."""
    usable = usable_deployments(request.user).select_related("organization", "model", "endpoint__cluster")
    found = get_object_or_404(usable, organization__name=organization, name=name)
    attach_current_versions([found])
    return found


def _clients(found: Deployment) -> list[tuple[Client, str]]:
    """Libraries that are tried against what its engine speaks, each with its settings for this deployment."""
    version: Version | None = found.current_version
    engine = engines().get(version.specification.engine) if version is not None else None
    apis = {OPENAI, ANTHROPIC} if engine is not None and engine.speaks_anthropic else {OPENAI}
    return [
        (client, client.text(gateway_url=settings.GATEWAY_URL, api_id=found.api_id))
        for client in CLIENTS
        if client.api in apis
    ]


def address_of(found: Deployment) -> str:
    return f"{settings.GATEWAY_URL}/{found.endpoint.name}/{found.name}"


def examples_of(found: Deployment) -> list[Example]:
    """What the engine of the version that tells the status answers."""
    version: Version | None = found.current_version
    engine = engines().get(version.specification.engine) if version is not None else None
    return list(engine.examples(version.specification)) if engine and version else []


def _context(found: Deployment) -> dict[str, Any]:
    version = found.current_version
    return {
        "deployment": found,
        "version": version,
        "address": f"{address_of(found)}/",
        "specification": version.specification if version else None,
        "serving": serving_version(found),
    }


def _attach_deployments(request: HttpRequest, rows: list[Model]) -> None:
    """Set `usable`, each one's deployments that the user may call, with their versions: two queries for all rows."""
    found = list(
        usable_deployments(request.user).filter(model__in=rows).select_related("organization").order_by("name")
    )
    attach_current_versions(found)
    for row in rows:
        row.usable = [item for item in found if item.model_id == row.pk]
