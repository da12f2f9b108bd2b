"""Why something is not running: a code, plain words, the remedy, and the evidence in the system's own words."""

from dataclasses import asdict, dataclass, fields
from typing import Any

# Evidence comes from programs and clusters: a line of theirs may have any length.
_LONGEST_TEXT = 4000

# What no change of the version would mend, and what ends without one: the cluster, its nodes, room, and the network. A hang is
# healed by another start, however often.
OUTSIDE = frozenset(
    {
        "driver_refused",
        "evicted",
        "hung",
        "instance_lost",
        "node_problem",
        "node_unreachable",
        "preempted",
        "quota_exceeded",
        "registry_unreachable",
        "stranger_serves",
        "unschedulable",
    }
)


# What keeps a program from beginning at all. It tells nothing against one that has run before: its files, its node or its image were
# good then.
BEFORE_PROGRAM = frozenset(
    {"bad_configuration", "cannot_start", "claim_missing", "image_pull", "missing_secret", "model_unreachable"}
)


@dataclass(frozen=True)
class Cause:
    """`field` and `value`, when set, name the form field whose value would mend it. Causes are compared by value."""

    code: str
    message: str
    remedy: str = ""
    evidence: tuple[str, ...] = ()
    field: str = ""
    value: str = ""
    retryable: bool = False

    def __post_init__(self) -> None:
        """Brought into the form in which it is stored, so that what is read back equals what was written."""
        object.__setattr__(self, "evidence", tuple(_storable(line) for line in self.evidence))
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                object.__setattr__(self, field.name, _storable(value))

    @property
    def is_outside(self) -> bool:
        """Whether it lies outside of the version, which never ends for such a cause once it has run."""
        return self.code in OUTSIDE

    @property
    def is_of_program(self) -> bool:
        """Whether the program itself has ended, or could at least have begun."""
        return self.code not in BEFORE_PROGRAM

    def to_json(self) -> dict[str, Any]:
        """For storing."""
        return asdict(self) | {"evidence": list(self.evidence)}

    @classmethod
    def from_json(cls, values: dict[str, Any] | None) -> "Cause | None":
        if not values:
            return None
        return cls(**{**values, "evidence": tuple(values.get("evidence", ()))})


def _storable(text: str) -> str:
    """PostgreSQL's JSON takes every character but NUL."""
    return text.replace("\0", "\ufffd")[:_LONGEST_TEXT]
