"""The part of the deployment form that becomes a version's specification; its fields follow the engine."""

from decimal import Decimal
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from common.encryption import SecretUnreadableError
from deployments.forms import key_values
from deployments.models import Model, Version
from deployments.services.versions import MAX_REPLICAS, specification_errors
from runtimes.engines.base import KUBERNETES, Setting
from runtimes.engines.registry import engines
from runtimes.specification import Specification

ENGINE_PREFIX = "engine_"
SHARED_FIELDS = ("image", "context_length", "prompt_caching", "cache_claim")
KUBERNETES_ONLY = "Used on Kubernetes; a local cluster keeps it without effect."
MULTILINE = (
    ("environment_variables", "Environment variables", "NAME=value, one per line.", "HF_HUB_OFFLINE=1"),
    (
        "secret_variables",
        "Secret environment variables",
        "NAME=value, one per line. Stored encrypted, never shown again.",
        "HF_TOKEN=…",
    ),
    ("labels", "Labels", f"key=value, one per line. {KUBERNETES_ONLY}", "team=search"),
    ("annotations", "Annotations", f"key=value, one per line. {KUBERNETES_ONLY}", "example.com/owner=ann"),
    ("tolerations", "Tolerations", f"key=value:Effect, one per line. {KUBERNETES_ONLY}", "gpu=true:NoSchedule"),
    ("node_selector", "Node selector", f"key=value, one per line. {KUBERNETES_ONLY}", "accelerator=h200"),
    (
        "pod_affinity",
        "Pod affinity",
        f"near key=value or away key=value, one per line. {KUBERNETES_ONLY}",
        "away app=batch",
    ),
    ("extra_arguments", "Extra engine arguments", "Added to the engine's command as they are.", "--seed 7"),
)


