"""What variables and labels may be called: by the rules of shells and of Kubernetes, whoever asks."""

import re
from collections.abc import Callable, Mapping

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_OBJECT_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
# Slipway sets these itself; another value would break the instance in ways that are hard to see.
RESERVED_VARIABLES = frozenset({"PORT", "SLIPWAY_INSTANCE", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"})


def variable_error(name: str, value: str) -> str | None:
    """Why an environment variable can't be set; None when it can."""
    if not _VARIABLE.fullmatch(name):
        return f"“{name}” is no name of a variable. Letters, digits and underscores, no digit first."
    if name in RESERVED_VARIABLES:
        return f"{name} is set by Slipway itself. Choose another name."
    if "\0" in value:
        return f"The value of {name} holds a NUL character."
    return None


def label_error(key: str, value: str) -> str | None:
    return label_key_error(key) or (
        None
        if _LABEL_VALUE.fullmatch(value)
        else f"“{value}” is no value that Kubernetes takes: letters, digits, “-”, “_”, “.”, at most 63."
    )


def label_key_error(key: str, value: str = "") -> str | None:
    """For annotations, whose values may be anything, and for keys alone."""
    if _LABEL_KEY.fullmatch(key):
        return None
    return f"“{key}” is no key that Kubernetes takes: letters, digits, “-”, “_”, “.”, at most 63, and an optional prefix before “/”."


def object_name_error(name: str) -> str | None:
    """Why nothing in a cluster can be called so; None when it can."""
    if _OBJECT_NAME.fullmatch(name):
        return None
    return f"“{name[:60]}” is no name that Kubernetes gives: small letters, digits, “-” and “.”, a letter or digit at both ends."


def first_error(values: Mapping[str, str], check: Callable[[str, str], str | None]) -> str | None:
    return next((problem for name, value in values.items() if (problem := check(name, value))), None)
