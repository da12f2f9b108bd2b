"""What a runtime driver sees, never what anyone wished for."""

from dataclasses import dataclass, field

from runtimes.cause import Cause

# The phases an instance passes through, in order; `failed` can follow any of them.
SCHEDULED = "scheduled"
FETCHING = "fetching"
STARTING = "starting"
LOADING = "loading"
READY = "ready"
BACKING_OFF = "backing_off"
FAILED = "failed"
ENDING = "ending"
GONE = "gone"

# A program that has ended so often, without a span of serving in between, can't hold up.
CRASHES_IN_A_ROW = 5
# Ready for so long clears them.
SERVING_CLEARS_S = 60.0


@dataclass(frozen=True)
class Step:
    """One start-up step with the moment it was reached (seconds since the epoch), None while it is still ahead."""

    name: str
    at: float | None


@dataclass(frozen=True)
class InstanceObservation:
    """One replica as the driver sees it. `address` is `host:port` once known. `namespace` only where it is not the cluster's first.

    `ends` counts how often its program has ended in its whole life, `last_end_at` tells when it last did. `crashes` counts
    ends in a row, without a span of serving in between; None where the driver has no memory to tell it from.
    """

    uid: str
    name: str
    phase: str
    generation: int
    address: str | None = None
    restarts: int = 0
    started_at: float | None = None
    ready_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    ends: int = 0
    last_end_at: float | None = None
    crashes: int | None = None
    steps: tuple[Step, ...] = ()
    cause: Cause | None = None
    namespace: str = ""

    @property
    def qualified_name(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def is_ready(self) -> bool:
        return self.phase == READY

    @property
    def is_alive(self) -> bool:
        return self.phase not in (FAILED, GONE)

    @property
    def is_exhausted(self) -> bool:
        """Whether another start of its program would only be the same again."""
        return self.phase == FAILED or (self.phase == BACKING_OFF and (self.crashes or 0) >= CRASHES_IN_A_ROW)


@dataclass(frozen=True)
class WorkloadObservation:
    """What a cluster that keeps the number of instances by itself has been asked for. `cause` says why it can't.

    `is_marked`: it says whose it is; those of before that was so are marked when they are seen.
    """

    name: str
    generation: int
    replicas: int
    is_ending: bool = False
    is_marked: bool = True
    description: str = ""
    cause: Cause | None = None


@dataclass(frozen=True)
class StrangerObservation:
    """Something that a Slipway has made, but not this one, as far as it says. `description` as it was written with it."""

    name: str
    version_key: str
    generation: int
    replicas: int
    ready: int
    installation: str = ""
    cluster: str = ""
    description: str = ""


@dataclass(frozen=True)
class Observation:
    """All instances of one cluster, by version key, as of `observed_at` (seconds since the epoch).

    `workloads` is None where Slipway itself keeps the number of instances.
    """

    observed_at: float
    instances: dict[str, list[InstanceObservation]] = field(default_factory=dict)
    workloads: dict[str, list[WorkloadObservation]] | None = None
    strangers: tuple[StrangerObservation, ...] = ()
