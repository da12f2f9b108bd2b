"""New deployments and new versions: one form, whose engine part follows the engine and the model."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET

from accounts.permissions import managed_organizations
from common.naming import suggest_name
from common.numbers import whole
from common.service_error import ServiceError
from deployments.forms.deployment import DeploymentForm
from deployments.forms.key_values import format_bytes
from deployments.forms.specification import SpecificationForm
from deployments.models import Deployment, Model, Rollout, Version
from deployments.selectors import deployable_endpoints, manageable_endpoints, manageable_models
from deployments.services import deployments as deployment_services
from deployments.services import versions as version_services
from deployments.views.access import get_deployable, tab_context


@login_required
def new_deployment(request: HttpRequest) -> HttpResponse:
    if not managed_organizations(request.user).exists():
        raise Http404
    fixed_model = _fixed_model(request)
    data = request.POST if request.method == "POST" else None
    initial = {"name": suggest_name(fixed_model.name)} if fixed_model else {}
    form = DeploymentForm(data, actor=request.user, fixed_model=fixed_model, initial=initial)
    endpoint, model = form.chosen("endpoint"), fixed_model or form.chosen("model")
    missing = _missing(request, model, endpoint)
    if missing:
        return render(request, "deployments/new_missing.html", {"missing": missing})
    specification_form = SpecificationForm(data, driver=endpoint.cluster.driver, model=model, touched=_touched(request))
    if data is not None and form.is_valid() & specification_form.is_valid():
        deployment = _create(request, form, specification_form)
        if deployment is not None:
            return redirect("deployments:detail", deployment.organization.name, deployment.name)
    context = {
        "form": form,
        "specification_form": specification_form,
        "fixed_model": fixed_model,
        "fields_url": reverse("deployments:specification-fields"),
    }
    return render(request, "deployments/new.html", context, status=422 if data is not None else 200)


@login_required
@require_GET
def specification_fields(request: HttpRequest) -> HttpResponse:
    """The engine part of the form again, after the engine or the model was changed."""
    form = DeploymentForm(actor=request.user)
    endpoint, model = form.chosen("endpoint", request.GET), form.chosen("model", request.GET)
    if endpoint is None or model is None:
        raise Http404
    specification_form = SpecificationForm(
        driver=endpoint.cluster.driver, model=model, touched=_touched(request), draft=request.GET
    )
    return render(
        request, "deployments/partials/_specification_fields.html", {"specification_form": specification_form}
    )


@login_required
def new_version(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """A version that starts from an earlier one; `set_{field}` in the query fills in what mends an error."""
    deployment = get_deployable(request, organization, name)
    previous = _previous_version(request, deployment)
    data = request.POST if request.method == "POST" else None
    draft = request.POST or request.GET
    touched = _touched(request)
    form = SpecificationForm(
        data,
        driver=deployment.endpoint.cluster.driver,
        model=deployment.model,
        previous=previous,
        touched=touched,
        draft=draft,
    )
    if data is None:
        _fill_remedy(form, request)
    if data is not None and form.is_valid():
        try:
            version = version_services.create_version(
                deployment, form.specification(deployment.api_id), form.cleaned_data["replicas"], actor=request.user,
                strategy=request.POST.get("strategy") or Rollout.Strategy.REPLACE,
            )  # fmt: skip
        except ServiceError as error:
            error.tell(form)
        else:
            messages.success(request, f"Version {version.number} is starting.")
            return redirect("deployments:detail", organization, name)
    context = tab_context(
        deployment, "versions", specification_form=form, previous=previous, fields_url=request.path + "fields/"
    )
    return render(request, "deployments/new_version.html", context, status=422 if data is not None else 200)


@login_required
@require_GET
def version_fields(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    deployment = get_deployable(request, organization, name)
    form = SpecificationForm(
        driver=deployment.endpoint.cluster.driver, model=deployment.model, previous=_previous_version(request, deployment),
        touched=_touched(request), draft=request.GET,
    )  # fmt: skip
    return render(request, "deployments/partials/_specification_fields.html", {"specification_form": form})


def _create(request: HttpRequest, form: DeploymentForm, specification_form: SpecificationForm) -> Deployment | None:
    values = form.cleaned_data
    endpoint = values["endpoint"]
    deployment = Deployment(
        organization=endpoint.organization, model=values["model"], endpoint=endpoint, name=values["name"],
        description=values["description"], environment=values["environment"], access=values["access"],
    )  # fmt: skip
    specification = specification_form.specification(deployment.api_id)
    try:
        return deployment_services.create_deployment(
            deployment, specification, specification_form.cleaned_data["replicas"], actor=request.user
        )
    except ServiceError as error:
        error.tell(form, specification_form)
        return None


def _fixed_model(request: HttpRequest) -> Model | None:
    pk = whole(request.GET.get("model", ""))
    return get_object_or_404(manageable_models(request.user), pk=pk) if pk is not None else None


def _missing(request: HttpRequest, model: Any, endpoint: Any) -> list[str]:
    missing = []
    lost = manageable_endpoints(request.user).select_related("cluster").first() if endpoint is None else None
    if lost is not None and not deployable_endpoints(request.user).exists():
        return [f"access to the cluster {lost.cluster}, which an operator can allow"]
    if model is None and not manageable_models(request.user).exists():
        missing.append("model")
    if endpoint is None and not deployable_endpoints(request.user).exists():
        missing.append("endpoint")
    if not missing and endpoint is None:
        missing.append("endpoint of the model's organization")
    return missing


def _touched(request: HttpRequest) -> set[str]:
    source = request.POST or request.GET
    return {name for name in source.get("touched", "").split(",") if name}


def _previous_version(request: HttpRequest, deployment: Deployment) -> Version | None:
    number = whole((request.POST or request.GET).get("from", ""))
    versions = Version.objects.filter(deployment=deployment)
    found = versions.filter(number=number).first() if number is not None else None
    return found or deployment.current_version or versions.first()


def _fill_remedy(form: SpecificationForm, request: HttpRequest) -> None:
    for key, value in request.GET.items():
        name = key.removeprefix("set_")
        if key.startswith("set_") and name in form.fields:
            size = whole(value) if name == "memory" else None
            form.fields[name].initial = value if size is None else format_bytes(size)
