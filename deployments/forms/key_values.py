"""Text fields that hold several values, one per line; each error names the line and shows how it should look."""

import re
import shlex
from collections.abc import Callable

from django.core.exceptions import ValidationError

from runtimes.names import label_error, label_key_error, variable_error
from runtimes.specification import PodAffinity, Toleration

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)
_UNITS = {
    "": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9, "t": 10**12, "tb": 10**12,
    "ki": 2**10, "kib": 2**10, "mi": 2**20, "mib": 2**20, "gi": 2**30, "gib": 2**30, "ti": 2**40, "tib": 2**40,
}  # fmt: skip
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def parse_bytes(text: str) -> int:
    """`512 MiB`, `2Gi`, `1.5 GB` as bytes."""
    found = _QUANTITY.fullmatch(text.strip())
    if not found or found.group(2).lower() not in _UNITS:
        raise ValidationError("Write an amount with its unit, for example “512 MiB” or “4 GiB”.")
    value = int(float(found.group(1)) * _UNITS[found.group(2).lower()])
    if value < 16 << 20:
        raise ValidationError("That is less than 16 MiB; no program starts in it. Did you forget the unit?")
    if value > 1 << 46:
        raise ValidationError("That is more than any machine has. Check the unit.")
    return value


def format_bytes(value: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if value >= size and value * 10 % size == 0:
            return f"{value / size:g} {unit}"
    return f"{value / 2**20:.0f} MiB"


def parse_variables(text: str) -> dict[str, str]:
    """`NAME=value`, one per line."""
    return _checked(text, "NAME=value", variable_error)


def parse_labels(text: str, *, any_value: bool = False) -> dict[str, str]:
    """`key=value`, one per line, by Kubernetes' rules; annotations may have any value."""
    return _checked(text, "team=search", label_key_error if any_value else label_error)


def parse_tolerations(text: str) -> tuple[Toleration, ...]:
    """`key=value:Effect` or `key:Effect` (any value), one per line; without an effect all of them."""
    found = []
    for number, line in _lines(text):
        selector, _, effect = line.partition(":")
        key, equals, value = selector.partition("=")
        if effect and effect not in EFFECTS:
            raise ValidationError(
                f"Line {number}: the effect is one of {', '.join(EFFECTS)}, for example “gpu=true:NoSchedule”."
            )
        if label_key_error(key.strip()):
            raise ValidationError(f"Line {number}: write “key=value:Effect”, for example “gpu=true:NoSchedule”.")
        found.append(Toleration(key.strip(), "Equal" if equals else "Exists", value.strip(), effect))
    return tuple(found)


def parse_pod_affinity(text: str) -> tuple[PodAffinity, ...]:
    """`near key=value` or `away key=value`, one per line, with an optional `@topology-key`."""
    found = []
    for number, line in _lines(text):
        placement, _, rest = line.partition(" ")
        selector, _, topology = rest.partition("@")
        key, equals, value = selector.strip().partition("=")
        if placement not in ("near", "away") or not equals or label_key_error(key):
            raise ValidationError(
                f"Line {number}: write “near key=value” or “away key=value”, for example “away app=batch”."
            )
        found.append(PodAffinity(key, value, placement, topology.strip() or "kubernetes.io/hostname"))
    return tuple(found)


def parse_arguments(text: str) -> tuple[str, ...]:
    """Words as a shell splits them."""
    try:
        return tuple(shlex.split(text, comments=False))
    except ValueError as error:
        raise ValidationError(f"The arguments can't be split into words: {error}. Check the quotes.") from None


def _checked(text: str, example: str, check: Callable[[str, str], str | None]) -> dict[str, str]:
    values = {}
    for number, name, value in _pairs(text, example):
        problem = check(name, value)
        if problem:
            raise ValidationError(f"Line {number}: {problem}")
        values[name] = value
    return values


def _pairs(text: str, example: str) -> list[tuple[int, str, str]]:
    pairs = []
    for number, line in _lines(text):
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise ValidationError(f"Line {number}: write “{example}”.")
        pairs.append((number, name.strip(), value.strip()))
    names = [name for _, name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValidationError(f"“{twice}” stands there twice. Keep one.")
    return pairs


def _lines(text: str) -> list[tuple[int, str]]:
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
