"""Waiting for conditions: tests never sleep for a time that happens to be enough."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
# A machine that gets to look less often is given more time.
LOOKS_PER_S = 2


def wait_for(condition: Callable[[], T], *, within_s: float = 30.0, what: str = "the condition") -> T:
    """The first true value of `condition`; fails with the last value seen.

    `within_s` is for a machine that gets to look: on a busy one, where each look takes long, it waits for as many looks.
    """
    deadline, looks = time.monotonic() + within_s, 0
    while True:
        value = condition()
        if value:
            return value
        looks += 1
        if time.monotonic() > deadline and looks >= within_s * LOOKS_PER_S:
            raise AssertionError(f"{what} did not come within {within_s:g} s; last seen: {value!r}")
        time.sleep(0.05)
