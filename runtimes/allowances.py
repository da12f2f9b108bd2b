"""What organizations may ask a cluster for, as its operators allow it. Pure.

Pods can reach far with what looks harmless: an annotation may give one a cloud role, a toleration a control plane's node, a label
another service's traffic, a claim another tenant's files.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from runtimes.specification import Specification

MOST_PATTERNS, LONGEST = 100, 253
_ORGANIZATION = "{organization}"


@dataclass(frozen=True)
class Allowances:
    """Patterns with `*`; `{organization}` stands for the organization's own name. Keys for the first four, which also means any value."""

    annotations: tuple[str, ...] = ()
    labels: tuple[str, ...] = ("team", "project", "environment", "cost-center", "owner")
    tolerations: tuple[str, ...] = ("nvidia.com/gpu",)
    node_selectors: tuple[str, ...] = ("nvidia.com/*", "topology.kubernetes.io/*")
    images: tuple[str, ...] = ("*",)
    claims: tuple[str, ...] = ("*",)

    @classmethod
    def everything(cls) -> "Allowances":
        return cls(**{item.name: ("*",) for item in fields(cls)})

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Allowances":
        return cls(**{name: tuple(patterns) for name, patterns in stored.items() if name in KINDS})

    def to_json(self) -> dict[str, list[str]]:
        return {name: list(patterns) for name, patterns in asdict(self).items()}

    def errors(self, specification: Specification, organization: str, model_claim: str = "") -> dict[str, str]:
        """What is refused, by form field. `model_claim` is the volume claim that the model's files lie in."""
        asked: tuple[tuple[str, str, Iterable[str]], ...] = (
            ("annotations", "annotations", specification.annotations),
            ("labels", "labels", specification.labels),
            ("tolerations", "tolerations", [item.key for item in specification.tolerations]),
            ("node_selector", "node_selectors", specification.node_selector),
            ("image", "images", [specification.image] if specification.image else []),
            ("cache_claim", "claims", [specification.cache_claim] if specification.cache_claim else []),
            ("model", "claims", [model_claim] if model_claim else []),
        )
        found = {}
        for field, kind, values in asked:
            allowed = [pattern.replace(_ORGANIZATION, organization) for pattern in getattr(self, kind)]
            refused = next((value for value in values if not _is_allowed(kind, value, allowed)), None)
            if refused is not None:
                found[field] = _REFUSALS[kind].format(
                    refused=refused or "(any key)", allowed=", ".join(allowed) or "none"
                )
        return found


def _is_allowed(kind: str, value: str, patterns: list[str]) -> bool:
    if kind == "images":
        value, patterns = _full_name(value), [_full_name(pattern) for pattern in patterns]
        if ".." in value.split("/"):
            return False
    return any(_matches(pattern, value) for pattern in patterns)


def _matches(pattern: str, value: str) -> bool:
    """By hand: as a regular expression a pattern with many `*` takes for ever."""
    first, *others = pattern.split("*")
    if not others:
        return value == pattern
    *between, last = others
    if not value.startswith(first):
        return False
    place = len(first)
    for part in between:
        found = value.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    return len(value) - len(last) >= place and value.endswith(last)


def _full_name(image: str) -> str:
    """With the registry that is meant where none is named; `*` stays everything."""
    host, slash, rest = image.partition("/")
    if image.startswith("*"):
        return image
    if not slash:
        return f"docker.io/library/{image}"
    if host == "index.docker.io":
        return f"docker.io/{rest}"
    return image if "." in host or ":" in host or host == "localhost" else f"docker.io/{image}"


KINDS = tuple(item.name for item in fields(Allowances))
_REMEDY = " Allowed on this cluster: {allowed}. An operator can allow more on the cluster's page."
_REFUSALS = {
    "annotations": "The annotation “{refused}” is not allowed." + _REMEDY,
    "labels": "The label “{refused}” is not allowed." + _REMEDY,
    "tolerations": "A toleration of “{refused}” is not allowed." + _REMEDY,
    "node_selectors": "Choosing nodes by “{refused}” is not allowed." + _REMEDY,
    "images": "The image “{refused}” is not allowed." + _REMEDY,
    "claims": "The volume claim “{refused}” is not allowed." + _REMEDY,
}


def pattern_error(patterns: Iterable[str]) -> str:
    """Why these patterns can't be stored, or ""."""
    given = list(patterns)
    if len(given) > MOST_PATTERNS:
        return f"At most {MOST_PATTERNS} lines."
    for pattern in given:
        if len(pattern) > LONGEST or not pattern.isprintable() or " " in pattern:
            return f"“{pattern[:60]}” is no pattern: write a name, with * for any text, at most {LONGEST} characters."
    return ""
