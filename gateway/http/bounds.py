"""How much memory, how many sockets and how much time callers may take: in all, and each of them."""

from collections.abc import Hashable
from dataclasses import dataclass

from common.byte_budget import BudgetExceededError, ByteBudget
from gateway.errors import GatewayError

# A body up to this size is held without being counted: there is one for each connection, of which there is a bound.
UNCOUNTED_BODY = 16 << 10
# For the journal, the recorder, the directory and their connections to the stores.
_OWN_FILES = 256
# All those together whom nobody knows.
_ANONYMOUS = "anonymous"
# To whom a body is counted, and how many bytes each may hold.
Holders = dict[Hashable, int]


@dataclass(frozen=True)
class Bounds:
    """`bodies` and `bodies_each` in bytes. `connections` are those of clients; each may need one to an instance beside it."""

    bodies: int = 256 << 20
    bodies_each: int = 64 << 20
    connections: int = 4096
    connections_each: int = 2048
    idle_upstream: int = 2048

    @classmethod
    def of(cls, files: int, bodies: int) -> "Bounds":
        """For a process that may have so many `files` open, and hold so many bytes of `bodies`."""
        usable = max(files - _OWN_FILES, 64)
        connections = usable * 3 // 8
        return cls(bodies, bodies // 4, connections, max(connections // 2, 1), usable // 4)


@dataclass(frozen=True)
class Timeouts:
    """In seconds. `first_byte_s` counts from the request's end, `stream_idle_s` between parts of the answer."""

    header_s: float = 15.0
    keep_alive_s: float = 75.0
    body_idle_s: float = 60.0
    first_byte_s: float = 600.0
    stream_idle_s: float = 300.0
    total_s: float = 3600.0


class Bodies:
    """The bodies that are held in memory because they are read before they can be sent on."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._budget = ByteBudget(bounds.bodies)

    @property
    def held(self) -> int:
        """In bytes."""
        return self._budget.held

    def holders(self, user_id: int, address: str, *, is_own: bool = False) -> Holders:
        """To whom a request's body is counted. What Slipway's own processes send, with a token of theirs, has no address that
        says anything."""
        each = self._bounds.bodies_each
        if user_id and is_own:
            return {("user", user_id): each}
        if user_id:
            return {("address", address): each, ("user", user_id): each}
        # Those whom nobody knows leave room for those whom somebody does.
        return {("address", address): each, _ANONYMOUS: self._bounds.bodies // 2}

    def take(self, holders: Holders, size: int) -> None:
        """Raises GatewayError, and takes nothing, where that is more than may be held."""
        try:
            self._budget.take(holders, size)
        except BudgetExceededError as error:
            if error.holder is None:
                message = "The gateway holds as many request bodies as it may. Try again in a moment."
                raise GatewayError(503, "bodies_full", message, 2) from None
            whose = "all callers without a key" if error.holder == _ANONYMOUS else "you"
            message = f"The gateway already holds {error.most >> 20} MiB of request bodies for {whose}. Wait until some are answered."
            raise GatewayError(429, "bodies_full_for_you", message, 2) from None

    def give_back(self, holders: Holders, size: int) -> None:
        self._budget.give_back(holders, size)
