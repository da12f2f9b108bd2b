"""The gateway and its upstream servers, as the gateway's own tests have them, and as many sockets as a crowd takes."""

import resource
from collections.abc import Callable, Iterator

import pytest

from tests.gateway.conftest import gateway, upstream  # noqa: F401


@pytest.fixture
def many_files() -> Iterator[Callable[[int], None]]:
    """`many_files(n)`: this process may open `n` files; the test is skipped where the system says no."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def allow(wanted: int) -> None:
        soft, hard = before
        if hard != resource.RLIM_INFINITY and hard < wanted:
            pytest.skip(f"needs {wanted} open files, the limit is {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))

    yield allow
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
