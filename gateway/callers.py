"""Who sends a request, as far as the gateway knows."""

import time
from dataclasses import dataclass

from common import identity_token
from gateway.errors import GatewayError

API, CONSOLE = 0, 1


@dataclass(frozen=True)
class Caller:
    """Ids of 0 mean nobody known. `deployment_id`, when set, is the only deployment that the caller may reach."""

    organization_id: int = 0
    user_id: int = 0
    key_id: int = 0
    source: int = API
    deployment_id: int = 0

    @property
    def is_console(self) -> bool:
        return self.source == CONSOLE


ANONYMOUS = Caller()


def read_identity(token: bytes, secret: bytes) -> Caller:
    """The user in whose name the console sends a request. Raises a 401 for a token that isn't good any more."""
    identity = identity_token.read(token.decode("latin-1"), secret=secret, now=time.time())
    if identity is None:
        raise GatewayError(
            401, "identity_invalid", "The console's token has expired or is not valid. Send the request again."
        )
    return Caller(identity.organization_id, identity.user_id, 0, CONSOLE, identity.deployment_id)
