"""The API's shapes. Secret values go in and never come out."""

from typing import Any

from rest_framework import serializers

from accounts.models import Organization
from accounts.permissions import managed_organizations
from deployments import cluster_health
from deployments.api.numbers import Amount, Whole
from deployments.models import Alias, Cluster, Deployment, Endpoint, Event, Instance, Model, Rollout, Status, Version
from deployments.models.cluster import default_allowances
from deployments.models.deployment import default_access
from deployments.selectors import deployable_endpoints, manageable_models, usable_clusters
from deployments.services.quotas import MOST, MOST_BYTES
from deployments.services.versions import MAX_REPLICAS
from runtimes.allowances import KINDS, LONGEST, MOST_PATTERNS
from runtimes.engines.base import KUBERNETES
from runtimes.engines.registry import engines
from runtimes.kubernetes.places import TEMPLATE
from runtimes.specification import PodAffinity, Specification, Toleration


class _Strict(serializers.Serializer):
    """Refuses what it doesn't know: a field that is misspelled, or of another level, would be ignored without a word."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := data.keys() - self.fields.keys()):
            known = ", ".join(name for name, field in self.fields.items() if not field.read_only)
            raise serializers.ValidationError(
                {
                    name: [f"There is no such field, or it can't be changed. Known here: {known}."]
                    for name in sorted(unknown)
                }
            )
        return super().to_internal_value(data)


class OrganizationSerializer(serializers.ModelSerializer):
    class Meta:
        model = Organization
        fields = ("name", "title", "time_zone")


class AliasSerializer(_Strict):
    """Another name, as gpt-4o, for the deployment with this API id, as acme/llama."""

    name = serializers.CharField(max_length=Alias.LONGEST)
    deployment = serializers.CharField(max_length=130)


class QuotaSerializer(_Strict):
    """How much may be wanted at once, and tokens a month of the organization's time zone; null for no bound. CPU in cores, memory in bytes."""

    deployments = Whole(min_value=0, max_value=MOST, allow_null=True, required=False)
    instances = Whole(min_value=0, max_value=MOST, allow_null=True, required=False)
    gpus = Whole(min_value=0, max_value=MOST, allow_null=True, required=False)
    cpu = Amount(min_value=0, max_value=MOST, allow_null=True, required=False)
    memory = Whole(min_value=0, max_value=MOST_BYTES, allow_null=True, required=False)
    keys = Whole(min_value=0, max_value=MOST, allow_null=True, required=False)
    async_requests = Whole(min_value=0, max_value=2**31 - 1, allow_null=True, required=False)
    tokens = Whole(min_value=0, max_value=10**15, allow_null=True, required=False)


class AllowancesSerializer(_Strict):
    """What organizations may ask a cluster for: patterns with `*`; `{organization}` stands for the organization's name."""

    def get_fields(self) -> dict[str, Any]:
        return {
            kind: serializers.ListField(
                child=serializers.CharField(max_length=LONGEST), required=False, max_length=MOST_PATTERNS
            )
            for kind in KINDS
        }


class ClusterSerializer(_Strict, serializers.ModelSerializer):
    kubeconfig = serializers.CharField(
        write_only=True, required=False, allow_blank=True, max_length=100_000, trim_whitespace=False
    )

    organizations = serializers.SlugRelatedField(
        slug_field="name", queryset=Organization.objects.all(), many=True, required=False
    )
    allowances = AllowancesSerializer(required=False)
    namespace_template = serializers.CharField(
        required=False, allow_blank=True, max_length=63,
        help_text=f"Of organizations' own namespaces, for Kubernetes; {TEMPLATE} where it isn't given, and empty for one namespace for all.",
    )  # fmt: skip
    callers = serializers.ListField(
        child=serializers.CharField(max_length=63), max_length=64, required=False,
        help_text="Networks and namespaces whose members may call instances, where organizations have namespaces of their own.",
    )  # fmt: skip

    class Meta:
        model = Cluster
        fields = (
            "id",
            "name",
            "driver",
            "namespace",
            "namespace_template",
            "callers",
            "reach",
            "kubeconfig",
            "description",
            "is_for_all",
            "organizations",
            "allowances",
            "created_at",
            "seen_at",
            "unreachable_reason",
            "charge",
            "charge_of",
            "charge_address",
        )
        read_only_fields = ("created_at", "seen_at", "unreachable_reason", "charge", "charge_of", "charge_address")
        # The service checks names, so that form and API say the same.
        extra_kwargs = {"name": {"validators": []}}

    def to_representation(self, cluster: Cluster) -> dict[str, Any]:
        told: dict[str, Any] = super().to_representation(cluster)
        # The row tells when that changed; each look's own time is kept apart.
        if not cluster.unreachable_reason and (look := cluster_health.last_look(cluster.pk)) is not None:
            told["seen_at"] = look.at
        return told

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """As the form suggests it: a cluster that is made without a word of it keeps organizations apart."""
        if self.instance is None and attributes.get("driver") == Cluster.Driver.KUBERNETES:
            attributes.setdefault("namespace_template", TEMPLATE)
        return attributes

    def validate_allowances(self, given: dict[str, list[str]]) -> dict[str, list[str]]:
        """What isn't given stays."""
        return (self.instance.allowances if self.instance else default_allowances()) | given


