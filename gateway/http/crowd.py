"""The clients' connections: how many there may be, and who has to leave when there is no more room."""

from time import monotonic
from typing import Protocol, TypeVar

from gateway.errors import GatewayError
from gateway.http.bounds import Bounds

# When hardly anybody could be asked to leave, nobody is looked for again for so long.
_LOOK_AGAIN_S, _HARDLY_ANYBODY = 1.0, 8
# Nor is one who has just come: it has had no time to say what it wants.
_JUST_COME_S = 2.0


class Guest(Protocol):
    """A connection, as far as its place is concerned. `deadline` is when an idle one would end anyway; `address` is empty
    where it says nothing of whose it is."""

    address: str
    deadline: float
    came_at: float

    @property
    def is_idle(self) -> bool: ...
    def abort(self) -> None: ...


G = TypeVar("G", bound=Guest)


class Crowd(set[G]):
    """All connections of clients. Those that have no request, or not yet a whole head of one, make room for others."""

    def __init__(self, bounds: Bounds) -> None:
        super().__init__()
        self._bounds = bounds
        self._by_address: dict[str, int] = {}
        self._found_nobody_at = -_LOOK_AGAIN_S

    def admit(self, guest: G) -> GatewayError | None:
        """Take it in, or say why not."""
        here = self._by_address.get(guest.address, 0)
        if guest.address and here >= self._bounds.connections_each:
            message = f"Your address has {here} connections to this gateway. Close some, or use them again."
            return GatewayError(429, "connections_full_for_you", message, 2)
        if len(self) >= self._bounds.connections and not self._make_room():
            message = "The gateway has as many connections as it may. Try again in a moment."
            return GatewayError(503, "connections_full", message, 2)
        self.add(guest)
        self._by_address[guest.address] = here + 1
        return None

    def leave(self, guest: G) -> None:
        if guest not in self:
            return
        self.remove(guest)
        left = self._by_address[guest.address] - 1
        if left:
            self._by_address[guest.address] = left
        else:
            del self._by_address[guest.address]

    def _make_room(self) -> bool:
        """A tenth at once, so that looking costs each newcomer little; those first that would have to end first."""
        now = monotonic()
        if now - self._found_nobody_at < _LOOK_AGAIN_S:
            return False
        free = (guest for guest in self if guest.is_idle and now - guest.came_at >= _JUST_COME_S)
        idle = sorted(free, key=lambda guest: guest.deadline)
        if len(idle) < _HARDLY_ANYBODY:
            self._found_nobody_at = now
        for guest in idle[: max(1, len(self) // 10)]:
            self.leave(guest)
            guest.abort()
        return bool(idle)
