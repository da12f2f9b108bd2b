"""How views find what a request names: what the actor may not see does not exist for them."""

from typing import Any

from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404

from accounts.permissions import may_use_driver
from deployments.models import Deployment, Version
from deployments.selectors import attach_current_versions, manageable_deployments, serving_version, visible_deployments


def get_deployment(request: HttpRequest, organization: str, name: str) -> Deployment:
    """The deployment with `current_version` and `may_manage` set, or 404."""
    visible = visible_deployments(request.user).select_related("organization", "model", "endpoint__cluster")
    deployment = get_object_or_404(visible, organization__name=organization, name=name)
    attach_current_versions([deployment])
    deployment.may_manage = manageable_deployments(request.user).filter(pk=deployment.pk).exists()
    return deployment


def get_managed_deployment(request: HttpRequest, organization: str, name: str) -> Deployment:
    deployment = get_deployment(request, organization, name)
    if not deployment.may_manage:
        raise Http404
    return deployment


def get_deployable(request: HttpRequest, organization: str, name: str) -> Deployment:
    """Managed, and on a cluster where the user may run models."""
    deployment = get_managed_deployment(request, organization, name)
    if not may_use_driver(request.user, deployment.endpoint.cluster.driver):
        raise Http404
    return deployment


def get_version(deployment: Deployment, number: int) -> Version:
    version = get_object_or_404(Version, deployment=deployment, number=number)
    version.deployment = deployment
    return version


def tab_context(deployment: Deployment, tab: str, **values: Any) -> dict[str, Any]:
    """What the deployment's frame needs around each tab."""
    serving = serving_version(deployment)
    return {"deployment": deployment, "version": deployment.current_version, "serving": serving, "tab": tab, **values}
