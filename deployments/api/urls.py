"""Addresses of the REST API."""

from django.urls import path, re_path
from rest_framework.routers import SimpleRouter

from deployments.api import views

router = SimpleRouter()
router.register("organizations", views.OrganizationViewSet, basename="api-organization")
router.register("models", views.ModelViewSet, basename="api-model")
router.register("endpoints", views.EndpointViewSet, basename="api-endpoint")
router.register("clusters", views.ClusterViewSet, basename="api-cluster")

_DEPLOYMENT = r"^deployments/(?P<organization>[^/]+)/(?P<name>[^/]+)/"
_VERSION = _DEPLOYMENT + r"versions/(?P<number>\d{1,9})/"
_deployments, _versions = views.DeploymentViewSet.as_view, views.VersionViewSet.as_view

urlpatterns = [
    *router.urls,
    path("deployments/", _deployments({"get": "list", "post": "create"}), name="api-deployments"),
    re_path(
        _DEPLOYMENT + r"$",
        _deployments({"get": "retrieve", "patch": "partial_update", "delete": "destroy"}),
        name="api-deployment",
    ),
    re_path(_DEPLOYMENT + r"scale/$", _deployments({"post": "scale"}), name="api-deployment-scale"),
    re_path(
        _DEPLOYMENT + r"events/$", _deployments({"get": "events"}, pagination_class=None), name="api-deployment-events"
    ),
    re_path(
        _DEPLOYMENT + r"versions/$",
        _deployments({"get": "versions", "post": "create_version"}, pagination_class=None),
        name="api-versions",
    ),
    re_path(_VERSION + r"$", _versions({"get": "retrieve", "delete": "destroy"}), name="api-version"),
    re_path(_VERSION + r"start/$", _versions({"post": "start"}), name="api-version-start"),
    re_path(_VERSION + r"stop/$", _versions({"post": "stop"}), name="api-version-stop"),
    re_path(
        _VERSION + r"instances/$", _versions({"get": "instances"}, pagination_class=None), name="api-version-instances"
    ),
    re_path(
        r"^instances/(?P<uid>[0-9a-zA-Z-]{1,64})/log/$",
        views.InstanceLogViewSet.as_view({"get": "retrieve"}),
        name="api-instance-log",
    ),
]