class _OfOrganization(_Strict, serializers.ModelSerializer):
    organization = serializers.SlugRelatedField(slug_field="name", queryset=Organization.objects.none())

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        request = self.context.get("request")
        if request is not None:
            fields["organization"].queryset = managed_organizations(request.user)
        if self.instance is not None:
            fields["organization"].read_only = True
        return fields

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        given = self.initial_data.get("organization")
        if self.instance is not None and given not in (None, self.instance.organization.name):
            raise serializers.ValidationError(
                {"organization": ["It can't be changed. Make another one there instead."]}
            )
        return attributes


class ModelSerializer(_OfOrganization):
    credential = serializers.CharField(write_only=True, required=False, allow_blank=True, max_length=500)

    class Meta:
        model = Model
        fields = ("id", "name", "organization", "source", "uri", "description", "credential", "created_at")
        read_only_fields = ("created_at",)
        validators: list[Any] = []


class EndpointSerializer(_OfOrganization):
    """`origins` of other sites' pages that may call its deployments and read their answers; "*" for any."""

    origins = serializers.ListField(child=serializers.CharField(max_length=300), required=False, max_length=50)
    cluster = serializers.SlugRelatedField(slug_field="name", queryset=Cluster.objects.none())

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        request = self.context.get("request")
        if request is not None:
            fields["cluster"].queryset = usable_clusters(request.user)
        return fields

    class Meta:
        model = Endpoint
        fields = ("id", "name", "organization", "cluster", "description", "origins", "created_at")
        read_only_fields = ("created_at",)
        extra_kwargs = {"name": {"validators": []}}


class TolerationSerializer(_Strict):
    key = serializers.CharField(max_length=253)
    operator = serializers.ChoiceField(choices=("Equal", "Exists"), default="Equal")
    value = serializers.CharField(max_length=63, default="", allow_blank=True)
    effect = serializers.ChoiceField(choices=("", "NoSchedule", "PreferNoSchedule", "NoExecute"), default="")


class PodAffinitySerializer(_Strict):
    label = serializers.CharField(max_length=253)
    value = serializers.CharField(max_length=63)
    placement = serializers.ChoiceField(choices=("near", "away"), default="away")
    topology_key = serializers.CharField(max_length=253, default="kubernetes.io/hostname")


class SpecificationSerializer(_Strict):
    """CPU in cores, memory in bytes, context length in tokens. Fields left out take the engine's defaults."""

    engine = serializers.CharField(max_length=40)
    engine_settings = serializers.DictField(default=dict)
    image = serializers.CharField(max_length=300, required=False, allow_blank=True)
    cache_claim = serializers.CharField(max_length=253, default="", allow_blank=True)
    context_length = Whole(min_value=16, max_value=10_000_000, required=False, allow_null=True)
    prompt_caching = serializers.BooleanField(required=False, allow_null=True)
    cpu = Amount(min_value=0.05, max_value=1024, required=False)
    memory = Whole(min_value=16 << 20, max_value=1 << 46, required=False)
    gpu = Whole(min_value=0, max_value=64, required=False)
    environment = serializers.DictField(child=serializers.CharField(allow_blank=True), default=dict)
    secret_environment = serializers.DictField(
        child=serializers.CharField(allow_blank=True), default=dict, write_only=True
    )
    labels = serializers.DictField(child=serializers.CharField(allow_blank=True), default=dict)
    annotations = serializers.DictField(child=serializers.CharField(allow_blank=True), default=dict)
    node_selector = serializers.DictField(child=serializers.CharField(allow_blank=True), default=dict)
    tolerations = TolerationSerializer(many=True, default=list)
    pod_affinity = PodAffinitySerializer(many=True, default=list)
    extra_arguments = serializers.ListField(child=serializers.CharField(), default=list)

    def validate_engine(self, value: str) -> str:
        if value not in engines():
            raise serializers.ValidationError(f"There is no engine “{value}”. Known: {', '.join(engines())}.")
        return value

    def to_specification(self, model: Model, served_model_name: str, driver: str) -> Specification:
        values = dict(self.validated_data)
        chosen = engines()[values["engine"]]
        for name, default in chosen.defaults(model.uri, driver).items():
            if values.get(name) is None and name != "image":
                values[name] = default.value
        # An image means something where images are pulled only.
        if driver == KUBERNETES and not values.get("image"):
            values["image"] = chosen.image_for(values["gpu"], model.uri)
        given = {name: value for name, value in values.pop("engine_settings").items() if value is not None}
        settings = {setting.name: setting.default for setting in chosen.settings} | given
        for setting in chosen.settings:
            # JSON knows one kind of number: 80.0 is a port too.
            if (
                setting.kind == "integer"
                and isinstance(settings[setting.name], float)
                and settings[setting.name].is_integer()
            ):
                settings[setting.name] = int(settings[setting.name])
        values["tolerations"] = tuple(Toleration(**item) for item in values["tolerations"])
        values["pod_affinity"] = tuple(PodAffinity(**item) for item in values["pod_affinity"])
        values["extra_arguments"] = tuple(values["extra_arguments"])
        return Specification(
            served_model_name=served_model_name, model_uri=model.uri, engine_settings=settings, **values
        )


