"""What one GPU does now, wherever it was read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuSample:
    """Utilisation in percent, memory in bytes."""

    index: int
    name: str
    utilization: float
    memory_used: int
    memory_total: int
