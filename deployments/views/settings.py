"""The deployment's settings: one card and one form for each thing that outlives its versions."""

from collections.abc import Callable

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.forms import Form
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST

from common.service_error import ServiceError
from deployments.forms.deployment import AccessForm, SettingsForm
from deployments.forms.limits import LimitsForm
from deployments.forms.pricing import PriceForm
from deployments.forms.scale import ScaleForm
from deployments.models import Deployment, Price
from deployments.services import deployments as deployment_services
from deployments.services import versions as version_services
from deployments.services.access import set_access
from deployments.services.forget import forgettable
from deployments.services.limits import set_limits
from deployments.services.pricing import current_price, set_price, withdraw_price
from deployments.views.access import get_managed_deployment, tab_context

PRICES_SHOWN = 20


@login_required
def settings(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    deployment = get_managed_deployment(request, organization, name)
    data = request.POST if request.method == "POST" else None
    form = SettingsForm(data, initial=_details(deployment))
    if data is not None and form.is_valid():
        try:
            deployment_services.update_deployment(deployment, **form.cleaned_data, actor=request.user)
            messages.success(request, "Saved.")
        except ServiceError as error:
            messages.error(request, str(error))
        return redirect("deployments:settings", organization, name)
    return _settings_page(request, deployment, form=form)


def _details(deployment: Deployment) -> dict[str, object]:
    return {name: getattr(deployment, name) for name in ("description", "environment", "starts_again")}


def _settings_page(request: HttpRequest, deployment: Deployment, **forms: Form) -> HttpResponse:
    """All cards; a form that was refused comes with what was typed and its errors."""
    price = current_price(deployment)
    shown = {
        "form": SettingsForm(initial=_details(deployment)),
        "access": AccessForm(deployment=deployment),
        "limits": LimitsForm(deployment=deployment),
        "pricing": PriceForm(price=price),
        "scaling": ScaleForm(version=deployment.current_version),
    } | forms
    refusal = deployment_services.deletion_refusal(deployment)
    refused = any(form.errors for form in forms.values())
    context = tab_context(
        deployment,
        "settings",
        **shown,
        deletion_refusal=refusal,
        is_forgettable=forgettable(deployment.endpoint.cluster),
        price=price,
        prices=list(deployment.prices.select_related("created_by")[:PRICES_SHOWN]),
        now=timezone.now(),
    )
    return render(request, "deployments/settings.html", context, status=422 if refused else 200)


@login_required
@require_POST
def access(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """Who may call it, and with whom it is shared."""
    deployment = get_managed_deployment(request, organization, name)
    form = AccessForm(request.POST, deployment=deployment)

    def save() -> str:
        values = form.cleaned_data
        set_access(deployment, values["access"], values["sharing"], values["shared_with"], actor=request.user)
        return "Saved. Gateways apply it within a second."

    return _save_card(request, deployment, "access", form, save)


@login_required
@require_POST
def limits(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """How much may be asked of it in a minute."""
    deployment = get_managed_deployment(request, organization, name)
    form = LimitsForm(request.POST, deployment=deployment)

    def save() -> str:
        set_limits(
            deployment,
            form.chosen(),
            leave_cached_out=form.cleaned_data["leave_cached_out"],
            actor=request.user,
        )
        return "Saved. Gateways apply it within a second."

    return _save_card(request, deployment, "limits", form, save)


@login_required
@require_POST
def pricing(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """What its tokens cost from a moment on."""
    deployment = get_managed_deployment(request, organization, name)
    form = PriceForm(request.POST)

    def save() -> str:
        values = form.cleaned_data
        price = set_price(deployment, values["currency"], *form.amounts(), actor=request.user, since=values["since"])
        return f"The price is in force from {price.since:%Y-%m-%d %H:%M} UTC on."

    return _save_card(request, deployment, "pricing", form, save)


def _save_card(
    request: HttpRequest, deployment: Deployment, card: str, form: Form, save: Callable[[], str]
) -> HttpResponse:
    """Save what a card's form holds; when it is refused, the page again with what was typed and the errors."""
    if form.is_valid():
        try:
            messages.success(request, save())
            return redirect("deployments:settings", deployment.organization.name, deployment.name)
        except ServiceError as error:
            error.tell(form)
    return _settings_page(request, deployment, **{card: form})


@login_required
@require_POST
def withdraw(request: HttpRequest, organization: str, name: str, pk: int) -> HttpResponse:
    """Take back a price that has not begun."""
    deployment = get_managed_deployment(request, organization, name)
    try:
        withdraw_price(get_object_or_404(Price, deployment=deployment, pk=pk), actor=request.user)
        messages.success(request, "The price is withdrawn.")
    except ServiceError as error:
        messages.error(request, str(error))
    return redirect("deployments:settings", organization, name)


@login_required
@require_POST
def scale(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    deployment = get_managed_deployment(request, organization, name)
    version = deployment.current_version
    form = ScaleForm(request.POST, version=version)

    def save() -> str:
        if version is None or version.is_inactive:
            raise ServiceError("No version runs. Start one first; its replicas can then be changed.")
        replicas = form.cleaned_data["replicas"]
        version.deployment = deployment
        version_services.scale_version(version, replicas, actor=request.user)
        return f"Version {version.number} goes to {replicas} replicas."

    return _save_card(request, deployment, "scaling", form, save)


@login_required
@require_POST
def delete(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    deployment = get_managed_deployment(request, organization, name)
    try:
        deployment_services.delete_deployment(deployment, actor=request.user)
    except ServiceError as error:
        messages.error(request, str(error))
        return redirect("deployments:settings", organization, name)
    messages.success(request, f"The deployment {organization}/{name} is deleted.")
    return redirect("deployments:list")
