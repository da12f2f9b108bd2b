"""The console's pages of one deployment's queue: for whoever may see it; what changes it for whoever may manage it."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from async_inference import pages, selectors, services
from async_inference.forms import QueueSettingsForm
from common.service_error import ServiceError
from deployments.views.access import get_deployment, get_managed_deployment, tab_context


@login_required
def queue(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """The tab: how much waits, a list to search, and the queue's settings."""
    deployment = get_deployment(request, organization, name)
    form = QueueSettingsForm(deployment=deployment) if deployment.may_manage else None
    found = pages.rows(request, selectors.requests_of(deployment))
    return render(request, "async_inference/queue.html", tab_context(deployment, "async", form=form, **found))


@login_required
def queue_rows(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """Counts and table alone, for refreshes."""
    deployment = get_deployment(request, organization, name)
    found = pages.rows(request, selectors.requests_of(deployment))
    return render(request, "async_inference/_queue.html", tab_context(deployment, "async", **found))


@login_required
def one(request: HttpRequest, organization: str, name: str, uid: str) -> HttpResponse:
    deployment = get_deployment(request, organization, name)
    item = pages.find(selectors.requests_of(deployment), uid)
    return render(request, "async_inference/one.html", tab_context(deployment, "async", **pages.detail(item, request)))


@login_required
def result(request: HttpRequest, organization: str, name: str, uid: str) -> HttpResponse:
    deployment = get_deployment(request, organization, name)
    return pages.result_file(pages.find(selectors.requests_of(deployment), uid), request)


@login_required
@require_POST
def act(request: HttpRequest, organization: str, name: str, uid: str, action: str) -> HttpResponse:
    deployment = get_deployment(request, organization, name)
    item = pages.find(selectors.requests_of(deployment), uid)
    try:
        item = pages.act(item, action, request)
        messages.success(request, pages.ACTIONS[action])
    except ServiceError as error:
        messages.error(request, str(error))
    return redirect("async:one", organization, name, item.uid.hex)


@login_required
@require_POST
def empty(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    deployment = get_managed_deployment(request, organization, name)
    count = services.cancel_waiting(deployment, actor=request.user)
    messages.success(request, f"{count:,} waiting request{'' if count == 1 else 's'} cancelled.")
    return redirect("async:queue", organization, name)


@login_required
@require_POST
def settings(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    deployment = get_managed_deployment(request, organization, name)
    form = QueueSettingsForm(request.POST, deployment=deployment)
    if form.is_valid():
        services.update_settings(deployment, actor=request.user, **form.cleaned_data)
        messages.success(request, "Saved. The dispatchers go by it within a second.")
        return redirect("async:queue", organization, name)
    found = pages.rows(request, selectors.requests_of(deployment))
    context = tab_context(deployment, "async", form=form, **found)
    return render(request, "async_inference/queue.html", context, status=422)
