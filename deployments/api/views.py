"""The REST API: the console's nouns for scripts. Everything is decided by selectors and services."""

from dataclasses import asdict
from typing import Any

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import Organization
from accounts.permissions import may_use_driver, visible_organizations
from common.numbers import whole
from common.service_error import ForbiddenError, ServiceError
from deployments import log_store
from deployments.api import serializers
from deployments.models import Cluster, Deployment, Endpoint, Model, Version
from deployments.selectors import (
    DeploymentFilter,
    attach_current_versions,
    callable_deployments,
    filtered_deployments,
    manageable_deployments,
    manageable_endpoints,
    manageable_models,
    visible_clusters,
    visible_deployments,
    visible_endpoints,
    visible_instances,
    visible_models,
)
from deployments.services import catalog, quotas
from deployments.services import deployments as deployment_services
from deployments.services import versions as version_services
from deployments.services.aliases import check_manager, remove_alias, set_alias

READING = ("list", "retrieve")


class _WithQuota:
    """`…/quota/`: the bounds, and what is wanted now. Operators change bounds by PATCH; those that aren't given stay."""

    @extend_schema(request=serializers.QuotaSerializer, responses={200: dict})
    @action(detail=True, methods=["get", "patch"], url_path="quota")
    def quota(self, request: Request, **kwargs: Any) -> Response:
        owner: Any = self.get_object()  # type: ignore[attr-defined]
        quota = quotas.quota_of(owner)
        bounds = {kind: getattr(quota, kind, None) for kind in quotas.KINDS}
        if request.method == "PATCH":
            given = serializers.QuotaSerializer(data=request.data)
            given.is_valid(raise_exception=True)
            bounds |= given.validated_data
            quotas.set_quota(owner, bounds, actor=request.user)
        return Response({"bounds": bounds, "used": asdict(quotas.use_of(owner))})


class OrganizationViewSet(_WithQuota, viewsets.ReadOnlyModelViewSet):
    serializer_class = serializers.OrganizationSerializer
    queryset = Organization.objects.none()
    lookup_field = "name"

    def get_queryset(self) -> Any:
        return visible_organizations(self.request.user)

    @extend_schema(request=serializers.AliasSerializer, responses={200: serializers.AliasSerializer(many=True)})
    @action(detail=True, methods=["get", "post"], url_path="aliases", pagination_class=None)
    def aliases(self, request: Request, **kwargs: Any) -> Response:
        """The names by which its keys call deployments beside their own; POST adds one, or points it elsewhere."""
        organization = self.get_object()
        if request.method == "POST":
            check_manager(organization, request.user)
            given = serializers.AliasSerializer(data=request.data)
            given.is_valid(raise_exception=True)
            deployment = _callable(organization, given.validated_data["deployment"])
            set_alias(organization, given.validated_data["name"], deployment, actor=request.user)
        found = organization.aliases.select_related("deployment__organization")
        return Response([{"name": item.name, "deployment": item.deployment.api_id} for item in found])

    @extend_schema(responses={204: None})
    @action(detail=True, methods=["delete"], url_path=r"aliases/(?P<alias>.+)", pagination_class=None)
    def alias(self, request: Request, alias: str, **kwargs: Any) -> Response:
        """Removes it; one that isn't there is fine."""
        remove_alias(self.get_object(), alias, actor=request.user)
        return Response(status=status.HTTP_204_NO_CONTENT)


def _callable(organization: Organization, api_id: str) -> Deployment:
    owner, _, name = api_id.partition("/")
    found = callable_deployments(organization).filter(organization__name=owner, name=name).first()
    if found is None:
        message = f"There is no deployment {api_id} that keys of {organization.name} may call."
        raise ServiceError(message, field="deployment")
    return found


class _CatalogViewSet(viewsets.ModelViewSet):
    """Models, endpoints, clusters: reading by what is visible, writing through the services."""

    http_method_names = ["get", "post", "patch", "delete", "head", "options"]
    visible: Any
    manageable: Any
    save: Any
    related: tuple[str, ...] = ("organization",)

    def get_queryset(self) -> Any:
        if getattr(self, "swagger_fake_view", False):
            return self.queryset
        wanted = type(self).visible if self.action in READING else type(self).manageable
        return wanted(self.request.user).select_related(*self.related)

    def perform_create(self, serializer: Any) -> None:
        self._write(serializer, serializer.Meta.model())

    def perform_update(self, serializer: Any) -> None:
        self._write(serializer, serializer.instance)

    def perform_destroy(self, instance: Any) -> None:
        catalog.delete(instance, actor=self.request.user)

    def _write(self, serializer: Any, thing: Any) -> None:
        values = dict(serializer.validated_data)
        extra = {name: values.pop(name) for name in ("credential", "kubeconfig", "organizations") if name in values}
        for name, value in values.items():
            setattr(thing, name, value)
        serializer.instance = type(self).save(thing, actor=self.request.user, only=values.keys(), **extra)


