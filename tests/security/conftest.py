"""The gateway and its upstream servers, as the gateway's own tests have them."""

from tests.gateway.conftest import gateway, upstream  # noqa: F401
