"""How much memory and how many sockets callers may take: in all, and each of them."""

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from gateway.callers import Caller
from gateway.errors import GatewayError

# A body up to this size is held without being counted: there is one for each connection, of which there is a bound.
UNCOUNTED_BODY = 16 << 10
# For the journal, the recorder, the directory and their connections to the stores.
_OWN_FILES = 256
# Ways to name who holds a body: by address, by user, and all those together whom nobody knows.
_ADDRESS, _USER, _ANONYMOUS = range(3)
Holder = tuple[int, object]


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


def holders(caller: Caller, address: str) -> tuple[Holder, ...]:
    """To whom a request's body is counted. What Slipway's own processes send has no address that says anything."""
    if caller.is_console or (caller.user_id and not caller.key_id):
        return ((_USER, caller.user_id),)
    if caller.user_id:
        return ((_ADDRESS, address), (_USER, caller.user_id))
    return ((_ADDRESS, address), (_ANONYMOUS, None))


class Bodies:
    """The bodies that are held in memory because they are read before they can be sent on."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.held = 0
        self._by_holder: dict[Holder, int] = {}

    def take(self, who: tuple[Holder, ...], size: int) -> None:
        """Raises GatewayError, and takes nothing, where that is more than may be held."""
        bounds, known = self._bounds, self._by_holder
        if self.held + size > bounds.bodies:
            raise GatewayError(
                503, "bodies_full", "The gateway holds as many request bodies as it may. Try again in a moment.", 2
            )
        for holder in who:
            # Those whom nobody knows leave room for those whom somebody does.
            most = bounds.bodies // 2 if holder[0] == _ANONYMOUS else bounds.bodies_each
            if known.get(holder, 0) + size > most:
                raise GatewayError(429, "bodies_full_for_you", _too_many(holder, most), 2)
        self.held += size
        for holder in who:
            known[holder] = known.get(holder, 0) + size

    def give_back(self, who: tuple[Holder, ...], size: int) -> None:
        self.held -= size
        for holder in who:
            left = self._by_holder[holder] - size
            if left:
                self._by_holder[holder] = left
            else:
                del self._by_holder[holder]


def _too_many(holder: Holder, most: int) -> str:
    whose = {_ADDRESS: "your address", _USER: "you", _ANONYMOUS: "all callers without a key"}[holder[0]]
    return f"The gateway holds {most >> 20} MiB of request bodies for {whose} already. Wait until some are answered."


def network_of(address: str) -> str:
    """What one caller has to himself: an IPv4 address, or an IPv6 /64."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return address