class ModelViewSet(_CatalogViewSet):
    serializer_class = serializers.ModelSerializer
    queryset = Model.objects.none()
    visible, manageable, save = (
        staticmethod(visible_models),
        staticmethod(manageable_models),
        staticmethod(catalog.save_model),
    )


class EndpointViewSet(_CatalogViewSet):
    serializer_class = serializers.EndpointSerializer
    queryset = Endpoint.objects.none()
    related = ("organization", "cluster")
    visible, manageable, save = (
        staticmethod(visible_endpoints),
        staticmethod(manageable_endpoints),
        staticmethod(catalog.save_endpoint),
    )


class ClusterViewSet(_WithQuota, _CatalogViewSet):
    serializer_class = serializers.ClusterSerializer
    queryset = Cluster.objects.none()
    related = ()
    visible, manageable, save = (
        staticmethod(visible_clusters),
        staticmethod(visible_clusters),
        staticmethod(catalog.save_cluster),
    )


class DeploymentViewSet(mixins.ListModelMixin, viewsets.GenericViewSet):
    """A deployment's id is `{organization}/{name}`."""

    permission_classes = [IsAuthenticated]
    serializer_class = serializers.DeploymentSerializer
    queryset = Deployment.objects.none()

    def get_queryset(self) -> Any:
        if getattr(self, "swagger_fake_view", False):
            return self.queryset
        return visible_deployments(self.request.user).select_related("organization", "model", "endpoint__cluster")

    @extend_schema(parameters=[serializers.DeploymentFilterSerializer])
    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        wanted = serializers.DeploymentFilterSerializer(data=request.query_params)
        wanted.is_valid(raise_exception=True)
        rows = self.paginate_queryset(filtered_deployments(request.user, DeploymentFilter(**wanted.validated_data)))
        attach_current_versions(rows)
        return self.get_paginated_response(self.get_serializer(rows, many=True).data)

    @extend_schema(request=serializers.NewDeploymentSerializer, responses={201: serializers.DeploymentSerializer})
    def create(self, request: Request) -> Response:
        wanted = serializers.NewDeploymentSerializer(data=request.data, context={"request": request})
        wanted.is_valid(raise_exception=True)
        values = wanted.validated_data
        endpoint = values["endpoint"]
        deployment = Deployment(
            organization=endpoint.organization, endpoint=endpoint, model=values["model"], name=values["name"],
            description=values["description"], environment=values["environment"], access=values["access"],
        )  # fmt: skip
        specification = self._specification(request.data.get("specification"), values["model"], deployment)
        deployment_services.create_deployment(deployment, specification, values["replicas"], actor=request.user)
        attach_current_versions([deployment])
        return Response(self.get_serializer(deployment).data, status=status.HTTP_201_CREATED)

    def retrieve(self, request: Request, organization: str, name: str) -> Response:
        return Response(self.get_serializer(self._find(organization, name)).data)

    @extend_schema(request=serializers.ChangeSerializer, responses=serializers.DeploymentSerializer)
    def partial_update(self, request: Request, organization: str, name: str) -> Response:
        deployment = self._find(organization, name, manage=True)
        wanted = serializers.ChangeSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        deployment_services.update_deployment(deployment, **wanted.validated_data, actor=request.user)
        return self.retrieve(request, organization, name)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, organization: str, name: str) -> Response:
        deployment_services.delete_deployment(self._find(organization, name, manage=True), actor=request.user)
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=serializers.ScaleSerializer, responses=serializers.VersionSerializer)
    @action(detail=True, methods=["post"])
    def scale(self, request: Request, organization: str, name: str) -> Response:
        """Change the replicas of the version that runs."""
        deployment = self._find(organization, name, manage=True)
        wanted = serializers.ScaleSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        version = deployment.current_version
        if version is None or version.is_inactive:
            raise version_services.ServiceError("No version runs. Start one first.", code="conflict")
        version_services.scale_version(version, wanted.validated_data["replicas"], actor=request.user)
        return Response(serializers.VersionSerializer(version).data)

    @extend_schema(responses=serializers.EventSerializer(many=True))
    @action(detail=True, methods=["get"])
    def events(self, request: Request, organization: str, name: str) -> Response:
        """The newest 200 events."""
        rows = self._find(organization, name).events.select_related("version")[:200]
        return Response(serializers.EventSerializer(rows, many=True).data)

    @extend_schema(responses=serializers.VersionSerializer(many=True))
    @action(detail=True, methods=["get"])
    def versions(self, request: Request, organization: str, name: str) -> Response:
        rows = self._find(organization, name).versions.prefetch_related("instances")
        return Response(serializers.VersionSerializer(rows, many=True).data)

    @extend_schema(request=serializers.NewVersionSerializer, responses={201: serializers.VersionSerializer})
    @versions.mapping.post
    def create_version(self, request: Request, organization: str, name: str) -> Response:
        deployment = self._find(organization, name, manage=True)
        if not may_use_driver(request.user, deployment.endpoint.cluster.driver):
            raise ForbiddenError("You may not run models on this cluster.")
        wanted = serializers.NewVersionSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        specification = self._specification(request.data.get("specification"), deployment.model, deployment)
        version = version_services.create_version(
            deployment, specification, wanted.validated_data["replicas"], actor=request.user,
            strategy=wanted.validated_data["strategy"],
        )  # fmt: skip
        return Response(serializers.VersionSerializer(version).data, status=status.HTTP_201_CREATED)

    def _find(self, organization: str, name: str, *, manage: bool = False) -> Deployment:
        visible = manageable_deployments(self.request.user) if manage else visible_deployments(self.request.user)
        deployment = get_object_or_404(
            visible.select_related("organization", "model", "endpoint__cluster"),
            organization__name=organization,
            name=name,
        )
        attach_current_versions([deployment])
        return deployment

    @staticmethod
    def _specification(data: Any, model: Model, deployment: Deployment) -> Any:
        serializer = serializers.SpecificationSerializer(data=data)
        serializer.is_valid(raise_exception=True)
        return serializer.to_specification(model, deployment.api_id, deployment.endpoint.cluster.driver)


