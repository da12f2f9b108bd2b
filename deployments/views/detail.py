"""The deployment's page: overview, versions, and what their buttons do."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Avg, F
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST

from common.service_error import ServiceError
from deployments import disturbances
from deployments.models import Cluster, Deployment, DesiredState, Rollout, Status, Version
from deployments.services import versions as version_services
from deployments.services.forget import forgettable
from deployments.views.access import get_deployment, get_managed_deployment, get_version, tab_context

STEP_LABELS = {
    Cluster.Driver.LOCAL: {
        "scheduled": "Scheduled",
        "process_started": "Process started",
        "listening": "Listening",
        "ready": "Ready",
    },
    Cluster.Driver.KUBERNETES: {
        "scheduled": "Scheduled",
        "model_fetched": "Model fetched",
        "image_pulled": "Image pulled",
        "started": "Started",
        "ready": "Ready",
    },
}
# Only where the model's files are fetched before the engine starts.
SOMETIMES = ("model_fetched",)
EVENTS_SHOWN = 50


@login_required
def overview(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    deployment = get_deployment(request, organization, name)
    return render(request, "deployments/overview.html", tab_context(deployment, "overview", **_overview(deployment)))


@login_required
def overview_body(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    """Status, steps, instances and events again, whenever something changed."""
    deployment = get_deployment(request, organization, name)
    return render(
        request, "deployments/partials/_overview.html", tab_context(deployment, "overview", **_overview(deployment))
    )


@login_required
def header(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    deployment = get_deployment(request, organization, name)
    return render(request, "deployments/partials/_header.html", tab_context(deployment, request.GET.get("tab", "")))


@login_required
def versions(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    deployment = get_deployment(request, organization, name)
    return render(
        request, "deployments/versions.html", tab_context(deployment, "versions", **_versions_context(deployment))
    )


@login_required
def versions_body(request: HttpRequest, organization: str, name: str) -> HttpResponse:
    deployment = get_deployment(request, organization, name)
    return render(
        request,
        "deployments/partials/_versions.html",
        tab_context(deployment, "versions", **_versions_context(deployment)),
    )


@login_required
@require_POST
def version_action(request: HttpRequest, organization: str, name: str, number: int, action: str) -> HttpResponse:
    deployment = get_managed_deployment(request, organization, name)
    version = get_version(deployment, number)
    actions: dict[str, tuple[Callable[..., Any], str]] = {
        "start": (version_services.start_version, _said(version, "is starting", "will start")),
        "stop": (version_services.stop_version, _said(version, "is shutting down", "will shut down")),
        "delete": (version_services.delete_version, f"Version {number} is deleted."),
    }
    act, done = actions[action]
    if action == "stop" and version.start_again_at:
        done = f"Slipway won't retry version {number}."
    elif action == "stop" and version.desired_state == DesiredState.STOPPED:
        done = f"Version {number} was to stop already: it is {version.get_status_display()}."
    strategy = {"strategy": request.POST["strategy"]} if action == "start" and request.POST.get("strategy") else {}
    try:
        act(version, actor=request.user, **strategy)
        messages.success(request, done)
    except ServiceError as error:
        messages.error(request, str(error))
    return redirect("deployments:versions", organization, name)


def _said(version: Version, now: str, later: str) -> str:
    """What a click brings about: at once, or when its cluster answers to this Slipway again."""
    cluster = version.deployment.endpoint.cluster
    if cluster.unreachable_reason:
        return f"Version {version.number} {later} once the cluster {cluster} can be reached."
    if not cluster.is_ours:
        return f"Version {version.number} {later} once this Slipway is in charge of the cluster {cluster}."
    return f"Version {version.number} {now}."


def _overview(deployment: Deployment) -> dict[str, Any]:
    version = deployment.current_version
    values: dict[str, Any] = {"events": list(deployment.events.select_related("version", "actor")[:EVENTS_SHOWN])}
    if version is None:
        return values
    version.deployment = deployment
    live = list(version.instances.filter(ended_at=None))
    ended = list(version.instances.exclude(ended_at=None).order_by("-ended_at")[:5])
    values |= {"live_instances": live, "ended_instances": ended, "specification": version.specification}
    values["disturbances"] = disturbances.recent(version)
    if version.status == Status.PREPARING:
        values |= {"steps": _steps(version, live), "usual": _usual_start(deployment), "waits_for": _waits_for(version)}
    newest = deployment.versions.order_by("-number").first()
    if (
        newest is not None
        and newest.status == Status.ERROR
        and version.status == Status.RUNNING
        and newest.number > version.number
    ):
        # Its change was called off, and the status is that of the one that goes on.
        values["failed_successor"] = newest
    if version.status == Status.ERROR:
        values["last_good"] = _last_good(deployment, version)
    return values


def _steps(version: Version, live: list[Any]) -> list[dict[str, Any]]:
    """The start-up steps of the instance that is furthest, each with its age."""
    furthest = max(live, key=lambda item: sum(step["at"] is not None for step in item.steps), default=None)
    recorded = {step["name"]: step["at"] for step in furthest.steps} if furthest else {}
    steps = []
    current_found = False
    for name, label in STEP_LABELS[version.deployment.endpoint.cluster.driver].items():
        if name in SOMETIMES and name not in recorded:
            continue
        seconds = recorded.get(name)
        at = datetime.fromtimestamp(seconds, timezone.get_current_timezone()) if seconds else None
        is_current = at is None and not current_found
        current_found = current_found or is_current
        steps.append({"label": label, "at": at, "is_current": is_current})
    return steps


def _usual_start(deployment: Deployment) -> float | None:
    """How long this deployment's instances took to get ready, on average, in seconds."""
    found = deployment.versions.filter(instances__ready_at__isnull=False).aggregate(
        usual=Avg(F("instances__ready_at") - F("instances__started_at"))
    )["usual"]
    return found.total_seconds() if found else None


def _waits_for(version: Version) -> Version | None:
    rollout = (
        Rollout.objects.filter(new=version, finished_at=None, phase=Rollout.Phase.STOPPING_OLD)
        .select_related("old")
        .first()
    )
    return rollout.old if rollout and rollout.old and not rollout.old.is_inactive else None


def _last_good(deployment: Deployment, version: Version) -> Version | None:
    return deployment.versions.exclude(pk=version.pk).filter(ready_at__isnull=False, status=Status.STOPPED).first()


def _versions_context(deployment: Deployment) -> dict[str, Any]:
    return {"versions": _versions(deployment), "is_forgettable": forgettable(deployment.endpoint.cluster)}


def _versions(deployment: Deployment) -> list[Version]:
    found = list(Version.objects.filter(deployment=deployment).select_related("created_by"))
    for version in found:
        version.is_wanted = version.desired_state == DesiredState.RUNNING
    return found
