"""Waiting for conditions: tests never sleep for a time that happens to be enough."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(condition: Callable[[], T], *, within_s: float = 30.0, what: str = "the condition") -> T:
    """The first true value of `condition`; fails with the last value seen."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {within_s:g} s; last seen: {value!r}")
        time.sleep(0.05)