class VersionViewSet(viewsets.GenericViewSet):
    permission_classes = [IsAuthenticated]
    serializer_class = serializers.VersionSerializer
    queryset = Version.objects.none()

    def retrieve(self, request: Request, organization: str, name: str, number: int) -> Response:
        return Response(self.get_serializer(self._find(organization, name, number)).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, organization: str, name: str, number: int) -> Response:
        version_services.delete_version(self._find(organization, name, number, manage=True), actor=request.user)
        return Response(status=status.HTTP_204_NO_CONTENT)

    @extend_schema(request=serializers.StartSerializer)
    @action(detail=True, methods=["post"])
    def start(self, request: Request, organization: str, name: str, number: int) -> Response:
        version = self._find(organization, name, number, manage=True)
        wanted = serializers.StartSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        version_services.start_version(version, actor=request.user, strategy=wanted.validated_data["strategy"])
        return Response(self.get_serializer(version).data)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def stop(self, request: Request, organization: str, name: str, number: int) -> Response:
        version = self._find(organization, name, number, manage=True)
        version_services.stop_version(version, actor=request.user)
        return Response(self.get_serializer(version).data)

    @extend_schema(responses=serializers.InstanceSerializer(many=True))
    @action(detail=True, methods=["get"])
    def instances(self, request: Request, organization: str, name: str, number: int) -> Response:
        rows = self._find(organization, name, number).instances.all()[:200]
        return Response(serializers.InstanceSerializer(rows, many=True).data)

    def _find(self, organization: str, name: str, number: int, *, manage: bool = False) -> Version:
        scope = manageable_deployments(self.request.user) if manage else visible_deployments(self.request.user)
        versions = Version.objects.filter(deployment__in=scope).select_related(
            "deployment__organization", "deployment__endpoint__cluster"
        )
        return get_object_or_404(
            versions, deployment__organization__name=organization, deployment__name=name, number=number
        )


class InstanceLogViewSet(viewsets.GenericViewSet):
    permission_classes = [IsAuthenticated]
    serializer_class = serializers.InstanceSerializer
    queryset = Version.objects.none()

    @extend_schema(
        parameters=[OpenApiParameter("lines", int, description="How many lines from the end, at most 5000.")],
        responses={200: dict},
    )
    def retrieve(self, request: Request, uid: str) -> Response:
        """The end of an instance's stored log; also after the instance has ended."""
        instance = get_object_or_404(visible_instances(request.user), uid=uid)
        text = request.query_params.get("lines", "200")
        count = min(5000, whole(text) or 200)
        page = log_store.read_before(instance.uid, None, count)
        lines = [
            {"position": line.position, "at": float(line.text.partition(" ")[0]), "text": line.text.partition(" ")[2]}
            for line in page.lines
        ]
        return Response(
            {"lines": lines, "has_earlier": page.has_earlier, "is_cut": page.is_cut, "complete": instance.log_complete}
        )