class InstanceSerializer(serializers.ModelSerializer):
    class Meta:
        model = Instance
        fields = (
            "uid",
            "name",
            "phase",
            "address",
            "restarts",
            "exit_code",
            "started_at",
            "ready_at",
            "ended_at",
            "cause",
        )

    cause = serializers.JSONField(source="cause_json", read_only=True)


class VersionSerializer(serializers.ModelSerializer):
    specification = serializers.JSONField(source="specification_json", read_only=True)
    cause = serializers.JSONField(source="cause_json", read_only=True)
    ready = serializers.SerializerMethodField()

    class Meta:
        model = Version
        fields = (
            "number",
            "status",
            "desired_state",
            "replicas",
            "ready",
            "cause",
            "specification",
            "created_at",
            "ready_at",
            "status_since",
            "unready_since",
            "start_again_at",
        )

    def get_ready(self, version: Version) -> int:
        return sum(instance.is_ready for instance in version.instances.all() if instance.is_live)


class DeploymentSerializer(serializers.ModelSerializer):
    id = serializers.CharField(source="api_id", read_only=True)
    organization = serializers.CharField(source="organization.name", read_only=True)
    model = serializers.CharField(source="model.name", read_only=True)
    endpoint = serializers.CharField(source="endpoint.name", read_only=True)
    status = serializers.SerializerMethodField()
    version = serializers.SerializerMethodField()

    class Meta:
        model = Deployment
        fields = (
            "id",
            "organization",
            "name",
            "description",
            "environment",
            "starts_again",
            "access",
            "model",
            "endpoint",
            "status",
            "version",
            "created_at",
        )

    def get_status(self, deployment: Deployment) -> str | None:
        version = deployment.current_version
        return version.status if version else None

    def get_version(self, deployment: Deployment) -> int | None:
        version = deployment.current_version
        return version.number if version else None


class DeploymentFilterSerializer(serializers.Serializer):
    """What the list is narrowed to. `search` looks at names, descriptions, models and endpoints."""

    search = serializers.CharField(max_length=200, default="", allow_blank=True)
    status = serializers.ChoiceField(choices=Status.choices, default="", allow_blank=True)
    environment = serializers.ChoiceField(choices=Deployment.Environment.choices, default="", allow_blank=True)
    organization = serializers.CharField(max_length=63, default="", allow_blank=True)


class NewDeploymentSerializer(_Strict):
    """`model` and `endpoint` by name; the deployment belongs to the endpoint's organization."""

    name = serializers.CharField(max_length=1000)
    description = serializers.CharField(max_length=2000, default="", allow_blank=True)
    environment = serializers.ChoiceField(
        choices=Deployment.Environment.choices, default=Deployment.Environment.DEVELOPMENT
    )
    access = serializers.ChoiceField(choices=Deployment.Access.choices, default=default_access)
    endpoint = serializers.SlugRelatedField(slug_field="name", queryset=Endpoint.objects.none())
    model = serializers.CharField(max_length=120)
    replicas = Whole(min_value=1, max_value=MAX_REPLICAS, default=1)
    specification = SpecificationSerializer()

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        request = self.context.get("request")
        if request is not None:
            fields["endpoint"].queryset = deployable_endpoints(request.user).select_related("organization", "cluster")
        return fields

    def validate(self, attributes: dict[str, Any]) -> dict[str, Any]:
        models = manageable_models(self.context["request"].user)
        found = models.filter(organization=attributes["endpoint"].organization, name=attributes["model"]).first()
        if found is None:
            raise serializers.ValidationError({"model": "The endpoint's organization has no model of this name."})
        attributes["model"] = found
        return attributes


class NewVersionSerializer(_Strict):
    replicas = Whole(min_value=1, max_value=MAX_REPLICAS, default=1)
    strategy = serializers.ChoiceField(choices=Rollout.Strategy.choices, default=Rollout.Strategy.REPLACE)
    specification = SpecificationSerializer()


class StartSerializer(_Strict):
    strategy = serializers.ChoiceField(choices=Rollout.Strategy.choices, default=Rollout.Strategy.REPLACE)


class ScaleSerializer(_Strict):
    replicas = Whole(min_value=1, max_value=MAX_REPLICAS)


class ChangeSerializer(_Strict):
    description = serializers.CharField(max_length=2000, allow_blank=True, required=False)
    environment = serializers.ChoiceField(choices=Deployment.Environment.choices, required=False)
    starts_again = serializers.BooleanField(required=False)


class EventSerializer(serializers.ModelSerializer):
    version = serializers.IntegerField(source="version.number", read_only=True, allow_null=True)

    class Meta:
        model = Event
        fields = ("at", "kind", "severity", "message", "version", "instance_uid", "old_status", "new_status")
