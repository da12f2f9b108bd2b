"""Who sends a request, as far as the gateway knows, and which deployments they may call."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from common import identity_token
from common.request_outcomes import API, CONSOLE
from gateway.errors import GatewayError
from gateway.http.credentials import TOKEN_SENT


class Callable(Protocol):
    """What is known of a deployment as far as it says who may call it."""

    @property
    def deployment_id(self) -> int: ...
    @property
    def organization_id(self) -> int: ...
    @property
    def is_public(self) -> bool: ...
    @property
    def is_shared_with_all(self) -> bool: ...
    @property
    def shared_with(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Ids of 0 mean nobody known. `deployment_id`, when set, is the only deployment that a console's token is for.

    `organizations` are those whose deployments, own and shared, the user may use. `deployments`, when it isn't None,
    narrows that to what the key was made for. `expires_at` in seconds since the epoch.
    """

    organization_id: int = 0
    user_id: int = 0
    key_id: int = 0
    source: int = API
    deployment_id: int = 0
    organizations: frozenset[int] = frozenset()
    deployments: frozenset[int] | None = None
    is_operator: bool = False
    expires_at: float = float("inf")

    @property
    def is_console(self) -> bool:
        return self.source == CONSOLE

    def may_call(self, target: Callable) -> bool:
        """Whether the deployment exists for this caller."""
        if self.source == CONSOLE:
            # The console has asked before it signed the token, which is for one deployment.
            return self.deployment_id == target.deployment_id
        if self.deployments is not None and target.deployment_id not in self.deployments:
            return False
        return (
            target.is_public
            or target.organization_id in self.organizations
            or self.is_operator
            or (target.is_shared_with_all and self.key_id != 0)
            or not self.organizations.isdisjoint(target.shared_with)
        )


ANONYMOUS = Caller()
# How to get in, for who sent nothing.
HOW = "“Authorization: Bearer …” with an API key from Developer Hub → API Keys."
Keys = dict[bytes, Caller]


def read_identity(token: bytes, identity_keys: Sequence[str], keys: Keys) -> Caller:
    """In whose name the console, or the queue of asynchronous requests, sends one.

    Raises a 401 for a token that isn't good any more, or for a key that was revoked while the request waited.
    """
    identity = identity_token.read(token.decode("latin-1"), keys=identity_keys, now=time.time())
    if identity is None:
        raise GatewayError(
            401, "identity_invalid", "The console's token has expired or is not valid. Send the request again."
        )
    if identity.key_digest:
        caller = by_key(keys, bytes.fromhex(identity.key_digest), time.time())
        # For this deployment alone, whatever else the key opens.
        only = frozenset({identity.deployment_id})
        return replace(caller, deployments=only if caller.deployments is None else only & caller.deployments)
    return Caller(identity.organization_id, identity.user_id, 0, CONSOLE, identity.deployment_id)


def by_key(keys: Keys, digest: bytes, now: float) -> Caller:
    """Whose key it is; `now` in seconds since the epoch. Raises a 401 that tells nothing about keys of others."""
    caller = keys.get(digest)
    if digest == TOKEN_SENT:
        message = f"This is an API token, which manages deployments. To call models, send {HOW}"
        raise GatewayError(401, "token_not_key", message)
    if caller is None:
        raise GatewayError(
            401,
            "key_invalid",
            "This API key is not known, or was revoked. Developer Hub → API Keys shows those that are.",
        )
    if caller.expires_at <= now:
        raise GatewayError(
            401, "key_expired", "This API key has expired. Make another one in Developer Hub → API Keys."
        )
    return caller
