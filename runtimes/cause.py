"""Why something is not running: a code, plain words, the remedy, and the evidence in the system's own words."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Cause:
    """`field` and `value`, when set, name the form field whose value would mend it."""

    code: str
    message: str
    remedy: str = ""
    evidence: tuple[str, ...] = ()
    field: str = ""
    value: str = ""
    retryable: bool = False

    def to_json(self) -> dict[str, Any]:
        """For storing. Evidence is what programs wrote, and PostgreSQL's JSON takes every character but NUL."""
        return {name: _storable(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any] | None) -> "Cause | None":
        if not values:
            return None
        return cls(**{**values, "evidence": tuple(values.get("evidence", ()))})


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    return tuple(_storable(item) for item in value) if isinstance(value, tuple) else value
