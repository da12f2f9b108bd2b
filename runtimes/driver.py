"""The contract between the control plane and a place where instances run."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from runtimes.claim import IN_CHARGE, Claim, Claimant
from runtimes.launch_plan import LaunchPlan
from runtimes.observation import InstanceObservation, Observation
from runtimes.room import Room

# So many lines of a run that ended are kept apart: an engine's own error may stand far above its last traceback.
LAST_LINES = 200


class DriverError(Exception):
    """The cluster refused an action, in words for people. The version goes on as it was."""


class UnschedulableError(DriverError):
    """There is no room for the instance now; it is tried again until the start deadline."""


class InvalidError(DriverError):
    """The cluster finds what it was given wrong: it would say so each time."""


class ClusterUnreachableError(DriverError):
    """Nothing is known about the cluster now; statuses are frozen until it answers."""


@dataclass(frozen=True)
class LogLine:
    """One line of an instance's log. `position` orders lines and resumes reading behind them.

    `text` begins with the moment at which the line was written, in seconds since the epoch, and a space.
    """

    position: int
    text: str


@dataclass(frozen=True)
class Capacity:
    """What one node has. CPU in cores, memory in bytes, GPUs in devices."""

    node: str
    cpu: float
    memory: int
    memory_available: int | None
    gpus: int
    gpu_reason: str = ""
    cpu_available: float | None = None
    gpus_available: int | None = None
    # Why it takes no instances now; empty when it does.
    problem: str = ""


class Driver(ABC):
    """Every call may be repeated: creating what exists and deleting what is gone are successes."""

    @abstractmethod
    def observe(self) -> Observation:
        """All instances of this cluster, with a fixed number of calls. Raises ClusterUnreachableError."""

    def address(self) -> str:
        """Where it is reached; two entries with the same one are the same place. Empty where there is but one."""
        return ""

    def identity(self) -> str:
        """What place this is, whatever way leads to it; empty where it can't be told. Raises ClusterUnreachableError."""
        return ""

    def claim(self, me: Claimant, *, earlier: str, by_force: bool = False, stepped_back: bool = False) -> Claim:
        """Be in charge here, or learn who is. `earlier`: the name under which this database was in charge last; `by_force`:
        a person says so; `stepped_back`: another one was found before. Raises ClusterUnreachableError."""
        return IN_CHARGE

    def prepare(self, room: Room) -> None:  # noqa: B027 (most have nothing to do)
        """Have a place for an organization's instances, before `run`. Raises DriverError where there can't be one."""

    def namespace_of(self, organization: str) -> str:
        """Where the organization's instances may be beside the cluster's first namespace; empty where nowhere else."""
        return ""

    @abstractmethod
    def run(
        self,
        version_key: str,
        generation: int,
        plan: LaunchPlan,
        replicas: int,
        *,
        name: str,
        description: str = "",
        known_as: str = "",
    ) -> None:
        """Have `replicas` instances of this start of a version. Returns at once; `observe` tells what comes of it.

        Starts what is missing. A cluster that keeps the number by itself (its observations have `workloads`) ends
        what is too much as well; elsewhere `end_instance` does. `name` is for people, `description` for whoever finds
        the instances without a database that knows them. `known_as`: the name of what runs already, where that is known.
        """

    def mark(self, version_key: str, *, description: str) -> None:  # noqa: B027 (most have nothing to do)
        """Write on what runs of a version whose it is, without touching its instances."""

    def adopt(self, stranger: str) -> None:
        """Make what `observe` lists as a stranger this Slipway's own, without touching its instances."""
        raise DriverError("Only instances in Kubernetes can be taken over.")

    def secret_values(self, stranger: str) -> dict[str, str]:
        """The secret values that a stranger was started with."""
        return {}

    @abstractmethod
    def remove_stranger(self, stranger: str) -> None:
        """Begin the end of what `observe` lists as a stranger of this name."""

    @abstractmethod
    def end_instance(self, version_key: str, uid: str) -> None:
        """Begin one instance's orderly end: drain, then stop. Returns at once."""

    @abstractmethod
    def end(self, version_key: str, *, up_to: int | None = None) -> None:
        """Begin the orderly end of all instances of a version, and leave nothing of it behind; with `up_to` only of that
        start and earlier ones."""

    @abstractmethod
    def capacity(self) -> list[Capacity]:
        """What the nodes have."""

    @abstractmethod
    def read_log(self, version_key: str, uid: str, *, after: int) -> Iterator[LogLine]:
        """The lines behind position `after` that exist now."""

    @abstractmethod
    def last_words(self, version_key: str, item: InstanceObservation) -> list[str]:
        """The last lines, LAST_LINES at most, of the run of an instance's program that ended last, without their times."""

    @abstractmethod
    def discard(self, version_key: str, uid: str) -> None:
        """Forget an ended instance whose log has been stored."""
