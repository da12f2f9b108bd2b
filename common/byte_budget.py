"""Memory or disk that many share: so much in all, and so much for each who takes of it."""

from collections.abc import Hashable, Mapping
from ipaddress import IPv6Address, ip_address


class BudgetExceededError(Exception):
    """`holder` has what it may have, `most` bytes; None means all together."""

    def __init__(self, holder: Hashable, most: int) -> None:
        super().__init__(holder, most)
        self.holder, self.most = holder, most


class ByteBudget:
    def __init__(self, total: int) -> None:
        self._total = total
        self.held = 0
        self._by_holder: dict[Hashable, int] = {}

    def take(self, holders: Mapping[Hashable, int], size: int) -> None:
        """Count `size` bytes to each of `holders`, which may have so many; nothing where that is too much.

        Raises BudgetExceededError.
        """
        if self.held + size > self._total:
            raise BudgetExceededError(None, self._total)
        for holder, most in holders.items():
            if self._by_holder.get(holder, 0) + size > most:
                raise BudgetExceededError(holder, most)
        self.held += size
        for holder in holders:
            self._by_holder[holder] = self._by_holder.get(holder, 0) + size

    def give_back(self, holders: Mapping[Hashable, int], size: int) -> None:
        self.held -= size
        for holder in holders:
            left = self._by_holder[holder] - size
            if left:
                self._by_holder[holder] = left
            else:
                del self._by_holder[holder]


def network_of(address: str) -> str:
    """What belongs to one caller alone: an IPv4 address, or an IPv6 /64."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return address
