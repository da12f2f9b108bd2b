"""What a version asks for: the immutable part of a deployment, as the form or the API filled it in."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Toleration:
    key: str
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


@dataclass(frozen=True)
class PodAffinity:
    """Place instances `near` or `away` from pods with this label, per topology key."""

    label: str
    value: str
    placement: str = "away"
    topology_key: str = "kubernetes.io/hostname"


@dataclass(frozen=True)
class Specification:
    """One version's request. CPU in cores, memory in bytes, GPU in devices, context length in tokens."""

    engine: str
    served_model_name: str
    model_uri: str = ""
    image: str = ""
    engine_settings: dict[str, Any] = field(default_factory=dict)
    context_length: int | None = None
    prompt_caching: bool | None = None
    cpu: float = 1.0
    memory: int = 1 << 30
    gpu: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    secret_environment: dict[str, str] = field(default_factory=dict, repr=False)
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    node_selector: dict[str, str] = field(default_factory=dict)
    pod_affinity: tuple[PodAffinity, ...] = ()
    extra_arguments: tuple[str, ...] = ()
    # A volume claim that keeps downloaded models from one start to the next, and for all replicas.
    cache_claim: str = ""

    def to_json(self) -> dict[str, Any]:
        """Everything but the secret values, which are stored encrypted beside it."""
        values = asdict(self)
        del values["secret_environment"]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any], *, secret_environment: dict[str, str] | None = None) -> "Specification":
        """Rebuild from `to_json`; fields that this release doesn't know are ignored."""
        known = {item.name for item in fields(cls)}
        kept = {name: value for name, value in values.items() if name in known}
        kept["tolerations"] = tuple(Toleration(**item) for item in values.get("tolerations", ()))
        kept["pod_affinity"] = tuple(PodAffinity(**item) for item in values.get("pod_affinity", ()))
        kept["extra_arguments"] = tuple(values.get("extra_arguments", ()))
        kept["secret_environment"] = secret_environment or {}
        return cls(**kept)
