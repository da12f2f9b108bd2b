"""What an engine makes of a specification: everything that a runtime driver needs to start one instance."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from runtimes.specification import PodAffinity, Specification, Toleration

PORT_PLACEHOLDER = "{port}"


@dataclass(frozen=True)
class Volume:
    """A volume claim that exists where instances run, mounted at `path`. Without a claim it is room on the node that lasts
    as long as the instance. Of a claim `sub_path` alone, where that is set."""

    name: str
    claim: str
    path: str
    read_only: bool = False
    sub_path: str = ""


@dataclass(frozen=True)
class Fetch:
    """What has to run to its end before the instance starts, to bring the model's files to `path`.

    `credential_variables` are what it expects the key's id and the key itself in.
    """

    image: str
    command: tuple[str, ...]
    path: str
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    secret_environment: dict[str, str] = field(default_factory=dict, repr=False)
    credential_variables: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class RegistryLogin:
    """How an image's registry is entered: the password is the secret variable of this name."""

    server: str
    user: str
    variable: str


@dataclass(frozen=True)
class LaunchPlan:
    """One instance's start. `{port}` in `command` and `environment` stands for the port that the driver chooses.

    `fixed_port` is set when the program insists on a port of its own. Times in seconds, memory in bytes. Without a
    `command` an image's own is used; `behind_entrypoint` says that its words are arguments to that one. An instance that
    answers at `liveness_path` lives, if it does not yet at `health_path`; empty means that the latter tells both.
    `shared_memory` is the size of /dev/shm, 0 for the machine's default. `file_group` may write to volumes.
    `run_as` is the user id in a pod; None leaves it to the image, which is root mostly.
    """

    engine: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    image: str = ""
    fixed_port: int | None = None
    behind_entrypoint: bool = False
    health_path: str = "/health"
    liveness_path: str = ""
    metrics_path: str | None = None
    start_deadline_s: float = 600.0
    drain_s: float = 15.0
    # One that was ready and answers nobody for so long hangs: it is started again.
    hang_after_s: float = 120.0
    cpu: float = 1.0
    memory: int = 1 << 30
    gpu: int = 0
    working_directory: str | None = None
    secret_environment: dict[str, str] = field(default_factory=dict, repr=False)
    shared_memory: int = 0
    volumes: tuple[Volume, ...] = ()
    fetch: Fetch | None = None
    file_group: int | None = None
    run_as: int | None = None
    registry_login: RegistryLogin | None = None
    # Where instances may run and what they are called by; drivers without such notions leave them alone.
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    node_selector: dict[str, str] = field(default_factory=dict)
    pod_affinity: tuple[PodAffinity, ...] = ()
    # Whose instances they are; `pod_affinity` means pods of the same one alone.
    organization: str = ""

    def placed_like(self, specification: Specification) -> "LaunchPlan":
        """The plan with the specification's placement, which means the same whatever the engine."""
        return replace(
            self,
            labels=specification.labels,
            annotations=specification.annotations,
            tolerations=specification.tolerations,
            node_selector=specification.node_selector,
            pod_affinity=specification.pod_affinity,
            organization=specification.served_model_name.partition("/")[0],
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "LaunchPlan":
        lists: dict[str, Any] = {
            "command": tuple(values["command"]),
            "tolerations": tuple(Toleration(**item) for item in values["tolerations"]),
            "pod_affinity": tuple(PodAffinity(**item) for item in values["pod_affinity"]),
            "volumes": tuple(Volume(**item) for item in values.get("volumes", ())),
        }
        if values.get("fetch"):
            given = values["fetch"]
            words = {name: tuple(given[name]) for name in ("command", "credential_variables")}
            lists["fetch"] = Fetch(**given | words)
        if values.get("registry_login"):
            lists["registry_login"] = RegistryLogin(**values["registry_login"])
        return cls(**values | lists)