class SpecificationForm(forms.Form):
    """`driver` and `model` decide which engines and defaults make sense; `previous` is the version to start from."""

    engine = forms.ChoiceField(widget=forms.RadioSelect)
    replicas = forms.IntegerField(min_value=1, max_value=MAX_REPLICAS, initial=1)
    cpu = forms.DecimalField(label="CPU (cores)", min_value=Decimal("0.05"), max_value=1024, decimal_places=2)
    memory = forms.CharField(max_length=20)
    gpu = forms.IntegerField(label="GPUs", min_value=0, max_value=64)

    def __init__(
        self,
        data: Any = None,
        *,
        driver: str,
        model: Model | None,
        previous: Version | None = None,
        touched: set[str] | None = None,
        draft: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(data, **kwargs)
        self.driver = driver
        self.model = model
        self._previous = previous
        self.unavailable = {
            item.name: reason for item in engines().values() if (reason := item.unavailable_reason(driver))
        }
        self.fields["engine"].choices = [(item.name, item.title) for item in engines().values()]
        source = data if data is not None else (draft or {})
        # Until somebody chooses one, the engine follows model and endpoint.
        follows = data is None and "engine" not in (touched or ()) and "touched" in source
        chosen = (
            (not follows and source.get("engine"))
            or (previous.specification.engine if previous else "")
            or self._default_engine()
        )
        self.engine = engines().get(chosen) or engines()[self._default_engine()]
        self.fields["engine"].initial = self.engine.name
        self._add_shared_fields()
        self._add_engine_fields()
        self._add_multiline_fields()
        self._fill_defaults()
        if previous is not None and previous.specification.engine == self.engine.name:
            self._fill_from(previous)
        for name in touched or ():
            field = self.fields.get(name)
            if isinstance(field, forms.BooleanField):
                # A box that is not ticked is not sent.
                field.initial = name in source
            elif field is not None and name in source:
                field.initial = source[name]
        # Only what the user typed is marked; the rest follows the engine and the model.
        self.touched = ",".join(sorted(touched or ()))

    # What the template shows

    def engine_choices(self) -> list[dict[str, Any]]:
        return [
            {
                "name": item.name,
                "title": item.title,
                "summary": item.summary,
                "checked": item.name == self.engine.name,
                "reason": self.unavailable.get(item.name, ""),
            }
            for item in engines().values()
        ]

    def engine_fields(self) -> list[forms.BoundField]:
        return [self[f"{ENGINE_PREFIX}{setting.name}"] for setting in self.engine.settings]

    def shared_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in SHARED_FIELDS if name in self.fields]

    def has_image(self) -> bool:
        return "image" in self.fields

    def no_image_reason(self) -> str:
        return f"{self.engine.title} runs as a program of this machine; images are for clusters that pull them."

    def resource_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in ("replicas", "cpu", "memory", "gpu")]

    def advanced_fields(self) -> list[forms.BoundField]:
        return [self[name] for name, *_ in MULTILINE]

    def advanced_is_open(self) -> bool:
        return any(self[name].value() or self[name].errors for name, *_ in MULTILINE)

    # Validation

    def clean_engine(self) -> str:
        name = self.cleaned_data["engine"]
        if name in self.unavailable:
            raise ValidationError(self.unavailable[name])
        return name

    def clean_memory(self) -> int:
        return key_values.parse_bytes(self.cleaned_data["memory"])

    def clean_environment_variables(self) -> dict[str, str]:
        return key_values.parse_variables(self.cleaned_data["environment_variables"])

    def clean_secret_variables(self) -> dict[str, str]:
        return key_values.parse_variables(self.cleaned_data["secret_variables"])

    def clean_labels(self) -> dict[str, str]:
        return key_values.parse_labels(self.cleaned_data["labels"])

    def clean_annotations(self) -> dict[str, str]:
        return key_values.parse_labels(self.cleaned_data["annotations"], any_value=True)

    def clean_node_selector(self) -> dict[str, str]:
        return key_values.parse_labels(self.cleaned_data["node_selector"])

    def clean_tolerations(self) -> Any:
        return key_values.parse_tolerations(self.cleaned_data["tolerations"])

    def clean_pod_affinity(self) -> Any:
        return key_values.parse_pod_affinity(self.cleaned_data["pod_affinity"])

    def clean_extra_arguments(self) -> Any:
        return key_values.parse_arguments(self.cleaned_data["extra_arguments"])

    def clean_keep_secrets(self) -> bool:
        keep = self.cleaned_data["keep_secrets"]
        if keep and self._previous is not None:
            try:
                self._previous.specification_with_secrets()
            except SecretUnreadableError as error:
                raise ValidationError(f"{error} Untick this.") from None
        return keep

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if not self.errors:
            for field, message in specification_errors(self.specification(""), self.driver).items():
                self.add_error(field if field in self.fields else None, message)
        return cleaned

    def specification(self, served_model_name: str) -> Specification:
        """What the form asks for; only after it was found valid."""
        values = self.cleaned_data
        kept = (
            self._previous.specification_with_secrets().secret_environment
            if self._previous and values.get("keep_secrets")
            else {}
        )
        return Specification(
            engine=self.engine.name,
            served_model_name=served_model_name,
            model_uri=self.model.uri if self.model else "",
            image=values.get("image", ""),
            engine_settings={
                setting.name: _plain(values.get(f"{ENGINE_PREFIX}{setting.name}")) for setting in self.engine.settings
            },
            context_length=values.get("context_length"),
            prompt_caching=values.get("prompt_caching"),
            cpu=float(values["cpu"]),
            memory=values["memory"],
            gpu=values["gpu"],
            environment=values["environment_variables"],
            secret_environment=kept | values["secret_variables"],
            labels=values["labels"],
            annotations=values["annotations"],
            tolerations=values["tolerations"],
            node_selector=values["node_selector"],
            pod_affinity=values["pod_affinity"],
            extra_arguments=values["extra_arguments"],
            cache_claim=values.get("cache_claim", ""),
        )

    # Building the fields

    def _default_engine(self) -> str:
        """The first engine that can run here and fits the model's address."""
        available = [item.name for item in engines().values() if item.name not in self.unavailable]
        is_file = bool(self.model and self.model.uri.endswith(".gguf"))
        if is_file and "llama_cpp" in available:
            return "llama_cpp"
        if self.model and self.model.source == Model.Source.NGC and "nim" in available:
            return "nim"
        if self.model and self.model.uri and "vllm" in available:
            return "vllm"
        return "simulator" if "simulator" in available else (available or list(engines()))[0]

    def _add_shared_fields(self) -> None:
        shared = self.engine.shared_fields
        if "image" in shared and self.driver == KUBERNETES:
            self.fields["image"] = forms.CharField(label="Engine image", max_length=300, required=False)
        if "context_length" in shared:
            self.fields["context_length"] = forms.IntegerField(
                label="Context length (tokens)", min_value=16, max_value=10_000_000, required=False
            )
        if "cache_claim" in shared and self.driver == KUBERNETES:
            self.fields["cache_claim"] = forms.CharField(
                label="Model cache (volume claim)",
                max_length=253,
                required=False,
                help_text="One whose name begins with the organization's and a dot. Keeps downloads from one start to the next, and for all replicas. Replicas on several nodes need one that many nodes may write to (ReadWriteMany).",
            )
        if "prompt_caching" in shared:
            self.fields["prompt_caching"] = forms.BooleanField(label="Prompt caching", required=False)

    def _add_engine_fields(self) -> None:
        for setting in self.engine.settings:
            self.fields[f"{ENGINE_PREFIX}{setting.name}"] = _field_of(setting)

    def _add_multiline_fields(self) -> None:
        for name, label, help_text, placeholder in MULTILINE:
            widget = forms.Textarea(
                attrs={
                    "rows": 2,
                    "placeholder": placeholder,
                    "spellcheck": "false",
                    "class": "form-control font-monospace",
                }
            )
            self.fields[name] = forms.CharField(
                label=label, help_text=help_text, required=False, widget=widget, max_length=20_000, initial=""
            )
        if self._previous is not None and self._previous.encrypted_secrets:
            self.fields["keep_secrets"] = forms.BooleanField(
                label="Keep the secret variables of the earlier version", required=False, initial=True
            )

    def _fill_defaults(self) -> None:
        self.fields[
            "replicas"
        ].help_text = (
            "Each replica takes the CPU, memory and GPUs below once more; in return more requests are served at once."
        )
        for name, default in self.engine.defaults(self.model.uri if self.model else "", self.driver).items():
            field = self.fields.get(name)
            if field is not None:
                field.initial = key_values.format_bytes(default.value) if name == "memory" else default.value
                field.help_text = default.reason

    def _fill_from(self, version: Version) -> None:
        specification = version.specification
        values: dict[str, Any] = {
            "replicas": version.replicas,
            "cpu": specification.cpu,
            "memory": key_values.format_bytes(specification.memory),
            "gpu": specification.gpu,
            "image": specification.image,
            "context_length": specification.context_length,
            "prompt_caching": specification.prompt_caching,
            "cache_claim": specification.cache_claim,
            "environment_variables": _as_lines(specification.environment),
            "labels": _as_lines(specification.labels),
            "annotations": _as_lines(specification.annotations),
            "node_selector": _as_lines(specification.node_selector),
            "tolerations": "\n".join(
                f"{item.key}{'=' + item.value if item.operator == 'Equal' else ''}{':' + item.effect if item.effect else ''}"
                for item in specification.tolerations
            ),
            "pod_affinity": "\n".join(
                f"{item.placement} {item.label}={item.value}@{item.topology_key}" for item in specification.pod_affinity
            ),
            "extra_arguments": key_values.shlex.join(specification.extra_arguments),
        }
        values |= {f"{ENGINE_PREFIX}{name}": value for name, value in specification.engine_settings.items()}
        for name, value in values.items():
            if name in self.fields:
                self.fields[name].initial = value


def _field_of(setting: Setting) -> forms.Field:
    common: dict[str, Any] = {
        "label": setting.label,
        "initial": setting.default,
        "help_text": setting.reason,
        "required": setting.required,
    }
    if setting.kind == "integer":
        return forms.IntegerField(min_value=_whole(setting.minimum), max_value=_whole(setting.maximum), **common)
    if setting.kind == "number":
        return forms.FloatField(min_value=setting.minimum, max_value=setting.maximum, **common)
    if setting.kind == "boolean":
        return forms.BooleanField(**{**common, "required": False})
    if setting.kind == "choice":
        return forms.ChoiceField(choices=setting.choices, **common)
    return forms.CharField(max_length=2000, **common)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def _as_lines(values: dict[str, str]) -> str:
    return "\n".join(f"{name}={value}" for name, value in values.items())
