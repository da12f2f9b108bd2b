"""What an engine makes of a specification: everything that a runtime driver needs to start one instance."""

from dataclasses import asdict, dataclass, field
from typing import Any

PORT_PLACEHOLDER = "{port}"


@dataclass(frozen=True)
class LaunchPlan:
    """One instance's start. `{port}` in `command` and `environment` stands for the port that the driver chooses.

    `fixed_port` is set when the program insists on a port of its own. Times in seconds, memory in bytes.
    """

    engine: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    image: str = ""
    fixed_port: int | None = None
    health_path: str = "/health"
    metrics_path: str | None = None
    start_deadline_s: float = 600.0
    drain_s: float = 15.0
    cpu: float = 1.0
    memory: int = 1 << 30
    gpu: int = 0
    working_directory: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "LaunchPlan":
        return cls(**{**values, "command": tuple(values["command"])})
