"""What an organization may have where its instances run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """Bounds of what is wanted at once, None where there is none. `cpu` in cores, `memory` in bytes."""

    organization: str
    instances: int | None = None
    gpus: int | None = None
    cpu: float | None = None
    memory: int | None = None
